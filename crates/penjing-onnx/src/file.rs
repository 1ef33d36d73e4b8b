//! Reading and writing whole model files.

use crate::{
    ExternalFiles, OnnxError,
    proto::{ModelProto, StringStringEntryProto, TensorProto},
};
use bytes::Bytes;
use prost::Message;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// A decoded model and where its external data may stand.
pub struct ModelFile {
    /// The messages; tensor bytes still lie in the mapped file.
    pub proto: ModelProto,
    /// The model's folder.
    pub files: ExternalFiles,
}

/// Largest single message that every protobuf reader accepts (2 GiB), less a margin for what is not tensor data.
const MAX_MESSAGE: usize = (1 << 31) - (1 << 24);

/// Tensors smaller than this stay in the model when others move to external data.
const MIN_EXTERNAL: usize = 1 << 10;

/// External tensors start at multiples of this, so that a mapped one is page-aligned (ONNX, "External Data").
const EXTERNAL_ALIGN: usize = 1 << 12;

/// Reads the model at `path` through a memory map.
///
/// # Errors
/// `Io` when the file cannot be mapped; `NotOnnx` when it is empty, truncated, nested too deeply or no model at all.
pub fn read_model(path: &Path) -> Result<ModelFile, OnnxError> {
    let files = ExternalFiles::beside(path);
    let mapped = files.map(path).map_err(|source| OnnxError::Io { path: path.to_path_buf(), source })?;
    Ok(ModelFile { proto: decode_model(mapped, files.file())?, files })
}

/// Reads a model from memory; `name` stands for the file in messages. Such a model cannot have external data.
///
/// # Errors
/// As [`read_model`].
pub fn read_model_bytes(bytes: impl Into<Bytes>, name: &str) -> Result<ModelFile, OnnxError> {
    Ok(ModelFile { proto: decode_model(bytes.into(), name)?, files: ExternalFiles::none(name) })
}

/// Writes `model` to `path`: to a temporary file beside it, synced, then renamed.
///
/// A model over 2 GB less a margin keeps its tensors of 1 KiB and more in `<file name>.data` beside it, as external data.
///
/// # Errors
/// `Io` when a file cannot be written; `Write` when even the model without its tensors is too large for protobuf. The
/// destination is then as it was, with one exception: external data is renamed before the model, so when the model's own rename
/// fails (or the process ends between the two), the new data stands beside what was at `path` before.
pub fn write_model(path: &Path, model: &ModelProto) -> Result<(), OnnxError> {
    write_model_limited(path, model, MAX_MESSAGE)
}

fn write_model_limited(path: &Path, model: &ModelProto, max_message: usize) -> Result<(), OnnxError> {
    if model.encoded_len() <= max_message {
        return write_beside(path, |out| out.write_all(&model.encode_to_vec()))?.rename();
    }
    let mut slim = model.clone();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let location = format!("{name}.data");
    let mut moved: Vec<(usize, Bytes)> = Vec::new();
    let mut end = 0usize;
    for tensor in slim.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        let Some(bytes) = tensor.raw_data.take_if(|raw| raw.len() >= MIN_EXTERNAL) else { continue };
        let offset = end.next_multiple_of(EXTERNAL_ALIGN);
        end = offset + bytes.len();
        point_outside(tensor, &location, offset, bytes.len());
        moved.push((offset, bytes));
    }
    if slim.encoded_len() > max_message {
        let why =
            format!("without its initializers it still has {} bytes, more than protobuf allows", slim.encoded_len());
        return Err(OnnxError::Write { why });
    }
    let data = write_beside(&path.with_file_name(&location), |out| {
        let mut at = 0;
        for (offset, bytes) in &moved {
            io::copy(&mut io::Read::take(io::repeat(0), (offset - at) as u64), out)?;
            out.write_all(bytes)?;
            at = offset + bytes.len();
        }
        Ok(())
    })?;
    let model = write_beside(path, |out| out.write_all(&slim.encode_to_vec()))?;
    data.rename()?;
    model.rename()
}

fn point_outside(tensor: &mut TensorProto, location: &str, offset: usize, length: usize) {
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
    tensor.data_location = 1;
    tensor.external_data = vec![
        entry("location", location.into()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

fn decode_model(bytes: Bytes, name: &str) -> Result<ModelProto, OnnxError> {
    let fail = |why: String| OnnxError::NotOnnx { file: name.to_string(), why };
    if bytes.is_empty() {
        return Err(fail("the file is empty".into()));
    }
    let len = bytes.len();
    let proto = ModelProto::decode(bytes)
        .map_err(|e| fail(format!("{e} ({len} bytes); the file is truncated, damaged or of another format")))?;
    if proto.graph.is_none() {
        return Err(fail("it holds no graph; the file is truncated or of another format".into()));
    }
    if proto.opset_import.is_empty() && proto.ir_version >= 3 {
        return Err(fail("it names no operator set; the file is truncated or damaged".into()));
    }
    Ok(proto)
}

/// A complete, synced temporary file that is to stand at `path`. Dropping it removes it.
struct Pending {
    temp: PathBuf,
    path: PathBuf,
}

impl Pending {
    fn rename(self) -> Result<(), OnnxError> {
        fs::rename(&self.temp, &self.path).map_err(|source| OnnxError::Io { path: self.path.clone(), source })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Nothing is there after the rename, or when the file never came to be.
        let _ = fs::remove_file(&self.temp);
    }
}

/// Writes a temporary file beside `path` and syncs it; on error nothing is left behind.
fn write_beside(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Pending, OnnxError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let pending = Pending { temp: path.with_file_name(name), path: path.to_path_buf() };
    let done = File::create(&pending.temp).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    });
    match done {
        Ok(()) => Ok(pending),
        Err(source) => Err(OnnxError::Io { path: path.to_path_buf(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::{GraphProto, NodeProto, OperatorSetIdProto},
        tensor_from_proto, tensor_to_proto,
    };
    use penjing_tensor::Tensor;

    fn model() -> ModelProto {
        let big = Tensor::from_vec(&[300], (0..300).map(|i| i as f32).collect()).unwrap();
        let next = Tensor::from_vec(&[600], (0..600).map(|i| -i as f32).collect()).unwrap();
        ModelProto {
            ir_version: 10,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 21 }],
            graph: Some(GraphProto {
                initializer: vec![
                    tensor_to_proto("a", &big),
                    tensor_to_proto("small", &Tensor::scalar(3i64)),
                    tensor_to_proto("b", &next),
                ],
                node: vec![NodeProto { op_type: "Add".into(), ..NodeProto::default() }],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn large_models_move_their_tensors_outside() {
        let dir = std::env::temp_dir().join(format!("penjing-file-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let model = model();
        let path = dir.join("m.onnx");
        write_model(&path, &model).unwrap();
        assert_eq!(read_model(&path).unwrap().proto, model);

        write_model_limited(&path, &model, 1000).unwrap();
        let back = read_model(&path).unwrap();
        let tensors = &back.proto.graph.as_ref().unwrap().initializer;
        assert_eq!(tensors.iter().map(|t| t.data_location).collect::<Vec<_>>(), [1, 0, 1]);
        for (read, wrote) in tensors.iter().zip(&model.graph.as_ref().unwrap().initializer) {
            let inside = tensor_from_proto(wrote, &ExternalFiles::none("")).unwrap();
            assert_eq!(tensor_from_proto(read, &back.files).unwrap(), inside);
        }
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m.onnx", "m.onnx.data"]);
        assert!(matches!(write_model_limited(&path, &model, 10), Err(OnnxError::Write { .. })));

        // The model cannot be written where a folder is in the way of its temporary file: the data then stays as it was.
        let before = fs::read(dir.join("m.onnx.data")).unwrap();
        let obstacle = dir.join(format!("m.onnx.{}.tmp", std::process::id()));
        fs::create_dir(&obstacle).unwrap();
        let mut other = model.clone();
        other.graph.as_mut().unwrap().initializer.remove(0);
        assert!(matches!(write_model_limited(&path, &other, 1000), Err(OnnxError::Io { .. })));
        assert_eq!(fs::read(dir.join("m.onnx.data")).unwrap(), before);
        fs::remove_dir(&obstacle).unwrap();
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m.onnx", "m.onnx.data"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let bytes = model().encode_to_vec();
        for bad in [
            &b""[..],
            b"PK\x03\x04 some zip file",
            b"{\"json\": true}",
            &[0xff; 64],
            &bytes[..bytes.len() / 2],
            &[0x08, 0x0a],
        ] {
            let error = read_model_bytes(bad.to_vec(), "x.onnx").err().unwrap();
            assert!(matches!(&error, OnnxError::NotOnnx { file, .. } if file == "x.onnx"), "{error}");
        }
        assert!(matches!(read_model(Path::new("/nonexistent/m.onnx")), Err(OnnxError::Io { .. })));
    }

    #[test]
    fn nesting_beyond_the_limit_is_an_error() {
        // Field 6 of an attribute is a graph, field 1 of a graph a node, field 5 of a node an attribute.
        let mut inner: Vec<u8> = vec![];
        for tag in [0x32, 0x2a, 0x0a].repeat(100) {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.extend_from_slice(&inner);
            inner = outer;
        }
        let mut file = vec![0x3a];
        prost::encoding::encode_varint(inner.len() as u64, &mut file);
        file.extend_from_slice(&inner);
        let error = read_model_bytes(file, "deep").err().unwrap();
        assert!(error.to_string().contains("recursion"), "{error}");
    }
}
