//! Laws that hold for all norms and settings.

use super::*;

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
        Just(DecayFit::LeastSquaresOfAllLags),
        Just(DecayFit::LeastSquares),
        Just(DecayFit::Max),
        (0.0f64..=1.0).prop_map(DecayFit::Quantile),
    ]
}

fn any_estimator() -> impl Strategy<Value = BiasEstimator> {
    let averaging = prop_oneof![Just(Averaging::MeanThenLog), Just(Averaging::LogThenMean)];
    let tau = prop_oneof![Just(Tau::Lepski), (0.0f64..1.0).prop_map(Tau::Fraction)];
    (any_fit(), tau, averaging, any::<bool>(), any::<bool>()).prop_map(
        |(fit, tau, averaging, tail_from_tau, fit_lag_zero)| BiasEstimator {
            tau,
            tail_from_tau,
            fit,
            fit_lag_zero,
            averaging,
            gradient_size: GradientSize::SumOfNorms,
        },
    )
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
        assert!((0.0..=1.0).contains(&estimate.tail_share(k)));
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
        quantile in any_float(), delta in any_float(), size in 0usize..SIZES.len(),
    ) {
        let mut estimator = lag.map_or(estimator, |lag| estimator.with_tau(Tau::Lag(lag)));
        estimator = estimator.with_gradient_size(SIZES[size]);
        let norms = LagNorms::new(rows).map(|n| {
            let squares = sizes.iter().map(|x| x * x).collect();
            let n = n.clone().with_mean_sum_norms(sizes).unwrap_or(n);
            n.clone().with_sum_squares(squares).unwrap_or(n)
        });
        if let Ok(norms) = norms {
            if let Ok(estimate) = estimator.estimate(&norms) {
                exercise(&estimate, delta);
            }
            if let Ok(estimate) = estimator.with_fit(DecayFit::Quantile(quantile)).estimate(&norms) {
                exercise(&estimate, delta);
            }
            let _ = k_interval(&estimator, &norms, delta, 0.95, 50);
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
        if let Ok(interval) = k_interval(&estimator, &norms, delta, 0.95, 50) {
            prop_assert!(interval.low >= 1.0 && interval.high <= 50.0);
        }
    }
}
