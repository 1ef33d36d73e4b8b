//! Weights packed once for a register tile, one product a group.

use super::{
    ByteType,
    bound::{Known, Method},
    dots::{Dots, Signs},
};
use crate::igemm::{PackedB, tile::Kind};

/// The products of all groups, with the tile that is fastest for their weights.
pub(super) enum Packed {
    /// [`Dots`] of u8.
    Dots(Vec<PackedB<Dots<false>>>),
    /// [`Dots`] of i8.
    DotsFlip(Vec<PackedB<Dots<true>>>),
    /// [`Signs`] of i8.
    Signs(Vec<PackedB<Signs<false>>>),
    /// [`Signs`] of u8.
    SignsFlip(Vec<PackedB<Signs<true>>>),
}

/// Runs `$body` with `$b` bound to the groups of any tile.
macro_rules! with_groups {
    ($packed:expr, $b:ident => $body:expr) => {
        match $packed {
            $crate::int8::packed::Packed::Dots($b) => $body,
            $crate::int8::packed::Packed::DotsFlip($b) => $body,
            $crate::int8::packed::Packed::Signs($b) => $body,
            $crate::int8::packed::Packed::SignsFlip($b) => $body,
        }
    };
}
pub(super) use with_groups;

impl Packed {
    /// Packs `groups` products of `runs` runs of `run_len` by n columns for activations of a type; `at(group, run, j, column)` is
    /// a weight.
    pub(super) fn new(
        x: ByteType,
        groups: usize,
        n: usize,
        [runs, run_len]: [usize; 2],
        at: impl Fn(usize, usize, usize, usize) -> i8,
    ) -> Packed {
        fn all<K: Kind<B = i8>>(
            groups: usize,
            n: usize,
            [runs, run_len]: [usize; 2],
            at: &impl Fn(usize, usize, usize, usize) -> i8,
        ) -> Vec<PackedB<K>> {
            (0..groups).map(|g| PackedB::new(n, runs, run_len, |run, j, o| at(g, run, j, o))).collect()
        }
        let depth = [runs, run_len];
        match x {
            ByteType::U8 => {
                let dots = all(groups, n, depth, &at);
                if cheap(&dots) { Packed::Dots(dots) } else { Packed::SignsFlip(all(groups, n, depth, &at)) }
            }
            ByteType::I8 => {
                let dots = all(groups, n, depth, &at);
                if cheap(&dots) { Packed::DotsFlip(dots) } else { Packed::Signs(all(groups, n, depth, &at)) }
            }
        }
    }

    /// The zero point as the tile sees it.
    pub(super) fn zero(&self, zero: i32) -> i32 {
        match self {
            Packed::Dots(_) | Packed::Signs(_) => zero,
            Packed::DotsFlip(_) => zero + 128,
            Packed::SignsFlip(_) => zero - 128,
        }
    }

    /// The type of the activations.
    pub(super) fn x(&self) -> ByteType {
        match self {
            Packed::Dots(_) | Packed::SignsFlip(_) => ByteType::U8,
            Packed::DotsFlip(_) | Packed::Signs(_) => ByteType::I8,
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        with_groups!(self, groups => {
            let extras = groups.iter().flat_map(PackedB::prepared).map(|(_, known)| size_of_val(&known.extras[..]));
            extras.sum::<usize>() + groups.iter().map(PackedB::bytes).sum::<usize>()
        })
    }
}

/// Whether bounded weights cost less than transferring signs.
fn cheap<const FLIP: bool>(groups: &[PackedB<Dots<FLIP>>]) -> bool {
    let signs = Known::default();
    let blocks = || groups.iter().flat_map(PackedB::prepared);
    let dots: f32 = blocks().map(|(steps, known)| known.cost(Method::Dots, steps)).sum();
    dots <= blocks().map(|(steps, _)| signs.cost(Method::Signs, steps)).sum()
}
