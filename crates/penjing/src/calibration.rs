//! Batches to calibrate on when there is no data set: arrays from files, or random numbers.

use crate::{
    input::random,
    shape::{ShapeArg, bind_batch, bindings},
};
use anyhow::{Result, anyhow, bail};
use penjing_data::read_npz;
use penjing_ir::Model;
use penjing_tensor::Tensor;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where a batch of inputs comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Source {
    /// An .npz file with an array for each input.
    File(PathBuf),
    /// Normal numbers, zeros as integers.
    Random,
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Source, Infallible> {
        Ok(if text == "random" { Source::Random } else { Source::File(text.into()) })
    }
}

/// One batch from each source, by input name. Free extents of random inputs are those of `shapes`, and 1 for a free first axis.
pub(crate) fn batches(
    model: &Model,
    sources: &[Source],
    shapes: &[ShapeArg],
    seed: u64,
) -> Result<Vec<BTreeMap<String, Tensor>>> {
    let mut bound = bindings(model, shapes)?;
    bind_batch(model, &mut bound, 1);
    let mut found = Vec::new();
    for (n, source) in sources.iter().enumerate() {
        found.push(match source {
            Source::Random => {
                let model = model.bind(&bound)?;
                let inputs = model.graph.inputs.iter().map(|&v| model.graph.value(v));
                inputs
                    .map(|v| Ok((v.name.clone(), random(&v.name, &v.fact, seed, n as u64)?)))
                    .collect::<Result<_>>()?
            }
            Source::File(path) => from_file(model, path)?,
        });
    }
    Ok(found)
}

fn from_file(model: &Model, path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut arrays: BTreeMap<String, Tensor> = read_npz(path)?.into_iter().collect();
    let mut inputs = BTreeMap::new();
    for &v in &model.graph.inputs {
        let (name, fact) = (&model.graph.value(v).name, model.graph.fact(v));
        let have = arrays.keys().cloned().collect::<Vec<_>>().join(", ");
        let array = arrays.remove(name).ok_or_else(|| {
            anyhow!("{}: there is no array `{name}` for the input {fact}; it has {have}", path.display())
        })?;
        if array.dtype() != fact.dtype {
            bail!("{}: array `{name}` is {}, the input is {fact}", path.display(), array.dtype());
        }
        inputs.insert(name.clone(), array);
    }
    Ok(inputs)
}
