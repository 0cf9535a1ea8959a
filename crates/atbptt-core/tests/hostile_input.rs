//! Data and settings that no measurement gives: each class has its error, and whole configurations are accepted or refused,
//! never a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use atbptt_core::convergence::gradient_norm_bound;
use atbptt_core::lag_norms::lag_norms;
use atbptt_core::policy::PolicyState;
use atbptt_core::{
    AdaptiveConfig, ArtbpConfig, BiasEstimate, BiasEstimator, DecayFit, EstimateError, FixedK,
    LagGradients, LagNorms, LagProfile, Monitor, Position, RandomLengthConfig, RowOrder, Tau,
    Truncation, TruncationPolicy, UpdateEvery, tail_bound,
};
use burn::tensor::{DType, Device, Tensor};
use proptest::prelude::*;

#[test]
fn gradients_without_entries_or_with_weights_that_do_not_fit_are_refused() {
    let device = Device::flex();
    for shape in [[0, 2, 3], [4, 0, 3], [4, 2, 0]] {
        let found = lag_norms(Tensor::zeros(shape, &device), None, RowOrder::Lag);
        assert!(
            matches!(found, Err(EstimateError::Empty { .. })),
            "{shape:?}"
        );
    }
    assert!(matches!(
        LagGradients::new(Tensor::zeros([0, 3], &device), None),
        Err(EstimateError::Empty { .. })
    ));
    let grads = || Tensor::<3>::ones([4, 2, 3], &device);
    let few = lag_norms(grads(), Some(Tensor::ones([2], &device)), RowOrder::Lag);
    assert_eq!(
        few.unwrap_err(),
        EstimateError::Length {
            what: "the feature weights",
            expected: 3,
            got: 2
        }
    );
    #[allow(deprecated)] // Burn deprecates NdArray, which stays supported here.
    let elsewhere = Device::ndarray();
    let weights = Some(Tensor::ones([3], &elsewhere));
    assert!(matches!(
        lag_norms(grads(), weights, RowOrder::Lag),
        Err(EstimateError::Device {
            what: "the feature weights",
            ..
        })
    ));
    let output = LagGradients::new(Tensor::ones([2, 3], &device), None).unwrap();
    let part = output.part(Tensor::ones([4, 2, 3], &elsewhere), None, RowOrder::Lag);
    assert!(matches!(
        part,
        Err(EstimateError::Device {
            what: "a state part",
            ..
        })
    ));
}

/// Types and tracking may differ: norms are numbers in the end. Three ones have the norm √3.
#[test]
fn parts_of_other_types_and_tracked_weights_are_taken() {
    let device = Device::flex();
    let weights = Tensor::<1>::ones([3], &device.clone().autodiff()).require_grad();
    let single = Tensor::<2>::ones([2, 3], &device);
    let double = Tensor::<3>::ones([4, 2, 3], (&device, DType::F64));
    let norms = LagGradients::new(single, Some(weights))
        .and_then(|norms| norms.part(double, None, RowOrder::Lag))
        .and_then(LagGradients::read)
        .unwrap();
    for lag in 0..=4 {
        assert!((norms.row(lag)[0] - 3f64.sqrt()).abs() < 1e-6);
    }
}

#[test]
fn logs_that_are_not_finite_or_too_far_apart_have_no_slope() {
    let fits = [DecayFit::default(), DecayFit::Max, DecayFit::Quantile(0.5)];
    for fit in fits {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = fit.log_beta(&[0.0, value, -1.0], 0).unwrap_err();
            let EstimateError::OutOfRange { what, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!(what, "a log norm");
        }
    }
    // The difference of the two ends leaves the range.
    let apart = [f64::MAX, f64::MIN];
    let found = DecayFit::Max.log_beta(&[f64::MIN, f64::MAX, f64::MAX], 0);
    assert!(matches!(found, Err(EstimateError::OutOfRange { .. })));
    let found = DecayFit::default().log_beta(&[apart, apart].concat(), 0);
    assert!(matches!(found, Err(EstimateError::OutOfRange { .. })));
}

/// All pairs of 65,536 lags would take 16 GiB.
#[test]
fn a_slope_quantile_over_more_lags_than_fit_is_refused() {
    let logs: Vec<f64> = (0..8193).map(|k| -0.01 * f64::from(k)).collect();
    let fit = DecayFit::Quantile(0.5);
    assert_eq!(
        fit.log_beta(&logs, 0).unwrap_err(),
        EstimateError::TooManyLags {
            most: 8192,
            got: 8193
        }
    );
    assert!(fit.log_beta(&logs, 8000).is_ok());
}

#[test]
fn bounds_beyond_the_range_of_numbers_are_infinite_and_not_nan() {
    assert_eq!(tail_bound(f64::INFINITY, 0.5, 0, 2000), f64::INFINITY);
    assert_eq!(tail_bound(f64::MAX, 0.5, 0, 5000), 0.0);
    // L σ² overflows, Σ γ² vanishes.
    let bound = gradient_norm_bound(0.0, 1e300, 1.0, 1e300, &[1e-320]);
    assert_eq!(bound, Ok(f64::INFINITY));
}

#[test]
fn lengths_and_exponents_beyond_any_run_are_refused() {
    let what = |error: EstimateError| match error {
        EstimateError::OutOfRange { what, .. } => what,
        other => panic!("{other:?}"),
    };
    for mean in [usize::MAX, 1 << 24, usize::MAX / 20] {
        assert_eq!(
            what(ArtbpConfig::new(mean).init().unwrap_err()),
            "ARTBP's longest length"
        );
    }
    for alpha in [2.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
        let config = ArtbpConfig::new(4).with_truncation(Truncation::Decaying { alpha });
        assert_eq!(what(config.init().unwrap_err()), "ARTBP's exponent alpha");
    }
    // Lengths without memory behind them may be any.
    let mut longest = RandomLengthConfig::new(usize::MAX)
        .with_spread(f64::MAX)
        .init()
        .unwrap();
    assert!((5..=usize::MAX).contains(&longest.next_k()));
    assert_eq!(FixedK::new(usize::MAX).unwrap().next_k(), usize::MAX);
}

fn estimate() -> BiasEstimate {
    let norms = LagNorms::new((0..=10).map(|k| vec![0.5f64.powi(k)]).collect()).unwrap();
    BiasEstimator::new().estimate(&norms).unwrap()
}

/// A checkpoint may have been edited: what is read is checked as what is computed.
#[test]
fn stored_profiles_and_estimates_that_contradict_themselves_are_refused() {
    let whole = serde_json::to_value(estimate()).unwrap();
    assert_eq!(
        serde_json::from_value::<BiasEstimate>(whole.clone()).unwrap(),
        estimate()
    );
    let cases = [
        (
            "/tau",
            serde_json::json!(10),
            "tau must lie below the window length 10, got 10",
        ),
        (
            "/tau",
            serde_json::json!(3),
            "the bias below tau needs 3 values, got 9",
        ),
        ("/log_head", serde_json::json!([]), "needs 9 values, got 0"),
        (
            "/tail",
            serde_json::json!("Unbounded"),
            "needs 0 values, got 9",
        ),
        (
            "/profile/log",
            serde_json::json!([-800.0, 0.0]),
            "at least `LOG_ZERO`, got -800",
        ),
    ];
    for (place, value, expected) in cases {
        let mut other = whole.clone();
        *other.pointer_mut(place).unwrap() = value;
        let error = serde_json::from_value::<BiasEstimate>(other)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
    assert!(serde_json::from_str::<LagProfile>(r#"{"log": [0.0, -1.0]}"#).is_ok());
}

#[test]
fn restored_lengths_are_brought_into_the_policy_s_own_bounds() {
    let state = |json: &str| serde_json::from_str::<PolicyState>(json).unwrap();
    let watched = r#"{"last_update": null, "last_estimate": null, "history": []}"#;
    for last in [0, usize::MAX] {
        let draws = u64::MAX;
        let mut random = RandomLengthConfig::new(8).init().unwrap();
        random
            .restore(state(&format!(
                r#"{{"policy": "random_length", "draws": {draws}, "last": {last}, "watched": {watched}}}"#
            )))
            .unwrap();
        assert!((5.0..=28.0).contains(&(8.0 * random.step_scale())));
        // The counter of draws goes round.
        assert!((5..=28).contains(&random.next_k()) && (5..=28).contains(&random.next_k()));
        let mut artbp = ArtbpConfig::new(3).with_longest(9).init().unwrap();
        artbp
            .restore(state(&format!(
                r#"{{"policy": "artbp", "draws": {draws}, "last": {last}, "watched": {watched}}}"#
            )))
            .unwrap();
        assert!(artbp.compensation().len() <= 8 && artbp.step_scale() > 0.0);
        assert!((1..=9).contains(&artbp.next_k()));
        let mut adaptive = AdaptiveConfig::new(0.5).init().unwrap();
        adaptive
            .restore(state(&format!(
                r#"{{"policy": "adaptive", "k": {last}, "last_update": null, "last_estimate": null, "history": []}}"#
            )))
            .unwrap();
        assert!((2..=100).contains(&adaptive.next_k()));
    }
}

/// Any number, with those that break things more often than chance would have it.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        0.0f64..2.0,
        Just(0.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..50, Just(usize::MAX), any::<usize>()]
}

fn estimator() -> impl Strategy<Value = BiasEstimator> {
    let tau = prop_oneof![
        number().prop_map(Tau::Fraction),
        length().prop_map(Tau::Lag)
    ];
    let fit = prop_oneof![
        Just(DecayFit::default()),
        Just(DecayFit::Max),
        number().prop_map(DecayFit::Quantile)
    ];
    (tau, fit).prop_map(|(tau, fit)| BiasEstimator::new().with_tau(tau).with_fit(fit))
}

fn every() -> impl Strategy<Value = UpdateEvery> {
    prop_oneof![
        length().prop_map(UpdateEvery::Epochs),
        any::<u64>().prop_map(UpdateEvery::Steps)
    ]
}

/// Probes of any numbers; most of them are no norms.
fn probes() -> impl Strategy<Value = Vec<Result<LagNorms, EstimateError>>> {
    let rows = prop::collection::vec(prop::collection::vec(number(), 0..3), 0..12);
    prop::collection::vec(rows.prop_map(LagNorms::new), 0..3)
}

fn goes_on(
    policy: Result<impl TruncationPolicy, EstimateError>,
    probes: &[Result<LagNorms, EstimateError>],
) {
    let Ok(mut policy) = policy else { return };
    for step in [0, u64::MAX] {
        let at = Position {
            epoch: step as usize,
            step,
        };
        policy.probes_due(at);
        let decision = policy.update(at, probes);
        assert!((1..=policy.k_max()).contains(&decision.k));
        assert!((1..=policy.k_max()).contains(&policy.next_k()));
        assert!(policy.step_scale() > 0.0 && policy.step_scale().is_finite());
    }
    let state = policy.save();
    assert_eq!(policy.restore(state), Ok(()));
}

proptest! {
    #[test]
    fn prop_any_configuration_of_a_policy_works_or_is_refused(
        (delta, whole, spread, alpha) in (number(), number(), number(), number()),
        (k0, k_min, k_max, count) in (length(), length(), length(), length()),
        (estimator, every, probe_first) in (estimator(), every(), any::<bool>()),
        probes in probes(),
        decaying in any::<bool>(),
    ) {
        let adaptive = AdaptiveConfig { delta, k0, k_min, k_max, probes: count, every, probe_first, estimator };
        goes_on(adaptive.init(), &probes);
        let monitor = Monitor { estimator, probes: count, every, probe_first };
        goes_on(FixedK::new(k0).and_then(|policy| policy.with_monitor(monitor)), &probes);
        let mut random = RandomLengthConfig::new(k0).with_spread(spread);
        random.whole = whole;
        goes_on(random.init(), &probes);
        (random.shortest, random.longest) = (k_min, k_max);
        goes_on(random.init().and_then(|policy| policy.with_monitor(monitor)), &probes);
        let truncation = if decaying { Truncation::Decaying { alpha } } else { Truncation::Constant };
        let artbp = ArtbpConfig::new(k0).with_truncation(truncation).with_longest(k_max);
        goes_on(artbp.init().and_then(|policy| policy.with_monitor(monitor)), &probes);
    }
}
