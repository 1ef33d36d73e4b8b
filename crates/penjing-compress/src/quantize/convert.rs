//! From fake quantization to QDQ: integers in the file, the same function.

use super::{fold::fold_batch_norm, propagate::moves_elements};
use crate::{CompressError, content::content, prune::bake_masks};
use penjing_ir::{Binary, Model, Op, QuantScheme, ValueId};
use penjing_tensor::{DType, Tensor};

/// Turns each `FakeQuant` into `Quantize` and `Dequantize`. Masks are baked first. A weight becomes an integer constant behind a
/// `Dequantize`; a bias of a quantized product becomes I32 with the product of both scales, which is what integer runtimes add to
/// their accumulators. Batch normalization after a quantized convolution becomes part of its scales and bias. The result computes
/// what the fake-quantized model computes, but for the bias's rounding.
pub fn to_qdq(model: &Model) -> Result<Model, CompressError> {
    let mut out = bake_masks(model)?;
    for id in out.graph.node_ids().collect::<Vec<_>>() {
        let node = out.graph.node(id).clone();
        let Op::FakeQuant(scheme) = node.op else { continue };
        let [x, scale, zero] = [node.inputs[0], node.inputs[1], node.inputs[2]];
        let scale = constant(&mut out, scale)?;
        let zero = constant(&mut out, zero)?;
        let real = match content(&out, x) {
            Some(weight) => {
                let (s, z) = (tensor(&out, scale), tensor(&out, zero));
                let codes = codes_of(&weight, &s, &z, &scheme)?;
                let name = out.graph.value(x).name.clone();
                replace_weight(&mut out, &name, codes, s.as_slice::<f32>()?.to_vec(), zero, scheme)?
            }
            None => {
                let q = out.graph.apply(
                    &format!("{}/quantize", node.name),
                    Op::Quantize(scheme.clone()),
                    &[x, scale, zero],
                )?;
                out.graph.apply(&format!("{}/dequantize", node.name), Op::Dequantize(scheme), &[q, scale, zero])?
            }
        };
        out.replace_uses(node.outputs[0], real);
    }
    fold_batch_norm(&mut out)?;
    out.compact();
    quantize_biases(&mut out)?;
    out.compact();
    Ok(out)
}

/// A weight on its grid. Symmetric I8 grids of F32 weights, which are what weights have, are rounded here; others by the
/// interpreter, whose definition this is.
fn codes_of(weight: &Tensor, scale: &Tensor, zero: &Tensor, scheme: &QuantScheme) -> Result<Tensor, CompressError> {
    let symmetric = scheme.dtype == DType::I8 && zero.bytes().iter().all(|&z| z == 0);
    if let (Ok(w), Ok(scales), true) = (weight.as_slice::<f32>(), scale.as_slice::<f32>(), symmetric) {
        let inner = scheme.axis.map_or(w.len(), |axis| weight.shape()[axis + 1..].iter().product()).max(1);
        let (lo, hi) = scheme.range();
        let (lo, hi) = (lo as f32, hi as f32);
        let mut codes = Vec::with_capacity(w.len());
        for (run, w) in w.chunks(inner).enumerate() {
            let scale = scales[run % scales.len()];
            // A cast of NaN gives 0, as the definition does.
            codes.extend(w.iter().map(|w| (w / scale).round_ties_even().clamp(lo, hi) as i8));
        }
        return Ok(Tensor::from_vec(weight.shape(), codes)?);
    }
    let codes = penjing_reference::eval_op(&Op::Quantize(scheme.clone()), &[weight, scale, zero])?;
    Ok(codes.into_iter().next().expect("Quantize has one result"))
}

/// Integer codes behind a new `Dequantize`. A channel of zeros gets the largest scale, which changes nothing but lets its bias,
/// whose steps are this scale times the activation's, fit into 32 bits.
pub(super) fn replace_weight(
    model: &mut Model,
    name: &str,
    codes: Tensor,
    mut scales: Vec<f32>,
    zero: ValueId,
    scheme: QuantScheme,
) -> Result<ValueId, CompressError> {
    if let Some(axis) = scheme.axis {
        let largest = scales.iter().copied().fold(0.0, f32::max);
        let inner: usize = codes.shape()[axis + 1..].iter().product();
        let mut used = vec![false; scales.len()];
        for (i, code) in codes.bytes().chunks_exact(codes.dtype().size()).enumerate() {
            used[i / inner % scales.len()] |= code.iter().any(|&byte| byte != 0);
        }
        scales.iter_mut().zip(used).filter(|(_, used)| !used).for_each(|(scale, _)| *scale = largest);
    }
    let shape: &[usize] = if scheme.axis.is_some() { &[scales.len()] } else { &[] };
    let scale = Tensor::from_vec(shape, scales)?;
    let scale = model.graph.add_const(scale);
    let codes = model.graph.add_named_const(name, codes);
    Ok(model.graph.apply(&format!("{name}/dequantize"), Op::Dequantize(scheme), &[codes, scale, zero])?)
}

fn quantize_biases(model: &mut Model) -> Result<(), CompressError> {
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        let node = model.graph.node(id).clone();
        // A convolution holds its bias; a matrix product's is added after it.
        let (product, bias_at) = match node.op {
            Op::Conv(_) if node.inputs.len() == 3 => (node.clone(), 2),
            Op::Binary(Binary::Add) => {
                let of = |v: ValueId| model.graph.producer(v).map(|p| model.graph.node(p).clone());
                let is_product = |n: &penjing_ir::Node| matches!(n.op, Op::MatMul { .. });
                match (of(node.inputs[0]).filter(is_product), of(node.inputs[1]).filter(is_product)) {
                    (Some(product), None) => (product, 1),
                    (None, Some(product)) => (product, 0),
                    _ => continue,
                }
            }
            _ => continue,
        };
        let bias = node.inputs[bias_at];
        let (Some(x_scale), Some(w_scale)) = (scale_of(model, product.inputs[0]), scale_of(model, product.inputs[1]))
        else {
            continue;
        };
        let Some(b) = content(model, bias).filter(|b| b.dtype() == DType::F32 && b.rank() == 1) else { continue };
        let x_scale = x_scale.as_slice::<f32>()?.first().copied().unwrap_or(1.0);
        let w_scale = w_scale.as_slice::<f32>()?;
        if w_scale.len() != b.len() {
            continue;
        }
        let scales: Vec<f32> = w_scale.iter().map(|w| w * x_scale).collect();
        let codes =
            b.as_slice::<f32>()?.iter().zip(&scales).map(|(b, s)| (f64::from(*b) / f64::from(*s)).round_ties_even());
        let codes: Vec<f64> = codes.collect();
        if !codes.iter().all(|c| c.abs() <= f64::from(i32::MAX)) {
            continue;
        }
        let codes: Vec<i32> = codes.into_iter().map(|c| c as i32).collect();
        let name = model.graph.value(bias).name.clone();
        let q = model.graph.add_named_const(&name, Tensor::from_vec(&[scales.len()], codes)?);
        let zero = model.graph.add_const(Tensor::zeros(DType::I32, &[scales.len()])?);
        let scale = model.graph.add_const(Tensor::from_vec(&[scales.len()], scales)?);
        let scheme = QuantScheme { dtype: DType::I32, axis: Some(0), narrow: false };
        let real = model.graph.apply(&format!("{}/bias", node.name), Op::Dequantize(scheme), &[q, scale, zero])?;
        model.graph.node_mut(id).inputs[bias_at] = real;
    }
    Ok(())
}

/// The constant scale of the Dequantize behind a product's operand, through ops that move elements.
fn scale_of(model: &Model, value: ValueId) -> Option<Tensor> {
    let node = model.graph.node(model.graph.producer(value)?);
    match node.op {
        Op::Dequantize(_) => model.graph.as_const(node.inputs[1]).map(|t| (**t).clone()),
        Op::Concat { .. } => scale_of(model, node.inputs[0]),
        ref op if moves_elements(op) => scale_of(model, node.inputs[0]),
        _ => None,
    }
}

/// A constant with the value's content: itself, or what its states and constants give.
fn constant(model: &mut Model, value: ValueId) -> Result<ValueId, CompressError> {
    if model.graph.as_const(value).is_some() {
        return Ok(value);
    }
    let content =
        content(model, value).ok_or(CompressError::NotConstant { value: model.graph.value(value).name.clone() })?;
    let name = model.graph.value(value).name.clone();
    Ok(model.graph.add_named_const(&name, content))
}

fn tensor(model: &Model, value: ValueId) -> Tensor {
    model.graph.as_const(value).map(|t| (**t).clone()).expect("made constant above")
}
