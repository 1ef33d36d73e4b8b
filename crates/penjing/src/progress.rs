//! One line on a terminal that says how far training is. Where nobody watches, nothing is written.

use crate::context::is_watched;
use penjing_train::Progress;
use std::{
    io::{self, Write},
    ops::ControlFlow,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time between two rewrites of the line.
const INTERVAL: Duration = Duration::from_millis(100);

/// A line that is rewritten in place and erased at the end.
pub(crate) struct ProgressLine {
    label: String,
    /// When it was last written; `None` where nobody watches.
    last: Option<Mutex<Instant>>,
}

impl ProgressLine {
    pub(crate) fn new(label: &str) -> ProgressLine {
        let last = is_watched().then(|| Mutex::new(Instant::now()));
        ProgressLine { label: label.into(), last }
    }

    /// Shows an update of a training run, which always goes on.
    pub(crate) fn update(&self, p: &Progress) -> ControlFlow<()> {
        let Some(last) = &self.last else { return ControlFlow::Continue(()) };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < INTERVAL {
            return ControlFlow::Continue(());
        }
        *last = Instant::now();
        write_line(&format!(
            "{}: epoch {}, step {}/{}, loss {:.4}, {:.0} samples/s",
            self.label,
            p.epoch + 1,
            p.step,
            p.total_steps,
            p.loss,
            p.samples_per_s
        ));
        ControlFlow::Continue(())
    }

    /// Shows how many of `total` are done.
    pub(crate) fn count(&self, done: usize, total: usize) {
        let Some(last) = &self.last else { return };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= INTERVAL {
            *last = Instant::now();
            write_line(&format!("{}: {done}/{total}", self.label));
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.last.is_some() {
            write_line("");
        }
    }
}

/// Replaces the terminal's present line.
fn write_line(text: &str) {
    // Progress that cannot be shown is no error.
    let _ = write!(io::stderr(), "\r\x1b[2K{text}");
    let _ = io::stderr().flush();
}
