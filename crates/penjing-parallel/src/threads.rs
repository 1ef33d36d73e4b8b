//! Ranks as threads of one process.

use crate::{Comm, ParallelError};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// How long a rank waits for the others before it names those that are missing.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The largest group of threads.
const MAX_RANKS: usize = 1024;

/// One rank of a group of threads. Clones are the same rank; only one of them may be in a call at a time.
#[derive(Clone)]
pub struct ThreadComm {
    rank: usize,
    group: Arc<Group>,
}

/// Runs `work` once for each rank, each on a thread of its own, and returns their results in rank order. The first error ends
/// the group: ranks that wait for the failed one stop with [`ParallelError::Aborted`], and the error returned is the one that
/// came first.
pub fn run_ranks<T, E>(ranks: usize, work: impl Fn(ThreadComm) -> Result<T, E> + Sync) -> Result<Vec<T>, E>
where
    T: Send,
    E: Send + std::fmt::Display + From<ParallelError>,
{
    if ranks == 0 || ranks > MAX_RANKS {
        return Err(ParallelError::RankCount(ranks).into());
    }
    let group = Arc::new(Group::new(ranks));
    let first_error: Mutex<Option<E>> = Mutex::new(None);
    // Kept before the others are woken: theirs are only consequences.
    let fail = |error: E| {
        let why = error.to_string();
        lock(&first_error).get_or_insert(error);
        group.abort(why);
    };
    let results: Vec<Option<T>> = std::thread::scope(|scope| {
        let (work, fail, group) = (&work, &fail, &group);
        let handles: Vec<_> = (0..ranks)
            .map(|rank| {
                scope.spawn(move || {
                    let comm = ThreadComm { rank, group: Arc::clone(group) };
                    match catch_unwind(AssertUnwindSafe(|| work(comm))) {
                        Ok(Ok(result)) => Some(result),
                        Ok(Err(error)) => {
                            fail(error);
                            None
                        }
                        Err(payload) => {
                            let text = payload.downcast_ref::<String>().cloned();
                            let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
                            let why = text.unwrap_or_else(|| "no message".into());
                            fail(ParallelError::Panicked { rank, why }.into());
                            None
                        }
                    }
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap_or(None)).collect()
    });
    match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(results.into_iter().flatten().collect()),
    }
}

impl Comm for ThreadComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.size
    }

    fn all_reduce(&mut self, at: &str, data: &mut [f32]) -> Result<(), ParallelError> {
        if self.group.size == 1 {
            return Ok(());
        }
        self.publish(at, data);
        self.barrier(at)?;
        self.check_same(at, data.len())?;
        // Each rank sums one share of the elements over all ranks, in rank order, and publishes that share.
        let n = data.len();
        let share = n.div_ceil(self.group.size);
        let span = |rank: usize| (rank * share).min(n)..((rank + 1) * share).min(n);
        let mine = span(self.rank);
        let mut sum = read(&self.group.parts[0]).data[mine.clone()].to_vec();
        for part in &self.group.parts[1..] {
            sum.iter_mut().zip(&read(part).data[mine.clone()]).for_each(|(s, v)| *s += v);
        }
        *write(&self.group.sums[self.rank]) = sum;
        self.barrier(at)?;
        for rank in 0..self.group.size {
            data[span(rank)].copy_from_slice(&read(&self.group.sums[rank]));
        }
        // Nobody may publish again before everybody has read.
        self.barrier(at)
    }

    fn barrier(&mut self, at: &str) -> Result<(), ParallelError> {
        self.group.barrier(self.rank, at)
    }
}

impl ThreadComm {
    fn publish(&self, at: &str, data: &[f32]) {
        let mut part = write(&self.group.parts[self.rank]);
        part.at.clear();
        part.at.push_str(at);
        part.data.clear();
        part.data.extend_from_slice(data);
    }

    /// Every rank must have come to the same step with as many elements.
    fn check_same(&self, at: &str, have: usize) -> Result<(), ParallelError> {
        for (other, part) in self.group.parts.iter().enumerate() {
            let part = read(part);
            if part.data.len() != have || part.at != at {
                let (at, other_at, want) = (at.into(), part.at.clone(), part.data.len());
                return Err(ParallelError::Mismatch { rank: self.rank, other, at, other_at, have, want });
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Part {
    /// The step it came to.
    at: String,
    data: Vec<f32>,
}

struct Group {
    size: usize,
    /// What each rank brought.
    parts: Vec<RwLock<Part>>,
    /// Each rank's share of the sum.
    sums: Vec<RwLock<Vec<f32>>>,
    meeting: Mutex<Meeting>,
    arrived: Condvar,
}

struct Meeting {
    round: u64,
    here: Vec<bool>,
    failed: Option<String>,
}

impl Group {
    fn new(size: usize) -> Group {
        Group {
            size,
            parts: (0..size).map(|_| RwLock::default()).collect(),
            sums: (0..size).map(|_| RwLock::default()).collect(),
            meeting: Mutex::new(Meeting { round: 0, here: vec![false; size], failed: None }),
            arrived: Condvar::new(),
        }
    }

    fn abort(&self, why: String) {
        lock(&self.meeting).failed.get_or_insert(why);
        self.arrived.notify_all();
    }

    fn barrier(&self, rank: usize, at: &str) -> Result<(), ParallelError> {
        let start = Instant::now();
        let mut meeting = lock(&self.meeting);
        let round = meeting.round;
        meeting.here[rank] = true;
        if meeting.here.iter().all(|&h| h) {
            meeting.here.fill(false);
            meeting.round += 1;
            self.arrived.notify_all();
        }
        while meeting.round == round {
            if let Some(why) = &meeting.failed {
                return Err(ParallelError::Aborted { rank, at: at.into(), why: why.clone() });
            }
            let Some(left) = DEADLINE.checked_sub(start.elapsed()) else {
                let missing = (0..self.size).filter(|&r| !meeting.here[r]).collect();
                return Err(ParallelError::Timeout { rank, at: at.into(), seconds: DEADLINE.as_secs(), missing });
            };
            meeting = self.arrived.wait_timeout(meeting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_the_sum_in_rank_order() {
        for ranks in [1, 2, 3, 5] {
            for n in [0usize, 1, 4, 1001] {
                let value = |rank: usize, i: usize| (i as f32 + 0.1) * 1.7f32.powi(rank as i32);
                let results = run_ranks(ranks, |mut comm| {
                    let mut data: Vec<f32> = (0..n).map(|i| value(comm.rank(), i)).collect();
                    for _ in 0..3 {
                        data = (0..n).map(|i| value(comm.rank(), i)).collect();
                        comm.all_reduce("test", &mut data)?;
                    }
                    Ok::<_, ParallelError>(data)
                })
                .unwrap();
                let want: Vec<f32> = (0..n).map(|i| (1..ranks).fold(value(0, i), |s, r| s + value(r, i))).collect();
                assert!(results.iter().all(|r| *r == want), "{ranks} ranks, {n} elements");
            }
        }
    }

    #[test]
    fn a_failed_rank_ends_the_others() {
        // Many times, because the ranks that it wakes race it to report.
        for _ in 0..500 {
            let result = run_ranks(4, |mut comm| {
                if comm.rank() == 1 {
                    return Err(ParallelError::RankCount(7));
                }
                comm.barrier("step 3")
            });
            assert!(matches!(result, Err(ParallelError::RankCount(7))), "{result:?}");
        }
        let panicked = run_ranks(2, |mut comm| {
            assert!(comm.rank() == 0, "disk on fire");
            comm.barrier("step 3")
        });
        assert!(matches!(panicked, Err(ParallelError::Panicked { rank: 1, why }) if why.contains("disk on fire")));
    }

    #[test]
    fn different_lengths_are_an_error() {
        let result = run_ranks(2, |mut comm| {
            let mut data = vec![0.0; comm.rank() + 1];
            comm.all_reduce("bucket 0", &mut data)
        });
        assert!(matches!(result, Err(ParallelError::Mismatch { .. })));
    }

    #[test]
    fn different_steps_are_an_error() {
        let result = run_ranks(2, |mut comm| {
            let at = format!("bucket {}", comm.rank());
            comm.all_reduce(&at, &mut [0.0; 4])
        });
        assert!(matches!(result, Err(ParallelError::Mismatch { .. })));
    }
}
