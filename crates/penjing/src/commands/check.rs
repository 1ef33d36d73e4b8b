//! `penjing check`: ONNX test-case folders through the executor and the reference interpreter.

use crate::{
    Outcome,
    compare::difference,
    context::{Context, say},
    execute::{interpret, needs_interpreter, run_program},
    progress::ProgressLine,
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use penjing_exec::{Outputs, Target};
use penjing_ir::Model;
use penjing_onnx::{
    ImportOptions, ModelFile, OnnxError, TestCase, TestDataSet, import,
    proto::{GraphProto, ValueInfoProto, ValueType},
    read_model, read_test_case, read_test_tensor,
};
use penjing_rewrite::Trace;
use penjing_tensor::Tensor;
use serde::Serialize;
use std::{
    any::Any,
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Flags of `check`.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// A test-case folder, its model.onnx, or a folder of such folders
    path: PathBuf,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// What became of the cases, by name.
#[derive(Serialize, Default)]
struct Report {
    passed: Vec<String>,
    failed: Vec<Reason>,
    unsupported: Vec<Reason>,
}

#[derive(Serialize)]
struct Reason {
    case: String,
    reason: String,
}

/// Why a case did not pass.
enum Refusal {
    /// A valid model asks for what Penjing lacks; `op` is what the counts go by.
    Unsupported {
        op: String,
        reason: String,
    },
    Failed(String),
}

pub(crate) fn run(ctx: &Context, args: &CheckArgs) -> Result<Outcome> {
    let mut folders = cases(&args.path)?;
    folders.retain(|f| name(f).contains(&args.only));
    if folders.is_empty() {
        bail!("{}: no folder with a model.onnx whose name contains `{}`", args.path.display(), args.only);
    }
    let results = check_all(&folders, ctx);
    let (mut report, mut by_op) = (Report::default(), BTreeMap::<String, usize>::new());
    for (folder, result) in folders.iter().zip(results) {
        let case = name(folder);
        match result {
            Ok(()) => report.passed.push(case),
            Err(Refusal::Failed(reason)) => report.failed.push(Reason { case, reason }),
            Err(Refusal::Unsupported { op, reason }) => {
                *by_op.entry(op).or_default() += 1;
                report.unsupported.push(Reason { case, reason });
            }
        }
    }
    let mut counts: Vec<(String, usize)> = by_op.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    for (op, n) in counts {
        say(&format!("unsupported {n:5}  {op}"));
    }
    ctx.emit(&report, || text(&report))?;
    Ok(if report.failed.is_empty() { Outcome::Done } else { Outcome::CheckFailed })
}

/// The case folders at `path`, by name.
fn cases(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.parent().unwrap_or(Path::new(".")).to_path_buf()]);
    }
    if path.join("model.onnx").is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let folder = entry.with_context(|| format!("cannot list {}", path.display()))?.path();
        if folder.join("model.onnx").is_file() {
            found.push(folder);
        }
    }
    found.sort();
    Ok(found)
}

fn name(folder: &Path) -> String {
    folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| folder.display().to_string())
}

/// Every case on one of the threads; a panic in a case is that case's failure.
fn check_all(folders: &[PathBuf], ctx: &Context) -> Vec<Result<(), Refusal>> {
    let target = Target { threads: 1, ..ctx.target };
    let next = AtomicUsize::new(0);
    let progress = ProgressLine::new("check");
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(folder) = folders.get(i) else { return done };
            progress.count(i, folders.len());
            let result = catch_unwind(AssertUnwindSafe(|| check(folder, target)));
            done.push((i, result.unwrap_or_else(|payload| Err(Refusal::Failed(panic_text(&*payload))))));
        }
    };
    // A panic is reported with its case; the default hook would also print it in the middle of the progress line.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let threads = ctx.target.threads.min(folders.len());
    let mut results: Vec<Option<Result<(), Refusal>>> = folders.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for (i, result) in handles.into_iter().flat_map(|h| h.join().unwrap_or_default()) {
            results[i] = Some(result);
        }
    });
    set_hook(hook);
    let lost = || Err(Refusal::Failed("the thread that checked it ended early".into()));
    results.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
    format!("panicked: {}", text.unwrap_or_else(|| "no message".into()))
}

/// One case. Everything that may be unsupported is tried before an expected output is read.
fn check(folder: &Path, target: Target) -> Result<(), Refusal> {
    let case = read_test_case(folder)?;
    let file = read_model(&case.model)?;
    let graph = file.proto.graph.as_ref().ok_or_else(|| Refusal::Failed("the model holds no graph".into()))?;
    only_tensors(graph)?;
    if case.data_sets.is_empty() {
        import(&file, &ImportOptions::default())?;
    }
    for set in &case.data_sets {
        let inputs = read_inputs(graph, set)?;
        let runs = run_set(&file, inputs, target)?;
        compare(graph, set, &runs, &case)?;
    }
    Ok(())
}

fn only_tensors(graph: &GraphProto) -> Result<(), Refusal> {
    for info in graph.input.iter().chain(&graph.output) {
        let value = info.r#type.as_ref().and_then(|t| t.value.as_ref());
        if let Some(value) = value.filter(|v| !matches!(v, ValueType::Tensor(_))) {
            let reason = format!("value '{}' is a {}; only tensors are supported", info.name, value.kind());
            return Err(Refusal::Unsupported { op: format!("({})", value.kind()), reason });
        }
    }
    Ok(())
}

fn read_inputs(graph: &GraphProto, set: &TestDataSet) -> Result<BTreeMap<String, Tensor>, Refusal> {
    let mut inputs = BTreeMap::new();
    for (k, path) in &set.inputs {
        let info = slot(&graph.input, *k, path)?;
        inputs.insert(info.name.clone(), read_test_tensor(path, info)?);
    }
    Ok(inputs)
}

/// The outputs by engine: the interpreter's, and the program's where there is one.
fn run_set(
    file: &ModelFile,
    mut inputs: BTreeMap<String, Tensor>,
    target: Target,
) -> Result<Vec<(&'static str, Outputs)>, Refusal> {
    let model = import_with(file, &mut inputs)?;
    inputs.retain(|name, _| model.graph.input(name).is_some());
    let failed = |engine: &str, e: penjing_train::TrainError| Refusal::Failed(format!("{engine}: {e}"));
    let mut runs =
        vec![("reference interpreter", interpret(&model, &inputs).map_err(|e| failed("reference interpreter", e))?)];
    match run_program(&model, &inputs, target, &mut Trace::new()) {
        Ok(outputs) => runs.push(("executor", outputs)),
        Err(e) if needs_interpreter(&e) => {}
        Err(e) => return Err(failed("executor", e)),
    }
    Ok(runs)
}

/// The imported model; inputs that its shapes depend on become constants and leave `inputs`.
fn import_with(file: &ModelFile, inputs: &mut BTreeMap<String, Tensor>) -> Result<Model, OnnxError> {
    let mut options = ImportOptions::default();
    loop {
        match import(file, &options) {
            Err(OnnxError::NeedsInput { input, .. }) if inputs.contains_key(&input) => {
                options.bind_inputs.extend(inputs.remove_entry(&input));
            }
            result => return result,
        }
    }
}

fn compare(graph: &GraphProto, set: &TestDataSet, runs: &[(&str, Outputs)], case: &TestCase) -> Result<(), Refusal> {
    if set.outputs.is_empty() {
        return Err(Refusal::Failed(format!("{} has no expected output in {}", case.name, set.folder.display())));
    }
    for (k, path) in &set.outputs {
        let info = slot(&graph.output, *k, path)?;
        let want = read_test_tensor(path, info)?;
        for (engine, outputs) in runs {
            let have = outputs.iter().find(|(name, _)| *name == info.name);
            let (_, have) = have.ok_or_else(|| Refusal::Failed(format!("{engine}: no output '{}'", info.name)))?;
            if let Some(difference) = difference(have, &want) {
                return Err(Refusal::Failed(format!("{engine}: output '{}' {difference}", info.name)));
            }
        }
    }
    Ok(())
}

/// The declaration of the value that a file belongs to.
fn slot<'a>(infos: &'a [ValueInfoProto], k: usize, path: &Path) -> Result<&'a ValueInfoProto, Refusal> {
    infos
        .get(k)
        .ok_or_else(|| Refusal::Failed(format!("{}: the graph has only {} of them", path.display(), infos.len())))
}

impl From<OnnxError> for Refusal {
    fn from(error: OnnxError) -> Refusal {
        let reason = error.to_string();
        if !error.is_unsupported() {
            return Refusal::Failed(reason);
        }
        let op = match error {
            OnnxError::Unsupported { op, .. } | OnnxError::NeedsInput { op, .. } => op,
            OnnxError::UnsupportedElement { elem, .. } => format!("(element type {elem})"),
            OnnxError::UnsupportedValue { kind, .. } => format!("({kind})"),
            _ => "(model)".into(),
        };
        Refusal::Unsupported { op, reason }
    }
}

fn text(report: &Report) -> String {
    let mut out: String = report.failed.iter().map(|r| format!("FAILED {}: {}\n", r.case, r.reason)).collect();
    let counts = [report.passed.len(), report.failed.len(), report.unsupported.len()];
    out.push_str(&format!("{} passed, {} failed, {} unsupported\n", counts[0], counts[1], counts[2]));
    out
}
