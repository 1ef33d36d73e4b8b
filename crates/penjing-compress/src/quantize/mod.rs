//! Quantization: where grids go, what their scales are, and how a trained fake-quantized model becomes a QDQ one.

mod calibrate;
mod convert;
mod fold;
mod place;
mod propagate;
mod table;

pub use calibrate::{Range, observer, ranges_from};
pub use convert::to_qdq;
pub use place::{QuantizeConfig, WeightRange, activations, place_dynamic, place_fake_quant};
