//! Operations that move elements without computing: they copy bytes and never convert.

use crate::{
    RefError,
    data::{count, pick, product, store_floats, store_ints, walk, walk_broadcast},
};
use penjing_ir::{PadMode, SliceRange};
use penjing_tensor::{Tensor, strides};

pub(crate) fn permute(x: &Tensor, perm: &[usize]) -> Result<Tensor, RefError> {
    let own = strides(x.shape());
    let shape: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
    pick(x, &shape, walk(&shape, perm.iter().map(|&p| own[p] as isize).collect(), 0))
}

pub(crate) fn expand(x: &Tensor, shape: &[usize]) -> Result<Tensor, RefError> {
    count(shape)?;
    pick(x, shape, walk_broadcast(x.shape(), shape))
}

/// `starts` and `lens` are the ranges' dims as numbers; inference has checked that they stay inside x.
pub(crate) fn slice(x: &Tensor, ranges: &[SliceRange], starts: &[usize], lens: &[usize]) -> Result<Tensor, RefError> {
    if lens.contains(&0) {
        return Ok(Tensor::zeros(x.dtype(), lens)?);
    }
    let own = strides(x.shape());
    let start = starts.iter().zip(&own).map(|(s, stride)| s * stride).sum();
    // An axis of one index takes no step, so a huge one must not overflow.
    let step = |i: usize| if lens[i] == 1 { 0 } else { ranges[i].step as isize * own[i] as isize };
    pick(x, lens, walk(lens, (0..x.rank()).map(step).collect(), start))
}

pub(crate) fn concat(xs: &[&Tensor], axis: usize) -> Result<Tensor, RefError> {
    let mut shape = xs[0].shape().to_vec();
    shape[axis] = xs.iter().map(|x| x.shape()[axis]).sum();
    count(&shape)?;
    let mut out = Tensor::zeros(xs[0].dtype(), &shape)?;
    let outer = product(&shape[..axis]);
    let row = |s: &[usize]| product(&s[axis..]) * xs[0].dtype().size();
    let (out_row, bytes) = (row(&shape), out.bytes_mut());
    let mut at = 0;
    for x in xs {
        let n = row(x.shape());
        for o in 0..outer {
            bytes[o * out_row + at..][..n].copy_from_slice(&x.bytes()[o * n..][..n]);
        }
        at += n;
    }
    Ok(out)
}

pub(crate) fn pad(x: &Tensor, before: &[usize], after: &[usize], mode: PadMode) -> Result<Tensor, RefError> {
    let too_large = || RefError::TooLarge { shape: x.shape().to_vec(), limit: crate::data::MAX_ELEMENTS };
    let extent = |i: usize| before[i].checked_add(x.shape()[i])?.checked_add(after[i]);
    let shape = (0..x.rank()).map(extent).collect::<Option<Vec<usize>>>().ok_or_else(too_large)?;
    let total = count(&shape)?;
    // Each output element's source as an offset in x; None is the fill, kept as element 0 of a second tensor.
    let own = strides(x.shape());
    let mut sources: Vec<Option<usize>> = vec![Some(0)];
    sources.reserve(total);
    for axis in 0..x.rank() {
        if total == 0 {
            sources.clear();
            break;
        }
        let line: Vec<Option<usize>> =
            (0..shape[axis]).map(|i| pad_source(i, before[axis], x.shape()[axis], mode)).collect();
        let step = own[axis];
        sources = sources.iter().flat_map(|&base| line.iter().map(move |&i| Some(base? + i? * step))).collect();
    }
    let fill = match mode {
        PadMode::Constant(v) if x.dtype().is_float() => store_floats(x.dtype(), &[], vec![v.0])?,
        PadMode::Constant(v) => store_ints(x.dtype(), &[], vec![v.0 as i128])?,
        PadMode::Reflect | PadMode::Edge | PadMode::Wrap => Tensor::zeros(x.dtype(), &[])?,
    };
    let size = x.dtype().size();
    let mut out = Tensor::zeros(x.dtype(), &shape)?;
    for (slot, from) in out.bytes_mut().chunks_exact_mut(size).zip(sources) {
        slot.copy_from_slice(from.map_or(fill.bytes(), |i| &x.bytes()[i * size..][..size]));
    }
    Ok(out)
}

/// Which element of an axis of extent `n` stands at padded position `i`; `None` outside for constant padding.
fn pad_source(i: usize, before: usize, n: usize, mode: PadMode) -> Option<usize> {
    let at = i as i128 - before as i128;
    let last = n as i128 - 1;
    let source = match mode {
        PadMode::Constant(_) => at,
        PadMode::Edge => at.clamp(0, last.max(0)),
        PadMode::Wrap => at.rem_euclid(n.max(1) as i128),
        PadMode::Reflect => {
            let period = (2 * last).max(1);
            let folded = at.rem_euclid(period);
            folded.min(period - folded).min(last)
        }
    };
    usize::try_from(source).ok().filter(|&s| s < n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pad_sources_follow_numpy() {
        let line = |mode| (0..9).map(|i| pad_source(i, 3, 3, mode).unwrap()).collect::<Vec<_>>();
        // numpy.pad([0, 1, 2], 3, mode)
        assert_eq!(line(PadMode::Edge), [0, 0, 0, 0, 1, 2, 2, 2, 2]);
        assert_eq!(line(PadMode::Wrap), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(line(PadMode::Reflect), [1, 2, 1, 0, 1, 2, 1, 0, 1]);
        assert_eq!(pad_source(5, 3, 1, PadMode::Reflect), Some(0));
    }
}
