//! The records: what a run says about itself, as JSON.
//!
//! A number that was not measured is `None` (absent or `null`), a text that is not known is empty, a loss that was not
//! finite is `null` in the list. Fields that this crate does not know are ignored where a record is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `report.json` of `penjing demo`: several variants of one network, measured in one run on one machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DemoRecord {
    /// The page's headline; empty for a plain one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// One or two sentences on what was done: network, data, steps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// The seed that every random number of the run follows from.
    pub seed: u64,
    /// Where it ran.
    #[serde(default)]
    pub machine: MachineRecord,
    /// Seconds from start to end.
    #[serde(default)]
    pub wall_s: Option<f64>,
    /// The variants, in the order of the table; the one named `dense`, else the first, is the baseline.
    pub variants: Vec<VariantRecord>,
    /// How the numbers were measured, a sentence or two each; shown at the page's end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The machine that a run was measured on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// The processor's model name.
    #[serde(default)]
    pub cpu: String,
    /// Cores that the process may use.
    #[serde(default)]
    pub cores: Option<u64>,
    /// Threads that the run used.
    #[serde(default)]
    pub threads: Option<u64>,
    /// The instruction set level of the kernels, such as `avx2`.
    #[serde(default)]
    pub isa: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
}

/// One variant of the network and what was measured of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VariantRecord {
    /// Its name, such as `pruned50-int8`.
    pub name: String,
    /// The exported file's name.
    #[serde(default)]
    pub file: String,
    /// The exported file's size in bytes.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Share of the held-out samples classified correctly, 0 to 1.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// How many parameters are not zero.
    #[serde(default)]
    pub nonzero: Option<u64>,
    /// How many parameters there are, zeros included.
    #[serde(default)]
    pub params: Option<u64>,
    /// Median time of one inference in milliseconds.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// Peak resident memory in megabytes.
    #[serde(default)]
    pub peak_rss_mb: Option<f64>,
    /// The training loss, one value per step or epoch; one that was not finite is `null`, read as NaN.
    #[serde(default, deserialize_with = "crate::nulls::numbers")]
    pub loss: Vec<f64>,
    /// The layers, where they were inspected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerRecord>,
}

/// One layer of a variant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The layer's name; layers of the same name in several variants share a row.
    pub name: String,
    /// Its operation, such as `Conv`.
    #[serde(default)]
    pub op: String,
    /// How many parameters it has, zeros included.
    #[serde(default)]
    pub params: Option<u64>,
    /// Share of its weights that are zero, 0 to 1.
    #[serde(default)]
    pub sparsity: Option<f64>,
    /// Bits that one weight is stored in.
    #[serde(default)]
    pub bits: Option<f64>,
    /// Multiply-accumulates of one sample's inference.
    #[serde(default)]
    pub macs: Option<u64>,
}

/// `record.json` of a run folder: one command, its recipe and every metric by step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The format's version, [`RunRecord::VERSION`].
    pub version: u64,
    /// The command that ran, such as `train` or `prune`.
    pub command: String,
    /// The recipe it followed, in full.
    #[serde(default)]
    pub recipe: Value,
    /// The model it started from.
    #[serde(default)]
    pub model: ModelRecord,
    /// The data it was trained and measured on.
    #[serde(default)]
    pub data: DataRecord,
    /// The seed that every random number of the run follows from.
    pub seed: u64,
    /// Where it ran.
    #[serde(default)]
    pub machine: MachineRecord,
    /// Hash of the execution plan: equal hashes ran the same kernels.
    #[serde(default)]
    pub plan_hash: String,
    /// The steps, in the order they ran.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
    /// What came out.
    #[serde(default)]
    pub result: ResultRecord,
    /// How the numbers were measured, a sentence or two each; shown at the page's end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl RunRecord {
    /// The version that this crate reads and writes.
    pub const VERSION: u64 = 1;
}

impl Default for RunRecord {
    /// An empty record of the present version.
    fn default() -> Self {
        RunRecord {
            version: Self::VERSION,
            command: String::new(),
            recipe: Value::Null,
            model: ModelRecord::default(),
            data: DataRecord::default(),
            seed: 0,
            machine: MachineRecord::default(),
            plan_hash: String::new(),
            steps: Vec::new(),
            result: ResultRecord::default(),
            notes: Vec::new(),
        }
    }
}

/// The model that a run started from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// The file or folder it was read from; empty for a new network.
    #[serde(default)]
    pub path: String,
    /// The file's SHA-256 in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// How many parameters it has, zeros included.
    #[serde(default)]
    pub params: Option<u64>,
}

/// The data of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataRecord {
    /// The data as the recipe or the command line names it.
    #[serde(default)]
    pub spec: String,
    /// How many samples it has.
    #[serde(default)]
    pub n: Option<u64>,
}

/// One step of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// What the step did: `train`, `prune`, `quantize`, `export` and so on.
    #[serde(rename = "do")]
    pub action: String,
    /// The step's own name; may be empty.
    #[serde(default)]
    pub name: String,
    /// What was measured during and after it.
    #[serde(default)]
    pub metrics: StepMetrics,
    /// Seconds it took.
    #[serde(default)]
    pub wall_s: Option<f64>,
}

/// What was measured during and after a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The training loss, one value per optimiser step or epoch; one that was not finite is `null`, read as NaN.
    #[serde(default, deserialize_with = "crate::nulls::numbers", skip_serializing_if = "Vec::is_empty")]
    pub loss: Vec<f64>,
    /// Share of the held-out samples classified correctly after the step, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Every other metric by name; numbers and texts among them are shown.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What a run produced and what was measured of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The exported file's name; empty where nothing was exported.
    #[serde(default)]
    pub file: String,
    /// The exported file's size in bytes.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Share of the held-out samples classified correctly, 0 to 1.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// How many parameters are not zero.
    #[serde(default)]
    pub nonzero: Option<u64>,
    /// How many parameters there are, zeros included.
    #[serde(default)]
    pub params: Option<u64>,
    /// Median time of one inference in milliseconds.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// Peak resident memory in megabytes.
    #[serde(default)]
    pub peak_rss_mb: Option<f64>,
    /// The layers, where they were inspected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerRecord>,
    /// Every other measurement by name; kept, not shown.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}
