//! Kernels that move elements and compute nothing: permute, slice, concat, pad, expand, gather, one-hot; and the one sum that
//! undoes a gather.
//!
//! Tensors are bytes and an element size; all of them but the indexed ones are the strided copy of [`strided`].

mod index;
mod layout;
mod strided;

pub use index::{gather, gather_grad, one_hot};
pub use layout::{concat, expand, pad, permute, slice};
pub use strided::{copy_strided, fill};

/// Bytes of one element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum ElemSize {
    One,
    Two,
    Four,
    Eight,
}

impl ElemSize {
    /// The size that has this many bytes.
    pub fn new(bytes: usize) -> Option<ElemSize> {
        match bytes {
            1 => Some(ElemSize::One),
            2 => Some(ElemSize::Two),
            4 => Some(ElemSize::Four),
            8 => Some(ElemSize::Eight),
            _ => None,
        }
    }

    /// How many bytes.
    pub fn bytes(self) -> usize {
        match self {
            ElemSize::One => 1,
            ElemSize::Two => 2,
            ElemSize::Four => 4,
            ElemSize::Eight => 8,
        }
    }
}

/// Calls `$f::<N>(args)` with N the bytes of an element.
macro_rules! by_size {
    ($size:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $size {
            $crate::movement::ElemSize::One => $f::<1>($($arg),*),
            $crate::movement::ElemSize::Two => $f::<2>($($arg),*),
            $crate::movement::ElemSize::Four => $f::<4>($($arg),*),
            $crate::movement::ElemSize::Eight => $f::<8>($($arg),*),
        }
    };
}
use by_size;

#[cfg(test)]
mod tests;
