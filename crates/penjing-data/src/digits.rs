//! The UCI handwritten digits ("Optical Recognition of Handwritten Digits", the test part: 1,797 real images of 8×8), which
//! the `smartcore` crate ships inside itself: data for the demo and the tests that needs no download.

use crate::resize_bilinear;
use penjing_tensor::{Rng, Tensor};

/// How many of the shuffled digits are held out for evaluation.
pub const DIGITS_HELD_OUT: usize = 360;

const COUNT: usize = 1797;
const SIDE: usize = 8;
const ENLARGED: usize = 24;
const CHANNELS: usize = 3;
const MAX_PIXEL: f32 = 16.0;

/// The digits as they were recorded.
pub struct Digits {
    /// Pixels in 0..=16, f32 [1797, 8, 8].
    pub images: Tensor,
    /// Which digit, i64 [1797].
    pub labels: Tensor,
}

/// The digits as SimpleCNN's input, with the split that every accuracy on them refers to.
pub struct Digits24 {
    /// f32 [1797, 3, 24, 24] in −1..=1, in the recorded order.
    pub x: Tensor,
    /// i64 [1797].
    pub y: Tensor,
    /// The 1,437 rows to train on.
    pub train: Vec<usize>,
    /// The 360 rows held out: the last ones of the seed-0 shuffle.
    pub held_out: Vec<usize>,
}

/// The 1,797 images and labels in the recorded order.
pub fn digits() -> Digits {
    let data = smartcore::dataset::digits::load_dataset();
    let labels = data.target.iter().map(|&t| t as i64).collect();
    Digits {
        images: Tensor::from_vec(&[COUNT, SIDE, SIDE], data.data).expect("the crate ships 1797 images of 8x8"),
        labels: Tensor::from_vec(&[COUNT], labels).expect("one label an image"),
    }
}

/// The digits at 24×24 in three equal channels: pixels / 16, enlarged by [`resize_bilinear`], then (x − 0.5) / 0.5; rows split
/// by the permutation of `Rng::new(0, "digits-split", 0)`.
pub fn digits_24() -> Digits24 {
    let Digits { images, labels } = digits();
    let pixels = images.as_slice::<f32>().expect("made as f32");
    let mut x = Vec::with_capacity(COUNT * CHANNELS * ENLARGED * ENLARGED);
    for image in pixels.chunks_exact(SIDE * SIDE) {
        let unit: Vec<f32> = image.iter().map(|p| p / MAX_PIXEL).collect();
        let mut plane = resize_bilinear(&unit, [SIDE, SIDE], [ENLARGED, ENLARGED]);
        plane.iter_mut().for_each(|p| *p = (*p - 0.5) / 0.5);
        (0..CHANNELS).for_each(|_| x.extend_from_slice(&plane));
    }
    let mut train = Rng::new(0, "digits-split", 0).permutation(COUNT);
    let held_out = train.split_off(COUNT - DIGITS_HELD_OUT);
    let x = Tensor::from_vec(&[COUNT, CHANNELS, ENLARGED, ENLARGED], x).expect("as many values as were pushed");
    Digits24 { x, y: labels, train, held_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first image and the class counts as scikit-learn's `load_digits` documents and prints them.
    #[test]
    fn digits_are_the_known_ones() {
        let d = digits();
        let first = [
            [0, 0, 5, 13, 9, 1, 0, 0],
            [0, 0, 13, 15, 10, 15, 5, 0],
            [0, 3, 15, 2, 0, 11, 8, 0],
            [0, 4, 12, 0, 0, 8, 8, 0],
            [0, 5, 8, 0, 0, 9, 8, 0],
            [0, 4, 11, 0, 1, 12, 7, 0],
            [0, 2, 14, 5, 10, 12, 0, 0],
            [0, 0, 6, 13, 10, 0, 0, 0],
        ];
        let pixels = d.images.as_slice::<f32>().unwrap();
        assert_eq!(pixels[..64], first.concat().iter().map(|&v| v as f32).collect::<Vec<_>>());
        assert!(pixels.iter().all(|&p| (0.0..=16.0).contains(&p) && p.fract() == 0.0));
        let mut counts = [0; 10];
        d.labels.as_slice::<i64>().unwrap().iter().for_each(|&l| counts[l as usize] += 1);
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn enlarged_digits_are_normalized_and_split() {
        let d = digits_24();
        assert_eq!(d.x.shape(), [1797, 3, 24, 24]);
        assert_eq!((d.train.len(), d.held_out.len()), (1437, 360));
        let mut all = [d.train.clone(), d.held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1797).collect::<Vec<_>>());
        let x = d.x.as_slice::<f32>().unwrap();
        assert_eq!(x[..576], x[576..1152]);
        assert_eq!(x[..576], x[1152..1728]);
        // Row 1, column 7 reads pixel rows at 0, columns at 2 exactly (5); column 8 one third on towards 13: 23/3.
        for (column, pixel) in [(7, 5.0), (8, 23.0 / 3.0), (10, 13.0)] {
            let want = (pixel / 16.0 - 0.5) / 0.5;
            assert!((x[24 + column] - want).abs() < 1e-6, "column {column}: {} for {want}", x[24 + column]);
        }
    }
}
