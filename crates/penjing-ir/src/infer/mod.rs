//! Result dtypes and shapes of every op from its operands' facts. Attributes are checked here, so a node that exists is valid.

mod conv;
mod elementwise;
mod index;
mod machine;
mod matmul;
mod movement;
mod norm;
mod pool;
mod quant;
mod recurrent;
mod reduce;

use crate::{Dim, Fact, MachineOp, Op};
use penjing_tensor::DType;

pub use elementwise::broadcast;

/// Why an op cannot be applied to operands; the caller adds node and op.
pub(crate) type Why = String;

/// Facts of an op's results, in order.
pub fn infer(op: &Op, x: &[Fact]) -> Result<Vec<Fact>, Why> {
    Ok(match op {
        Op::Unary(f) => vec![elementwise::unary(*f, one(x)?)?],
        Op::Binary(f) => vec![elementwise::binary(*f, two(x)?)?],
        Op::Compare(f) => vec![elementwise::compare(*f, two(x)?)?],
        Op::Select => vec![elementwise::select(operands(x)?)?],
        Op::Cast(to) => vec![one(x)?.with_dtype(*to)],
        Op::StopGradient => vec![one(x)?.clone()],
        Op::Reduce { axes, keep, .. } => vec![reduce::reduce(one(x)?, axes, *keep)?],
        Op::ArgReduce { axis, keep, .. } => vec![reduce::reduce(one(x)?, &[*axis], *keep)?.with_dtype(DType::I64)],
        Op::CumSum { axis, .. } => vec![reduce::along(one(x)?, *axis)?],
        Op::TopK { axis, k, .. } => reduce::top_k(one(x)?, *axis, k)?,
        Op::Permute { perm } => vec![movement::permute(one(x)?, perm)?],
        Op::Reshape { shape } => vec![movement::reshape(one(x)?, shape)?],
        Op::Expand { shape } => vec![movement::expand(one(x)?, shape)?],
        Op::Slice { ranges } => vec![movement::slice(one(x)?, ranges)?],
        Op::Concat { axis } => vec![movement::concat(x, *axis)?],
        Op::Pad { before, after, mode } => vec![movement::pad(one(x)?, before, after, *mode)?],
        Op::Gather { axis } => vec![index::gather(two(x)?, *axis)?],
        Op::GatherGrad { axis, size } => vec![index::gather_grad(two(x)?, *axis, size)?],
        Op::GatherElements { axis } => vec![index::gather_elements(two(x)?, *axis)?],
        Op::ScatterElements { axis, .. } => vec![index::scatter_elements(operands(x)?, *axis)?],
        Op::GatherNd { batch_dims } => vec![index::gather_nd(two(x)?, *batch_dims)?],
        Op::ScatterNd { .. } => vec![index::scatter_nd(operands(x)?)?],
        Op::OneHot { axis, depth, dtype } => vec![index::one_hot(one(x)?, *axis, depth, *dtype)?],
        Op::Iota { shape, axis, dtype } => vec![index::iota(operands(x)?, shape, *axis, *dtype)?],
        Op::DimValues { dims } => {
            let [] = operands(x)?;
            vec![Fact::new(DType::I64, [dims.len()])]
        }
        Op::NonZero { count } => {
            let rank = one(x)?.rank().max(1);
            vec![Fact { dtype: DType::I64, shape: vec![Dim::Const(rank), Dim::from_symbol(count.clone())] }]
        }
        Op::Random { shape, .. } => vec![index::random(one(x)?, shape)?],
        Op::MatMul { trans_a, trans_b } => vec![matmul::matmul(two(x)?, *trans_a, *trans_b)?],
        Op::Conv(spec) => vec![conv::conv(x, spec)?],
        Op::ConvTranspose { spec, output_pad } => vec![conv::conv_transpose(x, spec, output_pad)?],
        Op::ConvWeightGrad { spec, kernel } => vec![conv::conv_weight_grad(two(x)?, spec, kernel)?],
        Op::Pool { spec, .. } => vec![pool::pool(one(x)?, spec)?],
        Op::PoolGrad { spec, .. } => vec![pool::pool_grad(two(x)?, spec)?],
        Op::Softmax { axis } | Op::LogSoftmax { axis } => vec![norm::softmax(one(x)?, *axis)?],
        Op::BatchNorm { .. } => vec![norm::batch_norm(operands(x)?)?],
        Op::BatchNormTrain { .. } => norm::batch_norm_train(operands(x)?)?,
        Op::BatchNormGrad { .. } => norm::batch_norm_grad(operands(x)?)?,
        Op::LayerNorm { axis, .. } => {
            let [x, scale, bias] = operands(x)?;
            vec![norm::over_last(x, &[scale, bias], *axis)?]
        }
        Op::LayerNormGrad { axis, .. } => norm::layer_norm_grad(operands(x)?, *axis)?,
        Op::RmsNorm { axis, .. } => {
            let [x, scale] = operands(x)?;
            vec![norm::over_last(x, &[scale], *axis)?]
        }
        Op::GroupNorm { groups, .. } => vec![norm::group_norm(operands(x)?, *groups)?],
        Op::Attention { .. } => vec![matmul::attention(x)?],
        Op::AttentionGrad { .. } => matmul::attention_grad(operands(x)?)?,
        Op::Lstm { direction, reserve } => recurrent::lstm(operands(x)?, *direction, *reserve)?,
        Op::Gru { direction, .. } => recurrent::gru(operands(x)?, *direction)?,
        Op::LstmGrad { direction } => recurrent::lstm_grad(operands(x)?, *direction)?,
        Op::Quantize(scheme) => vec![quant::quantize(operands(x)?, scheme)?],
        Op::Dequantize(scheme) => vec![quant::dequantize(operands(x)?, scheme)?],
        Op::FakeQuant(scheme) => vec![quant::quantize(operands(x)?, scheme)?.with_dtype(DType::F32)],
        Op::DynamicQuantize => quant::dynamic_quantize(one(x)?)?,
        Op::AllReduce => {
            ensure(!x.is_empty(), || "needs at least one operand".into())?;
            x.to_vec()
        }
        Op::If { .. } => return Err("its facts come from its bodies; add it with `add_node_with_facts`".into()),
        Op::Machine(MachineOp::QLstm { direction }) => machine::lstm(x, *direction)?,
        Op::Machine(MachineOp::QGru { direction, .. }) => machine::gru(x, *direction)?,
        Op::Machine(MachineOp::Last(op)) => machine::last(op, x)?,
        Op::Machine(m) => vec![machine::machine(m, x)?],
    })
}

pub(crate) fn ensure(ok: bool, why: impl FnOnce() -> Why) -> Result<(), Why> {
    if ok { Ok(()) } else { Err(why()) }
}

/// The operands as an array of the op's arity.
pub(crate) fn operands<const N: usize>(x: &[Fact]) -> Result<[&Fact; N], Why> {
    let refs: Vec<&Fact> = x.iter().collect();
    refs.try_into().map_err(|_| format!("takes {N} operands, {} given", x.len()))
}

fn one(x: &[Fact]) -> Result<&Fact, Why> {
    operands(x).map(|[a]| a)
}

fn two(x: &[Fact]) -> Result<[&Fact; 2], Why> {
    operands(x)
}

pub(crate) fn check_axis(fact: &Fact, axis: usize) -> Result<(), Why> {
    ensure(axis < fact.rank(), || format!("axis {axis} is outside rank {}", fact.rank()))
}

pub(crate) fn check_float(fact: &Fact) -> Result<(), Why> {
    ensure(fact.dtype.is_float(), || format!("needs floats, {} given", fact.dtype))
}

pub(crate) fn check_dtype(fact: &Fact, dtype: DType) -> Result<(), Why> {
    ensure(fact.dtype == dtype, || format!("needs {dtype}, {} given", fact.dtype))
}

pub(crate) fn check_rank(what: &str, fact: &Fact, rank: usize) -> Result<(), Why> {
    ensure(fact.rank() == rank, || format!("{what} must have rank {rank}, not {fact}"))
}

pub(crate) fn check_shape(what: &str, fact: &Fact, shape: &[Dim]) -> Result<(), Why> {
    ensure(fact.shape == shape, || format!("{what} must have shape {shape:?}, not {fact}"))
}

/// A dim that is a known number must not be negative.
pub(crate) fn check_extents(shape: &[Dim]) -> Result<(), Why> {
    for d in shape {
        ensure(d.as_int().is_none_or(|v| v >= 0), || format!("extent {d} is negative"))?;
    }
    Ok(())
}
