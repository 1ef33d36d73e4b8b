//! The strided copy: one box of elements from any layout to any layout.
//!
//! Axes that lie together on both sides are merged first. A box whose innermost axes are contiguous on both sides is copied in
//! runs; one that is contiguous along different axes on the two sides is copied in square tiles, so that each cache line of
//! either side is touched once, or, where a few lines become the parts of pixels, pixel by pixel.

use super::{ElemSize, by_size};
use crate::{
    Ctx, Isa, KernelError,
    error::{check_len, product},
    isa::{Math, per_isa},
    pool::Disjoint,
};

const NAME: &str = "copy_strided";

/// Elements of one task.
const TASK: usize = 1 << 15;
/// Side of a transposed tile in elements: 16 of 4 bytes are a cache line.
const TILE: usize = 16;

/// Copies the box `shape`: element i goes from `src_offset + Σ i·src_strides` to `dst_offset + Σ i·dst_strides`, all counted in
/// elements. A source stride may be zero or negative; no two elements may have one destination.
pub fn copy_strided(
    cx: Ctx<'_>,
    size: ElemSize,
    shape: &[usize],
    src: &[u8],
    src_offset: usize,
    src_strides: &[isize],
    dst: &mut [u8],
    dst_offset: usize,
    dst_strides: &[usize],
) -> Result<(), KernelError> {
    let fail = |why| KernelError::Geometry { kernel: NAME, why };
    if shape.len() != src_strides.len() || shape.len() != dst_strides.len() {
        return Err(fail("shape and strides have different lengths"));
    }
    if !src.len().is_multiple_of(size.bytes()) || !dst.len().is_multiple_of(size.bytes()) {
        return Err(fail("the bytes are no whole number of elements"));
    }
    let total = product(shape).ok_or(fail("the box is too large"))?;
    if total == 0 {
        return Ok(());
    }
    let (src_len, dst_len) = (src.len() / size.bytes(), dst.len() / size.bytes());
    let (low, high) = src_span(shape, src_offset, src_strides).ok_or(fail("a source stride overflows"))?;
    if low < 0 || high >= src_len as i128 {
        let need = usize::try_from(high + 1).unwrap_or(usize::MAX);
        return Err(KernelError::Length { kernel: NAME, operand: "src", need, have: src_len });
    }
    let axes = merge(shape, src_strides, dst_strides);
    let extent = dst_extent(&axes).ok_or(fail("destinations overlap or overflow"))?;
    let need = extent.saturating_add(dst_offset);
    if need > dst_len {
        return Err(KernelError::Length { kernel: NAME, operand: "dst", need, have: dst_len });
    }
    by_size!(size, copy_box(cx, &axes, total, src, src_offset, dst, dst_offset));
    Ok(())
}

/// Sets every element of `dst` to `value`, whose length is the element size.
pub fn fill(cx: Ctx<'_>, value: &[u8], dst: &mut [u8]) -> Result<(), KernelError> {
    let size = ElemSize::new(value.len())
        .ok_or(KernelError::Geometry { kernel: "fill", why: "an element has 1, 2, 4 or 8 bytes" })?;
    let whole = dst.len() / size.bytes() * size.bytes();
    check_len("fill", "dst", Some(whole), dst.len())?;
    by_size!(size, fill_as(cx, value, dst));
    Ok(())
}

fn fill_as<const N: usize>(cx: Ctx<'_>, value: &[u8], dst: &mut [u8]) {
    let mut v = [0; N];
    v.copy_from_slice(value);
    let dst = dst.as_chunks_mut::<N>().0;
    if dst.len() <= TASK {
        dst.fill(v);
    } else {
        cx.pool.run_chunks(dst, TASK, &|_, chunk| chunk.fill(v));
    }
}

/// One axis of the box: extent and strides in elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Axis {
    n: usize,
    src: isize,
    dst: usize,
}

/// Smallest and largest source element touched.
fn src_span(shape: &[usize], offset: usize, strides: &[isize]) -> Option<(i128, i128)> {
    let (mut low, mut high) = (offset as i128, offset as i128);
    for (&n, &stride) in shape.iter().zip(strides) {
        let reach = (n as i128 - 1).checked_mul(stride as i128)?;
        if reach < 0 { low = low.checked_add(reach)? } else { high = high.checked_add(reach)? }
    }
    Some((low, high))
}

/// The axes in order of falling destination stride, without extents of 1, neighbours joined where both sides allow it.
fn merge(shape: &[usize], src: &[isize], dst: &[usize]) -> Vec<Axis> {
    let mut axes: Vec<Axis> =
        (0..shape.len()).filter(|&i| shape[i] != 1).map(|i| Axis { n: shape[i], src: src[i], dst: dst[i] }).collect();
    axes.sort_by_key(|a| std::cmp::Reverse(a.dst));
    let mut merged: Vec<Axis> = Vec::with_capacity(axes.len());
    for axis in axes {
        match merged.last_mut() {
            Some(outer)
                if axis.dst.checked_mul(axis.n) == Some(outer.dst)
                    && axis.src.checked_mul(axis.n as isize) == Some(outer.src) =>
            {
                *outer = Axis { n: outer.n * axis.n, ..axis };
            }
            _ => merged.push(axis),
        }
    }
    merged
}

/// Elements from the first destination to one past the last; `None` where two elements share one.
fn dst_extent(axes: &[Axis]) -> Option<usize> {
    let mut extent = 1usize;
    for axis in axes.iter().rev() {
        if axis.dst < extent {
            return None;
        }
        extent = axis.dst.checked_mul(axis.n - 1)?.checked_add(extent)?;
    }
    Some(extent)
}

fn copy_box<const N: usize>(
    cx: Ctx<'_>,
    axes: &[Axis],
    total: usize,
    src: &[u8],
    src_offset: usize,
    dst: &mut [u8],
    dst_offset: usize,
) {
    let src = src.as_chunks::<N>().0;
    let dst = Disjoint::new(dst.as_chunks_mut::<N>().0);
    let mut outer = axes.to_vec();
    let inner = outer.pop().unwrap_or(Axis { n: 1, src: 1, dst: 1 });
    let transposed = outer.iter().rposition(|a| a.src.unsigned_abs() == 1).filter(|_| inner.src.unsigned_abs() > 1);
    let across = transposed.or(outer.len().checked_sub(1)).map(|i| outer.remove(i));
    let across = across.unwrap_or(Axis { n: 1, src: 0, dst: 0 });
    // A unit is a strip of up to TILE lines of the inner axis, or of many short ones, cut at TASK elements.
    let lines = match transposed {
        Some(_) if inner.n >= TILE => TILE,
        _ => TASK / inner.n.clamp(TILE, TASK),
    };
    let lines = lines.min(across.n);
    let strips = across.n.div_ceil(lines);
    let piece = inner.n.min(TASK / lines);
    let pieces = inner.n.div_ceil(piece);
    let units = outer.iter().map(|a| a.n).product::<usize>() * strips * pieces;
    let per_task = (TASK / (lines * piece)).max(1);
    let run_task = |task: usize| {
        for unit in task * per_task..units.min((task + 1) * per_task) {
            let (p, rest) = (unit % pieces * piece, unit / pieces);
            let (a, mut rest) = (rest % strips * lines, rest / strips);
            let mut from = src_offset as isize + a as isize * across.src + p as isize * inner.src;
            let mut to = dst_offset + a * across.dst + p * inner.dst;
            for axis in outer.iter().rev() {
                let i = rest % axis.n;
                rest /= axis.n;
                from += i as isize * axis.src;
                to += i * axis.dst;
            }
            let tile = [Axis { n: lines.min(across.n - a), ..across }, Axis { n: piece.min(inner.n - p), ..inner }];
            // SAFETY: `copy_strided` checked that every source and destination of the box lies inside its slice and that no
            // two elements share a destination; units are disjoint parts of the box.
            unsafe { copy_tile(cx.isa, tile, src.as_ptr().offset(from), dst.as_ptr().add(to)) };
        }
    };
    let tasks = units.div_ceil(per_task);
    if total <= TASK { (0..tasks).for_each(run_task) } else { cx.pool.run(tasks, &run_task) }
}

/// # Safety
/// The tile's elements are valid at both pointers and the destinations are exclusively held.
unsafe fn copy_tile<const N: usize>(isa: Isa, [across, inner]: [Axis; 2], src: *const [u8; N], dst: *mut [u8; N]) {
    if across.src.unsigned_abs() != 1 || inner.src.unsigned_abs() <= 1 {
        for a in 0..across.n {
            // SAFETY: the caller's contract.
            unsafe { copy_line(inner, src.offset(a as isize * across.src), dst.add(a * across.dst)) };
        }
        return;
    }
    if across.src == 1 && inner.dst == 1 && across.dst == inner.n {
        match inner.n {
            // SAFETY: the caller's contract.
            2 => return unsafe { interleave::<N, 2>(isa, across.n, inner.src, src, dst) },
            // SAFETY: the caller's contract.
            3 => return unsafe { interleave::<N, 3>(isa, across.n, inner.src, src, dst) },
            // SAFETY: the caller's contract.
            4 => return unsafe { interleave::<N, 4>(isa, across.n, inner.src, src, dst) },
            _ => {}
        }
    }
    for start in (0..inner.n).step_by(TILE) {
        for a in 0..across.n {
            let (from, to) = (a as isize * across.src, a * across.dst);
            for i in start..inner.n.min(start + TILE) {
                // SAFETY: the caller's contract; both offsets are those of an element of the tile.
                unsafe { *dst.add(to + i * inner.dst) = *src.offset(from + i as isize * inner.src) };
            }
        }
    }
}

/// Element p of each of `K` lines, which lie `line` elements apart, becomes part of pixel p.
///
/// # Safety
/// `pixels` elements of each line are valid at `src`, and as many pixels of `K` elements at `dst`, which are exclusively held.
unsafe fn interleave<const N: usize, const K: usize>(
    isa: Isa,
    pixels: usize,
    line: isize,
    src: *const [u8; N],
    dst: *mut [u8; N],
) {
    // SAFETY: the caller's contract.
    let to = unsafe { std::slice::from_raw_parts_mut(dst.cast::<[[u8; N]; K]>(), pixels) };
    // SAFETY: the caller's contract.
    let from: [&[[u8; N]]; K] =
        std::array::from_fn(|k| unsafe { std::slice::from_raw_parts(src.offset(k as isize * line), pixels) });
    if N == 1 && K == 3 {
        let [a, b, c]: [&[u8]; 3] = std::array::from_fn(|k| from[k].as_flattened());
        return interleave_colors(isa, a, b, c, bytemuck::cast_slice_mut(to.as_flattened_mut()));
    }
    for (p, to) in to.iter_mut().enumerate() {
        for k in 0..K {
            to[k] = from[k][p];
        }
    }
}

per_isa! {
    /// [`interleave`] of three lines of bytes, which registers do where the level can shuffle bytes.
    fn interleave_colors(a: &[u8], b: &[u8], c: &[u8], to: &mut [u8]) = interleave_colors_body
}

#[inline(always)]
fn interleave_colors_body<M: Math>(a: &[u8], b: &[u8], c: &[u8], to: &mut [u8]) {
    let (to, n) = (to.as_chunks_mut::<3>().0, a.len());
    let (b, c, to) = (&b[..n], &c[..n], &mut to[..n]);
    for p in 0..n {
        to[p] = [a[p], b[p], c[p]];
    }
}

/// # Safety
/// As [`copy_tile`].
unsafe fn copy_line<const N: usize>(axis: Axis, src: *const [u8; N], dst: *mut [u8; N]) {
    match (axis.src, axis.dst) {
        // A copy of a length that the compiler does not know is a call.
        // SAFETY: the caller's contract; lines that are read and written never overlap.
        (1, 1) if axis.n * N <= 64 && (axis.n * N).is_multiple_of(16) => unsafe {
            for i in 0..axis.n * N / 16 {
                std::ptr::copy_nonoverlapping(src.cast::<[u8; 16]>().add(i), dst.cast::<[u8; 16]>().add(i), 1);
            }
        },
        // SAFETY: the caller's contract.
        (1, 1) => unsafe { std::ptr::copy_nonoverlapping(src, dst, axis.n) },
        // SAFETY: the caller's contract.
        (0, 1) => unsafe { std::slice::from_raw_parts_mut(dst, axis.n).fill(*src) },
        _ => {
            for i in 0..axis.n {
                // SAFETY: the caller's contract; both offsets are those of an element of the line.
                unsafe { *dst.add(i * axis.dst) = *src.offset(i as isize * axis.src) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_lie_together_are_one() {
        // [2, 3, 4] → [2, 4, 3]: nothing merges; [2, 3, 4] → [4, 2, 3]: the first two stay together.
        assert_eq!(merge(&[2, 4, 3], &[12, 1, 4], &[12, 3, 1]).len(), 3);
        let merged = merge(&[4, 2, 3], &[1, 12, 4], &[6, 3, 1]);
        assert_eq!(merged, [Axis { n: 4, src: 1, dst: 6 }, Axis { n: 6, src: 4, dst: 1 }]);
        assert_eq!(merge(&[2, 1, 3], &[3, 7, 1], &[3, 9, 1]), [Axis { n: 6, src: 1, dst: 1 }]);
    }

    #[test]
    fn overlapping_destinations_are_seen() {
        let axis = |n, dst| Axis { n, src: 1, dst };
        assert_eq!(dst_extent(&[axis(2, 6), axis(6, 1)]), Some(12));
        assert_eq!(dst_extent(&[axis(2, 5), axis(6, 1)]), None);
        assert_eq!(dst_extent(&[axis(2, 0)]), None);
        assert_eq!(dst_extent(&[axis(3, usize::MAX / 2 + 1)]), None);
    }
}
