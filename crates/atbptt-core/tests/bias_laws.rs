//! Laws of the bias curve, and values computed by hand or by direct sums.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used)]

use atbptt_core::{
    Averaging, BiasEstimate, BiasEstimator, DecayFit, EstimateError, FitLags, GradientSize,
    LagNorms, Tau, k_interval, tail_bound,
};
use proptest::prelude::*;

const FITS: [DecayFit; 4] = [
    DecayFit::LeastSquares(FitLags::All),
    DecayFit::LeastSquares(FitLags::Tail),
    DecayFit::Max,
    DecayFit::Quantile(0.95),
];

fn single(phi: &[f64]) -> LagNorms {
    LagNorms::new(phi.iter().map(|x| vec![*x]).collect()).unwrap()
}

fn geometric(beta: f64, window: i32) -> LagNorms {
    single(&(0..=window).map(|k| beta.powi(k)).collect::<Vec<_>>())
}

/// phi = 0.5^k, tau = 3, k = 5: sum over j >= 5 of 0.5^j = 0.5^4. Every value is exact in binary.
#[test]
fn tail_matches_closed_form() {
    assert_eq!(tail_bound(0.125, 0.5, 3, 5), 0.0625);
    assert_eq!(tail_bound(0.125, 0.0, 3, 3), 0.125);
    for (phi, beta, k) in [
        (1.0, 1.0, 5),
        (1.0, -0.1, 5),
        (1.0, f64::NAN, 5),
        (f64::NAN, 0.5, 5),
        (1.0, 0.5, 2),
    ] {
        assert_eq!(
            tail_bound(phi, beta, 3, k),
            f64::INFINITY,
            "{phi} {beta} {k}"
        );
    }
}

/// phi = 4, 2, 1, 1/2, …: E(k) = 8 · 0.5^k at every k, inside the window, at tau and far beyond.
#[test]
fn geometric_profile_has_the_geometric_sum_as_bias() {
    let norms = single(&(0..=20).map(|k| 4.0 * 0.5f64.powi(k)).collect::<Vec<_>>());
    for fit in FITS {
        let estimate = BiasEstimator::new().with_fit(fit).estimate(&norms).unwrap();
        assert_eq!(estimate.tau(), 18);
        for k in [0, 1, 5, 17, 18, 19, 20, 21, 100] {
            let expected = 8.0 * 0.5f64.powi(k as i32);
            let got = estimate.absolute_bias(k);
            assert!(
                (got / expected - 1.0).abs() < 1e-12,
                "{fit:?} {k}: {got} {expected}"
            );
        }
        // The bracket is largest at j = 21: G = 8 (1 − 0.5^21), E = 8 · 0.5^21.
        let scale = 8.0 * (1.0 - 2.0 * 0.5f64.powi(21));
        assert!((estimate.relative_bias(3) - 1.0 / scale).abs() < 1e-12);
        assert_eq!(estimate.smallest_k(0.1), Some(4));
        let crossing = estimate.crossing(0.1).unwrap();
        assert!((crossing - 10f64.log2()).abs() < 1e-4, "{crossing}");
    }
}

#[test]
fn no_decay_leaves_the_bias_unbounded() {
    let estimate = BiasEstimator::new().estimate(&geometric(1.0, 20)).unwrap();
    assert!(!estimate.is_bounded());
    assert_eq!(estimate.absolute_bias(300), f64::INFINITY);
    assert_eq!(estimate.relative_bias(0), f64::INFINITY);
    assert_eq!(
        (estimate.smallest_k(1.0), estimate.crossing(1.0)),
        (None, None)
    );
}

/// The one exception to a falling curve: from τ on a vanished tail reports the threshold, log −50, though the head just
/// below it may be smaller still. It never decides K: the relative bias there is below e^-50 of the profile's size.
#[test]
fn vanished_tail_without_a_slope_reports_the_threshold() {
    let phi = [1.0, 0.5, 1e-30, 1e-30, 1e-30];
    let estimator = BiasEstimator::new()
        .with_tau(Tau::Lag(3))
        .with_fit(DecayFit::LeastSquares(FitLags::Tail));
    let estimate = estimator.estimate(&single(&phi)).unwrap();
    assert_eq!(
        (estimate.log_beta(), estimate.log_absolute_bias(3)),
        (0.0, -50.0)
    );
    assert!((estimate.absolute_bias(2) / 1e-30 - 1.0).abs() < 1e-9);
    assert_eq!(estimate.smallest_k(0.1), Some(2));
}

#[test]
fn refuses_what_has_no_answer() {
    let estimator = BiasEstimator::new();
    let short = estimator.estimate(&single(&[1.0])).unwrap_err();
    assert_eq!(short, EstimateError::TooFewLags { needed: 2, got: 1 });
    assert!(matches!(
        estimator.estimate(&single(&[0.0; 9])),
        Err(EstimateError::NoGradient { .. })
    ));
    let norms = geometric(0.5, 10);
    let late = estimator
        .with_tau(Tau::Lag(10))
        .estimate(&norms)
        .unwrap_err();
    assert_eq!(
        late,
        EstimateError::TauOutsideWindow {
            tau: 10,
            window: 10
        }
    );
    assert!(estimator.with_tau(Tau::Lag(9)).estimate(&norms).is_ok());
    for fraction in [-0.1, 1.0, f64::NAN] {
        assert!(
            estimator
                .with_tau(Tau::Fraction(fraction))
                .estimate(&norms)
                .is_err()
        );
    }
    let sums = estimator
        .with_gradient_size(GradientSize::NormOfMeanSum)
        .estimate(&norms)
        .unwrap_err();
    assert_eq!(sums, EstimateError::MeanSumsMissing);
    // The shortest windows still have a tail.
    assert!(estimator.estimate(&geometric(0.5, 1)).is_ok());
}

/// Direct sums in f64, no logs: E(k), and the bracket over the given sizes.
#[test]
fn norm_of_mean_sum_agrees_with_direct_sums() {
    let window = 30;
    let norms = geometric(0.8, window);
    let phi: Vec<f64> = norms.profile(Averaging::MeanThenLog).phi();
    // Gradients that partly cancel: sizes well below the sum of norms, and not monotone.
    let sizes: Vec<f64> = (0..=phi.len())
        .map(|j| phi[..j].iter().sum::<f64>() * (0.6 + 0.2 * (j as f64).cos()))
        .collect();
    let norms = norms.with_mean_sum_norms(sizes.clone()).unwrap();
    let estimator = BiasEstimator::new().with_gradient_size(GradientSize::NormOfMeanSum);
    let estimate = estimator.estimate(&norms).unwrap();
    let (tau, beta) = (estimate.tau(), estimate.beta());
    assert!((beta - 0.8).abs() < 1e-12);
    let bias = |k: usize| match k {
        k if k < tau => phi[k..tau].iter().sum::<f64>() + phi[tau] / (1.0 - beta),
        k => phi[tau] * beta.powi((k - tau) as i32) / (1.0 - beta),
    };
    let scale = (0..sizes.len())
        .map(|j| sizes[j] - bias(j))
        .fold(0.0, f64::max);
    for k in 0..50 {
        let expected = bias(k) / scale;
        assert!(
            (estimate.relative_bias(k) / expected - 1.0).abs() < 1e-11,
            "{k}"
        );
    }
    let sum = BiasEstimator::new().estimate(&norms).unwrap();
    assert!(
        sum.smallest_k(0.1) < estimate.smallest_k(0.1),
        "the lower bound asks for more"
    );
}

/// Lag 0 left out of the size, and of nothing else: G(j) = Σ_{1≤k<j} φ_k, and √(‖Σ_{k<j}‖² − ‖g_0‖²).
#[test]
fn state_sizes_leave_lag_zero_out() {
    let window = 20;
    let norms = geometric(0.7, window);
    let phi: Vec<f64> = norms.profile(Averaging::MeanThenLog).phi();
    let sizes: Vec<f64> = (0..=phi.len())
        .map(|j| match j {
            0 => 0.0,
            _ => 0.3f64.hypot(0.8 * phi[1..j].iter().sum::<f64>()),
        })
        .collect();
    let norms = norms.with_mean_sum_norms(sizes).unwrap();
    let estimate = |size| {
        BiasEstimator::new()
            .with_gradient_size(size)
            .estimate(&norms)
            .unwrap()
    };
    let all = estimate(GradientSize::SumOfNorms);
    let states = |j: usize| phi[1..j.max(1)].iter().sum::<f64>();
    for (size, share) in [
        (GradientSize::SumOfStateNorms, 1.0),
        (GradientSize::NormOfMeanStateSum, 0.8),
    ] {
        let got = estimate(size);
        let scale = (1..=phi.len())
            .map(|j| share * states(j) - all.absolute_bias(j))
            .fold(0.0, f64::max);
        for k in 1..=window as usize {
            assert_eq!(got.absolute_bias(k), all.absolute_bias(k));
            let expected = all.absolute_bias(k) / scale;
            assert!(
                (got.relative_bias(k) / expected - 1.0).abs() < 1e-11,
                "{size:?} {k}"
            );
        }
        assert!(got.smallest_k(0.1) > all.smallest_k(0.1));
    }
    let missing = BiasEstimator::new()
        .with_gradient_size(GradientSize::NormOfMeanStateSum)
        .estimate(&geometric(0.7, window));
    assert_eq!(missing.unwrap_err(), EstimateError::MeanSumsMissing);
}

#[test]
fn sizes_that_never_exceed_the_bias_leave_the_relative_bias_unbounded() {
    let norms = geometric(0.8, 10)
        .with_mean_sum_norms(vec![0.0; 12])
        .unwrap();
    let estimator = BiasEstimator::new().with_gradient_size(GradientSize::NormOfMeanSum);
    let estimate = estimator.estimate(&norms).unwrap();
    assert!(estimate.is_bounded());
    assert_eq!(
        (estimate.relative_bias(3), estimate.smallest_k(1.0)),
        (f64::INFINITY, None)
    );
}

/// Decaying profiles with noise, as rows of `sequences` norms.
fn noisy() -> impl Strategy<Value = LagNorms> {
    (4usize..60, 1usize..5, -0.5f64..0.05).prop_flat_map(|(lags, sequences, slope)| {
        proptest::collection::vec(-1.0f64..1.0, lags * sequences).prop_map(move |noise| {
            let value = |(i, x): (usize, &f64)| (slope * (i / sequences) as f64 + x).exp();
            let values: Vec<f64> = noise.iter().enumerate().map(value).collect();
            LagNorms::from_flat(lags, sequences, &values).unwrap()
        })
    })
}

fn any_fit() -> impl Strategy<Value = DecayFit> {
    prop_oneof![
        Just(DecayFit::LeastSquares(FitLags::All)),
        Just(DecayFit::LeastSquares(FitLags::Tail)),
        Just(DecayFit::Max),
        (0.0f64..=1.0).prop_map(DecayFit::Quantile),
    ]
}

fn any_estimator() -> impl Strategy<Value = BiasEstimator> {
    let averaging = prop_oneof![Just(Averaging::MeanThenLog), Just(Averaging::LogThenMean)];
    (any_fit(), 0.0f64..1.0, averaging).prop_map(|(fit, tau, averaging)| {
        BiasEstimator::new()
            .with_fit(fit)
            .with_tau(Tau::Fraction(tau))
            .with_averaging(averaging)
    })
}

fn any_float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        proptest::num::f64::POSITIVE
            | proptest::num::f64::SUBNORMAL
            | proptest::num::f64::NORMAL
            | proptest::num::f64::ZERO,
        (0.0f64..2.0),
        Just(0.0),
        Just(f64::MAX),
    ]
}

fn exercise(estimate: &BiasEstimate, delta: f64) {
    for k in [
        0,
        1,
        2,
        estimate.tau(),
        estimate.window() + 1,
        10_000,
        usize::MAX,
    ] {
        assert!(!estimate.log_absolute_bias(k).is_nan());
        assert!(!estimate.log_relative_bias(k).is_nan());
    }
    let found = estimate.smallest_k(delta);
    assert_eq!(estimate.crossing(delta).is_some(), found.is_some());
    let stored = serde_json::to_string(estimate).unwrap();
    assert_eq!(
        serde_json::from_str::<BiasEstimate>(&stored).unwrap(),
        *estimate
    );
}

proptest! {
    #[test]
    fn prop_k_never_grows_with_delta(norms in noisy(), estimator in any_estimator(), a in 0.001f64..1.0, b in 0.001f64..1.0) {
        let estimate = estimator.estimate(&norms).unwrap();
        let (small, large) = (a.min(b), a.max(b));
        let k = |delta| estimate.smallest_k(delta).unwrap_or(usize::MAX);
        prop_assert!(k(large) <= k(small));
        if let (Some(k), Some(crossing)) = (estimate.smallest_k(small), estimate.crossing(small)) {
            prop_assert!(crossing <= k as f64 && crossing >= 1f64.max(k as f64 - 1.0));
        }
    }

    #[test]
    fn prop_absolute_bias_never_grows_with_k(norms in noisy(), estimator in any_estimator()) {
        let estimate = estimator.estimate(&norms).unwrap();
        // The step at tau compares two roundings of the same sum: a few ulp of slack.
        for k in 0..2 * norms.lags() {
            let (here, next) = (estimate.log_absolute_bias(k), estimate.log_absolute_bias(k + 1));
            prop_assert!(next <= here || next - here < 1e-13, "{k}: {here} {next}");
        }
    }

    #[test]
    fn prop_geometric_profile_gives_back_beta(beta in 0.3f64..0.99, window in 10i32..40, scale in 0.1f64..10.0) {
        let norms = single(&(0..=window).map(|k| scale * beta.powi(k)).collect::<Vec<_>>());
        for fit in FITS {
            let estimate = BiasEstimator::new().with_fit(fit).estimate(&norms).unwrap();
            prop_assert!((estimate.beta() - beta).abs() < 1e-12, "{fit:?} {} {beta}", estimate.beta());
        }
    }

    #[test]
    fn prop_relative_bias_does_not_know_the_scale(norms in noisy(), estimator in any_estimator(), log_scale in -10.0f64..10.0) {
        let scale = log_scale.exp();
        let scaled = (0..norms.lags()).map(|k| norms.row(k).iter().map(|x| x * scale).collect()).collect();
        let (a, b) = (estimator.estimate(&norms).unwrap(), estimator.estimate(&LagNorms::new(scaled).unwrap()).unwrap());
        // Near log beta = 0 the tail magnifies rounding without bound.
        prop_assume!(a.log_beta().abs() > 1e-6);
        for k in 0..=norms.lags() {
            let (a, b) = (a.log_relative_bias(k), b.log_relative_bias(k));
            prop_assert!(a == b || (a - b).abs() < 1e-6, "{k}: {a} {b}");
        }
    }

    #[test]
    fn prop_arbitrary_floats_never_panic(
        rows in proptest::collection::vec(proptest::collection::vec(any_float(), 0..4), 0..12),
        sizes in proptest::collection::vec(any_float(), 0..12),
        estimator in any_estimator(), lag in proptest::option::of(0usize..20),
        quantile in any_float(), delta in any_float(), size in 0usize..4,
    ) {
        let mut estimator = lag.map_or(estimator, |lag| estimator.with_tau(Tau::Lag(lag)));
        estimator = estimator.with_gradient_size([
            GradientSize::SumOfNorms,
            GradientSize::SumOfStateNorms,
            GradientSize::NormOfMeanSum,
            GradientSize::NormOfMeanStateSum,
        ][size]);
        let norms = LagNorms::new(rows).map(|n| n.clone().with_mean_sum_norms(sizes).unwrap_or(n));
        if let Ok(norms) = norms {
            if let Ok(estimate) = estimator.estimate(&norms) {
                exercise(&estimate, delta);
            }
            if let Ok(estimate) = estimator.with_fit(DecayFit::Quantile(quantile)).estimate(&norms) {
                exercise(&estimate, delta);
            }
            let _ = k_interval(&estimator, &norms, delta, 1.96, 50);
        }
    }

    #[test]
    fn prop_valid_extreme_norms_never_panic(
        values in proptest::collection::vec(any_float().prop_map(|x| if x.is_finite() { x.abs() } else { 0.0 }), 6..40),
        estimator in any_estimator(), delta in 0.001f64..1.0,
    ) {
        let norms = LagNorms::from_flat(values.len() / 2, 2, &values[..values.len() / 2 * 2]).unwrap();
        if let Ok(estimate) = estimator.estimate(&norms) {
            exercise(&estimate, delta);
        }
        if let Ok(interval) = k_interval(&estimator, &norms, delta, 1.96, 50) {
            prop_assert!(interval.low >= 1.0 && interval.high <= 50.0);
        }
    }
}
