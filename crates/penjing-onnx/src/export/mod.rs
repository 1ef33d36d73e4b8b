//! From the canonical graph to ONNX: operator set 21, IR version 10.
//!
//! Names are kept. States become initializers under their own names, integer constants initializers, float constants
//! `Constant` nodes (so that no reader takes them for weights); symbolic extents become `dim_param`. Masks are expected to be
//! baked in by the caller; carries are not exported. Every node is checked against what operator set 21 can say.

mod attention;
mod control;
mod conv;
mod dims;
mod elementwise;
mod emitter;
mod index;
mod matmul;
mod movement;
mod node;
mod norm;
mod quant;
mod recurrent;
mod reduce;

use crate::{
    OnnxError,
    proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto},
};
use emitter::Emitter;
use penjing_ir::{Model, Role};

/// The operator set that is written.
pub(crate) const OPSET: i64 = 21;

/// The version of the file format that is written.
const IR_VERSION: i64 = 10;

/// The metadata key under which the roles of the states travel: a line `name<TAB>role<TAB>trained|fixed` each.
pub(crate) const STATES_KEY: &str = "penjing.states";

/// The model as an ONNX file; write it with [`crate::write_model`].
///
/// # Errors
/// `UnsupportedExport`, naming the node, for training and machine ops and for what operator set 21 cannot say.
pub fn export(model: &Model) -> Result<ModelProto, OnnxError> {
    let mut emitter = Emitter::new(model);
    let graph = emitter.main_graph()?;
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
    let mut metadata_props: Vec<StringStringEntryProto> =
        model.metadata.iter().filter(|(key, _)| *key != STATES_KEY).map(|(k, v)| entry(k, v.clone())).collect();
    metadata_props.push(entry(STATES_KEY, states(model)));
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "penjing".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props,
        ..ModelProto::default()
    })
}

fn states(model: &Model) -> String {
    let kept = model.states.iter().filter(|s| s.role != Role::Optimizer);
    kept.map(|s| format!("{}\t{}\t{}\n", s.name, s.role.name(), if s.trainable { "trained" } else { "fixed" }))
        .collect()
}
