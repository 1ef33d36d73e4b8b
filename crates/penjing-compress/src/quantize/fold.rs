//! Batch normalization into the quantized convolution before it.

use super::convert::replace_weight;
use crate::{CompressError, content::content};
use penjing_ir::{Model, NodeId, Op, QuantScheme, ValueId};
use penjing_tensor::{DType, Tensor};

/// Folds every `BatchNorm` that alone reads a convolution with an integer weight. Its gain goes into the scales of the weight's
/// channels, which leaves the codes as they are; where it is negative the channel's codes turn their signs, and a narrow grid
/// holds both. The rest goes into the bias. So the training's rounding is kept, which folding before rounding would change.
pub(super) fn fold_batch_norm(model: &mut Model) -> Result<(), CompressError> {
    let uses = model.graph.uses();
    let roots = model.roots();
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        let node = model.graph.node(id).clone();
        let Op::BatchNorm { eps, .. } = node.op else { continue };
        let Some(conv) = model.graph.producer(node.inputs[0]) else { continue };
        let alone = uses[node.inputs[0].index()].len() == 1 && !roots.contains(&node.inputs[0]);
        let Some(weight) = integer_weight(model, conv).filter(|_| alone) else { continue };
        let parameters: Option<Vec<Tensor>> = node.inputs[1..].iter().map(|&v| content(model, v)).collect();
        let Some(parameters) = parameters.filter(|p| p.iter().all(|t| t.dtype() == DType::F32)) else { continue };
        let [gain, shift, mean, var] = [0, 1, 2, 3].map(|i| parameters[i].to_f64s());
        let bias = match model.graph.node(conv).inputs.get(2).copied() {
            None => vec![0.0; gain.len()],
            Some(b) => match content(model, b) {
                Some(b) => b.to_f64s(),
                None => continue,
            },
        };
        let gain: Vec<f64> = gain.iter().zip(&var).map(|(g, v)| g / (v + eps.0).sqrt()).collect();
        let bias: Vec<f64> = (0..gain.len()).map(|c| (bias[c] - mean[c]) * gain[c] + shift[c]).collect();
        let scales: Vec<f64> = weight.scales.iter().zip(&gain).map(|(s, g)| s * g.abs()).collect();
        let per_channel = weight.codes.len() / gain.len().max(1);
        let signs = gain.iter().map(|g| if *g == 0.0 { 0.0 } else { g.signum() });
        let signs = signs.flat_map(|sign| std::iter::repeat_n(sign as i8, per_channel));
        let codes = weight.codes.as_slice::<i8>()?.iter().zip(signs).map(|(q, sign)| q * sign).collect();
        let codes = Tensor::from_vec(weight.codes.shape(), codes)?;

        let scales = scales.into_iter().map(|s| s as f32).collect();
        let real = replace_weight(model, &weight.name, codes, scales, weight.zero, weight.scheme)?;
        let bias = Tensor::from_f64s(DType::F32, &[bias.len()], bias)?;
        let bias = model.graph.add_named_const(&model.graph.value(node.inputs[2]).name.clone(), bias);
        let conv = model.graph.node_mut(conv);
        conv.inputs.truncate(1);
        conv.inputs.extend([real, bias]);
        model.replace_uses(node.outputs[0], node.inputs[0]);
    }
    Ok(())
}

/// A constant I8 weight behind its `Dequantize`.
struct IntegerWeight {
    name: String,
    codes: Tensor,
    scales: Vec<f64>,
    zero: ValueId,
    scheme: QuantScheme,
}

/// The weight of a convolution on a narrow grid around 0 with a scale for each output channel.
fn integer_weight(model: &Model, conv: NodeId) -> Option<IntegerWeight> {
    let conv = model.graph.node(conv);
    let Op::Conv(_) = conv.op else { return None };
    let node = model.graph.node(model.graph.producer(conv.inputs[1])?);
    let Op::Dequantize(scheme) = &node.op else { return None };
    let [codes, scale, zero] = [0, 1, 2].map(|i| model.graph.as_const(node.inputs[i]));
    let symmetric = scheme.narrow && zero?.to_f64s().iter().all(|&z| z == 0.0);
    let fits = scheme.dtype == DType::I8 && scheme.axis == Some(0) && symmetric;
    fits.then_some(IntegerWeight {
        name: model.graph.value(node.inputs[0]).name.clone(),
        codes: (**codes?).clone(),
        scales: scale?.to_f64s(),
        zero: node.inputs[2],
        scheme: scheme.clone(),
    })
}
