//! `--input NAME=FILE.npy`: values for a model's inputs.

use anyhow::{Result, bail};
use penjing_data::read_npy;
use penjing_tensor::Tensor;
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
