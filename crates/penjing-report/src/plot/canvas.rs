//! A drawing surface in CSS pixels over the plotting library's SVG backend.
//!
//! The backend rounds to whole units, so a CSS pixel is drawn as `UNIT` of them and the page scales the picture down.
//! Widths of texts are estimates: no fonts are read, and the reader's own font is used.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::ReportError;
use crate::palette::{self, PageColor};
use crate::plot::axis::Axis;

/// Backend units in a CSS pixel.
const UNIT: f64 = 4.0;
/// The backend divides sizes by this on writing.
const FONT_SCALE: f64 = 1.24;
/// Axis numbers and labels, in CSS pixels.
pub(crate) const FONT: f64 = 12.0;

/// What a drawing function returns.
pub(crate) type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;
/// The frame of a plot, ready for series.
pub(crate) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

/// Draws a picture of `size` CSS pixels; `what` names it in an error.
pub(crate) fn draw(what: &str, size: (f64, f64), paint: impl FnOnce(&Canvas) -> Drawn) -> Result<String, ReportError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (units(size.0) as u32, units(size.1) as u32)).into_drawing_area();
        let canvas = Canvas { area, size };
        paint(&canvas)
            .and_then(|()| canvas.area.present())
            .map_err(|e| ReportError::Plot { plot: what.to_owned(), why: e.to_string() })?;
    }
    Ok(svg)
}

/// The surface of one picture.
pub(crate) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    /// Width and height in CSS pixels.
    pub(crate) size: (f64, f64),
}

impl<'a> Canvas<'a> {
    /// Draws axes, grid and titles, and gives the chart that places values.
    pub(crate) fn frame(&self, x: &Axis, y: &Axis) -> Drawn<Chart<'a>> {
        let mut chart = ChartBuilder::on(&self.area)
            .margin_top(units(30.0))
            .margin_right(units(16.0))
            .margin_bottom(units(24.0))
            .margin_left(units(4.0))
            .x_label_area_size(units(24.0))
            .y_label_area_size(units(46.0))
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(palette::GRID.rgb().stroke_width(units(1.0) as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(palette::AXIS.rgb().stroke_width(units(1.0) as u32))
            .set_all_tick_mark_size(units(4.0))
            .label_style(font(FONT, palette::MUTED))
            .draw()?;
        self.text((4.0, 6.0), HPos::Left, VPos::Top, palette::MUTED, &y.title)?;
        let middle = (50.0 + self.size.0 - 16.0) / 2.0;
        self.text((middle, self.size.1 - 4.0), HPos::Center, VPos::Bottom, palette::MUTED, &x.title)?;
        Ok(chart)
    }

    /// Writes a text whose anchor stands at `at`.
    pub(crate) fn text(&self, at: (f64, f64), h: HPos, v: VPos, color: PageColor, text: &str) -> Drawn {
        self.area.draw_text(text, &font(FONT, color).pos(Pos::new(h, v)), point(at))
    }

    /// Draws the mark of a series with a rim in the background's colour, so that marks on top of each other stay apart.
    pub(crate) fn mark(&self, at: (f64, f64), series: usize, radius: f64) -> Drawn {
        let outline = |r: f64| -> Vec<(i32, i32)> {
            let corner = |(dx, dy): (f64, f64)| point((at.0 + r * dx, at.1 + r * dy));
            palette::series_mark(series).into_iter().map(corner).collect()
        };
        self.area.draw(&Polygon::new(outline(radius + 1.6), palette::SURFACE.rgb().filled()))?;
        self.area.draw(&Polygon::new(outline(radius), palette::series_color(series).rgb().filled()))
    }

    /// Draws a thin straight line.
    pub(crate) fn line(&self, from: (f64, f64), to: (f64, f64), color: PageColor) -> Drawn {
        self.area.draw(&PathElement::new(vec![point(from), point(to)], color.rgb().stroke_width(units(1.0) as u32)))
    }
}

/// Where a value falls on the canvas, in CSS pixels.
pub(crate) fn place(chart: &Chart, x: f64, y: f64) -> (f64, f64) {
    let (x, y) = chart.backend_coord(&(x, y));
    (f64::from(x) / UNIT, f64::from(y) / UNIT)
}

/// A line's style: a series colour and a width in CSS pixels.
pub(crate) fn stroke(color: PageColor, width: f64, opacity: f64) -> ShapeStyle {
    color.rgb().mix(opacity).stroke_width(units(width) as u32)
}

/// The width of a text in CSS pixels, rather too wide than too narrow.
pub(crate) fn text_width(text: &str) -> f64 {
    text.chars().map(|c| if c.is_ascii() { 0.6 } else { 1.05 }).sum::<f64>() * FONT
}

fn font(size: f64, color: PageColor) -> TextStyle<'static> {
    ("sans-serif", size * UNIT * FONT_SCALE).into_font().color(&color.rgb())
}

fn point(at: (f64, f64)) -> (i32, i32) {
    (units(at.0), units(at.1))
}

fn units(css: f64) -> i32 {
    (css * UNIT).round() as i32
}
