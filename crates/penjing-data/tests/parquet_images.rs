//! Parquet files of images: what is read, in which order, and what broken records do.

mod common;

use common::{Row, good_rows, outside_data, parquet_file, png_image, snappy_properties, zstd_properties};
use penjing_data::{
    BadRecords, Crop, DataError, Dataset, Flip, Loader, LoaderConfig, OpenOptions, ParquetImages, Placement,
};

#[test]
fn rows_come_back_in_order_with_names() {
    let rows = good_rows(7);
    for properties in [zstd_properties(), snappy_properties()] {
        let bytes = parquet_file(&[&rows[..4], &rows[4..]], properties);
        let file = ParquetImages::from_bytes(bytes, "t.parquet").unwrap();
        assert_eq!(file.row_groups(), 2);
        let first = file.read_row_group(0, BadRecords::Fail).unwrap();
        let second = file.read_row_group(1, BadRecords::Fail).unwrap();
        assert_eq!([first.labels, second.labels].concat(), [0, 1, 2, 0, 1, 2, 0]);
        // Row 5 is made of samples 50..62, interleaved; channel 1 is every third from 51.
        assert_eq!(second.images[1].pixels[4..8], [51, 54, 57, 60]);
        assert!(file.read_row_group(2, BadRecords::Fail).is_err());
    }
}

#[test]
fn broken_records_are_named_or_skipped_and_counted() {
    let cases: [(&str, Row, &str); 6] = [
        ("truncated image", (Some(png_image(0)[..40].to_vec()), Some(0)), "broken PNG"),
        ("not an image", (Some(b"GIF89a".to_vec()), Some(0)), "neither JPEG nor PNG"),
        ("null image", (None, Some(0)), "image is null"),
        ("null label", (Some(png_image(0)), None), "label is null"),
        ("negative label", (Some(png_image(0)), Some(-1)), "label -1 is outside 0..3"),
        ("label without a name", (Some(png_image(0)), Some(3)), "label 3 is outside 0..3"),
    ];
    for (case, bad, message) in cases {
        let mut rows = good_rows(6);
        rows[4] = bad;
        let bytes = parquet_file(&[&rows[..3], &rows[3..]], zstd_properties());
        let file = ParquetImages::from_bytes(bytes, "t.parquet").unwrap();
        let error = file.read_row_group(1, BadRecords::Fail).unwrap_err();
        assert!(matches!(error, DataError::Record { row: 4, .. }), "{case}: {error}");
        assert!(error.to_string().contains(message), "{case}: {error}");
        let kept = file.read_row_group(1, BadRecords::Skip).unwrap();
        assert_eq!((kept.labels.as_slice(), kept.skipped), ([0, 2].as_slice(), 1), "{case}");
    }
}

#[test]
fn folders_and_patterns_open_as_one_dataset() {
    let dir = std::env::temp_dir().join(format!("penjing-data-glob-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut rows = good_rows(5);
    std::fs::write(dir.join("train-1.parquet"), parquet_file(&[&rows[3..]], zstd_properties())).unwrap();
    rows[1].0 = None;
    std::fs::write(dir.join("train-0.parquet"), parquet_file(&[&rows[..3]], zstd_properties())).unwrap();
    std::fs::write(dir.join("readme.txt"), "not data").unwrap();
    let options = OpenOptions { bad_records: BadRecords::Skip, ..OpenOptions::default() };
    for spec in [dir.display().to_string(), format!("{}/train-*.parquet", dir.display())] {
        assert!(matches!(Dataset::open(&spec), Err(DataError::Record { row: 1, .. })));
        let data = Dataset::open_with(&spec, &options).unwrap();
        assert_eq!(data.y().unwrap().to_i64s().unwrap(), [0, 2, 0, 1]);
        assert_eq!((data.skipped(), data.classes(), data.sample_shape()), (1, 3, [3, 2, 2].as_slice()));
        assert_eq!(data.label_names(), ["a", "b", "c"]);
    }
    assert!(Dataset::open(&format!("{}/test-*.parquet", dir.display())).is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_file_without_images_says_what_it_has() {
    let schema = "message schema { optional binary picture; optional int64 label; }";
    let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let properties = std::sync::Arc::new(zstd_properties().build());
    let writer = parquet::file::writer::SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let error = ParquetImages::from_bytes(writer.into_inner().unwrap(), "t.parquet").err().unwrap().to_string();
    assert!(error.contains("picture, label"), "{error}");
}

#[test]
fn cifar10_is_read_whole() {
    let Some(folder) = outside_data("cifar10") else { return };
    let data = Dataset::open(&format!("{}/test-*.parquet", folder.display())).unwrap();
    assert_eq!((data.len(), data.classes(), data.sample_shape()), (10_000, 10, [3, 32, 32].as_slice()));
    assert_eq!(data.y().unwrap().to_i64s().unwrap()[..10], [9, 3, 7, 0, 9, 7, 7, 9, 6, 5]);
    let mut counts = [0; 10];
    data.y().unwrap().to_i64s().unwrap().iter().for_each(|&l| counts[l as usize] += 1);
    assert_eq!(counts, [1000; 10]);
    // Means of the same file decoded by Pillow 13 (libjpeg-turbo); half a level of 255 for the decoders' different rounding.
    let x = data.x();
    let pixels = x.as_slice::<u8>().unwrap();
    for (c, want) in [0.49407, 0.48506, 0.45038].into_iter().enumerate() {
        let planes = pixels.chunks_exact(1024).skip(c).step_by(3);
        let sum: u64 = planes.flatten().map(|&v| u64::from(v)).sum();
        let mean = sum as f64 / 255.0 / (10_000.0 * 1024.0);
        assert!((mean - want).abs() < 0.5 / 255.0, "channel {c}: {mean}");
    }
    let crop = Some(Crop { height: 24, width: 24, pad: 0, placement: Placement::Random });
    let config = LoaderConfig { crop, flip: Flip::Horizontal, ..LoaderConfig::train(64, 0) };
    let loader = Loader::new(data, config).unwrap();
    assert_eq!(loader.batches_per_epoch(), 157);
    assert_eq!(loader.batch(0, 156).unwrap().x.shape(), [16, 3, 24, 24]);
}
