//! Truncated, bit-flipped and absurd files: each is an error value or a valid read, never a panic or a huge allocation.

mod common;

use common::{good_rows, parquet_file, snappy_properties, zstd_properties};
use parquet::file::properties::{EnabledStatistics, WriterPropertiesBuilder};
use penjing_data::{
    BadRecords, ParquetImages, decode_image, npy_from_bytes, npy_to_writer, npz_from_bytes, npz_to_writer,
};
use penjing_tensor::{DType, Rng, Tensor};
use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What the whole process may reserve beyond its start over all cases of a test: the files here are a few KiB.
const MAX_GROWTH_KIB: u64 = 1 << 20;

/// Every truncation, every single flipped bit, and `random` seeded mixtures of overwritten bytes, cut and repeated ranges.
fn mutations(valid: &[u8], random: u64) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    let truncated = (0..valid.len()).map(|n| (format!("cut to {n} bytes"), valid[..n].to_vec()));
    let flipped = (0..valid.len() * 8).map(|bit| {
        let mut bytes = valid.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        (format!("bit {} of byte {} flipped", bit % 8, bit / 8), bytes)
    });
    let mixed = (0..random).map(|i| {
        let rng = Rng::new(i, "mutation", 0);
        let mut bytes = valid.to_vec();
        for step in 0..=rng.below(0, 4) {
            let at = rng.below(10 * step + 1, bytes.len().max(1) as u64) as usize;
            let len = (rng.below(10 * step + 2, 16) as usize).min(bytes.len() - at);
            match rng.below(10 * step + 3, 4) {
                0 => bytes[at..at + len].fill(0xFF),
                1 => bytes[at..at + len].iter_mut().for_each(|b| *b = rng.bits(u64::from(*b) + 1000 * step) as u8),
                2 => drop(bytes.drain(at..at + len)),
                _ => bytes.extend_from_within(at..at + len),
            }
            if bytes.is_empty() {
                break;
            }
        }
        (format!("random mutation {i}"), bytes)
    });
    truncated.chain(flipped).chain(mixed)
}

/// Runs `read` on every mutation; it returns whether the file was taken as valid. Returns how many were refused.
fn refuse_or_read(what: &str, valid: &[u8], random: u64, read: impl Fn(&[u8]) -> bool) -> usize {
    assert!(read(valid), "{what}: the unchanged file is valid");
    let before = peak_virtual_kib();
    let mut refused = 0;
    for (case, bytes) in mutations(valid, random) {
        match catch_unwind(AssertUnwindSafe(|| read(&bytes))) {
            Ok(valid) => refused += usize::from(!valid),
            Err(_) => panic!("{what}: panic on {case}"),
        }
        let grown = peak_virtual_kib() - before;
        assert!(grown < MAX_GROWTH_KIB, "{what}: {grown} KiB reserved after {case}");
    }
    refused
}

/// The peak of the process's address space as Linux counts it; 0 elsewhere, where only panics are looked for.
fn peak_virtual_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn npy_bytes() {
    let t = Tensor::from_vec(&[2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let mut valid = Vec::new();
    npy_to_writer(&mut valid, &t).unwrap();
    let refused = refuse_or_read("npy", &valid, 20_000, |b| npy_from_bytes(b, "t.npy").is_ok());
    assert!(refused > valid.len(), "every truncation at least: {refused}");
}

#[test]
fn npz_bytes() {
    let x = Tensor::from_vec(&[3], vec![1i64, 2, 3]).unwrap();
    let y = Tensor::zeros(DType::F32, &[100]).unwrap();
    let mut stored = Cursor::new(Vec::new());
    npz_to_writer(&mut stored, &[("x", &x), ("y", &y)]).unwrap();
    let mut deflated = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, t) in [("x.npy", &x), ("y.npy", &y)] {
        deflated.start_file(name, options).unwrap();
        npy_to_writer(&mut deflated, t).unwrap();
    }
    for (what, valid) in
        [("npz, stored", stored.into_inner()), ("npz, deflated", deflated.finish().unwrap().into_inner())]
    {
        let refused = refuse_or_read(what, &valid, 10_000, |b| npz_from_bytes(b, "t.npz").is_ok());
        assert!(refused > valid.len(), "every truncation at least: {refused}");
    }
}

#[test]
fn parquet_bytes() {
    let rows = good_rows(3);
    let small = |properties: WriterPropertiesBuilder| {
        parquet_file(&[&rows], properties.set_statistics_enabled(EnabledStatistics::Page))
    };
    for (what, valid) in [("zstd", small(zstd_properties())), ("snappy", small(snappy_properties()))] {
        let refused = refuse_or_read(what, &valid, 2_000, |b| {
            let Ok(file) = ParquetImages::from_bytes(b.to_vec(), "t.parquet") else { return false };
            (0..file.row_groups()).all(|g| file.read_row_group(g, BadRecords::Skip).is_ok())
        });
        assert!(refused > valid.len(), "every truncation at least: {refused}");
    }
}

#[test]
fn image_bytes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in ["baseline.jpg", "progressive.jpg", "grey.jpg", "palette.png"] {
        let valid = std::fs::read(folder.join(name)).unwrap();
        let refused = refuse_or_read(name, &valid, 2_000, |b| decode_image(b).is_ok());
        assert!(refused > valid.len() / 2, "{name}: most truncations at least: {refused}");
    }
}

/// The first page header (after the magic PAR1) made to declare 2³¹ − 1 bytes: field 2, a zigzag varint.
#[test]
fn an_absurd_page_size_is_refused_before_it_is_reserved() {
    let mut bytes = parquet_file(&[&good_rows(3)], zstd_properties());
    assert_eq!(bytes[..4], *b"PAR1");
    assert_eq!([bytes[4], bytes[6]], [0x15; 2], "fields 1 and 2 are i32");
    let size_end = 7 + bytes[7..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
    bytes.splice(7..size_end, [0xFE, 0xFF, 0xFF, 0xFF, 0x0F]);
    let before = peak_virtual_kib();
    let file = ParquetImages::from_bytes(bytes, "t.parquet").unwrap();
    let error = file.read_row_group(0, BadRecords::Skip).unwrap_err().to_string();
    assert!(error.contains("a page declares 2147483647 bytes"), "{error}");
    assert!(peak_virtual_kib() - before < MAX_GROWTH_KIB);
}
