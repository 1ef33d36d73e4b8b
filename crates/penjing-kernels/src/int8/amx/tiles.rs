//! The rows of a task as tiles: rows at equal distances, with what lies between them where output rows are short.

use super::ROWS;
use crate::igemm::Rows;
use std::ops::Range;

/// Most places from a segment's last row to the first of the next that is read with it.
const GAP: usize = 8;

/// Places at equal distances.
pub(super) struct Tile {
    pub(super) rows: usize,
    /// The first place.
    pub(super) base: usize,
    pub(super) stride: usize,
    /// Which of the pieces lie in it.
    pub(super) pieces: Range<usize>,
}

/// Rows of a task that follow each other in a tile.
pub(super) struct Piece {
    /// The first of them.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// The tile's row that it is.
    pub(super) at: usize,
}

/// The rows of a task in tiles.
pub(super) struct Tiles {
    pub(super) tiles: Vec<Tile>,
    pub(super) pieces: Vec<Piece>,
}

impl Tiles {
    pub(super) fn new(rows: &Rows<'_, u8>) -> Tiles {
        let segments = segments(rows);
        let most = rows.bases.len().div_ceil(ROWS) + segments.len();
        let mut made = Tiles { tiles: Vec::with_capacity(most), pieces: Vec::with_capacity(most + segments.len()) };
        for chain in segments.chunk_by(|_, next| next.place > 0) {
            let apart: usize = chain.iter().map(|segment| segment.rows.len().div_ceil(ROWS)).sum();
            if places(chain).div_ceil(ROWS) < apart {
                made.push(chain);
            } else {
                for segment in chain {
                    made.push(&[Segment { place: 0, ..segment.clone() }]);
                }
            }
        }
        made
    }

    /// Cuts the places of a chain into tiles of one height; the last may begin with places of the one before.
    fn push(&mut self, chain: &[Segment]) {
        let (&Segment { base, stride, .. }, count) = (&chain[0], places(chain));
        let tiles = count.div_ceil(ROWS);
        let height = if count == tiles * ROWS { ROWS } else { count.div_ceil(tiles) };
        let mut next = 0;
        while next < count {
            let (start, end, at) = (next, count.min(next + height), next.min(count - height));
            next = end;
            let known = self.pieces.len();
            for segment in chain {
                let (from, to) = (segment.place.max(start), (segment.place + segment.rows.len()).min(end));
                if from < to {
                    let first = segment.rows.start + from - segment.place;
                    self.pieces.push(Piece { first, rows: to - from, at: from - at });
                }
            }
            let pieces = known..self.pieces.len();
            self.tiles.push(Tile { rows: height, base: base + at * stride, stride, pieces });
        }
    }
}

/// Rows at equal distances.
#[derive(Clone)]
struct Segment {
    rows: Range<usize>,
    /// Where the first row begins.
    base: usize,
    /// From row to row; 0 if there is but one.
    stride: usize,
    /// Places from the first row of its chain to its own; chains are segments whose rows lie at places of the one before, and not far
    /// away.
    place: usize,
}

impl Segment {
    /// Where another row would begin.
    fn next(&self) -> usize {
        self.base + self.rows.len() * self.stride
    }

    /// The place of a segment from `base` on in this one's chain, or 0 for the first of another.
    fn place_after(&self, base: usize, stride: usize) -> usize {
        let last = self.base + (self.rows.len() - 1) * self.stride;
        let gap = base.saturating_sub(last);
        // What fills whole tiles has nothing to win.
        let whole = self.place == 0 && self.rows.len().is_multiple_of(ROWS);
        if whole || self.stride == 0 || (stride != self.stride && stride != 0) || gap > GAP * self.stride {
            return 0;
        }
        let (places, between) = (gap / self.stride, gap % self.stride);
        if places > 0 && between == 0 { self.place + self.rows.len() - 1 + places } else { 0 }
    }
}

/// The segments of a task's rows: neighbouring lines are one if they can be.
fn segments(rows: &Rows<'_, u8>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::with_capacity(rows.bases.len().div_ceil(rows.line.max(1)));
    let mut start = 0;
    for line in rows.bases.chunks(rows.line.max(1)) {
        debug_assert!(line.is_sorted_by(|a, b| b.wrapping_sub(*a) == line[1] - line[0]));
        let (base, end) = (line[0], start + line.len());
        let stride = line.get(1).map_or(0, |next| next.saturating_sub(base));
        match segments.last_mut() {
            Some(last) if last.next() == base && (line.len() == 1 || stride == last.stride) => last.rows.end = end,
            Some(last) if last.rows.len() == 1 && line.len() == 1 && last.base < base => {
                last.rows.end = end;
                // The chain before may have another stride.
                (last.stride, last.place) = (base - last.base, 0);
            }
            last => {
                let place = last.map_or(0, |last| last.place_after(base, stride));
                segments.push(Segment { rows: start..end, base, stride, place });
            }
        }
        start = end;
    }
    segments
}

/// Places from the first row of a chain to its last.
fn places(chain: &[Segment]) -> usize {
    chain.last().map_or(0, |last| last.place + last.rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::igemm::Bases;

    /// Bases of `lines` lines of `line` rows, `pitch` apart, and of images of so many lines.
    fn bases(images: usize, lines: usize, line: usize, stride: usize, pitch: usize, image: usize) -> Vec<usize> {
        let rows = (0..images).flat_map(|i| (0..lines).map(move |l| i * image + l * pitch));
        rows.flat_map(|start| (0..line).map(move |row| start + row * stride)).collect()
    }

    #[test]
    fn every_row_stands_once_in_a_tile_and_no_tile_leaves_the_rows() {
        for (images, lines, line, stride, pitch, image) in [
            (1, 1, 197, 768, 0, 0),
            (1, 7, 7, 64, 9 * 64, 0),
            (3, 8, 8, 16, 160, 1600),
            (2, 4, 56, 64, 58 * 64, 300 * 64),
            (1, 5, 9, 48, 20 * 24, 0),
            (4, 6, 1, 0, 100, 1000),
            (5, 1, 1, 0, 0, 7),
            (1, 3, 16, 4, 72, 0),
            (1, 4, 3, 2, 7, 0),
            (2, 1, 20, 0, 0, 0),
        ] {
            let bases = bases(images, lines, line, stride, pitch, image);
            let rows = Rows { data: &[], bases: Bases::new(&bases), offsets: &[], line };
            let Tiles { tiles, pieces } = Tiles::new(&rows);
            let farthest = bases.iter().max().copied().unwrap_or(0);
            let mut seen = vec![0; bases.len()];
            for tile in &tiles {
                assert!((1..=ROWS).contains(&tile.rows) && tile.base + (tile.rows - 1) * tile.stride <= farthest);
                for piece in &pieces[tile.pieces.clone()] {
                    assert!(piece.at + piece.rows <= tile.rows);
                    for row in 0..piece.rows {
                        assert_eq!(tile.base + (piece.at + row) * tile.stride, bases[piece.first + row]);
                        seen[piece.first + row] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&times| times == 1), "{images} {lines} {line} {stride} {pitch} {image}");
        }
    }

    #[test]
    fn short_lines_share_tiles() {
        let bases = bases(1, 7, 7, 64, 9 * 64, 0);
        let tiles = Tiles::new(&Rows { data: &[], bases: Bases::new(&bases), offsets: &[], line: 7 }).tiles;
        assert_eq!(tiles.len(), 4, "61 places");
    }
}
