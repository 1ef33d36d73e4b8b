//! The real binary: what each command leaves behind, its JSON and its exit codes.

mod common;
#[path = "../../penjing-data/tests/common/mod.rs"]
mod parquet_images;

use common::{Folder, size, text};
use parquet_images::{parquet_file, png_square, zstd_properties};
use penjing::{
    data::{Dataset, read_npy, write_npy},
    onnx::{ImportOptions, import, read_model, tensor_to_proto},
    tensor::{DType, Tensor},
};
use prost::Message;
use std::fs;

#[test]
fn a_new_network_is_inspected_run_and_evaluated() {
    let f = Folder::new("new");
    let made = f.json("new simple-cnn -o cnn.onnx --seed 3");
    assert_eq!(made["params"], 315_722);
    let seen = f.json("inspect cnn.onnx");
    assert_eq!((&seen["params"], &seen["macs"]), (&315_722.into(), &3_448_064.into()));
    assert_eq!(seen["size_bytes"], size(&f.path("cnn.onnx")));
    let conv = seen["layers"].as_array().unwrap().iter().find(|l| l["op"] == "Conv").unwrap();
    assert_eq!((&conv["params"], &conv["bits"], &conv["trains"]), (&896.into(), &32.into(), &true.into()));
    assert_eq!(conv["shape"], serde_json::json!([1, 32, 24, 24]));
    let frozen = f.json("inspect cnn.onnx --freeze conv1");
    assert_eq!(frozen["layers"].as_array().unwrap().iter().find(|l| l["op"] == "Conv").unwrap()["trains"], false);
    let plan = f.json("inspect cnn.onnx --plan --text --shape x=2x3x24x24");
    assert!(plan["plan"].as_str().unwrap().contains("conv") && plan["text"].as_str().unwrap().contains("Conv"));

    let x = Dataset::open("digits:heldout").unwrap().subset(&[0, 1]).unwrap().x();
    write_npy(&f.path("x.npy"), &x).unwrap();
    let ran = f.json("run cnn.onnx --input x=x.npy --output out");
    assert_eq!(ran["outputs"][0]["shape"], serde_json::json!([2, 10]));
    let logits = read_npy(&f.path("out/logits.npy")).unwrap();
    assert!(logits.shape() == [2, 10] && logits.to_f64s().iter().all(|v| v.is_finite()));
    f.fails("run cnn.onnx", 2);
    f.fails("run cnn.onnx --input y=x.npy", 2);
    f.fails("run cnn.onnx --input x=x.npy --shape x=3x3x24x24", 2);

    let e = f.json("eval cnn.onnx --data digits:heldout");
    assert_eq!(e["n"], 360);
    let counted: u64 = e["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|r| r.as_array().unwrap())
        .map(|c| c.as_u64().unwrap())
        .sum();
    assert_eq!(counted, 360);
    for key in ["loss", "top1", "top5", "macro_f1", "perplexity"] {
        assert!(e[key].is_number(), "{key}");
    }
}

#[test]
fn a_small_network_is_trained_pruned_quantized_and_reported() {
    let f = Folder::new("train");
    f.write_digits(64);
    f.json("new simple-cnn --width 4 -o start.onnx");
    let flags = "--data digits.npz --batch 16 --lr 0.05 --nesterov";
    let trained = f.json(&format!(
        "train start.onnx {flags} --epochs 6 --eval digits.npz --run run --timeline t.json -o dense.onnx"
    ));
    let loss: Vec<f64> =
        trained["steps"][0]["metrics"]["loss"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(loss.len(), 24);
    assert!(loss[23] < 0.8 * loss[0], "{loss:?}");
    assert_eq!(trained["result"]["accuracy"], f.json("eval dense.onnx --data digits.npz")["top1"]);
    assert!(fs::read_to_string(f.path("t.json")).unwrap().contains("\"ph\":\"X\""));

    let pruned = f.json(&format!("prune dense.onnx --sparsity 0.5 {flags} --epochs 1 -o pruned.onnx"));
    let (nonzero, params) =
        (pruned["result"]["nonzero"].as_u64().unwrap(), pruned["result"]["params"].as_u64().unwrap());
    assert!(nonzero as f64 <= 0.51 * params as f64, "{nonzero} of {params}");
    assert_eq!(f.json("inspect pruned.onnx")["nonzero"], nonzero);

    f.json(&format!("quantize pruned.onnx {flags} --qat-epochs 1 -o int8.onnx"));
    let seen = f.json("inspect int8.onnx");
    let products = seen["layers"].as_array().unwrap().iter().filter(|l| l["op"] == "Conv" || l["op"] == "MatMul");
    let bits: Vec<(u64, bool)> =
        products.map(|l| (l["bits"].as_u64().unwrap(), l["sparsity"].as_f64().unwrap() > 0.05)).collect();
    assert_eq!(bits.len(), 4);
    assert!(bits.iter().all(|(b, _)| *b == 8) && bits.iter().any(|(_, sparse)| *sparse), "{bits:?}");
    assert!(size(&f.path("int8.onnx")) < size(&f.path("dense.onnx")) / 2);

    f.json("report run pruned.run int8.run -o page.html");
    assert!(fs::read_to_string(f.path("page.html")).unwrap().contains("int8"));
}

/// Random batches and dynamic grids: the answers stay those of the float model, but for rounding.
#[test]
fn quantization_needs_no_data_set() {
    let f = Folder::new("quantize");
    f.write_digits(16);
    f.json("new simple-cnn --width 4 -o m.onnx");
    f.json("quantize m.onnx --calibration random --shape x=16x3x24x24 -o static.onnx");
    f.json("quantize m.onnx --scheme dynamic --weight-range full -o dynamic.onnx");
    let float = f.json("eval m.onnx --data digits.npz")["loss"].as_f64().unwrap();
    for file in ["static.onnx", "dynamic.onnx"] {
        let loss = f.json(&format!("eval {file} --data digits.npz"))["loss"].as_f64().unwrap();
        assert!((loss - float).abs() < 0.05 * float && loss != float, "{file}: {loss}, {float}");
    }
    let text = f.json("inspect dynamic.onnx --text")["text"].to_string();
    assert_eq!(text.matches(" DynamicQuantize(").count(), 4, "{text}");
    f.fails("quantize m.onnx -o out.onnx", 2);
    f.fails("quantize m.onnx --scheme dynamic --qat-epochs 1 -o out.onnx", 2);
}

#[test]
fn a_resumed_run_gives_the_bits_of_the_unbroken_one() {
    let f = Folder::new("resume");
    f.write_digits(48);
    f.json("new simple-cnn --width 2 -o start.onnx");
    let flags = "--data digits.npz --batch 16 --epochs 4 --schedule cosine --optimizer adamw";
    f.json(&format!("train start.onnx {flags} --checkpoint whole.ckpt --checkpoint-every 5 -o whole.onnx"));
    f.json(&format!("train start.onnx {flags} -o plain.onnx"));
    assert_eq!(fs::read(f.path("whole.onnx")).unwrap(), fs::read(f.path("plain.onnx")).unwrap());
    // The checkpoint of the finished run has nothing left to do and gives the same model again.
    f.json(&format!("train start.onnx {flags} --checkpoint whole.ckpt --checkpoint-every 5 -o again.onnx"));
    assert_eq!(fs::read(f.path("again.onnx")).unwrap(), fs::read(f.path("plain.onnx")).unwrap());
    let said =
        f.fails("train start.onnx --data digits.npz --batch 8 --epochs 4 --checkpoint whole.ckpt -o other.onnx", 2);
    assert!(said.contains("another run"), "{said}");
    assert!(!f.path("other.onnx").exists());
}

#[test]
fn bench_measures_inference_and_training() {
    let f = Folder::new("bench");
    f.json("new simple-cnn --width 2 -o m.onnx");
    for (name, height) in [("x.npy", 24), ("bad.npy", 9)] {
        write_npy(&f.path(name), &Tensor::zeros(DType::F32, &[2, 3, height, 24]).unwrap()).unwrap();
    }
    assert!(f.fails("bench m.onnx --input x=bad.npy", 2).contains("does not fit"));
    for (flags, trains) in [
        ("--batch 2 --runs 3", false),
        ("--input x=x.npy --runs 3", false),
        ("--batch 4 --runs 2 --train", true),
        ("--batch 4 --runs 2 --train --optimizer adamw", true),
    ] {
        let b = f.json(&format!("bench m.onnx {flags}"));
        for key in ["median_ms", "p10_ms", "p90_ms", "load_ms", "fma_peak_gflops", "int8_peak_gops"] {
            assert!(b[key].as_f64().unwrap() > 0.0, "{key}");
        }
        assert_eq!(b["times_ms"].as_array().unwrap().len() as u64, b["runs"].as_u64().unwrap());
        assert_eq!(b["images_per_s"].is_number(), trains);
        let layers = b["per_layer"].as_array().unwrap();
        let conv = layers.iter().find(|l| l["macs"].as_u64().unwrap() > 0).unwrap();
        assert!(conv["kernel"].is_string() && conv["gflops"].is_number() && conv["fraction_of_peak"].is_number());
        assert_eq!(layers.iter().any(|l| l["kernel"].as_str().unwrap().contains("weight_grad")), trains);
    }
}

/// A case with the right answer passes, with a wrong one fails with exit 1, and one that Penjing cannot run is neither.
#[test]
fn check_tells_right_wrong_and_unsupported_apart() {
    let f = Folder::new("check");
    f.json("new simple-cnn --width 2 -o m.onnx");
    let file = read_model(&f.path("m.onnx")).unwrap();
    let model = import(&file, &ImportOptions::default()).unwrap();
    let x = Dataset::open("digits").unwrap().subset(&[0]).unwrap().x();
    let run = penjing::reference::run(
        &model,
        &[("x".to_string(), x.clone())].into(),
        &Default::default(),
        penjing::reference::Precision::Declared,
    );
    let logits = run.unwrap().outputs["logits"].clone();
    let mut wrong = logits.clone();
    wrong.as_mut_slice::<f32>().unwrap()[3] += 0.01;
    for (case, want) in [("right", &logits), ("wrong", &wrong)] {
        let set = f.path(&format!("cases/{case}/test_data_set_0"));
        fs::create_dir_all(&set).unwrap();
        fs::copy(f.path("m.onnx"), f.path(&format!("cases/{case}/model.onnx"))).unwrap();
        fs::write(set.join("input_0.pb"), tensor_to_proto("x", &x).encode_to_vec()).unwrap();
        fs::write(set.join("output_0.pb"), tensor_to_proto("logits", want).encode_to_vec()).unwrap();
    }
    fs::create_dir_all(f.path("cases/strange")).unwrap();
    let mut strange = file.proto.clone();
    strange.graph.as_mut().unwrap().node[0].op_type = "HammingDistance".into();
    fs::write(f.path("cases/strange/model.onnx"), strange.encode_to_vec()).unwrap();

    let output = f.run("check cases --json");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], serde_json::json!(["right"]));
    assert_eq!((&report["failed"][0]["case"], &report["unsupported"][0]["case"]), (&"wrong".into(), &"strange".into()));
    assert!(text(&output.stderr).contains("HammingDistance"));
    assert_eq!(f.run("check cases/right").status.code(), Some(0));
    f.fails("check cases --only nothing", 2);
}

#[test]
fn wrong_usage_is_exit_2_and_says_what_to_do() {
    let f = Folder::new("usage");
    for line in ["", "train", "bench", "--isa mmx demo", "new simple-cnn", "inspect x.onnx --shape x=axb", "fly"] {
        f.fails(line, 2);
    }
    for (line, part) in [
        ("inspect absent.onnx", "absent.onnx"),
        ("inspect alexnet", "simple-cnn"),
        ("new alexnet -o a.onnx", "simple-cnn"),
        ("new gpt -o nowhere/a.onnx", "nowhere"),
        ("new gpt --width 0 -o a.onnx", "width"),
        ("eval simple-cnn --data absent.npz", "absent.npz"),
        ("train simple-cnn --data digits:train --epochs 0 -o a.onnx", "epochs"),
        ("train gpt --data digits:train --epochs 1 -o a.onnx", "i64[N,T]"),
        ("prune simple-cnn --sparsity 1.5 -o a.onnx", "1.5"),
        ("prune simple-cnn --sparsity 0.5 --epochs 2 -o a.onnx", "--data"),
        ("bench gpt --runs 1", "--shape"),
        ("report absent.run", "absent.run"),
        ("--threads 0 inspect simple-cnn", "threads"),
    ] {
        let said = f.fails(line, 2);
        assert!(
            said.starts_with("error: ") && said.contains(part) && said.trim_end().lines().count() == 1,
            "{line}: {said}"
        );
        assert!(f.entries().is_empty(), "{line}: {:?}", f.entries());
    }
    assert_eq!(f.run("--help").status.code(), Some(0));
    assert_eq!(f.run("--version").status.code(), Some(0));
}

/// What would fail after the training fails before it: these runs would train for hours, and leave nothing behind.
#[test]
fn what_fails_after_the_work_is_found_before_it() {
    let f = Folder::new("early");
    f.write_digits(32);
    f.json("new simple-cnn --width 2 -o m.onnx");
    let x: Tensor = Dataset::open("digits").unwrap().subset(&[0, 1]).unwrap().x();
    write_npy(&f.path("unlabelled.npy"), &x).unwrap();
    fs::write(f.path("words.txt"), "a text does not fit a network of images".repeat(9)).unwrap();
    let before = f.entries();
    let train = "train m.onnx --data digits.npz --epochs 1000000";
    for (line, part) in [
        (format!("{train} --eval absent.npz -o out.onnx"), "absent.npz"),
        (format!("{train} --eval unlabelled.npy -o out.onnx"), "label"),
        (format!("{train} --eval words.txt -o out.onnx"), "i64[128]"),
        (format!("{train} -o out.run"), "--run"),
        (format!("{train} --run words.txt -o out.onnx"), "words.txt is a file"),
        (format!("{train} --run words.txt/run -o out.onnx"), "words.txt is a file"),
        (format!("{train} -o nowhere/out.onnx"), "nowhere"),
        (format!("{train} -o /dev/null"), "not a regular file"),
        (format!("{train} --checkpoint /dev/null -o out.onnx"), "not a regular file"),
        ("prune m.onnx --sparsity 0.5 --eval absent.npz -o out.onnx".into(), "absent.npz"),
        ("quantize m.onnx --data digits.npz --qat-epochs 1000000 --eval absent.npz -o out.onnx".into(), "absent.npz"),
    ] {
        let said = f.fails(&line, 2);
        assert!(said.starts_with("error: ") && said.contains(part), "{line}: {said}");
        assert_eq!(f.entries(), before, "{line}");
    }
}

#[cfg(unix)]
#[test]
fn a_linked_output_is_written_through() {
    let f = Folder::new("link");
    fs::create_dir_all(f.path("models")).unwrap();
    fs::write(f.path("models/m.onnx"), "old").unwrap();
    std::os::unix::fs::symlink("models/m.onnx", f.path("link.onnx")).unwrap();
    f.json("new simple-cnn --width 2 -o link.onnx");
    assert!(fs::symlink_metadata(f.path("link.onnx")).unwrap().is_symlink());
    assert!(read_model(&f.path("models/m.onnx")).is_ok());
    assert_eq!(f.entries(), ["link.onnx", "models"]);
}

/// Cut and flipped files end in one clear error, or where a flip changes nothing that is checked, in a result; never in a panic,
/// and never with an output file beside an error.
#[test]
fn hostile_files_are_clear_errors() {
    let f = Folder::new("hostile");
    f.json("new simple-cnn --width 2 -o good.onnx");
    f.write_digits(2);
    let x: Tensor = Dataset::open("digits").unwrap().subset(&[0]).unwrap().x();
    write_npy(&f.path("good.npy"), &x).unwrap();
    let rows = [0, 1, 2].map(|i| (Some(png_square(24, 50 * i)), Some(i64::from(i))));
    fs::write(f.path("good.parquet"), parquet_file(&[&rows], zstd_properties())).unwrap();
    let before = f.entries();
    for (file, bad, line) in [
        ("good.onnx", "bad.onnx", "prune bad.onnx --sparsity 0.5 -o out.onnx"),
        ("good.npy", "bad.npy", "run good.onnx --input x=bad.npy --output out"),
        ("digits.npz", "bad.npz", "train good.onnx --data bad.npz --epochs 1 -o out.onnx"),
        ("good.parquet", "bad.parquet", "eval good.onnx --data bad.parquet"),
    ] {
        let clean = || {
            for rest in ["out.onnx", bad] {
                let _ = fs::remove_file(f.path(rest));
            }
            for rest in ["out", "out.run"] {
                let _ = fs::remove_dir_all(f.path(rest));
            }
        };
        let bytes = fs::read(f.path(file)).unwrap();
        fs::write(f.path(bad), &bytes).unwrap();
        let sound = f.run(line);
        assert_eq!(sound.status.code(), Some(0), "{line}, unchanged: {}", text(&sound.stderr));
        clean();
        let cuts = [0, 1, 7, 40, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1].map(|n| bytes[..n].to_vec());
        let flips = [0, 1, 2, 5, 9, 13, 30, 61, 100, bytes.len() / 2, bytes.len() - 9].map(|at| {
            let mut flipped = bytes.clone();
            let at = at.min(flipped.len() - 1);
            flipped[at] ^= 0x41;
            flipped
        });
        for (i, content) in cuts.iter().chain(&flips).enumerate() {
            fs::write(f.path(bad), content).unwrap();
            let output = f.run(line);
            let said = text(&output.stderr);
            match output.status.code() {
                Some(0) if i >= cuts.len() => {}
                Some(2) => {
                    let errors = said.lines().filter(|l| l.starts_with("error: ")).count();
                    assert_eq!(errors, 1, "{line}, content {i}: {said}");
                    let left: Vec<String> =
                        f.entries().into_iter().filter(|e| e != bad && !before.contains(e)).collect();
                    assert!(left.is_empty(), "{line}, content {i}: {left:?}");
                }
                other => panic!("{line}, content {i}: exit {other:?}: {said}"),
            }
            clean();
        }
    }
}
