//! Axes: where values fall, and ticks at round numbers.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::format::{fixed, plain};

/// Ticks of a linear axis at most; its step leaves far fewer.
const MAX_TICKS: usize = 20;

/// One axis: its range, its scale and its ticks, as the plotting library takes them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    /// The title, with the unit.
    pub(crate) title: String,
    range: (f64, f64),
    /// The ticks, ascending, each with its text.
    ticks: Vec<(f64, String)>,
    scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    Logarithmic,
}

impl Axis {
    /// A linear axis from `lo` to `hi`, which must be finite and ascending.
    pub(crate) fn linear(title: impl Into<String>, lo: f64, hi: f64) -> Axis {
        let step = round_step((hi - lo) / 5.0);
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let first = (lo / step - 1e-9).ceil() as i64;
        let last = (hi / step + 1e-9).floor() as i64;
        let fits = step >= 1e-4 && lo.abs().max(hi.abs()) < 1e6;
        let text = |v: f64| if fits { fixed(v, decimals) } else { power_text(v) };
        let ticks = (first..=last).take(MAX_TICKS).map(|i| i as f64 * step).map(|v| (v, text(v))).collect();
        Axis { title: title.into(), range: (lo, hi), ticks, scale: Scale::Linear }
    }

    /// A logarithmic axis from `lo` to `hi`, which must be positive and ascending.
    pub(crate) fn logarithmic(title: impl Into<String>, lo: f64, hi: f64) -> Axis {
        let (from, to) = (lo.log10(), hi.log10());
        let digits: &[f64] = if to - from > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let every = ((to - from) / 7.0).ceil().max(1.0) as i32;
        let mut ticks = Vec::new();
        for decade in (from.floor() as i32..=to.ceil() as i32).filter(|d| d % every == 0) {
            for value in digits.iter().map(|digit| digit * 10f64.powi(decade)) {
                if (from - 1e-9..=to + 1e-9).contains(&value.log10()) {
                    ticks.push((value, tick_text(value)));
                }
            }
        }
        Axis { title: title.into(), range: (lo, hi), ticks, scale: Scale::Logarithmic }
    }

    /// Where a value falls, from 0 at the range's start to 1 at its end; values outside are held at the edge.
    fn share(&self, value: f64) -> f64 {
        let (lo, hi) = self.range;
        let share = match self.scale {
            Scale::Linear => (value - lo) / (hi - lo),
            Scale::Logarithmic => (value / lo).ln() / (hi / lo).ln(),
        };
        if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.share(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.iter().map(|t| t.0).collect() }
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|t| t.0 == *value).map(|t| t.1.clone()).unwrap_or_default()
    }
}

/// The next number of one round digit or two (1, 1.2, 1.5, 2 … times a power of ten) at or above a positive value: an
/// axis's end.
pub(crate) fn ceiling(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let digit =
        [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0].into_iter().find(|d| d * power >= value * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

/// 1, 2 or 5 times a power of ten, near a positive width.
fn round_step(width: f64) -> f64 {
    let power = 10f64.powf(width.log10().floor());
    match width / power {
        d if d < 1.5 => power,
        d if d < 3.5 => 2.0 * power,
        d if d < 7.5 => 5.0 * power,
        _ => 10.0 * power,
    }
}

fn tick_text(value: f64) -> String {
    match value {
        v if (1e-4..1.0).contains(&v) => format!("{}", (v * 1e6).round() / 1e6),
        v if (1.0..1e6).contains(&v) => plain(v),
        v => power_text(v),
    }
}

/// A number too large or too small to be written out, such as `2.5e7`.
fn power_text(value: f64) -> String {
    // Three digits hide the noise of a tick that is a multiple of an inexact step.
    let digits = format!("{value:.2e}");
    let (mantissa, power) = digits.split_once('e').unwrap_or((&digits, "0"));
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    if mantissa == "0" { "0".to_owned() } else { format!("{mantissa}e{power}").replace('-', "−") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|t| t.1.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_inside() {
        assert_eq!(texts(&Axis::linear("", 0.0, 10.0)), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(
            texts(&Axis::linear("", 97.1, 98.6)),
            ["97.2", "97.4", "97.6", "97.8", "98.0", "98.2", "98.4", "98.6"]
        );
        assert_eq!(texts(&Axis::linear("", -1.0, 1.0)), ["−1.0", "−0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(texts(&Axis::linear("", 0.0, 2.2e9)), ["0", "5e8", "1e9", "1.5e9", "2e9"]);
    }

    #[test]
    fn logarithmic_ticks_thin_out_as_the_span_grows() {
        assert_eq!(texts(&Axis::logarithmic("", 0.04, 3.0)), ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
        assert_eq!(texts(&Axis::logarithmic("", 0.001, 10.0)), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(
            texts(&Axis::logarithmic("", 1e-6, 1e8)),
            ["1e−6", "0.0001", "0.01", "1", "100", "10,000", "1e6", "1e8"]
        );
        assert!(Axis::logarithmic("", 1e-12, 1e12).ticks.len() <= 8);
    }

    #[test]
    fn values_outside_are_held_at_the_edge() {
        let axis = Axis::logarithmic("", 0.1, 10.0);
        let places = [1e-9, 0.1, 1.0, 10.0, 1e9, 0.0, f64::NAN].map(|v| axis.map(&v, (100, 0)));
        assert_eq!(places, [100, 100, 50, 0, 0, 100, 100]);
        assert_eq!(Axis::linear("", 2.0, 4.0).map(&3.5, (0, 400)), 300);
    }

    #[test]
    fn ceilings_are_round_and_not_below() {
        for (value, want) in [(1.0, 1.0), (1.01, 1.2), (230.0, 250.0), (0.031, 0.04), (9.1, 10.0)] {
            assert!((ceiling(value) / want - 1.0).abs() < 1e-9, "{value}");
        }
    }
}
