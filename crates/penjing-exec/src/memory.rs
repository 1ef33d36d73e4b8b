//! Offsets of intermediate values in one arena.

/// Alignment of every offset: one cache line.
const ALIGN: usize = 64;

/// Bytes that are needed from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) bytes: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where each block lies, and the arena's size.
pub(crate) struct Offsets {
    pub(crate) offsets: Vec<usize>,
    pub(crate) size: usize,
    /// The most bytes alive at one step: no plan can be smaller.
    pub(crate) lower_bound: usize,
}

/// Greedy by size: the largest block first, each into the tightest gap between the blocks that are alive with it
/// (Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, algorithm 3).
pub(crate) fn plan_offsets(blocks: &[Lifetime]) -> Offsets {
    let size_of = |i: usize| blocks[i].bytes.next_multiple_of(ALIGN);
    let mut by_size: Vec<usize> = (0..blocks.len()).filter(|&i| blocks[i].bytes > 0).collect();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].first, i));
    let mut offsets = vec![0usize; blocks.len()];
    let mut placed: Vec<usize> = Vec::new();
    for &i in &by_size {
        let mut alive: Vec<usize> = placed.iter().copied().filter(|&p| blocks[p].meets(&blocks[i])).collect();
        alive.sort_by_key(|&p| offsets[p]);
        let (mut end, mut best): (usize, Option<(usize, usize)>) = (0, None);
        for p in alive {
            let gap = offsets[p].saturating_sub(end);
            if gap >= size_of(i) && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, end));
            }
            end = end.max(offsets[p].saturating_add(size_of(p)));
        }
        offsets[i] = best.map_or(end, |(_, at)| at);
        placed.push(i);
    }
    let size = by_size.iter().map(|&i| offsets[i].saturating_add(size_of(i))).max().unwrap_or(0);
    let steps = blocks.iter().map(|b| b.last + 1).max().unwrap_or(0);
    let mut change = vec![0i128; steps + 1];
    for &i in &by_size {
        change[blocks[i].first] += size_of(i) as i128;
        change[blocks[i].last + 1] -= size_of(i) as i128;
    }
    let mut alive = 0;
    let lower_bound = change.iter().map(|c| {
        alive += c;
        alive
    });
    Offsets { offsets, size, lower_bound: lower_bound.max().unwrap_or(0) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(bytes: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let plan = plan_offsets(&[block(640, 0, 1), block(640, 1, 2), block(640, 2, 3), block(640, 3, 4)]);
        assert_eq!((plan.size, plan.lower_bound), (1280, 1280));
    }

    #[test]
    fn blocks_alive_together_never_overlap() {
        let rng = penjing_tensor::Rng::new(0, "memory", 0);
        let blocks: Vec<Lifetime> = (0..200u64)
            .map(|i| {
                let first = rng.below(3 * i, 100) as usize;
                block(rng.below(3 * i + 1, 5000) as usize, first, first + rng.below(3 * i + 2, 12) as usize)
            })
            .collect();
        let plan = plan_offsets(&blocks);
        for (i, a) in blocks.iter().enumerate() {
            assert!(plan.offsets[i].is_multiple_of(ALIGN) && plan.offsets[i] + a.bytes <= plan.size);
            for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                let apart =
                    plan.offsets[i] + a.bytes <= plan.offsets[j] || plan.offsets[j] + b.bytes <= plan.offsets[i];
                assert!(!a.meets(b) || apart || a.bytes == 0 || b.bytes == 0, "{i} {j}");
            }
        }
        assert!(plan.lower_bound <= plan.size && plan.size < plan.lower_bound * 2);
    }
}
