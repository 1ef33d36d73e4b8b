//! What must not change a result: parts of a batch, threads.

use crate::common::{assert_close_losses, assert_same_bits, bytes, digits, images, network, run, run_on, sgd};
use penjing_data::LoaderConfig;
use penjing_train::TrainConfig;

#[test]
fn accumulated_parts_follow_the_whole_batch() {
    let (model, data) = (network("simple-cnn", 4), digits(33));
    // The last batch has 1 row: parts without rows are left out.
    let whole = run(&model, &data, 16, &sgd(0.05, 3));
    assert_eq!(whole.losses.len(), 9);
    for (accumulate, ranks) in [(2, 1), (3, 1), (2, 2)] {
        let parts = run(&model, &data, 16, &TrainConfig { accumulate, ranks, ..sgd(0.05, 3) });
        assert_close_losses(&whole.losses, &parts.losses, 1e-5, &format!("{accumulate} parts on {ranks} ranks"));
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let cases = [
        ("simple-cnn", network("simple-cnn", 8), digits(40), sgd(0.05, 1)),
        ("resnet-8", network("resnet-8", 4), images(20), sgd(0.05, 1)),
        ("lstm", network("lstm", 16), bytes(20), sgd(0.5, 1)),
        ("gpt", network("gpt", 32), bytes(20), sgd(0.05, 1)),
    ];
    for (name, model, data, config) in cases {
        let one = run_on(&model, &data, &LoaderConfig::train(8, 5), &config, 1);
        for threads in [2, 3] {
            let more = run_on(&model, &data, &LoaderConfig::train(8, 5), &config, threads);
            assert_same_bits(&one, &more, &format!("{name} on {threads} threads"));
        }
    }
}
