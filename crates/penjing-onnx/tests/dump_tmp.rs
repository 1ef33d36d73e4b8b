#[test]
fn dump() {
    let out = std::path::Path::new("/tmp/dump");
    std::fs::create_dir_all(out).unwrap();
    for dir in ["../../bench/out/zoo", "/tmp/onnx-node/onnx-node"] {
        for e in std::fs::read_dir(dir).unwrap() {
            let p = e.unwrap().path();
            let (p, name) = if p.is_dir() { (p.join("model.onnx"), p.file_name().unwrap().to_owned()) } else { (p.clone(), p.file_stem().unwrap().to_owned()) };
            if p.extension().is_none_or(|e| e != "onnx") { continue; }
            let Ok(f) = penjing_onnx::read_model(&p) else { continue };
            let Ok(m) = penjing_onnx::import(&f, &Default::default()) else { continue };
            let Ok(x) = penjing_onnx::export(&m) else { continue };
            penjing_onnx::write_model(&out.join(format!("{}.onnx", name.to_str().unwrap())), &x).unwrap();
        }
    }
}
