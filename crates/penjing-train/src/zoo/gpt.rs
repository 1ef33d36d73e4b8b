//! A small decoder in the shape of GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, GELU, tied embeddings.

use super::{Size, init::Init};
use crate::TrainError;
use penjing_ir::{Dim, IrError, Model, Op, Real, Unary, ValueId};
use penjing_tensor::DType;

/// Longest sequence: rows of the position table.
const POSITIONS: usize = 128;
/// Width of one attention head.
const HEAD: usize = 32;
/// Standard deviation of every weight; projections into the residual stream get less by √(2·layers).
const STD: f64 = 0.02;

/// tokens: I64 [N, T] with T ≤ 128 → logits F32 [N, T, classes]. Width (a multiple of 32) is the hidden size, depth the blocks.
pub(super) fn build(init: &mut Init, size: Size) -> Result<Model, TrainError> {
    let (width, depth, vocabulary) = (size.width.unwrap_or(128), size.depth.unwrap_or(4), size.classes.unwrap_or(256));
    if width % HEAD != 0 {
        let why = format!("width {width} is not a multiple of {HEAD}, the width of a head");
        return Err(TrainError::Network { name: "gpt".into(), why });
    }
    let (n, t) = (Dim::sym("N"), Dim::sym("T"));
    let tokens = init.input("tokens", DType::I64, &[n.clone(), t.clone()]);
    let wte = init.normal("wte.weight", &[vocabulary, width], STD);
    let wpe = init.normal("wpe.weight", &[POSITIONS, width], STD);
    let mut s = init.scope("embedding");
    let token = s.op(Op::Gather { axis: 0 }, &[wte, tokens])?;
    let positions = s.op(Op::Iota { shape: vec![t.clone()], axis: 0, dtype: DType::I64 }, &[])?;
    let position = s.op(Op::Gather { axis: 0 }, &[wpe, positions])?;
    let mut h = s.add(token, position)?;
    let block = Block { width, n, t, residual_std: STD / (2.0 * depth as f64).sqrt() };
    for layer in 0..depth {
        h = block.build(init, &format!("h.{layer}"), h)?;
    }
    let h = layer_norm(init, "ln_f", h, width)?;
    let y = init.scope("head").linear(h, wte, None)?;
    init.finish("logits", y)
}

struct Block {
    width: usize,
    n: Dim,
    t: Dim,
    residual_std: f64,
}

impl Block {
    fn build(&self, init: &mut Init, name: &str, x: ValueId) -> Result<ValueId, IrError> {
        let h = layer_norm(init, &format!("{name}.ln_1"), x, self.width)?;
        let h = self.attention(init, &format!("{name}.attn"), h)?;
        let x = init.scope(name).add(x, h)?;
        let h = layer_norm(init, &format!("{name}.ln_2"), x, self.width)?;
        let h = linear(init, &format!("{name}.mlp.c_fc"), h, [self.width, 4 * self.width], STD)?;
        let h = init.scope(&format!("{name}.mlp")).unary(Unary::GeluTanh, h)?;
        let h = linear(init, &format!("{name}.mlp.c_proj"), h, [4 * self.width, self.width], self.residual_std)?;
        init.scope(name).add(x, h)
    }

    fn attention(&self, init: &mut Init, name: &str, x: ValueId) -> Result<ValueId, IrError> {
        let qkv = linear(init, &format!("{name}.c_attn"), x, [self.width, 3 * self.width], STD)?;
        let (heads, shape) = (self.width / HEAD, [self.n.clone(), self.t.clone()]);
        let mut s = init.scope(name);
        let mut operands = Vec::new();
        for part in 0..3 {
            let v = s.slice(qkv, 2, part * self.width, self.width)?;
            let v = s.reshape(v, &[shape[0].clone(), shape[1].clone(), heads.into(), HEAD.into()])?;
            operands.push(s.permute(v, &[0, 2, 1, 3])?);
        }
        let scale = Real(1.0 / (HEAD as f64).sqrt());
        let y = s.op(Op::Attention { scale, causal: true }, &operands)?;
        let y = s.permute(y, &[0, 2, 1, 3])?;
        let y = s.reshape(y, &[shape[0].clone(), shape[1].clone(), self.width.into()])?;
        linear(init, &format!("{name}.c_proj"), y, [self.width, self.width], self.residual_std)
    }
}

fn linear(init: &mut Init, name: &str, x: ValueId, [n_in, n_out]: [usize; 2], std: f64) -> Result<ValueId, IrError> {
    let w = init.normal(&format!("{name}.weight"), &[n_out, n_in], std);
    let b = init.filled(&format!("{name}.bias"), &[n_out], 0.0);
    init.scope(name).linear(x, w, Some(b))
}

fn layer_norm(init: &mut Init, name: &str, x: ValueId, width: usize) -> Result<ValueId, IrError> {
    let scale = init.filled(&format!("{name}.weight"), &[width], 1.0);
    let bias = init.filled(&format!("{name}.bias"), &[width], 0.0);
    init.scope(name).op(Op::LayerNorm { axis: 2, eps: Real(1e-5) }, &[x, scale, bias])
}
