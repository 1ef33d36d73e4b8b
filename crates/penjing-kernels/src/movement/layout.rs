//! Permute, slice, expand, concat and pad: row-major boxes of elements, by the strided copy.

use super::{ElemSize, copy_strided, fill};
use crate::{
    Ctx, KernelError,
    error::{check_len, product},
};

/// Output axis i is input axis `perm[i]`. `shape` is the input's.
pub fn permute(
    cx: Ctx<'_>,
    size: ElemSize,
    src: &[u8],
    shape: &[usize],
    perm: &[usize],
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let mut seen = vec![false; shape.len()];
    let fresh = |&p: &usize| seen.get_mut(p).is_some_and(|s| !std::mem::replace(s, true));
    if perm.len() != shape.len() || !perm.iter().all(fresh) {
        return Err(KernelError::Geometry { kernel: "permute", why: "`perm` is no permutation of the axes" });
    }
    let own = strides("permute", shape)?;
    let out: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
    let from: Vec<isize> = perm.iter().map(|&p| own[p] as isize).collect();
    check_bytes("permute", "src", size, shape, src.len())?;
    check_bytes("permute", "dst", size, shape, dst.len())?;
    copy_strided(cx, size, &out, src, 0, &from, dst, 0, &strides("permute", &out)?)
}

/// Element j of output axis i is element `starts[i] + j * steps[i]` of the input's; `lens` is the output's shape.
pub fn slice(
    cx: Ctx<'_>,
    size: ElemSize,
    src: &[u8],
    shape: &[usize],
    starts: &[usize],
    steps: &[i64],
    lens: &[usize],
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let fail = |why| Err(KernelError::Geometry { kernel: "slice", why });
    if [starts.len(), steps.len(), lens.len()] != [shape.len(); 3] {
        return fail("every axis needs a start, a step and a length");
    }
    check_bytes("slice", "src", size, shape, src.len())?;
    check_bytes("slice", "dst", size, lens, dst.len())?;
    if lens.contains(&0) {
        return Ok(());
    }
    let own = strides("slice", shape)?;
    let mut from = vec![0isize; shape.len()];
    let mut offset = 0;
    for i in 0..shape.len() {
        let last = starts[i] as i128 + (lens[i] as i128 - 1) * i128::from(steps[i]);
        if starts[i] >= shape[i] || last < 0 || last >= shape[i] as i128 {
            return fail("a range leaves its axis");
        }
        offset += starts[i] * own[i];
        // An axis of one index takes no step, and a step inside an axis times its stride stays inside the tensor.
        from[i] = if lens[i] == 1 { 0 } else { steps[i] as isize * own[i] as isize };
    }
    copy_strided(cx, size, lens, src, offset, &from, dst, 0, &strides("slice", lens)?)
}

/// Broadcast by the NumPy rule to `out`.
pub fn expand(
    cx: Ctx<'_>,
    size: ElemSize,
    src: &[u8],
    shape: &[usize],
    out: &[usize],
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let fail = || KernelError::Geometry { kernel: "expand", why: "the shape does not broadcast to the result's" };
    let lead = out.len().checked_sub(shape.len()).ok_or_else(fail)?;
    if shape.iter().zip(&out[lead..]).any(|(&n, &m)| n != m && n != 1) {
        return Err(fail());
    }
    check_bytes("expand", "src", size, shape, src.len())?;
    check_bytes("expand", "dst", size, out, dst.len())?;
    let own = strides("expand", shape)?;
    let stride = |i: usize| if i < lead || shape[i - lead] == 1 { 0 } else { own[i - lead] as isize };
    let from: Vec<isize> = (0..out.len()).map(stride).collect();
    copy_strided(cx, size, out, src, 0, &from, dst, 0, &strides("expand", out)?)
}

/// Joins tensors along `axis`: each operand is its bytes and its extent there. `shape` is the result's.
pub fn concat(
    cx: Ctx<'_>,
    size: ElemSize,
    operands: &[(&[u8], usize)],
    shape: &[usize],
    axis: usize,
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let fail = |why| Err(KernelError::Geometry { kernel: "concat", why });
    if axis >= shape.len() {
        return fail("there is no such axis");
    }
    if operands.iter().try_fold(0usize, |sum, o| sum.checked_add(o.1)) != Some(shape[axis]) {
        return fail("the operands' extents do not add up to the result's");
    }
    check_bytes("concat", "dst", size, shape, dst.len())?;
    let to = strides("concat", shape)?;
    let mut at = 0;
    for &(src, extent) in operands {
        let mut part = shape.to_vec();
        part[axis] = extent;
        check_bytes("concat", "src", size, &part, src.len())?;
        let from: Vec<isize> = strides("concat", &part)?.iter().map(|&s| s as isize).collect();
        copy_strided(cx, size, &part, src, 0, &from, dst, at * to[axis], &to)?;
        at += extent;
    }
    Ok(())
}

/// Adds `before[i]` and `after[i]` elements to axis i, all of them `value`, whose length is the element size.
pub fn pad(
    cx: Ctx<'_>,
    src: &[u8],
    shape: &[usize],
    before: &[usize],
    after: &[usize],
    value: &[u8],
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let fail = |why| KernelError::Geometry { kernel: "pad", why };
    let size = ElemSize::new(value.len()).ok_or(fail("an element has 1, 2, 4 or 8 bytes"))?;
    if before.len() != shape.len() || after.len() != shape.len() {
        return Err(fail("every axis needs two pads"));
    }
    let extent = |i: usize| before[i].checked_add(shape[i])?.checked_add(after[i]);
    let out: Vec<usize> = (0..shape.len()).map(extent).collect::<Option<_>>().ok_or(fail("an extent overflows"))?;
    check_bytes("pad", "src", size, shape, src.len())?;
    check_bytes("pad", "dst", size, &out, dst.len())?;
    if out != shape {
        fill(cx, value, dst)?;
    }
    if shape.contains(&0) {
        return Ok(());
    }
    let from: Vec<isize> = strides("pad", shape)?.iter().map(|&s| s as isize).collect();
    let to = strides("pad", &out)?;
    let offset = before.iter().zip(&to).map(|(b, s)| b * s).sum();
    copy_strided(cx, size, shape, src, 0, &from, dst, offset, &to)
}

/// Row-major strides; an error where the tensor would not fit an address space.
fn strides(kernel: &'static str, shape: &[usize]) -> Result<Vec<usize>, KernelError> {
    // Extents of 0 count as 1, so that the strides of an empty tensor are checked too.
    let filled: Vec<usize> = shape.iter().map(|&n| n.max(1)).collect();
    match product(&filled) {
        Some(n) if n <= isize::MAX as usize => Ok(penjing_tensor::strides(&filled)),
        _ => Err(KernelError::Geometry { kernel, why: "a tensor is too large" }),
    }
}

fn check_bytes(
    kernel: &'static str,
    operand: &'static str,
    size: ElemSize,
    shape: &[usize],
    have: usize,
) -> Result<(), KernelError> {
    check_len(kernel, operand, product(shape).and_then(|n| n.checked_mul(size.bytes())), have)
}
