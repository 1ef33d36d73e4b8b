//! Matrix products: folded into one where the right operand has no batch axes, batched otherwise.

use super::{Call, Kernel, RunError, Site, conv::activation};
use penjing_ir::{MachineOp, Op};
use penjing_kernels::{
    Activation, KernelError,
    gemm::{Accumulate, Batch, Bias, Epilogue, GemmShape, Mat, PackedRhs, Rhs, gemm, gemm_batched},
};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    let (trans_a, trans_b, act) = match op {
        Op::MatMul { trans_a, trans_b } => (*trans_a, *trans_b, Activation::NONE),
        Op::Machine(MachineOp::MatMul { trans_a, trans_b, act }) => (*trans_a, *trans_b, activation(act)),
        _ => return None,
    };
    if !site.all_f32() {
        return None;
    }
    let [a, b] = [&site.operands[0].shape, &site.operands[1].shape];
    let (m, k) = last_two(a, trans_a);
    let (_, n) = last_two(b, trans_b);
    let product = Product { m, n, k, trans_a, trans_b, act };
    if b.len() == 2 && (!trans_a || a.len() == 2) {
        return single(site, product);
    }
    batched(site, product)
}

#[derive(Clone, Copy)]
struct Product {
    m: usize,
    n: usize,
    k: usize,
    trans_a: bool,
    trans_b: bool,
    act: Activation,
}

impl Product {
    fn a<'a>(&self, data: &'a [f32]) -> Mat<'a> {
        if self.trans_a { Mat::transposed(data, self.m) } else { Mat::rows(data, self.k) }
    }

    fn b<'a>(&self, data: &'a [f32]) -> Mat<'a> {
        if self.trans_b { Mat::transposed(data, self.k) } else { Mat::rows(data, self.n) }
    }
}

fn single(site: &Site, mut p: Product) -> Option<Kernel> {
    if !p.trans_a {
        // Leading axes of a are more rows.
        let a = &site.operands[0].shape;
        p.m = a[..a.len() - 1].iter().product();
    }
    let packed = match site.operands[1].floats() {
        // One row reads every weight once: packing would cost as much, and memory as well.
        Some(b) if p.m > 1 => Some(PackedRhs::new(site.isa, p.k, p.n, p.b(b)).ok()?),
        _ => None,
    };
    let tail = Tail::new(site, packed.is_some());
    let reads = (0..site.operands.len()).filter(|&i| i != 1 || packed.is_none()).collect();
    let kernel = Kernel::call(site, &tail.name("f32-f32-f32w-gemm"), move |call| {
        let c = call.views.write::<f32>(0)?;
        let a = p.a(call.views.read::<f32>(0)?);
        let b = match &packed {
            Some(packed) => Rhs::Packed(packed),
            None => Rhs::Plain(p.b(call.views.read::<f32>(1)?)),
        };
        let epilogue = tail.epilogue(call, p.act)?;
        Ok(gemm(call.ctx, GemmShape { m: p.m, n: p.n, k: p.k }, a, b, &epilogue, c, p.n)?)
    });
    Some(tail.replacing(kernel.reading(reads)))
}

/// The views of what follows the product: bias and residual.
#[derive(Clone, Copy)]
struct Tail {
    bias: Option<usize>,
    residual: Option<usize>,
}

impl Tail {
    fn new(site: &Site, packed: bool) -> Tail {
        let at = |operand: usize| (site.operands.len() > operand).then_some(operand - usize::from(packed));
        Tail { bias: at(2), residual: at(3) }
    }

    fn name(self, row: &str) -> String {
        if self.residual.is_some() { format!("{row}_add") } else { row.into() }
    }

    /// The residual may be overwritten by the result.
    fn replacing(self, mut kernel: Kernel) -> Kernel {
        kernel.in_place = self.residual.map(|_| (0, RESIDUAL)).into_iter().collect();
        kernel
    }

    fn epilogue<'a>(self, call: &Call<'a>, act: Activation) -> Result<Epilogue<'a>, RunError> {
        let mut epilogue = Epilogue { act, ..Epilogue::default() };
        if let Some(at) = self.bias {
            epilogue.bias = Bias::Col(call.views.read(at)?);
        }
        if let Some(at) = self.residual {
            match call.views.read(at) {
                Ok(residual) => epilogue.residual = Some(residual),
                Err(KernelError::NoView(_)) => epilogue.accumulate = Accumulate::Add,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(epilogue)
    }
}

/// The operand of a fused product that is added to it.
const RESIDUAL: usize = 3;

fn batched(site: &Site, p: Product) -> Option<Kernel> {
    let [a, b] = [&site.operands[0].shape, &site.operands[1].shape];
    let lead = &site.results[0].shape[..site.results[0].shape.len() - 2];
    let axes = merged_axes(lead, &a[..a.len() - 2], &b[..b.len() - 2], p);
    // The two innermost batch axes are one kernel call; the others are walked.
    let (outer, inner) = axes.split_at(axes.len().saturating_sub(2));
    let axis = |i: usize| inner.len().checked_sub(2 - i).map_or(Axis { n: 1, a: 0, b: 0, c: 0 }, |at| inner[at]);
    let (first, second) = (axis(0), axis(1));
    let batch =
        Batch { dims: [first.n, second.n], a: [first.a, second.a], b: [first.b, second.b], c: [first.c, second.c] };
    let outer = outer.to_vec();
    let tail = Tail::new(site, false);
    let kernel = Kernel::call(site, &tail.name("f32-f32-gemm_batched"), move |call| {
        let (a, b) = (call.views.read::<f32>(0)?, call.views.read::<f32>(1)?);
        let c = call.views.write::<f32>(0)?;
        let all = tail.epilogue(call, p.act)?;
        let shape = GemmShape { m: p.m, n: p.n, k: p.k };
        let count: usize = outer.iter().map(|o| o.n).product();
        for index in 0..count {
            let (mut rest, mut at) = (index, [0, 0, 0]);
            for o in outer.iter().rev() {
                let i = rest % o.n;
                rest /= o.n;
                at = [at[0] + i * o.a, at[1] + i * o.b, at[2] + i * o.c];
            }
            let (a, b) = (p.a(&a[at[0]..]), p.b(&b[at[1]..]));
            let epilogue = Epilogue { residual: all.residual.map(|r| &r[at[2]..]), ..all };
            gemm_batched(call.ctx, shape, &batch, a, b, &epilogue, &mut c[at[2]..], p.n)?;
        }
        Ok(())
    });
    Some(tail.replacing(kernel))
}

/// A batch axis with the distance between its products in a, b and c; 0 where an operand broadcasts.
#[derive(Clone, Copy)]
struct Axis {
    n: usize,
    a: usize,
    b: usize,
    c: usize,
}

/// The batch axes, neighbours joined where all three operands allow it.
fn merged_axes(lead: &[usize], a: &[usize], b: &[usize], p: Product) -> Vec<Axis> {
    let strides = |own: &[usize], matrix: usize| -> Vec<usize> {
        let mut stride = matrix;
        let mut out = vec![0; lead.len()];
        for i in (0..own.len()).rev() {
            let at = i + lead.len() - own.len();
            out[at] = if own[i] == 1 { 0 } else { stride };
            stride *= own[i];
        }
        out
    };
    let (sa, sb, sc) = (strides(a, p.m * p.k), strides(b, p.k * p.n), strides(lead, p.m * p.n));
    let mut axes: Vec<Axis> = Vec::new();
    for i in 0..lead.len() {
        let axis = Axis { n: lead[i], a: sa[i], b: sb[i], c: sc[i] };
        if axis.n == 1 {
            continue;
        }
        match axes.last_mut() {
            Some(last) if last.a == axis.a * axis.n && last.b == axis.b * axis.n && last.c == axis.c * axis.n => {
                *last = Axis { n: last.n * axis.n, ..axis };
            }
            _ => axes.push(axis),
        }
    }
    axes
}

/// Rows and columns of the last two axes after an optional transposition.
fn last_two(shape: &[usize], transposed: bool) -> (usize, usize) {
    let (r, c) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    if transposed { (c, r) } else { (r, c) }
}
