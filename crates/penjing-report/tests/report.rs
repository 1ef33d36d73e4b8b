//! What a page holds: every number, no markup from a record, nothing from outside, whatever the record lacks.

use std::collections::BTreeMap;

use penjing_report::{
    DataRecord, DemoRecord, LayerRecord, MachineRecord, ModelRecord, ReportError, ResultRecord, RunRecord, StepMetrics,
    StepRecord, VariantRecord, render_demo, render_runs,
};

fn variant(name: &str, bytes: u64, accuracy: f64, latency_ms: f64) -> VariantRecord {
    VariantRecord {
        name: name.into(),
        file: format!("{name}.onnx"),
        bytes: Some(bytes),
        accuracy: Some(accuracy),
        nonzero: Some(157_861),
        params: Some(315_722),
        latency_ms: Some(latency_ms),
        peak_rss_mb: Some(151.2),
        loss: vec![2.3, 0.9, 0.04],
        layers: vec![LayerRecord {
            name: "conv1".into(),
            op: "Conv".into(),
            params: Some(896),
            sparsity: Some(0.285),
            bits: Some(8.0),
            macs: Some(497_664),
        }],
    }
}

fn demo() -> DemoRecord {
    DemoRecord {
        title: "Digits".into(),
        summary: "Trained, pruned, quantized.".into(),
        seed: 4711,
        machine: MachineRecord {
            cpu: "Testium 9000".into(),
            cores: Some(2),
            threads: Some(3),
            isa: "avx2".into(),
            os: "linux".into(),
        },
        wall_s: Some(84.2),
        variants: vec![
            variant("dense", 1_310_720, 0.98333, 1.0),
            variant("int8", 327_680, 0.97777, 0.4),
            variant("dp2", 1_310_720, 0.98333, 1.0),
        ],
        notes: vec!["Latency: median of 200 runs.".into()],
    }
}

fn run() -> RunRecord {
    RunRecord {
        command: "train".into(),
        recipe: serde_json::json!({"epochs": 8, "note": "</pre><b>"}),
        model: ModelRecord {
            name: "simple-cnn".into(),
            path: String::new(),
            sha256: Some("0123456789abcdef0123456789abcdef".into()),
            params: Some(315_722),
        },
        data: DataRecord { spec: "digits".into(), n: Some(1437) },
        seed: 7,
        plan_hash: "feedfacecafebeef".into(),
        steps: vec![
            StepRecord {
                action: "train".into(),
                name: "dense".into(),
                metrics: StepMetrics {
                    loss: vec![2.25, f64::NAN, 0.125],
                    accuracy: Some(0.975),
                    ..StepMetrics::default()
                },
                wall_s: Some(33.0),
            },
            StepRecord {
                action: "prune".into(),
                metrics: StepMetrics {
                    other: BTreeMap::from([
                        ("sparsity".to_owned(), serde_json::json!(0.5)),
                        ("per_layer".to_owned(), serde_json::json!([1, 2])),
                    ]),
                    ..StepMetrics::default()
                },
                ..StepRecord::default()
            },
        ],
        result: ResultRecord {
            file: "runs/a/small.onnx".into(),
            bytes: Some(500 * 1024),
            latency_ms: Some(2.5),
            ..ResultRecord::default()
        },
        notes: vec!["Measured twice.".into()],
        ..RunRecord::default()
    }
}

/// The `<tag …>…</tag>` parts of a page.
fn elements<'a>(page: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
    let parts = page.match_indices(&open).filter_map(|(at, _)| page[at..].find(&close).map(|end| &page[at..at + end]));
    parts.collect()
}

fn assert_has(page: &str, needles: &[&str]) {
    for needle in needles {
        assert!(page.contains(needle), "the page lacks `{needle}`");
    }
}

/// Every tag is one of the page's own, opens and closes in order, and refers to nothing.
fn assert_sound(name: &str, page: &str) {
    const VOID: [&str; 10] =
        ["!doctype", "meta", "rect", "line", "circle", "polygon/", "polyline", "polygon", "br", "path"];
    let body = page.replace("<!doctype html>", "");
    let (before, rest) = body.split_once("<style>").expect("a style");
    let (style, after) = rest.split_once("</style>").expect("its end");
    assert!(!style.contains("url(") && !style.contains("@import"), "{name}: the style loads something");
    let mut open: Vec<String> = Vec::new();
    let text = format!("{before}{after}");
    for piece in text.split('<').skip(1) {
        let tag = piece.split('>').next().expect("split gives one");
        assert!(piece.contains('>'), "{name}: `<{tag}` does not close");
        let word = tag.split([' ', '\n', '>']).next().expect("split gives one").trim_end_matches('/');
        if let Some(closing) = word.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closing), "{name}: tags cross");
        } else if !VOID.contains(&word) {
            open.push(word.to_owned());
        }
        assert!(
            !["script", "img", "link", "iframe", "image", "use", "object", "a"].contains(&word),
            "{name}: <{word}>"
        );
        for attribute in [" src=", " href=", " onload=", " onerror="] {
            assert!(!tag.contains(attribute), "{name}: {tag}");
        }
    }
    assert!(open.is_empty(), "{name}: {open:?} stay open");
    let addresses = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!addresses.contains("http://") && !addresses.contains("https://"), "{name}: an outside address");
}

#[test]
fn every_number_of_a_demo_stands_on_the_page() {
    let page = render_demo(&demo()).unwrap();
    assert_sound("demo", &page);
    assert_has(
        &page,
        &[
            "Digits",
            "Trained, pruned, quantized.",
            "4711",
            "Testium 9000",
            "avx2",
            "1 min 24 s",
            "dense.onnx",
            "Latency: median of 200 runs.",
            "conv1",
            "28.5 %",
            "8 bit",
            "498 k",
            "158 k of 316 k",
        ],
    );
    let rows = elements(&page, "tr");
    let row = |name: &str| *rows.iter().find(|r| r.contains(&format!("{name}.onnx"))).expect("a row");
    // 0.97777 − 0.98333, 1310720 / 327680, 157861 / 315722, 1 / 0.4
    assert_has(row("int8"), &[">97.78<", ">−0.56<", ">320<", ">4.00×<", ">50.0 %<", ">0.400<", ">2.50×<", ">151<"]);
    assert_has(row("dense"), &[">98.33<", ">1,280<", ">1.000<", "baseline"]);
    assert!(!row("dense").contains('×'), "the baseline is not compared with itself");
    assert_eq!(elements(&page, "figure").len(), 3, "curves, accuracy against size, accuracy against latency");
    for name in ["dense", "int8", "dp2"] {
        let labels = elements(&page, "text").iter().filter(|t| t.trim_end().ends_with(&format!(">\n{name}"))).count();
        assert_eq!(labels, 2, "{name} is labelled in both scatter plots");
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let evil = "</td><script>alert(1)</script><img src=x onerror=\"x\">&'\u{202e}\u{0}";
    let mut record = demo();
    for text in [&mut record.title, &mut record.summary, &mut record.machine.cpu, &mut record.notes[0]] {
        *text = evil.into();
    }
    for v in &mut record.variants {
        (v.name, v.file) = (evil.into(), evil.into());
        v.loss[1] = f64::NAN;
        (v.layers[0].name, v.layers[0].op) = (evil.into(), evil.into());
    }
    let page = render_demo(&record).unwrap();
    assert_sound("hostile demo", &page);
    assert!(page.contains("&lt;script&gt;"));
    assert!(!page.contains(['\u{202e}', '\u{0}']));

    let mut record = run();
    for text in [&mut record.command, &mut record.model.name, &mut record.data.spec, &mut record.plan_hash] {
        *text = evil.into();
    }
    record.model.sha256 = Some(evil.into());
    record.result.file = evil.into();
    record.recipe = serde_json::json!({ evil: evil });
    record.steps[0].action = evil.into();
    record.steps[0].name = evil.into();
    record.steps[1].metrics.other.insert(evil.into(), evil.into());
    assert_sound("hostile run", &render_runs(&[record.clone(), record]).unwrap());
}

#[test]
fn records_with_little_or_strange_in_them_give_a_page() {
    let strange =
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324];
    let mut cases: Vec<(String, DemoRecord)> = vec![
        ("empty".into(), DemoRecord::default()),
        ("one variant".into(), DemoRecord { variants: vec![variant("only", 5, 1.0, 1.0)], ..DemoRecord::default() }),
        (
            "names only".into(),
            DemoRecord { variants: vec![VariantRecord::default(), VariantRecord::default()], ..DemoRecord::default() },
        ),
        (
            "forty variants".into(),
            DemoRecord {
                variants: (0..40).map(|i| variant("same", 1 << (i % 30), 0.5, 1.0)).collect(),
                ..DemoRecord::default()
            },
        ),
    ];
    for x in strange {
        for y in strange {
            let mut v = variant("v", u64::MAX, x, y);
            (v.loss, v.peak_rss_mb) = (vec![x, y, x], Some(y));
            (v.nonzero, v.params) = (Some(u64::MAX), Some(0));
            (v.layers[0].sparsity, v.layers[0].bits) = (Some(x), Some(y));
            let variants = vec![v, variant("w", 0, y, x)];
            cases.push((format!("{x:e} and {y:e}"), DemoRecord { variants, wall_s: Some(x), ..DemoRecord::default() }));
        }
    }
    for (name, record) in cases {
        let page = render_demo(&record).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_sound(&name, &page);
        for odd in ["NaN", "inf", "∞"] {
            let body = page.split("</style>").nth(1).expect("a body");
            if let Some(at) = body.find(odd) {
                let near: String = body[..at].chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
                panic!("{name}: {odd} on the page after `{near}`");
            }
        }
    }
}

#[test]
fn a_lone_variant_is_compared_with_nothing() {
    let mut record = demo();
    record.variants.truncate(1);
    let page = render_demo(&record).unwrap();
    assert_has(&page, &[">98.33<", "Training"]);
    for absent in ["Smaller", "Faster", "baseline", "Accuracy against cost", "class=\"tiles\""] {
        assert!(!page.contains(absent), "{absent}");
    }
}

#[test]
fn a_loss_that_stops_being_finite_is_named() {
    let mut record = demo();
    record.variants[1].loss = vec![1.0, 0.5, f64::NAN, f64::NAN];
    assert_has(&render_demo(&record).unwrap(), &["<strong>int8</strong>: the loss is not finite at value 3."]);
}

#[test]
fn loss_axes_are_logarithmic_only_where_the_loss_spans_a_decade() {
    for (loss, logarithmic) in [(vec![2.3, 0.01], true), (vec![2.3, 1.9], false), (vec![2.3, 0.0], false)] {
        let mut record = demo();
        record.variants.truncate(1);
        record.variants[0].loss = loss.clone();
        let page = render_demo(&record).unwrap();
        assert_eq!(page.contains("training loss (logarithmic)"), logarithmic, "{loss:?}");
    }
}

#[test]
fn a_run_shows_its_steps_and_recipe() {
    let page = render_runs(&[run()]).unwrap();
    assert_sound("run", &page);
    assert_has(
        &page,
        &[
            "Penjing run: small",
            "simple-cnn, 315,722 parameters, SHA-256 0123456789ab",
            "digits (1,437 samples)",
            "feedfacecafe",
            "2.25 → 0.125",
            "97.50 %",
            "33.0 s",
            "sparsity 0.500",
            "&quot;epochs&quot;: 8",
            "Measured twice.",
            ">500<",
            ">2.50<",
        ],
    );
    assert!(!page.contains("per_layer"), "lists stay in the record");
}

#[test]
fn runs_of_other_machines_or_data_are_not_set_against_each_other() {
    let (a, mut b) = (run(), run());
    b.result = ResultRecord { file: "b.onnx".into(), latency_ms: Some(1.25), accuracy: Some(0.5), ..a.result.clone() };
    let page = render_runs(&[a.clone(), b.clone()]).unwrap();
    assert_has(&page, &["2 runs compared", ">2.00×<", ">−47.50<"]);
    b.machine.cpu = "another".into();
    let page = render_runs(&[a.clone(), b.clone()]).unwrap();
    assert_has(&page, &["different machines", ">−47.50<", "another"]);
    assert!(!page.contains(">2.00×<"));
    b.data.spec = "other digits".into();
    let page = render_runs(&[a, b]).unwrap();
    assert_has(&page, &["different machines", "different data"]);
    assert!(!page.contains("47.50<"));
}

#[test]
fn no_runs_is_an_error() {
    assert!(matches!(render_runs(&[]), Err(ReportError::NoRuns)));
}

#[test]
fn the_same_record_gives_the_same_page() {
    assert_eq!(render_demo(&demo()).unwrap(), render_demo(&demo()).unwrap());
}
