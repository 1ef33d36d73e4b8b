//! One row for each variant or run, and how each stands to the baseline.

use crate::record::{DemoRecord, LayerRecord, RunRecord};

/// What the table, the plots and the layers show of one variant or run.
#[derive(Debug, Clone)]
pub(crate) struct Row<'a> {
    /// Its name, different from every other row's.
    pub(crate) name: String,
    /// The exported file's name, or empty.
    pub(crate) file: &'a str,
    pub(crate) bytes: Option<f64>,
    pub(crate) accuracy: Option<f64>,
    pub(crate) nonzero: Option<u64>,
    pub(crate) params: Option<u64>,
    pub(crate) latency_ms: Option<f64>,
    pub(crate) peak_rss_mb: Option<f64>,
    /// The training loss from the first step to the last.
    pub(crate) loss: Vec<f64>,
    pub(crate) layers: &'a [LayerRecord],
}

/// Whether a number of one row may be set against the baseline's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Comparable {
    /// Measured under the same conditions.
    Yes,
    /// Measured on other machines or data: the two numbers stand side by side, no ratio or difference is shown.
    No,
}

/// The rows and their baseline.
#[derive(Debug, Clone)]
pub(crate) struct Comparison<'a> {
    pub(crate) rows: Vec<Row<'a>>,
    /// What a row is: a `variant` or a `run`.
    pub(crate) noun: &'static str,
    /// The index of the row that the others are measured against.
    pub(crate) baseline: usize,
    /// Whether latency and memory come from one machine.
    pub(crate) machine: Comparable,
    /// Whether accuracy comes from one data set.
    pub(crate) data: Comparable,
}

impl<'a> Comparison<'a> {
    /// The variants of a demo, against the one named `dense` or else the first.
    pub(crate) fn of_demo(record: &'a DemoRecord) -> Self {
        let mut rows: Vec<Row> = record
            .variants
            .iter()
            .map(|v| Row {
                name: v.name.clone(),
                file: &v.file,
                bytes: v.bytes.map(|b| b as f64),
                accuracy: finite(v.accuracy),
                nonzero: v.nonzero,
                params: v.params,
                latency_ms: finite(v.latency_ms),
                peak_rss_mb: finite(v.peak_rss_mb),
                loss: v.loss.clone(),
                layers: &v.layers,
            })
            .collect();
        let baseline = rows.iter().position(|r| r.name == "dense").unwrap_or(0);
        make_names_differ(&mut rows);
        Comparison { rows, noun: "variant", baseline, machine: Comparable::Yes, data: Comparable::Yes }
    }

    /// The results of runs, against the first one.
    pub(crate) fn of_runs(records: &'a [RunRecord]) -> Self {
        let mut rows: Vec<Row> = records.iter().map(row_of_run).collect();
        make_names_differ(&mut rows);
        let same = |all_equal: bool| if all_equal { Comparable::Yes } else { Comparable::No };
        let machine = same(records.windows(2).all(|pair| pair[0].machine == pair[1].machine));
        let data = same(records.windows(2).all(|pair| pair[0].data == pair[1].data));
        Comparison { rows, noun: "run", baseline: 0, machine, data }
    }

    /// Accuracy minus the baseline's, as a share.
    pub(crate) fn accuracy_gain(&self, idx: usize) -> Option<f64> {
        let gain = self.rows[idx].accuracy? - self.rows[self.baseline].accuracy?;
        (self.data == Comparable::Yes && idx != self.baseline).then_some(gain)
    }

    /// How many times smaller than the baseline's file this one is.
    pub(crate) fn size_ratio(&self, idx: usize) -> Option<f64> {
        self.ratio(idx, |row| row.bytes)
    }

    /// How many times faster than the baseline this row is.
    pub(crate) fn speed_up(&self, idx: usize) -> Option<f64> {
        self.ratio(idx, |row| row.latency_ms).filter(|_| self.machine == Comparable::Yes)
    }

    fn ratio(&self, idx: usize, of: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
        let (ours, theirs) = (of(&self.rows[idx])?, of(&self.rows[self.baseline])?);
        let ratio = theirs / ours;
        (idx != self.baseline && ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }
}

impl Row<'_> {
    /// The share of the parameters that are not zero.
    pub(crate) fn nonzero_share(&self) -> Option<f64> {
        match (self.nonzero?, self.params?) {
            (_, 0) => None,
            (nonzero, params) => Some(nonzero as f64 / params as f64),
        }
    }
}

fn row_of_run(record: &RunRecord) -> Row<'_> {
    let result = &record.result;
    let last_accuracy = record.steps.iter().rev().find_map(|s| finite(s.metrics.accuracy));
    let stem = result.file.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
    let name = match (stem, record.model.name.as_str()) {
        ("", "") => record.command.clone(),
        ("", model) => format!("{} {model}", record.command),
        (stem, _) => stem.to_owned(),
    };
    Row {
        name,
        file: &result.file,
        bytes: result.bytes.map(|b| b as f64),
        accuracy: finite(result.accuracy).or(last_accuracy),
        nonzero: result.nonzero,
        params: result.params,
        latency_ms: finite(result.latency_ms),
        peak_rss_mb: finite(result.peak_rss_mb),
        loss: record.steps.iter().flat_map(|s| s.metrics.loss.iter().copied()).collect(),
        layers: &result.layers,
    }
}

/// Numbers the rows that share a name: `a`, `a (2)`, `a (3)`.
fn make_names_differ(rows: &mut [Row]) {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for row in rows {
        if row.name.trim().is_empty() {
            row.name = "unnamed".to_owned();
        }
        let times = seen.entry(row.name.clone()).or_insert(0);
        *times += 1;
        if *times > 1 {
            row.name = format!("{} ({times})", row.name);
        }
    }
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{MachineRecord, ModelRecord, ResultRecord, StepMetrics, StepRecord, VariantRecord};

    fn variant(name: &str, bytes: u64, accuracy: f64, latency_ms: f64) -> VariantRecord {
        VariantRecord {
            name: name.into(),
            bytes: Some(bytes),
            accuracy: Some(accuracy),
            latency_ms: Some(latency_ms),
            ..VariantRecord::default()
        }
    }

    #[test]
    fn variants_stand_against_the_dense_one_wherever_it_is() {
        let record = DemoRecord {
            variants: vec![variant("int8", 250, 0.97, 0.5), variant("dense", 1000, 0.98, 1.0)],
            ..DemoRecord::default()
        };
        let c = Comparison::of_demo(&record);
        assert_eq!(c.baseline, 1);
        assert_eq!((c.size_ratio(0), c.speed_up(0)), (Some(4.0), Some(2.0)));
        assert!((c.accuracy_gain(0).unwrap() + 0.01).abs() < 1e-12);
        assert_eq!((c.size_ratio(1), c.speed_up(1), c.accuracy_gain(1)), (None, None, None));
    }

    #[test]
    fn zero_sizes_and_numbers_that_are_not_finite_give_no_ratio() {
        let record = DemoRecord {
            variants: vec![variant("dense", 10, f64::NAN, f64::INFINITY), variant("b", 0, 0.5, 0.0)],
            ..DemoRecord::default()
        };
        let c = Comparison::of_demo(&record);
        assert_eq!((c.size_ratio(1), c.speed_up(1), c.accuracy_gain(1)), (None, None, None));
    }

    #[test]
    fn runs_of_two_machines_share_no_speed_up_and_equal_names_are_numbered() {
        let run = |cpu: &str| RunRecord {
            command: "train".into(),
            model: ModelRecord { name: "lstm".into(), ..ModelRecord::default() },
            machine: MachineRecord { cpu: cpu.into(), ..MachineRecord::default() },
            result: ResultRecord { latency_ms: Some(1.0), bytes: Some(5), ..ResultRecord::default() },
            steps: vec![StepRecord {
                metrics: StepMetrics { loss: vec![2.0, 1.0], accuracy: Some(0.75), ..StepMetrics::default() },
                ..StepRecord::default()
            }],
            ..RunRecord::default()
        };
        let records = [run("a"), run("b")];
        let c = Comparison::of_runs(&records);
        assert_eq!((c.rows[0].name.as_str(), c.rows[1].name.as_str()), ("train lstm", "train lstm (2)"));
        assert_eq!((c.speed_up(1), c.size_ratio(1), c.accuracy_gain(1)), (None, Some(1.0), Some(0.0)));
        assert_eq!((c.rows[0].accuracy, c.rows[0].loss.as_slice()), (Some(0.75), [2.0, 1.0].as_slice()));
    }
}
