//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! A safetensors file with every state of the session (weights, buffers, masks, optimizer memory) under `state/<name>`, the
//! losses so far, and in the metadata the step and what the run must have in common with the one that wrote it.

use crate::TrainError;
use penjing_data::write_atomically;
use penjing_tensor::{DType, Tensor, map_file};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::{Path, PathBuf},
};

/// When and where checkpoints are written.
#[derive(Clone, Debug)]
pub struct CheckpointPolicy {
    /// The file; each checkpoint replaces the last.
    pub path: PathBuf,
    /// A checkpoint after every so many updates, and one at the end.
    pub every: u64,
}

/// The content of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Updates done.
    pub step: u64,
    /// Every state by name.
    pub states: BTreeMap<String, Tensor>,
    /// The loss of each update done.
    pub losses: Vec<f32>,
    /// Model, data, configuration and plan of the run: it resumes only where these are the same.
    pub identity: BTreeMap<String, String>,
}

/// The metadata entry with the [`Header`] as JSON.
const RUN: &str = "penjing.run";
const LOSSES: &str = "losses";
const STATE: &str = "state/";

#[derive(Serialize, Deserialize)]
struct Header {
    step: u64,
    identity: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Writes the file beside its place and renames it there.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let fail = |why: String| TrainError::Checkpoint { path: path.into(), why };
        let losses = Tensor::from_vec(&[self.losses.len()], self.losses.clone()).map_err(|e| fail(e.to_string()))?;
        let mut views = vec![(LOSSES.to_string(), view(&losses).map_err(fail)?)];
        for (name, tensor) in &self.states {
            views.push((format!("{STATE}{name}"), view(tensor).map_err(fail)?));
        }
        // One entry, because the writer puts several in no fixed order.
        let header = Header { step: self.step, identity: self.identity.clone() };
        let header = serde_json::to_string(&header).map_err(|e| fail(e.to_string()))?;
        let metadata = HashMap::from([(RUN.to_string(), header)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| fail(e.to_string()))?;
        Ok(write_atomically(path, |w| w.write_all(&bytes))?)
    }

    /// Reads a checkpoint.
    pub fn read(path: &Path) -> Result<Checkpoint, TrainError> {
        let fail = |why: String| TrainError::Checkpoint { path: path.into(), why };
        let file = map_file(path).map_err(|e| fail(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&file).map_err(|e| fail(e.to_string()))?;
        let run = header.metadata().as_ref().and_then(|m| m.get(RUN));
        let run = run.ok_or_else(|| fail(format!("it has no entry `{RUN}`: it is not a Penjing checkpoint")))?;
        let Header { step, identity } = serde_json::from_str(run).map_err(|e| fail(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&file).map_err(|e| fail(e.to_string()))?;
        let (mut states, mut losses) = (BTreeMap::new(), Vec::new());
        for (name, view) in tensors.tensors() {
            let tensor = tensor(&view).map_err(|why| fail(format!("tensor `{name}`: {why}")))?;
            if name == LOSSES {
                losses = tensor.as_slice::<f32>().map_err(|e| fail(e.to_string()))?.to_vec();
            } else if let Some(state) = name.strip_prefix(STATE) {
                states.insert(state.to_string(), tensor);
            }
        }
        Ok(Checkpoint { step, states, losses, identity })
    }

    /// Errors with the first difference when the run that wrote the checkpoint is not this one.
    pub fn check_identity(&self, path: &Path, identity: &BTreeMap<String, String>) -> Result<(), TrainError> {
        for (key, want) in identity {
            let have = self.identity.get(key).map_or("missing", String::as_str);
            if have != want {
                let why = format!("it belongs to another run: its {key} is `{have}`, this run's is `{want}`");
                return Err(TrainError::Checkpoint { path: path.into(), why });
            }
        }
        Ok(())
    }
}

const DTYPES: [(DType, Dtype); 13] = [
    (DType::F64, Dtype::F64),
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::I16, Dtype::I16),
    (DType::I8, Dtype::I8),
    (DType::U64, Dtype::U64),
    (DType::U32, Dtype::U32),
    (DType::U16, Dtype::U16),
    (DType::U8, Dtype::U8),
    (DType::Bool, Dtype::BOOL),
];

fn view(tensor: &Tensor) -> Result<TensorView<'_>, String> {
    let dtype = DTYPES.iter().find(|(ours, _)| *ours == tensor.dtype()).map(|(_, theirs)| *theirs);
    let dtype = dtype.ok_or_else(|| format!("{} cannot be stored", tensor.dtype()))?;
    TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes()).map_err(|e| e.to_string())
}

fn tensor(view: &TensorView<'_>) -> Result<Tensor, String> {
    let dtype = DTYPES.iter().find(|(_, theirs)| *theirs == view.dtype()).map(|(ours, _)| *ours);
    let dtype = dtype.ok_or_else(|| format!("dtype {:?} is not known", view.dtype()))?;
    Tensor::from_bytes(dtype, view.shape(), view.data()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            step: 7,
            states: BTreeMap::from([
                ("w".to_string(), Tensor::from_vec(&[2], vec![1.5f32, -0.0]).unwrap()),
                ("losses".to_string(), Tensor::scalar(3i64)),
            ]),
            losses: vec![2.5, 1.25],
            identity: BTreeMap::from([("model".to_string(), "abc".to_string())]),
        }
    }

    #[test]
    fn a_checkpoint_reads_back_equal_and_knows_its_run() {
        let path = std::env::temp_dir().join(format!("penjing-checkpoint-{}", std::process::id()));
        sample().write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = Checkpoint::read(&path).unwrap();
        assert_eq!(read, sample());
        sample().write(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the same checkpoint is the same bytes");
        assert!(read.check_identity(&path, &sample().identity).is_ok());
        let other = BTreeMap::from([("model".to_string(), "xyz".to_string())]);
        let error = read.check_identity(&path, &other).unwrap_err().to_string();
        assert!(error.contains("its model is `abc`"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn broken_files_are_errors() {
        let path = std::env::temp_dir().join(format!("penjing-broken-checkpoint-{}", std::process::id()));
        sample().write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(Checkpoint::read(&path).is_err(), "{len} bytes");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
