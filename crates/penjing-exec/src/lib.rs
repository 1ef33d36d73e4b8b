//! From a bound Canonical model to a running one: fusion, kernel selection, schedule, memory plan, and the loop that runs it.
//!
//! Lowering decides everything ([`Program`]); running is a loop over its steps. The same executor serves inference and
//! training: a carry is written straight into its state where that is legal.

mod calibrate;
mod contents;
mod costs;
mod error;
mod fuse;
mod memory;
mod profile;
mod program;
mod schedule;
mod select;
mod session;
mod target;

pub use calibrate::{Precision, Timed, fit, time_kernels};
pub use costs::{Costs, Sample, UNMEASURED};
pub use error::ExecError;
pub use fuse::fuse;
pub use profile::{Profile, StepProfile};
pub use program::{Program, StepInfo, lower};
pub use session::{Collective, Outputs, ProgramId, Session};
pub use target::Target;
