//! Probes of streams that have few windows: no two read the same.

#![allow(clippy::unwrap_used)] // A failure here is a failed test.

use atbptt_core::{DirectStatistics, Scheme};
use atbptt_train::data::Split;
use atbptt_train::{ProbeConfig, TokenSource, TrainError, measured_bias, probe_direct_distinct};

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
