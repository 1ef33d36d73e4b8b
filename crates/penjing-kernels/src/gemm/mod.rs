//! f32 matrix multiplication: `C[m,n] (+)= A[m,k] · B[k,n]`, with bias, residual, activation and any strides of A and B.
//!
//! A is read where it lies, B is packed into panels of 16 columns ([`crate::igemm`]): once where it does not change
//! ([`PackedRhs`]). Each element of C is summed over k in one fixed order.

mod batched;
mod gemv;
pub(crate) mod pack;
mod product;
pub(crate) mod sink;
pub(crate) mod tile;
pub(crate) mod transpose;

pub use crate::activation::Clamp;
pub use batched::{Batch, gemm_batched};

use crate::{
    Activation, Ctx, Isa, KernelError, Pool,
    error::{check_len, product as extent},
    igemm::PackedB,
    pool::Disjoint,
};
use pack::pack_cols;
use product::product_into;
use sink::COut;
use tile::NR;

const NAME: &str = "gemm";

/// C is `[m, n]`, A `[m, k]`, B `[k, n]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct GemmShape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// A matrix in memory: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix with `cols` elements from row to row.
    pub fn rows(data: &'a [f32], cols: usize) -> Mat<'a> {
        Mat { data, row_stride: cols, col_stride: 1 }
    }

    /// The transpose of a row-major matrix with `cols` elements from row to row.
    pub fn transposed(data: &'a [f32], cols: usize) -> Mat<'a> {
        Mat { data, row_stride: 1, col_stride: cols }
    }

    fn t(self) -> Mat<'a> {
        Mat { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    fn check(&self, operand: &'static str, rows: usize, cols: usize) -> Result<(), KernelError> {
        let need = span(rows, self.row_stride, cols, self.col_stride);
        match need {
            Some(need) if need <= self.data.len() => Ok(()),
            need => Err(KernelError::Length {
                kernel: NAME,
                operand,
                need: need.unwrap_or(usize::MAX),
                have: self.data.len(),
            }),
        }
    }
}

/// Elements from the first to one past the last of a strided matrix.
fn span(rows: usize, row_stride: usize, cols: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(row_stride)?.checked_add((cols - 1).checked_mul(col_stride)?)?.checked_add(1)
}

/// The right operand.
#[derive(Clone, Copy)]
pub enum Rhs<'a> {
    /// Packed during the call.
    Plain(Mat<'a>),
    /// Packed before.
    Packed(&'a PackedRhs),
}

/// A right operand `[k, n]` packed once; columns are padded with zeros to a multiple of 16.
pub struct PackedRhs {
    k: usize,
    n: usize,
    b: PackedB,
}

impl PackedRhs {
    /// Packs `b`, a `[k, n]` matrix. The layout is the same at every level.
    pub fn new(isa: Isa, k: usize, n: usize, b: Mat<'_>) -> Result<PackedRhs, KernelError> {
        PackedRhs::pack(Ctx { isa, pool: &Pool::new(1) }, k, n, b)
    }

    /// As [`new`](PackedRhs::new), on the threads of a pool.
    pub(crate) fn pack(cx: Ctx<'_>, k: usize, n: usize, b: Mat<'_>) -> Result<PackedRhs, KernelError> {
        b.check("b", k, n)?;
        packed_len(n, k).ok_or(KernelError::OutOfMemory { need: usize::MAX })?;
        let b = PackedB::filled(cx, n, k, &|steps, panel, out| {
            pack_cols(cx.isa, &b, panel * NR..n.min((panel + 1) * NR), steps, out);
        });
        Ok(PackedRhs { k, n, b })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.b.bytes()
    }
}

/// Elements of the packed panels of `n` columns and `k` rows.
fn packed_len(n: usize, k: usize) -> Option<usize> {
    n.checked_next_multiple_of(NR)?.checked_mul(k)
}

/// Whether the product replaces C or is added to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accumulate {
    /// C = A·B
    #[default]
    Overwrite,
    /// C += A·B
    Add,
}

/// What is added to every row or column of C.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// `m` values, one a row.
    Row(&'a [f32]),
    /// `n` values, one a column.
    Col(&'a [f32]),
}

/// What happens to a sum before it is stored: C = act((C) + A·B + bias + residual).
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Whether the old C is a term.
    pub accumulate: Accumulate,
    /// A vector added to every row or column.
    pub bias: Bias<'a>,
    /// A matrix with C's rows and row stride, in memory of its own; to add what C holds itself, accumulate.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub act: Activation,
}

impl Epilogue<'_> {
    fn check(&self, m: usize, n: usize) -> Result<(), KernelError> {
        match self.bias {
            Bias::None => Ok(()),
            Bias::Row(b) => check_len(NAME, "bias", Some(m), b.len()),
            Bias::Col(b) => check_len(NAME, "bias", Some(n), b.len()),
        }
    }
}

/// C = act((C) + A·B + bias + residual); C is row-major with `c_row_stride ≥ n` elements from row to row.
pub fn gemm(
    cx: Ctx<'_>,
    shape: GemmShape,
    a: Mat<'_>,
    b: Rhs<'_>,
    epilogue: &Epilogue<'_>,
    c: &mut [f32],
    c_row_stride: usize,
) -> Result<(), KernelError> {
    check(shape, a, b, epilogue)?;
    check_c(shape, "c", c.len(), c_row_stride)?;
    if let Some(residual) = epilogue.residual {
        check_c(shape, "residual", residual.len(), c_row_stride)?;
    }
    let c = Disjoint::new(c);
    // SAFETY: the whole of C is borrowed mutably and long enough (`check_c`).
    unsafe { product_into(cx, shape, a, b, epilogue, COut { ptr: c.as_ptr(), row_stride: c_row_stride }) };
    Ok(())
}

fn check(shape: GemmShape, a: Mat<'_>, b: Rhs<'_>, epilogue: &Epilogue<'_>) -> Result<(), KernelError> {
    let GemmShape { m, n, k } = shape;
    a.check("a", m, k)?;
    match b {
        Rhs::Plain(b) => b.check("b", k, n)?,
        Rhs::Packed(p) if (p.k, p.n) == (k, n) => {}
        Rhs::Packed(_) => return Err(geometry("the packed right operand is of another shape")),
    }
    if extent(&[m, n, k]).is_none() || packed_len(n, k).is_none() {
        return Err(geometry("m * n * k overflows"));
    }
    epilogue.check(m, n)
}

fn check_c(shape: GemmShape, operand: &'static str, len: usize, c_row_stride: usize) -> Result<(), KernelError> {
    if shape.m > 1 && c_row_stride < shape.n {
        return Err(geometry("the rows of C overlap"));
    }
    let need = span(shape.m, c_row_stride, shape.n, 1).unwrap_or(usize::MAX);
    if need > len {
        return Err(KernelError::Length { kernel: NAME, operand, need, have: len });
    }
    Ok(())
}

fn geometry(why: &'static str) -> KernelError {
    KernelError::Geometry { kernel: NAME, why }
}

#[cfg(test)]
mod tests;
