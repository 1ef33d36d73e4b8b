//! ONNX test-case folders: `model.onnx` beside `test_data_set_N/{input,output}_K.pb`.

use crate::{
    ExternalFiles, OnnxError,
    proto::{TensorProto, ValueInfoProto, ValueType},
    tensor_from_proto,
};
use penjing_tensor::Tensor;
use prost::Message;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The files of one test case. Nothing but their names has been read.
#[derive(Clone, Debug)]
pub struct TestCase {
    /// The folder's name.
    pub name: String,
    /// `model.onnx`.
    pub model: PathBuf,
    /// The data sets, by number.
    pub data_sets: Vec<TestDataSet>,
}

/// The files of one data set: the K-th belongs to the K-th graph input or output.
#[derive(Clone, Debug)]
pub struct TestDataSet {
    /// The folder.
    pub folder: PathBuf,
    /// Input files with the index of the graph input each belongs to, ascending.
    pub inputs: Vec<(usize, PathBuf)>,
    /// Output files with the index of the graph output each belongs to, ascending.
    pub outputs: Vec<(usize, PathBuf)>,
}

/// The test case in `folder`.
///
/// # Errors
/// `Io` when the folder cannot be listed or has no `model.onnx`.
pub fn read_test_case(folder: &Path) -> Result<TestCase, OnnxError> {
    let model = folder.join("model.onnx");
    if !model.is_file() {
        return Err(OnnxError::Io { path: model, source: io::ErrorKind::NotFound.into() });
    }
    let mut data_sets = numbered(folder, "test_data_set_", "")?
        .into_iter()
        .map(|(_, folder)| {
            let inputs = numbered(&folder, "input_", ".pb")?;
            let outputs = numbered(&folder, "output_", ".pb")?;
            Ok(TestDataSet { folder, inputs, outputs })
        })
        .collect::<Result<Vec<_>, OnnxError>>()?;
    data_sets.retain(|set| set.folder.is_dir());
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(TestCase { name, model, data_sets })
}

/// The tensor in the file at `path`, which holds the value that `info` declares.
///
/// # Errors
/// `UnsupportedValue` when `info` declares a sequence, an optional or another kind that is no tensor; `Io`, `NotOnnx`,
/// `Tensor` and `UnsupportedElement` as the file deserves.
pub fn read_test_tensor(path: &Path, info: &ValueInfoProto) -> Result<Tensor, OnnxError> {
    let file = path.display().to_string();
    if let Some(value) = info.r#type.as_ref().and_then(|t| t.value.as_ref())
        && !matches!(value, ValueType::Tensor(_))
    {
        return Err(OnnxError::UnsupportedValue { value: info.name.clone(), file, kind: value.kind().to_string() });
    }
    let files = ExternalFiles::none(&file);
    let mapped = files.map(path).map_err(|source| OnnxError::Io { path: path.to_path_buf(), source })?;
    let proto = TensorProto::decode(mapped).map_err(|e| OnnxError::NotOnnx { file, why: e.to_string() })?;
    tensor_from_proto(&proto, &files)
}

/// The entries `<prefix><number><suffix>` of a folder, by number.
fn numbered(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<(usize, PathBuf)>, OnnxError> {
    let fail = |source| OnnxError::Io { path: folder.to_path_buf(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)).and_then(|n| n.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::{ElementTypeProto, TypeProto},
        tensor_to_proto,
    };

    #[test]
    fn files_are_ordered_by_number_and_sequences_refused() {
        let dir = std::env::temp_dir().join(format!("penjing-case-{}", std::process::id()));
        let set = dir.join("test_data_set_0");
        fs::create_dir_all(&set).unwrap();
        assert!(matches!(read_test_case(&dir), Err(OnnxError::Io { .. })));
        fs::write(dir.join("model.onnx"), []).unwrap();
        for k in [10i64, 2, 0] {
            fs::write(set.join(format!("input_{k}.pb")), tensor_to_proto("x", &Tensor::scalar(k)).encode_to_vec())
                .unwrap();
        }
        fs::write(set.join("notes.txt"), []).unwrap();
        let case = read_test_case(&dir).unwrap();
        let inputs = &case.data_sets[0].inputs;
        assert_eq!(inputs.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [0, 2, 10]);
        let plain = ValueInfoProto { name: "x".into(), ..ValueInfoProto::default() };
        assert_eq!(read_test_tensor(&inputs[2].1, &plain).unwrap(), Tensor::scalar(10i64));
        let kind = ValueType::Sequence(ElementTypeProto::default());
        let list = ValueInfoProto { r#type: Some(TypeProto { value: Some(kind) }), ..plain };
        assert!(read_test_tensor(&inputs[2].1, &list).is_err_and(|e| e.is_unsupported()));
        fs::remove_dir_all(&dir).unwrap();
    }
}
