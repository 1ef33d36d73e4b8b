//! Aligned working memory of the calling thread, kept between calls.
//!
//! Packed panels and partial sums live here; a kernel's scratch is bounded by its blocking, never by the whole problem.

use crate::arena::Line;
use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;

thread_local! {
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` elements of unspecified content, 64-byte aligned. Calls nest; each level has its own memory.
pub(crate) fn with_scratch<T: Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let lines = (len * size_of::<T>()).div_ceil(64);
    let mut buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < lines {
        buffer.resize(lines, Line::zeroed());
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut buffer)[..len]);
    SPARE.with_borrow_mut(|spare| spare.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_scratch_is_separate_and_aligned() {
        with_scratch::<f32, _>(100, |a| {
            a.fill(1.0);
            with_scratch::<f32, _>(100, |b| b.fill(2.0));
            assert!(a.iter().all(|&v| v == 1.0));
            assert_eq!(a.as_ptr() as usize % 64, 0);
        });
        with_scratch::<u8, _>(0, |a| assert!(a.is_empty()));
    }
}
