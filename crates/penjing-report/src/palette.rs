//! The colours and marks of the page, each with its value in the light and in the dark scheme.
//!
//! Plots are drawn in the light values; the style sheet made here maps each of them to a variable, so that one drawing
//! follows the reader's colour scheme, and paper is always light. The series colours keep a distance of at least 0.10 in
//! OKLab between any two under simulated protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes 2009),
//! and a contrast of at least 3:1 to their background; each series also has a mark of its own.

use plotters::style::RGBColor;

/// One colour of the page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PageColor {
    /// The CSS variable's name.
    pub(crate) name: &'static str,
    light: u32,
    dark: u32,
}

/// The background.
pub(crate) const SURFACE: PageColor = PageColor { name: "surface", light: 0xFFFFFF, dark: 0x16191D };
/// Panels, table heads and code.
const PANEL: PageColor = PageColor { name: "panel", light: 0xF5F6F8, dark: 0x1E2227 };
/// Text.
pub(crate) const INK: PageColor = PageColor { name: "ink", light: 0x1B1F24, dark: 0xE7E9EC };
/// Captions, units and axis numbers.
pub(crate) const MUTED: PageColor = PageColor { name: "muted", light: 0x59616C, dark: 0xA0A9B4 };
/// Rules between rows and grid lines.
pub(crate) const GRID: PageColor = PageColor { name: "grid", light: 0xE2E5E9, dark: 0x2E343B };
/// Axes and leader lines.
pub(crate) const AXIS: PageColor = PageColor { name: "axis", light: 0x9AA2AD, dark: 0x59626D };
/// The fill of the heat table, mixed with the background.
const HEAT: PageColor = PageColor { name: "heat", light: 0x4589D3, dark: 0x2B7FC4 };
/// Series past the eighth.
const OTHER: PageColor = PageColor { name: "s-other", light: 0x767676, dark: 0x8C8C8C };

const SERIES: [PageColor; 8] = [
    PageColor { name: "s0", light: 0x4589D2, dark: 0x2BBDF5 },
    PageColor { name: "s1", light: 0xAB3511, dark: 0xD24E3E },
    PageColor { name: "s2", light: 0x8E8B0F, dark: 0xA1BC1F },
    PageColor { name: "s3", light: 0x763EBD, dark: 0x9078EE },
    PageColor { name: "s4", light: 0xCE7E88, dark: 0xFB7CBD },
    PageColor { name: "s5", light: 0x2E7065, dark: 0x7BF5F5 },
    PageColor { name: "s6", light: 0x15337D, dark: 0x53778A },
    PageColor { name: "s7", light: 0x6B0D38, dark: 0xF5C299 },
];

impl PageColor {
    /// The colour as the plotting library takes it.
    pub(crate) fn rgb(self) -> RGBColor {
        let [_, r, g, b] = self.light.to_be_bytes();
        RGBColor(r, g, b)
    }
}

/// The colour of the `idx`-th series: eight of them, grey after that.
pub(crate) fn series_color(idx: usize) -> PageColor {
    SERIES.get(idx).copied().unwrap_or(OTHER)
}

/// The mark of the `idx`-th series: its outline in a box from −1 to 1.
pub(crate) fn series_mark(idx: usize) -> Vec<(f64, f64)> {
    match idx % 8 {
        0 => polygon(24, 1.0, 0.0),
        1 => polygon(4, 1.2, 0.5),
        2 => polygon(3, 1.3, 0.0),
        3 => polygon(4, 1.25, 0.0),
        4 => polygon(3, 1.3, 0.5),
        5 => polygon(6, 1.1, 0.0),
        6 => plus(),
        _ => star(),
    }
}

/// The variables of both schemes and the rules that make drawings follow them.
pub(crate) fn style_sheet() -> String {
    let all = || [SURFACE, PANEL, INK, MUTED, GRID, AXIS, HEAT, OTHER].into_iter().chain(SERIES);
    let light: String = all().map(|c| format!("--{}:#{:06X};", c.name, c.light)).collect();
    let dark: String = all().map(|c| format!("--{}:#{:06X};", c.name, c.dark)).collect();
    let follow: String = all()
        .map(|c| {
            let (name, hex) = (c.name, c.light);
            format!(
                "svg [fill=\"#{hex:06X}\"]{{fill:var(--{name})}}svg [stroke=\"#{hex:06X}\"]{{stroke:var(--{name})}}\n"
            )
        })
        .collect();
    format!(
        ":root{{color-scheme:light dark;{light}}}\n\
         @media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{follow}"
    )
}

/// A regular polygon with a corner straight up, turned by `turn` of the angle between two corners.
fn polygon(corners: usize, radius: f64, turn: f64) -> Vec<(f64, f64)> {
    let step = std::f64::consts::TAU / corners as f64;
    (0..corners)
        .map(|i| {
            let angle = (i as f64 + turn) * step;
            (radius * angle.sin(), -radius * angle.cos())
        })
        .collect()
}

fn plus() -> Vec<(f64, f64)> {
    let (a, b) = (0.4, 1.15);
    vec![(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
}

fn star() -> Vec<(f64, f64)> {
    let (tips, dents) = (polygon(5, 1.35, 0.0), polygon(5, 0.6, 0.5));
    tips.into_iter().zip(dents).flat_map(|(tip, dent)| [tip, dent]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_light_value_is_used_once_so_that_the_mapping_to_variables_is_clear() {
        let mut values: Vec<u32> =
            [SURFACE, PANEL, INK, MUTED, GRID, AXIS, HEAT, OTHER].into_iter().chain(SERIES).map(|c| c.light).collect();
        let n = values.len();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), n);
    }

    #[test]
    fn the_first_eight_series_differ_in_colour_and_in_mark() {
        for a in 0..8 {
            for b in 0..a {
                assert_ne!(series_color(a), series_color(b));
                assert_ne!(series_mark(a), series_mark(b));
            }
        }
        assert_eq!(series_color(8), series_color(40));
    }
}
