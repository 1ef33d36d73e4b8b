//! `penjing run`: one inference, outputs as .npy.

use crate::{
    context::{Context, say},
    execute::execute,
    input::{InputArg, read_inputs},
    model_file::{RoleArgs, load_file},
    shape::{ShapeArg, bindings},
};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use penjing_data::{npy_to_writer, write_atomically};
use penjing_exec::Outputs;
use penjing_rewrite::Trace;
use penjing_tensor::Tensor;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// Flags of `run`.
#[derive(Args)]
pub(crate) struct RunArgs {
    /// An ONNX file
    model: PathBuf,
    /// The value of an input; once for each input
    #[arg(long, value_name = "NAME=FILE.npy")]
    input: Vec<InputArg>,
    /// Folder for the outputs, one .npy each; without it they are only described
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Extents of an input; checked against what --input gives
    #[arg(long, value_name = "NAME=1x3x224x224")]
    shape: Vec<ShapeArg>,
    /// Apply only the first N rewrites: halving N finds the one that changes a result
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
}

pub(crate) fn run(ctx: &Context, args: &RunArgs) -> Result<()> {
    let mut inputs = read_inputs(&args.input)?;
    let (loaded, bound) = load_file(&args.model, &RoleArgs::default(), &args.shape, &inputs)?;
    inputs.retain(|name, _| !bound.contains(name));
    check_shapes(&loaded.model, &args.shape, &inputs)?;
    let mut trace = Trace { stop_after: args.stop_after, ..Trace::new() };
    let outputs = execute(&loaded.model, &inputs, ctx.target, &mut trace)
        .with_context(|| format!("cannot run {}", args.model.display()))?;
    let files = match &args.output {
        Some(folder) => write(folder, &outputs)?,
        None => vec![None; outputs.len()],
    };
    let described: Vec<Value> = outputs
        .iter()
        .zip(&files)
        .map(|((name, t), file)| json!({ "name": name, "dtype": t.dtype().name(), "shape": t.shape(), "file": file }))
        .collect();
    ctx.emit(&json!({ "outputs": described }), || {
        outputs
            .iter()
            .map(|(name, t)| format!("{name}: {}{:?} {}\n", t.dtype().name(), t.shape(), first_values(t)))
            .collect()
    })
}

/// The extents that --shape promises must be those of the tensors.
fn check_shapes(model: &penjing_ir::Model, shapes: &[ShapeArg], inputs: &BTreeMap<String, Tensor>) -> Result<()> {
    let promised = bindings(model, shapes)?;
    let given = penjing_reference::bind_inputs(&model.graph, inputs)?;
    for (symbol, want) in promised {
        if let Some(have) = given.get(&symbol).filter(|have| **have != want) {
            bail!("--shape gives `{}` as {want}, the inputs' files as {have}", symbol.name);
        }
    }
    Ok(())
}

/// Writes each output to `<folder>/<name>.npy`; all are encoded before the first is written. Returns the paths.
fn write(folder: &Path, outputs: &Outputs) -> Result<Vec<Option<String>>> {
    let mut taken = BTreeSet::new();
    let mut files = Vec::new();
    for (name, tensor) in outputs {
        let mut bytes = Vec::new();
        npy_to_writer(&mut bytes, tensor).map_err(|e| anyhow!("output `{name}` cannot be written as .npy: {e}"))?;
        files.push((folder.join(file_name(name, &mut taken)), bytes));
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut paths = Vec::new();
    for (path, bytes) in files {
        write_atomically(&path, |w| w.write_all(&bytes))?;
        say(&format!("wrote {}", path.display()));
        paths.push(Some(path.display().to_string()));
    }
    Ok(paths)
}

/// A name that stays in its folder and that no other output has: characters outside [A-Za-z0-9_.-] become `_`.
fn file_name(name: &str, taken: &mut BTreeSet<String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let safe: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut candidate = format!("{safe}.npy");
    let mut n = 1;
    while !taken.insert(candidate.clone()) {
        n += 1;
        candidate = format!("{safe}_{n}.npy");
    }
    candidate
}

fn first_values(t: &Tensor) -> String {
    const SHOWN: usize = 6;
    let values = t.to_f64s();
    let shown: Vec<String> = values
        .iter()
        .take(SHOWN)
        .map(|v| format!("{v:.6}").trim_end_matches('0').trim_end_matches('.').into())
        .collect();
    format!("[{}{}]", shown.join(", "), if values.len() > SHOWN { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_in_the_folder_and_differ() {
        let mut taken = BTreeSet::new();
        for (name, want) in [
            ("logits", "logits.npy"),
            ("../../etc/passwd", ".._.._etc_passwd.npy"),
            ("a/b", "a_b.npy"),
            ("a:b", "a_b_2.npy"),
            ("", ".npy"),
            ("..", "...npy"),
            ("ñ", "_.npy"),
        ] {
            assert_eq!(file_name(name, &mut taken), want);
        }
    }
}
