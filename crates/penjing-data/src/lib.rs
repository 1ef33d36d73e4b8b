//! Datasets and array files: everything that turns bytes on disk into batches, and results into array files.
//!
//! A file is hostile until parsed: what it declares is checked against the bytes that are present before anything is
//! allocated, and a broken file is an error value, never a panic. The crate knows tensors only, no graphs and no training.

mod atomic;
mod augment;
mod dataset;
mod digits;
mod error;
mod glob;
mod image;
mod loader;
mod normalization;
mod npy;
mod npz;
mod parquet;
mod resize;
mod text;

pub use atomic::{output_file, write_atomically};
pub use augment::{Crop, Flip, Placement};
pub use dataset::{Dataset, OpenOptions};
pub use digits::{DIGITS_HELD_OUT, Digits, Digits24, digits, digits_24};
pub use error::DataError;
pub use image::{Image, decode_image};
pub use loader::{Batch, Loader, LoaderConfig, Order, Shard};
pub use normalization::Normalization;
pub use npy::{npy_from_bytes, npy_to_writer, read_npy, write_npy};
pub use npz::{npz_from_bytes, npz_to_writer, read_npz, write_npz};
pub use parquet::{BadRecords, ImageRows, ParquetImages};
pub use resize::resize_bilinear;
