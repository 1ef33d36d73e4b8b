//! One op on concrete tensors.

use crate::{
    RefError, attention, conv, elementwise, index, machine, matmul, movement, norm, pool, quant, recurrent, reduce,
};
use penjing_ir::{Dim, Fact, MachineOp, Op, infer};
use penjing_tensor::{DType, Tensor};

/// The results of `op` on `inputs`, in the op's order. Every dim of the op must be a number.
///
/// `F64` is accepted wherever the op declares floats. `If` needs its bodies: see [`crate::run`]. `AllReduce` is that of one rank.
///
/// # Errors
/// `Operands` when inference refuses the operands, `Unbound` for a dim that is not a number, `IndexOutOfRange` and `Undefined` for
/// operands that have no result, `TooLarge` for results beyond two milliard elements.
pub fn eval_op(op: &Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>, RefError> {
    if matches!(op, Op::If { .. }) {
        return Err(RefError::NeedsModel);
    }
    let facts = result_facts(op, inputs)?;
    let shapes: Vec<Option<Vec<usize>>> = facts.iter().map(Fact::concrete).collect();
    // Nothing to compute; this also keeps absurd extents of empty tensors out of every loop.
    if !facts.is_empty() && shapes.iter().all(|s| s.as_ref().is_some_and(|s| s.contains(&0))) {
        let empty = |(f, s): (&Fact, &Option<Vec<usize>>)| Tensor::zeros(f.dtype, s.as_deref().unwrap_or(&[]));
        return facts.iter().zip(&shapes).map(|p| empty(p).map_err(RefError::from)).collect();
    }
    let shape = shapes.first().cloned().flatten().unwrap_or_default();
    evaluate(op, inputs, &shape)
}

/// Every operand count and shape that inference promises holds here; `shape` is the first result's.
fn evaluate(op: &Op, x: &[&Tensor], shape: &[usize]) -> Result<Vec<Tensor>, RefError> {
    Ok(match op {
        Op::Unary(f) => vec![elementwise::unary(*f, x[0])?],
        Op::Binary(f) => vec![elementwise::binary(*f, x[0], x[1])?],
        Op::Compare(f) => vec![elementwise::compare(*f, x[0], x[1])?],
        Op::Select => vec![elementwise::select(x[0], x[1], x[2])?],
        Op::Cast(to) => vec![x[0].cast(*to)],
        Op::StopGradient => vec![x[0].clone()],
        Op::Reduce { kind, axes, keep } => vec![reduce::reduce(*kind, x[0], axes, *keep)?],
        Op::ArgReduce { kind, axis, keep, last } => vec![reduce::arg_reduce(*kind, x[0], *axis, *keep, *last)?],
        Op::CumSum { axis, exclusive, reverse } => vec![reduce::cum_sum(x[0], *axis, *exclusive, *reverse)?],
        Op::TopK { axis, largest, .. } => reduce::top_k(x[0], *axis, shape[*axis], *largest)?,
        Op::Permute { perm } => vec![movement::permute(x[0], perm)?],
        Op::Reshape { .. } => vec![x[0].reshape(shape)?],
        Op::Expand { .. } => vec![movement::expand(x[0], shape)?],
        Op::Slice { ranges } => {
            let starts = numbers(op, ranges.iter().map(|r| &r.start))?;
            vec![movement::slice(x[0], ranges, &starts, shape)?]
        }
        Op::Concat { axis } => vec![movement::concat(x, *axis)?],
        Op::Pad { before, after, mode } => vec![movement::pad(x[0], before, after, *mode)?],
        Op::Gather { axis } => vec![index::gather(x[0], x[1], *axis, shape)?],
        Op::GatherGrad { axis, .. } => vec![index::gather_grad(x[0], x[1], *axis, shape[*axis], shape)?],
        Op::GatherElements { axis } => vec![index::gather_elements(x[0], x[1], *axis)?],
        Op::ScatterElements { axis, reduction } => {
            vec![index::scatter_elements(x[0], x[1], x[2], *axis, *reduction)?]
        }
        Op::GatherNd { batch_dims } => vec![index::gather_nd(x[0], x[1], *batch_dims, shape)?],
        Op::ScatterNd { reduction } => vec![index::scatter_nd(x[0], x[1], x[2], *reduction)?],
        Op::OneHot { axis, dtype, .. } => vec![index::one_hot(x[0], *axis, *dtype, shape)?],
        Op::Iota { axis, dtype, .. } => vec![index::iota(*axis, *dtype, shape)?],
        Op::DimValues { dims } => {
            let values: Vec<i64> = numbers(op, dims.iter())?.into_iter().map(|n| n as i64).collect();
            vec![Tensor::from_vec(&[values.len()], values)?]
        }
        Op::NonZero { .. } => vec![index::non_zero(x[0])?],
        Op::Random { kind, seed, stream, .. } => vec![index::random(x[0], *kind, *seed, stream, shape)?],
        Op::MatMul { trans_a, trans_b } => vec![matmul::matmul(x[0], x[1], *trans_a, *trans_b)?],
        Op::Conv(spec) => vec![conv::conv(x[0], x[1], x.get(2).copied(), spec, shape)?],
        Op::ConvTranspose { spec, .. } => vec![conv::conv_transpose(x[0], x[1], x.get(2).copied(), spec, shape)?],
        Op::ConvWeightGrad { spec, .. } => vec![conv::conv_weight_grad(x[0], x[1], spec, shape)?],
        Op::Pool { kind, spec } => vec![pool::pool(*kind, x[0], spec, shape)?],
        Op::PoolGrad { kind, spec } => vec![pool::pool_grad(*kind, x[0], x[1], spec)?],
        Op::Softmax { axis } => vec![norm::softmax(x[0], *axis, norm::Scale::Linear)?],
        Op::LogSoftmax { axis } => vec![norm::softmax(x[0], *axis, norm::Scale::Log)?],
        Op::BatchNorm { eps, .. } => vec![norm::batch_norm([x[0], x[1], x[2], x[3], x[4]], eps.0)?],
        Op::BatchNormTrain { eps } => norm::batch_norm_train([x[0], x[1], x[2]], eps.0)?,
        Op::BatchNormGrad { eps } => norm::batch_norm_grad([x[0], x[1], x[2], x[3], x[4]], eps.0)?,
        Op::LayerNorm { axis, eps } => vec![norm::layer_norm([x[0], x[1], x[2]], *axis, eps.0)?],
        Op::LayerNormGrad { axis, eps } => norm::layer_norm_grad([x[0], x[1], x[2]], *axis, eps.0)?,
        Op::RmsNorm { axis, eps } => vec![norm::rms_norm([x[0], x[1]], *axis, eps.0)?],
        Op::GroupNorm { groups, eps } => vec![norm::group_norm([x[0], x[1], x[2]], *groups, eps.0)?],
        Op::Attention { scale, causal } => {
            vec![attention::attention([x[0], x[1], x[2]], x.get(3).copied(), scale.0, *causal)?]
        }
        Op::AttentionGrad { scale, causal } => attention::attention_grad([x[0], x[1], x[2], x[3]], scale.0, *causal)?,
        Op::Lstm { direction, reserve } => {
            recurrent::lstm([x[0], x[1], x[2], x[3], x[4], x[5]], *direction, *reserve, recurrent::Hidden::Real)?
        }
        Op::Gru { direction, reset } => {
            recurrent::gru([x[0], x[1], x[2], x[3], x[4]], *direction, *reset, recurrent::Hidden::Real)?
        }
        Op::LstmGrad { direction } => {
            let all = [x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9]];
            recurrent::lstm_grad(all, *direction)?
        }
        Op::Quantize(scheme) => vec![quant::quantize([x[0], x[1], x[2]], scheme)?],
        Op::Dequantize(scheme) => vec![quant::dequantize([x[0], x[1], x[2]], scheme)?],
        Op::FakeQuant(scheme) => vec![quant::fake_quant([x[0], x[1], x[2]], scheme)?],
        Op::DynamicQuantize => quant::dynamic_quantize(x[0])?,
        Op::AllReduce => x.iter().map(|&t| t.clone()).collect(),
        Op::If { .. } => return Err(RefError::NeedsModel),
        Op::Machine(MachineOp::QLstm { direction }) => machine::lstm(x, *direction)?,
        Op::Machine(MachineOp::QGru { direction, reset }) => machine::gru(x, *direction, *reset)?,
        Op::Machine(MachineOp::Last(op)) => machine::last(op, x)?,
        Op::Machine(m) => vec![machine::machine(m, x, shape)?],
    })
}

/// What inference says of the results; for ops that are declared in F32 only, F64 operands count as F32.
fn result_facts(op: &Op, inputs: &[&Tensor]) -> Result<Vec<Fact>, RefError> {
    let mut operands: Vec<Fact> = inputs.iter().map(|t| Fact::of(t)).collect();
    let mut widened = false;
    if matches!(
        op,
        Op::Quantize(_) | Op::Dequantize(_) | Op::FakeQuant(_) | Op::DynamicQuantize | Op::Machine(MachineOp::Chain(_))
    ) {
        for fact in operands.iter_mut().filter(|f| f.dtype == DType::F64) {
            fact.dtype = DType::F32;
            widened = true;
        }
    }
    let mut facts = infer(op, &operands).map_err(|why| RefError::Operands {
        op: op.name(),
        operands: operands.iter().map(ToString::to_string).collect(),
        why,
    })?;
    if widened {
        facts.iter_mut().filter(|f| f.dtype == DType::F32).for_each(|f| f.dtype = DType::F64);
    }
    if !matches!(op, Op::NonZero { .. }) {
        for fact in &facts {
            numbers(op, &fact.shape)?;
        }
    }
    Ok(facts)
}

fn numbers<'a>(op: &Op, dims: impl IntoIterator<Item = &'a Dim>) -> Result<Vec<usize>, RefError> {
    let number = |d: &Dim| d.as_const().ok_or_else(|| RefError::Unbound { op: op.name(), dim: d.to_string() });
    dims.into_iter().map(number).collect()
}
