//! The square tiles that Winograd's methods cut the outputs of a convolution by kernels of 3 × 3 into.

use crate::conv::ConvShape;

/// Tiles of SIDE × SIDE outputs, image after image and row after row; the last of a row or column may reach over the edge.
pub(crate) struct Tiles<'a> {
    pub(crate) s: &'a ConvShape,
    side: usize,
    /// Tiles of an image: rows, columns.
    grid: [usize; 2],
}

impl<'a> Tiles<'a> {
    pub(crate) fn new(s: &'a ConvShape, side: usize) -> Tiles<'a> {
        Tiles { s, side, grid: s.output.map(|o| o.div_ceil(side)) }
    }

    /// Of the whole batch.
    pub(crate) fn count(&self) -> usize {
        self.s.batch * self.grid[0] * self.grid[1]
    }

    /// Image, first output row and first output column of a tile.
    pub(crate) fn place(&self, tile: usize) -> [usize; 3] {
        let [rows, cols] = self.grid;
        [tile / (rows * cols), tile / cols % rows * self.side, tile % cols * self.side]
    }

    /// The tile's first output pixel in the batch, and how many rows and columns of it lie inside the image.
    #[inline(always)]
    pub(crate) fn pixels(&self, [image, row, col]: [usize; 3]) -> (usize, [usize; 2]) {
        let [oh, ow] = self.s.output;
        ((image * oh + row) * ow + col, [self.side.min(oh - row), self.side.min(ow - col)])
    }

    /// Channel 0 of each of the T × T inputs of a tile; `outside`, a pixel, stands for what lies outside the image.
    ///
    /// # Panics
    /// x is shorter than the shape says.
    #[inline(always)]
    pub(crate) fn sources<E, const T: usize>(
        &self,
        x: &[E],
        outside: &[E],
        [image, row, col]: [usize; 3],
    ) -> [[*const E; T]; T] {
        let ([h, w], [ph, pw], c) = (self.s.input, self.s.pad, self.s.in_channels);
        let image = &x[image * h * w * c..(image + 1) * h * w * c];
        // Column j of the tile lies inside the image where col + j is one of these, row i likewise.
        let (rows, cols) = (ph..ph + h, pw..pw + w);
        let first = image
            .as_ptr()
            .wrapping_add(row.wrapping_sub(ph).wrapping_mul(w).wrapping_add(col).wrapping_sub(pw).wrapping_mul(c));
        let mut sources = [[outside.as_ptr(); T]; T];
        for i in 0..T {
            if rows.contains(&(row + i)) {
                for j in 0..T {
                    let at = first.wrapping_add((i * w + j) * c);
                    sources[i][j] = if cols.contains(&(col + j)) { at } else { outside.as_ptr() };
                }
            }
        }
        sources
    }
}
