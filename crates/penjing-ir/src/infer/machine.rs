//! Facts of fused ops.

use super::{Why, broadcast, check_dtype, check_shape, conv, ensure, matmul, pool, recurrent, reduce};
use crate::{
    AttentionSpec, ChainInstr, Dim, Direction, Fact, HeadLayout, Layout, MachineOp, Op, QuantScheme, chain_operands,
    images, residual_operands,
};
use penjing_tensor::DType;

pub(super) fn machine(op: &MachineOp, x: &[Fact]) -> Result<Fact, Why> {
    match op {
        MachineOp::Chain(code) => chain(code, x),
        MachineOp::QChain { code, out } => {
            let dtypes: Vec<DType> = x.iter().map(|f| f.dtype).collect();
            let at = chain_operands(&dtypes, out.as_ref()).ok_or("an operand's scale or zero point is missing")?;
            let reals: Vec<Fact> = at.iter().map(|&i| real(&x[i])).collect();
            Ok(chain(code, &reals)?.with_dtype(out.as_ref().map_or(DType::F32, |s| s.dtype)))
        }
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
        MachineOp::Attention(spec) => attention(spec, x),
        MachineOp::QConv { spec, out, layout, .. } => {
            let [data, w] = quantized(x)?;
            let data = reordered(&data, layout.to_first(data.rank()));
            let result = conv::conv(&[data, w], spec)?;
            finish(reordered(&result, layout.from_first(result.rank())), x, out.as_ref())
        }
        MachineOp::QMatMul { trans_b, out, .. } => {
            let [data, w] = quantized(x)?;
            finish(matmul::matmul([&data, &w], false, *trans_b)?, x, out.as_ref())
        }
        MachineOp::QMean { axes, keep, out } => {
            let n = if out.is_some() { 5 } else { 3 };
            ensure(x.len() == n, || format!("takes {n} operands, {} given", x.len()))?;
            ensure(matches!(x[0].dtype, DType::I8 | DType::U8), || format!("x must be int8, {} given", x[0].dtype))?;
            Ok(reduce::reduce(&x[0], axes, *keep)?.with_dtype(out.as_ref().map_or(DType::F32, |s| s.dtype)))
        }
        MachineOp::QLstm { direction } => lstm(x, *direction).map(|mut facts| facts.remove(0)),
        MachineOp::QGru { direction, .. } => gru(x, *direction).map(|mut facts| facts.remove(0)),
        MachineOp::Last(op) => last(op, x).map(|mut facts| facts.remove(0)),
    }
}

/// The fact with axis i from axis `perm[i]`.
fn reordered(fact: &Fact, perm: Vec<usize>) -> Fact {
    Fact { dtype: fact.dtype, shape: perm.into_iter().map(|axis| fact.shape[axis].clone()).collect() }
}

/// Facts of `Last`.
pub(super) fn last(op: &Op, x: &[Fact]) -> Result<Vec<Fact>, Why> {
    let (operands, results) = images(op).ok_or_else(|| format!("{} has no form with channels last", op.name()))?;
    let mut first = x.to_vec();
    for &i in operands {
        let fact = first.get_mut(i).ok_or_else(|| format!("operand {i} is missing"))?;
        *fact = reordered(fact, Layout::ChannelsLast.to_first(fact.rank()));
    }
    let mut out = super::infer(op, &first)?;
    for &i in results {
        out[i] = reordered(&out[i], Layout::ChannelsLast.from_first(out[i].rank()));
    }
    Ok(out)
}

/// Facts of `QLstm`.
pub(super) fn lstm(x: &[Fact], direction: Direction) -> Result<Vec<Fact>, Why> {
    let [data, x_scale, x_zero, w, w_scale, r, r_scale, b, h0, c0] = super::operands(x)?;
    let [x, w, r] = cell([data, x_scale, x_zero, w, w_scale, r, r_scale])?;
    recurrent::lstm([&x, &w, &r, b, h0, c0], direction, false)
}

/// Facts of `QGru`.
pub(super) fn gru(x: &[Fact], direction: Direction) -> Result<Vec<Fact>, Why> {
    let [data, x_scale, x_zero, w, w_scale, r, r_scale, b, h0] = super::operands(x)?;
    let [x, w, r] = cell([data, x_scale, x_zero, w, w_scale, r, r_scale])?;
    recurrent::gru([&x, &w, &r, b, h0], direction)
}

/// The input and weights of a recurrent cell, as the floats that they stand for.
fn cell([data, _, _, w, w_scale, r, r_scale]: [&Fact; 7]) -> Result<[Fact; 3], Why> {
    ensure(matches!(data.dtype, DType::I8 | DType::U8), || format!("x must be int8, {} given", data.dtype))?;
    for (weight, scale) in [(w, w_scale), (r, r_scale)] {
        check_dtype(weight, DType::I8)?;
        ensure(weight.rank() == 3, || format!("a weight of {} axes", weight.rank()))?;
        check_shape("weight scale", scale, &weight.shape[1..2])?;
    }
    Ok([real(data), real(w), real(r)])
}

/// What an int8 value stands for.
fn real(fact: &Fact) -> Fact {
    if matches!(fact.dtype, DType::I8 | DType::U8) { fact.with_dtype(DType::F32) } else { fact.clone() }
}

/// The operands with their heads apart, and from them what canonical attention gives.
fn attention(spec: &AttentionSpec, x: &[Fact]) -> Result<Fact, Why> {
    ensure(x.len() >= 3, || format!("takes 3 or 4 operands, {} given", x.len()))?;
    let mut apart = x.to_vec();
    apart[0] = heads_apart(&x[0], spec.q, spec.heads, spec.width)?;
    apart[1] = heads_apart(&x[1], spec.k, spec.groups, spec.width)?;
    apart[2] = heads_apart(&x[2], spec.v, spec.groups, spec.value_width)?;
    let out = matmul::attention(&apart)?;
    match spec.out {
        HeadLayout::Apart => Ok(out),
        HeadLayout::Columns { first } => {
            ensure(first == 0, || "the result's columns begin at 0".into())?;
            let columns = spec.heads.checked_mul(spec.value_width).ok_or("the result has too many columns")?;
            let shape = vec![out.shape[0].clone(), out.shape[2].clone(), Dim::Const(columns)];
            Ok(Fact { dtype: out.dtype, shape })
        }
    }
}

fn heads_apart(x: &Fact, layout: HeadLayout, heads: usize, width: usize) -> Result<Fact, Why> {
    match layout {
        HeadLayout::Apart => {
            let fits = x.rank() == 4 && x.shape[1].as_const() == Some(heads) && x.shape[3].as_const() == Some(width);
            ensure(fits, || format!("{x} has not {heads} heads of width {width}"))?;
            Ok(x.clone())
        }
        HeadLayout::Columns { first } => {
            let end = heads.checked_mul(width).and_then(|n| n.checked_add(first));
            let columns = x.shape.get(2).and_then(Dim::as_const);
            let fits = x.rank() == 3 && end.is_some_and(|end| columns.is_some_and(|c| end <= c));
            ensure(fits, || format!("{x} has not {heads} heads of width {width} from column {first} on"))?;
            let shape = vec![x.shape[0].clone(), Dim::Const(heads), x.shape[1].clone(), Dim::Const(width)];
            Ok(Fact { dtype: x.dtype, shape })
        }
    }
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
        let number = matches!(fact.dtype, DType::F32 | DType::Bool);
        ensure(number, || format!("an operand of a chain is F32 or Bool, {} given", fact.dtype))?;
        shape = broadcast(&shape, &fact.shape)?;
    }
    Ok(Fact { dtype: DType::F32, shape })
}

/// x and w of a quantised product, as if both were I32, so that the float rules give the shape.
fn quantized(x: &[Fact]) -> Result<[Fact; 2], Why> {
    ensure(x.len() >= 6, || format!("takes at least 6 operands, {} given", x.len()))?;
    ensure(matches!(x[0].dtype, DType::I8 | DType::U8), || format!("x must be int8, {} given", x[0].dtype))?;
    check_dtype(&x[3], DType::I8)?;
    Ok([x[0].with_dtype(DType::I32), x[3].with_dtype(DType::I32)])
}

/// The result of a quantised product with the sums' shape; checks the operands after the sixth.
fn finish(sums: Fact, x: &[Fact], out: Option<&QuantScheme>) -> Result<Fact, Why> {
    let residual = residual_operands(x.len(), out).ok_or_else(|| format!("does not take {} operands", x.len()))?;
    if residual > 0 {
        check_shape("residual", &x[6], &sums.shape)?;
        let dtype = x[6].dtype;
        let fits = if residual == 1 {
            matches!(dtype, DType::F32 | DType::F64)
        } else {
            matches!(dtype, DType::I8 | DType::U8)
        };
        ensure(fits, || format!("a residual of {residual} operands cannot be {dtype}"))?;
    }
    Ok(sums.with_dtype(out.map_or(DType::F32, |s| s.dtype)))
}
