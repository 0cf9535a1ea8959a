//! The controller on the direct estimate, by scenario rows.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used)]

use atbptt_core::policy::*;
use atbptt_core::{DirectOutcome, DirectStatistics, EstimateError, Scheme};
use proptest::prelude::*;

/// Losses per window of the training, and per probe.
const LOSSES: usize = 4;
const SCHEME: Scheme = Scheme::Strided { losses: LOSSES };

/// Statistics of a window of 64 steps, cut at 0, 1, 2, 4, …, 32, whose dropped part d(c) has the size `share(c)` of a
/// gradient of length 1. `noise`: size of what each probe adds of its own, in a direction of its own for every piece.
/// `spread`: relative scatter of the probes' bias, the same for all cuts.
fn statistics(
    share: impl Fn(usize) -> f64,
    noise: f64,
    spread: &[f64],
) -> Result<DirectStatistics, EstimateError> {
    let contexts = vec![0, 1, 2, 4, 8, 16, 32];
    let probes = spread.len();
    let dropped: Vec<f64> = contexts.iter().map(|c| share(*c)).collect();
    // Pieces from the newest: what lies before each cut and not before the next.
    let mut pieces = vec![1.0 - dropped[0]];
    pieces.extend(dropped.windows(2).map(|pair| pair[0] - pair[1]));
    pieces.push(dropped[dropped.len() - 1]);
    let count = pieces.len();
    // The first piece keeps the whole gradient at 1 whatever the scatter.
    let value = |probe: usize, piece: usize| match piece {
        0 => 1.0 - dropped[0] * spread[probe],
        _ => pieces[piece] * spread[probe],
    };
    let mut gram = Vec::new();
    for (i, p) in (0..probes).flat_map(|i| (0..count).map(move |p| (i, p))) {
        for (j, q) in (0..probes).flat_map(|j| (0..count).map(move |q| (j, q))) {
            let own = if (i, p) == (j, q) { noise * noise } else { 0.0 };
            gram.push(value(i, p) * value(j, q) + own);
        }
    }
    DirectStatistics::new(64, LOSSES, contexts, probes, gram)
}

/// The bias falls to a half every two steps of context: δ(K) = 0.9 · ½^((K − 1)/2).
fn halving(context: usize) -> f64 {
    0.9 * 0.5f64.powf(context as f64 / 2.0)
}

/// Gradients of length 1 that point to and fro: (Σ s)² − n = 1 − 5 is below zero, and so is Ĉ.
fn noise() -> Result<DirectStatistics, EstimateError> {
    noise_of(5)
}

fn noise_of(probes: usize) -> Result<DirectStatistics, EstimateError> {
    let all = || (0..probes).flat_map(|i| [if i % 2 == 0 { 1.0 } else { -1.0 }, 0.0]);
    let gram = all().flat_map(|a| all().map(move |b| a * b)).collect();
    DirectStatistics::new(64, LOSSES, vec![0], probes, gram)
}

const EVEN: [f64; 5] = [1.0; 5];
const UNEVEN: [f64; 5] = [0.5, 0.8, 1.0, 1.2, 1.5];

fn at(update: u64) -> Position {
    Position { epoch: 0, update }
}

fn direct(statistics: Result<DirectStatistics, EstimateError>) -> Measurement {
    Measurement::Direct {
        statistics,
        scheme: SCHEME,
        updates_per_epoch: 100.0,
    }
}

fn config(delta: f64) -> AdaptiveKConfig {
    AdaptiveKConfig::new(delta)
        .with_estimator(Estimator::Direct)
        .with_k_min(2)
        .with_k0(15)
        .with_k_max(40)
}

#[test]
fn the_direct_estimate_is_the_default_and_asks_for_probes_of_its_own() {
    let policy = AdaptiveKConfig::new(0.5).init().unwrap();
    let due = policy.monitor().probes_due(at(50));
    assert_eq!(due, Some(ProbeRequest::Direct { probes: 5 }));
}

#[test]
fn one_update_by_scenario() {
    let slow = |context: usize| 0.99f64.powi(context as i32);
    type Row<'a> = (
        &'static str,
        f64,
        Result<DirectStatistics, EstimateError>,
        usize,
        Reason,
    );
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        ("0.9/4 = 0.225 at K = 5", 0.23, statistics(halving, 0.0, &EVEN), 5, Reason::ToleranceMet),
        ("0.9/2 = 0.45 at K = 3", 0.46, statistics(halving, 0.0, &EVEN), 3, Reason::ToleranceMet),
        ("1 step would do, k_min does not allow it", 1.0, statistics(halving, 0.0, &EVEN), 2, Reason::ClampedToMin),
        ("0.9 · ½^20 = 8.6e-7 at K = 41, one beyond k_max", 1e-6, statistics(halving, 0.0, &EVEN), 40, Reason::ClampedToMax),
        ("0.99^119 = 0.3 lies behind the window", 0.3, statistics(slow, 0.0, &EVEN), 40, Reason::WindowTooShort),
        ("noise hides the gradient: back to K₀", 0.5, noise(), 15, Reason::NoiseLimitedBackToK0),
        ("no statistics: K is kept", 0.5, Err(EstimateError::TooFewProbes { needed: 2, got: 1 }), 15, Reason::Unusable),
    ];
    for (why, delta, statistics, k, reason) in rows {
        let usable = statistics.is_ok();
        let mut policy = config(delta).init().unwrap();
        let decision = policy.update(at(50), direct(statistics));
        assert_eq!(
            (decision.k, decision.reason),
            (k, reason),
            "{why}: {decision}"
        );
        assert_eq!(policy.next_window(), NextWindow::new(k), "{why}");
        assert_eq!(decision.outcome.is_some(), usable, "{why}");
        assert_eq!(decision.unusable, if usable { 0 } else { 5 }, "{why}");
        assert_eq!((decision.tau, decision.log_beta), (None, None), "{why}");
        assert_eq!(
            reason.is_noise_limited(),
            reason == Reason::NoiseLimitedBackToK0
        );
        if reason == Reason::ToleranceMet {
            let bias = decision.relative_bias.unwrap();
            assert!((bias - halving(k - 1)).abs() < 1e-4, "{why}: {bias}");
        }
    }
}

/// A tolerance that no length in the window meets is "as long as possible", and says so.
#[test]
fn without_a_length_that_meets_the_tolerance_k_is_the_longest() {
    let mut policy = config(0.01).init().unwrap();
    let level = statistics(|_| 0.5, 0.0, &EVEN);
    let decision = policy.update(at(50), direct(level));
    assert_eq!(decision.k, 40);
    assert!(
        matches!(decision.reason, Reason::OutOfReach | Reason::WindowTooShort),
        "{decision}"
    );
}

#[test]
fn noise_may_keep_k_as_it_is() {
    let policy = config(0.23).with_keep_when_noise_limited(true);
    let mut policy = policy.with_monitor(policy_monitor(0.0)).init().unwrap();
    policy.update(at(50), direct(statistics(halving, 0.0, &EVEN)));
    let decision = policy.update(at(100), direct(noise()));
    assert_eq!((decision.k, decision.reason), (5, Reason::NoiseLimitedKept));
    assert!(matches!(
        decision.outcome,
        Some(DirectOutcome::NoiseLimited { .. })
    ));
}

fn policy_monitor(smoothing: f64) -> MonitorConfig {
    MonitorConfig::default()
        .with_estimator(Estimator::Direct)
        .with_smoothing(smoothing)
}

/// The probes that `policy` takes, of those that `measured` gives by their number.
fn take(
    policy: &mut impl TruncationPolicy,
    at: Position,
    measured: impl Fn(usize) -> Result<DirectStatistics, EstimateError>,
) -> Decision {
    let mut probes = policy.monitor().probes_due(at).unwrap().probes();
    loop {
        let so_far = direct(measured(probes));
        match policy.more_probes(&so_far) {
            0 => return policy.update(at, so_far),
            more => probes += more,
        }
    }
}

/// As many more as there are at first, while noise hides the gradient or K is open, up to the most.
#[test]
fn probes_are_added_until_k_is_known() {
    let slowly = |context: usize| 0.9 * 0.93f64.powi(context as i32);
    let scattered =
        |probes: usize| -> Vec<f64> { UNEVEN.into_iter().cycle().take(probes).collect() };
    type Row<'a> = (
        &'static str,
        &'a dyn Fn(usize) -> Result<DirectStatistics, EstimateError>,
        [usize; 4],
    );
    // At most 20, 12, 5 and 1.
    let rows: [Row; 5] = [
        (
            "clear",
            &|n| statistics(halving, 0.0, &vec![1.0; n]),
            [5, 5, 5, 5],
        ),
        ("noise", &noise_of, [20, 12, 5, 5]),
        (
            "scattered: ten say enough",
            &|n| statistics(slowly, 0.0, &scattered(n)),
            [10, 10, 5, 5],
        ),
        (
            "of no use",
            &|n| Err(EstimateError::TooFewProbes { needed: 9, got: n }),
            [5, 5, 5, 5],
        ),
        (
            "noise in seven windows, all there are",
            &|n| noise_of(n)?.out_of(7),
            [7, 7, 5, 5],
        ),
    ];
    for (why, measured, expected) in rows {
        for (most, expected) in [20, 12, 5, 1].into_iter().zip(expected) {
            let monitor = policy_monitor(0.5).with_max_probes(most);
            let mut policy = config(0.4).with_monitor(monitor).init().unwrap();
            let decision = take(&mut policy, at(50), measured);
            assert_eq!(
                decision.probes, expected,
                "{why}, at most {most}: {decision}"
            );
        }
    }
    // Whoever does not act on K asks for more only where noise hides the gradient.
    for (measured, expected) in [(rows[1].1, 20), (rows[2].1, 5)] {
        let fixed = FixedKConfig::new(9).with_monitor(Some(policy_monitor(0.5)));
        let mut fixed = fixed.init().unwrap();
        assert_eq!(take(&mut fixed, at(50), measured).probes, expected);
        let mut silent = FixedKConfig::new(9).with_monitor(None).init().unwrap();
        assert_eq!(silent.more_probes(&direct(measured(5))), 0);
        silent.update(at(50), direct(measured(5)));
    }
}

/// The bounds of K count: what is open beyond them is not worth a probe.
#[test]
fn lengths_that_k_may_not_have_are_not_left_open() {
    let slowly = |context: usize| 0.9 * 0.93f64.powi(context as i32);
    let measured = || statistics(slowly, 0.0, &UNEVEN);
    let (low, high) = measured()
        .unwrap()
        .estimate(SCHEME)
        .unwrap()
        .k_interval(0.4, 1.0);
    assert!(2 * high > 3 * low && low > 3, "{low} to {high}");
    for (k_min, k_max, expected) in [
        (2, 40, 5),
        (2, low, 0),
        (high, 40, 0),
        (low, 3 * low / 2, 0),
    ] {
        let k0 = k_min;
        let policy = config(0.4)
            .with_k_min(k_min)
            .with_k0(k0)
            .with_k_max(k_max)
            .init()
            .unwrap();
        assert_eq!(
            policy.more_probes(&direct(measured())),
            expected,
            "{k_min} to {k_max}"
        );
    }
}

/// Half of what was before, where the new estimate leaves K open; nothing of it where it does not.
#[test]
fn older_estimates_are_left_out_where_the_new_one_says_enough() {
    let half = |context: usize| halving(context) / 2.0;
    let mut policy = config(0.23)
        .with_monitor(policy_monitor(0.5))
        .init()
        .unwrap();
    policy.update(at(50), direct(statistics(halving, 0.0, &UNEVEN)));
    policy.update(at(100), direct(statistics(half, 0.0, &EVEN)));
    let bias = policy.monitor().last_estimate().unwrap().relative_bias(5);
    assert!((bias - half(4)).abs() < 1e-9, "{bias}");
    // The error does not forget that five probes scattered before.
    let direct = policy.monitor().last_estimate().unwrap().direct().cloned();
    let alone = statistics(half, 0.0, &EVEN)
        .unwrap()
        .estimate(SCHEME)
        .unwrap();
    assert!(direct.unwrap().standard_error(5) > alone.standard_error(5));
}

/// A scattered estimate cannot tell neighbouring lengths apart: K stays within its interval, and within a third of K(δ), and moves
/// from outside of them, to K(δ) itself.
#[test]
fn k_moves_only_when_it_lies_outside_the_interval() {
    let slowly = |context: usize| 0.9 * 0.93f64.powi(context as i32);
    let measured = || statistics(slowly, 0.0, &UNEVEN);
    let estimate = measured().unwrap().estimate(SCHEME).unwrap();
    let delta = 0.4;
    let target = estimate.smallest_k(delta).unwrap();
    let (low, high) = estimate.k_interval(delta, 1.0);
    let spread = [2, low, target, high, 20];
    assert!(spread.is_sorted_by(|a, b| a < b), "{spread:?}");
    for k0 in 2..=20 {
        let mut policy = config(delta).with_k0(k0).init().unwrap();
        let decision = policy.update(at(50), direct(measured()));
        let expected = match k0 {
            k if k == target => (target, Reason::ToleranceMet),
            k if (low..=high).contains(&k) && 3 * k <= 4 * target && 3 * target <= 4 * k => {
                (k, Reason::KeptByHysteresis)
            }
            _ => (target, Reason::ToleranceMet),
        };
        assert_eq!(
            (decision.k, decision.reason),
            expected,
            "from {k0}: {decision}"
        );
        // Without hysteresis K follows every estimate.
        let mut policy = config(delta)
            .with_k0(k0)
            .with_hysteresis(0.0)
            .init()
            .unwrap();
        assert_eq!(policy.update(at(50), direct(measured())).k, target);
    }
}

/// δ(5) is 0.225 and then half of it, with Ĉ = 1 twice, by two probes that know no error and so may be averaged. Averaged one to one, δ̂² = (1 + 1/4)/2 · 0.225².
#[test]
fn numerator_and_denominator_are_averaged_apart() {
    const PAIR: [f64; 2] = [1.0; 2];
    let half = |context: usize| halving(context) / 2.0;
    let mut policy = config(0.3)
        .with_monitor(policy_monitor(0.5))
        .init()
        .unwrap();
    policy.update(at(50), direct(statistics(halving, 0.0, &PAIR)));
    policy.update(at(100), direct(statistics(half, 0.0, &PAIR)));
    let bias = policy.monitor().last_estimate().unwrap().relative_bias(5);
    assert!((bias - 0.625f64.sqrt() * 0.225).abs() < 1e-4, "{bias}");
    // A measurement without an estimate leaves the average as it is.
    let error = EstimateError::TooFewProbes { needed: 2, got: 0 };
    policy.update(at(200), direct(Err(error)));
    assert_eq!(
        policy.monitor().last_estimate().unwrap().relative_bias(5),
        bias
    );
    // Another scheme is another quantity: the average starts afresh.
    let other = Measurement::Direct {
        statistics: statistics(halving, 0.0, &PAIR),
        scheme: Scheme::Overlapping,
        updates_per_epoch: 100.0,
    };
    policy.update(at(400), other);
    let fresh = statistics(halving, 0.0, &PAIR)
        .unwrap()
        .estimate(Scheme::Overlapping)
        .unwrap();
    let got = policy.monitor().last_estimate().unwrap().direct();
    assert_eq!(got, Some(&fresh));
}

/// A watched policy records what a direct estimate says and does not move.
#[test]
fn other_policies_watch_the_same_estimate() {
    let fixed = FixedKConfig::new(9).with_monitor(Some(policy_monitor(0.5)));
    let mut fixed = fixed.init().unwrap();
    let decision = fixed.update(at(50), direct(statistics(halving, 0.1, &UNEVEN)));
    assert_eq!((decision.k, decision.reason), (9, Reason::Fixed));
    assert_eq!((decision.delta, decision.effective_tolerance), (None, None));
    let estimate = statistics(halving, 0.1, &UNEVEN)
        .unwrap()
        .estimate(SCHEME)
        .unwrap();
    assert_eq!(decision.relative_bias, Some(estimate.relative_bias(9)));
    assert_eq!(decision.standard_error, Some(estimate.standard_error(9)));
    assert_eq!(decision.upper_limit, Some(estimate.upper_limit(9)));
    assert_eq!(
        decision.noisy_updates,
        Some(estimate.updates_until_bias_outweighs_noise(9))
    );
}

#[test]
fn decisions_read_as_sentences() {
    let mut policy = config(0.23).with_hysteresis(0.0).init().unwrap();
    let noisy = || statistics(halving, 0.2, &UNEVEN);
    let decision = policy.update(at(50), direct(noisy()));
    let text = decision.to_string();
    let estimate = noisy().unwrap().estimate(SCHEME).unwrap();
    let (bias, error) = (estimate.relative_bias(5), estimate.standard_error(5));
    let start = format!(
        "K = 5: bias {bias:.2} ± {error:.2} of the gradient; noise outweighs it for the next "
    );
    assert!(text.starts_with(&start), "{text}");
    let end =
        " updates; shortest length that meets the bias tolerance (after 0 epochs, 50 updates)";
    assert!(text.ends_with(end), "{text}");
    // In a line of an epoch the usual reason goes without saying.
    let brief = decision.explanation();
    assert!(
        text.starts_with(&format!("K = 5: {brief}; shortest")),
        "{brief}"
    );
    assert!(brief.ends_with(" updates"), "{brief}");
    let mut policy = config(0.5)
        .with_monitor(policy_monitor(0.0))
        .init()
        .unwrap();
    let text = policy.update(at(50), direct(noise())).to_string();
    assert!(
        text.starts_with("K = 15: back to the first length; noise-limited: "),
        "{text}"
    );
    assert!(!text.contains("bias "), "{text}");
}

#[test]
fn settings_of_the_direct_estimate_out_of_range_are_refused() {
    for (hysteresis, ok) in [
        (0.0, true),
        (3.0, true),
        (-1e-9, false),
        (f64::NAN, false),
        (f64::INFINITY, false),
    ] {
        assert_eq!(
            config(0.5).with_hysteresis(hysteresis).init().is_ok(),
            ok,
            "{hysteresis}"
        );
    }
    for (smoothing, ok) in [
        (0.0, true),
        (0.99, true),
        (1.0, false),
        (-0.1, false),
        (f64::NAN, false),
    ] {
        let config = config(0.5).with_monitor(policy_monitor(smoothing));
        assert_eq!(config.init().is_ok(), ok, "{smoothing}");
    }
    for (probes, ok) in [(0, false), (1, false), (2, true)] {
        assert_eq!(
            config(0.5).with_probes(probes).init().is_ok(),
            ok,
            "{probes}"
        );
    }
}

proptest! {
    /// Whatever the statistics, K stays in its bounds, every number is finite, and the state survives JSON exactly.
    #[test]
    fn prop_any_statistics_give_a_k_within_bounds(
        shares in proptest::collection::vec(-2.0f64..2.0, 7),
        spread in proptest::collection::vec(-2.0f64..2.0, 2..6),
        noise in 0.0f64..3.0, delta in 0.01f64..=1.0, keep in 0.0f64..0.99, losses in 0usize..80,
        updates_per_epoch in proptest::num::f64::ANY,
    ) {
        let contexts = [0usize, 1, 2, 4, 8, 16, 32];
        let share = |c: usize| shares[contexts.iter().position(|x| *x == c).unwrap()];
        let mut policy = config(delta).with_monitor(policy_monitor(keep)).init().unwrap();
        for (i, scheme) in [Scheme::Strided { losses }, Scheme::Strided { losses }, Scheme::Overlapping, Scheme::Chunked].into_iter().enumerate() {
            let statistics = statistics(share, noise, &spread);
            let measured = Measurement::Direct { statistics, scheme, updates_per_epoch };
            let decision = policy.update(at(50 * i as u64), measured);
            prop_assert!((2..=40).contains(&decision.k));
            let numbers = [decision.relative_bias, decision.standard_error, decision.upper_limit, decision.noisy_updates, decision.effective_tolerance];
            prop_assert!(numbers.iter().flatten().all(|x| x.is_finite() && *x >= 0.0), "{:?}", numbers);
            prop_assert!(!decision.to_string().contains("NaN"));
            let text = serde_json::to_string(&policy.save()).unwrap();
            prop_assert_eq!(serde_json::from_str::<PolicyState>(&text).unwrap(), policy.save());
        }
    }

    /// A restored controller goes on as the one that was saved, averages included.
    #[test]
    fn prop_averages_go_on_where_they_were_saved(keep in 0.0f64..0.99, noise in 0.0f64..1.0, stop in 0usize..4) {
        let make = || config(0.25).with_monitor(policy_monitor(keep)).init().unwrap();
        let spreads = [&EVEN, &UNEVEN, &EVEN, &UNEVEN];
        let run = |policy: &mut dyn TruncationPolicy, range: std::ops::Range<usize>| -> Vec<Decision> {
            range.map(|i| policy.update(at(i as u64), direct(statistics(halving, noise * i as f64, spreads[i])))).collect()
        };
        let mut whole = make();
        run(&mut whole, 0..stop);
        let mut resumed = make();
        let text = serde_json::to_string(&whole.save()).unwrap();
        resumed.restore(serde_json::from_str(&text).unwrap()).unwrap();
        prop_assert_eq!(run(&mut resumed, stop..4), run(&mut whole, stop..4));
        prop_assert_eq!(resumed.save(), whole.save());
    }
}
