//! Small models that cover every op, with inputs; what they should give is the reference interpreter's word.
//!
//! `for case in suite() { runner(&case) }`: a runner is the reference itself, an instruction set of the executor, a text or ONNX
//! round trip, a sharding over two ranks.

mod conv;
mod elementwise;
mod index;
mod machine;
mod matmul;
mod models;
mod movement;
mod norm;
mod pool;
mod quant;
mod recurrent;
mod reduce;

use crate::Tolerance;
use penjing_ir::{Fact, Model, Op, Stage};
use penjing_reference::{Precision, RefError, RunResult, run};
use penjing_tensor::Tensor;
use std::collections::BTreeMap;

/// A named model with inputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique in the suite: `<family>/<op>/<variant>`.
    pub name: String,
    /// Named inputs and outputs; single-op cases call them `x0`, `x1`, … and `y0`, `y1`, ….
    pub model: Model,
    /// A tensor for every input.
    pub inputs: BTreeMap<String, Tensor>,
    /// How far a float implementation may be from the reference.
    pub tolerance: Tolerance,
    /// The lowest stage at which the model is legal.
    pub stage: Stage,
}

impl Case {
    /// Outputs and new states by the reference interpreter.
    ///
    /// # Errors
    /// Those of the interpreter; no case of the suite has any.
    pub fn expected(&self) -> Result<RunResult, RefError> {
        run(&self.model, &self.inputs, &BTreeMap::new(), Precision::Declared)
    }
}

/// Every case.
pub fn suite() -> Vec<Case> {
    [
        elementwise::cases(),
        reduce::cases(),
        movement::cases(),
        index::cases(),
        matmul::cases(),
        conv::cases(),
        pool::cases(),
        norm::cases(),
        recurrent::cases(),
        quant::cases(),
        machine::cases(),
        models::cases(),
    ]
    .concat()
}

/// A model of one op whose operands are the graph's inputs.
fn one(name: &str, op: Op, operands: &[Tensor], tolerance: Tolerance) -> Case {
    let stage = if matches!(op, Op::Machine(_)) { Stage::Machine } else { Stage::Canonical };
    let mut model = Model::new(name);
    let mut inputs = BTreeMap::new();
    let values: Vec<_> = operands
        .iter()
        .enumerate()
        .map(|(i, t)| {
            inputs.insert(format!("x{i}"), t.clone());
            model.graph.add_input(&format!("x{i}"), Fact::of(t))
        })
        .collect();
    let node = match model.graph.add_node("op", op, &values) {
        Ok(node) => node,
        Err(e) => panic!("case {name}: {e}"),
    };
    for (i, v) in model.graph.node(node).outputs.clone().into_iter().enumerate() {
        model.graph.add_output(&format!("y{i}"), v);
    }
    Case { name: name.into(), model, inputs, tolerance, stage }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_ir::{ArgKind, Layout, MachineOp, PoolKind, verify};
    use penjing_tensor::DType;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_is_valid_and_runs() {
        let mut names = BTreeSet::new();
        for case in suite() {
            assert!(names.insert(case.name.clone()), "two cases are called {}", case.name);
            verify(&case.model, case.stage).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let result = case.expected().unwrap_or_else(|e| panic!("{}: {e}", case.name));
            assert_eq!(result.outputs.len(), case.model.graph.outputs.len(), "{}", case.name);
        }
    }

    /// Widening everything to F64 changes no result by more than F32 rounding does.
    #[test]
    fn f64_runs_agree() {
        // The float operands of these are F32 by definition.
        let fixed = |name: &str| {
            ["QChain", "QGru", "QLstm", "QMean"].iter().any(|op| name.starts_with(&format!("machine/{op}")))
        };
        for case in suite().into_iter().filter(|case| !fixed(&case.name)) {
            let declared = case.expected().unwrap().outputs;
            let wide = run(&case.model, &case.inputs, &BTreeMap::new(), Precision::F64);
            let wide = wide.unwrap_or_else(|e| panic!("{}: {e}", case.name)).outputs;
            for (name, want) in &declared {
                let got = &wide[name];
                assert_eq!(got.shape(), want.shape(), "{} {name}", case.name);
                // A quotient near a half may round to either side of it.
                if want.dtype() == DType::F32 && !case.name.contains("quant") && !case.name.contains("QMat") {
                    let near = Tolerance::Within { absolute: 1e-5, relative: 1e-5 };
                    crate::assert_close(&got.cast(DType::F32), want, near, &format!("{} {name}", case.name));
                }
            }
        }
    }

    /// A new op without a case is a compile error here or a failure below.
    #[test]
    fn every_op_has_two_cases() {
        let mut seen = [0; OPS];
        for case in suite() {
            for graph in std::iter::once(&case.model.graph).chain(&case.model.bodies) {
                graph.nodes().iter().for_each(|n| seen[ordinal(&n.op)] += 1);
            }
        }
        for (i, n) in seen.iter().enumerate() {
            assert!(*n >= 2, "op {i} has {n} cases");
        }
    }

    const OPS: usize = 75;

    fn ordinal(op: &Op) -> usize {
        match op {
            Op::Unary(_) => 0,
            Op::Binary(_) => 1,
            Op::Compare(_) => 2,
            Op::Select => 3,
            Op::Cast(_) => 4,
            Op::StopGradient => 5,
            Op::Reduce { .. } => 6,
            Op::ArgReduce { kind: ArgKind::Max, .. } => 7,
            Op::ArgReduce { kind: ArgKind::Min, .. } => 8,
            Op::CumSum { .. } => 9,
            Op::TopK { .. } => 10,
            Op::Permute { .. } => 11,
            Op::Reshape { .. } => 12,
            Op::Expand { .. } => 13,
            Op::Slice { .. } => 14,
            Op::Concat { .. } => 15,
            Op::Pad { .. } => 16,
            Op::Gather { .. } => 17,
            Op::GatherGrad { .. } => 18,
            Op::GatherElements { .. } => 19,
            Op::ScatterElements { .. } => 20,
            Op::GatherNd { .. } => 21,
            Op::ScatterNd { .. } => 22,
            Op::OneHot { .. } => 23,
            Op::Iota { .. } => 24,
            Op::DimValues { .. } => 25,
            Op::NonZero { .. } => 26,
            Op::Random { .. } => 27,
            Op::MatMul { .. } => 28,
            Op::Conv(_) => 29,
            Op::ConvTranspose { .. } => 30,
            Op::ConvWeightGrad { .. } => 31,
            Op::Pool { kind: PoolKind::Max, .. } => 32,
            Op::Pool { kind: PoolKind::Average { .. }, .. } => 33,
            Op::PoolGrad { kind: PoolKind::Max, .. } => 34,
            Op::PoolGrad { kind: PoolKind::Average { .. }, .. } => 35,
            Op::Softmax { .. } => 36,
            Op::LogSoftmax { .. } => 37,
            Op::BatchNorm { .. } => 38,
            Op::BatchNormTrain { .. } => 39,
            Op::BatchNormGrad { .. } => 40,
            Op::LayerNorm { .. } => 41,
            Op::LayerNormGrad { .. } => 64,
            Op::RmsNorm { .. } => 42,
            Op::GroupNorm { .. } => 43,
            Op::AttentionGrad { causal: true, .. } => 69,
            Op::AttentionGrad { causal: false, .. } => 70,
            Op::Attention { causal: true, .. } => 44,
            Op::Attention { causal: false, .. } => 45,
            Op::Lstm { reserve: true, .. } => 46,
            Op::Lstm { reserve: false, .. } => 47,
            Op::LstmGrad { .. } => 48,
            Op::Gru { .. } => 73,
            Op::Quantize(_) => 49,
            Op::Dequantize(_) => 50,
            Op::FakeQuant(_) => 51,
            Op::AllReduce => 52,
            Op::If { .. } => 53,
            Op::Machine(MachineOp::Chain(_)) => 54,
            Op::Machine(MachineOp::Conv { layout: Layout::ChannelsFirst, .. }) => 55,
            Op::Machine(MachineOp::Conv { layout: Layout::ChannelsLast, .. }) => 61,
            Op::Machine(MachineOp::Pool { kind: PoolKind::Max, .. }) => 62,
            Op::Machine(MachineOp::Pool { kind: PoolKind::Average { .. }, .. }) => 63,
            Op::Machine(MachineOp::Last(_)) => 71,
            Op::Machine(MachineOp::MatMul { .. }) => 56,
            Op::Machine(MachineOp::QConv { out: None, .. }) => 57,
            Op::Machine(MachineOp::QConv { out: Some(_), .. }) => 58,
            Op::Machine(MachineOp::Attention(_)) => 68,
            Op::Machine(MachineOp::QMatMul { out: None, .. }) => 59,
            Op::Machine(MachineOp::QMatMul { out: Some(_), .. }) => 60,
            Op::DynamicQuantize => 67,
            Op::Machine(MachineOp::QChain { .. }) => 65,
            Op::Machine(MachineOp::QLstm { .. }) => 66,
            Op::Machine(MachineOp::QMean { .. }) => 72,
            Op::Machine(MachineOp::QGru { .. }) => 74,
        }
    }
}
