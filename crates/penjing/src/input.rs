//! What a model is fed: `--input NAME=FILE.npy`, or random numbers.

use anyhow::{Context as _, Result, anyhow, bail};
use penjing_data::read_npy;
use penjing_ir::Fact;
use penjing_tensor::{DType, Rng, Tensor};
use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

/// An input's name and its file.
#[derive(Clone, Debug)]
pub(crate) struct InputArg {
    name: String,
    path: PathBuf,
}

impl FromStr for InputArg {
    type Err = String;

    fn from_str(text: &str) -> Result<InputArg, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(InputArg { name: name.into(), path: path.into() })
            }
            _ => Err("write it as NAME=FILE.npy".into()),
        }
    }
}

/// The tensors of all flags by name; a name that is given twice is an error.
pub(crate) fn read_inputs(args: &[InputArg]) -> Result<BTreeMap<String, Tensor>> {
    let mut inputs = BTreeMap::new();
    for arg in args {
        if inputs.insert(arg.name.clone(), read_npy(&arg.path)?).is_some() {
            bail!("--input {} is given twice; give each input once", arg.name);
        }
    }
    Ok(inputs)
}

/// Normal numbers for floats, zeros for integers.
pub(crate) fn random(name: &str, fact: &Fact, seed: u64, step: u64) -> Result<Tensor> {
    let shape = concrete(name, fact)?;
    let zeros = Tensor::zeros(fact.dtype, &shape).with_context(|| format!("input `{name}`"))?;
    if !fact.dtype.is_float() {
        return Ok(zeros);
    }
    let rng = Rng::new(seed, name, step);
    let values = Tensor::from_vec(&shape, (0..zeros.len() as u64).map(|i| rng.normal(i)).collect::<Vec<f32>>())?;
    Ok(if fact.dtype == DType::F32 { values } else { values.cast(fact.dtype) })
}

/// The input's shape when nothing in it is free.
pub(crate) fn concrete(name: &str, fact: &Fact) -> Result<Vec<usize>> {
    fact.concrete().ok_or_else(|| anyhow!("input `{name}` is {fact}; give its extents with --shape {name}=…"))
}
