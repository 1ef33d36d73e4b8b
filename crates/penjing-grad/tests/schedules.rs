//! Learning rates against PyTorch's schedulers.

#![allow(clippy::unwrap_used)]

use penjing_grad::{Anneal, GradError, Schedule, Shape};
use penjing_testkit::golden;

#[test]
fn rates_are_pytorchs() {
    let golden = golden("schedules").unwrap();
    let one_cycle = Shape::OneCycle { rise: 0.3, div: 25.0, final_div: 1e4, anneal: Anneal::Cosine };
    let line = Shape::OneCycle { rise: 0.25, div: 10.0, final_div: 100.0, anneal: Anneal::Linear };
    let warm = Schedule { shape: Shape::Cosine { end: 0.0 }, warmup_steps: 10, warmup_start: 0.1 };
    let cases = [
        ("one_cycle", 0.05, Schedule::of(one_cycle)),
        ("one_cycle_linear", 0.05, Schedule::of(line)),
        ("cosine", 0.1, Schedule::of(Shape::Cosine { end: 0.0 })),
        ("cosine_min", 0.1, Schedule::of(Shape::Cosine { end: 0.01 })),
        ("step", 0.1, Schedule::of(Shape::Step { every: 30, gamma: 0.1 })),
        ("warmup_cosine", 0.1, warm),
    ];
    for (name, base, schedule) in cases {
        schedule.check().unwrap();
        for (step, want) in golden.array(name).unwrap().to_f64s().into_iter().enumerate() {
            let have = schedule.rate(base, step as u64, 100);
            assert!((have - want).abs() <= 1e-9 * base, "{name} at {step}: {have}, PyTorch {want}");
        }
    }
}

#[test]
fn short_and_overlong_runs_stay_finite() {
    for shape in [
        Shape::Constant,
        Shape::Cosine { end: 0.1 },
        Shape::OneCycle { rise: 0.3, div: 25.0, final_div: 1e4, anneal: Anneal::Cosine },
        Shape::Step { every: 1, gamma: 0.5 },
    ] {
        for warmup_steps in [0, 2] {
            let schedule = Schedule { shape: shape.clone(), warmup_steps, warmup_start: 0.0 };
            for total in 0..4 {
                let rates = (0..9).map(|step| schedule.rate(1.0, step, total));
                assert!(rates.into_iter().all(|r| (0.0..=1.0).contains(&r)), "{schedule:?} over {total}");
            }
        }
    }
}

#[test]
fn configurations_are_strict_data() {
    let schedule: Schedule = serde_json::from_str(r#"{"shape": {"kind": "one-cycle"}, "warmup_steps": 5}"#).unwrap();
    let shape = Shape::OneCycle { rise: 0.3, div: 25.0, final_div: 1e4, anneal: Anneal::Cosine };
    assert_eq!(schedule, Schedule { shape, warmup_steps: 5, warmup_start: 0.0 });
    assert!(serde_json::from_str::<Schedule>(r#"{"shape": {"kind": "cosine", "min": 0}}"#).is_err());
    assert!(serde_json::from_str::<Schedule>(r#"{"warmup": 5}"#).is_err());
    for bad in [Shape::Step { every: 0, gamma: 0.1 }, Shape::Cosine { end: 2.0 }] {
        assert!(matches!(Schedule::of(bad).check(), Err(GradError::Config { .. })));
    }
}
