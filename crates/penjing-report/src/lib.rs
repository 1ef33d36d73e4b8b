//! Run records and the report drawn from them: JSON in, one self-contained HTML page out.
//!
//! The records ([`DemoRecord`], [`RunRecord`]) are plain serde structs: other crates fill and write them, this crate reads
//! and draws them. It knows no model, runs nothing and measures nothing: every number on the page stands in a record or is
//! a ratio or difference of two that do. The page loads nothing from outside, and every text in it is escaped.

mod charts;
mod compare;
mod error;
mod format;
mod html;
mod layers;
mod nulls;
mod page;
mod palette;
mod plot;
mod read;
mod record;
mod runs;
mod summary;
mod table;

pub use error::ReportError;
pub use page::{render_demo, render_runs};
pub use read::{read_demo, read_run};
pub use record::{
    DataRecord, DemoRecord, LayerRecord, MachineRecord, ModelRecord, ResultRecord, RunRecord, StepMetrics, StepRecord,
    VariantRecord,
};
