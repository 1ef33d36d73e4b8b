//! SimpleCNN: Conv(3→32, 3×3)–ReLU–MaxPool2, Conv(32→64, 3×3)–ReLU–MaxPool2, Linear(2304→128)–ReLU, Linear(128→10).

use super::{
    Size,
    init::{Conv, Init},
};
use crate::TrainError;
use penjing_ir::{Dim, IrError, Model, Op, PoolKind, PoolSpec, ValueId};
use penjing_tensor::DType;

/// x: F32 [N, 3, 24, 24] → logits [N, classes]. Width is the channels of the first convolution.
pub(super) fn build(init: &mut Init, size: Size) -> Result<Model, TrainError> {
    let width = size.width.unwrap_or(32);
    let n = Dim::sym("N");
    let x = init.input("x", DType::F32, &[n.clone(), 3.into(), 24.into(), 24.into()]);
    let h = stage(init, "conv1", x, [3, width])?;
    let h = stage(init, "conv2", h, [width, 2 * width])?;
    let features = 2 * width * 6 * 6;
    let h = init.scope("flatten").reshape(h, &[n, features.into()])?;
    let h = init.linear("fc1", h, [features, 128])?;
    let h = init.scope("relu3").relu(h)?;
    let y = init.linear("fc2", h, [128, size.classes.unwrap_or(10)])?;
    init.finish("logits", y)
}

fn stage(init: &mut Init, name: &str, x: ValueId, [n_in, n_out]: [usize; 2]) -> Result<ValueId, IrError> {
    let h = init.conv(name, x, Conv { n_in, n_out, kernel: 3, stride: 1, bias: true })?;
    let mut s = init.scope(name);
    let h = s.relu(h)?;
    let spec =
        PoolSpec { kernel: vec![2, 2], strides: vec![2, 2], pads: vec![(0, 0); 2], dilations: vec![1, 1], ceil: false };
    s.op(Op::Pool { kind: PoolKind::Max, spec }, &[h])
}
