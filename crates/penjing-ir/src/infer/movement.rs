//! Facts of ops that move elements.

use super::{Why, broadcast, check_axis, check_extents, ensure};
use crate::{Dim, Fact, PadMode, SliceRange};

pub(super) fn permute(x: &Fact, perm: &[usize]) -> Result<Fact, Why> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    ensure(sorted.iter().copied().eq(0..x.rank()), || format!("{perm:?} is not a permutation of {} axes", x.rank()))?;
    Ok(Fact { dtype: x.dtype, shape: perm.iter().map(|&p| x.shape[p].clone()).collect() })
}

pub(super) fn reshape(x: &Fact, shape: &[Dim]) -> Result<Fact, Why> {
    check_extents(shape)?;
    let (from, to) = (Dim::product(&x.shape), Dim::product(shape));
    ensure(from == to, || format!("{x} has {from} elements, shape {shape:?} has {to}"))?;
    Ok(Fact { dtype: x.dtype, shape: shape.to_vec() })
}

pub(super) fn expand(x: &Fact, shape: &[Dim]) -> Result<Fact, Why> {
    check_extents(shape)?;
    let out = broadcast(&x.shape, shape)?;
    ensure(out == shape, || format!("{x} does not expand to {shape:?}"))?;
    Ok(Fact { dtype: x.dtype, shape: out })
}

pub(super) fn slice(x: &Fact, ranges: &[SliceRange]) -> Result<Fact, Why> {
    ensure(ranges.len() == x.rank(), || format!("{} ranges for rank {}", ranges.len(), x.rank()))?;
    for (range, extent) in ranges.iter().zip(&x.shape) {
        ensure(range.step != 0, || "a step of 0".into())?;
        check_extents(&[range.start.clone(), range.len.clone()])?;
        let (Some(start), Some(len), Some(n)) = (range.start.as_const(), range.len.as_const(), extent.as_const())
        else {
            continue;
        };
        let last = start as i128 + (len as i128 - 1) * i128::from(range.step);
        ensure(len == 0 || (start < n && (0..n as i128).contains(&last)), || {
            format!("range start {start}, length {len}, step {} leaves extent {n}", range.step)
        })?;
    }
    Ok(Fact { dtype: x.dtype, shape: ranges.iter().map(|r| r.len.clone()).collect() })
}

pub(super) fn concat(xs: &[Fact], axis: usize) -> Result<Fact, Why> {
    let first = xs.first().ok_or("needs at least one operand")?;
    check_axis(first, axis)?;
    let mut out = first.clone();
    for x in &xs[1..] {
        let fits = x.dtype == first.dtype
            && x.rank() == first.rank()
            && (0..first.rank()).all(|i| i == axis || x.shape[i] == first.shape[i]);
        ensure(fits, || format!("{x} does not join {first} along axis {axis}"))?;
        out.shape[axis] = out.shape[axis].clone() + x.shape[axis].clone();
    }
    Ok(out)
}

pub(super) fn pad(x: &Fact, before: &[usize], after: &[usize], mode: PadMode) -> Result<Fact, Why> {
    ensure(before.len() == x.rank() && after.len() == x.rank(), || {
        format!("{} and {} pads for rank {}", before.len(), after.len(), x.rank())
    })?;
    for i in 0..x.rank() {
        let Some(n) = x.shape[i].as_const() else { continue };
        let widest = before[i].max(after[i]);
        let legal = match mode {
            PadMode::Constant(_) => true,
            PadMode::Reflect | PadMode::Edge | PadMode::Wrap => widest == 0 || n > 0,
        };
        ensure(legal, || format!("cannot pad axis {i} of extent {n} by {widest}"))?;
    }
    let shape = (0..x.rank()).map(|i| Dim::Const(before[i]) + x.shape[i].clone() + Dim::Const(after[i])).collect();
    Ok(Fact { dtype: x.dtype, shape })
}
