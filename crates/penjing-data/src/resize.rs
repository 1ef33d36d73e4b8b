//! Bilinear resizing of one plane.

/// The plane `src` [h, w] resized to [out_h, out_w] with half-pixel centres and clamped edges: output pixel `i` reads at
/// `(i + 0.5) * h / out_h - 0.5`, as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` does.
///
/// # Panics
/// When `src` does not have `h * w` elements or one of the sizes is 0.
pub fn resize_bilinear(src: &[f32], [h, w]: [usize; 2], [out_h, out_w]: [usize; 2]) -> Vec<f32> {
    assert!(src.len() == h * w && !src.is_empty() && out_h * out_w > 0, "a plane of {h}x{w}, {} values", src.len());
    let columns: Vec<Tap> = (0..out_w).map(|j| tap(j, w, out_w)).collect();
    let mut out = Vec::with_capacity(out_h * out_w);
    for i in 0..out_h {
        let row = tap(i, h, out_h);
        let (upper, lower) = (&src[row.first * w..][..w], &src[row.second * w..][..w]);
        for c in &columns {
            let along = |line: &[f32]| (1.0 - c.weight) * line[c.first] + c.weight * line[c.second];
            out.push((1.0 - row.weight) * along(upper) + row.weight * along(lower));
        }
    }
    out
}

/// The two source positions of an output position and the second one's weight.
struct Tap {
    first: usize,
    second: usize,
    weight: f32,
}

fn tap(i: usize, n: usize, out_n: usize) -> Tap {
    let at = ((i as f32 + 0.5) * (n as f32 / out_n as f32) - 0.5).max(0.0);
    let first = (at as usize).min(n - 1);
    Tap { first, second: (first + 1).min(n - 1), weight: at - first as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the PyTorch documentation of `nn.Upsample(scale_factor=2, mode='bilinear')`.
    #[test]
    fn doubling_follows_pytorch() {
        let out = resize_bilinear(&[1.0, 2.0, 3.0, 4.0], [2, 2], [4, 4]);
        let want = [[1.0, 1.25, 1.75, 2.0], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3.0, 3.25, 3.75, 4.0]];
        assert_eq!(out, want.concat());
    }

    /// By hand: from 2 to 6 the reads stand at −1/3, 0, 1/3, 2/3, 1, 4/3.
    #[test]
    fn tripling_reads_at_thirds() {
        let out = resize_bilinear(&[0.0, 3.0], [1, 2], [1, 6]);
        for (have, want) in out.iter().zip([0.0, 0.0, 1.0, 2.0, 3.0, 3.0]) {
            assert!((have - want).abs() < 1e-6, "{out:?}");
        }
    }
}
