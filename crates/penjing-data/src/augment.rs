//! Crop and flip of one image, with the conversion to the network's input fused in. What is drawn at random is a pure
//! function of (seed, epoch, sample index).

use penjing_tensor::Rng;

/// Where a crop is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Uniformly at random for each sample and epoch: training.
    Random,
    /// The centre, rounded down: evaluation.
    Center,
}

/// A crop to `height` × `width`, after `pad` pixels of zeros (before normalization) on every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Rows that are kept.
    pub height: usize,
    /// Columns that are kept.
    pub width: usize,
    /// Zero rows and columns added on each side first.
    pub pad: usize,
    /// Where.
    pub placement: Placement,
}

/// Mirroring left to right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flip {
    /// Never.
    #[default]
    None,
    /// With probability one half for each sample and epoch.
    Horizontal,
}

/// The window of one sample: output row `i` is input row `top + i` (outside the image: zero), columns likewise from `left`,
/// then mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) top: isize,
    pub(crate) left: isize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) mirrored: bool,
}

/// Draws the windows of one epoch.
pub(crate) struct Windows {
    crop: Crop,
    flip: Flip,
    crops: Rng,
    flips: Rng,
}

impl Windows {
    pub(crate) fn new(crop: Crop, flip: Flip, seed: u64, epoch: u64) -> Windows {
        Windows { crop, flip, crops: Rng::new(seed, "crop", epoch), flips: Rng::new(seed, "flip", epoch) }
    }

    /// The window of sample `index` in an image of `size` [height, width] that is large enough for the crop.
    pub(crate) fn of(&self, index: usize, size: [usize; 2]) -> Window {
        let Crop { height, width, pad, placement } = self.crop;
        let start = |axis: u64, have: usize, want: usize| {
            let free = have + 2 * pad - want;
            let offset = match placement {
                Placement::Random => self.crops.below(2 * index as u64 + axis, free as u64 + 1) as usize,
                Placement::Center => free / 2,
            };
            offset as isize - pad as isize
        };
        let mirrored = self.flip == Flip::Horizontal && self.flips.bits(index as u64) & 1 == 1;
        Window { top: start(0, size[0], height), left: start(1, size[1], width), height, width, mirrored }
    }
}

/// Writes the window of one plane [h, w] to `out` [window.height, window.width]; `convert` is applied to each pixel, `zero` stands
/// for pixels outside the plane.
pub(crate) fn copy_window<T: Copy>(
    plane: &[T],
    [h, w]: [usize; 2],
    window: Window,
    convert: impl Fn(T) -> f32,
    zero: f32,
    out: &mut [f32],
) {
    let inside = |start: isize, len: usize, have: usize| {
        let first = (-start).clamp(0, len as isize) as usize;
        let end = (have as isize - start).clamp(first as isize, len as isize) as usize;
        first..end
    };
    let rows = inside(window.top, window.height, h);
    let columns = inside(window.left, window.width, w);
    for (i, line) in out.chunks_exact_mut(window.width).enumerate() {
        if !rows.contains(&i) || columns.is_empty() {
            line.fill(zero);
            continue;
        }
        let from = (window.top + i as isize) as usize * w + (window.left + columns.start as isize) as usize;
        let source = &plane[from..][..columns.len()];
        line[..columns.start].fill(zero);
        line[columns.end..].fill(zero);
        for (o, &v) in line[columns.clone()].iter_mut().zip(source) {
            *o = convert(v);
        }
        if window.mirrored {
            line.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(top: isize, left: isize, height: usize, width: usize, mirrored: bool) -> Vec<f32> {
        let plane: Vec<u8> = (1..=6).collect();
        let mut out = vec![f32::NAN; height * width];
        copy_window(&plane, [2, 3], Window { top, left, height, width, mirrored }, f32::from, -1.0, &mut out);
        out
    }

    #[test]
    fn windows_cut_pad_and_mirror() {
        assert_eq!(window(0, 1, 2, 2, false), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(window(0, 1, 2, 2, true), [3.0, 2.0, 6.0, 5.0]);
        assert_eq!(window(-1, -1, 2, 2, false), [-1.0, -1.0, -1.0, 1.0]);
        assert_eq!(window(1, 2, 2, 3, true), [-1.0, -1.0, 6.0, -1.0, -1.0, -1.0]);
        assert_eq!(window(5, 0, 1, 1, false), [-1.0]);
    }

    #[test]
    fn draws_cover_every_offset_evenly_and_repeat() {
        let crop = Crop { height: 24, width: 24, pad: 0, placement: Placement::Random };
        let windows = Windows::new(crop, Flip::Horizontal, 3, 1);
        let mut counts = [0usize; 9];
        let mut mirrored = 0;
        for i in 0..9000 {
            let w = windows.of(i, [32, 32]);
            assert_eq!(w, Windows::new(crop, Flip::Horizontal, 3, 1).of(i, [32, 32]));
            counts[w.top as usize] += 1;
            mirrored += usize::from(w.mirrored);
        }
        // Five standard deviations of a binomial count: 5 * sqrt(9000 p (1 - p)).
        assert!(counts.iter().all(|&c| c.abs_diff(1000) < 150), "{counts:?}");
        assert!(mirrored.abs_diff(4500) < 238, "{mirrored}");
        let center = Windows::new(Crop { placement: Placement::Center, ..crop }, Flip::None, 3, 1).of(0, [32, 33]);
        assert_eq!((center.top, center.left, center.mirrored), (4, 4, false));
    }
}
