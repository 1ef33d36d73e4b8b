//! ResNets for CIFAR (He et al., "Deep Residual Learning", 2015, section 4.2), with projection shortcuts where the shape changes.

use super::{
    Size,
    init::{Conv, Init},
};
use crate::TrainError;
use penjing_ir::{Dim, IrError, Model, Op, Real, Reduction, ValueId};
use penjing_tensor::DType;

/// x: F32 [N, 3, 32, 32] → logits [N, classes]. Width is the channels of the first stage, depth the blocks of each of the three.
pub(super) fn build(init: &mut Init, size: Size, blocks: usize) -> Result<Model, TrainError> {
    let (width, blocks) = (size.width.unwrap_or(16), size.depth.unwrap_or(blocks));
    let x = init.input("x", DType::F32, &[Dim::sym("N"), 3.into(), 32.into(), 32.into()]);
    let h = init.conv("conv1", x, unit(3, width, 3, 1))?;
    let h = batch_norm(init, "bn1", h, width)?;
    let mut h = init.scope("bn1").relu(h)?;
    let mut channels = width;
    for stage in 0..3 {
        for block in 0..blocks {
            let n_out = width << stage;
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            h = residual(init, &format!("layer{}.{block}", stage + 1), h, [channels, n_out], stride)?;
            channels = n_out;
        }
    }
    let h = init.scope("pool").reduce(Reduction::Mean, h, &[2, 3])?;
    let y = init.linear("fc", h, [channels, size.classes.unwrap_or(10)])?;
    init.finish("logits", y)
}

fn residual(
    init: &mut Init,
    name: &str,
    x: ValueId,
    [n_in, n_out]: [usize; 2],
    stride: usize,
) -> Result<ValueId, IrError> {
    let h = init.conv(&format!("{name}.conv1"), x, unit(n_in, n_out, 3, stride))?;
    let h = batch_norm(init, &format!("{name}.bn1"), h, n_out)?;
    let h = init.scope(name).relu(h)?;
    let h = init.conv(&format!("{name}.conv2"), h, unit(n_out, n_out, 3, 1))?;
    let h = batch_norm(init, &format!("{name}.bn2"), h, n_out)?;
    let shortcut = if stride == 1 && n_in == n_out {
        x
    } else {
        let s = init.conv(&format!("{name}.shortcut"), x, unit(n_in, n_out, 1, stride))?;
        batch_norm(init, &format!("{name}.shortcut.bn"), s, n_out)?
    };
    let mut s = init.scope(name);
    let sum = s.add(h, shortcut)?;
    s.relu(sum)
}

fn unit(n_in: usize, n_out: usize, kernel: usize, stride: usize) -> Conv {
    Conv { n_in, n_out, kernel, stride, bias: false }
}

/// As `torch.nn.BatchNorm2d`: its momentum of 0.1 is 0.9 of the old value here.
fn batch_norm(init: &mut Init, name: &str, x: ValueId, channels: usize) -> Result<ValueId, IrError> {
    let scale = init.filled(&format!("{name}.weight"), &[channels], 1.0);
    let bias = init.filled(&format!("{name}.bias"), &[channels], 0.0);
    let mean = init.buffer(&format!("{name}.running_mean"), &[channels], 0.0);
    let var = init.buffer(&format!("{name}.running_var"), &[channels], 1.0);
    let op = Op::BatchNorm { eps: Real(1e-5), momentum: Real(0.9) };
    init.scope(name).op(op, &[x, scale, bias, mean, var])
}
