//! ONNX files: protobuf messages, tensors and external data, import to and export from the canonical graph.
//!
//! A file is hostile until parsed: declared sizes are checked against the bytes present before anything is allocated, and
//! external data is read from the model's own folder only.

mod error;
mod export;
mod external;
mod file;
mod import;
pub mod proto;
mod tensor;
mod test_case;

pub use error::OnnxError;
pub use export::export;
pub use external::ExternalFiles;
pub use file::{ModelFile, read_model, read_model_bytes, write_model};
pub use import::{ImportOptions, import};
pub use tensor::{dtype_of, elem_type, tensor_from_proto, tensor_to_proto};
pub use test_case::{TestCase, TestDataSet, read_test_case, read_test_tensor};
