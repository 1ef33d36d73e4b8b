//! How a rank talks to the others.

use crate::{ParallelError, Timeline};
use penjing_exec::Collective;

/// One rank's end of a group. Every rank calls the same operations in the same order.
pub trait Comm: Send {
    /// This rank, counted from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Replaces `data` by the elementwise sum over ranks, added in rank order, so every rank and every run gets the same bits.
    /// `at` names the step in errors.
    fn all_reduce(&mut self, at: &str, data: &mut [f32]) -> Result<(), ParallelError>;

    /// Returns when every rank has come here.
    fn barrier(&mut self, at: &str) -> Result<(), ParallelError>;
}

/// A rank's [`Comm`] as the executor's all-reduce: the parts of a bucket travel as one message.
pub struct SummingRank<C> {
    comm: C,
    bucket: Vec<f32>,
    timeline: Option<Timeline>,
}

impl<C: Comm> SummingRank<C> {
    /// Sums over the ranks of `comm`; each all-reduce is a span of `timeline` where one is given.
    pub fn new(comm: C, timeline: Option<Timeline>) -> SummingRank<C> {
        SummingRank { comm, bucket: Vec::new(), timeline }
    }
}

impl<C: Comm> Collective for SummingRank<C> {
    fn all_reduce(&mut self, node: &str, parts: &mut [&mut [f32]]) -> Result<(), String> {
        let span = self.timeline.as_ref().map(|t| t.start(self.comm.rank(), node));
        self.bucket.clear();
        parts.iter().for_each(|p| self.bucket.extend_from_slice(p));
        self.comm.all_reduce(node, &mut self.bucket).map_err(|e| e.to_string())?;
        let mut rest = self.bucket.as_slice();
        for part in parts {
            let (head, tail) = rest.split_at(part.len());
            part.copy_from_slice(head);
            rest = tail;
        }
        drop(span);
        Ok(())
    }
}
