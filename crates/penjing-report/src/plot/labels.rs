//! Where the labels of points go, so that none covers another label or a point.

/// A rectangle in CSS pixels, `y` downwards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rect {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) w: f64,
    pub(crate) h: f64,
}

impl Rect {
    /// The area that two rectangles share.
    pub(crate) fn overlap(&self, other: &Rect) -> f64 {
        let w = (self.x + self.w).min(other.x + other.w) - self.x.max(other.x);
        let h = (self.y + self.h).min(other.y + other.h) - self.y.max(other.y);
        w.max(0.0) * h.max(0.0)
    }

    fn around(center: (f64, f64), half: f64) -> Rect {
        Rect { x: center.0 - half, y: center.1 - half, w: 2.0 * half, h: 2.0 * half }
    }

    fn holds(&self, other: &Rect) -> bool {
        other.x >= self.x
            && other.y >= self.y
            && other.x + other.w <= self.x + self.w
            && other.y + other.h <= self.y + self.h
    }

    /// The point of the rectangle nearest to another point.
    pub(crate) fn nearest(&self, to: (f64, f64)) -> (f64, f64) {
        (to.0.clamp(self.x, self.x + self.w), to.1.clamp(self.y, self.y + self.h))
    }
}

/// A mark on the plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mark {
    pub(crate) center: (f64, f64),
    pub(crate) radius: f64,
}

/// Height of a label's box.
pub(crate) const LINE: f64 = 15.0;
/// Space that a mark keeps free around it.
const CLEAR: f64 = 2.0;
/// Distances of a label from its mark's edge, near to far; past the first the label needs a leader line.
const RINGS: [f64; 6] = [3.5, 16.0, 30.0, 46.0, 64.0, 86.0];
/// Times that every label is placed again with all the others in view.
const SWEEPS: usize = 4;

/// Places one label for each of the first `widths.len()` marks, whose text is `widths[i]` wide, inside `bounds`, away
/// from every mark. A mark is its centre and its radius.
///
/// Each label takes the cheapest of the places around its point, given the others; a few sweeps let them settle. The
/// outcome depends on nothing but the arguments.
pub(crate) fn place_labels(marks: &[Mark], widths: &[f64], bounds: Rect) -> Vec<Rect> {
    let boxes: Vec<Rect> = marks.iter().map(|m| Rect::around(m.center, m.radius + CLEAR)).collect();
    let labelled = &marks[..widths.len().min(marks.len())];
    let mut placed: Vec<Option<Rect>> = vec![None; labelled.len()];
    for _ in 0..SWEEPS {
        for (i, mark) in labelled.iter().enumerate() {
            let cost = |r: &Rect| {
                let others = placed.iter().enumerate().filter(|(j, _)| *j != i).filter_map(|(_, r)| *r);
                let covered: f64 = others.map(|o| 10.0 * grown(r).overlap(&o)).sum();
                let hidden: f64 = boxes.iter().map(|b| 10.0 * r.overlap(b)).sum();
                let outside = if bounds.holds(r) { 0.0 } else { 1e6 };
                covered + hidden + outside + gap(r, mark)
            };
            placed[i] = candidates(mark, widths[i]).min_by(|a, b| cost(a).total_cmp(&cost(b)));
        }
    }
    placed.into_iter().flatten().collect()
}

/// Whether a label stands so far off that a line should lead to it.
pub(crate) fn needs_leader(label: &Rect, mark: &Mark) -> bool {
    gap(label, mark) > RINGS[0] + 3.0
}

/// How far a label stands from its mark's edge.
fn gap(label: &Rect, mark: &Mark) -> f64 {
    let to = label.nearest(mark.center);
    (to.0 - mark.center.0).hypot(to.1 - mark.center.1) - mark.radius
}

/// The places around a point, the preferred ones first.
fn candidates(mark: &Mark, w: f64) -> impl Iterator<Item = Rect> {
    let ((x, y), radius, h) = (mark.center, mark.radius, LINE);
    RINGS.into_iter().map(move |ring| radius + ring).flat_map(move |d| {
        let slant = d * 0.7;
        [
            (x + d, y - h / 2.0),
            (x - d - w, y - h / 2.0),
            (x - w / 2.0, y - d - h),
            (x - w / 2.0, y + d),
            (x + slant, y - slant - h),
            (x + slant, y + slant),
            (x - slant - w, y - slant - h),
            (x - slant - w, y + slant),
        ]
        .map(|(x, y)| Rect { x, y, w, h })
    })
}

/// The rectangle with the clear space that a label wants around it.
fn grown(r: &Rect) -> Rect {
    Rect { x: r.x - 4.0, y: r.y - 1.0, w: r.w + 8.0, h: r.h + 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Rect = Rect { x: 0.0, y: 0.0, w: 540.0, h: 320.0 };

    fn assert_clear(name: &str, points: &[(f64, f64)], width: f64) {
        let marks: Vec<Mark> = points.iter().map(|p| Mark { center: *p, radius: 5.5 }).collect();
        let placed = place_labels(&marks, &vec![width; points.len()], BOUNDS);
        assert_eq!(placed.len(), points.len(), "{name}");
        for (i, r) in placed.iter().enumerate() {
            assert!(BOUNDS.holds(r), "{name}: label {i} at {r:?} leaves the plot");
            for (j, other) in placed.iter().enumerate().take(i) {
                assert_eq!(r.overlap(other), 0.0, "{name}: labels {i} and {j}");
            }
            for p in points {
                assert_eq!(r.overlap(&Rect::around(*p, 4.0)), 0.0, "{name}: label {i} covers a point");
            }
        }
    }

    #[test]
    fn labels_keep_clear_of_each_other() {
        let cases: [(&str, Vec<(f64, f64)>); 5] = [
            ("one point", vec![(270.0, 160.0)]),
            ("eight on one spot", vec![(270.0, 160.0); 8]),
            ("a corner", vec![(535.0, 5.0), (536.0, 6.0), (530.0, 9.0)]),
            ("a row", (0..8).map(|i| (60.0 + 30.0 * f64::from(i), 100.0)).collect()),
            ("two clusters", (0..8).map(|i| (if i < 4 { 100.0 } else { 480.0 }, 40.0 + f64::from(i))).collect()),
        ];
        for (name, points) in cases {
            assert_clear(name, &points, 92.0);
        }
    }

    #[test]
    fn a_lone_label_stands_right_beside_its_point() {
        let mark = Mark { center: (100.0, 100.0), radius: 5.5 };
        let placed = place_labels(&[mark], &[50.0], BOUNDS);
        assert_eq!((placed[0].x, placed[0].y), (109.0, 92.5));
        assert!(!needs_leader(&placed[0], &mark));
    }
}
