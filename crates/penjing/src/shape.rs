//! `--shape NAME=1x3x224x224`: numbers for a model's free dimensions.

use anyhow::{Result, anyhow, bail};
use penjing_ir::{Bindings, Model};
use penjing_onnx::{
    ModelFile,
    proto::{DimensionValue, ValueType},
};
use std::{collections::BTreeMap, str::FromStr};

/// One `--shape`: an input's name and its extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShapeArg {
    name: String,
    dims: Vec<usize>,
}

impl ShapeArg {
    /// What the flag for an input of these extents says.
    pub(crate) fn new(name: &str, dims: &[usize]) -> ShapeArg {
        ShapeArg { name: name.into(), dims: dims.into() }
    }
}

impl FromStr for ShapeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<ShapeArg, String> {
        let bad = || "write it as NAME=1x3x224x224".to_string();
        let (name, dims) = text.rsplit_once('=').ok_or_else(bad)?;
        let dims = dims.split('x').map(|d| d.parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
        if name.is_empty() { Err(bad()) } else { Ok(ShapeArg { name: name.into(), dims }) }
    }
}

/// The named dimensions of a file's inputs, for an import that needs them.
pub(crate) fn named_dims(file: &ModelFile, shapes: &[ShapeArg]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for input in file.proto.graph.iter().flat_map(|g| &g.input) {
        let Some(arg) = shapes.iter().find(|s| s.name == input.name) else { continue };
        let Some(ValueType::Tensor(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else { continue };
        for (dim, &n) in tensor.shape.iter().flat_map(|s| &s.dim).zip(&arg.dims) {
            if let Some(DimensionValue::Param(name)) = &dim.value {
                found.insert(name.clone(), n);
            }
        }
    }
    found
}

/// What the flags say about the model's symbols. Flags for inputs that the model lacks, or of other extents than it declares, are
/// errors.
pub(crate) fn bindings(model: &Model, shapes: &[ShapeArg]) -> Result<Bindings> {
    let mut bindings = Bindings::new();
    for arg in shapes {
        let names =
            || model.graph.inputs.iter().map(|&v| model.graph.value(v).name.as_str()).collect::<Vec<_>>().join(", ");
        let input = model.graph.input(&arg.name);
        let input = input
            .ok_or_else(|| anyhow!("--shape {}: the model has no such input; its inputs are {}", arg.name, names()))?;
        let fact = model.graph.fact(input);
        if fact.rank() != arg.dims.len() {
            bail!("--shape {}: {} extents are given, the input is {fact}", arg.name, arg.dims.len());
        }
        for (dim, &n) in fact.shape.iter().zip(&arg.dims) {
            if let Some(symbol) = dim.as_symbol() {
                let known = *bindings.entry(symbol.clone()).or_insert(n);
                if known != n {
                    bail!("--shape {}: `{}` is given two different extents", arg.name, symbol.name);
                }
            } else if dim.as_const().is_some_and(|have| have != n) {
                bail!("--shape {}: the input is {fact}, {n} does not fit {dim}", arg.name)
            }
        }
    }
    Ok(bindings)
}

/// Gives the first axis of every input that is still free the extent `batch`.
pub(crate) fn bind_batch(model: &Model, bindings: &mut Bindings, batch: usize) {
    for &input in &model.graph.inputs {
        if let Some(symbol) = model.graph.fact(input).shape.first().and_then(|d| d.as_symbol()) {
            bindings.entry(symbol).or_insert(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_ir::{Dim, Fact, Symbol};
    use penjing_tensor::DType;

    #[test]
    fn flags_bind_symbols_and_contradictions_are_errors() {
        let mut model = Model::new("m");
        model.graph.add_input("x:0", Fact::new(DType::F32, [Dim::sym("N"), 3.into(), Dim::sym("N")]));
        let parse = |s: &str| vec![s.parse::<ShapeArg>().unwrap()];
        assert_eq!(bindings(&model, &parse("x:0=2x3x2")).unwrap(), Bindings::from([(Symbol::new("N"), 2)]));
        for bad in ["x:0=2x3x4", "x:0=2x4x2", "x:0=2x3", "y=1"] {
            assert!(bindings(&model, &parse(bad)).is_err(), "{bad}");
        }
        for bad in ["x", "x=", "x=2x", "=2", "x=-1"] {
            assert!(bad.parse::<ShapeArg>().is_err(), "{bad}");
        }
        let mut free = Bindings::new();
        bind_batch(&model, &mut free, 7);
        assert_eq!(free, Bindings::from([(Symbol::new("N"), 7)]));
    }
}
