//! The padded copy of an image window in which every kernel tap is a plain offset.
//!
//! A window of `rows × cols` outputs with strides (sy, sx) reads padded input rows `sy * i + ty`. The copy holds, for each
//! channel and each stride phase (py, px), a plane `[hq, wq]` of the padded input taken every sy-th row and sx-th column.
//! Output (i, j) then finds tap (ty, tx) at `offset(ty, tx) + i * wq + j`: runs of outputs are contiguous for any stride,
//! dilation and padding.

use bytemuck::Pod;
use std::ops::Range;

/// A convolution as taps on a padded source: output (i, j) reads source (i * sy + ty + origin_y, j * sx + tx + origin_x).
#[derive(Clone, Debug)]
pub(crate) struct Taps {
    /// Height and width of the source.
    pub(crate) src: [usize; 2],
    /// Height and width of the output.
    pub(crate) out: [usize; 2],
    pub(crate) stride: [usize; 2],
    /// Source coordinate of padded coordinate 0; negative where there is padding.
    pub(crate) origin: [isize; 2],
    /// Padded coordinates (ty, tx) of each tap for output (0, 0).
    pub(crate) taps: Vec<[usize; 2]>,
}

/// Consecutive outputs: whole rows, or a part of one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
}

impl Window {
    pub(crate) fn len(&self) -> usize {
        self.rows.len() * self.cols.len()
    }
}

/// Cuts `out` into windows of about `target` outputs.
pub(crate) fn windows(out: [usize; 2], target: usize) -> Vec<Window> {
    let [h, w] = out;
    if h == 0 || w == 0 {
        return Vec::new();
    }
    let target = target.max(1);
    if w > target {
        let parts = w.div_ceil(target);
        return (0..h * parts)
            .map(|i| Window {
                rows: i / parts..i / parts + 1,
                cols: w * (i % parts) / parts..w * (i % parts + 1) / parts,
            })
            .collect();
    }
    let parts = (h * w).div_ceil(target).min(h);
    (0..parts).map(|i| Window { rows: h * i / parts..h * (i + 1) / parts, cols: 0..w }).collect()
}

/// Where the planes of one window lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    phases: [usize; 2],
    hq: usize,
    /// Elements from one output row to the next.
    pub(crate) wq: usize,
    /// Elements of one channel.
    pub(crate) channel: usize,
    /// Offset of each tap within a channel.
    pub(crate) taps: Vec<usize>,
}

impl Layout {
    pub(crate) fn new(t: &Taps, rows: usize, cols: usize) -> Layout {
        let [sy, sx] = t.stride;
        let extent = |axis: usize| t.taps.iter().map(|tap| tap[axis]).max().unwrap_or(0);
        let (ey, ex) = (extent(0), extent(1));
        let phases = [sy.min(ey + 1), sx.min(ex + 1)];
        let (hq, wq) = (rows + ey / sy, cols + ex / sx);
        let plane = hq * wq;
        let taps = t
            .taps
            .iter()
            .map(|&[ty, tx]| ((ty % sy) * phases[1] + tx % sx) * plane + (ty / sy) * wq + tx / sx)
            .collect();
        Layout { phases, hq, wq, channel: phases[0] * phases[1] * plane, taps }
    }

    /// Copies one channel `[H, W]` of the source for `window`; what lies outside the source becomes `outside`.
    /// `put` converts a run of elements: `put(destination, step, source)` writes `source[i * sx]` to `destination[i * step]`.
    #[inline(always)]
    pub(crate) fn fill<T: Copy, U: Pod>(
        &self,
        t: &Taps,
        window: &Window,
        channel: &[T],
        dst: &mut [U],
        outside: U,
        put: impl Fn(&mut [U], &[T], usize),
    ) {
        let [sy, sx] = t.stride;
        let [height, width] = t.src;
        let mut planes = dst.chunks_exact_mut(self.wq);
        for py in 0..self.phases[0] {
            for px in 0..self.phases[1] {
                // Destination columns `lo..hi` lie inside the source: 0 <= (cols.start + j) * sx + px + origin < width.
                let first = (window.cols.start * sx + px) as isize + t.origin[1];
                let lo = if first >= 0 { 0 } else { (-first) as usize }.div_ceil(sx).min(self.wq);
                let room = width as isize - first;
                let hi = if room <= 0 { 0 } else { (room as usize).div_ceil(sx).min(self.wq) }.max(lo);
                for i in 0..self.hq {
                    let Some(row) = planes.next() else { return };
                    let y = ((window.rows.start + i) * sy + py) as isize + t.origin[0];
                    if y < 0 || y >= height as isize || lo == hi {
                        row.fill(outside);
                        continue;
                    }
                    row[..lo].fill(outside);
                    row[hi..].fill(outside);
                    let start = (first + (lo * sx) as isize) as usize;
                    let source = &channel[y as usize * width..(y as usize + 1) * width][start..];
                    put(&mut row[lo..hi], source, sx);
                }
            }
        }
    }

    /// [`fill`](Self::fill) of f32 with zeros outside.
    #[inline(always)]
    pub(crate) fn fill_f32(&self, t: &Taps, window: &Window, channel: &[f32], dst: &mut [f32]) {
        self.fill(t, window, channel, dst, 0.0, |row, source, step| {
            if step == 1 {
                // Rows are short: a loop of eights beats a call to `memcpy`.
                let n = row.len();
                let source = &source[..n];
                for (d, s) in row.chunks_mut(8).zip(source.chunks(8)) {
                    match (<&mut [f32; 8]>::try_from(&mut *d), <&[f32; 8]>::try_from(s)) {
                        (Ok(d), Ok(s)) => *d = *s,
                        _ => d.iter_mut().zip(s).for_each(|(d, s)| *d = *s),
                    }
                }
            } else {
                for (i, v) in row.iter_mut().enumerate() {
                    *v = source[i * step];
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_output_once() {
        for (out, target) in [([24, 24], 284), ([1, 1000], 256), ([7, 7], 1), ([5, 3], 100), ([0, 4], 8), ([3, 20], 8)]
        {
            let mut seen = vec![0; out[0] * out[1]];
            for w in windows(out, target) {
                assert!(w.rows.len() == 1 || w.cols == (0..out[1]));
                for i in w.rows.clone() {
                    for j in w.cols.clone() {
                        seen[i * out[1] + j] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&n| n == 1), "{out:?}");
        }
    }

    #[test]
    fn every_tap_is_an_offset() {
        let src = [5usize, 6];
        let image: Vec<f32> = (1..=30).map(|v| v as f32).collect();
        for stride in [[1, 1], [2, 2], [3, 1], [1, 4]] {
            let t = Taps { src, out: [3, 2], stride, origin: [-2, -1], taps: vec![[0, 0], [0, 3], [2, 1], [5, 4]] };
            for window in [Window { rows: 0..3, cols: 0..2 }, Window { rows: 1..2, cols: 1..2 }] {
                let layout = Layout::new(&t, window.rows.len(), window.cols.len());
                let mut copy = vec![f32::NAN; layout.channel];
                layout.fill_f32(&t, &window, &image, &mut copy);
                for (tap, &[ty, tx]) in t.taps.iter().enumerate() {
                    for i in 0..window.rows.len() {
                        for j in 0..window.cols.len() {
                            let y = ((window.rows.start + i) * stride[0] + ty) as isize - 2;
                            let x = ((window.cols.start + j) * stride[1] + tx) as isize - 1;
                            let inside = (0..5).contains(&y) && (0..6).contains(&x);
                            let want = if inside { image[y as usize * 6 + x as usize] } else { 0.0 };
                            assert_eq!(copy[layout.taps[tap] + i * layout.wq + j], want);
                        }
                    }
                }
            }
        }
    }
}
