//! Data and settings that no measurement gives: each class has its error, and whole configurations are accepted or refused,
//! never a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use atbptt_core::convergence::gradient_norm_bound;
use atbptt_core::policy::*;
use atbptt_core::{
    BiasEstimate, BiasEstimator, DecayFit, EstimateError, LagNorms, Scheme, Tau, tail_bound,
};
use proptest::prelude::*;

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
        let config = ArtbpConfig::new(4).with_alpha(Some(alpha));
        assert_eq!(what(config.init().unwrap_err()), "ARTBP's exponent alpha");
    }
    // Lengths without memory behind them may be any.
    let mut longest = RandomLengthConfig::new(usize::MAX)
        .with_spread(f64::MAX)
        .init()
        .unwrap();
    assert!((5..=usize::MAX).contains(&longest.next_window().k));
    assert_eq!(
        FixedKConfig::new(usize::MAX)
            .init()
            .unwrap()
            .next_window()
            .k,
        usize::MAX
    );
}

fn estimate() -> BiasEstimate {
    let norms = LagNorms::new((0..=10).map(|k| vec![0.5f64.powi(k)]).collect()).unwrap();
    BiasEstimator::paper().estimate(&norms).unwrap()
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
            "the first lag of a stored tail must be tau or the number of lags, got 9",
        ),
        (
            "/tail_from",
            serde_json::json!(11),
            "the bias below the tail needs 11 values, got 9",
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
}

#[test]
fn restored_lengths_are_brought_into_the_policy_s_own_bounds() {
    let state = |json: &str| serde_json::from_str::<PolicyState>(json).unwrap();
    let monitor = r#"{"last_update": null, "last_estimate": null, "history": []}"#;
    // The counter of draws goes round.
    let draws = u64::MAX;
    let mut random = RandomLengthConfig::new(8).init().unwrap();
    let saved = format!(r#"{{"policy": "random_length", "draws": {draws}, "monitor": {monitor}}}"#);
    random.restore(state(&saved)).unwrap();
    let mut artbp = ArtbpConfig::new(3).with_longest(9).init().unwrap();
    let saved = format!(r#"{{"policy": "artbp", "draws": {draws}, "monitor": {monitor}}}"#);
    artbp.restore(state(&saved)).unwrap();
    for _ in 0..3 {
        assert!((5..=28).contains(&random.next_window().k));
        let window = artbp.next_window();
        assert!((1..=9).contains(&window.k) && window.compensation.len() == window.k - 1);
        assert_eq!(window.step_scale, window.k as f64 / 3.0);
    }
    for k in [0, usize::MAX] {
        let mut adaptive = AdaptiveKConfig::new(0.5).init().unwrap();
        let saved = format!(r#"{{"policy": "adaptive", "k": {k}, "monitor": {monitor}}}"#);
        adaptive.restore(state(&saved)).unwrap();
        assert!((2..=100).contains(&adaptive.next_window().k));
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
        Just(Tau::Lepski),
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

fn schedule() -> impl Strategy<Value = Schedule> {
    let regular = prop_oneof![
        length().prop_map(Schedule::every_epochs),
        any::<u64>().prop_map(Schedule::every_updates)
    ];
    (regular, any::<Option<u64>>(), any::<bool>())
        .prop_map(|(regular, first, at_start)| regular.with_first(first).with_at_start(at_start))
}

fn scheme() -> impl Strategy<Value = Scheme> {
    prop_oneof![
        length().prop_map(|losses| Scheme::Strided { losses }),
        Just(Scheme::Overlapping),
        Just(Scheme::Chunked)
    ]
}

fn monitor() -> impl Strategy<Value = MonitorConfig> {
    let estimator = (estimator(), any::<bool>()).prop_map(|(estimator, paper)| match paper {
        true => Estimator::Paper(estimator),
        false => Estimator::Norms(estimator),
    });
    (estimator, length(), schedule()).prop_map(|(estimator, probes, schedule)| {
        MonitorConfig::default()
            .with_estimator(estimator)
            .with_probes(probes)
            .with_schedule(schedule)
    })
}

/// Probes of any numbers; most of them are no norms.
fn measured() -> impl Strategy<Value = Measurement> {
    let rows = prop::collection::vec(prop::collection::vec(number(), 0..3), 0..12);
    let probes = prop::collection::vec(rows.prop_map(LagNorms::new), 0..3);
    (probes, scheme()).prop_map(|(probes, scheme)| Measurement::Norms { probes, scheme })
}

fn goes_on(policy: Result<impl TruncationPolicy, EstimateError>, measured: &Measurement) {
    let Ok(mut policy) = policy else { return };
    for update in [0, u64::MAX] {
        let at = Position {
            epoch: update as usize,
            update,
        };
        policy.monitor().probes_due(at);
        let decision = policy.update(at, measured.clone());
        assert!((1..=policy.k_max()).contains(&decision.k));
        let window = policy.next_window();
        assert!((1..=policy.k_max()).contains(&window.k));
        assert!((1..=policy.k_max()).contains(&window.typical_k));
        assert!(window.step_scale > 0.0 && window.step_scale.is_finite());
        let text = serde_json::to_string(&policy.save()).unwrap();
        let state: PolicyState = serde_json::from_str(&text).unwrap();
        assert_eq!(state, policy.save());
        assert_eq!(policy.restore(state), Ok(()));
    }
}

proptest! {
    #[test]
    fn prop_any_configuration_of_a_policy_works_or_is_refused(
        (delta, whole, spread, alpha) in (number(), number(), number(), number()),
        (k0, k_min, k_max) in (length(), length(), length()),
        (monitor, measured) in (monitor(), measured()),
        decaying in any::<bool>(),
    ) {
        let adaptive = AdaptiveKConfig::new(delta).with_k0(k0).with_k_min(k_min).with_k_max(k_max).with_monitor(monitor);
        goes_on(adaptive.init(), &measured);
        goes_on(FixedKConfig::new(k0).with_monitor(Some(monitor)).init(), &measured);
        let scheduled = ScheduledKConfig::new(vec![(0, k0), (1, k_min), (k_max as u64, 7)]);
        goes_on(scheduled.with_monitor(Some(monitor)).init(), &measured);
        let random = RandomLengthConfig::new(k0).with_spread(spread).with_whole(whole);
        goes_on(random.init(), &measured);
        let random = random.with_shortest(k_min).with_longest(k_max).with_monitor(Some(monitor));
        goes_on(PolicyConfig::from(random).init(), &measured);
        let alpha = decaying.then_some(alpha);
        let artbp = ArtbpConfig::new(k0).with_alpha(alpha).with_longest(k_max);
        goes_on(artbp.with_monitor(Some(monitor)).init(), &measured);
    }
}

#[test]
fn settings_that_are_misspelt_or_incomplete_are_refused() {
    let refused = [
        (r#"{"policy": "adaptive"}"#, "missing field `delta`"),
        (
            r#"{"policy": "adaptive", "delta": 0.5, "kmax": 3}"#,
            "unknown field `kmax`",
        ),
        (
            r#"{"policy": "adaptive", "delta": 0.5, "monitor": {"probe": 3}}"#,
            "unknown field `probe`",
        ),
        (r#"{"policy": "fixed", "K": 3}"#, "unknown field `K`"),
        (r#"{"policy": "fixed", "k": -3}"#, "invalid value"),
        (
            r#"{"policy": "scheduled", "changes": [[0]]}"#,
            "invalid length 1",
        ),
        (r#"{"policy": "artbp", "mean": 3}"#, "unknown field `mean`"),
        (
            r#"{"policy": "random_length", "base": "9"}"#,
            "invalid type",
        ),
        (r#"{"policy": "oracle"}"#, "unknown variant `oracle`"),
        (r#"{"k": 3}"#, "missing field `policy`"),
    ];
    for (text, expected) in refused {
        let error = serde_json::from_str::<PolicyConfig>(text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
