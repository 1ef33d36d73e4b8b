//! Fused ops of the Machine stage, by the definition of the canonical ops that they stand for.

use crate::{
    RefError, attention, conv,
    data::{count, ints, product, store_floats, store_ints, walk_broadcast},
    elementwise::{binary_float, holds, unary_float},
    eval_op, matmul, movement, pool,
    quant::{dequantize, quantize, quantize_one},
    recurrent,
};
use penjing_ir::{
    Activation, ChainInstr, Direction, HeadLayout, Layout, MachineOp, Op, QuantScheme, Reduction, Reset,
    chain_operands, images, residual_operands,
};
use penjing_tensor::{DType, Tensor};

/// `shape` is the result's.
pub(crate) fn machine(op: &MachineOp, x: &[&Tensor], shape: &[usize]) -> Result<Tensor, RefError> {
    match op {
        MachineOp::Chain(code) => chain(code, x, shape),
        MachineOp::QChain { code, out } => {
            let dtypes: Vec<DType> = x.iter().map(|t| t.dtype()).collect();
            let reals = chain_operands(&dtypes, out.as_ref()).unwrap_or_default().into_iter().map(|i| real(x, i));
            let reals = reals.collect::<Result<Vec<_>, _>>()?;
            let result = chain(code, &reals.iter().collect::<Vec<_>>(), shape)?;
            match (out, x) {
                (Some(scheme), [.., scale, zero]) => quantize([&result, scale, zero], scheme),
                _ => Ok(result),
            }
        }
        MachineOp::QMean { axes, keep, out } => {
            let codes = centered(x)?.into_iter().map(|q| q as f64).collect();
            let codes = Tensor::from_f64s(DType::F64, x[0].shape(), codes)?;
            let sums = eval_op(&Op::Reduce { kind: Reduction::Sum, axes: axes.clone(), keep: *keep }, &[&codes])?;
            let (scale, n) = (scalar("x scale", &x[1].to_f64s())? as f32, axes.iter().map(|&a| x[0].shape()[a]));
            let n = n.product::<usize>() as f32;
            let means = sums[0].to_f64s().into_iter().map(|sum| f64::from(sum as f32 * scale / n)).collect();
            let means = store_floats(DType::F32, shape, means)?;
            match (out, x) {
                (Some(scheme), [.., scale, zero]) => quantize([&means, scale, zero], scheme),
                _ => Ok(means),
            }
        }
        MachineOp::QLstm { .. } => Err(RefError::Undefined { what: "QLstm", why: "it has several results".into() }),
        MachineOp::QGru { .. } => Err(RefError::Undefined { what: "QGru", why: "it has several results".into() }),
        MachineOp::Last(_) => Err(RefError::Undefined { what: "Last", why: "it has several results".into() }),
        MachineOp::Conv { layout: Layout::ChannelsLast, spec, act } => {
            let first = MachineOp::Conv { layout: Layout::ChannelsFirst, spec: spec.clone(), act: *act };
            channels_first(x, &[0, 3], shape, |x, shape| machine(&first, x, shape))
        }
        MachineOp::Pool { kind, spec } => {
            channels_first(x, &[0], shape, |x, shape| pool::pool(*kind, x[0], spec, shape))
        }
        MachineOp::Attention(spec) => {
            let q = heads_apart(x[0], spec.q, spec.heads, spec.width)?;
            let k = heads_apart(x[1], spec.k, spec.groups, spec.width)?;
            let v = heads_apart(x[2], spec.v, spec.groups, spec.value_width)?;
            let out = attention::attention([&q, &k, &v], x.get(3).copied(), spec.scale.0, spec.causal)?;
            match (spec.out, out.shape()) {
                (HeadLayout::Columns { .. }, &[_, heads, positions, width]) => {
                    let data = out.to_f64s();
                    let from = |i: usize| {
                        let (column, row) = (i % (heads * width), i / (heads * width));
                        let (b, p) = (row / positions, row % positions);
                        data[((b * heads + column / width) * positions + p) * width + column % width]
                    };
                    store_floats(out.dtype(), shape, (0..data.len()).map(from).collect())
                }
                _ => Ok(out),
            }
        }
        MachineOp::QConv { layout: Layout::ChannelsLast, spec, act, out } => {
            let first =
                MachineOp::QConv { layout: Layout::ChannelsFirst, spec: spec.clone(), act: *act, out: out.clone() };
            channels_first(x, &[0, 6], shape, |x, shape| machine(&first, x, shape))
        }
        MachineOp::Conv { spec, act, layout: Layout::ChannelsFirst } => {
            let (data, w) = (x[0].to_f64s(), x[1].to_f64s());
            let sums = conv::convolve(x[0].shape(), &data, x[1].shape(), &w, spec, shape)?;
            let bias = channel_values("bias", x.get(2), shape[1])?;
            let residual = x.get(3).map(|r| r.to_f64s());
            let plane = product(&shape[2..]).max(1);
            let finish = |(i, v): (usize, f64)| {
                activate(*act, v + bias[i / plane % shape[1]] + residual.as_ref().map_or(0.0, |r| r[i]))
            };
            store_floats(x[0].dtype(), shape, sums.into_iter().enumerate().map(finish).collect())
        }
        MachineOp::MatMul { trans_a, trans_b, act } => {
            let (a, b) = (x[0].to_f64s(), x[1].to_f64s());
            let (_, sums) = matmul::product(x[0].shape(), &a, x[1].shape(), &b, *trans_a, *trans_b)?;
            let bias = x[2].to_f64s();
            let residual = x.get(3).map(|r| r.to_f64s());
            let finish = |(i, v): (usize, f64)| {
                activate(*act, v + bias[i % bias.len()] + residual.as_ref().map_or(0.0, |r| r[i]))
            };
            store_floats(x[0].dtype(), shape, sums.into_iter().enumerate().map(finish).collect())
        }
        MachineOp::QConv { spec, act, out, layout: Layout::ChannelsFirst } => {
            let (data, w) = (centered(x)?, ints(x[3])?);
            let sums = conv::convolve(x[0].shape(), &data, x[3].shape(), &w, spec, shape)?;
            requantize(&sums, x, *act, out.as_ref(), shape, 1)
        }
        MachineOp::QMatMul { trans_b, act, out } => {
            let (data, w) = (centered(x)?, ints(x[3])?);
            let (_, sums) = matmul::product(x[0].shape(), &data, x[3].shape(), &w, false, *trans_b)?;
            requantize(&sums, x, *act, out.as_ref(), shape, shape.len() - 1)
        }
    }
}

/// `Last`: the op on images permuted to channels first, its images permuted back.
pub(crate) fn last(op: &Op, x: &[&Tensor]) -> Result<Vec<Tensor>, RefError> {
    let (operands, results) = images(op).unwrap_or_default();
    let mut first: Vec<Tensor> = x.iter().map(|&t| t.clone()).collect();
    for &i in operands {
        first[i] = movement::permute(x[i], &Layout::ChannelsLast.to_first(x[i].rank()))?;
    }
    let mut out = eval_op(op, &first.iter().collect::<Vec<_>>())?;
    for &i in results {
        out[i] = movement::permute(&out[i], &Layout::ChannelsLast.from_first(out[i].rank()))?;
    }
    Ok(out)
}

/// `f` with the operands `images` and the result shape permuted to channels first, and its result permuted back.
fn channels_first(
    x: &[&Tensor],
    images: &[usize],
    shape: &[usize],
    f: impl Fn(&[&Tensor], &[usize]) -> Result<Tensor, RefError>,
) -> Result<Tensor, RefError> {
    let last = Layout::ChannelsLast;
    let mut operands: Vec<Tensor> = x.iter().map(|&t| t.clone()).collect();
    for t in images.iter().filter_map(|&i| x.get(i).map(|t| (i, t))) {
        operands[t.0] = movement::permute(t.1, &last.to_first(t.1.rank()))?;
    }
    let refs: Vec<&Tensor> = operands.iter().collect();
    let first: Vec<usize> = last.to_first(shape.len()).into_iter().map(|axis| shape[axis]).collect();
    movement::permute(&f(&refs, &first)?, &last.from_first(shape.len()))
}

/// `QLstm`: y, h and c.
pub(crate) fn lstm(x: &[&Tensor], direction: Direction) -> Result<Vec<Tensor>, RefError> {
    let operands = [&real(x, 0)?, &gate_weight(x, 3)?, &gate_weight(x, 5)?, x[7], x[8], x[9]];
    recurrent::lstm(operands, direction, false, recurrent::Hidden::OwnGrid)
}

/// `QGru`: y and h.
pub(crate) fn gru(x: &[&Tensor], direction: Direction, reset: Reset) -> Result<Vec<Tensor>, RefError> {
    let operands = [&real(x, 0)?, &gate_weight(x, 3)?, &gate_weight(x, 5)?, x[7], x[8]];
    recurrent::gru(operands, direction, reset, recurrent::Hidden::OwnGrid)
}

/// The real value of operand `i`, whose rows are gates and which their scales follow.
fn gate_weight(x: &[&Tensor], i: usize) -> Result<Tensor, RefError> {
    let scheme = QuantScheme { dtype: DType::I8, axis: Some(1), narrow: false };
    let zero = Tensor::zeros(DType::I8, x[i + 1].shape()).map_err(RefError::Tensor)?;
    dequantize([x[i], x[i + 1], &zero], &scheme)
}

/// The real value of operand `i`, which scale and zero point follow where it is int8.
fn real(x: &[&Tensor], i: usize) -> Result<Tensor, RefError> {
    let dtype = x[i].dtype();
    if !matches!(dtype, DType::I8 | DType::U8) {
        return Ok(x[i].clone());
    }
    dequantize([x[i], x[i + 1], x[i + 2]], &QuantScheme { dtype, axis: None, narrow: false })
}

/// An operand of attention as [B, heads, positions, width].
fn heads_apart(x: &Tensor, layout: HeadLayout, heads: usize, width: usize) -> Result<Tensor, RefError> {
    let (HeadLayout::Columns { first }, &[batch, positions, columns]) = (layout, x.shape()) else {
        return Ok(x.clone());
    };
    let shape = [batch, heads, positions, width];
    let data = x.to_f64s();
    let from = |i: usize| {
        let (d, p) = (i % width, i / width % positions);
        let (h, b) = (i / (width * positions) % heads, i / (width * positions * heads));
        data[(b * positions + p) * columns + first + h * width + d]
    };
    store_floats(x.dtype(), &shape, (0..count(&shape)?).map(from).collect())
}

/// Every register is rounded to the operands' dtype, as if each instruction were a node.
fn chain(code: &[ChainInstr], x: &[&Tensor], shape: &[usize]) -> Result<Tensor, RefError> {
    let double = x.iter().any(|t| t.dtype() == DType::F64);
    let round = |v: f64| if double { v } else { f64::from(v as f32) };
    let total = count(shape)?;
    let mut registers: Vec<Vec<f64>> = Vec::with_capacity(x.len() + code.len());
    for t in x {
        let data = t.to_f64s();
        registers.push(walk_broadcast(t.shape(), shape).map(|i| data[i]).collect());
    }
    for instr in code {
        let reg = |r: u16| &registers[usize::from(r)];
        let next: Vec<f64> = match *instr {
            ChainInstr::Const(c) => vec![round(c.0); total],
            ChainInstr::Unary(f, a) => reg(a).iter().map(|&v| round(unary_float(f, v))).collect(),
            ChainInstr::Binary(f, a, b) => {
                reg(a).iter().zip(reg(b)).map(|(&v, &w)| round(binary_float(f, v, w))).collect()
            }
            ChainInstr::Compare(f, a, b) => {
                reg(a).iter().zip(reg(b)).map(|(v, w)| f64::from(u8::from(holds(f, v, w)))).collect()
            }
            ChainInstr::Select(c, a, b) => {
                (0..total).map(|i| if reg(c)[i] != 0.0 { reg(a)[i] } else { reg(b)[i] }).collect()
            }
        };
        registers.push(next);
    }
    let dtype = if double { DType::F64 } else { DType::F32 };
    store_floats(dtype, shape, registers.pop().unwrap_or_default())
}

/// x minus its zero point, so that padding is zero.
fn centered(x: &[&Tensor]) -> Result<Vec<i128>, RefError> {
    let zero = scalar("zero point", &ints(x[2])?)?;
    Ok(ints(x[0])?.into_iter().map(|v| v - zero).collect())
}

/// act(sum · (sx·sw) + bias + residual), and onto the grid of `out` by the reciprocal of its scale; every operation rounds to f32.
/// The channel is axis `axis` of `shape`.
fn requantize(
    sums: &[i128],
    x: &[&Tensor],
    act: Activation,
    out: Option<&QuantScheme>,
    shape: &[usize],
    axis: usize,
) -> Result<Tensor, RefError> {
    let x_scale = scalar("x scale", &x[1].to_f64s())? as f32;
    let w_scale = channel_values("w scale", x.get(4), shape[axis])?;
    let bias = channel_values("bias", x.get(5), shape[axis])?;
    let inner = product(&shape[axis + 1..]).max(1);
    let operands = residual_operands(x.len(), out).unwrap_or(0);
    let residual = match operands {
        0 => None,
        1 => Some(x[6].to_f64s().into_iter().map(|v| v as f32).collect::<Vec<f32>>()),
        _ => {
            let (scale, zero) =
                (scalar("residual scale", &x[7].to_f64s())?, scalar("residual zero point", &ints(x[8])?)?);
            Some(ints(x[6])?.into_iter().map(|q| (q - zero) as f32 * scale as f32).collect())
        }
    };
    let real = |(i, &sum): (usize, &i128)| {
        let c = i / inner % shape[axis];
        let v = sum as f32 * (x_scale * w_scale[c] as f32) + bias[c] as f32;
        activate(act, f64::from(residual.as_ref().map_or(v, |r| v + r[i])))
    };
    let reals: Vec<f64> = sums.iter().enumerate().map(real).collect();
    let Some(scheme) = out else { return store_floats(DType::F32, shape, reals) };
    let scale = scalar("out scale", &x[6 + operands].to_f64s())?;
    let zero = scalar("out zero point", &ints(x[7 + operands])?)?;
    let inverse = f64::from(1.0 / scale as f32);
    let on_grid = |v: f64| quantize_one(f64::from(v as f32 * inverse as f32), 1.0, zero, true, scheme.range());
    let quantized = reals.into_iter().map(on_grid).collect();
    store_ints(scheme.dtype, shape, quantized)
}

fn activate(act: Activation, v: f64) -> f64 {
    if let Activation::Clamp { lo, hi } = act {
        let floor = binary_float(penjing_ir::Binary::Max, v, lo.0);
        return binary_float(penjing_ir::Binary::Min, floor, hi.0);
    }
    act.unary().map_or(v, |f| unary_float(f, v))
}

fn channel_values(what: &'static str, t: Option<&&Tensor>, n: usize) -> Result<Vec<f64>, RefError> {
    let values = t.map_or_else(|| vec![0.0; n], |t| t.to_f64s());
    if values.len() == n {
        return Ok(values);
    }
    Err(RefError::Undefined { what, why: format!("{} values for {n} channels", values.len()) })
}

fn scalar<T: Copy>(what: &'static str, values: &[T]) -> Result<T, RefError> {
    match values {
        [v] => Ok(*v),
        _ => Err(RefError::Undefined { what, why: format!("{} values where one is needed", values.len()) }),
    }
}
