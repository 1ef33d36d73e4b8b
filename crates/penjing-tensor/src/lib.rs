//! The data that every other crate passes around: dtypes, dense tensors, a counter-based random generator, mapped files.
//!
//! It does no arithmetic on tensors: that is `penjing-reference` (slow, obvious) and `penjing-kernels` (fast).

mod dtype;
mod map_file;
mod rng;
mod shape;
mod tensor;

pub use dtype::{DType, Element};
pub use half::{bf16, f16};
pub use map_file::{MappedFile, map_file};
pub use rng::{Rng, fnv1a, philox4x32};
pub use shape::{broadcast_shapes, element_count, strides};
pub use tensor::{Tensor, TensorError};
