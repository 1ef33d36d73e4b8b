//! What `bench` measures, as JSON: written by one process, read back by `demo`.

use serde::{Deserialize, Serialize};

/// The measurement.
#[derive(Serialize, Deserialize)]
pub(crate) struct BenchResult {
    pub(crate) median_ms: f64,
    pub(crate) p10_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) runs: usize,
    /// Every timed run, sorted.
    pub(crate) times_ms: Vec<f64>,
    pub(crate) batch: usize,
    /// Of this process, in 10⁶ bytes.
    pub(crate) peak_rss_mb: Option<f64>,
    /// From the file to a program that is ready to run.
    pub(crate) load_ms: f64,
    /// Of the median training step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) images_per_s: Option<f64>,
    /// Measured in the same process, on the same threads.
    pub(crate) fma_peak_gflops: f64,
    /// The same for 8-bit integer multiply-adds.
    pub(crate) int8_peak_gops: f64,
    /// In execution order.
    pub(crate) per_layer: Vec<LayerTime>,
}

/// One step of the program.
#[derive(Serialize, Deserialize)]
pub(crate) struct LayerTime {
    pub(crate) name: String,
    pub(crate) op: String,
    pub(crate) kernel: String,
    /// Mean of the timed runs.
    pub(crate) ms: f64,
    pub(crate) macs: u64,
    /// Two operations for each multiply-accumulate; `None` where there are none.
    pub(crate) gflops: Option<f64>,
    pub(crate) fraction_of_peak: Option<f64>,
}
