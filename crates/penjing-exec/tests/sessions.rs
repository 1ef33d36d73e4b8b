//! What a session leaves behind: workers that sleep between runs, and nothing once it is dropped.
//!
//! The system's own counts are read, so these tests are of Linux alone.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use penjing_exec::{ProgramId, Session, Target, lower};
use penjing_ir::{Bindings, Fact, Model, Op, Role, Unary};
use penjing_tensor::{DType, Rng, Tensor};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

/// Counts are of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// x: [64, 256] → relu(x · w): wide enough for several threads.
fn model() -> Model {
    let mut m = Model::default();
    let rng = Rng::new(1, "w", 0);
    let w = Tensor::from_vec(&[256, 256], (0..256 * 256).map(|i| rng.normal(i)).collect::<Vec<f32>>()).unwrap();
    let x = m.graph.add_input("x", Fact::new(DType::F32, [64usize, 256]));
    let w = m.add_state("w", Role::Weight, true, w);
    let product = m.graph.apply("product", Op::MatMul { trans_a: false, trans_b: false }, &[x, w]).unwrap();
    let y = m.graph.apply("relu", Op::Unary(Unary::Relu), &[product]).unwrap();
    m.graph.add_output("y", y);
    m
}

fn session(model: &Model, threads: usize) -> (Session, ProgramId) {
    let target = Target::host(threads);
    let mut session = Session::new(target).unwrap();
    let id = session.load(lower(model.clone(), &Bindings::default(), &target).unwrap()).unwrap();
    (session, id)
}

fn run(session: &mut Session, id: ProgramId) {
    let x = Tensor::zeros(DType::F32, &[64, 256]).unwrap();
    session.run(id, &[("x", &x)]).unwrap();
}

/// Folders under /proc of this process's pool workers.
fn workers() -> Vec<PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap().path());
    let named = |t: &PathBuf| fs::read_to_string(t.join("comm")).is_ok_and(|name| name.starts_with("penjing-"));
    tasks.filter(named).collect()
}

/// Nanoseconds that a thread has been on a processor (proc(5), `schedstat`).
fn on_processor(task: &Path) -> u64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn asleep(task: &Path) -> bool {
    let stat = fs::read_to_string(task.join("stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn an_idle_session_uses_no_processor() {
    let _alone = ALONE.lock().unwrap();
    let (mut session, id) = session(&model(), 4);
    (0..20).for_each(|_| run(&mut session, id));
    let patience = Instant::now();
    // On a busy machine a worker may take its name late.
    let mut found = workers();
    while found.len() < 3 && patience.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
        found = workers();
    }
    let workers = found;
    assert_eq!(workers.len(), 3);
    while !workers.iter().all(|w| asleep(w)) {
        assert!(patience.elapsed() < Duration::from_secs(10), "a worker does not go to sleep");
        std::thread::yield_now();
    }
    let before: Vec<u64> = workers.iter().map(|w| on_processor(w)).collect();
    // This thread computes meanwhile; the workers have nothing to do.
    let (busy, mut rounds) = (Instant::now(), 0u64);
    while busy.elapsed() < Duration::from_millis(50) {
        rounds += 1;
    }
    assert_eq!(workers.iter().map(|w| on_processor(w)).collect::<Vec<u64>>(), before, "after {rounds} rounds");
    run(&mut session, id);
}

#[test]
fn a_thousand_sessions_leave_nothing() {
    let _alone = ALONE.lock().unwrap();
    let model = model();
    let cycle = |n: usize| {
        for _ in 0..n {
            let (mut session, id) = session(&model, 3);
            run(&mut session, id);
        }
    };
    cycle(200);
    let before = resident_bytes();
    cycle(800);
    assert_eq!(workers().len(), 0);
    let grown = resident_bytes().saturating_sub(before);
    // The weight alone is 256 KiB: one kept in ten sessions would be 20 MiB.
    assert!(grown < 8 << 20, "{grown} bytes more after 800 sessions");
}
