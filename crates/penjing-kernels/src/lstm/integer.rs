//! The forward pass on integers: both products exact, the cell in f32.
//!
//! The hidden state that a step multiplies is rounded to the grid of its own range over the batch, as ONNX Runtime's
//! DynamicQuantizeLSTM does; outputs and the cell state are not rounded.

use super::{
    LstmShape,
    forward::{LstmOutputs, cell, sum_of_biases},
};
use crate::{
    Ctx, KernelError,
    gemm::Clamp,
    int8::{ByteType, Bytes, PackedQGemm, QEpilogue, QOut, QResidual, QTensor, WeightLayout, dynamic_quantize, qgemm},
    scratch::with_scratch,
};

const NAME: &str = "qlstm";

/// The weights of all directions; real = q · scale of its row.
#[derive(Clone, Copy, Debug)]
pub struct QLstmWeights<'a> {
    /// Of the input: `[D, 4H, I]`.
    pub w: &'a [i8],
    /// Of the hidden state: `[D, 4H, H]`.
    pub r: &'a [i8],
}

/// Weights packed once.
pub struct PackedQLstm {
    input: usize,
    hidden: usize,
    directions: Vec<[PackedQGemm; 2]>,
}

impl PackedQLstm {
    /// Packs the weights of `shape` for an input of type `x`; steps and batch do not matter.
    pub fn new(shape: &LstmShape, weights: QLstmWeights<'_>, x: ByteType) -> Result<PackedQLstm, KernelError> {
        let (d, i, h) = (shape.directions(), shape.input, shape.hidden);
        shape.check(NAME, "w", &[d, 4, h, i], weights.w.len())?;
        shape.check(NAME, "r", &[d, 4, h, h], weights.r.len())?;
        let g = 4 * h;
        let direction = |d: usize| {
            Ok([
                PackedQGemm::new(i, g, &weights.w[d * g * i..(d + 1) * g * i], WeightLayout::Transposed, x)?,
                PackedQGemm::new(h, g, &weights.r[d * g * h..(d + 1) * g * h], WeightLayout::Transposed, ByteType::U8)?,
            ])
        };
        Ok(PackedQLstm { input: i, hidden: h, directions: (0..d).map(direction).collect::<Result<_, KernelError>>()? })
    }
}

/// What an integer LSTM reads beside x and the packed weights.
#[derive(Clone, Copy, Debug)]
pub struct QLstmOperands<'a> {
    /// Scales of the rows of w: `[4H]`.
    pub w_scale: &'a [f32],
    /// Scales of the rows of r: `[4H]`.
    pub r_scale: &'a [f32],
    /// Biases of the input, then of the hidden state: `[D, 8H]`.
    pub b: &'a [f32],
    /// First hidden state: `[D, B, H]`.
    pub h0: &'a [f32],
    /// First cell state: `[D, B, H]`.
    pub c0: &'a [f32],
}

/// Runs over x `[T, B, I]`; `out` has no reserve.
pub fn qlstm(
    cx: Ctx<'_>,
    shape: &LstmShape,
    x: QTensor<'_>,
    weights: &PackedQLstm,
    operands: &QLstmOperands<'_>,
    out: LstmOutputs<'_>,
) -> Result<(), KernelError> {
    let LstmShape { steps, batch, input, hidden, .. } = *shape;
    let d = shape.directions();
    shape.check(NAME, "x", &[steps, batch, input], x.data.len())?;
    let QLstmOperands { b, h0, c0, .. } = *operands;
    for (operand, have) in [("h0", h0.len()), ("c0", c0.len()), ("h", out.h.len()), ("c", out.c.len())] {
        shape.check(NAME, operand, &[d, batch, hidden], have)?;
    }
    shape.check(NAME, "y", &[steps, d, batch, hidden], out.y.len())?;
    shape.check(NAME, "b", &[d, 8, hidden], b.len())?;
    if (weights.input, weights.hidden, weights.directions.len()) != (input, hidden, d) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    out.h.copy_from_slice(h0);
    out.c.copy_from_slice(c0);
    if out.y.is_empty() {
        return Ok(());
    }
    let (state, gates) = (batch * hidden, 4 * hidden);
    for (d, packed) in weights.directions.iter().enumerate() {
        let b = &b[d * 2 * gates..(d + 1) * 2 * gates];
        let bias = sum_of_biases(b);
        let (h, c) = (&mut out.h[d * state..(d + 1) * state], &mut out.c[d * state..(d + 1) * state]);
        Pass { cx, shape, d, packed, operands, bias: &bias }.run(x, h, c, out.y)?;
    }
    Ok(())
}

/// One direction.
struct Pass<'a> {
    cx: Ctx<'a>,
    shape: &'a LstmShape,
    d: usize,
    packed: &'a [PackedQGemm; 2],
    operands: &'a QLstmOperands<'a>,
    /// Sum of both biases.
    bias: &'a [f32],
}

impl Pass<'_> {
    fn run(&self, x: QTensor<'_>, h: &mut [f32], c: &mut [f32], y: &mut [f32]) -> Result<(), KernelError> {
        let Pass { cx, shape, d, .. } = *self;
        let LstmShape { steps, batch, input, hidden, .. } = *shape;
        let gates = 4 * hidden;
        let block = shape.block().min(steps);
        with_scratch::<f32, _>((block + 1) * batch * gates, |memory| {
            let (pre, summed) = memory.split_at_mut(block * batch * gates);
            with_scratch::<u8, _>(batch * hidden, |codes| {
                for first in (0..steps).step_by(block) {
                    let taken = first..steps.min(first + block);
                    let times = shape.times(d, &taken);
                    let rows = times.len() * batch;
                    let part = times.start * batch * input..times.end * batch * input;
                    let data = match x.data {
                        Bytes::I8(q) => Bytes::I8(&q[part]),
                        Bytes::U8(q) => Bytes::U8(&q[part]),
                    };
                    let epilogue = QEpilogue {
                        w_scale: self.operands.w_scale,
                        bias: Some(self.bias),
                        residual: None,
                        clamp: Clamp::NONE,
                    };
                    let out = QOut::F32(&mut pre[..rows * gates]);
                    qgemm(cx, rows, QTensor { data, ..x }, &self.packed[0], &epilogue, out)?;
                    for s in taken {
                        let t = shape.time(d, s);
                        let pre = &pre[(t - times.start) * batch * gates..][..batch * gates];
                        let (scale, zero) = dynamic_quantize(cx, h, codes)?;
                        let left = QTensor { data: Bytes::U8(codes), scale, zero: zero.into() };
                        let epilogue = QEpilogue {
                            w_scale: self.operands.r_scale,
                            bias: None,
                            residual: Some(QResidual::F32(pre)),
                            clamp: Clamp::NONE,
                        };
                        qgemm(cx, batch, left, &self.packed[1], &epilogue, QOut::F32(summed))?;
                        for (b, gates) in summed.chunks_exact_mut(gates).enumerate() {
                            let (c, h) = (&mut c[b * hidden..][..hidden], &mut h[b * hidden..][..hidden]);
                            cell(cx.isa, gates, hidden, c, h);
                        }
                        y[shape.row(t, d, hidden)..][..batch * hidden].copy_from_slice(h);
                    }
                }
                Ok(())
            })
        })
    }
}
