//! Learning rates as pure functions of the step: the rate is an input of the training graph, so no schedule ever plans again.

use crate::GradError;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate moves over a run, behind a linear warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What follows the warm-up.
    #[serde(default)]
    pub shape: Shape,
    /// Steps over which the rate climbs linearly from `warmup_start` of the base rate to the base rate; the shape's own steps
    /// begin after them.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Fraction of the base rate at step 0 of the warm-up.
    #[serde(default)]
    pub warmup_start: f64,
}

/// The course of the learning rate. Numbers are fractions of the base rate where the name does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Shape {
    /// The base rate throughout.
    #[default]
    Constant,
    /// Half a cosine from the base rate down to `end` of it (Loshchilov & Hutter 2017), without restarts.
    Cosine {
        /// What is left at the end.
        #[serde(default)]
        end: f64,
    },
    /// Up from base/`div` to the base rate over the first `rise` of the steps, then down to base/`div`/`final_div`, both along
    /// half a cosine or a line (Smith & Topin 2017, as PyTorch's `OneCycleLR` with two phases).
    OneCycle {
        /// Fraction of the steps spent rising.
        #[serde(default = "default_rise")]
        rise: f64,
        /// Base rate over first rate.
        #[serde(default = "default_div")]
        div: f64,
        /// First rate over last rate.
        #[serde(default = "default_final_div")]
        final_div: f64,
        /// The curve between.
        #[serde(default)]
        anneal: Anneal,
    },
    /// Times `gamma` after every `every` steps.
    Step {
        /// Steps between two drops.
        every: u64,
        /// What remains after a drop.
        gamma: f64,
    },
}

/// The curve between two rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anneal {
    /// Half a cosine.
    #[default]
    Cosine,
    /// A line.
    Linear,
}

fn default_rise() -> f64 {
    0.3
}

fn default_div() -> f64 {
    25.0
}

fn default_final_div() -> f64 {
    1e4
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { shape: Shape::Constant, warmup_steps: 0, warmup_start: 0.0 }
    }
}

impl Schedule {
    /// A shape without warm-up.
    pub fn of(shape: Shape) -> Schedule {
        Schedule { shape, ..Schedule::default() }
    }

    /// Errors when a number is out of its range.
    pub fn check(&self) -> Result<(), GradError> {
        let fraction = |what, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(GradError::Config { what, value, why: "it must be in 0..=1" }),
        };
        let positive = |what, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(GradError::Config { what, value, why: "it must be positive" }),
        };
        fraction("warmup_start", self.warmup_start)?;
        match &self.shape {
            Shape::Constant => Ok(()),
            Shape::Cosine { end } => fraction("end", *end),
            Shape::OneCycle { rise, div, final_div, .. } => {
                fraction("rise", *rise)?;
                positive("div", *div)?;
                positive("final_div", *final_div)
            }
            Shape::Step { every, gamma } => {
                positive("every", *every as f64)?;
                positive("gamma", *gamma)
            }
        }
    }

    /// The learning rate of update `step` (from 0) of `total`; past the end the rate stays at its last value.
    pub fn rate(&self, base: f64, step: u64, total: u64) -> f64 {
        if step < self.warmup_steps {
            let done = step as f64 / self.warmup_steps as f64;
            return base * (self.warmup_start + (1.0 - self.warmup_start) * done);
        }
        let total = total.saturating_sub(self.warmup_steps);
        let step = step - self.warmup_steps;
        match &self.shape {
            Shape::Constant => base,
            Shape::Cosine { end } => {
                let done = if total == 0 { 1.0 } else { (step as f64 / total as f64).min(1.0) };
                Anneal::Cosine.between(base, base * end, done)
            }
            Shape::OneCycle { rise, div, final_div, anneal } => {
                let (first, last) = (base / div, base / div / final_div);
                let step = step.min(total.saturating_sub(1)) as f64;
                let top = rise * total as f64 - 1.0;
                if step <= top {
                    return anneal.between(first, base, if top > 0.0 { step / top } else { 1.0 });
                }
                let fall = total as f64 - 1.0 - top;
                anneal.between(base, last, if fall > 0.0 { (step - top) / fall } else { 1.0 })
            }
            Shape::Step { every, gamma } => base * gamma.powf((step / (*every).max(1)) as f64),
        }
    }
}

impl Anneal {
    /// `from` at 0, `to` at 1.
    fn between(self, from: f64, to: f64, done: f64) -> f64 {
        match self {
            Anneal::Cosine => to + (from - to) / 2.0 * (1.0 + (PI * done).cos()),
            Anneal::Linear => from + (to - from) * done,
        }
    }
}
