//! Penjing's crates under one roof, for Rust programs that want the pieces without the command line.
//!
//! ```
//! use penjing::{data::Dataset, exec::Target, train::zoo};
//!
//! let model = zoo::new("simple-cnn", zoo::Size::default(), 0)?;
//! let digits = Dataset::open("digits:heldout")?;
//! let loader = penjing::data::Loader::new(digits.subset(&[0, 1])?, penjing::data::LoaderConfig::eval(2))?;
//! let untrained = penjing::train::evaluate(&model, &loader, Target::host(1))?;
//! assert_eq!(untrained.n, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use penjing_compress as compress;
pub use penjing_data as data;
pub use penjing_exec as exec;
pub use penjing_grad as grad;
pub use penjing_ir as ir;
pub use penjing_kernels as kernels;
pub use penjing_onnx as onnx;
pub use penjing_parallel as parallel;
pub use penjing_reference as reference;
pub use penjing_report as report;
pub use penjing_rewrite as rewrite;
pub use penjing_tensor as tensor;
pub use penjing_train as train;
