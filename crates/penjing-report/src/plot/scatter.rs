//! Points with a label each: accuracy against what it costs.

use plotters::style::text_anchor::{HPos, VPos};

use crate::error::ReportError;
use crate::html;
use crate::palette;
use crate::plot::axis::Axis;
use crate::plot::canvas::{FONT, draw, place, text_width};
use crate::plot::labels::{LINE, Mark, Rect, needs_leader, place_labels};

/// Points past this many carry no label: there is no room for more.
pub(crate) const MAX_LABELS: usize = 12;
/// Characters of a label.
const LABEL_CHARS: usize = 22;
/// Radius of a mark, and what each mark on top of it adds, in CSS pixels.
const RADIUS: f64 = 5.5;
const RING: f64 = 3.5;
/// Marks grow by this many rings at most.
const MAX_RINGS: usize = 4;
/// Width and height in CSS pixels.
const SIZE: (f64, f64) = (540.0, 340.0);

/// One point of a scatter plot.
#[derive(Debug, Clone)]
pub(crate) struct Point<'a> {
    /// Its label; cut where it is long.
    pub(crate) name: &'a str,
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Which series' colour and mark it bears.
    pub(crate) series: usize,
}

/// Draws the points as an SVG element; `what` names the plot in an error.
///
/// # Errors
/// The plotting library's.
pub(crate) fn scatter(what: &str, points: &[Point], x: &Axis, y: &Axis) -> Result<String, ReportError> {
    draw(what, SIZE, |canvas| {
        let chart = canvas.frame(x, y)?;
        let at: Vec<_> = points.iter().map(|p| place(&chart, p.x, p.y)).collect();
        let n = points.len().min(MAX_LABELS);
        let names: Vec<String> = points[..n].iter().map(|p| html::label(p.name, LABEL_CHARS)).collect();
        let widths: Vec<f64> = names.iter().map(|n| text_width(n)).collect();
        let bounds = Rect { x: 56.0, y: 24.0, w: SIZE.0 - 60.0, h: SIZE.1 - 76.0 };
        let radius = |i: usize| RADIUS + RING * covering(&at, i) as f64;
        let marks: Vec<Mark> = at.iter().enumerate().map(|(i, at)| Mark { center: *at, radius: radius(i) }).collect();
        let labels = place_labels(&marks, &widths, bounds);
        for (label, mark) in labels.iter().zip(&marks).filter(|(label, mark)| needs_leader(label, mark)) {
            canvas.line(mark.center, label.nearest(mark.center), palette::AXIS)?;
        }
        for (point, mark) in points.iter().zip(&marks) {
            canvas.mark(mark.center, point.series, mark.radius)?;
        }
        for ((label, name), point) in labels.iter().zip(&names).zip(&at) {
            let (h, x) = anchor(label, *point);
            // The backend hangs a text 0.76 em below a top anchor.
            let top = label.y + (LINE - FONT) / 2.0 + FONT * 0.1;
            canvas.text((x, top), h, VPos::Top, palette::INK, name)?;
        }
        Ok(())
    })
}

/// How many later points lie on the `idx`-th one: it is drawn larger by so many rings, and stays visible around them.
fn covering(at: &[(f64, f64)], idx: usize) -> usize {
    let close = |p: &(f64, f64)| (p.0 - at[idx].0).hypot(p.1 - at[idx].1) < RADIUS;
    at[idx + 1..].iter().filter(|p| close(p)).count().min(MAX_RINGS)
}

/// The end of a label that faces its point, so that a font narrower than the estimate leaves no gap there.
fn anchor(label: &Rect, point: (f64, f64)) -> (HPos, f64) {
    match label {
        l if l.x >= point.0 => (HPos::Left, l.x),
        l if l.x + l.w <= point.0 => (HPos::Right, l.x + l.w),
        l => (HPos::Center, l.x + l.w / 2.0),
    }
}
