//! From ONNX to the canonical graph.
//!
//! Function calls are inlined first ([`functions`]), then initializers are sorted into weights, buffers and constants
//! ([`roles`]), then the nodes are walked in order: a node whose operands are known small values is evaluated
//! ([`known`]), any other goes through the one table in [`registry`]. Import changes nothing but the spelling: it neither folds
//! nor fuses float arithmetic.

mod attention;
mod attributes;
mod control;
mod conv;
mod einsum;
mod elementwise;
mod evaluate;
mod frame;
mod functions;
mod index;
mod known;
mod loss;
mod matmul;
mod movement;
mod node;
mod norm;
mod pool;
mod quant;
mod recurrent;
mod reduce;
mod registry;
mod resize;
mod roles;
mod shape;

use crate::{ModelFile, OnnxError, export::STATES_KEY, proto::GraphProto};
use frame::Importer;
use penjing_ir::{Model, Stage, verify};
use penjing_tensor::Tensor;
use regex::Regex;
use std::collections::BTreeMap;

/// Oldest and newest version of the default operator set that is understood.
pub(crate) const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

/// What the caller decides about an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Inputs that become constants, by name: needed for those that shapes depend on.
    pub bind_inputs: BTreeMap<String, Tensor>,
    /// Values of named dimensions; the others stay symbolic.
    pub bind_dims: BTreeMap<String, usize>,
    /// Float initializers whose name matches become trainable weights, whatever slot they feed.
    pub train: Option<Regex>,
    /// Weights whose name matches are not trained. Stronger than `train`.
    pub freeze: Option<Regex>,
}

/// The canonical graph of a model file.
///
/// Names of values, nodes, inputs, outputs and initializers are kept. Metadata entries are copied; the file's producer is
/// stored as `onnx.producer`.
///
/// # Errors
/// `Unsupported…` when a valid file asks for what Penjing lacks, `NeedsInput` when a shape depends on an input without a
/// bound value; every other kind when the file is at fault.
pub fn import(file: &ModelFile, options: &ImportOptions) -> Result<Model, OnnxError> {
    let graph = graph_of(file)?;
    let mut importer = Importer::new(file, options)?;
    importer.main_graph(graph)?;
    let mut model = importer.finish();
    for entry in file.proto.metadata_props.iter().filter(|e| e.key != STATES_KEY) {
        model.metadata.insert(entry.key.clone(), entry.value.clone());
    }
    let producer = [file.proto.producer_name.as_str(), file.proto.producer_version.as_str()].join(" ");
    if !producer.trim().is_empty() {
        model.metadata.insert("onnx.producer".into(), producer.trim().into());
    }
    model.compact();
    verify(&model, Stage::Canonical).map_err(|e| OnnxError::InvalidGraph { why: e.to_string() })?;
    Ok(model)
}

fn graph_of(file: &ModelFile) -> Result<&GraphProto, OnnxError> {
    file.proto.graph.as_ref().ok_or_else(|| OnnxError::InvalidGraph { why: "the model holds no graph".into() })
}
