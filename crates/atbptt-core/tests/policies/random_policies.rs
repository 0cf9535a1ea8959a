//! The randomised baselines: their lengths have the distribution they should, and ARTBP's factors compensate its cuts.

#![allow(clippy::unwrap_used)] // A failure here is a failed test.

use atbptt_core::EstimateError;
use atbptt_core::policy::{ArtbpConfig, NextWindow, RandomLengthConfig, TruncationPolicy};

/// Mean and variance of a million numbers from a sample of `n` are known to a few standard errors.
fn draws(policy: &mut dyn TruncationPolicy, n: usize) -> Vec<f64> {
    (0..n).map(|_| policy.next_window().k as f64).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Base 70, spread 5: 0.95 of the lengths lie near 70, the rest near 35; the fraction is cut off, which costs half a step.
#[test]
fn random_lengths_are_a_mixture_of_two_normals() {
    let mut policy = RandomLengthConfig::new(70).init().unwrap();
    let lengths = draws(&mut policy, 40_000);
    let (long, short): (Vec<f64>, Vec<f64>) = lengths.iter().partition(|k| **k > 52.0);
    let share = long.len() as f64 / lengths.len() as f64;
    // Five standard errors: √(0.95 · 0.05 / 40,000) = 0.0011; 5/√38,000 = 0.026; 5/√2,000 = 0.11.
    assert!((share - 0.95).abs() < 0.0055, "{share}");
    assert!((mean(&long) - 69.5).abs() < 0.13, "{}", mean(&long));
    assert!((mean(&short) - 34.5).abs() < 0.6, "{}", mean(&short));
    let variance = mean(&long.iter().map(|k| (k - 69.5).powi(2)).collect::<Vec<_>>());
    // 25, and 1/12 for the cut.
    assert!((variance - 25.08).abs() < 1.0, "{variance}");
    assert_eq!((policy.k(), policy.needs_chunks()), (70, false));
    let window = policy.next_window();
    assert_eq!(window.step_scale, window.k as f64 / 70.0);
    assert_eq!((window.typical_k, window.compensation), (70, vec![]));
}

#[test]
fn without_spread_there_are_two_lengths() {
    let mut policy = RandomLengthConfig::new(9).with_spread(0.0).init().unwrap();
    let lengths = draws(&mut policy, 400);
    // Half of 9 is 4.5, cut to 4, but no length is below 5.
    assert!(lengths.iter().all(|k| [5.0, 9.0].contains(k)));
    assert!(lengths.contains(&5.0) && policy.k_max() == 9);
}

/// Lengths have mean L₀ with either law of cuts (here cut off at 40 L₀, which loses less than the tolerance).
#[test]
fn artbp_lengths_have_the_mean_that_was_asked_for() {
    for alpha in [None, Some(6.0)] {
        let config = ArtbpConfig::new(10).with_alpha(alpha).with_longest(400);
        let mut policy = config.init().unwrap();
        let lengths = draws(&mut policy, 40_000);
        // Standard deviation at most 13: five standard errors are 0.33.
        assert!(
            (mean(&lengths) - 10.0).abs() < 0.33,
            "{alpha:?}: {}",
            mean(&lengths)
        );
    }
}

/// The chance that a path over n boundaries survives, times its factors, is one: the expectation keeps every path.
#[test]
fn artbp_factors_compensate_the_cuts() {
    for alpha in [None, Some(3.0)] {
        let config = ArtbpConfig::new(3).with_alpha(alpha).with_longest(50);
        let mut policy = config.init().unwrap();
        let factors = loop {
            let window = policy.next_window();
            assert_eq!(
                (window.typical_k, window.compensation.len()),
                (3, window.k - 1)
            );
            if window.k >= 8 {
                break window.compensation;
            }
        };
        let mut weight = 1.0;
        for (i, factor) in factors.iter().enumerate() {
            weight *= factor * (1.0 - config.cut_probability(i + 1));
            assert!((weight - 1.0f64).abs() < 1e-12);
        }
        assert!(policy.needs_chunks());
    }
    // L₀ = 1 cuts after every step: nothing to compensate.
    let mut every = ArtbpConfig::new(1).with_alpha(None).init().unwrap();
    assert_eq!(every.next_window(), NextWindow::new(1));
}

#[test]
fn seeds_make_other_draws_and_the_same_seed_the_same() {
    let lengths = |seed| {
        draws(
            &mut ArtbpConfig::new(20).with_seed(seed).init().unwrap(),
            50,
        )
    };
    assert_eq!(lengths(1), lengths(1));
    assert_ne!(lengths(1), lengths(2));
    let lengths = |seed| {
        draws(
            &mut RandomLengthConfig::new(20).with_seed(seed).init().unwrap(),
            50,
        )
    };
    assert_eq!(lengths(1), lengths(1));
    assert_ne!(lengths(1), lengths(2));
}

#[test]
fn settings_out_of_range_are_refused() {
    let lengths = |error| assert!(matches!(error, EstimateError::Lengths { .. }), "{error}");
    lengths(RandomLengthConfig::new(0).init().unwrap_err());
    lengths(ArtbpConfig::new(0).init().unwrap_err());
    lengths(ArtbpConfig::new(10).with_longest(9).init().unwrap_err());
    let ranges = [
        RandomLengthConfig::new(9)
            .with_spread(f64::NAN)
            .init()
            .err(),
        RandomLengthConfig::new(9).with_whole(1.1).init().err(),
        RandomLengthConfig::new(9).with_whole(f64::NAN).init().err(),
        ArtbpConfig::new(9).with_alpha(Some(2.0)).init().err(),
        ArtbpConfig::new(9).with_alpha(Some(f64::NAN)).init().err(),
    ];
    for error in ranges {
        assert!(
            matches!(error, Some(EstimateError::OutOfRange { .. })),
            "{error:?}"
        );
    }
}
