//! Settings: their ranges, their defaults, and how decisions read.

use super::*;

#[test]
fn both_sides_of_every_setting() {
    assert!(AdaptiveKConfig::new(1.0).init().is_ok());
    for delta in [0.0, -0.5, 1.0 + 1e-12, f64::NAN, f64::INFINITY] {
        assert!(
            matches!(
                AdaptiveKConfig::new(delta).init(),
                Err(EstimateError::Tolerance { .. })
            ),
            "{delta}"
        );
    }
    for (k_min, k0, k_max, ok) in [
        (1, 1, 1, true),
        (0, 5, 9, false),
        (5, 4, 9, false),
        (2, 10, 9, false),
        (2, 2, 9, true),
        (2, 9, 9, true),
    ] {
        let config = AdaptiveKConfig::new(0.5)
            .with_k_min(k_min)
            .with_k0(k0)
            .with_k_max(k_max);
        assert_eq!(config.init().is_ok(), ok, "{k_min} {k0} {k_max}");
    }
    let zero = [
        MonitorConfig::default().with_probes(0),
        MonitorConfig::default().with_schedule(Schedule::every_epochs(0)),
        MonitorConfig::default().with_schedule(Schedule::every_updates(0)),
        MonitorConfig::default().with_schedule(Schedule::default().with_first(Some(0))),
    ];
    let tau = BiasEstimator::new().with_tau(Tau::Fraction(f64::NAN));
    let tau = [Estimator::Norms(tau), Estimator::Paper(tau)]
        .map(|estimator| MonitorConfig::default().with_estimator(estimator));
    for monitor in zero.into_iter().chain(tau) {
        let policies: [PolicyConfig; 4] = [
            AdaptiveKConfig::new(0.5).into(),
            FixedKConfig::new(9).into(),
            RandomLengthConfig::new(9).into(),
            ArtbpConfig::new(9).into(),
        ];
        for policy in policies {
            assert!(policy.init().is_ok());
            let error = policy.with_monitor(monitor).init().unwrap_err();
            let expected = matches!(
                error,
                EstimateError::Zero { .. } | EstimateError::TauFraction { .. }
            );
            assert!(expected, "{error}");
        }
    }
    assert!(FixedKConfig::new(0).init().is_err());
}

#[test]
fn decisions_read_as_sentences() {
    let mut policy = config(0.1).init().unwrap();
    let probes = vec![probe(0.9), nan_probe()];
    let text = policy.update(at(3, 120), norms(probes, EXACT)).to_string();
    assert_eq!(
        text,
        "K = 22: bias 0.099 of the gradient; shortest length that meets the bias tolerance (after 3 epochs, 120 updates; 1 probe unusable)"
    );
    let text = policy
        .update(at(4, 160), norms(vec![nan_probe(); 2], EXACT))
        .to_string();
    assert_eq!(
        text,
        "K = 22: kept: no probe was usable (after 4 epochs, 160 updates; 2 probes unusable)"
    );
}

#[test]
fn settings_have_the_defaults_that_their_constructors_give() {
    let rows: [(&str, PolicyConfig); 5] = [
        (
            r#"{"policy": "adaptive", "delta": 0.3}"#,
            AdaptiveKConfig::new(0.3).into(),
        ),
        (
            r#"{"policy": "adaptive", "delta": 0.3, "when_noise_limited": "keep", "monitor": {"schedule": {"every": {"updates": 30}}}}"#,
            AdaptiveKConfig::new(0.3)
                .with_keep_when_noise_limited(true)
                .with_schedule(Schedule::default().with_every_updates(30))
                .into(),
        ),
        (
            r#"{"policy": "fixed", "k": 7}"#,
            FixedKConfig::new(7).into(),
        ),
        (
            r#"{"policy": "random_length", "base": 30, "spread": 2.0}"#,
            RandomLengthConfig::new(30).with_spread(2.0).into(),
        ),
        (
            r#"{"policy": "artbp", "mean_length": 7, "truncation": "constant"}"#,
            ArtbpConfig::new(7).with_alpha(None).into(),
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(
            serde_json::from_str::<PolicyConfig>(text).unwrap(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn lengths_given_in_advance_must_begin_at_the_first_window_and_rise() {
    let refused = |changes: &[(u64, usize)]| {
        let error = ScheduledKConfig::new(changes.to_vec()).init().unwrap_err();
        error.to_string()
    };
    assert!(refused(&[]).contains("truncation lengths given in advance must be at least 1, got 0"));
    assert!(refused(&[(1, 5)]).contains("must be 0 for the first change"));
    assert!(
        refused(&[(0, 5), (4, 3), (4, 2)])
            .contains("later than the one before for all others, got 4")
    );
    assert!(refused(&[(0, 5), (4, 0)]).contains("the truncation length must be at least 1, got 0"));
    let once = ScheduledKConfig::new(vec![(0, 5)]);
    assert_eq!(once.init().unwrap().next_window().k, 5);
}
