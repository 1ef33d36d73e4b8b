//! JPEG and PNG files against Pillow's pixels (tests/data/make.py).

use penjing_data::{decode_image, read_npz};
use std::path::Path;

#[test]
fn pixels_are_pillows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let expected = read_npz(&folder.join("pillow.npz")).unwrap();
    assert_eq!(expected.len(), 6);
    for (name, want) in expected {
        let image = decode_image(&std::fs::read(folder.join(&name)).unwrap()).unwrap();
        assert_eq!([image.channels, image.height, image.width], want.shape(), "{name}");
        let want = want.as_slice::<u8>().unwrap();
        let differences: Vec<u8> = image.pixels.iter().zip(want).map(|(a, b)| a.abs_diff(*b)).collect();
        let largest = differences.iter().max().copied().unwrap();
        let mean = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
        // PNG is lossless. JPEG decoders may differ by one level in each of Y, Cb, Cr; blue is Y + 1.772 Cb.
        let (most, most_mean) = if name.ends_with(".png") { (0, 0.0) } else { (4, 0.6) };
        assert!(largest <= most && mean <= most_mean, "{name}: largest difference {largest}, mean {mean}");
    }
}
