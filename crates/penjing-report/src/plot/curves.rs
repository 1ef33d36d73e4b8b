//! Lines over steps: the training loss of each variant.

use plotters::prelude::*;

use crate::error::ReportError;
use crate::palette::series_color;
use crate::plot::axis::Axis;
use crate::plot::canvas::{draw, place, stroke};

/// Width and height in CSS pixels.
const SIZE: (f64, f64) = (1100.0, 360.0);
/// A curve of at most this many values is drawn value by value.
const FEW: usize = 80;

/// One curve.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    /// The values to draw, each with its place on the x axis; NaN breaks the line.
    pub(crate) points: Vec<(f64, f64)>,
    /// Which series' colour and mark it bears.
    pub(crate) series: usize,
}

/// Replaces many values by the means of equal windows, so that a line of noisy steps can be read: at most `FEW` points
/// at the windows' middles, counted from 1, and the window's length. Values that are not finite are left out of a mean;
/// a window of nothing else is NaN.
pub(crate) fn thin(values: &[f64]) -> (Vec<(f64, f64)>, usize) {
    let window = values.len().div_ceil(FEW).max(1);
    let points = values
        .chunks(window)
        .enumerate()
        .map(|(i, chunk)| {
            let (sum, n) = chunk.iter().filter(|v| v.is_finite()).fold((0.0, 0usize), |(sum, n), v| (sum + v, n + 1));
            let middle = (i * window) as f64 + (chunk.len() as f64 + 1.0) / 2.0;
            (middle, if n == 0 { f64::NAN } else { sum / n as f64 })
        })
        .collect();
    (points, window)
}

/// Draws the curves as an SVG element.
///
/// # Errors
/// The plotting library's.
pub(crate) fn curves(curves: &[Curve], x: &Axis, y: &Axis) -> Result<String, ReportError> {
    draw("training loss", SIZE, |canvas| {
        let mut chart = canvas.frame(x, y)?;
        for curve in curves {
            let style = stroke(series_color(curve.series), 1.75, 1.0);
            for piece in curve.points.split(|(_, value)| !value.is_finite()).filter(|piece| piece.len() > 1) {
                chart.draw_series(LineSeries::new(piece.iter().copied(), style))?;
            }
        }
        for curve in curves {
            if let Some((step, value)) = curve.points.iter().rev().find(|(_, value)| value.is_finite()) {
                canvas.mark(place(&chart, *step, *value), curve.series, 4.5)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_stay_as_they_are() {
        let (points, window) = thin(&[3.0, f64::NAN, 1.0]);
        assert_eq!(window, 1);
        assert_eq!((points[0], points[2]), ((1.0, 3.0), (3.0, 1.0)));
        assert!(points[1].1.is_nan());
    }

    #[test]
    fn many_values_become_means_of_windows() {
        let values: Vec<f64> = (1..=401).map(f64::from).collect();
        let (points, window) = thin(&values);
        assert_eq!((window, points.len()), (6, 67));
        assert_eq!(points[0], (3.5, 3.5));
        assert_eq!(points[66], (399.0, 399.0));
    }

    #[test]
    fn values_that_are_not_finite_do_not_spoil_a_mean() {
        let mut values = vec![2.0; 160];
        values[0] = f64::INFINITY;
        values[2] = f64::NAN;
        values[3] = f64::NAN;
        let (points, window) = thin(&values);
        assert_eq!((window, points[0].1), (2, 2.0));
        assert!(points[1].1.is_nan());
    }

    #[test]
    fn no_values_give_no_points() {
        assert!(thin(&[]).0.is_empty());
    }
}
