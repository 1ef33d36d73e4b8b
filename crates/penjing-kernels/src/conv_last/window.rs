//! Which outputs a task computes, and the part of the input that they read.

use crate::conv::ConvShape;
use bytemuck::Pod;
use std::ops::Range;

/// Parts whose number shows in how evenly threads share them.
const FEW_PARTS: usize = 16;

/// The output pixels of a batch cut into parts of consecutive ones: whole images, whole rows of one, or a piece of one row.
pub(crate) struct Parts {
    batch: usize,
    plane: [usize; 2],
    /// Images of a part; 1 where images are cut.
    images: usize,
    /// Parts that the rows of an image are cut into.
    rows: usize,
    /// Parts that the columns of a row are cut into; 1 where a part has several rows.
    cols: usize,
}

impl Parts {
    /// Parts of about `target` pixels.
    pub(crate) fn new(batch: usize, plane: [usize; 2], target: usize) -> Parts {
        let [oh, ow] = plane;
        let pixels = (oh * ow).max(1);
        let whole = Parts { batch, plane, images: 1, rows: 1, cols: 1 };
        if pixels * 2 <= target {
            Parts { images: target / pixels, ..whole }
        } else if ow <= target {
            let per_part = ((target + ow / 2) / ow).max(1);
            Parts { rows: oh.div_ceil(per_part), ..whole }
        } else {
            Parts { rows: oh, cols: ow.div_ceil(target), ..whole }
        }
    }

    /// Cuts an image finer where there are few parts, so that the threads share them evenly.
    pub(crate) fn even_out(&mut self, threads: usize) {
        let [oh, ow] = self.plane;
        let (cuts, most) = if self.cols > 1 { (&mut self.cols, ow) } else { (&mut self.rows, oh) };
        if self.batch == 1 && *cuts < FEW_PARTS {
            *cuts = cuts.next_multiple_of(threads).min(most).max(1);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.batch.div_ceil(self.images) * self.rows * self.cols
    }

    /// A part that has as many images, rows and columns as any.
    pub(crate) fn largest(&self) -> Part {
        let [oh, ow] = self.plane;
        Part {
            images: 0..self.batch.min(self.images),
            rows: 0..oh.div_ceil(self.rows),
            cols: 0..ow.div_ceil(self.cols),
        }
    }

    /// Part `i`.
    pub(crate) fn get(&self, i: usize) -> Part {
        let [oh, ow] = self.plane;
        let piece = |i: usize, of: usize, n: usize| n * i / of..n * (i + 1) / of;
        let image = i / (self.rows * self.cols) * self.images;
        Part {
            images: image..self.batch.min(image + self.images),
            rows: piece(i / self.cols % self.rows, self.rows, oh),
            cols: piece(i % self.cols, self.cols, ow),
        }
    }
}

/// Consecutive output pixels: a box of images, rows and columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) images: Range<usize>,
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
}

impl Part {
    /// The number of pixels.
    pub(crate) fn len(&self) -> usize {
        self.images.len() * self.rows.len() * self.cols.len()
    }

    /// Index of the first pixel in the batch.
    pub(crate) fn first(&self, [oh, ow]: [usize; 2]) -> usize {
        (self.images.start * oh + self.rows.start) * ow + self.cols.start
    }

    /// Input rows and columns that the pixels of one image read, padding included.
    pub(crate) fn window(&self, s: &ConvShape) -> [usize; 2] {
        let span = |n: usize, a: usize| (n.max(1) - 1) * s.stride[a] + (s.kernel[a] - 1) * s.dilation[a] + 1;
        [span(self.rows.len(), 0), span(self.cols.len(), 1)]
    }

    /// `out[m] = start of pixel m's window`, in an input whose images, rows and columns are `pitch` elements apart.
    pub(crate) fn bases(&self, s: &ConvShape, pitch: [usize; 3], out: &mut [usize]) {
        let mut out = out.iter_mut();
        for image in 0..self.images.len() {
            for row in 0..self.rows.len() {
                let start = image * pitch[0] + row * s.stride[0] * pitch[1];
                for (col, base) in (0..self.cols.len()).zip(&mut out) {
                    *base = start + col * s.stride[1] * pitch[2];
                }
            }
        }
    }

    /// Copies the window of every image, `[images, window rows, ww, channels]`, with at least the window's columns; what lies
    /// outside becomes `fill`.
    pub(crate) fn copy<T: Pod>(
        &self,
        s: &ConvShape,
        x: &[T],
        channels: Range<usize>,
        fill: T,
        ww: usize,
        out: &mut [T],
    ) {
        let [wh, _] = self.window(s);
        let ([h, w], c, width) = (s.input, s.in_channels, channels.len());
        if width == 0 {
            return;
        }
        // Columns lo..hi of the window lie inside the image, and begin at its column `from`.
        let start = self.cols.start * s.stride[1];
        let lo = s.pad[1].saturating_sub(start).min(ww);
        let hi = (w + s.pad[1]).saturating_sub(start).min(ww).max(lo);
        let from = (start + lo).saturating_sub(s.pad[1]);
        let mut out = out.chunks_exact_mut(ww * width);
        for image in self.images.clone() {
            for (i, out) in (0..wh).zip(&mut out) {
                let y = (self.rows.start * s.stride[0] + i).wrapping_sub(s.pad[0]);
                if y >= h || lo == hi {
                    out.fill(fill);
                    continue;
                }
                out[..lo * width].fill(fill);
                out[hi * width..].fill(fill);
                let source = &x[((image * h + y) * w + from) * c..][..(hi - lo) * c];
                let inside = &mut out[lo * width..hi * width];
                if width == c {
                    inside.copy_from_slice(source);
                } else {
                    for (to, from) in inside.chunks_exact_mut(width).zip(source.chunks_exact(c)) {
                        to.copy_from_slice(&from[channels.clone()]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_pixel_once_and_in_order() {
        for (batch, plane) in
            [(3, [24, 24]), (7, [4, 4]), (1, [1, 1000]), (2, [3, 250]), (0, [5, 5]), (9, [7, 7]), (2, [0, 3])]
        {
            let parts = Parts::new(batch, plane, 96);
            let mut even = Parts::new(batch, plane, 96);
            even.even_out(4);
            for parts in [parts, even] {
                let mut next = 0;
                for part in (0..parts.count()).map(|i| parts.get(i)) {
                    assert!(part.len() == 0 || part.first(plane) == next, "{plane:?}");
                    assert!(part.len() <= 144, "{plane:?}: {}", part.len());
                    next += part.len();
                }
                assert_eq!(next, batch * plane[0] * plane[1]);
            }
        }
    }

    #[test]
    fn few_parts_become_an_even_number() {
        for (plane, parts) in [([32, 32], 12), ([16, 16], 4), ([8, 8], 4), ([3, 7], 3), ([1, 250], 4), ([56, 56], 28)] {
            let mut even = Parts::new(1, plane, 96);
            even.even_out(4);
            assert_eq!(even.count(), parts, "{plane:?}");
        }
    }
}
