//! Why a kernel, a pool or an arena refuses what it was given.

use crate::arena::Region;

/// Refusals of this crate. Every kernel checks the lengths and the geometry it is given before it touches memory.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum KernelError {
    #[error("{kernel}: `{operand}` has {have} elements, the geometry needs {need}")]
    Length { kernel: &'static str, operand: &'static str, need: usize, have: usize },
    #[error("{kernel}: {why}; fix the parameters of the step")]
    Geometry { kernel: &'static str, why: &'static str },
    #[error("{kernel}: index {index} at position {position} is outside 0..{bound}")]
    Index { kernel: &'static str, index: i64, position: usize, bound: usize },
    #[error("{region:?} reaches past the end of its buffer of {have} bytes")]
    RegionOutside { region: Region, have: usize },
    #[error("there is no buffer {0}")]
    NoBuffer(usize),
    #[error("{0:?} lies in a constant buffer and cannot be written")]
    WriteToConstant(Region),
    #[error("write {write:?} overlaps {other:?}; only a write declared in place of one identical read may")]
    Overlap { write: Region, other: Region },
    #[error("write {0:?} is declared in place of a read that is missing or not the same region")]
    NotInPlace(Region),
    #[error("view {0} does not exist or was taken already")]
    NoView(usize),
    #[error("a view of {len} bytes at offset {offset} cannot be read as elements of {element} bytes")]
    Misaligned { offset: usize, len: usize, element: usize },
    #[error("{need} bytes cannot be allocated")]
    OutOfMemory { need: usize },
}

/// `Ok` when `have == need`.
pub(crate) fn check_len(
    kernel: &'static str,
    operand: &'static str,
    need: Option<usize>,
    have: usize,
) -> Result<(), KernelError> {
    match need {
        Some(need) if need == have => Ok(()),
        need => Err(KernelError::Length { kernel, operand, need: need.unwrap_or(usize::MAX), have }),
    }
}

/// The product of `dims`, `None` when it overflows.
pub(crate) fn product(dims: &[usize]) -> Option<usize> {
    penjing_tensor::element_count(dims)
}
