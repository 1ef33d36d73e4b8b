//! Means of int8 elements: exact sums, one division each.

use super::{Byte, Bytes, QOut, QTensor, Rounding};
use crate::{
    Ctx, KernelError,
    error::{check_len, product},
    isa::{Math, per_isa},
};

const NAME: &str = "qmean";

/// The most elements of a mean: a sum of so many differences of at most 255 fits an i32.
pub const MAX_MEAN: usize = i32::MAX as usize / 255;

/// Elements that one task reads at least.
const TASK: usize = 1 << 16;
/// Columns whose sums are kept at a time.
const COLS: usize = 256;

/// `y[o, i] = (Σ over r of x[o, r, i] − zero) · scale / n`, each operation rounded to f32, or that on a grid as
/// [`quantize`](super::quantize) rounds; x `[outer, n, inner]`, y `[outer, inner]`. The mean of nothing is NaN. `n` is at most
/// [`MAX_MEAN`].
pub fn qmean(cx: Ctx<'_>, x: QTensor<'_>, [outer, n, inner]: [usize; 3], y: QOut<'_>) -> Result<(), KernelError> {
    check_len(NAME, "x", product(&[outer, n, inner]), x.data.len())?;
    check_len(NAME, "y", product(&[outer, inner]), y.len())?;
    x.check(NAME, x.data.byte_type())?;
    y.check(NAME)?;
    if n > MAX_MEAN {
        return Err(KernelError::Geometry { kernel: NAME, why: "a sum could overflow 32 bits" });
    }
    let shape = [n, inner];
    match y {
        QOut::F32(y) => means(cx, x, shape, y, |v| v),
        QOut::I8(y, grid) => {
            let rounding = Rounding::new(grid);
            means(cx, x, shape, y, |v| i8::narrow(rounding.apply(v)));
        }
        QOut::U8(y, grid) => {
            let rounding = Rounding::new(grid);
            means(cx, x, shape, y, |v| u8::narrow(rounding.apply(v)));
        }
    }
    Ok(())
}

fn means<T: Send>(cx: Ctx<'_>, x: QTensor<'_>, [n, inner]: [usize; 2], y: &mut [T], store: impl Fn(f32) -> T + Sync) {
    if y.is_empty() {
        return;
    }
    let image = n * inner;
    let per_task = (TASK / image.max(1)).max(1);
    cx.pool.run_chunks(y, per_task * inner, &|task, y| {
        for (i, y) in y.chunks_exact_mut(inner).enumerate() {
            let image = (task * per_task + i) * image..(task * per_task + i + 1) * image;
            for (block, y) in y.chunks_mut(COLS).enumerate() {
                let mut sums = [0; COLS];
                let sums = &mut sums[..y.len()];
                match x.data {
                    Bytes::I8(x) => sums_i8(cx.isa, &x[image.clone()], inner, block * COLS, sums),
                    Bytes::U8(x) => sums_u8(cx.isa, &x[image.clone()], inner, block * COLS, sums),
                }
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = store((*sum - n as i32 * x.zero) as f32 * x.scale / n as f32);
                }
            }
        }
    });
}

per_isa! {
    /// Adds the columns from `first` on of the rows of `x`, `inner` elements each, to `sums`.
    fn sums_i8(x: &[i8], inner: usize, first: usize, sums: &mut [i32]) = sums_body
}

per_isa! {
    fn sums_u8(x: &[u8], inner: usize, first: usize, sums: &mut [i32]) = sums_body
}

#[inline(always)]
fn sums_body<M: Math>(x: &[impl Byte], inner: usize, first: usize, sums: &mut [i32]) {
    if let (1, [sum]) = (inner, &mut *sums) {
        let mut total = 0;
        for v in x {
            total += v.widen();
        }
        *sum += total;
        return;
    }
    for row in x.chunks_exact(inner) {
        for (sum, v) in sums.iter_mut().zip(&row[first..]) {
            *sum += v.widen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Isa,
        int8::{Grid, Limits},
        testing::contexts,
    };

    /// All codes at one end, with the zero point at the other: the largest sums there are.
    #[test]
    fn the_longest_sums_are_exact() {
        for (code, zero) in [(255u8, 0), (0, 255)] {
            let x = vec![code; MAX_MEAN];
            let x = QTensor { data: Bytes::U8(&x), scale: 0.5, zero };
            for cx in [Isa::Generic, Isa::detect()].into_iter().filter_map(|isa| contexts(isa).next()) {
                let mut y = [0.0];
                qmean(cx.get(), x, [1, MAX_MEAN, 1], QOut::F32(&mut y)).unwrap();
                // The sum is rounded to f32 before it is scaled and divided.
                let sum = 255.0 * MAX_MEAN as f64 * if zero == 0 { 1.0 } else { -1.0 };
                assert_eq!(y, [sum as f32 * 0.5 / MAX_MEAN as f32]);
            }
        }
    }

    #[test]
    fn wrong_lengths_and_grids_are_errors() {
        let cx = contexts(Isa::detect()).next().unwrap();
        let x = QTensor { data: Bytes::I8(&[1, 2, 3, 4]), scale: 1.0, zero: 0 };
        let mut y = [0.0; 2];
        assert!(qmean(cx.get(), x, [1, 3, 2], QOut::F32(&mut y)).is_err());
        assert!(qmean(cx.get(), x, [1, 4, 1], QOut::F32(&mut y)).is_err());
        assert!(qmean(cx.get(), QTensor { zero: 200, ..x }, [2, 2, 1], QOut::F32(&mut y)).is_err());
        let grid = Grid { scale: 1.0, zero: -3, limits: Limits::U8 };
        assert!(qmean(cx.get(), x, [2, 2, 1], QOut::U8(&mut [0; 2], grid)).is_err());
        assert!(qmean(cx.get(), x, [2, 2, 1], QOut::F32(&mut y)).is_ok());
    }
}
