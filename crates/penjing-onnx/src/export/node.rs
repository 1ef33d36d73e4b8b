//! Building node messages.

use crate::proto::{AttributeProto, AttributeType, GraphProto, NodeProto, TensorProto};
use bytes::Bytes;

/// A node under construction.
pub(super) fn node(op: &str, name: &str, inputs: &[String], outputs: &[String]) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: name.into(),
        input: inputs.to_vec(),
        output: outputs.to_vec(),
        ..NodeProto::default()
    }
}

impl NodeProto {
    /// With an `Int` attribute.
    pub(super) fn int(mut self, name: &str, value: i64) -> NodeProto {
        self.attribute.push(AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) });
        self
    }

    /// With an `Ints` attribute.
    pub(super) fn ints(mut self, name: &str, values: impl IntoIterator<Item = usize>) -> NodeProto {
        let ints = values.into_iter().map(|v| v as i64).collect();
        self.attribute.push(AttributeProto { ints, ..attribute(name, AttributeType::Ints) });
        self
    }

    /// With a `Float` attribute.
    pub(super) fn float(mut self, name: &str, value: f64) -> NodeProto {
        self.attribute.push(AttributeProto { f: Some(value as f32), ..attribute(name, AttributeType::Float) });
        self
    }

    /// With a `String` attribute.
    pub(super) fn string(mut self, name: &str, value: &str) -> NodeProto {
        let s = Some(Bytes::copy_from_slice(value.as_bytes()));
        self.attribute.push(AttributeProto { s, ..attribute(name, AttributeType::String) });
        self
    }

    /// With a `Tensor` attribute.
    pub(super) fn tensor(mut self, name: &str, value: TensorProto) -> NodeProto {
        self.attribute.push(AttributeProto { t: Some(value), ..attribute(name, AttributeType::Tensor) });
        self
    }

    /// With a `Graph` attribute.
    pub(super) fn graph(mut self, name: &str, value: GraphProto) -> NodeProto {
        self.attribute.push(AttributeProto { g: Some(value), ..attribute(name, AttributeType::Graph) });
        self
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind as i32, ..AttributeProto::default() }
}
