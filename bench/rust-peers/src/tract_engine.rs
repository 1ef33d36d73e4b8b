//! tract: the optimized graph; matrix products on a pool of the asked-for size.

use crate::{
    Run,
    arrays::{Array, Data},
};
use anyhow::{Context, Result};
use std::path::Path;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

/// The model, ready to run on the inputs.
pub fn load(path: &Path, inputs: &[Array], threads: usize) -> Result<Run> {
    if threads > 1 {
        set_default_executor(Executor::multithread(threads));
    }
    let model = tract_onnx::onnx().model_for_path(path)?;
    let order: Vec<String> = model.inputs.iter().map(|outlet| model.nodes[outlet.node].name.clone()).collect();
    let names: Vec<String> = model
        .outputs
        .iter()
        .map(|&outlet| model.outlet_label(outlet).map_or_else(|| model.nodes[outlet.node].name.clone(), Into::into))
        .collect();
    let plan = model.into_optimized()?.into_runnable()?;
    let mut values: TVec<TValue> = tvec![];
    for name in &order {
        let input = inputs.iter().find(|input| &input.name == name).with_context(|| format!("no input {name}"))?;
        let tensor = match &input.data {
            Data::F32(data) => Tensor::from_shape(&input.shape, data)?,
            Data::I64(data) => Tensor::from_shape(&input.shape, data)?,
        };
        values.push(tensor.into());
    }
    Ok(Box::new(move || {
        let answers = plan.run(values.clone())?;
        answers.iter().zip(&names).map(|(value, name)| {
            let data = value.cast_to::<f32>()?.to_plain_array_view::<f32>()?.iter().copied().collect();
            Ok(Array { name: name.clone(), shape: value.shape().to_vec(), data: Data::F32(data) })
        }).collect()
    }))
}
