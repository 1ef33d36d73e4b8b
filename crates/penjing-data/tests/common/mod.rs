//! Small valid files for the tests, made in memory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)] // each test program uses its own part

use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{
        metadata::KeyValue,
        properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};
use std::{path::PathBuf, sync::Arc};

/// The schema that Hugging Face `datasets` writes for an image column `img`.
const SCHEMA: &str = "message schema {
    optional group img { optional binary bytes; optional binary path (UTF8); }
    optional int64 label;
}";

/// One row: the image file's bytes and the label, either may be null.
pub type Row = (Option<Vec<u8>>, Option<i64>);

/// The folder of outside data, or `None` with a note that the calling test is skipped.
pub fn outside_data(part: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PENJING_TEST_DATA").map(|root| PathBuf::from(root).join(part));
    match path {
        Some(path) if path.exists() => Some(path),
        _ => {
            println!("skipped: no {part} under $PENJING_TEST_DATA");
            None
        }
    }
}

/// A 2×2 RGB PNG whose twelve samples are `first`, `first` + 1, ...
pub fn png_image(first: u8) -> Vec<u8> {
    png_square(2, first)
}

/// A `size`×`size` RGB PNG whose samples are `first`, `first` + 1, ..., wrapping.
pub fn png_square(size: u32, first: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size, size);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let samples: Vec<u8> = (0..3 * size * size).map(|i| first.wrapping_add(i as u8)).collect();
    encoder.write_header().unwrap().write_image_data(&samples).unwrap();
    bytes
}

/// `n` good rows with labels 0, 1, 2, 0, ...
pub fn good_rows(n: usize) -> Vec<Row> {
    (0..n).map(|i| (Some(png_image(10 * i as u8)), Some(i as i64 % 3))).collect()
}

/// Version 1 pages, zstd, dictionaries, class names a, b, c.
pub fn zstd_properties() -> WriterPropertiesBuilder {
    let features = r#"{"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}"#;
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), features.to_owned())]))
}

/// Version 2 pages, Snappy, no dictionaries.
pub fn snappy_properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_column_encoding("label".into(), parquet::basic::Encoding::PLAIN)
        .set_column_encoding(vec!["img".to_owned(), "bytes".to_owned()].into(), parquet::basic::Encoding::PLAIN)
}

/// A Parquet file with one row group for each slice of rows.
pub fn parquet_file(groups: &[&[Row]], properties: WriterPropertiesBuilder) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let images: Vec<ByteArray> = rows.iter().filter_map(|r| r.0.clone().map(ByteArray::from)).collect();
        let levels: Vec<i16> = rows.iter().map(|r| if r.0.is_some() { 2 } else { 0 }).collect();
        for values in [images, vec![ByteArray::from("x.png"); levels.iter().filter(|&&l| l == 2).count()]] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let labels: Vec<i64> = rows.iter().filter_map(|r| r.1).collect();
        let levels: Vec<i16> = rows.iter().map(|r| i16::from(r.1.is_some())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}
