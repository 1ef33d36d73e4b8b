//! An LSTM language model: embedding, layers, linear head.

use super::{Size, init::Init};
use crate::TrainError;
use penjing_ir::{Dim, Direction, IrError, Model, Op, ValueId};
use penjing_tensor::{DType, Tensor};

/// tokens: I64 [N, T] → logits F32 [N, T, classes]. Width is embedding and hidden size, depth the layers.
pub(super) fn build(init: &mut Init, size: Size) -> Result<Model, TrainError> {
    let (hidden, layers, vocabulary) =
        (size.width.unwrap_or(128), size.depth.unwrap_or(2), size.classes.unwrap_or(256));
    let (n, t) = (Dim::sym("N"), Dim::sym("T"));
    let tokens = init.input("tokens", DType::I64, &[n.clone(), t.clone()]);
    let table = init.normal("embedding.weight", &[vocabulary, hidden], 1.0);
    let mut s = init.scope("embedding");
    let h = s.op(Op::Gather { axis: 0 }, &[table, tokens])?;
    let mut h = s.permute(h, &[1, 0, 2])?;
    for layer in 0..layers {
        h = cell(init, &format!("lstm.{layer}"), h, hidden, &n, &t)?;
    }
    let h = init.scope("lstm").permute(h, &[1, 0, 2])?;
    let y = init.linear("head", h, [hidden, vocabulary])?;
    init.finish("logits", y)
}

/// x: [T, N, H] → [T, N, H]. Every parameter is U(±1/√H), as `torch.nn.LSTM`.
fn cell(init: &mut Init, name: &str, x: ValueId, hidden: usize, n: &Dim, t: &Dim) -> Result<ValueId, IrError> {
    let bound = 1.0 / (hidden as f64).sqrt();
    let w = init.uniform(&format!("{name}.w"), &[1, 4 * hidden, hidden], bound);
    let r = init.uniform(&format!("{name}.r"), &[1, 4 * hidden, hidden], bound);
    let b = init.uniform(&format!("{name}.b"), &[1, 8 * hidden], bound);
    let mut s = init.scope(name);
    let zero = s.constant(Tensor::scalar(0f32));
    let start = s.expand(zero, &[1.into(), n.clone(), hidden.into()])?;
    let y = s.op(Op::Lstm { direction: Direction::Forward, reserve: false }, &[x, w, r, b, start, start])?;
    s.reshape(y, &[t.clone(), n.clone(), hidden.into()])
}
