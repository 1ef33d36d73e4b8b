//! Plots as inline SVG: a canvas over the plotting library, axes, and the two kinds of plot on the page.

mod axis;
mod canvas;
mod curves;
mod labels;
mod scatter;

pub(crate) use axis::{Axis, ceiling};
pub(crate) use curves::{Curve, curves, thin};
pub(crate) use scatter::{MAX_LABELS, Point, scatter};
