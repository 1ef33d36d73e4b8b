//! dx of a channels-last convolution: one convolution of dy with stride 1 for every stride phase of dx.
//!
//! Input row `sy * i + py` receives tap kh exactly when `py + pad - kh * dilation` is a multiple of sy, from output row
//! `i + (py + pad - kh * dilation) / sy`. The taps of a phase, in the order of those rows, are a kernel of their own.

use super::{ConvEpilogue, Method, PackedConvLast, conv_last};
use crate::{Ctx, KernelError, conv::ConvShape, error::check_len, pool::Disjoint, scratch::with_scratch};

const NAME: &str = "conv_last_input_grad";

/// Elements that one task moves.
const TASK: usize = 1 << 14;

/// The method of [`conv_last_input_grad`] that a shape is quickest with.
pub fn input_grad_method(s: &ConvShape) -> Method {
    if s.stride == [1, 1] { Method::of_packing(&phase(s, [0, 0]).1) } else { Method::Direct }
}

/// dx `[N, H, W, C]` from dy `[N, OH, OW, O]` and w `[O, C / groups, KH, KW]`. This is also the transposed convolution. A `method`
/// of Winograd is for the shapes that [`input_grad_method`] names it for; the others compute by definition.
pub fn conv_last_input_grad(
    cx: Ctx<'_>,
    s: &ConvShape,
    method: Method,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    s.check(NAME)?;
    check_len(NAME, "dy", s.y_len(), dy.len())?;
    check_len(NAME, "w", s.w_len(), w.len())?;
    check_len(NAME, "dx", s.x_len(), dx.len())?;
    if dx.is_empty() || dy.is_empty() || w.is_empty() {
        dx.fill(0.0);
        return Ok(());
    }
    for i in 0..s.stride[0] * s.stride[1] {
        let at = [i / s.stride[1], i % s.stride[1]];
        let (axes, part) = phase(s, at);
        let method = match method {
            Method::Direct | Method::Depthwise => Method::plain(&part),
            Method::Winograd2 | Method::Winograd4 => method,
        };
        let len = part.y_len().unwrap_or(0);
        if axes.iter().any(|a| a.taps.iter().all(Option::is_none)) {
            scatter(cx, s, at, part.output, None, dx);
        } else if s.stride == [1, 1] {
            phase_grad(cx, s, &axes, &part, method, dy, w, dx)?;
        } else if len > 0 {
            with_scratch::<f32, _>(len, |grad| {
                phase_grad(cx, s, &axes, &part, method, dy, w, grad)?;
                scatter(cx, s, at, part.output, Some(grad), dx);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The axes of the phase `at`, and its convolution of dy.
fn phase(s: &ConvShape, at: [usize; 2]) -> ([Axis; 2], ConvShape) {
    let axes = [0, 1].map(|a| Axis::new(s, a, at[a]));
    let part = ConvShape {
        in_channels: s.out_channels,
        out_channels: s.in_channels,
        input: s.output,
        kernel: axes.each_ref().map(|a| a.taps.len()),
        stride: [1, 1],
        dilation: axes.each_ref().map(|a| a.step),
        pad: axes.each_ref().map(|a| a.pad),
        output: axes.each_ref().map(|a| a.extent),
        ..*s
    };
    (axes, part)
}

/// One axis of one phase.
struct Axis {
    /// Positions of the phase.
    extent: usize,
    /// Rows of dy between two taps.
    step: usize,
    /// Rows that the first tap lies before the position's own.
    pad: usize,
    /// Which kernel position each tap is; none where it only fills the row up to the position's own.
    taps: Vec<Option<usize>>,
}

impl Axis {
    fn new(s: &ConvShape, a: usize, phase: usize) -> Axis {
        let (stride, dilation) = (s.stride[a], s.dilation[a]);
        let extent = s.input[a].saturating_sub(phase).div_ceil(stride);
        let step = dilation / gcd(stride, dilation);
        // Taps by their row of dy, which falls as the kernel position rises.
        let mut first = 0;
        let mut taps = Vec::new();
        for k in (0..s.kernel[a]).rev() {
            let from = (phase + s.pad[a]) as isize - (k * dilation) as isize;
            if from.rem_euclid(stride as isize) == 0 {
                if taps.is_empty() {
                    first = from.div_euclid(stride as isize);
                }
                taps.push(Some(k));
            }
        }
        let missing = usize::try_from(first).unwrap_or(0).div_ceil(step);
        taps.splice(0..0, std::iter::repeat_n(None, missing));
        if taps.is_empty() {
            taps.push(None);
        }
        let pad = (missing * step).wrapping_add_signed(-first);
        Axis { extent, step, pad, taps }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The gradient of one phase, `[N, extent, extent, C]`.
fn phase_grad(
    cx: Ctx<'_>,
    s: &ConvShape,
    axes: &[Axis; 2],
    part: &ConvShape,
    method: Method,
    dy: &[f32],
    w: &[f32],
    grad: &mut [f32],
) -> Result<(), KernelError> {
    let taps = part.kernel[0] * part.kernel[1];
    let (rows, cols, area) = (s.group_out(), s.group_in(), s.kernel[0] * s.kernel[1]);
    let positions: Vec<Option<usize>> = (0..taps)
        .map(|t| Some(axes[0].taps[t / part.kernel[1]]? * s.kernel[1] + axes[1].taps[t % part.kernel[1]]?))
        .collect();
    with_scratch::<f32, _>(s.in_channels * rows * taps, |turned| {
        // [C, O / groups, taps] from [O, C / groups, KH, KW].
        cx.pool.run_chunks(turned, rows * taps, &|channel, turned| {
            let (group, c) = (channel / cols, channel % cols);
            for (o, to) in turned.chunks_exact_mut(taps).enumerate() {
                let from = &w[((group * rows + o) * cols + c) * area..][..area];
                for (to, &k) in to.iter_mut().zip(&positions) {
                    *to = k.map_or(0.0, |k| from[k]);
                }
            }
        });
        let packed = PackedConvLast::new_with(cx.isa, part, turned, method)?;
        conv_last(cx, part, dy, &packed, &ConvEpilogue::default(), grad)
    })
}

/// Moves the gradient of one phase to its places in dx; none is zeros.
fn scatter(cx: Ctx<'_>, s: &ConvShape, phase: [usize; 2], extent: [usize; 2], grad: Option<&[f32]>, dx: &mut [f32]) {
    let c = s.in_channels;
    let row = extent[1] * c;
    let rows = TASK.div_ceil(row.max(1));
    let total = s.batch * extent[0];
    let dx = Disjoint::new(dx);
    cx.pool.run(total.div_ceil(rows), &|t| {
        for r in t * rows..total.min((t + 1) * rows) {
            let y = r / extent[0] * s.input[0] + r % extent[0] * s.stride[0] + phase[0];
            for j in 0..extent[1] {
                let at = (y * s.input[1] + j * s.stride[1] + phase[1]) * c;
                // SAFETY: every pixel of dx belongs to one phase and one row of it, and phases run one after another.
                let to = unsafe { dx.slice(at, c) };
                match grad {
                    Some(grad) => to.copy_from_slice(&grad[r * row + j * c..][..c]),
                    None => to.fill(0.0),
                }
            }
        }
    });
}
