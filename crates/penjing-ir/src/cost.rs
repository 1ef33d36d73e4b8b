//! How much work an op is: multiply-accumulates, floating-point operations and bytes moved, from facts alone.
//!
//! Multiply-accumulates (MACs) of products — convolution, matrix product, attention, recurrent cells and their gradients — are
//! exact by the usual convention that positions in the padding count as positions. Everything else is counted in flops: one per
//! arithmetic result, [`TRANSCENDENTAL`] per transcendental function; a MAC is two flops. Bytes are those of a kernel that reads each
//! operand element it needs once and writes each result element once.

use crate::{ChainInstr, Fact, HeadLayout, MachineOp, Op, PoolKind, Unary};

/// Flops that one exponential, logarithm, root or error function counts as: the order of a polynomial kernel.
const TRANSCENDENTAL: u64 = 8;

/// The work of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Multiply-accumulates of products.
    pub macs: u64,
    /// All arithmetic, with two flops for each MAC.
    pub flops: u64,
    /// Operand bytes read.
    pub bytes_read: u64,
    /// Result bytes written.
    pub bytes_written: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            macs: self.macs.saturating_add(other.macs),
            flops: self.flops.saturating_add(other.flops),
            bytes_read: self.bytes_read.saturating_add(other.bytes_read),
            bytes_written: self.bytes_written.saturating_add(other.bytes_written),
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |a, b| a + b)
    }
}

/// The work of `op` on operands and results with these facts, which must be what inference gives; `None` while an extent is symbolic. Numbers saturate.
///
/// `If` counts nothing itself: the nodes of the chosen body do.
pub fn cost(op: &Op, inputs: &[Fact], outputs: &[Fact]) -> Option<Cost> {
    let x = shapes(inputs)?;
    let y = shapes(outputs)?;
    let (macs, flops) = arithmetic(op, &x, &y);
    let (bytes_read, bytes_written) = traffic(op, inputs, outputs, &x, &y);
    Some(Cost { macs, flops: flops.saturating_add(macs.saturating_mul(2)), bytes_read, bytes_written })
}

/// (MACs, flops beside them).
fn arithmetic(op: &Op, x: &[Vec<u64>], y: &[Vec<u64>]) -> (u64, u64) {
    let count = |s: &[Vec<u64>], i: usize| s.get(i).map_or(0, |s| product(s));
    let (first, result) = (count(x, 0), count(y, 0));
    let per = |n: u64, each: u64| (0, n.saturating_mul(each));
    match op {
        Op::Unary(f) => per(result, unary_flops(*f)),
        Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast(_) => per(result, 1),
        Op::Reduce { .. } | Op::ArgReduce { .. } | Op::CumSum { .. } => per(first, 1),
        Op::TopK { k, .. } => per(first, k.as_const().map_or(1, |k| u64::from(usize::BITS - k.leading_zeros()).max(1))),
        Op::StopGradient
        | Op::Permute { .. }
        | Op::Reshape { .. }
        | Op::Expand { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::GatherElements { .. }
        | Op::GatherNd { .. }
        | Op::OneHot { .. }
        | Op::Iota { .. }
        | Op::DimValues { .. }
        | Op::If { .. } => (0, 0),
        Op::GatherGrad { .. } => per(count(x, 1), 1),
        Op::ScatterElements { .. } | Op::ScatterNd { .. } => per(count(x, 2), 1),
        Op::NonZero { .. } => per(first, 1),
        // Ten Philox rounds of two wide products each.
        Op::Random { .. } => per(result, 40),
        Op::MatMul { trans_a, .. } => (matmul_macs(&x[0], *trans_a, result), 0),
        Op::Conv(_) => (conv_macs(&x[1], result), if x.len() > 2 { result } else { 0 }),
        Op::ConvTranspose { .. } => (conv_macs(&x[1], first), if x.len() > 2 { result } else { 0 }),
        Op::ConvWeightGrad { .. } => (conv_macs(&y[0], count(x, 1)), 0),
        Op::Pool { spec, .. } => per(result, spec.kernel.iter().map(|&k| k as u64).fold(1, u64::saturating_mul)),
        Op::PoolGrad { kind, spec } => {
            let window = spec.kernel.iter().map(|&k| k as u64).fold(1, u64::saturating_mul);
            per(count(x, 1), if matches!(kind, PoolKind::Max) { window.saturating_add(1) } else { window })
        }
        // Maximum, subtraction, exponential, sum, division.
        Op::Softmax { .. } | Op::LogSoftmax { .. } => per(first, 4 + TRANSCENDENTAL),
        Op::BatchNorm { .. } => per(first, 2),
        // Two passes for mean and variance, then scale and shift.
        Op::BatchNormTrain { .. } | Op::LayerNorm { .. } | Op::GroupNorm { .. } => per(first, 7),
        Op::RmsNorm { .. } => per(first, 4),
        Op::BatchNormGrad { .. } | Op::LayerNormGrad { .. } => per(first, 11),
        Op::Attention { causal, .. } => attention(&x[0], &x[1], &x[2], *causal, x.len() > 3),
        // The products of q and k and of dy and v; and one or two more with each operand.
        Op::AttentionGrad { causal, .. } => {
            let (macs, flops) = attention(&x[0], &x[1], &x[2], *causal, false);
            (macs.saturating_mul(5) / 2, flops.saturating_mul(2))
        }
        Op::Lstm { .. } => {
            let (macs, cells) = lstm(&x[0], &x[1], &x[2]);
            // Three sigmoids and two tanh, four sums with the biases, four products and sums of the state.
            (macs, cells.saturating_mul(5 * TRANSCENDENTAL + 12))
        }
        Op::Gru { .. } => {
            let (macs, cells) = lstm(&x[0], &x[1], &x[2]);
            // Two sigmoids and a tanh, four sums with the biases, the reset product and the blend.
            (macs, cells.saturating_mul(3 * TRANSCENDENTAL + 8))
        }
        Op::LstmGrad { .. } => {
            let (macs, cells) = lstm(&x[0], &x[1], &x[2]);
            (macs.saturating_mul(2), cells.saturating_mul(30))
        }
        Op::Quantize(_) | Op::Dequantize(_) => per(first, 4),
        Op::FakeQuant(_) | Op::DynamicQuantize => per(first, 6),
        Op::AllReduce => per(y.iter().map(|s| product(s)).fold(0, u64::saturating_add), 1),
        Op::Machine(m) => machine(m, x, y, result),
    }
}

fn machine(op: &MachineOp, x: &[Vec<u64>], y: &[Vec<u64>], result: u64) -> (u64, u64) {
    match op {
        MachineOp::Chain(code) | MachineOp::QChain { code, .. } => {
            let each = code.iter().map(|i| match i {
                ChainInstr::Const(_) => 0,
                ChainInstr::Unary(f, _) => unary_flops(*f),
                ChainInstr::Binary(..) | ChainInstr::Compare(..) | ChainInstr::Select(..) => 1,
            });
            (0, result.saturating_mul(each.sum()))
        }
        MachineOp::Conv { .. } => (conv_macs(&x[1], result), result.saturating_mul(x.len() as u64 - 1)),
        MachineOp::Pool { spec, .. } => (0, spec.kernel.iter().map(|&k| k as u64).fold(result, u64::saturating_mul)),
        MachineOp::MatMul { trans_a, .. } => {
            (matmul_macs(&x[0], *trans_a, result), result.saturating_mul(x.len() as u64 - 1))
        }
        MachineOp::Attention(spec) => {
            let (heads, groups) = (spec.heads as u64, spec.groups as u64);
            let (width, value_width) = (spec.width as u64, spec.value_width as u64);
            let apart = |i: usize, layout: HeadLayout, heads: u64, width: u64| {
                let positions = if layout == HeadLayout::Apart { x[i][2] } else { x[i][1] };
                [x[i][0], heads, positions, width]
            };
            let q = apart(0, spec.q, heads, width);
            let (k, v) = (apart(1, spec.k, groups, width), apart(2, spec.v, groups, value_width));
            attention(&q, &k, &v, spec.causal, x.len() > 3)
        }
        MachineOp::QConv { .. } => (conv_macs(&x[3], result), result.saturating_mul(6)),
        MachineOp::QLstm { .. } => {
            let (macs, cells) = lstm(&x[0], &x[3], &x[5]);
            (macs, cells.saturating_mul(5 * TRANSCENDENTAL + 18))
        }
        MachineOp::QGru { .. } => {
            let (macs, cells) = lstm(&x[0], &x[3], &x[5]);
            (macs, cells.saturating_mul(3 * TRANSCENDENTAL + 14))
        }
        MachineOp::QMatMul { .. } => (matmul_macs(&x[0], false, result), result.saturating_mul(6)),
        MachineOp::QMean { .. } => (0, product(&x[0])),
        // Orders of axes change no count.
        MachineOp::Last(op) => arithmetic(op, x, y),
    }
}

/// Bytes (read, written). Views move nothing, and an indexed read touches only what it picks.
fn traffic(op: &Op, inputs: &[Fact], outputs: &[Fact], x: &[Vec<u64>], y: &[Vec<u64>]) -> (u64, u64) {
    let size = |f: &Fact, s: &[u64]| product(s).saturating_mul(f.dtype.size() as u64);
    let total = |facts: &[Fact], shapes: &[Vec<u64>]| {
        facts.iter().zip(shapes).map(|(f, s)| size(f, s)).fold(0, u64::saturating_add)
    };
    let written = total(outputs, y);
    let read = total(inputs, x);
    match op {
        Op::Reshape { .. } | Op::StopGradient | Op::If { .. } => (0, 0),
        Op::Slice { .. } => (written, written),
        Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. } => {
            (written.saturating_add(total(&inputs[1..], &x[1..])), written)
        }
        _ => (read, written),
    }
}

fn unary_flops(f: Unary) -> u64 {
    match f {
        Unary::Neg
        | Unary::Abs
        | Unary::Recip
        | Unary::Relu
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Sign
        | Unary::Not
        | Unary::BitNot
        | Unary::IsNan
        | Unary::IsInf { .. } => 1,
        Unary::LeakyRelu(_) => 2,
        Unary::HardSwish | Unary::HardSigmoid { .. } => 4,
        Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Sin
        | Unary::Cos
        | Unary::Tan
        | Unary::Asin
        | Unary::Acos
        | Unary::Atan
        | Unary::Sinh
        | Unary::Cosh
        | Unary::Tanh
        | Unary::Asinh
        | Unary::Acosh
        | Unary::Atanh
        | Unary::Erf
        | Unary::Sigmoid
        | Unary::Elu(_) => TRANSCENDENTAL,
        Unary::Softplus => 2 * TRANSCENDENTAL,
        Unary::Gelu | Unary::Silu => TRANSCENDENTAL + 3,
        Unary::GeluTanh => TRANSCENDENTAL + 8,
    }
}

fn matmul_macs(a: &[u64], trans_a: bool, result: u64) -> u64 {
    let k = a.len() - if trans_a { 2 } else { 1 };
    result.saturating_mul(a[k])
}

/// Each of `positions` meets `w.shape[1..]` weights: the results of a convolution, the operand elements of a transposed one.
fn conv_macs(w: &[u64], positions: u64) -> u64 {
    positions.saturating_mul(product(&w[1..]))
}

fn attention(q: &[u64], k: &[u64], v: &[u64], causal: bool, mask: bool) -> (u64, u64) {
    let (s, t) = (q[2], k[2]);
    let pairs = if causal {
        // Row i sees the first i + 1 + t − s keys.
        let longest = t.min(s);
        let shortest = t - longest + u64::from(longest > 0);
        (u128::from(longest) * u128::from(t + shortest) / 2).try_into().unwrap_or(u64::MAX)
    } else {
        s.saturating_mul(t)
    };
    let pairs = pairs.saturating_mul(q[0].saturating_mul(q[1]));
    (pairs.saturating_mul(q[3].saturating_add(v[3])), pairs.saturating_mul(5 + TRANSCENDENTAL + u64::from(mask)))
}

/// (MACs of the forward pass, number of cells) for x: [T, B, I], w: [D, 4H, I], r: [D, 4H, H].
fn lstm(x: &[u64], w: &[u64], r: &[u64]) -> (u64, u64) {
    let steps = product(&[x[0], x[1], w[0]]);
    let macs = steps.saturating_mul(w[1]).saturating_mul(w[2].saturating_add(r[2]));
    (macs, steps.saturating_mul(r[2]))
}

fn shapes(facts: &[Fact]) -> Option<Vec<Vec<u64>>> {
    facts.iter().map(|f| Some(f.concrete()?.into_iter().map(|n| n as u64).collect())).collect()
}

fn product(shape: &[u64]) -> u64 {
    if shape.contains(&0) { 0 } else { shape.iter().fold(1, |p, &n| p.saturating_mul(n)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConvSpec, Dim, Direction, PoolSpec, Real, infer};
    use penjing_tensor::DType;

    fn f(shape: &[usize]) -> Fact {
        Fact::new(DType::F32, shape.iter().copied())
    }

    fn run(op: &Op, inputs: &[Fact]) -> (Cost, Vec<Fact>) {
        let outputs = infer(op, inputs).unwrap();
        (cost(op, inputs, &outputs).unwrap(), outputs)
    }

    /// torchvision's published count: the first layer of ResNet-18 is 118,013,952 MACs.
    #[test]
    fn convolution_counts_the_published_macs() {
        let mut spec = ConvSpec::unit(2);
        spec.strides = vec![2, 2];
        spec.pads = vec![(3, 3); 2];
        let (c, y) = run(&Op::Conv(spec.clone()), &[f(&[1, 3, 224, 224]), f(&[64, 3, 7, 7])]);
        assert_eq!(c.macs, 118_013_952);
        let (g, _) =
            run(&Op::ConvWeightGrad { spec: spec.clone(), kernel: vec![7, 7] }, &[f(&[1, 3, 224, 224]), y[0].clone()]);
        assert_eq!(g.macs, c.macs);
        let (t, _) = run(&Op::ConvTranspose { spec, output_pad: vec![1, 1] }, &[y[0].clone(), f(&[64, 3, 7, 7])]);
        assert_eq!(t.macs, c.macs);
    }

    #[test]
    fn depthwise_convolution_divides_by_the_groups() {
        let spec = ConvSpec { groups: 32, pads: vec![(1, 1); 2], ..ConvSpec::unit(2) };
        let (c, _) = run(&Op::Conv(spec), &[f(&[1, 32, 112, 112]), f(&[32, 1, 3, 3])]);
        assert_eq!(c.macs, 32 * 112 * 112 * 9);
    }

    /// The network of the demo: 3,448,064 MACs, 6.9 MFLOP an image.
    #[test]
    fn simple_cnn_is_6_9_mflop() {
        let same = ConvSpec { pads: vec![(1, 1); 2], ..ConvSpec::unit(2) };
        let half = PoolSpec {
            kernel: vec![2, 2],
            strides: vec![2, 2],
            pads: vec![(0, 0); 2],
            dilations: vec![1, 1],
            ceil: false,
        };
        let linear = Op::MatMul { trans_a: false, trans_b: true };
        let mut x = f(&[1, 3, 24, 24]);
        let mut total = 0;
        let mut all = Cost::default();
        for w in [[32, 3, 3, 3], [64, 32, 3, 3]] {
            let (c, y) = run(&Op::Conv(same.clone()), &[x, f(&w)]);
            total += c.macs;
            let (pool, y) = run(&Op::Pool { kind: PoolKind::Max, spec: half.clone() }, &[y[0].clone()]);
            all = all + c + pool;
            x = y[0].clone();
        }
        for (a, w) in [([1, 2304], [128, 2304]), ([1, 128], [10, 128])] {
            total += run(&linear, &[f(&a), f(&w)]).0.macs;
        }
        assert_eq!(x, f(&[1, 64, 6, 6]));
        assert_eq!(total, 3_448_064);
        assert_eq!(all.flops, 2 * all.macs + 4 * (32 * 144 + 64 * 36));
    }

    #[test]
    fn attention_counts_visible_pairs() {
        let qkv = [f(&[2, 8, 5, 16]), f(&[2, 4, 5, 16]), f(&[2, 4, 5, 12])];
        let op = |causal| Op::Attention { scale: Real(0.25), causal };
        assert_eq!(run(&op(false), &qkv).0.macs, 2 * 8 * 25 * 28);
        assert_eq!(run(&op(true), &qkv).0.macs, 2 * 8 * 15 * 28);
        let decode = [f(&[1, 1, 2, 4]), f(&[1, 1, 6, 4]), f(&[1, 1, 6, 4])];
        assert_eq!(run(&op(true), &decode).0.macs, (5 + 6) * 8);
        let masked_rows = [f(&[1, 1, 6, 4]), f(&[1, 1, 2, 4]), f(&[1, 1, 2, 4])];
        assert_eq!(run(&op(true), &masked_rows).0.macs, 3 * 8);
    }

    #[test]
    fn a_recurrent_cell_counts_both_products_of_every_gate() {
        let (t, b, i, h) = (7, 3, 5, 4);
        let inputs =
            [f(&[t, b, i]), f(&[2, 4 * h, i]), f(&[2, 4 * h, h]), f(&[2, 8 * h]), f(&[2, b, h]), f(&[2, b, h])];
        let op = Op::Lstm { direction: Direction::Bidirectional, reserve: false };
        assert_eq!(run(&op, &inputs).0.macs, (t * b * 2 * 4 * h * (i + h)) as u64);
    }

    #[test]
    fn bytes_follow_what_is_touched() {
        let table = f(&[1000, 16]);
        let (c, _) = run(&Op::Gather { axis: 0 }, &[table, Fact::new(DType::I64, [3])]);
        assert_eq!((c.bytes_read, c.bytes_written), (3 * 16 * 4 + 24, 3 * 16 * 4));
        let (c, _) = run(&Op::Reshape { shape: vec![Dim::Const(6)] }, &[f(&[2, 3])]);
        assert_eq!((c.bytes_read, c.bytes_written), (0, 0));
    }

    #[test]
    fn symbolic_extents_have_no_cost_yet() {
        let x = Fact { dtype: DType::F32, shape: vec![Dim::sym("N")] };
        assert_eq!(cost(&Op::Unary(Unary::Relu), std::slice::from_ref(&x), std::slice::from_ref(&x)), None);
    }
}
