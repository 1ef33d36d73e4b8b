//! Real exports (PyTorch, both exporters): they import, the reference interpreter gives PyTorch's answers, and what is
//! exported again imports as the same graph and gives them, too.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use penjing_data::read_npz;
use penjing_ir::{Model, Source};
use penjing_onnx::{ImportOptions, export, import, read_model, read_model_bytes};
use penjing_reference::{Precision, run};
use penjing_tensor::Tensor;
use prost::Message;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Largest difference from PyTorch, relative to the largest expected element.
const TOLERANCE: f64 = 1e-4;

#[test]
fn exports_give_the_same_answers() {
    let mut failed = Vec::new();
    for path in models() {
        if let Err(why) = check(&path) {
            failed.push(format!("{}: {why}", path.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[allow(clippy::print_stdout)]
fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for folder in ["bench/out/zoo", "tests/goldens"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else {
            println!("skipped: no {folder}");
            continue;
        };
        found.extend(
            entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "onnx")),
        );
    }
    let filter = std::env::var("PENJING_CASE").unwrap_or_default();
    found.retain(|p| p.to_string_lossy().contains(&filter));
    found.sort();
    found
}

fn check(path: &Path) -> Result<(), String> {
    let file = read_model(path).map_err(|e| e.to_string())?;
    let model = import(&file, &ImportOptions::default()).map_err(|e| e.to_string())?;
    let proto = export(&model).map_err(|e| e.to_string())?;
    let again = read_model_bytes(proto.encode_to_vec(), "exported").map_err(|e| e.to_string())?;
    let back = import(&again, &ImportOptions::default()).map_err(|e| format!("after export: {e}"))?;
    if !written_out(&model) {
        same_graph(&model, &back)?;
    }
    let (inputs, expected) = (path.with_extension("inputs.npz"), path.with_extension("expected.npz"));
    if inputs.exists() {
        let inputs: BTreeMap<String, Tensor> = read_npz(&inputs).map_err(|e| e.to_string())?.into_iter().collect();
        let expected = read_npz(&expected).map_err(|e| e.to_string())?;
        for model in [&model, &back] {
            let have = run(model, &inputs, &BTreeMap::new(), Precision::Declared).map_err(|e| e.to_string())?.outputs;
            for (name, want) in &expected {
                let have = have.get(name).ok_or_else(|| format!("no output {name} among {:?}", have.keys()))?;
                compare(have, want).map_err(|why| format!("{name}: {why}"))?;
            }
        }
    }
    Ok(())
}

/// Whether export spells an op of the model as several, or import folds what export had to write (unrolled cells, counted
/// ranges): the graphs then differ, and only the answers are compared.
fn written_out(model: &Model) -> bool {
    let steps = model.graph.nodes().iter().filter(|n| n.op.name() == "Slice").count();
    steps > 100 || model.graph.nodes().iter().any(|n| matches!(n.op.name(), "Attention" | "Iota" | "DimValues"))
}

/// The same operations and states, in the same order, whatever inner values are called.
fn same_graph(a: &Model, b: &Model) -> Result<(), String> {
    let ops = |m: &Model| {
        // Nodes over constants alone may be evaluated on the way back.
        let mut fixed: Vec<bool> = m.graph.values().iter().map(|v| matches!(v.source, Source::Const(_))).collect();
        let mut count: BTreeMap<&'static str, usize> = BTreeMap::new();
        for n in m.graph.nodes() {
            if n.inputs.iter().all(|v| fixed[v.index()]) {
                n.outputs.iter().for_each(|v| fixed[v.index()] = true);
            } else {
                *count.entry(n.op.name()).or_default() += 1;
            }
        }
        count
    };
    if ops(a) != ops(b) {
        return Err(format!("after export: {:?} instead of {:?}", ops(b), ops(a)));
    }
    let states = |m: &Model| {
        let mut all: Vec<_> =
            m.states.iter().map(|s| (s.name.clone(), s.role, s.trainable, (*s.init).clone())).collect();
        all.sort_by(|x, y| x.0.cmp(&y.0));
        all
    };
    if states(a) != states(b) {
        return Err("after export: the states differ".into());
    }
    Ok(())
}

fn compare(have: &Tensor, want: &Tensor) -> Result<(), String> {
    if have.shape() != want.shape() {
        return Err(format!("shape {:?}, expected {:?}", have.shape(), want.shape()));
    }
    let (have, want) = (have.to_f64s(), want.to_f64s());
    let top = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = have.iter().zip(&want).fold(0.0f64, |m, (h, w)| m.max((h - w).abs()));
    if worst <= TOLERANCE * top { Ok(()) } else { Err(format!("differs by {worst}, the largest element is {top}")) }
}
