//! External data: tensor bytes that stand in files beside the model.
//!
//! A location is data from a hostile file: it must name a regular file under the model's own folder, without an absolute
//! path, `..` or a symbolic link on the way, and the range must lie inside the file.
//!
//! The maps are kept here, the model file's own among them. Large tensors stay in them; the memory of what was read beside
//! tensors is given back when the import is done.

use crate::{OnnxError, proto::TensorProto};
use bytes::Bytes;
use penjing_tensor::{DType, MappedFile, Tensor, map_file};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Tensors of fewer bytes are copied out of the file: they may share a page with others.
const MIN_MAPPED: usize = 4 << 10;

/// The folder whose files a model's tensors may name, with the files mapped so far.
pub struct ExternalFiles {
    file: String,
    folder: Option<PathBuf>,
    mapped: RefCell<BTreeMap<PathBuf, Mapped>>,
}

impl ExternalFiles {
    /// For a model read from `path`: its folder may be read.
    pub fn beside(path: &Path) -> ExternalFiles {
        let folder = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_path_buf(),
            None => PathBuf::from("."),
        };
        ExternalFiles { file: path.display().to_string(), folder: Some(folder), mapped: RefCell::default() }
    }

    /// For a model without a folder: external data is an error. `name` stands for the file in messages.
    pub fn none(name: &str) -> ExternalFiles {
        ExternalFiles { file: name.to_string(), folder: None, mapped: RefCell::default() }
    }

    /// The model file's name, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The tensor of these little-endian elements where they lie in a mapped file; `None` for what has to be copied.
    pub(crate) fn mapped(&self, dtype: DType, shape: &[usize], bytes: &[u8]) -> Option<Tensor> {
        if bytes.len() < MIN_MAPPED || dtype == DType::Bool || (cfg!(target_endian = "big") && dtype.size() > 1) {
            return None;
        }
        let mapped = self.mapped.borrow();
        let (file, part) = mapped.values().find_map(|m| Some((&m.0, m.0.position(bytes)?)))?;
        Tensor::mapped(dtype, shape, file, part).ok()
    }

    /// The bytes that `tensor` names, `need` of them. Nothing is allocated: the file is mapped.
    pub(crate) fn bytes(&self, tensor: &TensorProto, need: usize) -> Result<Bytes, OnnxError> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let location = entry("location").unwrap_or("");
        let fail = |why: String| OnnxError::ExternalData {
            tensor: tensor.name.clone(),
            file: self.file.clone(),
            location: location.to_string(),
            why,
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => {
                text.trim().parse::<usize>().map(Some).map_err(|_| fail(format!("{key} is '{text}', not a byte count")))
            }
        };
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(need);
        if length != need {
            return Err(fail(format!("declares {length} bytes, the tensor's type and dims need {need}")));
        }
        if need == 0 {
            return Ok(Bytes::new());
        }
        let folder = self.folder.as_ref().ok_or_else(|| fail("the model was not read from a folder".into()))?;
        let path = checked_path(folder, location).map_err(&fail)?;
        let mapped = self.map(&path).map_err(|e| fail(e.to_string()))?;
        let end = offset.checked_add(length).filter(|&end| end <= mapped.len());
        let end =
            end.ok_or_else(|| fail(format!("bytes {offset}+{length} are past the file's {} bytes", mapped.len())))?;
        Ok(mapped.slice(offset..end))
    }

    /// The bytes of the file at `path`: one of external data, or the one that the messages themselves come from.
    pub(crate) fn map(&self, path: &Path) -> std::io::Result<Bytes> {
        if let Some(mapped) = self.mapped.borrow().get(path) {
            return Ok(Bytes::from_owner(mapped.clone()));
        }
        let mapped = Mapped(Arc::new(map_file(path)?));
        self.mapped.borrow_mut().insert(path.to_path_buf(), mapped.clone());
        Ok(Bytes::from_owner(mapped))
    }
}

impl Drop for ExternalFiles {
    fn drop(&mut self) {
        self.mapped.borrow().values().for_each(|m| m.0.release(0..m.0.len()));
    }
}

/// A mapped file as an owner of [`Bytes`], so that messages borrow from it instead of copying.
#[derive(Clone)]
struct Mapped(Arc<MappedFile>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// `folder`/`location` when every step is a plain name and no step is a symbolic link.
fn checked_path(folder: &Path, location: &str) -> Result<PathBuf, String> {
    if location.is_empty() {
        return Err("no location is given".into());
    }
    if location.contains(['\\', '\0']) {
        return Err("the location holds a character that no portable file name has".into());
    }
    let mut path = folder.to_path_buf();
    for part in Path::new(location).components() {
        match part {
            Component::CurDir => continue,
            Component::Normal(name) => path.push(name),
            _ => return Err("the location must stay inside the model's folder".into()),
        }
        let meta = fs::symlink_metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        if meta.file_type().is_symlink() {
            return Err(format!("{} is a symbolic link", path.display()));
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ElemType, StringStringEntryProto};

    fn tensor(entries: &[(&str, &str)]) -> TensorProto {
        TensorProto {
            name: "w".into(),
            dims: vec![2],
            data_type: ElemType::Float as i32,
            data_location: 1,
            external_data: entries
                .iter()
                .map(|(k, v)| StringStringEntryProto { key: k.to_string(), value: v.to_string() })
                .collect(),
            ..TensorProto::default()
        }
    }

    #[test]
    fn large_tensors_stay_in_their_file() {
        let path = std::env::temp_dir().join(format!("penjing-mapped-{}.bin", std::process::id()));
        let content: Vec<u8> = (0..3 * MIN_MAPPED).map(|i| (i % 2) as u8).collect();
        fs::write(&path, &content).unwrap();
        let files = ExternalFiles::beside(&path);
        let bytes = files.map(&path).unwrap();
        let part = &bytes[3..3 + MIN_MAPPED];
        let tensor = files.mapped(DType::I8, &[MIN_MAPPED], part).unwrap();
        assert_eq!(tensor.bytes().as_ptr(), part.as_ptr());
        let floats = files.mapped(DType::F32, &[MIN_MAPPED / 4], part).unwrap();
        assert_eq!(floats, Tensor::from_bytes(DType::F32, &[MIN_MAPPED / 4], part).unwrap());
        assert_eq!(files.mapped(DType::I8, &[MIN_MAPPED - 1], &part[1..]), None, "small ones are copied");
        assert_eq!(files.mapped(DType::Bool, &[MIN_MAPPED], part), None, "truth values are checked");
        assert_eq!(files.mapped(DType::I8, &[content.len()], &content), None, "bytes from elsewhere");
        drop((bytes, files));
        assert_eq!(tensor.bytes(), &content[3..3 + MIN_MAPPED]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_ranges_of_files_in_the_folder_are_read() {
        let dir = std::env::temp_dir().join(format!("penjing-external-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/w.bin"), [0, 0, 128, 63, 0, 0, 0, 64, 9]).unwrap();
        fs::write(dir.with_extension("outside"), [0; 8]).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.with_extension("outside"), dir.join("link.bin")).unwrap();
        let files = ExternalFiles::beside(&dir.join("m.onnx"));
        let read = |entries: &[(&str, &str)]| files.bytes(&tensor(entries), 8).map_err(|e| e.to_string());

        assert_eq!(read(&[("location", "sub/w.bin")]).unwrap()[..], [0, 0, 128, 63, 0, 0, 0, 64]);
        assert_eq!(read(&[("location", "./sub/w.bin"), ("offset", "1"), ("length", "8")]).unwrap()[7], 9);
        let outside = dir.with_extension("outside");
        let up = format!("../{}", outside.file_name().unwrap().to_str().unwrap());
        for (bad, why) in [
            (vec![("location", "sub/w.bin"), ("offset", "2")], "past the file's 9 bytes"),
            (vec![("location", "sub/w.bin"), ("offset", "18446744073709551615")], "past the file's"),
            (vec![("location", "sub/w.bin"), ("offset", "-1")], "not a byte count"),
            (vec![("location", "sub/w.bin"), ("length", "9")], "need 8"),
            (vec![("location", up.as_str())], "inside the model's folder"),
            (vec![("location", outside.to_str().unwrap())], "inside the model's folder"),
            (vec![("location", "link.bin")], "symbolic link"),
            (vec![("location", "sub")], "not a regular file"),
            (vec![("location", "absent.bin")], "absent.bin"),
            (vec![], "no location"),
        ] {
            let message = read(&bad).unwrap_err();
            assert!(message.contains(why) && message.contains("'w'"), "{message}");
        }
        fs::remove_dir_all(&dir).unwrap();
        fs::remove_file(outside).unwrap();
    }
}
