//! NumPy's .npz files: zip archives of .npy entries, stored or deflated. Written stored, byte for byte reproducible.

use crate::{DataError, npy_from_bytes, npy_to_writer, write_atomically};
use penjing_tensor::{Tensor, map_file};
use std::{
    io::{self, Cursor, Read, Seek, Write},
    path::Path,
};
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Deflate cannot expand a byte to more than this many (RFC 1951: 258 bytes from 2 bits at best).
const DEFLATE_MAX_EXPANSION: u64 = 1032;

/// Reads every array of the file at `path`, in the order of the archive; names come without their `.npy`.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Tensor)>, DataError> {
    let map = map_file(path).map_err(|e| DataError::io("read", path, e))?;
    npz_from_bytes(&map, &path.display().to_string())
}

/// Writes the arrays to `path` in the given order, whole or not at all. `bf16` and repeated names are errors.
pub fn write_npz(path: &Path, arrays: &[(&str, &Tensor)]) -> Result<(), DataError> {
    write_atomically(path, |w| npz_to_writer(w, arrays))
}

/// The arrays in `bytes`, the contents of a whole .npz file; `name` stands for the file in errors.
pub fn npz_from_bytes(bytes: &[u8], name: &str) -> Result<Vec<(String, Tensor)>, DataError> {
    let bad = |reason: String| DataError::Npz { file: name.to_owned(), reason };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| bad(e.to_string()))?;
    let mut arrays: Vec<(String, Tensor)> = Vec::new();
    let mut compressed_total = 0u64;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| bad(format!("entry {i}: {e}")))?;
        let entry_name = entry.name().map_err(|e| bad(format!("the name of entry {i}: {e}")))?.into_owned();
        let key = entry_name
            .strip_suffix(".npy")
            .ok_or_else(|| bad(format!("entry {entry_name:?} is not an array (no .npy at its end)")))?;
        if arrays.iter().any(|(k, _)| k == key) {
            return Err(bad(format!("two arrays are named {key:?}")));
        }
        // Entries that share bytes, or that claim more than their bytes can hold, are what zip bombs are made of.
        compressed_total = compressed_total.saturating_add(entry.compressed_size());
        let limit = match entry.compression() {
            CompressionMethod::Stored => entry.compressed_size(),
            _ => entry.compressed_size().saturating_mul(DEFLATE_MAX_EXPANSION),
        };
        if compressed_total > bytes.len() as u64 || entry.size() > limit {
            let size = entry.size();
            return Err(bad(format!("entry {entry_name:?} declares {size} bytes, more than the file can hold")));
        }
        let mut contents = Vec::new();
        let declared = entry.size();
        (&mut entry)
            .take(declared.saturating_add(1))
            .read_to_end(&mut contents)
            .map_err(|e| bad(format!("entry {entry_name:?}: {e}")))?;
        if contents.len() as u64 != declared {
            return Err(bad(format!("entry {entry_name:?} does not hold the {declared} bytes it declares")));
        }
        let tensor = npy_from_bytes(&contents, &format!("{name}:{entry_name}"))?;
        arrays.push((key.to_owned(), tensor));
    }
    Ok(arrays)
}

/// Writes the arrays as a .npz archive: stored, in the given order, every time stamp 1980-01-01.
pub fn npz_to_writer(w: &mut (impl Write + Seek), arrays: &[(&str, &Tensor)]) -> io::Result<()> {
    let mut archive = ZipWriter::new(w);
    for (name, tensor) in arrays {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(tensor.size_bytes() as u64 >= u64::from(u32::MAX) - 4096);
        archive.start_file(format!("{name}.npy"), options)?;
        npy_to_writer(&mut archive, tensor)?;
    }
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_tensor::DType;

    fn sample() -> [(&'static str, Tensor); 2] {
        [
            ("x", Tensor::from_vec(&[2, 2], vec![1f32, -2.5, 3.0, 4.0]).unwrap()),
            ("folder/y", Tensor::from_vec(&[3], vec![7i64, 8, 9]).unwrap()),
        ]
    }

    fn written(arrays: &[(&str, &Tensor)]) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        npz_to_writer(&mut out, arrays).unwrap();
        out.into_inner()
    }

    #[test]
    fn arrays_come_back_in_order_and_the_bytes_repeat() {
        let [(a, x), (b, y)] = sample();
        let bytes = written(&[(a, &x), (b, &y)]);
        assert_eq!(bytes, written(&[(a, &x), (b, &y)]));
        let read = npz_from_bytes(&bytes, "t.npz").unwrap();
        assert_eq!(read, [(a.to_owned(), x), (b.to_owned(), y)]);
    }

    #[test]
    fn deflated_entries_are_read() {
        let x = Tensor::zeros(DType::F32, &[1000]).unwrap();
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        archive
            .start_file("x.npy", SimpleFileOptions::default().compression_method(CompressionMethod::Deflated))
            .unwrap();
        npy_to_writer(&mut archive, &x).unwrap();
        let bytes = archive.finish().unwrap().into_inner();
        assert!(bytes.len() < 1000);
        assert_eq!(npz_from_bytes(&bytes, "t.npz").unwrap(), [("x".to_owned(), x)]);
    }

    #[test]
    fn repeated_names_and_foreign_entries_are_errors() {
        let x = Tensor::scalar(1f32);
        let mut out = Cursor::new(Vec::new());
        assert!(npz_to_writer(&mut out, &[("x", &x), ("x", &x)]).is_err());
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("readme.txt", SimpleFileOptions::default()).unwrap();
        let bytes = archive.finish().unwrap().into_inner();
        assert!(npz_from_bytes(&bytes, "t.npz").unwrap_err().to_string().contains("readme.txt"));
    }
}
