//! The attributes of every op, once: [`visit`] names them, and both printing and parsing walk it.

use super::{
    attribute::Attribute,
    cursor::{Cursor, Why},
};
use crate::{
    Activation, ArgKind, AttentionSpec, Binary, BodyId, Compare, ConvSpec, Dim, Direction, Layout, MachineOp, Op,
    PadMode, PoolKind, PoolSpec, QuantScheme, RandomKind, Real, Reduction, Reset, ScatterReduction, Symbol, Unary,
};
use penjing_tensor::DType;

/// Something that walks over attributes.
trait Fields {
    fn field<T: Attribute>(&mut self, name: &'static str, value: &mut T) -> Result<(), Why>;
}

struct Printer<'a>(&'a mut String);

impl Fields for Printer<'_> {
    fn field<T: Attribute>(&mut self, name: &'static str, value: &mut T) -> Result<(), Why> {
        self.0.push(' ');
        self.0.push_str(name);
        self.0.push('=');
        value.print(self.0);
        Ok(())
    }
}

struct Parser<'a, 'c>(&'a mut Cursor<'c>);

impl Fields for Parser<'_, '_> {
    fn field<T: Attribute>(&mut self, name: &'static str, value: &mut T) -> Result<(), Why> {
        self.0.expect(name)?;
        self.0.expect("=")?;
        *value = T::parse(self.0)?;
        Ok(())
    }
}

/// Writes ` name=value` for each attribute.
pub(super) fn print_fields(op: &Op, out: &mut String) {
    // Printing never fails; the copy is what lets one walk serve both ways.
    let _ = visit(&mut op.clone(), &mut Printer(out));
}

/// The op called `name`, with attributes read from the cursor.
pub(super) fn parse_fields(name: &str, c: &mut Cursor<'_>) -> Result<Op, Why> {
    let mut op = prototypes().into_iter().find(|op| op.name() == name).ok_or_else(|| format!("unknown op `{name}`"))?;
    visit(&mut op, &mut Parser(c))?;
    Ok(op)
}

/// Names every attribute of an op. What the op's name tells (the kind of a reduction or pooling) is none.
fn visit<F: Fields>(op: &mut Op, f: &mut F) -> Result<(), Why> {
    match op {
        Op::Unary(u) => unary(u, f),
        Op::Binary(_) | Op::Compare(_) | Op::Select | Op::StopGradient | Op::DynamicQuantize | Op::AllReduce => Ok(()),
        Op::Cast(dtype) => f.field("dtype", dtype),
        Op::Reduce { kind: _, axes, keep } => {
            f.field("axes", axes)?;
            f.field("keep", keep)
        }
        Op::ArgReduce { kind: _, axis, keep, last } => {
            f.field("axis", axis)?;
            f.field("keep", keep)?;
            f.field("last", last)
        }
        Op::CumSum { axis, exclusive, reverse } => {
            f.field("axis", axis)?;
            f.field("exclusive", exclusive)?;
            f.field("reverse", reverse)
        }
        Op::TopK { axis, k, largest } => {
            f.field("axis", axis)?;
            f.field("k", k)?;
            f.field("largest", largest)
        }
        Op::Permute { perm } => f.field("perm", perm),
        Op::Reshape { shape } | Op::Expand { shape } => f.field("shape", shape),
        Op::Slice { ranges } => f.field("ranges", ranges),
        Op::Concat { axis } | Op::Gather { axis } | Op::GatherElements { axis } => f.field("axis", axis),
        Op::Softmax { axis } | Op::LogSoftmax { axis } => f.field("axis", axis),
        Op::Pad { before, after, mode } => {
            f.field("before", before)?;
            f.field("after", after)?;
            f.field("mode", mode)
        }
        Op::GatherGrad { axis, size } => {
            f.field("axis", axis)?;
            f.field("size", size)
        }
        Op::ScatterElements { axis, reduction } => {
            f.field("axis", axis)?;
            f.field("reduction", reduction)
        }
        Op::GatherNd { batch_dims } => f.field("batch_dims", batch_dims),
        Op::ScatterNd { reduction } => f.field("reduction", reduction),
        Op::OneHot { axis, depth, dtype } => {
            f.field("axis", axis)?;
            f.field("depth", depth)?;
            f.field("dtype", dtype)
        }
        Op::Iota { shape, axis, dtype } => {
            f.field("shape", shape)?;
            f.field("axis", axis)?;
            f.field("dtype", dtype)
        }
        Op::DimValues { dims } => f.field("dims", dims),
        Op::NonZero { count } => f.field("count", count),
        Op::Random { kind, shape, seed, stream } => {
            f.field("kind", kind)?;
            f.field("shape", shape)?;
            f.field("seed", seed)?;
            f.field("stream", stream)
        }
        Op::MatMul { trans_a, trans_b } => {
            f.field("trans_a", trans_a)?;
            f.field("trans_b", trans_b)
        }
        Op::Conv(spec) => conv(spec, f),
        Op::ConvTranspose { spec, output_pad } => {
            conv(spec, f)?;
            f.field("output_pad", output_pad)
        }
        Op::ConvWeightGrad { spec, kernel } => {
            conv(spec, f)?;
            f.field("kernel", kernel)
        }
        Op::Pool { kind, spec } | Op::PoolGrad { kind, spec } => pool(kind, spec, f),
        Op::BatchNorm { eps, momentum } => {
            f.field("eps", eps)?;
            f.field("momentum", momentum)
        }
        Op::BatchNormTrain { eps } | Op::BatchNormGrad { eps } => f.field("eps", eps),
        Op::LayerNorm { axis, eps } | Op::LayerNormGrad { axis, eps } | Op::RmsNorm { axis, eps } => {
            f.field("axis", axis)?;
            f.field("eps", eps)
        }
        Op::GroupNorm { groups, eps } => {
            f.field("groups", groups)?;
            f.field("eps", eps)
        }
        Op::Attention { scale, causal } | Op::AttentionGrad { scale, causal } => {
            f.field("scale", scale)?;
            f.field("causal", causal)
        }
        Op::Lstm { direction, reserve } => {
            f.field("direction", direction)?;
            f.field("reserve", reserve)
        }
        Op::Gru { direction, reset } => {
            f.field("direction", direction)?;
            f.field("reset", reset)
        }
        Op::LstmGrad { direction } => f.field("direction", direction),
        Op::Quantize(scheme) | Op::Dequantize(scheme) | Op::FakeQuant(scheme) => f.field("grid", scheme),
        Op::If { then_body, else_body } => {
            f.field("then", then_body)?;
            f.field("else", else_body)
        }
        Op::Machine(m) => machine(m, f),
    }
}

fn unary<F: Fields>(u: &mut Unary, f: &mut F) -> Result<(), Why> {
    match u {
        Unary::IsInf { positive, negative } => {
            f.field("positive", positive)?;
            f.field("negative", negative)
        }
        Unary::LeakyRelu(alpha) | Unary::Elu(alpha) => f.field("alpha", alpha),
        Unary::HardSigmoid { alpha, beta } => {
            f.field("alpha", alpha)?;
            f.field("beta", beta)
        }
        _ => Ok(()),
    }
}

fn conv<F: Fields>(spec: &mut ConvSpec, f: &mut F) -> Result<(), Why> {
    let ConvSpec { strides, pads, dilations, groups } = spec;
    f.field("strides", strides)?;
    f.field("pads", pads)?;
    f.field("dilations", dilations)?;
    f.field("groups", groups)
}

fn pool<F: Fields>(kind: &mut PoolKind, spec: &mut PoolSpec, f: &mut F) -> Result<(), Why> {
    let PoolSpec { kernel, strides, pads, dilations, ceil } = spec;
    f.field("kernel", kernel)?;
    f.field("strides", strides)?;
    f.field("pads", pads)?;
    f.field("dilations", dilations)?;
    f.field("ceil", ceil)?;
    match kind {
        PoolKind::Max => Ok(()),
        PoolKind::Average { count_include_pad } => f.field("count_include_pad", count_include_pad),
    }
}

fn machine<F: Fields>(m: &mut MachineOp, f: &mut F) -> Result<(), Why> {
    match m {
        MachineOp::Chain(code) => f.field("code", code),
        MachineOp::QChain { code, out } => {
            f.field("code", code)?;
            f.field("out", out)
        }
        MachineOp::QLstm { direction } => f.field("direction", direction),
        MachineOp::QGru { direction, reset } => {
            f.field("direction", direction)?;
            f.field("reset", reset)
        }
        MachineOp::Conv { spec, act, layout } => {
            conv(spec, f)?;
            f.field("act", act)?;
            f.field("layout", layout)
        }
        MachineOp::Pool { kind, spec } => pool(kind, spec, f),
        MachineOp::Last(op) => visit(op, f),
        MachineOp::MatMul { trans_a, trans_b, act } => {
            f.field("trans_a", trans_a)?;
            f.field("trans_b", trans_b)?;
            f.field("act", act)
        }
        MachineOp::Attention(spec) => {
            let AttentionSpec { scale, causal, heads, groups, width, value_width, q, k, v, out } = spec;
            f.field("scale", scale)?;
            f.field("causal", causal)?;
            f.field("heads", heads)?;
            f.field("groups", groups)?;
            f.field("width", width)?;
            f.field("value_width", value_width)?;
            f.field("q", q)?;
            f.field("k", k)?;
            f.field("v", v)?;
            f.field("out", out)
        }
        MachineOp::QConv { spec, act, out, layout } => {
            conv(spec, f)?;
            f.field("act", act)?;
            f.field("out", out)?;
            f.field("layout", layout)
        }
        MachineOp::QMatMul { trans_b, act, out } => {
            f.field("trans_b", trans_b)?;
            f.field("act", act)?;
            f.field("out", out)
        }
        MachineOp::QMean { axes, keep, out } => {
            f.field("axes", axes)?;
            f.field("keep", keep)?;
            f.field("out", out)
        }
    }
}

/// A list of values, with a match that does not compile before every variant is in it.
macro_rules! every {
    ($t:ty: $($pattern:pat => [$($value:expr),+ $(,)?]),+ $(,)?) => {{
        let _ = |v: &$t| match v { $($pattern => {}),+ };
        vec![$($($value),+),+]
    }};
}

/// One op of every name, its attributes to be filled in.
fn prototypes() -> Vec<Op> {
    let zero = Real(0.0);
    let spec = || ConvSpec::unit(0);
    let pool = || PoolSpec { kernel: vec![], strides: vec![], pads: vec![], dilations: vec![], ceil: false };
    let average = PoolKind::Average { count_include_pad: false };
    let grid = || QuantScheme { dtype: DType::I8, axis: None, narrow: false };
    let reduce = |kind| Op::Reduce { kind, axes: vec![], keep: false };
    let arg = |kind| Op::ArgReduce { kind, axis: 0, keep: false, last: false };
    let last = |op| MachineOp::Last(Box::new(op));
    let none = Dim::Const(0);
    let (act, layout) = (Activation::None, Layout::ChannelsFirst);
    let mut all = every!(Op:
        Op::Unary(_) => [Op::Unary(Unary::Neg)],
        Op::Binary(_) => [Op::Binary(Binary::Add)],
        Op::Compare(_) => [Op::Compare(Compare::Equal), Op::Compare(Compare::Less), Op::Compare(Compare::LessEqual)],
        Op::Select => [Op::Select],
        Op::Cast(_) => [Op::Cast(DType::F32)],
        Op::StopGradient => [Op::StopGradient],
        Op::Reduce { .. } => [reduce(Reduction::Sum), reduce(Reduction::Mean), reduce(Reduction::Max),
            reduce(Reduction::Min), reduce(Reduction::Prod)],
        Op::ArgReduce { .. } => [arg(ArgKind::Max), arg(ArgKind::Min)],
        Op::CumSum { .. } => [Op::CumSum { axis: 0, exclusive: false, reverse: false }],
        Op::TopK { .. } => [Op::TopK { axis: 0, k: none.clone(), largest: false }],
        Op::Permute { .. } => [Op::Permute { perm: vec![] }],
        Op::Reshape { .. } => [Op::Reshape { shape: vec![] }],
        Op::Expand { .. } => [Op::Expand { shape: vec![] }],
        Op::Slice { .. } => [Op::Slice { ranges: vec![] }],
        Op::Concat { .. } => [Op::Concat { axis: 0 }],
        Op::Pad { .. } => [Op::Pad { before: vec![], after: vec![], mode: PadMode::Edge }],
        Op::Gather { .. } => [Op::Gather { axis: 0 }],
        Op::GatherGrad { .. } => [Op::GatherGrad { axis: 0, size: none.clone() }],
        Op::GatherElements { .. } => [Op::GatherElements { axis: 0 }],
        Op::ScatterElements { .. } => [Op::ScatterElements { axis: 0, reduction: ScatterReduction::None }],
        Op::GatherNd { .. } => [Op::GatherNd { batch_dims: 0 }],
        Op::ScatterNd { .. } => [Op::ScatterNd { reduction: ScatterReduction::None }],
        Op::OneHot { .. } => [Op::OneHot { axis: 0, depth: none.clone(), dtype: DType::F32 }],
        Op::Iota { .. } => [Op::Iota { shape: vec![], axis: 0, dtype: DType::F32 }],
        Op::DimValues { .. } => [Op::DimValues { dims: vec![] }],
        Op::NonZero { .. } => [Op::NonZero { count: Symbol::late("") }],
        Op::Random { .. } => [Op::Random { kind: RandomKind::Uniform, shape: vec![], seed: 0, stream: String::new() }],
        Op::MatMul { .. } => [Op::MatMul { trans_a: false, trans_b: false }],
        Op::Conv(_) => [Op::Conv(spec())],
        Op::ConvTranspose { .. } => [Op::ConvTranspose { spec: spec(), output_pad: vec![] }],
        Op::ConvWeightGrad { .. } => [Op::ConvWeightGrad { spec: spec(), kernel: vec![] }],
        Op::Pool { .. } => [Op::Pool { kind: PoolKind::Max, spec: pool() }, Op::Pool { kind: average, spec: pool() }],
        Op::PoolGrad { .. } => [Op::PoolGrad { kind: PoolKind::Max, spec: pool() },
            Op::PoolGrad { kind: average, spec: pool() }],
        Op::Softmax { .. } => [Op::Softmax { axis: 0 }],
        Op::LogSoftmax { .. } => [Op::LogSoftmax { axis: 0 }],
        Op::BatchNorm { .. } => [Op::BatchNorm { eps: zero, momentum: zero }],
        Op::BatchNormTrain { .. } => [Op::BatchNormTrain { eps: zero }],
        Op::BatchNormGrad { .. } => [Op::BatchNormGrad { eps: zero }],
        Op::LayerNorm { .. } => [Op::LayerNorm { axis: 0, eps: zero }],
        Op::LayerNormGrad { .. } => [Op::LayerNormGrad { axis: 0, eps: zero }],
        Op::RmsNorm { .. } => [Op::RmsNorm { axis: 0, eps: zero }],
        Op::GroupNorm { .. } => [Op::GroupNorm { groups: 0, eps: zero }],
        Op::Attention { .. } => [Op::Attention { scale: zero, causal: false }],
        Op::AttentionGrad { .. } => [Op::AttentionGrad { scale: zero, causal: false }],
        Op::Lstm { .. } => [Op::Lstm { direction: Direction::Forward, reserve: false }],
        Op::Gru { .. } => [Op::Gru { direction: Direction::Forward, reset: Reset::State }],
        Op::LstmGrad { .. } => [Op::LstmGrad { direction: Direction::Forward }],
        Op::Quantize(_) => [Op::Quantize(grid())],
        Op::Dequantize(_) => [Op::Dequantize(grid())],
        Op::FakeQuant(_) => [Op::FakeQuant(grid())],
        Op::DynamicQuantize => [Op::DynamicQuantize],
        Op::AllReduce => [Op::AllReduce],
        Op::If { .. } => [Op::If { then_body: BodyId(0), else_body: BodyId(0) }],
        Op::Machine(_) => [Op::Machine(MachineOp::Chain(vec![]))],
    );
    all.extend(unaries().into_iter().map(Op::Unary));
    all.extend(binaries().into_iter().map(Op::Binary));
    let machine = every!(MachineOp:
        MachineOp::Chain(_) => [MachineOp::Chain(vec![])],
        MachineOp::QChain { .. } => [MachineOp::QChain { code: vec![], out: None }],
        MachineOp::QLstm { .. } => [MachineOp::QLstm { direction: Direction::Forward }],
        MachineOp::QGru { .. } => [MachineOp::QGru { direction: Direction::Forward, reset: Reset::State }],
        MachineOp::Conv { .. } => [MachineOp::Conv { spec: spec(), act, layout }],
        MachineOp::Pool { .. } => [MachineOp::Pool { kind: PoolKind::Max, spec: pool() },
            MachineOp::Pool { kind: average, spec: pool() }],
        MachineOp::Last(_) => [last(Op::ConvTranspose { spec: spec(), output_pad: vec![] }),
            last(Op::ConvWeightGrad { spec: spec(), kernel: vec![] }),
            last(Op::PoolGrad { kind: PoolKind::Max, spec: pool() }), last(Op::PoolGrad { kind: average, spec: pool() }),
            last(Op::BatchNormTrain { eps: zero }), last(Op::BatchNormGrad { eps: zero })],
        MachineOp::MatMul { .. } => [MachineOp::MatMul { trans_a: false, trans_b: false, act }],
        MachineOp::Attention(_) => [MachineOp::Attention(AttentionSpec::canonical(zero, false, [&[0; 4]; 3]))],
        MachineOp::QConv { .. } => [MachineOp::QConv { spec: spec(), act, out: None, layout }],
        MachineOp::QMatMul { .. } => [MachineOp::QMatMul { trans_b: false, act, out: None }],
        MachineOp::QMean { .. } => [MachineOp::QMean { axes: vec![], keep: false, out: None }],
    );
    all.extend(machine.into_iter().map(Op::Machine));
    all
}

fn unaries() -> Vec<Unary> {
    use Unary as U;
    let zero = Real(0.0);
    every!(Unary:
        U::Neg => [U::Neg], U::Abs => [U::Abs], U::Exp => [U::Exp], U::Log => [U::Log], U::Sqrt => [U::Sqrt],
        U::Recip => [U::Recip], U::Sin => [U::Sin], U::Cos => [U::Cos], U::Tan => [U::Tan], U::Asin => [U::Asin],
        U::Acos => [U::Acos], U::Atan => [U::Atan], U::Sinh => [U::Sinh], U::Cosh => [U::Cosh], U::Tanh => [U::Tanh],
        U::Asinh => [U::Asinh], U::Acosh => [U::Acosh], U::Atanh => [U::Atanh], U::Erf => [U::Erf],
        U::Sigmoid => [U::Sigmoid], U::Relu => [U::Relu], U::Floor => [U::Floor], U::Ceil => [U::Ceil],
        U::Round => [U::Round], U::Sign => [U::Sign], U::Not => [U::Not], U::BitNot => [U::BitNot],
        U::IsNan => [U::IsNan], U::IsInf { .. } => [U::IsInf { positive: false, negative: false }],
        U::Softplus => [U::Softplus], U::Gelu => [U::Gelu], U::GeluTanh => [U::GeluTanh], U::Silu => [U::Silu],
        U::HardSwish => [U::HardSwish], U::LeakyRelu(_) => [U::LeakyRelu(zero)], U::Elu(_) => [U::Elu(zero)],
        U::HardSigmoid { .. } => [U::HardSigmoid { alpha: zero, beta: zero }],
    )
}

fn binaries() -> Vec<Binary> {
    use Binary as B;
    every!(Binary:
        B::Add => [B::Add], B::Sub => [B::Sub], B::Mul => [B::Mul], B::Div => [B::Div], B::Pow => [B::Pow],
        B::Max => [B::Max], B::Min => [B::Min], B::Mod => [B::Mod], B::Fmod => [B::Fmod], B::And => [B::And],
        B::Or => [B::Or], B::Xor => [B::Xor], B::BitAnd => [B::BitAnd], B::BitOr => [B::BitOr],
        B::BitXor => [B::BitXor], B::Shl => [B::Shl], B::Shr => [B::Shr],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_name_means_one_op() {
        let mut by_name: BTreeMap<&str, Op> = BTreeMap::new();
        for op in prototypes() {
            let first = by_name.entry(op.name()).or_insert_with(|| op.clone()).clone();
            assert_eq!(first, op, "two ops are called {}", op.name());
        }
        assert!(by_name.len() > 100);
    }

    #[test]
    fn every_name_reads_back() {
        for op in prototypes() {
            let mut text = String::new();
            print_fields(&op, &mut text);
            let mut c = Cursor::new(&text);
            assert_eq!(parse_fields(op.name(), &mut c), Ok(op));
            c.end().unwrap();
        }
    }
}
