//! A pool of threads owned by one session.
//!
//! Work is a number of tasks fixed by the problem; which thread runs a task never changes what it computes, so results are
//! the same bits at any thread count. Each thread begins with its share of consecutive tasks, the same one in every job, so
//! that what a task wrote mostly lies in the cache of the core that reads it next; who is done takes over what others have
//! not begun. Idle workers spin for at most 50 µs, then sleep.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long an idle worker burns its core before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// Set in [`Shared::state`] while a job accepts workers; the bits below count the workers inside it.
const OPEN: u64 = 1 << 16;
/// One step of the job number, in the bits above [`OPEN`].
const EPOCH: u64 = 1 << 17;
/// The count of workers inside the job.
const INSIDE: u64 = OPEN - 1;

thread_local! {
    /// Whether this thread is inside a task; a nested `run` is then serial.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Threads that run the tasks of one session. Dropping it joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the thread whose job is running.
    owner: Mutex<()>,
}

impl Pool {
    /// A pool that runs tasks on `threads` threads, the caller's included: `Pool::new(1)` spawns nothing. Where the system
    /// refuses a thread the pool is that much smaller.
    pub fn new(threads: usize) -> Pool {
        let threads = threads.clamp(1, INSIDE as usize);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            shares: (0..threads).map(|_| Share::default()).collect(),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                thread::Builder::new().name(format!("penjing-{i}")).spawn(move || shared.work(i)).ok()
            })
            .collect();
        Pool { shared, workers, owner: Mutex::new(()) }
    }

    /// The number of threads that tasks run on.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)`, …, `task(n_tasks - 1)`, each once, in any order, and returns when all have ended. A panic in a task is
    /// raised again here; tasks not yet begun are then left out. Inside a task it runs serially.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if n_tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..n_tasks).for_each(task);
            return;
        }
        let owner = lock(&self.owner);
        let shared = &*self.shared;
        // SAFETY: the lifetime is erased only for the time of this call: `close` below waits until no worker is inside the
        // job, and no worker enters a closed one.
        let task_ptr: *const (dyn Fn(usize) + Sync + 'static) =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), _>(task) };
        // SAFETY: no job is open and no worker is inside one (the previous `run` waited for that under `owner`), so nobody
        // reads the cell.
        unsafe { *shared.job.get() = Some(Job { task: task_ptr, n_tasks }) };
        for (player, share) in shared.shares.iter().enumerate() {
            share.next.store(shared.share(player, n_tasks).start, Ordering::Relaxed);
        }
        shared.open();
        shared.run_tasks(0, task, n_tasks);
        shared.close();
        let panic = lock(&shared.panic).take();
        drop(owner);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Runs `task(round, 0)`, …, `task(round, n_tasks - 1)` for the rounds 0, 1, … in turn: a round begins when all tasks of
    /// the one before have ended, and sees what they wrote. The threads stay in the job from round to round, and a task goes
    /// to the thread that had it in the round before unless that one is late, so its data stays in that core's cache. A thread
    /// takes its tasks in turn forwards and backwards, so that of data larger than the cache some is still there.
    pub fn run_rounds(&self, rounds: usize, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let players = self.threads().min(n_tasks);
        if players <= 1 || IN_TASK.get() {
            for round in 0..rounds {
                (0..n_tasks).for_each(|i| task(round, if round % 2 == 0 { i } else { n_tasks - 1 - i }));
            }
            return;
        }
        let claims: Vec<Claim> = (0..n_tasks).map(|_| Claim(AtomicUsize::new(0))).collect();
        let (done, broken) = (AtomicUsize::new(0), AtomicBool::new(false));
        self.run(players, &|player| {
            let _guard = BreakOnPanic(&broken);
            for round in 0..rounds {
                let own = player * n_tasks / players..(player + 1) * n_tasks / players;
                for i in 0..n_tasks {
                    let backwards = round % 2 == 1 && i < own.len();
                    let t = if backwards { own.end - 1 - i } else { (own.start + i) % n_tasks };
                    let claim = &claims[t].0;
                    let free = claim.load(Ordering::Relaxed) == round;
                    let order = Ordering::Relaxed;
                    if free && claim.compare_exchange(round, round + 1, order, order).is_ok() {
                        task(round, t);
                        done.fetch_add(1, Ordering::AcqRel);
                    }
                }
                let mut spins = 0u32;
                while done.load(Ordering::Acquire) < (round + 1) * n_tasks {
                    if broken.load(Ordering::Relaxed) {
                        return;
                    }
                    pause(&mut spins);
                }
            }
        });
    }

    /// Runs `task(i, chunk)` for the `i`-th chunk of `chunk_len` elements of `out` (the last may be shorter).
    pub fn run_chunks<T: Send>(&self, out: &mut [T], chunk_len: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let (len, chunk_len) = (out.len(), chunk_len.max(1));
        let out = Disjoint::new(out);
        self.run(len.div_ceil(chunk_len), &|i| {
            let start = i * chunk_len;
            // SAFETY: each task index runs once and the ranges of different indices do not overlap.
            task(i, unsafe { out.slice(start, chunk_len.min(len - start)) });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks raise, so it always ends normally.
            let _ = worker.join();
        }
    }
}

/// A mutable slice that tasks split among themselves.
pub(crate) struct Disjoint<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out disjoint parts (the contract of its methods), and `T: Send` may move to another thread.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No other live reference or pointer access from this value covers any of them.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a task's part lies inside the slice");
        // SAFETY: inside the slice (checked above) and unshared (the caller's contract).
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// The elements `start..start + len`, for reading.
    ///
    /// # Safety
    /// No live reference and no access of another task writes any of them.
    pub(crate) unsafe fn read(&self, start: usize, len: usize) -> &[T] {
        assert!(start <= self.len && len <= self.len - start, "a task's part lies inside the slice");
        // SAFETY: inside the slice (checked above) and not written (the caller's contract).
        unsafe { std::slice::from_raw_parts(self.ptr.add(start), len) }
    }

    /// Element `start`, after a check that `len` elements from it on lie inside; writes through it obey the contract of
    /// [`slice`](Self::slice).
    #[inline(always)]
    pub(crate) fn at(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "a task's part lies inside the slice");
        self.ptr.wrapping_add(start)
    }

    /// The first element; writes through it obey the contract of [`slice`](Self::slice).
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.ptr
    }
}

struct Job {
    task: *const (dyn Fn(usize) + Sync),
    n_tasks: usize,
}

struct Shared {
    /// Job number, [`OPEN`] bit, count of workers inside.
    state: AtomicU64,
    /// The tasks of each thread: the owner of the job, then the workers.
    shares: Vec<Share>,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only while no job is open and no worker inside, and read only by workers inside; `state` orders
// the two. Every other field is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is used only during the `run` call that stored it, whose closure is `Sync`.
unsafe impl Send for Shared {}

impl Shared {
    fn open(&self) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store((state & !(OPEN | INSIDE)).wrapping_add(EPOCH) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }

    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            pause(&mut spins);
        }
    }

    /// The tasks that thread `player` begins with.
    fn share(&self, player: usize, n_tasks: usize) -> Range<usize> {
        let players = self.shares.len();
        player * n_tasks / players..(player + 1) * n_tasks / players
    }

    /// Runs what is left of the share of `player`, then of the others'.
    fn run_tasks(&self, player: usize, task: &(dyn Fn(usize) + Sync), n_tasks: usize) {
        IN_TASK.set(true);
        let players = self.shares.len();
        for of in (player..players).chain(0..player) {
            let (next, end) = (&self.shares[of].next, self.share(of, n_tasks).end);
            // Reading first spares the line of a share that is done a write.
            while next.load(Ordering::Relaxed) < end {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= end {
                    break;
                }
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(i))) {
                    lock(&self.panic).get_or_insert(payload);
                    self.shares.iter().for_each(|share| share.next.store(n_tasks, Ordering::Relaxed));
                }
            }
        }
        IN_TASK.set(false);
    }

    fn work(&self, player: usize) {
        let mut seen = 0;
        while let Some(state) = self.wait_for_job(seen) {
            seen = state / EPOCH;
            if !self.enter(seen) {
                continue;
            }
            // SAFETY: this worker is counted inside an open job, so the cell is not written until it leaves.
            if let Some(job) = unsafe { &*self.job.get() } {
                // SAFETY: the `run` call that stored the pointer waits in `close` until this worker leaves.
                self.run_tasks(player, unsafe { &*job.task }, job.n_tasks);
            }
            self.state.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The state in which a job newer than `seen` is open; `None` when the pool is dropped.
    fn wait_for_job(&self, seen: u64) -> Option<u64> {
        let fresh = |state: u64| state & OPEN != 0 && state / EPOCH != seen;
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                let state = self.state.load(Ordering::Acquire);
                if fresh(state) {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if start.elapsed() >= SPIN {
                break;
            }
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let woken = loop {
            let state = self.state.load(Ordering::SeqCst);
            if fresh(state) {
                break Some(state);
            }
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        woken
    }

    /// Counts this worker into job `epoch`; false when that job has closed.
    fn enter(&self, epoch: u64) -> bool {
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |s| {
                (s & OPEN != 0 && s / EPOCH == epoch).then_some(s + 1)
            })
            .is_ok()
    }
}

/// The next task of a thread's share, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Share {
    next: AtomicUsize,
}

/// The round in which a task of [`Pool::run_rounds`] is next to be taken, on a cache line of its own.
#[repr(align(64))]
struct Claim(AtomicUsize);

/// Sets the flag when a panic leaves its scope.
struct BreakOnPanic<'a>(&'a AtomicBool);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Waits for another thread a little: at first without giving up the core.
fn pause(spins: &mut u32) {
    *spins += 1;
    if *spins < 2000 { std::hint::spin_loop() } else { thread::yield_now() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_at_any_thread_count() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for n in [0usize, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {n} tasks");
            }
        }
    }

    #[test]
    fn many_short_jobs_with_sleeps_between_lose_nothing() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..300 {
            pool.run(5, &|i| {
                sum.fetch_add(i + 1, Ordering::Relaxed);
            });
            if round % 50 == 0 {
                thread::sleep(Duration::from_micros(300));
            }
        }
        assert_eq!(sum.into_inner(), 300 * 15);
    }

    #[test]
    fn nested_runs_are_serial_and_concurrent_owners_wait() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..50 {
                        pool.run(4, &|_| {
                            pool.run(3, &|_| {
                                sum.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 50 * 12);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in [0, 9] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(10, &|i| assert!(i != bad, "task {bad}"));
            }));
            assert!(caught.is_err());
            let ran = AtomicUsize::new(0);
            pool.run(10, &|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.into_inner(), 10);
        }
    }

    #[test]
    fn rounds_follow_each_other_at_any_thread_count() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for (rounds, n) in [(0, 4), (5, 0), (7, 1), (200, 2), (200, 5), (3, 100)] {
                // Each task adds the sum of all counts of the round before, so that an early or a lost task shows.
                let counts: [Vec<AtomicUsize>; 2] =
                    std::array::from_fn(|_| (0..n).map(|_| AtomicUsize::new(1)).collect());
                pool.run_rounds(rounds, n, &|round, t| {
                    let before: usize = counts[round % 2].iter().map(|c| c.load(Ordering::Relaxed)).sum();
                    counts[(round + 1) % 2][t].store(before.wrapping_add(t) % 1009, Ordering::Relaxed);
                });
                let mut want = vec![1; n];
                for _ in 0..rounds {
                    let before: usize = want.iter().sum();
                    want = (0..n).map(|t| (before + t) % 1009).collect();
                }
                let got: Vec<usize> = counts[rounds % 2].iter().map(|c| c.load(Ordering::Relaxed)).collect();
                assert_eq!(got, want, "{threads} threads, {rounds} rounds of {n}");
            }
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run_rounds(10, 4, &|round, t| assert!((round, t) != (6, 2), "task"));
            }));
            assert!(caught.is_err(), "{threads} threads");
        }
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = Pool::new(2);
        let mut out = vec![0usize; 103];
        pool.run_chunks(&mut out, 10, &|i, chunk| chunk.iter_mut().for_each(|v| *v = i + 1));
        assert!(out.iter().enumerate().all(|(i, &v)| v == i / 10 + 1));
    }
}
