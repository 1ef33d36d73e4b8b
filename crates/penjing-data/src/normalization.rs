//! What turns stored pixels into a network's input, kept as data beside the dataset and the exported model.

use serde::{Deserialize, Serialize};

/// `(x / scale - mean) / std`, per channel. `mean` and `std` have one entry for all channels or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// What a stored value is divided by first: 255 for bytes.
    pub scale: f32,
    /// Subtracted after scaling.
    pub mean: Vec<f32>,
    /// Divided by last.
    pub std: Vec<f32>,
}

impl Normalization {
    /// Leaves values as they are.
    pub fn identity() -> Normalization {
        Normalization { scale: 1.0, mean: vec![0.0], std: vec![1.0] }
    }

    /// Bytes 0..255 to −1..1: mean and deviation 0.5.
    pub fn bytes() -> Normalization {
        Normalization { scale: 255.0, mean: vec![0.5], std: vec![0.5] }
    }

    /// True when no value would change.
    pub fn is_identity(&self) -> bool {
        self.scale == 1.0 && self.mean.iter().all(|&m| m == 0.0) && self.std.iter().all(|&s| s == 1.0)
    }

    /// One value of channel `channel`.
    pub fn apply(&self, channel: usize, value: f32) -> f32 {
        let pick = |v: &[f32]| v[if v.len() == 1 { 0 } else { channel }];
        (value / self.scale - pick(&self.mean)) / pick(&self.std)
    }

    /// What is wrong with it for `channels` channels, or nothing.
    pub(crate) fn check(&self, channels: usize) -> Result<(), String> {
        for (name, v) in [("mean", &self.mean), ("std", &self.std)] {
            if v.len() != 1 && v.len() != channels {
                return Err(format!("normalization has {} values of {name} for {channels} channels", v.len()));
            }
        }
        let finite = |v: &f32| v.is_finite();
        let positive = |v: &f32| v.is_finite() && *v > 0.0;
        if !positive(&self.scale) || !self.mean.iter().all(finite) || !self.std.iter().all(positive) {
            return Err(format!("normalization needs finite means and positive scale and deviations: {self:?}"));
        }
        Ok(())
    }
}
