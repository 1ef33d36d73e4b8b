//! What each rank did when, as a Chrome trace (`chrome://tracing`, Perfetto).

use serde::Serialize;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Spans of all ranks; clones share them.
#[derive(Clone)]
pub struct Timeline {
    start: Instant,
    spans: Arc<Mutex<Vec<Span>>>,
}

/// One event of the trace format: a complete event (`ph` is `X`), times in microseconds.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// Always `X`.
    pub ph: &'static str,
    /// Start.
    pub ts: f64,
    /// Duration.
    pub dur: f64,
    /// The process; always 0.
    pub pid: usize,
    /// The rank.
    pub tid: usize,
}

/// Ends its span when dropped.
pub struct Open<'a> {
    timeline: &'a Timeline,
    name: String,
    rank: usize,
    since: Instant,
}

impl Timeline {
    /// An empty timeline that starts now.
    pub fn new() -> Timeline {
        Timeline { start: Instant::now(), spans: Arc::default() }
    }

    /// Begins a span of `rank`; it ends when the result is dropped.
    pub fn start(&self, rank: usize, name: &str) -> Open<'_> {
        Open { timeline: self, name: name.into(), rank, since: Instant::now() }
    }

    /// All spans, by start.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        spans.sort_by(|a, b| a.ts.total_cmp(&b.ts).then(a.tid.cmp(&b.tid)));
        spans
    }
}

impl Default for Timeline {
    fn default() -> Timeline {
        Timeline::new()
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let span = Span {
            name: std::mem::take(&mut self.name),
            ph: "X",
            ts: self.since.duration_since(self.timeline.start).as_secs_f64() * 1e6,
            dur: self.since.elapsed().as_secs_f64() * 1e6,
            pid: 0,
            tid: self.rank,
        };
        self.timeline.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_ranks_are_kept_in_order() {
        let timeline = Timeline::new();
        {
            let _outer = timeline.start(1, "step");
            let _inner = timeline.start(0, "all-reduce");
        }
        let spans = timeline.spans();
        assert_eq!(
            spans.iter().map(|s| (s.name.as_str(), s.tid)).collect::<Vec<_>>(),
            [("step", 1), ("all-reduce", 0)]
        );
        assert!(spans[0].dur >= spans[1].dur);
    }
}
