//! Loops over rows that keep what belongs to a column in registers.
//!
//! A matrix is a slice of rows of equal width, the last of which may be short. A width is walked four registers at a time.

use crate::{
    Isa,
    lanes::{Lanes, per_lanes},
};

/// Registers of a row that are walked together.
const GROUP: usize = 4;

/// `sums[j] = Σ g[j]` and `products[j] = Σ g[j]·(x[j] − mean[j])` over the rows; without g, that is x − mean.
pub(super) fn moments(isa: Isa, g: Option<&[f32]>, x: &[f32], mean: &[f32], [sums, products]: [&mut [f32]; 2]) {
    assert!(g.is_none_or(|g| g.len() == x.len()) && sums.len() == mean.len() && products.len() == mean.len());
    // SAFETY: the lengths were checked.
    unsafe { moments_of(isa, g.map(<[f32]>::as_ptr), x, mean, sums.as_mut_ptr(), products.as_mut_ptr()) };
}

/// `y = (x − mean)·factor + bias` of every row.
pub(super) fn affine(isa: Isa, x: &[f32], [mean, factor, bias]: [&[f32]; 3], y: &mut [f32]) {
    assert!(y.len() == x.len() && factor.len() == mean.len() && bias.len() == mean.len());
    // SAFETY: the lengths were checked.
    unsafe { affine_of(isa, x, mean, factor.as_ptr(), bias.as_ptr(), y.as_mut_ptr()) };
}

/// `dx = a·g + b·(x − mean) + c` of every row.
pub(super) fn gradient(isa: Isa, g: &[f32], x: &[f32], [mean, a, b, c]: [&[f32]; 4], dx: &mut [f32]) {
    assert!(g.len() == x.len() && dx.len() == x.len());
    assert!([a, b, c].iter().all(|v| v.len() == mean.len()));
    // SAFETY: the lengths were checked.
    unsafe { gradient_of(isa, g.as_ptr(), x, mean, [a, b, c].map(<[f32]>::as_ptr), dx.as_mut_ptr()) };
}

per_lanes! {
    /// # Safety
    /// `g` has the elements of `x`, `sums` and `products` those of `mean`.
    unsafe fn moments_of(
        g: Option<*const f32>,
        x: &[f32],
        mean: &[f32],
        sums: *mut f32,
        products: *mut f32,
    ) = moments_body
}

#[inline(always)]
unsafe fn moments_body<V: Lanes>(g: Option<*const f32>, x: &[f32], mean: &[f32], sums: *mut f32, products: *mut f32) {
    let (width, len) = (mean.len(), x.len());
    // SAFETY: the contract; every access is to a column `< width` of a row, or to an element `< len`.
    unsafe {
        for j in (0..width).step_by(GROUP * V::LANES) {
            let mut sum = [V::splat(0.0); GROUP];
            let mut product = [V::splat(0.0); GROUP];
            let mut at = j;
            if j + GROUP * V::LANES <= width {
                let mut center = [V::splat(0.0); GROUP];
                for r in 0..GROUP {
                    center[r] = V::load(mean.as_ptr().add(j + r * V::LANES));
                }
                while at + GROUP * V::LANES <= len {
                    for r in 0..GROUP {
                        let element = at + r * V::LANES;
                        let d = V::load(x.as_ptr().add(element)).sub(center[r]);
                        let g = match g {
                            Some(g) => V::load(g.add(element)),
                            None => d,
                        };
                        sum[r] = sum[r].add(g);
                        product[r] = g.fma(d, product[r]);
                    }
                    at += width;
                }
            }
            while at < len {
                for r in 0..GROUP {
                    let (column, element) = (j + r * V::LANES, at + r * V::LANES);
                    let n = lanes::<V>(width, column).min(lanes::<V>(len, element));
                    if n > 0 {
                        let center = V::load_part(mean.as_ptr().add(column), n);
                        let d = V::load_part(x.as_ptr().add(element), n).sub(center);
                        let g = match g {
                            Some(g) => V::load_part(g.add(element), n),
                            None => d,
                        };
                        sum[r] = sum[r].add(g);
                        product[r] = g.fma(d, product[r]);
                    }
                }
                at += width;
            }
            for r in 0..GROUP {
                let column = j + r * V::LANES;
                let n = lanes::<V>(width, column);
                if n > 0 {
                    sum[r].store_part(sums.add(column), n);
                    product[r].store_part(products.add(column), n);
                }
            }
        }
    }
}

per_lanes! {
    /// # Safety
    /// `y` has the elements of `x`, `factor` and `bias` those of `mean`.
    unsafe fn affine_of(
        x: &[f32],
        mean: &[f32],
        factor: *const f32,
        bias: *const f32,
        y: *mut f32,
    ) = affine_body
}

#[inline(always)]
unsafe fn affine_body<V: Lanes>(x: &[f32], mean: &[f32], factor: *const f32, bias: *const f32, y: *mut f32) {
    let (width, len, m) = (mean.len(), x.len(), mean.as_ptr());
    // SAFETY: as in `moments_body`.
    unsafe {
        let mut first = 0;
        while first < len {
            let row = width.min(len - first);
            let (x, y) = (x.as_ptr().add(first), y.add(first));
            let mut j = 0;
            while j + V::LANES <= row {
                let d = V::load(x.add(j)).sub(V::load(m.add(j)));
                d.fma(V::load(factor.add(j)), V::load(bias.add(j))).store(y.add(j));
                j += V::LANES;
            }
            if j < row {
                let n = row - j;
                let d = V::load_part(x.add(j), n).sub(V::load_part(m.add(j), n));
                d.fma(V::load_part(factor.add(j), n), V::load_part(bias.add(j), n)).store_part(y.add(j), n);
            }
            first += width;
        }
    }
}

per_lanes! {
    /// # Safety
    /// `g` and `dx` have the elements of `x`, each `of` those of `mean`.
    unsafe fn gradient_of(
        g: *const f32,
        x: &[f32],
        mean: &[f32],
        of: [*const f32; 3],
        dx: *mut f32,
    ) = gradient_body
}

#[inline(always)]
unsafe fn gradient_body<V: Lanes>(g: *const f32, x: &[f32], mean: &[f32], [a, b, c]: [*const f32; 3], dx: *mut f32) {
    let (width, len, m) = (mean.len(), x.len(), mean.as_ptr());
    // SAFETY: as in `moments_body`.
    unsafe {
        let mut first = 0;
        while first < len {
            let row = width.min(len - first);
            let (g, x, dx) = (g.add(first), x.as_ptr().add(first), dx.add(first));
            let mut j = 0;
            while j + V::LANES <= row {
                let d = V::load(x.add(j)).sub(V::load(m.add(j)));
                let rest = d.fma(V::load(b.add(j)), V::load(c.add(j)));
                V::load(g.add(j)).fma(V::load(a.add(j)), rest).store(dx.add(j));
                j += V::LANES;
            }
            if j < row {
                let n = row - j;
                let d = V::load_part(x.add(j), n).sub(V::load_part(m.add(j), n));
                let rest = d.fma(V::load_part(b.add(j), n), V::load_part(c.add(j), n));
                V::load_part(g.add(j), n).fma(V::load_part(a.add(j), n), rest).store_part(dx.add(j), n);
            }
            first += width;
        }
    }
}

/// Lanes of a register from `at` on that lie before `end`.
#[inline(always)]
fn lanes<V: Lanes>(end: usize, at: usize) -> usize {
    end.saturating_sub(at).min(V::LANES)
}
