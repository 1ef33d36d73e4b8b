//! The kernel of each node: its name, what it reads, what it may overwrite, and the call itself.
//!
//! Rows that the vector kernels have are tried family by family; everything else runs through the reference interpreter, whose
//! row is named `reference.<op>`.

mod attention;
mod conv;
mod elementwise;
mod last;
mod matmul;
mod movement;
mod norm;
mod pool;
mod quant;
mod recurrent;
mod reduce;
mod reference;
mod site;

use crate::{ExecError, Target, contents::Contents};
use penjing_ir::{MachineOp, Model, NodeId, Op};
use penjing_kernels::{Ctx, KernelError, arena::Views};
use penjing_reference::RefError;
use penjing_tensor::TensorError;
use site::Site;

/// A chosen kernel with its parameters bound.
pub(crate) struct Kernel {
    /// The row's name.
    pub(crate) name: String,
    /// Indices of the operands that the call reads, in the order of its views. Packed constants are not among them.
    pub(crate) reads: Vec<usize>,
    /// (result, operand) pairs: the result may be written over the operand.
    pub(crate) in_place: Vec<(usize, usize)>,
    pub(crate) run: Run,
}

/// How a step runs.
pub(crate) enum Run {
    Call(Box<CallFn>),
    /// Bytes from read 0 to write 0.
    Copy,
    /// Sum over ranks.
    AllReduce,
}

type CallFn = dyn Fn(&mut Call<'_>) -> Result<(), RunError> + Send + Sync;

/// What a kernel call gets.
pub(crate) struct Call<'a> {
    pub(crate) ctx: Ctx<'a>,
    pub(crate) views: Views<'a>,
}

/// A failure inside a call; the loop adds node and kernel.
#[derive(Debug)]
pub(crate) enum RunError {
    Kernel(KernelError),
    Reference(RefError),
    Tensor(TensorError),
}

impl RunError {
    pub(crate) fn at(self, node: &str, kernel: &str) -> ExecError {
        match self {
            RunError::Kernel(source) => ExecError::Kernel { node: node.into(), kernel: kernel.into(), source },
            RunError::Reference(source) => ExecError::Reference { node: node.into(), source },
            RunError::Tensor(e) => ExecError::Tensor(e),
        }
    }
}

impl From<KernelError> for RunError {
    fn from(e: KernelError) -> RunError {
        RunError::Kernel(e)
    }
}

impl Kernel {
    /// A kernel that reads every operand and overwrites none.
    fn call(
        site: &Site,
        name: &str,
        run: impl Fn(&mut Call<'_>) -> Result<(), RunError> + Send + Sync + 'static,
    ) -> Kernel {
        Kernel {
            name: format!("{}.{name}", site.isa.name()),
            reads: (0..site.operands.len()).collect(),
            in_place: Vec::new(),
            run: Run::Call(Box::new(run)),
        }
    }

    /// The kernel when it reads only these operands.
    fn reading(mut self, reads: Vec<usize>) -> Kernel {
        self.reads = reads;
        self
    }
}

/// Picks the kernel of a node of a fused, bound model, and packs the constants that it wants packed.
pub(crate) fn select(model: &Model, id: NodeId, contents: &Contents, target: &Target) -> Result<Kernel, ExecError> {
    let site = Site::new(model, id, contents, target);
    let node = model.graph.node(id);
    let fast = match &node.op {
        Op::AllReduce if !site.all_f32() => {
            let why = "ranks sum f32 only; cast the operands".into();
            return Err(ExecError::Unsupported { node: node.name.clone(), op: node.op.name(), why });
        }
        Op::AllReduce => Some(Kernel {
            name: "ranks.f32-f32-all_reduce".into(),
            reads: (0..node.inputs.len()).collect(),
            in_place: (0..node.inputs.len()).map(|i| (i, i)).collect(),
            run: Run::AllReduce,
        }),
        Op::Machine(MachineOp::Last(op)) => last::select(&site, op),
        Op::Machine(MachineOp::Chain(code)) => elementwise::chain(&site, code),
        Op::Machine(MachineOp::QChain { code, out }) => elementwise::qchain(&site, code, out.as_ref()),
        Op::Conv(_) | Op::ConvTranspose { .. } | Op::ConvWeightGrad { .. } | Op::Machine(MachineOp::Conv { .. }) => {
            conv::select(&site, &node.op)
        }
        Op::MatMul { .. } | Op::Machine(MachineOp::MatMul { .. }) => matmul::select(&site, &node.op),
        Op::Machine(MachineOp::QConv { .. } | MachineOp::QMatMul { .. } | MachineOp::QMean { .. })
        | Op::Quantize(_)
        | Op::Dequantize(_)
        | Op::FakeQuant(_)
        | Op::DynamicQuantize => quant::select(&site, &node.op),
        Op::Lstm { .. }
        | Op::Gru { .. }
        | Op::LstmGrad { .. }
        | Op::Machine(MachineOp::QLstm { .. } | MachineOp::QGru { .. }) => recurrent::select(&site, &node.op),
        Op::BatchNormTrain { .. }
        | Op::BatchNormGrad { .. }
        | Op::LayerNorm { .. }
        | Op::LayerNormGrad { .. }
        | Op::RmsNorm { .. }
        | Op::GroupNorm { .. } => norm::select(&site, &node.op),
        Op::Attention { .. } | Op::AttentionGrad { .. } | Op::Machine(MachineOp::Attention(_)) => {
            attention::select(&site, &node.op)
        }
        Op::Pool { .. } | Op::PoolGrad { .. } | Op::Machine(MachineOp::Pool { .. }) => pool::select(&site, &node.op),
        Op::Reduce { .. } | Op::ArgReduce { .. } | Op::Softmax { .. } | Op::LogSoftmax { .. } => {
            reduce::select(&site, &node.op)
        }
        Op::Permute { .. }
        | Op::Expand { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::GatherGrad { .. }
        | Op::OneHot { .. } => movement::select(&site, &node.op),
        _ => None,
    };
    fast.map_or_else(|| reference::select(model, id), Ok)
}
