//! Fusion of quantized graphs: for each rule a graph where it applies and one where it must not, and that fusing changes no
//! result by more than a quantum.

#![allow(clippy::unwrap_used)]

use penjing_exec::fuse;
use penjing_ir::{
    Activation, Binary, Compare, ConvSpec, Dim, Direction, Fact, MachineOp, Model, Op, PadMode, QuantScheme, Real,
    Reduction, Reset, SliceRange, Unary, ValueId,
};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Tensor};
use penjing_testkit::{Tolerance, assert_close, integers, normal, uniform};
use std::collections::BTreeMap;

/// A model under construction whose inputs are normal numbers.
struct Net {
    model: Model,
    inputs: BTreeMap<String, Tensor>,
}

impl Net {
    fn new() -> Net {
        Net { model: Model::new("net"), inputs: BTreeMap::new() }
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let x = normal(shape, name);
        let v = self.model.graph.add_input(name, Fact::of(&x));
        self.inputs.insert(name.into(), x);
        v
    }

    fn constant(&mut self, t: Tensor) -> ValueId {
        self.model.graph.add_const(t)
    }

    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.model.graph.apply("n", op, x).unwrap()
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::Binary(Binary::Add), &[a, b])
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.op(Op::Unary(Unary::Relu), &[x])
    }

    /// `x` quantized and dequantized on a U8 grid that holds normal numbers.
    fn on_grid(&mut self, x: ValueId) -> ValueId {
        self.on_grid_of(x, DType::U8)
    }

    fn on_grid_of(&mut self, x: ValueId, dtype: DType) -> ValueId {
        let scheme = QuantScheme { dtype, axis: None, narrow: false };
        let scale = self.constant(Tensor::scalar(0.04f32));
        let zero = self.constant(Tensor::scalar(7i64).cast(dtype));
        let q = self.op(Op::Quantize(scheme.clone()), &[x, scale, zero]);
        self.op(Op::Dequantize(scheme), &[q, scale, zero])
    }

    /// An I8 weight behind its Dequantize, channels along `axis`.
    fn weight(&mut self, name: &str, shape: &[usize], axis: usize) -> ValueId {
        let n = shape[axis];
        let codes = self.constant(integers(DType::I8, shape, -127, 127, name));
        let scale = self.constant(uniform(&[n], 0.001, 0.004, name));
        let zero = self.constant(Tensor::zeros(DType::I8, &[n]).unwrap());
        let scheme = QuantScheme { dtype: DType::I8, axis: Some(axis), narrow: true };
        self.op(Op::Dequantize(scheme), &[codes, scale, zero])
    }

    /// Names `outputs`, fuses, checks that the outputs stay what they were, and returns the fused ops.
    fn fused(mut self, outputs: &[ValueId], tolerance: Tolerance) -> Vec<Op> {
        for (i, &v) in outputs.iter().enumerate() {
            self.model.graph.add_output(&format!("y{i}"), v);
        }
        let fused = fuse(&self.model).unwrap();
        let of = |m: &Model| run(m, &self.inputs, &BTreeMap::new(), Precision::Declared).unwrap().outputs;
        let (want, got) = (of(&self.model), of(&fused));
        for (name, want) in &want {
            assert_close(&got[name], want, tolerance, name);
        }
        fused.graph.nodes().iter().map(|n| n.op.clone()).collect()
    }
}

/// One step of the result's grid, 0.04, and rounding.
const QUANTUM: Tolerance = Tolerance::Within { absolute: 0.0401, relative: 0.0 };

fn count(ops: &[Op], name: &str) -> usize {
    ops.iter().filter(|op| op.name() == name).count()
}

#[test]
fn a_sum_of_integers_runs_on_integers() {
    let mut net = Net::new();
    let (a, b) = (net.input("a", &[2, 5]), net.input("b", &[2, 5]));
    let (a, b) = (net.on_grid(a), net.on_grid_of(b, DType::I8));
    let sum = net.add(a, b);
    let y = net.relu(sum);
    let y = net.on_grid(y);
    let ops = net.fused(&[y], Tolerance::Exact);
    assert_eq!(count(&ops, "machine.QChain"), 1, "{ops:?}");
    // Those of the inputs, and the one of the output.
    assert_eq!((count(&ops, "Quantize"), count(&ops, "Dequantize")), (2, 1), "{ops:?}");
}

/// A value that is an output as well keeps its float, and so the chain ends before the Quantize.
#[test]
fn a_sum_that_is_read_as_float_stays_float() {
    let mut net = Net::new();
    let (a, b) = (net.input("a", &[2, 5]), net.input("b", &[2, 5]));
    let sum = net.add(a, b);
    let y = net.on_grid(sum);
    let ops = net.fused(&[sum, y], Tolerance::Exact);
    assert_eq!((count(&ops, "machine.Chain"), count(&ops, "machine.QChain"), count(&ops, "Quantize")), (1, 0, 1));
}

/// Scales that go by channel are no operand of a chain.
#[test]
fn a_grid_with_several_scales_stays_outside_of_chains() {
    let mut net = Net::new();
    let (a, scale) = (net.input("a", &[2, 5]), net.constant(uniform(&[5], 0.02, 0.05, "s")));
    let zero = net.constant(Tensor::zeros(DType::I8, &[5]).unwrap());
    let scheme = QuantScheme { dtype: DType::I8, axis: Some(1), narrow: false };
    let sum = net.add(a, a);
    let q = net.op(Op::Quantize(scheme.clone()), &[sum, scale, zero]);
    let real = net.op(Op::Dequantize(scheme), &[q, scale, zero]);
    let y = net.add(real, real);
    let ops = net.fused(&[y], Tolerance::Exact);
    assert_eq!((count(&ops, "machine.Chain"), count(&ops, "machine.QChain")), (2, 0), "{ops:?}");
}

/// Both products on integers; the hidden state's rounding is a quantum of the range of the state.
#[test]
fn an_lstm_of_integer_weights_runs_on_integers() {
    let (t, b, i, h) = (3, 2, 5, 4);
    let build = |net: &mut Net, on_grid: bool| {
        let x = net.input("x", &[t, b, i]);
        let x = if on_grid { net.on_grid(x) } else { x };
        let (w, r) = (net.weight("w", &[1, 4 * h, i], 1), net.weight("r", &[1, 4 * h, h], 1));
        let bias = net.constant(normal(&[1, 8 * h], "bias"));
        let state = net.constant(Tensor::zeros(DType::F32, &[1, b, h]).unwrap());
        let op = Op::Lstm { direction: Direction::Forward, reserve: false };
        net.op(op, &[x, w, r, bias, state, state])
    };
    let mut net = Net::new();
    let y = build(&mut net, true);
    let ops = net.fused(&[y], Tolerance::Within { absolute: 5e-3, relative: 0.0 });
    assert_eq!((count(&ops, "machine.QLstm"), count(&ops, "Lstm")), (1, 0), "{ops:?}");
    // A float input: the weights become floats once.
    let mut net = Net::new();
    let y = build(&mut net, false);
    let ops = net.fused(&[y], Tolerance::Exact);
    assert_eq!((count(&ops, "machine.QLstm"), count(&ops, "Lstm"), count(&ops, "Dequantize")), (0, 1, 0), "{ops:?}");
}

/// As an LSTM, whichever the reset gate multiplies.
#[test]
fn a_gru_of_integer_weights_runs_on_integers() {
    let (t, b, i, h) = (3, 2, 5, 4);
    for reset in [Reset::State, Reset::Product] {
        let build = |net: &mut Net, on_grid: bool| {
            let x = net.input("x", &[t, b, i]);
            let x = if on_grid { net.on_grid(x) } else { x };
            let (w, r) = (net.weight("w", &[1, 3 * h, i], 1), net.weight("r", &[1, 3 * h, h], 1));
            let bias = net.constant(normal(&[1, 6 * h], "bias"));
            let state = net.constant(Tensor::zeros(DType::F32, &[1, b, h]).unwrap());
            net.op(Op::Gru { direction: Direction::Forward, reset }, &[x, w, r, bias, state])
        };
        let mut net = Net::new();
        let y = build(&mut net, true);
        let ops = net.fused(&[y], Tolerance::Within { absolute: 5e-3, relative: 0.0 });
        assert_eq!((count(&ops, "machine.QGru"), count(&ops, "Gru")), (1, 0), "{ops:?}");
        // A float input: the weights become floats once.
        let mut net = Net::new();
        let y = build(&mut net, false);
        let ops = net.fused(&[y], Tolerance::Exact);
        assert_eq!((count(&ops, "machine.QGru"), count(&ops, "Gru"), count(&ops, "Dequantize")), (0, 1, 0), "{ops:?}");
    }
}

#[test]
fn activations_quantized_as_they_come_feed_integer_products() {
    let mut net = Net::new();
    let x = net.input("x", &[3, 6]);
    let id = net.model.graph.add_node("q", Op::DynamicQuantize, &[x]).unwrap();
    let parts = net.model.graph.node(id).outputs.clone();
    let scheme = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
    let real = net.op(Op::Dequantize(scheme), &parts);
    let w = net.weight("w", &[6, 4], 1);
    let y = net.op(Op::MatMul { trans_a: false, trans_b: false }, &[real, w]);
    let ops = net.fused(&[y], Tolerance::Accumulating(16));
    assert_eq!(count(&ops, "machine.QMatMul"), 1, "{ops:?}");
    assert_eq!((count(&ops, "DynamicQuantize"), count(&ops, "Dequantize")), (1, 0), "{ops:?}");
}

/// The sum, its ReLU and its rounding are those of the second convolution; nothing between the convolutions is float.
#[test]
fn a_residual_block_has_no_float_between_its_convolutions() {
    let mut net = Net::new();
    let spec = ConvSpec { pads: vec![(1, 1); 2], ..ConvSpec::unit(2) };
    let x = net.input("x", &[1, 4, 5, 5]);
    let x = net.on_grid(x);
    let (w1, w2) = (net.weight("w1", &[4, 4, 3, 3], 0), net.weight("w2", &[4, 4, 3, 3], 0));
    let h = net.op(Op::Conv(spec.clone()), &[x, w1]);
    let h = net.relu(h);
    let h = net.on_grid(h);
    let h = net.op(Op::Conv(spec), &[h, w2]);
    let sum = net.add(h, x);
    let y = net.relu(sum);
    let y = net.on_grid(y);
    let mean = net.op(Op::Reduce { kind: Reduction::Mean, axes: vec![2, 3], keep: false }, &[y]);
    let ops = net.fused(&[y, mean], QUANTUM);
    assert_eq!((count(&ops, "machine.QConv"), count(&ops, "machine.QChain")), (2, 0), "{ops:?}");
    assert_eq!((count(&ops, "Quantize"), count(&ops, "Dequantize")), (1, 1), "{ops:?}");
}

/// A function of a product's result is applied before it is rounded; a result that somebody else reads is a float, and so is what
/// becomes of it until it is rounded.
#[test]
fn activations_join_integer_products() {
    for f in [Unary::Gelu, Unary::GeluTanh, Unary::Silu, Unary::HardSigmoid { alpha: Real(0.25), beta: Real(0.5) }] {
        for (read, rounded) in [(false, true), (false, false), (true, true)] {
            let mut net = Net::new();
            let x = net.input("x", &[3, 6]);
            let x = net.on_grid(x);
            let (w, bias) = (net.weight("w", &[6, 4], 1), net.constant(normal(&[4], "bias")));
            let h = net.op(Op::MatMul { trans_a: false, trans_b: false }, &[x, w]);
            let h = net.add(h, bias);
            let y = net.op(Op::Unary(f), &[h]);
            let y = if rounded { net.on_grid(y) } else { y };
            let outputs = if read { vec![y, h] } else { vec![y] };
            let ops = net.fused(&outputs, if rounded { QUANTUM } else { Tolerance::Accumulating(16) });
            let joined = |op: &Op| match op {
                Op::Machine(MachineOp::QMatMul { act, out, .. }) => {
                    *act == Activation::of(f).unwrap() && out.is_some() == rounded
                }
                _ => false,
            };
            assert_eq!(ops.iter().filter(|op| joined(op)).count(), usize::from(!read), "{f:?}: {ops:?}");
            let chains = count(&ops, "machine.QChain") + count(&ops, "machine.Chain");
            assert_eq!((count(&ops, "machine.QMatMul"), chains), (1, usize::from(read)), "{f:?}: {ops:?}");
        }
    }
}

/// Rows that are regrouped behind a product are regrouped before it, as integers.
#[test]
fn rows_of_integer_products_are_regrouped_before_them() {
    for read in [false, true] {
        let mut net = Net::new();
        let x = net.input("x", &[6, 5]);
        let x = net.on_grid(x);
        let (w, bias) = (net.weight("w", &[5, 4], 1), net.constant(normal(&[4], "bias")));
        let h = net.op(Op::MatMul { trans_a: false, trans_b: false }, &[x, w]);
        let h = net.add(h, bias);
        let y = net.op(Op::Reshape { shape: [2, 3, 4].map(Dim::Const).to_vec() }, &[h]);
        let y = net.op(Op::Unary(Unary::Gelu), &[y]);
        let y = net.on_grid(y);
        let outputs = if read { vec![y, h] } else { vec![y] };
        let ops = net.fused(&outputs, QUANTUM);
        let joined =
            |op: &Op| matches!(op, Op::Machine(MachineOp::QMatMul { act: Activation::Gelu, out: Some(_), .. }));
        assert_eq!(ops.iter().filter(|op| joined(op)).count(), usize::from(!read), "{ops:?}");
        assert_eq!((count(&ops, "machine.QMatMul"), count(&ops, "Reshape")), (1, 1), "{ops:?}");
    }
}

/// A float addend joins a product as it is.
#[test]
fn float_addends_join_integer_products() {
    let mut net = Net::new();
    let (x, other) = (net.input("x", &[3, 6]), net.input("other", &[3, 4]));
    let x = net.on_grid(x);
    let w = net.weight("w", &[6, 4], 1);
    let bias = net.constant(normal(&[4], "bias"));
    let h = net.op(Op::MatMul { trans_a: false, trans_b: false }, &[x, w]);
    let h = net.add(h, bias);
    let y = net.add(h, other);
    let ops = net.fused(&[y], Tolerance::Accumulating(16));
    assert_eq!((count(&ops, "machine.QMatMul"), count(&ops, "machine.Chain")), (1, 0), "{ops:?}");
}

/// Of two products that are added, one takes the other's result; both run on integers.
#[test]
fn a_sum_of_two_products_belongs_to_one_of_them() {
    let mut net = Net::new();
    let x = net.input("x", &[3, 6]);
    let x = net.on_grid(x);
    let (a, b) = (net.weight("a", &[6, 4], 1), net.weight("b", &[6, 4], 1));
    let op = Op::MatMul { trans_a: false, trans_b: false };
    let (a, b) = (net.op(op.clone(), &[x, a]), net.op(op, &[x, b]));
    let y = net.add(a, b);
    let ops = net.fused(&[y], Tolerance::Accumulating(16));
    assert_eq!((count(&ops, "machine.QMatMul"), count(&ops, "MatMul"), count(&ops, "machine.Chain")), (2, 0, 0));
}

/// What depends on the product cannot be there before it runs.
#[test]
fn later_addends_stay_outside_of_integer_products() {
    let mut net = Net::new();
    let x = net.input("x", &[1, 4, 5, 5]);
    let x = net.on_grid(x);
    let w = net.weight("w", &[4, 4, 1, 1], 0);
    let h = net.op(Op::Conv(ConvSpec::unit(2)), &[x, w]);
    let other = net.op(Op::Unary(Unary::Neg), &[h]);
    let other = net.on_grid(other);
    let y = net.add(h, other);
    let y = net.on_grid(y);
    let ops = net.fused(&[y], QUANTUM);
    let alone = |op: &Op| matches!(op, Op::Machine(MachineOp::QConv { act: Activation::None, out: None, .. }));
    assert_eq!(ops.iter().filter(|op| alone(op)).count(), 1, "{ops:?}");
    assert_eq!(count(&ops, "machine.QChain"), 2, "{ops:?}");
}

/// A shortcut that takes every other pixel and adds channels of zeros moves bytes; a zero is the zero point.
#[test]
fn what_moves_elements_moves_integers() {
    let shortcut = |value: f64, edge: bool| {
        let mut net = Net::new();
        let x = net.input("x", &[1, 2, 4, 4]);
        let x = net.on_grid(x);
        let range = |len: usize, step| SliceRange { start: Dim::Const(0), len: Dim::Const(len), step };
        let ranges = vec![range(1, 1), range(2, 1), range(2, 2), range(2, 2)];
        let h = net.op(Op::Slice { ranges }, &[x]);
        let mode = if edge { PadMode::Edge } else { PadMode::Constant(Real(value)) };
        let h = net.op(Op::Pad { before: vec![0, 1, 0, 0], after: vec![0, 1, 0, 0], mode }, &[h]);
        let both = net.op(Op::Concat { axis: 1 }, &[h, h]);
        let w = net.weight("w", &[3, 8, 1, 1], 0);
        let y = net.op(Op::Conv(ConvSpec::unit(2)), &[both, w]);
        let ops = net.fused(&[y], Tolerance::Accumulating(16));
        (count(&ops, "machine.QConv"), count(&ops, "Dequantize"))
    };
    assert_eq!(shortcut(0.0, false), (1, 0));
    // 1 is on no code of the grid for sure.
    assert_eq!(shortcut(1.0, false), (0, 1));
    assert_eq!(shortcut(0.0, true), (0, 1));
}

/// Operands on two grids are joined as numbers.
#[test]
fn operands_on_different_grids_are_joined_as_floats() {
    let mut net = Net::new();
    let (a, b) = (net.input("a", &[2, 3]), net.input("b", &[2, 3]));
    let (a, b) = (net.on_grid(a), net.on_grid_of(b, DType::I8));
    let both = net.op(Op::Concat { axis: 1 }, &[a, b]);
    let w = net.weight("w", &[6, 4], 1);
    let y = net.op(Op::MatMul { trans_a: false, trans_b: false }, &[both, w]);
    let ops = net.fused(&[y], Tolerance::Accumulating(16));
    assert_eq!((count(&ops, "machine.QMatMul"), count(&ops, "Dequantize")), (0, 2), "{ops:?}");
}

/// Heads are merged by the attention, and its result is rounded where the projection reads it; what somebody reads between keeps
/// its place.
#[test]
fn attention_merges_its_heads_before_its_result_is_rounded() {
    for read in [false, true] {
        let mut net = Net::new();
        let [q, k, v] = ["q", "k", "v"].map(|name| net.input(name, &[1, 2, 3, 4]));
        let h = net.op(Op::Attention { scale: Real(0.5), causal: false }, &[q, k, v]);
        let scheme = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
        let (scale, zero) = (net.constant(Tensor::scalar(0.02f32)), net.constant(Tensor::scalar(128u8)));
        let codes = net.op(Op::Quantize(scheme.clone()), &[h, scale, zero]);
        let real = net.op(Op::Dequantize(scheme), &[codes, scale, zero]);
        let merged = net.op(Op::Permute { perm: vec![0, 2, 1, 3] }, &[real]);
        let rows = net.op(Op::Reshape { shape: [1, 3, 8].map(Dim::Const).to_vec() }, &[merged]);
        let w = net.weight("w", &[8, 5], 1);
        let y = net.op(Op::MatMul { trans_a: false, trans_b: false }, &[rows, w]);
        let outputs = if read { vec![y, real] } else { vec![y] };
        let ops = net.fused(&outputs, QUANTUM);
        assert_eq!(count(&ops, "machine.QMatMul"), 1, "{ops:?}");
        assert_eq!(count(&ops, "Permute"), usize::from(read), "{ops:?}");
    }
}

/// A mask of truth values is read by the chain that selects by it.
#[test]
fn chains_read_truth_values() {
    let mut net = Net::new();
    let (x, y) = (net.input("x", &[2, 5]), net.input("y", &[2, 5]));
    let (row, zero) = (net.input("row", &[5]), net.constant(Tensor::scalar(0.0f32)));
    let positive = net.op(Op::Compare(Compare::Less), &[zero, row]);
    let y = net.op(Op::Select, &[positive, x, y]);
    let ops = net.fused(&[y], Tolerance::Exact);
    assert_eq!((count(&ops, "machine.Chain"), count(&ops, "Select")), (1, 0), "{ops:?}");
}

/// A ReLU6 is the limits of the grid.
#[test]
fn limits_join_an_integer_convolution() {
    let mut net = Net::new();
    let x = net.input("x", &[1, 4, 5, 5]);
    let x = net.on_grid(x);
    let w = net.weight("w", &[4, 4, 1, 1], 0);
    let h = net.op(Op::Conv(ConvSpec::unit(2)), &[x, w]);
    let (lo, hi) = (net.constant(Tensor::scalar(0.0f32)), net.constant(Tensor::scalar(6.0f32)));
    let h = net.op(Op::Binary(Binary::Max), &[h, lo]);
    let h = net.op(Op::Binary(Binary::Min), &[h, hi]);
    let y = net.on_grid(h);
    let ops = net.fused(&[y], QUANTUM);
    let clamped =
        |op: &Op| matches!(op, Op::Machine(MachineOp::QConv { act: Activation::Clamp { .. }, out: Some(_), .. }));
    assert_eq!(ops.iter().filter(|op| clamped(op)).count(), 1, "{ops:?}");
}

/// Rows of a table are picked as integers, with their scales where each row has its own; scales that go by column stay with the
/// table, which is a float constant then.
#[test]
fn rows_of_a_quantized_table_are_picked_as_integers() {
    for (indices, axis, gathers) in [(vec![2, 3], 0, 2), (vec![], 0, 2), (vec![4], 1, 1)] {
        let mut net = Net::new();
        let table = net.weight("table", &[50, 8], axis);
        let picked = net.constant(integers(DType::I64, &indices, 0, 49, "picked"));
        let x = net.input("x", &[8]);
        let rows = net.op(Op::Gather { axis: 0 }, &[table, picked]);
        let y = net.add(rows, x);
        let ops = net.fused(&[y], Tolerance::Exact);
        assert_eq!((count(&ops, "Gather"), count(&ops, "Dequantize")), (gathers, 0), "{axis}: {ops:?}");
        assert_eq!(count(&ops, "machine.QChain"), usize::from(axis == 0), "{axis}: {ops:?}");
    }
}

/// One grid for the whole table goes below the Gather, whatever its zero point; any tensor may be the table.
#[test]
fn one_grid_goes_below_a_gather() {
    let mut net = Net::new();
    let x = net.input("x", &[3, 6]);
    let x = net.on_grid(x);
    let picked = net.constant(integers(DType::I64, &[2], 0, 5, "picked"));
    let rows = net.op(Op::Gather { axis: 1 }, &[x, picked]);
    let y = net.add(rows, rows);
    let ops = net.fused(&[y], Tolerance::Exact);
    assert_eq!((count(&ops, "Gather"), count(&ops, "machine.QChain"), count(&ops, "Dequantize")), (1, 1, 0), "{ops:?}");
}

/// The mean of an image on a grid is taken of the integers, in whatever order its axes lie, and rounded once.
#[test]
fn a_mean_of_integers_runs_on_integers() {
    let build = |axes: &[usize], on_grid: bool| {
        let mut net = Net::new();
        let x = net.input("x", &[2, 4, 5, 5]);
        let x = net.on_grid(x);
        let w = net.weight("w", &[6, 4, 3, 3], 0);
        let h = net.op(Op::Conv(ConvSpec::unit(2)), &[x, w]);
        let h = net.relu(h);
        let h = if on_grid { net.on_grid(h) } else { h };
        let mean = net.op(Op::Reduce { kind: Reduction::Mean, axes: axes.to_vec(), keep: false }, &[h]);
        let y = net.on_grid(mean);
        let ops = net.fused(&[y], QUANTUM);
        let rounded = |op: &Op| matches!(op, Op::Machine(MachineOp::QMean { out: Some(_), .. }));
        (ops.iter().filter(|op| rounded(op)).count(), count(&ops, "ReduceMean"), count(&ops, "Quantize"))
    };
    // The input's Quantize is the only one.
    assert_eq!(build(&[2, 3], true), (1, 0, 1));
    assert_eq!(build(&[1], true), (1, 0, 1));
    // Floats, and axes that lie apart in every order, stay with the float kernel.
    assert_eq!(build(&[2, 3], false), (0, 1, 2));
    assert_eq!(build(&[0, 1, 2], true).0, 0);
}

/// A mean that somebody reads as a float is one; its Quantize stays.
#[test]
fn a_mean_of_integers_that_is_read_as_float_stays_float() {
    let mut net = Net::new();
    let x = net.input("x", &[2, 9, 3]);
    let x = net.on_grid_of(x, DType::I8);
    let mean = net.op(Op::Reduce { kind: Reduction::Mean, axes: vec![1], keep: true }, &[x]);
    let y = net.on_grid(mean);
    let ops = net.fused(&[mean, y], Tolerance::Accumulating(16));
    let float = |op: &Op| matches!(op, Op::Machine(MachineOp::QMean { out: None, .. }));
    assert_eq!((ops.iter().filter(|op| float(op)).count(), count(&ops, "Quantize")), (1, 2), "{ops:?}");
}
