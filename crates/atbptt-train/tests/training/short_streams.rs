//! Probes of streams that have few windows: no two read the same.

#![allow(clippy::unwrap_used)] // A failure here is a failed test.

use std::sync::{Arc, Mutex};

use atbptt_core::{DirectStatistics, Scheme};
use atbptt_train::data::Split;
use atbptt_train::{
    Checkpoint, ProbeConfig, TokenSource, TrainError, measured_bias, probe_direct_distinct,
};

use super::devices::{Setup, Snapshots, trained};
use super::setup::model;
use crate::common::{corpus, device, turn};

const SCHEME: Scheme = Scheme::Strided { losses: 8 };

/// Windows of 5 + 20 + 7 steps in four sequences of `steps` steps.
fn probed(steps: usize, dropout: f64, drawn: (usize, u64)) -> Result<DirectStatistics, TrainError> {
    let corpus = corpus(4 * steps + 4, 101);
    let source = TokenSource::training(corpus.tokens(Split::Train), 4).unwrap();
    let config = ProbeConfig::new(20).with_burn_in(5);
    let model = model(&corpus, dropout, 1);
    probe_direct_distinct(&model, &source, config, SCHEME, drawn, &device())
}

/// 400 steps are 47 windows that begin eight steps apart, with none to spare: in whatever order they are read, all together have one
/// mean gradient. Twenty of them do not lie further from it than they know.
#[test]
fn probes_that_have_read_every_window_agree() {
    let _turn = turn();
    let [first, second] = [1, 2].map(|seed| probed(400, 0.0, (1000, seed)).unwrap());
    for all in [&first, &second] {
        assert_eq!((all.probes(), all.population()), (47, Some(47)));
    }
    let close = |a: f64, b: f64, tolerance: f64| (a / b - 1.0).abs() < tolerance;
    assert!(close(
        first.gradient_square(),
        second.gradient_square(),
        1e-4
    ));
    let biases = |all: &DirectStatistics| all.bias_squares()[..4].to_vec();
    for (a, b) in biases(&first).into_iter().zip(biases(&second)) {
        assert!(close(a, b, 1e-3), "{a} {b}");
    }
    // The orders differ.
    assert_ne!(first.in_sets_of(5).unwrap(), second.in_sets_of(5).unwrap());
    let some = probed(400, 0.0, (20, 3)).unwrap();
    assert_eq!((some.probes(), some.population()), (20, Some(47)));
    let estimate = some.estimate(SCHEME).unwrap();
    let error = estimate.gradient_square_error().unwrap();
    let off = (some.gradient_square() - first.gradient_square()).abs();
    assert!(error > 0.0 && off < 4.0 * error, "{off} {error}");
}

/// The truth over many independent windows, begun at any step, is what all different ones have.
#[test]
fn all_different_windows_have_the_bias_of_many_independent_ones() {
    let _turn = turn();
    let corpus = corpus(1604, 101);
    let source = TokenSource::training(corpus.tokens(Split::Train), 4).unwrap();
    let config = ProbeConfig::new(20).with_burn_in(5);
    let model = model(&corpus, 0.0, 1);
    let seeds: Vec<u64> = (0..600).collect();
    let truth = measured_bias(&model, &source, config, SCHEME, &[1, 3], &seeds, &device()).unwrap();
    let all = probed(400, 0.0, (1000, 1))
        .unwrap()
        .estimate(SCHEME)
        .unwrap();
    for k in [1, 3] {
        let ((truth, error), (bias, _)) =
            (truth.as_measured(k).unwrap(), all.as_measured(k).unwrap());
        assert!(
            (bias - truth).abs() < 4.0 * error + 0.02 * truth,
            "{bias}, {truth} ± {error}"
        );
    }
}

/// Dropout makes two probes of the same window differ, four windows leave no error to speak of, and of more than a thousand hardly any is
/// read twice.
#[test]
fn probes_are_independent_with_dropout_and_where_windows_are_few_or_many() {
    let _turn = turn();
    for (steps, dropout) in [(400, 0.2), (56, 0.0), (8100, 0.0)] {
        let independent = probed(steps, dropout, (6, 1)).unwrap();
        let got = (independent.probes(), independent.population());
        assert_eq!(got, (6, None), "{steps} steps");
    }
    // Five windows.
    assert_eq!(probed(64, 0.0, (6, 1)).unwrap().population(), Some(5));
    assert!(matches!(
        probed(31, 0.0, (6, 1)),
        Err(TrainError::ProbeTooLong { .. })
    ));
}

/// Seven sequences of 22 windows each, K decided every seven updates: the same windows are read by one device and by two, and by a run
/// that goes on where another was killed.
#[test]
fn different_windows_are_the_same_on_two_devices_and_after_a_restart() {
    let _turn = turn();
    let setup = |devices| {
        let mut setup = Setup::new(devices);
        setup.dropout = 0.0;
        setup
    };
    let one = trained(&setup(1));
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let observer = Arc::new(Snapshots {
        folder: folder.path().to_owned(),
        into: copies.path().to_owned(),
        at: vec![13],
        windows: Mutex::new(0),
    });
    let two = setup(2).watched(folder.path(), None, Some(observer));
    let two = two.unwrap();
    assert!(one.ks().len() > 4);
    assert_eq!(two.ks(), one.ks());
    assert!(two.distance(&one) < 1e-5, "{:e}", two.distance(&one));
    let killed = copies.path().join("13");
    let saved = Checkpoint::newest(&killed).unwrap();
    let resumed = setup(2).run(&killed, Some(saved));
    assert_eq!((resumed.ks(), resumed.distance(&two)), (two.ks(), 0.0));
    assert_eq!(resumed.reports, two.reports);
}
