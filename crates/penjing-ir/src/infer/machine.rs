//! Facts of fused ops.

use super::{Why, broadcast, check_dtype, check_shape, conv, ensure, matmul, pool};
use crate::{ChainInstr, Fact, Layout, MachineOp, QuantScheme};
use penjing_tensor::DType;

pub(super) fn machine(op: &MachineOp, x: &[Fact]) -> Result<Fact, Why> {
    match op {
        MachineOp::Chain(code) => chain(code, x),
        MachineOp::Conv { spec, layout, .. } => {
            let mut operands = x.get(..3).unwrap_or(x).to_vec();
            operands.iter_mut().take(1).for_each(|data| *data = reordered(data, layout.to_first(data.rank())));
            let out = conv::conv(&operands, spec)?;
            let out = reordered(&out, layout.from_first(out.rank()));
            x.get(3).map_or(Ok(()), |r| check_shape("residual", r, &out.shape))?;
            Ok(out)
        }
        MachineOp::Pool { spec, .. } => {
            let [data] = super::operands(x)?;
            let last = Layout::ChannelsLast;
            let out = pool::pool(&reordered(data, last.to_first(data.rank())), spec)?;
            Ok(reordered(&out, last.from_first(out.rank())))
        }
        MachineOp::MatMul { trans_a, trans_b, .. } => {
            let [a, b, bias] = super::operands(x.get(..3).unwrap_or(x))?;
            ensure(x.len() <= 4, || format!("takes 3 or 4 operands, {} given", x.len()))?;
            let out = matmul::matmul([a, b], *trans_a, *trans_b)?;
            check_shape("bias", bias, &out.shape[out.rank() - 1..])?;
            x.get(3).map_or(Ok(()), |r| check_shape("residual", r, &out.shape))?;
            Ok(out)
        }
        MachineOp::QConv { spec, out, layout, .. } => {
            let [data, w] = quantized(x, out.as_ref())?;
            let data = reordered(&data, layout.to_first(data.rank()));
            let result = conv::conv(&[data, w], spec)?;
            finish(reordered(&result, layout.from_first(result.rank())), out.as_ref())
        }
        MachineOp::QMatMul { trans_b, out, .. } => {
            let [data, w] = quantized(x, out.as_ref())?;
            finish(matmul::matmul([&data, &w], false, *trans_b)?, out.as_ref())
        }
    }
}

/// The fact with axis i from axis `perm[i]`.
fn reordered(fact: &Fact, perm: Vec<usize>) -> Fact {
    Fact { dtype: fact.dtype, shape: perm.into_iter().map(|axis| fact.shape[axis].clone()).collect() }
}

fn chain(code: &[ChainInstr], x: &[Fact]) -> Result<Fact, Why> {
    ensure(!code.is_empty(), || "the chain is empty".into())?;
    for (i, instr) in code.iter().enumerate() {
        let reads: &[u16] = match instr {
            ChainInstr::Const(_) => &[],
            ChainInstr::Unary(_, a) => &[*a],
            ChainInstr::Binary(_, a, b) | ChainInstr::Compare(_, a, b) => &[*a, *b],
            ChainInstr::Select(c, a, b) => &[*c, *a, *b],
        };
        ensure(reads.iter().all(|&r| usize::from(r) < x.len() + i), || format!("instruction {i} reads ahead"))?;
    }
    let mut shape = Vec::new();
    for fact in x {
        check_dtype(fact, DType::F32)?;
        shape = broadcast(&shape, &fact.shape)?;
    }
    Ok(Fact { dtype: DType::F32, shape })
}

/// x and w of a quantised product, as if both were I32, so that the float rules give the shape.
fn quantized(x: &[Fact], out: Option<&QuantScheme>) -> Result<[Fact; 2], Why> {
    let want = if out.is_some() { 8 } else { 6 };
    ensure(x.len() == want, || format!("takes {want} operands, {} given", x.len()))?;
    ensure(matches!(x[0].dtype, DType::I8 | DType::U8), || format!("x must be int8, {} given", x[0].dtype))?;
    check_dtype(&x[3], DType::I8)?;
    Ok([x[0].with_dtype(DType::I32), x[3].with_dtype(DType::I32)])
}

fn finish(fact: Fact, out: Option<&QuantScheme>) -> Result<Fact, Why> {
    Ok(fact.with_dtype(out.map_or(DType::F32, |s| s.dtype)))
}
