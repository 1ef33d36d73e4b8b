//! The pages of a column chunk, checked where the `parquet` crate trusts the file: it reserves memory for the page size that
//! a header declares, and asserts that offsets are not negative.

use ::parquet::{
    errors::{ParquetError, Result},
    file::{
        metadata::ColumnChunkMetaData,
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
};
use bytes::{Buf, Bytes, buf::Reader};
use std::{ops::Range, sync::Arc};

/// A page may decompress to this many bytes whatever its compressed size (writers aim at 1 MiB) …
const FREE_PAGE_BYTES: u64 = 16 << 20;
/// … and beyond that to this many times its compressed size.
const MAX_PAGE_EXPANSION: u64 = 1024;

/// The bytes of `chunk` in a file of `file_len` bytes, or what is wrong with them.
pub(super) fn span_of(chunk: &ColumnChunkMetaData, file_len: usize) -> std::result::Result<Range<usize>, String> {
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    let (Ok(start), Ok(len)) = (usize::try_from(start), usize::try_from(chunk.compressed_size())) else {
        return Err("a column chunk has a negative offset or size".to_owned());
    };
    match start.checked_add(len) {
        Some(end) if end <= file_len => Ok(start..end),
        _ => Err(format!("a column chunk of {len} bytes at {start} ends past the file's {file_len} bytes")),
    }
}

/// A reader of the pages of `chunk`, whose row group has `rows` rows.
pub(super) fn pages_of(
    file: &Bytes,
    chunk: &ColumnChunkMetaData,
    rows: usize,
) -> std::result::Result<SerializedPageReader<ChunkBytes>, String> {
    let end = span_of(chunk, file.len())?.end;
    if chunk.file_path().is_some() {
        return Err("a column chunk stands in another file".to_owned());
    }
    let source = Arc::new(ChunkBytes(file.slice(..end)));
    SerializedPageReader::new(source, chunk, rows, None).map_err(|e| e.to_string())
}

/// The file up to the chunk's end. The page reader calls `get_read` exactly where a page header starts.
pub(super) struct ChunkBytes(Bytes);

impl Length for ChunkBytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

impl ChunkReader for ChunkBytes {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let header = self.0.slice(usize::try_from(start)?.min(self.0.len())..);
        let (uncompressed, compressed) = declared_sizes(&header).ok_or_else(|| error("a page header is broken"))?;
        if compressed > header.len() as u64 || uncompressed > FREE_PAGE_BYTES.max(compressed * MAX_PAGE_EXPANSION) {
            return Err(error(format!(
                "a page declares {uncompressed} bytes from {compressed}, {} are present",
                header.len()
            )));
        }
        Ok(header.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let start = usize::try_from(start)?;
        let end = start.checked_add(length).filter(|&e| e <= self.0.len());
        Ok(self.0.slice(start..end.ok_or_else(|| error("a page ends past its column chunk"))?))
    }
}

/// The uncompressed and compressed page size of a page header: fields 2 and 3 of the Thrift struct `PageHeader` in compact
/// protocol, after field 1 (the type); all three are required i32s, each one byte of tag and a zigzag varint.
fn declared_sizes(header: &[u8]) -> Option<(u64, u64)> {
    const I32_NEXT_FIELD: u8 = 0x15;
    let mut at = 0;
    let mut field = || {
        (header.get(at) == Some(&I32_NEXT_FIELD)).then_some(())?;
        at += 1;
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = *header.get(at)?;
            at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                // Zigzag: odd numbers are negative.
                return (value & 1 == 0).then_some(value >> 1);
            }
        }
        None
    };
    field()?;
    Some((field()?, field()?))
}

fn error(message: impl Into<String>) -> ParquetError {
    ParquetError::General(message.into())
}

#[cfg(test)]
mod tests {
    use super::declared_sizes;

    #[test]
    fn sizes_are_read_from_the_first_three_fields() {
        assert_eq!(declared_sizes(&[0x15, 0, 0x15, 20, 0x15, 0x80, 0x02, 0]), Some((10, 128)));
        assert_eq!(declared_sizes(&[0x15, 0, 0x15, 21, 0x15, 2]), None, "negative");
        assert_eq!(declared_sizes(&[0x15, 0, 0x25, 20, 0x15, 2]), None, "another field");
        assert_eq!(declared_sizes(&[0x15, 0, 0x15, 20, 0x15, 0x80]), None, "cut short");
    }
}
