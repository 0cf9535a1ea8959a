//! The policies by scenario rows.
//!
//! On a profile β^k over W = 60 steps, δ(k) = β^k / (1 − 2 β^61): the bracket is largest at the end of the window.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used)]

use atbptt_core::policy::Monitor;
use atbptt_core::{
    AdaptiveConfig, EstimateError, FixedK, LagNorms, PolicyState, Position, Reason,
    TruncationPolicy, UpdateEvery,
};
use proptest::prelude::*;

type Probe = Result<LagNorms, EstimateError>;

/// φ_k = β^k over 60 steps, two sequences: K(δ) is the smallest k with β^k <= δ, but for the end of the window.
fn probe(beta: f64) -> Probe {
    LagNorms::new((0..=60).map(|k| vec![beta.powi(k); 2]).collect())
}

/// What a diverged backward pass gives.
fn nan_probe() -> Probe {
    LagNorms::new(vec![vec![f64::NAN; 2]; 61])
}

/// A profile that decays, but whose bias stays above one half for every K in its window of 4 steps.
fn short_probe() -> Probe {
    LagNorms::new((0..=4).map(|k| vec![0.95f64.powi(k); 2]).collect())
}

fn at(epoch: usize, step: u64) -> Position {
    Position { epoch, step }
}

fn config(delta: f64) -> AdaptiveConfig {
    AdaptiveConfig::new(delta)
        .with_k_min(3)
        .with_k0(15)
        .with_k_max(40)
}

#[test]
fn one_update_by_scenario() {
    // (why, delta, probes, K, reason, K of each probe, unusable)
    type Row = (
        &'static str,
        f64,
        Vec<Probe>,
        usize,
        Reason,
        Vec<usize>,
        usize,
    );
    let zero = || LagNorms::new(vec![vec![0.0]; 9]);
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        ("0.9^21 = 0.109, 0.9^22 = 0.098", 0.1, vec![probe(0.9)], 22, Reason::ToleranceMet, vec![22], 0),
        ("steep decay shortens it: 0.5^4 = 0.06", 0.1, vec![probe(0.5)], 4, Reason::ToleranceMet, vec![4], 0),
        ("a looser tolerance too: 0.9^7 = 0.478", 0.5, vec![probe(0.9)], 7, Reason::ToleranceMet, vec![7], 0),
        ("mean of 22 and 4", 0.1, vec![probe(0.9), probe(0.5)], 13, Reason::ToleranceMet, vec![22, 4], 0),
        ("a half rounds up; 0.7^7 = 0.08", 0.1, vec![probe(0.9), probe(0.7)], 15, Reason::ToleranceMet, vec![22, 7], 0),
        ("one step would do, k_min does not allow it", 0.5, vec![probe(0.4)], 3, Reason::ClampedToMin, vec![1], 0),
        ("0.95^47 = 0.0897 <= 0.1 (1 - 2 · 0.95^61) = 0.0912 lies past k_max", 0.1, vec![probe(0.95)], 40, Reason::ClampedToMax, vec![47], 0),
        ("growth has no bound", 0.5, vec![probe(1.02)], 40, Reason::NoDecay, vec![40], 0),
        ("decay too slow for the window", 0.5, vec![short_probe()], 40, Reason::OutOfReach, vec![40], 0),
        ("one saturated probe of three counts as k_max", 0.1, vec![probe(0.5), probe(0.5), probe(1.02)], 16, Reason::ToleranceMet, vec![4, 4, 40], 0),
        ("two of three name the reason", 0.1, vec![probe(0.5), probe(1.02), probe(1.02)], 28, Reason::NoDecay, vec![4, 40, 40], 0),
        ("NaN keeps K", 0.1, vec![nan_probe(), nan_probe()], 15, Reason::Unusable, vec![], 2),
        ("NaN is left out of the mean", 0.1, vec![nan_probe(), probe(0.5)], 4, Reason::ToleranceMet, vec![4], 1),
        ("zero gradient is no probe", 0.1, vec![zero(), probe(0.5)], 4, Reason::ToleranceMet, vec![4], 1),
        ("no probe at all keeps K", 0.1, vec![], 15, Reason::Unusable, vec![], 0),
    ];
    for (why, delta, probes, k, reason, probe_ks, unusable) in rows {
        let mut policy = config(delta).init().unwrap();
        let decision = policy.update(at(1, 10), &probes);
        assert_eq!(
            (decision.k, decision.reason),
            (k, reason),
            "{why}: {decision}"
        );
        assert_eq!(
            (&decision.probe_ks, decision.unusable),
            (&probe_ks, unusable),
            "{why}"
        );
        assert_eq!((policy.k(), policy.next_k()), (k, k), "{why}");
        assert_eq!(
            (decision.delta, decision.position),
            (Some(delta), at(1, 10)),
            "{why}"
        );
        let usable = !probe_ks.is_empty();
        assert_eq!(
            (decision.tau.is_some(), policy.last_estimate().is_some()),
            (usable, usable),
            "{why}"
        );
        if reason == Reason::ToleranceMet && probe_ks.len() == 1 {
            assert!(decision.relative_bias.unwrap() <= delta, "{why}");
        }
        if reason == Reason::NoDecay && probe_ks.len() == 1 {
            assert_eq!(
                decision.relative_bias, None,
                "{why}: an unbounded bias is no number"
            );
        }
        assert_eq!(
            reason.is_saturated(),
            matches!(reason, Reason::NoDecay | Reason::OutOfReach)
        );
    }
}

#[test]
fn probes_come_due_by_epochs_and_steps() {
    let adaptive = |every, first| {
        config(0.5)
            .with_every(every)
            .with_probe_first(first)
            .with_probes(4)
            .init()
            .unwrap()
    };
    // (every, probe first, positions and whether an update was due there)
    type Row = (UpdateEvery, bool, Vec<(Position, bool)>);
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        // The first epoch trains with k0.
        (UpdateEvery::Epochs(1), false, vec![(at(0, 0), false), (at(0, 9), false), (at(1, 10), true), (at(1, 11), false), (at(2, 20), true)]),
        (UpdateEvery::Epochs(1), true, vec![(at(0, 0), true), (at(0, 1), false), (at(1, 10), true)]),
        (UpdateEvery::Epochs(2), false, vec![(at(1, 10), false), (at(2, 20), true), (at(3, 30), false), (at(4, 40), true)]),
        (UpdateEvery::Steps(5), false, vec![(at(0, 4), false), (at(0, 5), true), (at(0, 9), false), (at(1, 10), true)]),
        (UpdateEvery::Steps(5), true, vec![(at(0, 0), true), (at(0, 4), false), (at(0, 5), true)]),
        // Epochs skipped by a resumed run are not made up for.
        (UpdateEvery::Epochs(1), false, vec![(at(7, 70), true), (at(7, 71), false), (at(8, 80), true)]),
    ];
    for (every, first, visits) in rows {
        let mut policy = adaptive(every, first);
        let monitor = Monitor {
            every,
            probe_first: first,
            probes: 4,
            ..Monitor::default()
        };
        let mut fixed = FixedK::new(9).unwrap().with_monitor(monitor).unwrap();
        for (position, due) in visits {
            let expected = if due { 4 } else { 0 };
            assert_eq!(
                policy.probes_due(position),
                expected,
                "{every:?} {position}"
            );
            assert_eq!(fixed.probes_due(position), expected, "{every:?} {position}");
            if due {
                // An update without a usable probe waits for the next interval as well.
                policy.update(position, &[nan_probe()]);
                fixed.update(position, &[nan_probe()]);
            }
        }
    }
}

#[test]
fn fixed_k_reports_its_bias_and_never_moves() {
    let mut bare = FixedK::new(9).unwrap();
    assert_eq!(bare.probes_due(at(5, 50)), 0);
    assert_eq!((bare.next_k(), bare.k(), bare.k_max()), (9, 9, 9));
    let mut watched = bare.clone().with_monitor(Monitor::default()).unwrap();
    let decision = watched.update(at(1, 1), &[probe(0.8), nan_probe()]);
    assert_eq!(
        (decision.k, decision.reason, decision.unusable),
        (9, Reason::Fixed, 1)
    );
    assert!((decision.relative_bias.unwrap() - 0.8f64.powi(9)).abs() < 1e-5);
    assert_eq!(watched.update(at(2, 2), &[probe(1.1)]).relative_bias, None);
    assert_eq!((watched.next_k(), watched.history().len()), (9, 2));
}

#[test]
fn both_sides_of_every_setting() {
    assert!(AdaptiveConfig::new(1.0).init().is_ok());
    for delta in [0.0, -0.5, 1.0 + 1e-12, f64::NAN, f64::INFINITY] {
        assert!(
            matches!(
                AdaptiveConfig::new(delta).init(),
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
        let config = AdaptiveConfig::new(0.5)
            .with_k_min(k_min)
            .with_k0(k0)
            .with_k_max(k_max);
        assert_eq!(config.init().is_ok(), ok, "{k_min} {k0} {k_max}");
    }
    assert!(AdaptiveConfig::new(0.5).with_probes(0).init().is_err());
    assert!(
        AdaptiveConfig::new(0.5)
            .with_every(UpdateEvery::Epochs(0))
            .init()
            .is_err()
    );
    assert!(
        AdaptiveConfig::new(0.5)
            .with_every(UpdateEvery::Steps(0))
            .init()
            .is_err()
    );
    let tau = atbptt_core::BiasEstimator::new().with_tau(atbptt_core::Tau::Fraction(f64::NAN));
    assert!(AdaptiveConfig::new(0.5).with_estimator(tau).init().is_err());
    assert!(FixedK::new(0).is_err());
    assert!(
        FixedK::new(1)
            .unwrap()
            .with_monitor(Monitor {
                probes: 0,
                ..Monitor::default()
            })
            .is_err()
    );
}

#[test]
fn reasons_read_as_sentences() {
    let mut policy = config(0.1).init().unwrap();
    let text = policy
        .update(at(3, 120), &[probe(0.9), nan_probe()])
        .to_string();
    assert_eq!(
        text,
        "K = 22 after 3 epochs, 120 steps (shortest length that meets the bias tolerance), relative bias 0.099, 1 unusable probes"
    );
}

#[test]
fn restored_k_respects_changed_bounds() {
    let mut long = config(0.1).with_k0(40).init().unwrap();
    long.update(at(1, 1), &[probe(1.1)]);
    let mut short = config(0.1).with_k_max(20).init().unwrap();
    short.restore(long.save()).unwrap();
    assert_eq!(short.k(), 20);
}

proptest! {
    #[test]
    fn prop_controller_never_panics_and_stays_in_bounds(
        rows in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<f64>(), 2), 0..9), 0..5),
        betas in proptest::collection::vec(0.1f64..1.2, 0..4), delta in 0.01f64..=1.0,
    ) {
        let mut probes: Vec<Probe> = rows.into_iter().map(LagNorms::new).collect();
        probes.extend(betas.iter().map(|b| probe(*b)));
        let mut policy = config(delta).init().unwrap();
        let decision = policy.update(at(1, 1), &probes);
        prop_assert!((3..=40).contains(&decision.k));
        prop_assert_eq!(decision.unusable + decision.probe_ks.len(), probes.len());
        let text = serde_json::to_string(&policy.save()).unwrap();
        prop_assert_eq!(serde_json::from_str::<PolicyState>(&text).unwrap(), policy.save());
    }

    #[test]
    fn prop_k_never_grows_with_the_tolerance(betas in proptest::collection::vec(0.1f64..1.1, 1..4), a in 0.01f64..1.0, b in 0.01f64..1.0) {
        let probes: Vec<Probe> = betas.iter().map(|b| probe(*b)).collect();
        let k = |delta: f64| config(delta).with_k_max(61).init().unwrap().update(at(1, 1), &probes).k;
        prop_assert!(k(a.max(b)) <= k(a.min(b)));
    }
}
