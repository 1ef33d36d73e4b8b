//! Image classification data in Parquet, as Hugging Face `datasets` writes it: a column `img` or `image` that is a struct
//! {bytes, path} (or plain bytes) holding JPEG or PNG files, and an integer column `label`.
//!
//! Read one row group at a time; images are decoded on every core, order kept. Pages may be plain or zstd or Snappy
//! compressed. The file is hostile until parsed: `pages` and `values` check what the `parquet`
//! crate takes on trust.

mod pages;
mod values;

use crate::{DataError, Image, decode_image};
use ::parquet::{
    basic::Type,
    file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader},
    schema::types::ColumnDescriptor,
};
use bytes::Bytes;
use pages::{pages_of, span_of};
use penjing_tensor::map_file;
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};
use values::{read_values, take, take_sized};

/// No file of images has more rows than bits.
const MAX_ROWS_PER_BYTE: u64 = 8;
/// One row group may decode to this many times the file's size (and a fixed allowance): far above real images, which
/// compress some 10 to 1.
const MAX_EXPANSION: u64 = 4096;
const FREE_BYTES: u64 = 64 << 20;
/// Labels without a list of names must stay below this.
const MAX_CLASSES: i64 = 1 << 20;

/// Below this many images a thread costs more than it saves.
const FEWEST_PER_THREAD: usize = 16;

/// What to do with a row whose image or label is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadRecords {
    /// Stop with an error that names file and row.
    #[default]
    Fail,
    /// Leave the row out and count it.
    Skip,
}

/// The decoded rows of a row group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRows {
    /// In file order; sizes may differ.
    pub images: Vec<Image>,
    /// One for each image, never negative.
    pub labels: Vec<i64>,
    /// How many broken rows were left out.
    pub skipped: usize,
}

/// An open Parquet file of labelled images.
pub struct ParquetImages {
    name: String,
    bytes: Bytes,
    metadata: ParquetMetaData,
    image_column: usize,
    label_column: usize,
    label_names: Vec<String>,
}

impl ParquetImages {
    /// Opens the file at `path` and reads its footer.
    pub fn open(path: &Path) -> Result<ParquetImages, DataError> {
        let map = map_file(path).map_err(|e| DataError::io("read", path, e))?;
        ParquetImages::new(Bytes::from_owner(Mapped(map)), path.display().to_string())
    }

    /// The same from the contents of a whole file; `name` stands for it in errors.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<ParquetImages, DataError> {
        ParquetImages::new(Bytes::from(bytes), name.to_owned())
    }

    fn new(bytes: Bytes, name: String) -> Result<ParquetImages, DataError> {
        let bad = |reason: String| DataError::Parquet { file: name.clone(), reason };
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes).map_err(|e| bad(e.to_string()))?;
        let columns = metadata.file_metadata().schema_descr().columns();
        let image_column = find_column(columns.iter().map(AsRef::as_ref), is_image_column).map_err(&bad)?;
        let label_column = find_column(columns.iter().map(AsRef::as_ref), is_label_column).map_err(&bad)?;
        let mut rows = 0u64;
        for g in 0..metadata.num_row_groups() {
            let group = u64::try_from(metadata.row_group(g).num_rows())
                .map_err(|_| bad(format!("row group {g} declares a negative number of rows")))?;
            rows = rows.saturating_add(group);
            for column in [image_column, label_column] {
                let chunk = metadata.row_group(g).columns().get(column);
                chunk
                    .ok_or_else(|| "it lacks a column chunk".to_owned())
                    .and_then(|c| span_of(c, bytes.len()).map(drop))
                    .map_err(|reason| bad(format!("row group {g}: {reason}")))?;
            }
        }
        if rows > MAX_ROWS_PER_BYTE.saturating_mul(bytes.len() as u64) {
            return Err(bad(format!("{rows} rows are declared, {} bytes are present", bytes.len())));
        }
        let label_names = label_names(&metadata, columns[label_column].path().string().as_str());
        Ok(ParquetImages { name, bytes, metadata, image_column, label_column, label_names })
    }

    /// Number of row groups.
    pub fn row_groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// The classes' names in label order, from Hugging Face's metadata; empty when the file does not say.
    pub fn label_names(&self) -> &[String] {
        &self.label_names
    }

    /// Decodes row group `group`. A broken record is an error, or left out and counted; a broken page is always an error.
    pub fn read_row_group(&self, group: usize, bad_records: BadRecords) -> Result<ImageRows, DataError> {
        let bad = |reason: String| DataError::Parquet {
            file: self.name.clone(),
            reason: format!("row group {group}: {reason}"),
        };
        if group >= self.row_groups() {
            return Err(bad(format!("the file has {} row groups", self.row_groups())));
        }
        let group_rows = |g: usize| self.metadata.row_group(g).num_rows() as u64;
        let first_row: u64 = (0..group).map(group_rows).sum();
        let rows = group_rows(group) as usize;
        let images = self.images(group, rows).map_err(bad)?;
        let labels = self.labels(group, rows).map_err(bad)?;
        let budget = FREE_BYTES.saturating_add(MAX_EXPANSION.saturating_mul(self.bytes.len() as u64));
        let decoded = decode_all(&images, budget).map_err(bad)?;
        let mut out = ImageRows::default();
        for (i, (image, label)) in decoded.into_iter().zip(labels).enumerate() {
            match image.and_then(|image| Ok((image, self.check_label(label)?))) {
                Ok((image, label)) => {
                    out.images.push(image);
                    out.labels.push(label);
                }
                Err(_) if bad_records == BadRecords::Skip => out.skipped += 1,
                Err(reason) => {
                    return Err(DataError::Record { file: self.name.clone(), row: first_row + i as u64, reason });
                }
            }
        }
        Ok(out)
    }

    fn images(&self, group: usize, rows: usize) -> Result<Vec<Option<Bytes>>, String> {
        let chunk = self.metadata.row_group(group).column(self.image_column);
        match chunk.column_type() {
            Type::BYTE_ARRAY => read_values(pages_of(&self.bytes, chunk, rows)?, rows, full_level(chunk), take_sized),
            other => Err(format!("the image column holds {other}, not byte arrays")),
        }
    }

    fn labels(&self, group: usize, rows: usize) -> Result<Vec<Option<i64>>, String> {
        let chunk = self.metadata.row_group(group).column(self.label_column);
        let pages = pages_of(&self.bytes, chunk, rows)?;
        match chunk.column_type() {
            Type::INT64 => read_values(pages, rows, full_level(chunk), |data| {
                Some(i64::from_le_bytes(take(data, 8)?.as_ref().try_into().ok()?))
            }),
            Type::INT32 => read_values(pages, rows, full_level(chunk), |data| {
                Some(i32::from_le_bytes(take(data, 4)?.as_ref().try_into().ok()?).into())
            }),
            other => Err(format!("the label column holds {other}, not integers")),
        }
    }

    fn check_label(&self, label: Option<i64>) -> Result<i64, String> {
        let label = label.ok_or("the label is null")?;
        let classes = if self.label_names.is_empty() { MAX_CLASSES } else { self.label_names.len() as i64 };
        if (0..classes).contains(&label) { Ok(label) } else { Err(format!("label {label} is outside 0..{classes}")) }
    }
}

/// The definition level of a value that is present.
fn full_level(chunk: &ColumnChunkMetaData) -> u32 {
    u32::from(chunk.column_descr().max_def_level().unsigned_abs())
}

struct Mapped(penjing_tensor::MappedFile);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn is_image_column(path: &str) -> bool {
    matches!(path, "img.bytes" | "image.bytes" | "img" | "image")
}

fn is_label_column(path: &str) -> bool {
    matches!(path, "label" | "labels" | "fine_label")
}

/// The index of the one flat column that `wanted` accepts; the error lists what the file has.
fn find_column<'a>(
    columns: impl Iterator<Item = &'a ColumnDescriptor> + Clone,
    wanted: impl Fn(&str) -> bool,
) -> Result<usize, String> {
    let mut found = columns.clone().enumerate().filter(|(_, c)| wanted(&c.path().string()) && c.max_rep_level() == 0);
    match (found.next(), found.next()) {
        (Some((i, _)), None) => Ok(i),
        (Some(_), Some(_)) => Err("two columns could be the image or the label".to_owned()),
        (None, _) => {
            let have: Vec<String> = columns.map(|c| c.path().string()).collect();
            Err(format!(
                "wanted are a column img or image (struct of bytes and path) and an integer column label; the file has {}",
                have.join(", ")
            ))
        }
    }
}

/// The class names that Hugging Face keeps in the footer under the key `huggingface`; empty when there are none.
fn label_names(metadata: &ParquetMetaData, label_column: &str) -> Vec<String> {
    let entries = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
    let names = || {
        let text = entries.iter().find(|kv| kv.key == "huggingface")?.value.as_ref()?;
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        let names = json.pointer("/info/features")?.get(label_column)?.get("names")?.as_array()?;
        names.iter().map(|n| n.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    names().unwrap_or_default()
}

/// Every image decoded, in order, on as many threads as the machine has; an error when together they exceed `budget` bytes.
fn decode_all(records: &[Option<Bytes>], budget: u64) -> Result<Vec<Result<Image, String>>, String> {
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(records.len() / FEWEST_PER_THREAD + 1);
    let decoded = AtomicU64::new(0);
    let decode = |record: &Option<Bytes>| {
        if decoded.load(Ordering::Relaxed) > budget {
            return Err("not decoded: the budget is used up".to_owned());
        }
        let image = decode_image(record.as_ref().ok_or("the image is null")?)?;
        decoded.fetch_add(image.pixels.len() as u64, Ordering::Relaxed);
        Ok(image)
    };
    let chunk = records.len().div_ceil(threads).max(1);
    let parts = if threads == 1 {
        vec![records.iter().map(decode).collect::<Vec<_>>()]
    } else {
        std::thread::scope(|scope| {
            let workers: Vec<_> = records
                .chunks(chunk)
                .map(|part| scope.spawn(move || part.iter().map(decode).collect::<Vec<_>>()))
                .collect();
            let parts: Result<Vec<_>, _> = workers.into_iter().map(|w| w.join()).collect();
            parts.map_err(|_| "a thread that decodes images panicked".to_owned())
        })?
    };
    if decoded.into_inner() > budget {
        return Err(format!("its images decode to more than {budget} bytes, beyond what its size warrants"));
    }
    Ok(parts.into_iter().flatten().collect())
}
