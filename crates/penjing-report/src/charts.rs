//! The page's plots: axes chosen for the numbers at hand, drawings and captions.

use crate::compare::{Comparable, Comparison, Row};
use crate::error::ReportError;
use crate::format::Unit;
use crate::html::escape;
use crate::palette::{series_color, series_mark};
use crate::plot::{Axis, Curve, MAX_LABELS, Point, ceiling, curves, scatter, thin};

/// Values further apart than this factor get a logarithmic axis.
const DECADES: f64 = 10.0;
/// Losses beyond this are drawn at it, which keeps an axis's arithmetic finite.
const MOST: f64 = 1e30;
/// The shortest step axis: below it the ticks would stand between steps.
const FEWEST_STEPS: f64 = 4.0;
/// Decades that a loss axis shows at most, counted from its highest value.
const MAX_DECADES: i32 = 6;

/// The training curves, or nothing where none has two values to draw.
///
/// # Errors
/// The plotting library's.
pub(crate) fn training(comparison: &Comparison) -> Result<String, ReportError> {
    let mut drawn = Vec::new();
    let mut window = 1;
    for (series, row) in comparison.rows.iter().enumerate() {
        let (mut points, w) = thin(&row.loss);
        points.iter_mut().for_each(|p| p.1 = p.1.clamp(-MOST, MOST));
        window = window.max(w);
        if points.iter().filter(|p| p.1.is_finite()).count() > 1 {
            drawn.push(Curve { points, series });
        }
    }
    let values = || drawn.iter().flat_map(|c| c.points.iter()).map(|p| p.1).filter(|v| v.is_finite());
    let (lo, hi) = span(values());
    if drawn.is_empty() {
        return Ok(String::new());
    }
    let y = if lo > 0.0 && hi / lo >= DECADES {
        Axis::logarithmic("training loss (logarithmic)", (lo / 1.15).max(hi * 10f64.powi(-MAX_DECADES)), hi * 1.15)
    } else if lo >= 0.0 {
        Axis::linear("training loss", 0.0, if hi > 0.0 { hi * 1.08 } else { 1.0 })
    } else {
        let pad = ((hi - lo) * 0.08).max(hi.abs() * 1e-6);
        Axis::linear("training loss", lo - pad, hi + pad)
    };
    let steps = comparison.rows.iter().map(|r| r.loss.len()).max().unwrap_or(1) as f64;
    let x = Axis::linear("step or epoch, as recorded", 0.0, steps.max(FEWEST_STEPS));
    let noun = comparison.noun;
    let mut caption = format!("Loss on the training data, one line a {noun}, in the order recorded.");
    if window > 1 {
        caption.push_str(&format!(" Lines are means over windows of up to {window} values."));
    }
    for row in &comparison.rows {
        if let Some(at) = row.loss.iter().position(|v| !v.is_finite()) {
            let name = escape(&row.name);
            caption.push_str(&format!(" <strong>{name}</strong>: the loss is not finite at value {}.", at + 1));
        }
    }
    let legend: String = drawn.iter().map(|c| legend_entry(&comparison.rows[c.series].name, c.series)).collect();
    let svg = curves(&drawn, &x, &y)?;
    Ok(format!(
        "<section><h2>Training</h2><figure><ul class=\"legend\">{legend}</ul>\
         <div class=\"wide\" role=\"img\" aria-label=\"Training loss by step, one line a {noun}\">{svg}</div>\
         <figcaption>{caption}</figcaption></figure></section>\n"
    ))
}

/// Accuracy against size and against latency, each where at least two rows have both numbers.
///
/// # Errors
/// The plotting library's.
pub(crate) fn trade_offs(comparison: &Comparison) -> Result<String, ReportError> {
    let size = trade_off(comparison, "file size", |r| r.bytes, Unit::bytes)?;
    let latency = match comparison.machine {
        Comparable::Yes => trade_off(comparison, "latency", |r| r.latency_ms, Unit::times)?,
        Comparable::No => String::new(),
    };
    if size.is_empty() && latency.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("<section><h2>Accuracy against cost</h2><div class=\"pair\">{size}{latency}</div></section>\n"))
}

/// A series' mark as an inline picture, as it stands in table and legend.
pub(crate) fn mark(series: usize) -> String {
    let points: Vec<String> = series_mark(series).iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
    let color = series_color(series).rgb();
    format!(
        "<svg class=\"mark\" viewBox=\"-1.4 -1.4 2.8 2.8\" aria-hidden=\"true\">\
         <polygon fill=\"#{:02X}{:02X}{:02X}\" points=\"{}\"/></svg>",
        color.0,
        color.1,
        color.2,
        points.join(" ")
    )
}

fn legend_entry(name: &str, series: usize) -> String {
    format!("<li>{}{}</li>", mark(series), escape(name))
}

fn trade_off<'a>(
    comparison: &'a Comparison,
    cost: &str,
    of: impl Fn(&Row) -> Option<f64>,
    unit: impl Fn(std::vec::IntoIter<f64>) -> Unit,
) -> Result<String, ReportError> {
    let measured = |(series, row): (usize, &'a Row)| {
        let (x, accuracy) = (of(row)?, row.accuracy?);
        Some(Point { name: &row.name, x, y: accuracy * 100.0, series })
    };
    let mut points: Vec<Point> = comparison.rows.iter().enumerate().filter_map(measured).collect();
    if points.len() < 2 {
        return Ok(String::new());
    }
    let unit = unit(points.iter().map(|p| p.x).collect::<Vec<_>>().into_iter());
    for point in &mut points {
        point.x /= unit.scale;
    }
    let (lo, hi) = span(points.iter().map(|p| p.x));
    let title = format!("{cost}, {}", unit.sign);
    let x = if lo > 0.0 && hi / lo >= DECADES {
        Axis::logarithmic(format!("{title} (logarithmic)"), lo / 1.4, hi * 1.4)
    } else {
        Axis::linear(title, 0.0, ceiling(if hi > 0.0 { hi * 1.04 } else { 1.0 }))
    };
    let (lo, hi) = span(points.iter().map(|p| p.y));
    let pad = ((hi - lo) * 0.25).max(0.25);
    let from = (lo - pad).max(0.0);
    let y = Axis::linear("accuracy, %", from, (hi + pad).min(100.0));
    let svg = scatter(&format!("accuracy against {cost}"), &points, &x, &y)?;
    let unlabelled = match points.len() {
        n if n > MAX_LABELS => format!(" The first {MAX_LABELS} of {n} points carry labels."),
        _ => String::new(),
    };
    let cut = if from > 0.0 { "; the vertical axis does not start at 0" } else { "" };
    let noun = comparison.noun;
    let shorter = if cost == "latency" { "faster" } else { "smaller" };
    Ok(format!(
        "<figure><div class=\"half\" role=\"img\" aria-label=\"Accuracy against {cost}, one point a {noun}\">{svg}</div>\
         <figcaption>Up is more accurate, left is {shorter}{cut}.{unlabelled}</figcaption></figure>"
    ))
}

/// Least and greatest of the finite values; (∞, −∞) where there is none.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)))
}
