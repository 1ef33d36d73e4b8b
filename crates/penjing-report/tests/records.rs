//! Records on disk: what is read back, and what each broken file is told.

use std::path::{Path, PathBuf};

use penjing_report::{DemoRecord, ReportError, RunRecord, StepMetrics, StepRecord, VariantRecord, read_demo, read_run};

/// A folder of its own for one test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("penjing-report-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a temporary file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const DEMO: &str = r#"{
  "seed": 7, "wall_s": 74.3, "unknown": {"a": [1]},
  "machine": {"cpu": "x", "cores": 2, "threads": 2, "isa": "avx2", "os": "linux"},
  "variants": [
    {"name": "dense", "file": "dense.onnx", "bytes": 1000, "accuracy": 0.98, "nonzero": 10, "params": 10,
     "latency_ms": 1.5, "peak_rss_mb": 100, "loss": [2.3, null, 0.1],
     "layers": [{"name": "conv1", "op": "Conv", "params": 4, "sparsity": 0, "bits": 32, "macs": 9}]},
    {"name": "int8", "accuracy": null}
  ]
}"#;

const RUN: &str = r#"{
  "version": 1, "command": "prune", "recipe": {"step": [{"do": "prune"}]},
  "model": {"name": "lstm", "path": "m.onnx", "params": 12}, "data": {"spec": "digits", "n": 1437},
  "seed": 3, "machine": {"cpu": "x"}, "plan_hash": "ab",
  "steps": [{"do": "prune", "name": "p", "metrics": {"loss": [1, null], "accuracy": 0.5, "sparsity": 0.5}, "wall_s": 2}],
  "result": {"file": "o.onnx", "bytes": 5, "accuracy": 0.5, "latency_ms": 1, "extra": "kept"}
}"#;

#[test]
fn a_demo_record_reads_with_nulls_gaps_and_unknown_fields() {
    let folder = Folder::new("demo");
    let record = read_demo(folder.file("report.json", DEMO)).unwrap();
    assert_eq!((record.seed, record.variants.len(), record.machine.cores), (7, 2, Some(2)));
    let dense = &record.variants[0];
    assert_eq!((dense.bytes, dense.latency_ms, dense.layers[0].bits), (Some(1000), Some(1.5), Some(32.0)));
    assert_eq!((dense.loss[0], dense.loss[1].is_nan(), dense.loss[2]), (2.3, true, 0.1));
    assert_eq!((record.variants[1].accuracy, record.variants[1].bytes), (None, None));
}

#[test]
fn a_run_record_reads_from_its_folder_or_by_name() {
    let folder = Folder::new("run");
    let file = folder.file("record.json", RUN);
    for path in [file.as_path(), folder.0.as_path()] {
        let record = read_run(path).unwrap();
        assert_eq!((record.command.as_str(), record.steps[0].action.as_str()), ("prune", "prune"));
        assert_eq!(record.steps[0].metrics.other["sparsity"], 0.5);
        assert_eq!(record.result.other["extra"], "kept");
        assert_eq!(record.recipe["step"][0]["do"], "prune");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = Folder::new("again");
    let run = RunRecord {
        command: "train".into(),
        steps: vec![StepRecord {
            action: "train".into(),
            metrics: StepMetrics { loss: vec![2.5, 0.1], accuracy: Some(0.9), ..StepMetrics::default() },
            ..StepRecord::default()
        }],
        ..RunRecord::default()
    };
    let path = folder.file("record.json", &serde_json::to_string(&run).unwrap());
    assert_eq!(read_run(path).unwrap(), run);

    let variant = VariantRecord { name: "a".into(), loss: vec![f64::NAN, 1.0], ..VariantRecord::default() };
    let demo = DemoRecord { seed: u64::MAX, variants: vec![variant], ..DemoRecord::default() };
    let text = serde_json::to_string(&demo).unwrap();
    assert!(text.contains("[null,1.0]"), "{text}");
    let back = read_demo(folder.file("report.json", &text)).unwrap();
    assert_eq!((back.seed, back.variants[0].loss[0].is_nan()), (u64::MAX, true));
}

#[test]
fn a_record_cut_anywhere_is_an_error_that_names_the_file() {
    let folder = Folder::new("cut");
    for end in (0..DEMO.len()).step_by(5) {
        let path = folder.file("report.json", &DEMO[..end]);
        let error = read_demo(&path).unwrap_err();
        assert!(matches!(error, ReportError::Truncated { .. }), "cut at {end}: {error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    for end in (0..RUN.len()).step_by(5) {
        let path = folder.file("record.json", &RUN[..end]);
        let error = read_run(&path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "cut at {end}: {error}");
    }
}

#[test]
fn bad_fields_are_named() {
    let folder = Folder::new("fields");
    let cases = [
        ("\"seed\": 7", "\"seed\": \"7\"", "seed", "invalid type"),
        ("\"seed\": 7,", "", ".", "missing field `seed`"),
        ("0.98", "98.3", "variants[0].accuracy", "98.3 is not a share"),
        ("1.5", "-1.5", "variants[0].latency_ms", "negative"),
        ("\"nonzero\": 10", "\"nonzero\": 11", "variants[0].nonzero", "more than the 10"),
        ("\"bytes\": 1000", "\"bytes\": -1", "variants[0].bytes", "invalid value"),
        ("[2.3, null, 0.1]", "[2.3, \"x\"]", "variants[0].loss[1]", "invalid type"),
        ("\"sparsity\": 0", "\"sparsity\": 50", "variants[0].layers[0].sparsity", "not a share"),
        ("\"name\": \"int8\", ", "", "variants[1]", "missing field `name`"),
    ];
    for (from, to, want_field, want_why) in cases {
        assert!(DEMO.contains(from), "{from}");
        let path = folder.file("report.json", &DEMO.replacen(from, to, 1));
        match read_demo(&path).unwrap_err() {
            ReportError::Field { path: named, field, why } => {
                assert_eq!((named.as_path(), field.as_str()), (path.as_path(), want_field), "{why}");
                assert!(why.contains(want_why), "{field}: {why}");
            }
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn other_versions_other_texts_and_absent_files_are_told_apart() {
    let folder = Folder::new("others");
    let later = folder.file("later.json", r#"{"version": 2, "command": ["all", "different"]}"#);
    assert!(matches!(read_run(later), Err(ReportError::Version { found: 2, supported: 1, .. })));
    let text = folder.file("text.json", "dear diary");
    assert!(matches!(read_demo(text), Err(ReportError::Syntax { .. })));
    let two = folder.file("two.json", &format!("{DEMO}{DEMO}"));
    assert!(matches!(read_demo(two), Err(ReportError::Syntax { .. })));
    let deep = folder.file("deep.json", &format!("{{\"seed\":1,\"x\":{}", "[".repeat(100_000)));
    assert!(read_demo(deep).is_err());
    let absent = folder.0.join("absent.json");
    let error = read_run(&absent).unwrap_err();
    assert!(matches!(&error, ReportError::Read { path, .. } if path == &absent), "{error:?}");
    let demo = folder.file("report.json", DEMO);
    assert!(matches!(read_run(demo), Err(ReportError::Field { why, .. }) if why.contains("version")));
    assert!(matches!(read_demo(Path::new(&folder.0)), Err(ReportError::Read { .. })));
}
