//! Models in and out: an ONNX file or the name of a network comes in, an ONNX file goes out.

use crate::{
    context::{Context, say},
    shape::{ShapeArg, named_dims},
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use penjing_compress::prune::{bake_masks, restore_masks};
use penjing_data::output_file;
use penjing_ir::Model;
use penjing_onnx::{ImportOptions, OnnxError, export, import, read_model, write_model};
use penjing_tensor::Tensor;
use penjing_train::zoo;
use regex::Regex;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Which tensors of a file are trained, where the graph alone does not say it right.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RoleArgs {
    /// Train the tensors whose name matches, whatever they feed
    #[arg(long, value_name = "REGEX")]
    train: Option<Regex>,
    /// Do not train the tensors whose name matches
    #[arg(long, value_name = "REGEX")]
    freeze: Option<Regex>,
}

impl RoleArgs {
    /// For records: what was asked for.
    pub(crate) fn recipe(&self) -> serde_json::Value {
        let text = |r: &Option<Regex>| r.as_ref().map(|r| r.as_str().to_string());
        serde_json::json!({ "train": text(&self.train), "freeze": text(&self.freeze) })
    }
}

/// A model and where it came from.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    /// What it is called in reports.
    pub(crate) name: String,
    /// The file; `None` for a new network.
    pub(crate) path: Option<PathBuf>,
    /// The file's bytes, or for a new network those of its weights.
    pub(crate) bytes: u64,
}

/// The model that `spec` names: a file, else one of the networks of `new` with default sizes and the seed's weights.
pub(crate) fn load(ctx: &Context, spec: &str, roles: &RoleArgs) -> Result<Loaded> {
    load_shaped(ctx, spec, roles, &[])
}

/// As [`load`], with the masks of an earlier pruning, so that training keeps its zeros.
pub(crate) fn load_for_training(ctx: &Context, spec: &str, roles: &RoleArgs) -> Result<Loaded> {
    let mut loaded = load(ctx, spec, roles)?;
    restore_masks(&mut loaded.model)?;
    Ok(loaded)
}

/// As [`load`]; the file's named dimensions that `shapes` tell are known on import.
pub(crate) fn load_shaped(ctx: &Context, spec: &str, roles: &RoleArgs, shapes: &[ShapeArg]) -> Result<Loaded> {
    let path = Path::new(spec);
    if path.exists() || looks_like_a_path(spec) {
        return load_file(path, roles, shapes, &BTreeMap::new()).map(|(loaded, _)| loaded);
    }
    if !zoo::NETWORKS.iter().any(|n| n.name == spec) {
        let known = zoo::NETWORKS.map(|n| n.name).join(", ");
        bail!("there is no file `{spec}` and no network of that name; give an ONNX file or one of {known}");
    }
    let mut model = zoo::new(spec, zoo::Size::default(), ctx.seed)?;
    for state in &mut model.states {
        let matches = |r: &Option<Regex>| r.as_ref().is_some_and(|r| r.is_match(&state.name));
        state.trainable = (state.trainable || matches(&roles.train)) && !matches(&roles.freeze);
    }
    let bytes = model.states.iter().map(|s| s.init.size_bytes() as u64).sum();
    Ok(Loaded { model, name: spec.into(), path: None, bytes })
}

/// The model in a file. Inputs whose values its shapes depend on become constants where `inputs` has them; the names of those
/// come back too.
pub(crate) fn load_file(
    path: &Path,
    roles: &RoleArgs,
    shapes: &[ShapeArg],
    inputs: &BTreeMap<String, Tensor>,
) -> Result<(Loaded, Vec<String>)> {
    let file = read_model(path)?;
    let mut options =
        ImportOptions { train: roles.train.clone(), freeze: roles.freeze.clone(), ..ImportOptions::default() };
    options.bind_dims = named_dims(&file, shapes);
    let model = loop {
        match import(&file, &options) {
            Err(OnnxError::NeedsInput { input, .. })
                if inputs.contains_key(&input) && !options.bind_inputs.contains_key(&input) =>
            {
                options.bind_inputs.insert(input.clone(), inputs[&input].clone());
            }
            result => break result.with_context(|| format!("cannot import {}", path.display()))?,
        }
    };
    let bytes = fs::metadata(path).map_or(0, |m| m.len());
    let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let bound = options.bind_inputs.into_keys().collect();
    Ok((Loaded { model, name, path: Some(path.into()), bytes }, bound))
}

/// Writes the model as ONNX, masks multiplied into their weights, and says so. Returns the file's size.
pub(crate) fn save(model: &Model, path: &Path) -> Result<u64> {
    let bytes = save_silently(model, path)?;
    say(&format!("wrote {} ({bytes} bytes)", path.display()));
    Ok(bytes)
}

/// As [`save`], without a word.
pub(crate) fn save_silently(model: &Model, path: &Path) -> Result<u64> {
    let proto = export(&bake_masks(model)?)?;
    write_model(&output_file(path)?, &proto)?;
    let size = fs::metadata(path).with_context(|| format!("cannot read {} back", path.display()))?.len();
    Ok(size)
}

/// Errors when nothing could be written to `path`: better said before the work than after it.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    };
    if path.is_dir() || path.file_name().is_none() {
        bail!("cannot write {}: it is a folder; name a file in it", path.display());
    }
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}; make it first", path.display(), folder.display());
    }
    output_file(path)?;
    Ok(())
}

fn looks_like_a_path(spec: &str) -> bool {
    spec.contains(['/', '\\']) || Path::new(spec).extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}
