//! rten: weights packed at load time, a pool of the asked-for size.

use crate::{
    Run,
    arrays::{Array, Data},
};
use anyhow::{Context, Result, bail};
use rten::{ModelOptions, RunOptions, ThreadPool, Value};
use std::{path::Path, sync::Arc};

/// The model, ready to run on the inputs. rten takes I32 where ONNX says I64.
pub fn load(path: &Path, inputs: Vec<Array>, threads: usize) -> Result<Run> {
    let mut options = ModelOptions::with_all_ops();
    options.prepack_weights(true);
    let model = options.load_file(path)?;
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    let mut values = Vec::new();
    for input in inputs {
        let value = match input.data {
            Data::F32(data) => Value::from_shape(&input.shape, data)?,
            Data::I64(data) => Value::from_shape(&input.shape, data.iter().map(|&v| v as i32).collect::<Vec<_>>())?,
        };
        values.push((model.node_id(&input.name)?, value));
    }
    let outputs = model.output_ids().to_vec();
    Ok(Box::new(move || {
        let inputs = values.iter().map(|(id, value)| (*id, value.as_view().into())).collect();
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        let answers = model.run(inputs, &outputs, Some(options))?;
        outputs.iter().zip(answers).map(|(&id, value)| {
            let name = model.node_info(id).and_then(|info| info.name()).context("an output without a name")?;
            let Some(tensor) = value.into_tensor::<f32>() else { bail!("output {name} is not F32") };
            Ok(Array { name: name.into(), shape: rten_shape(&tensor), data: Data::F32(tensor.into_data()) })
        }).collect()
    }))
}

fn rten_shape(tensor: &rten_tensor::Tensor<f32>) -> Vec<usize> {
    use rten_tensor::Layout;
    tensor.shape().to_vec()
}
