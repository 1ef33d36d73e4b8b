//! Tensors that both engines can be given, and .npz files of them.

use anyhow::{Context, Result};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter};
use std::{fs::File, path::Path};

/// A named tensor in row-major order.
pub struct Array {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Data,
}

/// The element types of the models' inputs and outputs.
pub enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// Every array of the file.
pub fn read_npz(path: &Path) -> Result<Vec<Array>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut archive = NpzReader::new(file)?;
    let read = |file: &String| {
        let name = file.trim_end_matches(".npy").to_string();
        if let Ok(array) = archive.by_name::<ndarray::OwnedRepr<f32>, IxDyn>(file) {
            return Ok(Array { name, shape: array.shape().to_vec(), data: Data::F32(array.iter().copied().collect()) });
        }
        let array: ArrayD<i64> = archive.by_name(file)?;
        Ok(Array { name, shape: array.shape().to_vec(), data: Data::I64(array.iter().copied().collect()) })
    };
    NpzReader::new(File::open(path)?)?.names()?.iter().map(read).collect()
}

/// Writes the arrays under their names.
pub fn write_npz(path: &Path, arrays: &[Array]) -> Result<()> {
    let mut archive = NpzWriter::new(File::create(path)?);
    for array in arrays {
        let shape = IxDyn(&array.shape);
        match &array.data {
            Data::F32(data) => archive.add_array(array.name.as_str(), &ArrayD::from_shape_vec(shape, data.clone())?)?,
            Data::I64(data) => archive.add_array(array.name.as_str(), &ArrayD::from_shape_vec(shape, data.clone())?)?,
        }
    }
    archive.finish()?;
    Ok(())
}
