//! Kernels: plain slices in, plain slices out, with the geometry in parameter structs.
//!
//! The crate knows dtypes and nothing of graphs. It also owns what is `unsafe` in execution: the thread [`Pool`], the checked
//! views of the [`arena`], and the vector code. Two rules hold for every kernel: lengths and geometry are checked before
//! memory is touched (`KernelError`, never a panic), and the split of work is fixed by the problem, so results are the same
//! bits at any thread count.

mod activation;
pub mod arena;
pub mod arg_reduce;
pub mod attention;
pub mod attention_grad;
pub mod conv;
pub mod conv_last;
pub mod elementwise;
mod error;
pub mod gemm;
pub(crate) mod igemm;
pub mod int8;
mod isa;
mod lanes;
mod math;
pub mod movement;
pub mod norm;
mod peak;
mod pool;
pub mod pool2d;
pub mod pool_last;
pub mod recurrent;
pub mod reduce;
mod scratch;
pub mod softmax;
pub mod table;
#[cfg(test)]
mod testing;

pub use activation::{Activation, Clamp};
pub use error::KernelError;
pub use isa::{Ctx, Isa};
pub use peak::{fma_peak, int8_peak};
pub use pool::Pool;
