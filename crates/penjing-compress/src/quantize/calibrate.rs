//! Ranges of activations on calibration data: all observers in one streaming pass, two numbers each.

use super::place::{QuantizeConfig, activations};
use crate::CompressError;
use penjing_ir::{Model, Reduction, Scope, ValueId};
use std::collections::BTreeMap;

/// The smallest and largest element that was seen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Range {
    /// Smallest.
    pub min: f32,
    /// Largest.
    pub max: f32,
}

impl Range {
    /// The range of nothing.
    pub const EMPTY: Range = Range { min: f32::INFINITY, max: f32::NEG_INFINITY };

    /// The union of two ranges.
    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Scale and zero point of the U8 grid over the range, widened to hold 0 exactly (zero padding must be on the grid; Jacob et
    /// al., "Quantization and Training of Neural Networks", CVPR 2018, section 2.1).
    pub fn grid(self) -> (f32, u8) {
        let (min, max) = (f64::from(self.min.min(0.0)), f64::from(self.max.max(0.0)));
        let scale = (max - min) / 255.0;
        if scale == 0.0 {
            return (1.0, 0);
        }
        let zero = (-min / scale).round_ties_even().clamp(0.0, 255.0);
        (scale as f32, zero as u8)
    }
}

/// The model with two more outputs, `<n>.min` and `<n>.max`, for the n-th of [`activations`].
pub fn observer(model: &Model, config: &QuantizeConfig) -> Result<Model, CompressError> {
    let mut out = model.clone();
    for (n, value) in activations(model, config).into_iter().enumerate() {
        let axes: Vec<usize> = (0..out.graph.fact(value).rank()).collect();
        for (suffix, kind) in [("min", Reduction::Min), ("max", Reduction::Max)] {
            let extreme = Scope::new(&mut out.graph, "observer").reduce(kind, value, &axes)?;
            out.graph.add_output(&observer_output(n, suffix), extreme);
        }
    }
    Ok(out)
}

/// The range of each of [`activations`] over all batches: `next_batch` returns the outputs of [`observer`] by name for the next batch,
/// or `None` after the last.
pub fn ranges_from(
    model: &Model,
    config: &QuantizeConfig,
    mut next_batch: impl FnMut() -> Result<Option<BTreeMap<String, f32>>, CompressError>,
) -> Result<BTreeMap<ValueId, Range>, CompressError> {
    let values = activations(model, config);
    let mut ranges = vec![Range::EMPTY; values.len()];
    let mut batches = 0;
    while let Some(outputs) = next_batch()? {
        batches += 1;
        for (n, range) in ranges.iter_mut().enumerate() {
            let get = |suffix: &str| outputs.get(&observer_output(n, suffix)).copied().unwrap_or(f32::NAN);
            let seen = Range { min: get("min"), max: get("max") };
            if !(seen.min.is_finite() && seen.max.is_finite()) {
                let value = model.graph.value(values[n]).name.clone();
                return Err(CompressError::Range { value, min: seen.min, max: seen.max });
            }
            *range = range.union(seen);
        }
    }
    if batches == 0 {
        return Err(CompressError::NoCalibrationData);
    }
    Ok(values.into_iter().zip(ranges).collect())
}

fn observer_output(n: usize, suffix: &str) -> String {
    format!("observer.{n}.{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_hold_zero_exactly() {
        // After ReLU: all 256 codes for 0..max.
        assert_eq!(Range { min: 0.0, max: 2.55 }.grid(), (0.01, 0));
        // Symmetric: zero in the middle; the exact middle 127.5 rounds to even.
        assert_eq!(Range { min: -1.0, max: 1.0 }.grid().1, 128);
        // A range that does not reach 0 is widened.
        assert_eq!(Range { min: 1.0, max: 5.1 }.grid().1, 0);
        assert_eq!(Range { min: 0.0, max: 0.0 }.grid(), (1.0, 0));
    }
}
