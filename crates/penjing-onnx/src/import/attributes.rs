//! Typed access to a node's attributes.

use super::node::{Fault, Res};
use crate::proto::{AttributeProto, AttributeType, GraphProto, NodeProto, TensorProto};

/// The attribute named `name`.
pub(super) fn find<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

/// An `Int` attribute.
pub(super) fn int(node: &NodeProto, name: &str) -> Res<Option<i64>> {
    typed(node, name, AttributeType::Int, |a| Some(a.i.unwrap_or(0)))
}

/// A `Float` attribute.
pub(super) fn float(node: &NodeProto, name: &str) -> Res<Option<f64>> {
    typed(node, name, AttributeType::Float, |a| Some(f64::from(a.f.unwrap_or(0.0))))
}

/// A `String` attribute.
pub(super) fn string<'a>(node: &'a NodeProto, name: &str) -> Res<Option<&'a str>> {
    typed(node, name, AttributeType::String, |a| std::str::from_utf8(a.s.as_deref().unwrap_or_default()).ok())
}

/// An `Ints` attribute.
pub(super) fn ints<'a>(node: &'a NodeProto, name: &str) -> Res<Option<&'a [i64]>> {
    typed(node, name, AttributeType::Ints, |a| Some(a.ints.as_slice()))
}

/// A `Floats` attribute.
pub(super) fn floats<'a>(node: &'a NodeProto, name: &str) -> Res<Option<&'a [f32]>> {
    typed(node, name, AttributeType::Floats, |a| Some(a.floats.as_slice()))
}

/// A `Strings` attribute.
pub(super) fn strings<'a>(node: &'a NodeProto, name: &str) -> Res<Option<Vec<&'a str>>> {
    typed(node, name, AttributeType::Strings, |a| a.strings.iter().map(|s| std::str::from_utf8(s).ok()).collect())
}

/// A `Tensor` attribute.
pub(super) fn tensor<'a>(node: &'a NodeProto, name: &str) -> Res<Option<&'a TensorProto>> {
    typed(node, name, AttributeType::Tensor, |a| a.t.as_ref())
}

/// A `Graph` attribute.
pub(super) fn graph<'a>(node: &'a NodeProto, name: &str) -> Res<Option<&'a GraphProto>> {
    typed(node, name, AttributeType::Graph, |a| a.g.as_ref())
}

fn typed<'a, T>(
    node: &'a NodeProto,
    name: &str,
    want: AttributeType,
    get: impl Fn(&'a AttributeProto) -> Option<T>,
) -> Res<Option<T>> {
    let Some(attribute) = find(node, name) else { return Ok(None) };
    if !attribute.ref_attr_name.is_empty() {
        return Err(Fault::Invalid(format!("attribute '{name}' refers to a function attribute outside a function")));
    }
    // Files older than IR version 2 do not store the type; the value field then tells it.
    let stored = attribute.r#type;
    if stored != want as i32 && stored != AttributeType::Undefined as i32 {
        return Err(Fault::Invalid(format!("attribute '{name}' must be of type {want:?}")));
    }
    match get(attribute) {
        Some(value) => Ok(Some(value)),
        None => Err(Fault::Invalid(format!("attribute '{name}' holds no readable {want:?}"))),
    }
}
