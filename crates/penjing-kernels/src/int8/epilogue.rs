//! What becomes of the i32 sums of a product whose output channels are columns.
//!
//! A product is computed with activations as the tile sees them, x + shift; Σ (x − zero)·w = Σ (x + shift)·w − (zero + shift)·Σ w,
//! and the second term is one constant a channel.

use super::{ByteType, Bytes, QEpilogue, QOut, QResidual, QTensor, rounding::Rounding};
use crate::{
    Activation, Isa, KernelError,
    error::check_len,
    gemm::{
        Clamp,
        tile::{Acc, NR},
    },
    isa::{Math, per_isa},
    pool::Disjoint,
};

/// The epilogue of all output channels, one call's.
pub(super) struct Columns {
    /// The rounding of results that are quotients by the scale of their codes from the start; that saves a product each.
    pub(super) quotients: Option<Rounding>,
    /// What is multiplied by everything real that goes into a result: the inverse of that scale, or 1.
    pub(super) unit: f32,
    /// x scale · w scale · unit, padded by a tile.
    pub(super) scale: Vec<f32>,
    /// (bias − residual zero point · residual scale) · unit
    pub(super) bias: Vec<f32>,
    /// −(zero + shift)·Σ w
    pub(super) constant: Vec<i32>,
    pub(super) clamp: Clamp,
    /// A function of the results that is no limits.
    pub(super) smooth: Option<Activation>,
    /// What is multiplied by its results: the inverse of the scale of codes, or 1.
    pub(super) after: f32,
    /// The level of that function.
    isa: Isa,
    /// Whether scales, biases and what the function has are finite and so small that no result overflows.
    pub(super) tame: bool,
    /// Whether quotients are so small that their integers fit an i32.
    pub(super) fits: bool,
}

impl Columns {
    /// What scales and biases stay below where no result overflows: 2³¹ times it is finite.
    const LARGE: f32 = 1e20;

    /// `sums` holds Σ w of every channel; `zero` is x's zero point as the tile sees it.
    pub(super) fn new(
        isa: Isa,
        kernel: &'static str,
        x: QTensor<'_>,
        sums: &[i32],
        zero: i32,
        e: &QEpilogue<'_>,
        y: &QOut<'_>,
    ) -> Result<Columns, KernelError> {
        check_len(kernel, "w_scale", Some(sums.len()), e.w_scale.len())?;
        if let Some(bias) = e.bias {
            check_len(kernel, "bias", Some(sums.len()), bias.len())?;
        }
        let padded = sums.len() + NR;
        let mut scale: Vec<f32> = e.w_scale.iter().map(|&s| x.scale * s).collect();
        let (added, centre) = match e.residual {
            Some(QResidual::Int(r)) => (r.scale, r.zero as f32),
            _ => (0.0, 0.0),
        };
        let mut bias = e.bias.map_or_else(|| vec![0.0; sums.len()], <[f32]>::to_vec);
        bias.iter_mut().for_each(|bias| *bias = centre.mul_add(-added, *bias));
        // The result of all terms fits an i32, so wrapping in between does no harm.
        let mut constant: Vec<i32> = sums.iter().map(|&s| s.wrapping_mul(zero).wrapping_neg()).collect();
        let (clamp, smooth) = e.act.parts();
        let reals = [&scale, &bias, &[added][..]];
        let finite = reals.into_iter().flatten().all(|v| v.is_finite()) && e.act.is_finite();
        let greatest = |unit: f32| reals.map(|of| of.iter().fold(0.0, |most: f32, v| most.max((v * unit).abs())));
        let tame = |unit| finite && greatest(unit).iter().all(|&v| v < Columns::LARGE);
        let rounding = match y {
            QOut::F32(_) => None,
            QOut::I8(_, grid) | QOut::U8(_, grid) => Some(Rounding::new(*grid)),
        };
        let quotients = rounding.and_then(|r| r.within(clamp)).filter(|r| smooth.is_none() && tame(r.inverse));
        let after = rounding.filter(|_| smooth.is_some()).map_or(1.0, |r| r.inverse);
        let unit = quotients.map_or(1.0, |r| r.inverse);
        let (tame, [s, b, a]) = (tame(unit), greatest(unit));
        // Sums are below 2³¹, codes below 2⁸; together below 2³¹.
        let fits = quotients.is_some()
            && !matches!(e.residual, Some(QResidual::F32(_)))
            && s < 0.25
            && b < (1 << 28) as f32
            && a < (1 << 18) as f32;
        scale.iter_mut().chain(&mut bias).for_each(|v| *v *= unit);
        scale.resize(padded, 0.0);
        bias.resize(padded, 0.0);
        constant.resize(padded, 0);
        Ok(Columns { quotients, unit, scale, bias, constant, clamp, smooth, after, isa, tame, fits })
    }

    /// The rounding of the results that a store takes or, after a function, makes of its own; none where a step may make a NaN.
    pub(super) fn rounding(&self, y: &Out<'_>) -> Option<Rounding> {
        match (y, self.smooth) {
            (Out::F32(_), _) => None,
            (_, None) => self.quotients,
            (Out::Codes(.., r), Some(_)) => r.within(Clamp::NONE).filter(|_| self.tame),
        }
    }

    /// The quotient that NaN becomes, or none where it stays.
    pub(super) fn nan(&self) -> Option<f32> {
        self.quotients.map(|r| (r.nan - r.zero) as f32)
    }

    /// For sums to which `shift` was added, one value a channel.
    pub(super) fn shifted(mut self, shift: &[i32]) -> Columns {
        self.constant.iter_mut().zip(shift).for_each(|(c, shift)| *c = c.wrapping_sub(*shift));
        self
    }

    /// `NR` values from `first`.
    #[inline(always)]
    pub(super) fn tile<T>(values: &[T], first: usize) -> &[T; NR] {
        values[first..].first_chunk().expect("channels are padded by a tile")
    }
}

impl QResidual<'_> {
    /// `v[j] += residual[at + j] · unit` for j < cols, but for its zero point.
    #[inline(always)]
    fn add(self, at: usize, cols: usize, unit: f32, v: &mut [f32; NR]) {
        match self {
            QResidual::F32(r) => add(&r[at..at + cols], unit, v, |r| r),
            QResidual::Int(QTensor { data: Bytes::I8(r), scale, .. }) => {
                add(&r[at..at + cols], scale * unit, v, f32::from)
            }
            QResidual::Int(QTensor { data: Bytes::U8(r), scale, .. }) => {
                add(&r[at..at + cols], scale * unit, v, f32::from)
            }
        }
    }
}

#[inline(always)]
fn add<T: Copy>(r: &[T], scale: f32, v: &mut [f32; NR], real: impl Fn(T) -> f32) {
    match r.first_chunk::<NR>() {
        Some(r) => (0..NR).for_each(|j| v[j] = real(r[j]).mul_add(scale, v[j])),
        None => v.iter_mut().zip(r).for_each(|(v, &r)| *v = real(r).mul_add(scale, *v)),
    }
}

/// Where results go, as tasks share it.
pub(super) enum Out<'a> {
    F32(Disjoint<'a, f32>),
    /// The bits of either type.
    Codes(Disjoint<'a, u8>, ByteType, Rounding),
}

impl<'a> Out<'a> {
    pub(super) fn new(y: QOut<'a>) -> Out<'a> {
        match y {
            QOut::F32(y) => Out::F32(Disjoint::new(y)),
            QOut::I8(y, grid) => {
                Out::Codes(Disjoint::new(bytemuck::cast_slice_mut(y)), ByteType::I8, Rounding::new(grid))
            }
            QOut::U8(y, grid) => Out::Codes(Disjoint::new(y), ByteType::U8, Rounding::new(grid)),
        }
    }
}

/// Stores tiles of sums into y `[rows, stride]`.
#[derive(Clone, Copy)]
pub(super) struct QFinish<'a> {
    pub(super) y: &'a Out<'a>,
    /// Elements from row to row, of y and of the residual.
    pub(super) stride: usize,
    /// Row of y that the task's row 0 is.
    pub(super) first_row: usize,
    /// Channel that the task's column 0 is.
    pub(super) first_col: usize,
    pub(super) columns: &'a Columns,
    pub(super) residual: Option<QResidual<'a>>,
}

impl QFinish<'_> {
    /// Stores `rows` rows from `row` on, `cols` columns from `col` on, both counted from the task's first.
    pub(super) fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
        for (row, acc) in (row..row + rows).zip(&acc.0) {
            put_row(self.columns.isa, self, row, [col, cols], acc);
        }
    }
}

per_isa! {
    /// Stores a row of results. The same bits at every level.
    fn put_row(finish: &QFinish<'_>, row: usize, columns: [usize; 2], acc: &[i32; NR]) = put_row_body
}

#[inline(always)]
fn put_row_body<M: Math>(finish: &QFinish<'_>, row: usize, [col, cols]: [usize; 2], acc: &[i32; NR]) {
    let c = finish.columns;
    let first = finish.first_col + col;
    let (scale, bias) = (Columns::tile(&c.scale, first), Columns::tile(&c.bias, first));
    let constant = Columns::tile(&c.constant, first);
    let at = (finish.first_row + row) * finish.stride + first;
    let mut v = [0f32; NR];
    for j in 0..NR {
        v[j] = (acc[j].wrapping_add(constant[j]) as f32).mul_add(scale[j], bias[j]);
    }
    if let Some(residual) = finish.residual {
        residual.add(at, cols, c.unit, &mut v);
    }
    if let Some(smooth) = c.smooth {
        smooth.apply(c.isa, &mut v);
    }
    let limited = |v: f32| limit(v, c.clamp);
    // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range. The low byte of a code is its
    // bits in either type.
    unsafe {
        match (finish.y, c.quotients) {
            (Out::F32(y), _) => y.slice(at, cols).iter_mut().zip(v).for_each(|(y, v)| *y = limited(v)),
            (Out::Codes(y, ..), Some(r)) => {
                y.slice(at, cols).iter_mut().zip(v).for_each(|(y, v)| *y = r.round(v) as u8)
            }
            (Out::Codes(y, _, r), None) => {
                y.slice(at, cols).iter_mut().zip(v).for_each(|(y, v)| *y = r.apply_product(limited(v)) as u8);
            }
        }
    }
}

/// A result equal to a limit takes the limit's sign of zero.
#[inline(always)]
fn limit(v: f32, clamp: Clamp) -> f32 {
    let v = if v <= clamp.min { clamp.min } else { v };
    if v >= clamp.max { clamp.max } else { v }
}
