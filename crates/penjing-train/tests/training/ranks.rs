//! Data parallelism: the same mathematics as one rank, the same bits in every run.

use crate::common::{adamw, assert_close_losses, assert_same_bits, bytes, digits, images, network, run, sgd, state};
use penjing_train::TrainConfig;

#[test]
fn two_ranks_follow_one() {
    let (model, data) = (network("simple-cnn", 4), digits(120));
    let two = TrainConfig { ranks: 2, ..sgd(0.05, 4) };
    // 20 updates; every fifth batch has 8 rows.
    let one = run(&model, &data, 28, &sgd(0.05, 4));
    let first = run(&model, &data, 28, &two);
    assert_eq!(one.losses.len(), 20);
    assert_close_losses(&one.losses, &first.losses, 1e-5, "1 and 2 ranks");
    assert!(one.losses[19] < one.losses[0]);
    assert_same_bits(&first, &run(&model, &data, 28, &two), "2 ranks twice");
}

#[test]
fn the_timeline_shows_ranks_side_by_side() {
    let trained = run(&network("simple-cnn", 4), &digits(64), 16, &TrainConfig { ranks: 2, ..sgd(0.05, 1) });
    let spans = trained.timeline.spans();
    let steps = |rank: usize| spans.iter().filter(move |s| s.name == "step" && s.tid == rank).collect::<Vec<_>>();
    let (a, b) = (steps(0), steps(1));
    assert_eq!((a.len(), b.len()), (4, 4));
    // A step ends in a sum over both ranks, so the n-th steps must overlap.
    for (a, b) in a.iter().zip(&b) {
        assert!(a.ts.max(b.ts) < (a.ts + a.dur).min(b.ts + b.dur), "{a:?} {b:?}");
    }
    for rank in 0..2 {
        let inside =
            |s: &&penjing_parallel::Span| steps(rank).iter().any(|o| o.ts <= s.ts && s.ts + s.dur <= o.ts + o.dur);
        let sums: Vec<_> = spans.iter().filter(|s| s.tid == rank && s.name.starts_with("bucket.")).collect();
        assert!(sums.len() >= 8 && sums.iter().all(inside), "gradients and loss in every step of rank {rank}");
    }
}

/// 3 ranks on a last batch of 1 row: two of them have nothing to do but sum.
#[test]
fn ranks_without_rows_take_part() {
    let cases = [
        ("simple-cnn", network("simple-cnn", 4), digits(9), sgd(0.05, 2)),
        ("lstm", network("lstm", 16), bytes(9), sgd(0.5, 2)),
        ("gpt", network("gpt", 32), bytes(9), adamw(1e-3, 2)),
    ];
    for (name, model, data, config) in cases {
        let one = run(&model, &data, 4, &config);
        let three = run(&model, &data, 4, &TrainConfig { ranks: 3, ..config });
        assert_eq!(one.losses.len(), 6);
        assert_close_losses(&one.losses, &three.losses, 1e-5, name);
    }
}

/// Running means are means over all rows, however the rows lie over ranks and parts; of a single row the variances too.
#[test]
fn running_statistics_weigh_every_row_alike() {
    let model = network("resnet-8", 4);
    for (rows, ranks, accumulate) in [(5, 2, 1), (1, 3, 1), (1, 1, 2), (1, 2, 2)] {
        let what = format!("{rows} rows on {ranks} ranks in {accumulate} parts");
        let one = run(&model, &images(rows), 8, &sgd(0.05, 1)).model;
        let many = run(&model, &images(rows), 8, &TrainConfig { ranks, accumulate, ..sgd(0.05, 1) }).model;
        for name in ["bn1.running_mean", "bn1.running_var"] {
            if name.ends_with("var") && rows > 1 {
                continue;
            }
            for (a, b) in state(&one, name).to_f64s().iter().zip(state(&many, name).to_f64s()) {
                assert!(*a != 0.0 && (a - b).abs() < 1e-6, "{what}: `{name}` {a} and {b}");
            }
        }
        let finite = many.states.iter().all(|s| s.init.to_f64s().iter().all(|v| v.is_finite()));
        assert!(finite, "{what}");
    }
}
