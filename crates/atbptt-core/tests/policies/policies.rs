//! The policies by scenario rows.
//!
//! On a profile β^k over W = 60 steps, δ(k) = β^k / (1 − 2 β^61): the bracket is largest at the end of the window.

#![allow(clippy::unwrap_used)]

mod settings;

// Helpers outside of test functions may unwrap too: a panic is how a test fails.

use atbptt_core::policy::*;
use atbptt_core::{BiasEstimator, EstimateError, LagNorms, Scheme, Tau};
use proptest::prelude::*;

type Probe = Result<LagNorms, EstimateError>;

/// Windows with a single loss: exactly K lags are kept.
const EXACT: Scheme = Scheme::Strided { losses: 1 };

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

fn at(epoch: usize, update: u64) -> Position {
    Position { epoch, update }
}

fn norms(probes: Vec<Probe>, scheme: Scheme) -> Measurement {
    Measurement::Norms { probes, scheme }
}

fn config(delta: f64) -> AdaptiveKConfig {
    AdaptiveKConfig::new(delta)
        .with_k_min(3)
        .with_k0(15)
        .with_k_max(40)
        .with_estimator(Estimator::Norms(BiasEstimator::new()))
}

fn paper(delta: f64) -> AdaptiveKConfig {
    config(delta).with_estimator(Estimator::Paper(BiasEstimator::new()))
}

/// (why, delta, probes, K, reason, K of each probe, unusable)
type Row = (
    &'static str,
    f64,
    Vec<Probe>,
    usize,
    Reason,
    Vec<usize>,
    usize,
);

fn check(make: impl Fn(f64) -> AdaptiveKConfig, rows: Vec<Row>) {
    for (why, delta, probes, k, reason, probe_ks, unusable) in rows {
        let mut policy = make(delta).init().unwrap();
        let decision = policy.update(at(1, 10), norms(probes, EXACT));
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
        assert_eq!((policy.k(), policy.next_window().k), (k, k), "{why}");
        assert_eq!(
            (decision.delta, decision.position),
            (Some(delta), at(1, 10)),
            "{why}"
        );
        let usable = !probe_ks.is_empty();
        let seen = policy.monitor().last_estimate().is_some();
        assert_eq!((decision.tau.is_some(), seen), (usable, usable), "{why}");
        if reason == Reason::ToleranceMet && probe_ks.len() == 1 {
            assert!(decision.relative_bias.unwrap() <= delta, "{why}");
        }
        if reason == Reason::NoDecay && probe_ks.len() == 1 {
            assert_eq!(
                decision.relative_bias, None,
                "{why}: an unbounded bias is no number"
            );
        }
    }
}

#[test]
fn one_probe_gives_the_same_answer_pooled_and_alone() {
    let rows = || -> Vec<Row> {
        let zero = || LagNorms::new(vec![vec![0.0]; 9]);
        #[rustfmt::skip]
        let rows = vec![
            ("0.9^21 = 0.109, 0.9^22 = 0.098", 0.1, vec![probe(0.9)], 22, Reason::ToleranceMet, vec![22], 0),
            ("steep decay shortens it: 0.5^4 = 0.06", 0.1, vec![probe(0.5)], 4, Reason::ToleranceMet, vec![4], 0),
            ("a looser tolerance too: 0.9^7 = 0.478", 0.5, vec![probe(0.9)], 7, Reason::ToleranceMet, vec![7], 0),
            ("one step would do, k_min does not allow it", 0.5, vec![probe(0.4)], 3, Reason::ClampedToMin, vec![1], 0),
            ("0.95^47 = 0.0897 <= 0.1 (1 - 2 · 0.95^61) = 0.0912 lies past k_max", 0.1, vec![probe(0.95)], 40, Reason::ClampedToMax, vec![40], 0),
            ("growth has no bound", 0.5, vec![probe(1.02)], 40, Reason::NoDecay, vec![40], 0),
            ("decay too slow for the window", 0.5, vec![short_probe()], 40, Reason::OutOfReach, vec![40], 0),
            ("NaN keeps K", 0.1, vec![nan_probe(), nan_probe()], 15, Reason::Unusable, vec![], 2),
            ("NaN is left out", 0.1, vec![nan_probe(), probe(0.5)], 4, Reason::ToleranceMet, vec![4], 1),
            ("zero gradient is no probe", 0.1, vec![zero(), probe(0.5)], 4, Reason::ToleranceMet, vec![4], 1),
            ("no probe at all keeps K", 0.1, vec![], 15, Reason::Unusable, vec![], 0),
        ];
        rows
    };
    check(config, rows());
    check(paper, rows());
}

#[test]
fn the_paper_s_k_is_the_mean_of_the_probes() {
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        ("mean of 22 and 4", 0.1, vec![probe(0.9), probe(0.5)], 13, Reason::ToleranceMet, vec![22, 4], 0),
        ("a half rounds up; 0.7^7 = 0.08", 0.1, vec![probe(0.9), probe(0.7)], 15, Reason::ToleranceMet, vec![22, 7], 0),
        ("one saturated probe of three counts as k_max", 0.1, vec![probe(0.5), probe(0.5), probe(1.02)], 16, Reason::ToleranceMet, vec![4, 4, 40], 0),
        ("two of three name the reason", 0.1, vec![probe(0.5), probe(1.02), probe(1.02)], 28, Reason::NoDecay, vec![4, 40, 40], 0),
        ("47 counts as k_max, as saturation does", 0.1, vec![probe(0.5), probe(0.5), probe(0.95)], 16, Reason::ToleranceMet, vec![4, 4, 40], 0),
        ("two that are too long name the reason", 0.1, vec![probe(0.5), probe(0.95), probe(0.95)], 28, Reason::ClampedToMax, vec![4, 40, 40], 0),
    ];
    check(paper, rows);
}

/// Norms with K(δ) = `k`: φ_i = β^i with β^(k − 1/2) = δ, over a window so long that δ(i) = β^i.
fn probe_with_k(k: usize, delta: f64) -> Probe {
    let beta = delta.powf(1.0 / (k as f64 - 0.5));
    let norms = LagNorms::new((0..=10_000).map(|i| vec![beta.powi(i)]).collect()).unwrap();
    let estimate = BiasEstimator::new().estimate(&norms).unwrap();
    assert_eq!(estimate.smallest_k(delta), Some(k));
    Ok(norms)
}

/// A probe that asks for more than the longest window weighs no more than one that is saturated: {350, 20, 20, 20, 20} with
/// `k_max` = 100 is {100, 20, 20, 20, 20}, and its mean 36, not 86.
#[test]
fn a_probe_beyond_k_max_weighs_as_much_as_a_saturated_one() {
    let delta = 0.5;
    let growing = || LagNorms::new((0..=10_000).map(|i| vec![1.001f64.powi(i)]).collect());
    for first in [probe_with_k(350, delta), growing()] {
        let mut probes = vec![first];
        probes.extend((0..4).map(|_| probe_with_k(20, delta)));
        let policy = AdaptiveKConfig::new(delta)
            .with_k_max(100)
            .with_estimator(Estimator::Paper(BiasEstimator::new()));
        let decision = policy
            .init()
            .unwrap()
            .update(at(1, 1), norms(probes, EXACT));
        assert_eq!(decision.probe_ks, [100, 20, 20, 20, 20]);
        assert_eq!((decision.k, decision.reason), (36, Reason::ToleranceMet));
    }
}

/// One K from all probes' sequences: that of the one batch they would have been.
#[test]
fn pooled_probes_decide_as_one_batch() {
    let probes = [0.9, 0.7, 0.6].map(|beta| probe(beta).unwrap());
    let pooled = LagNorms::pool(&probes.iter().collect::<Vec<_>>()).unwrap();
    let expected = BiasEstimator::new().estimate(&pooled).unwrap();
    let mut policy = config(0.1).init().unwrap();
    let decision = policy.update(at(1, 1), norms(probes.map(Ok).to_vec(), EXACT));
    assert_eq!(Some(decision.k), expected.smallest_k(0.1));
    assert_eq!(
        decision.relative_bias,
        Some(expected.relative_bias(decision.k))
    );
    assert_eq!(decision.probe_ks, [22, 7, 5]);
    let mean = (22 + 7 + 5) / 3;
    assert_ne!(decision.k, mean, "the case would show nothing");
}

/// δ(j) = 0.9^j: chunks of K leave out (1/K) Σ_{j=1..K} 0.9^j = 9 (1 − 0.9^K)/K, overlapping windows
/// (1/K) Σ_{j=K..2K−1} 0.9^j = 10 · 0.9^K (1 − 0.9^K)/K, strided ones 10 · 0.9^K (1 − 0.9^m)/m. A long window makes δ(j)
/// exact.
#[test]
fn the_bias_is_that_of_the_scheme_in_use() {
    let long = || LagNorms::new((0..=600).map(|k| vec![0.9f64.powi(k)]).collect());
    let power = |k: usize| 0.9f64.powi(k as i32);
    let chunked = |k: usize| 9.0 * (1.0 - power(k)) / k as f64;
    let overlapping = |k: usize| 10.0 * power(k) * (1.0 - power(k)) / k as f64;
    let strided = |k: usize| 10.0 * power(k) * (1.0 - power(15)) / 15.0;
    type Case<'a> = (Scheme, &'a dyn Fn(usize) -> f64);
    let cases: [Case; 4] = [
        (Scheme::Chunked, &chunked),
        (Scheme::Overlapping, &overlapping),
        (Scheme::Strided { losses: 15 }, &strided),
        (EXACT, &power),
    ];
    for (scheme, expected) in cases {
        for delta in [0.5, 0.1] {
            let mut policy = config(delta).with_k_min(1).with_k_max(200).init().unwrap();
            let decision = policy.update(at(1, 1), norms(vec![long()], scheme));
            let k = (1..).find(|k| expected(*k) <= delta).unwrap();
            assert_eq!((decision.k, decision.reason), (k, Reason::ToleranceMet));
            let bias = decision.relative_bias.unwrap();
            assert!((bias - expected(k)).abs() < 1e-9, "{scheme:?} {bias}");
            // Past the probe window too, however many losses there are.
            let estimate = policy.monitor().last_estimate().unwrap();
            for k in [599, 601, 640] {
                let (got, expected) = (estimate.relative_bias(k), expected(k));
                assert!((got / expected - 1.0).abs() < 1e-6, "{scheme:?} {k}: {got}");
            }
        }
    }
    // The scheme matters: at exactly 22 lags the bias is 0.098, of chunks of 22 it is 0.37.
    assert!(chunked(22) > 0.36 && power(22) < 0.1);
    // The paper's estimator takes no notice of the scheme.
    let mut policy = paper(0.1).init().unwrap();
    let decision = policy.update(at(1, 1), norms(vec![probe(0.9)], Scheme::Chunked));
    assert_eq!(decision.k, 22);
}

#[test]
fn losses_of_a_window_keep_the_lags_that_the_method_says() {
    assert_eq!(Scheme::Strided { losses: 3 }.kept_lags(5), 5..=7);
    assert_eq!(Scheme::Overlapping.kept_lags(5), 5..=9);
    assert_eq!(Scheme::Chunked.kept_lags(5), 1..=5);
    for scheme in [
        Scheme::Strided { losses: 0 },
        Scheme::Overlapping,
        Scheme::Chunked,
    ] {
        assert_eq!(scheme.kept_lags(0), 1..=1);
    }
    let huge = Scheme::Strided { losses: usize::MAX };
    assert_eq!(huge.kept_lags(usize::MAX), usize::MAX..=usize::MAX);
}

#[test]
fn probes_come_due_by_epochs_and_updates() {
    let early = |first| Schedule::default().with_first(Some(first));
    let (epochs, updates) = (Schedule::every_epochs, Schedule::every_updates);
    // (schedule, positions and whether probes were due there)
    type Row = (Schedule, Vec<(Position, bool)>);
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        // The first epoch trains with k0.
        (epochs(1), vec![(at(0, 0), false), (at(0, 9), false), (at(1, 10), true), (at(1, 11), false), (at(2, 20), true)]),
        (epochs(1).with_at_start(true), vec![(at(0, 0), true), (at(0, 1), false), (at(1, 10), true)]),
        (epochs(2), vec![(at(1, 10), false), (at(2, 20), true), (at(3, 30), false), (at(4, 40), true)]),
        (updates(5), vec![(at(0, 4), false), (at(0, 5), true), (at(0, 9), false), (at(1, 10), true)]),
        (updates(5).with_at_start(true), vec![(at(0, 0), true), (at(0, 4), false), (at(0, 5), true)]),
        // Epochs skipped by a resumed run are not made up for.
        (epochs(1), vec![(at(7, 70), true), (at(7, 71), false), (at(8, 80), true)]),
        // Doubling until the epoch (700 updates) is the shorter wait.
        (early(50), vec![(at(0, 49), false), (at(0, 50), true), (at(0, 99), false), (at(0, 100), true), (at(0, 200), true), (at(0, 399), false), (at(0, 400), true),
            (at(1, 700), true), (at(1, 800), false), (at(1, 1399), false), (at(2, 1400), true), (at(2, 2099), false), (at(3, 2100), true)]),
        // Short epochs come first.
        (early(50), vec![(at(0, 19), false), (at(1, 20), true), (at(1, 39), false), (at(2, 40), true), (at(3, 60), true)]),
        (early(50).with_at_start(true), vec![(at(0, 0), true), (at(0, 49), false), (at(0, 50), true)]),
        (early(50).with_every_updates(120), vec![(at(0, 50), true), (at(0, 100), true), (at(0, 200), true), (at(0, 319), false), (at(0, 320), true), (at(0, 440), true)]),
    ];
    for (schedule, visits) in rows {
        let monitor = MonitorConfig::default()
            .with_estimator(Estimator::Norms(BiasEstimator::new()))
            .with_schedule(schedule)
            .with_probes(4);
        let policies: [PolicyConfig; 3] = [
            config(0.5).into(),
            FixedKConfig::new(9).into(),
            RandomLengthConfig::new(9).into(),
        ];
        for policy in policies {
            let mut policy = policy.with_monitor(monitor).init().unwrap();
            for (position, due) in &visits {
                let request = policy.monitor().probes_due(*position);
                let expected = due.then_some(ProbeRequest::Norms { probes: 4 });
                assert_eq!(request, expected, "{schedule:?} {position}");
                if *due {
                    assert_eq!(request.unwrap().probes(), 4);
                    // An update without a usable probe waits for the next time as well.
                    policy.update(*position, norms(vec![nan_probe()], EXACT));
                }
            }
        }
    }
}

#[test]
fn fixed_k_reports_its_bias_and_never_moves() {
    let bare = FixedKConfig::new(9).init().unwrap();
    assert_eq!(bare.monitor().probes_due(at(5, 50)), None);
    assert_eq!((bare.k(), bare.k_max()), (9, 9));
    let exact = MonitorConfig::default().with_estimator(Estimator::Norms(BiasEstimator::new()));
    let watched = FixedKConfig::new(9).with_monitor(Some(exact));
    let mut watched = watched.init().unwrap();
    let decision = watched.update(at(1, 1), norms(vec![probe(0.8), nan_probe()], EXACT));
    assert_eq!(
        (decision.k, decision.reason, decision.unusable),
        (9, Reason::Fixed, 1)
    );
    assert!((decision.relative_bias.unwrap() - 0.8f64.powi(9)).abs() < 1e-5);
    let decision = watched.update(at(2, 2), norms(vec![probe(1.1)], EXACT));
    assert_eq!(decision.relative_bias, None);
    assert_eq!(
        (watched.next_window(), watched.monitor().history().len()),
        (NextWindow::new(9), 2)
    );
}

#[test]
fn restored_k_respects_changed_bounds() {
    let mut long = config(0.1).with_k0(40).init().unwrap();
    long.update(at(1, 1), norms(vec![probe(1.1)], EXACT));
    let mut short = config(0.1).with_k_max(20).init().unwrap();
    short.restore(long.save()).unwrap();
    assert_eq!(short.k(), 20);
}

proptest! {
    #[test]
    fn prop_controller_never_panics_and_stays_in_bounds(
        rows in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<f64>(), 2), 0..9), 0..5),
        betas in proptest::collection::vec(0.1f64..1.2, 0..4), delta in 0.01f64..=1.0, losses in 0usize..40, paper_s in any::<bool>(),
    ) {
        let mut probes: Vec<Probe> = rows.into_iter().map(LagNorms::new).collect();
        probes.extend(betas.iter().map(|b| probe(*b)));
        let count = probes.len();
        let config = if paper_s { paper(delta) } else { config(delta) };
        let mut policy = config.init().unwrap();
        let decision = policy.update(at(1, 1), norms(probes, Scheme::Strided { losses }));
        prop_assert!((3..=40).contains(&decision.k));
        prop_assert_eq!(decision.unusable + decision.probe_ks.len(), count);
        prop_assert!(decision.probe_ks.iter().all(|k| *k <= 40));
        let text = serde_json::to_string(&policy.save()).unwrap();
        prop_assert_eq!(serde_json::from_str::<PolicyState>(&text).unwrap(), policy.save());
    }

    #[test]
    fn prop_k_never_grows_with_the_tolerance(betas in proptest::collection::vec(0.1f64..1.1, 1..4), a in 0.01f64..1.0, b in 0.01f64..1.0, paper_s in any::<bool>()) {
        let k = |delta: f64| {
            let probes: Vec<Probe> = betas.iter().map(|b| probe(*b)).collect();
            let config = if paper_s { paper(delta) } else { config(delta) };
            config.with_k_max(61).init().unwrap().update(at(1, 1), norms(probes, EXACT)).k
        };
        prop_assert!(k(a.max(b)) <= k(a.min(b)));
    }

    /// Longer windows have less bias under every scheme, and a strided window less than one whose only loss keeps K lags.
    #[test]
    fn prop_the_scheme_s_bias_falls_with_k(beta in 0.3f64..0.99, losses in 1usize..80, k in 1usize..100) {
        let bias = |scheme, k| {
            let mut policy = FixedKConfig::new(1).init().unwrap();
            policy.update(at(1, 1), norms(vec![probe(beta)], scheme));
            policy.monitor().last_estimate().unwrap().relative_bias(k)
        };
        for scheme in [Scheme::Strided { losses }, Scheme::Overlapping, Scheme::Chunked] {
            prop_assert!(bias(scheme, k + 1) <= bias(scheme, k) * (1.0 + 1e-12));
        }
        let slack = 1.0 + 1e-12;
        let strided = bias(Scheme::Strided { losses }, k);
        prop_assert!(strided <= bias(EXACT, k) * slack);
        prop_assert!(bias(EXACT, k) <= bias(Scheme::Chunked, k) * slack);
    }
}

/// The lengths that the controller took, window by window, and none of its probes.
#[test]
fn a_replay_takes_the_lengths_of_the_run_it_replays() {
    let mut adaptive = config(0.5).init().unwrap();
    let mut taken = Vec::new();
    for window in 0..40_u64 {
        // Probes before windows 10, 20 and 30.
        if window > 0 && window % 10 == 0 {
            let beta = [0.9, 0.5, 0.8][window as usize / 10 - 1];
            let measured = norms(vec![probe(beta)], EXACT);
            adaptive.update(at(window as usize / 10, window), measured);
        }
        taken.push(adaptive.next_window().k);
    }
    assert_eq!([taken[9], taken[10], taken[20], taken[30]], [15, 7, 3, 4]);
    let config = ScheduledKConfig::replay(15, adaptive.monitor().history());
    assert_eq!(config.changes, [(0, 15), (10, 7), (20, 3), (30, 4)]);
    let mut replay = config.init().unwrap();
    let replayed: Vec<usize> = (0..40).map(|_| replay.next_window().k).collect();
    assert_eq!(replayed, taken);
    assert_eq!((replay.k(), replay.k_max()), (4, 15));
    assert_eq!(replay.monitor().probes_due(at(9, 900)), None);
}
