//! What an estimate answers: the bias at every K, the tail, noise.

use super::*;

#[test]
fn pure_noise_is_noise_limited() {
    let mut rng = Pcg64::seed_from_u64(7);
    let mut limited = 0;
    for _ in 0..400 {
        let probes = noisy(&mut rng, &[0.0, 0.0], 5, 50, 1.0);
        let estimate = statistics(5, 1, &[0, 4], &probes)
            .estimate(strided(1))
            .unwrap();
        limited += usize::from(matches!(
            estimate.outcome(),
            DirectOutcome::NoiseLimited { .. }
        ));
    }
    // Ĉ above twice its error by chance alone.
    assert!(limited >= 388, "{limited} of 400");
    // The same noise around a gradient that stands out.
    let probes = noisy(&mut rng, &[8.0, 4.0], 5, 50, 1.0);
    let estimate = statistics(5, 1, &[0, 4], &probes)
        .estimate(strided(1))
        .unwrap();
    assert_eq!(estimate.outcome(), DirectOutcome::Usable);
    assert!((estimate.relative_bias(1) - 1.0 / 3.0).abs() < 0.2);
}

#[test]
fn two_probes_give_an_estimate_without_an_error() {
    let probes = noisy(&mut Pcg64::seed_from_u64(1), &[8.0, 4.0], 2, 5, 0.1);
    let estimate = statistics(5, 1, &[0, 4], &probes)
        .estimate(strided(1))
        .unwrap();
    assert!((estimate.relative_bias(1) - 1.0 / 3.0).abs() < 0.1);
    assert_eq!(estimate.standard_error(1), f64::INFINITY);
    let outcome = estimate.outcome();
    assert!(matches!(
        outcome,
        DirectOutcome::NoiseLimited {
            standard_error: None,
            ..
        }
    ));
    assert!(outcome.to_string().contains("at least three"), "{outcome}");
    assert_eq!(estimate.k_interval(0.5, 1.0), (1, 5));
}

/// Squared biases 1, 9, 4 at K = 1, 2, 4 of a gradient of 100: the maximum from the right is 9, 9, 4; half way between K = 2
/// and 4 lies the geometric mean; towards the window's end, where nothing is dropped, a straight line.
#[test]
fn the_curve_is_the_running_maximum_joined_in_the_logarithm() {
    // One dimension per piece sum: d(c) = 1, 3, 2, 0 times the direction; pieces are the differences.
    let pieces = [9.0, -2.0, 1.0, 2.0];
    let probe: Probe = pieces.iter().map(|p| vec![*p]).collect();
    let estimate = statistics(8, 1, &[0, 1, 3, 7], &vec![probe; 4])
        .estimate(strided(1))
        .unwrap();
    let expected = [
        0.3,
        0.3,
        0.3 * (2.0f64 / 3.0).sqrt(),
        0.2,
        0.15,
        0.1,
        0.05,
        0.0,
    ];
    for (k, expected) in (1..=8).zip(expected) {
        let got = estimate.relative_bias(k);
        assert!((got - expected).abs() < 1e-12, "K = {k}: {got} {expected}");
    }
    assert_eq!(estimate.relative_bias(100), 0.0);
    assert_eq!(estimate.relative_bias(0), estimate.relative_bias(1));
    for (delta, k) in [
        (0.31, 1),
        (0.3, 1),
        (0.25, 3),
        (0.2, 4),
        (0.12, 6),
        (1e-9, 8),
    ] {
        assert_eq!(estimate.smallest_k(delta), Some(k), "delta {delta}");
    }
    assert_eq!(estimate.smallest_k(f64::NAN), None);
    // No noise: every probe says the same, and nothing else is consistent.
    assert_eq!(estimate.k_interval(0.2, 2.0), (4, 4));
}

/// d(c) = β^c beyond a window of 40 steps: what it shows is β^c − β^39, and the fit finds the rest.
#[test]
fn the_tail_beyond_the_window_is_found_and_named() {
    let contexts = [0, 2, 5, 9, 14, 20, 27, 33, 39];
    let estimate = |beta: f64| {
        let shown = |c: usize| beta.powi(c as i32) - beta.powi(39);
        let dropped: Vec<f64> = contexts.iter().map(|c| shown(*c)).collect();
        // The window's gradient is d(0) and one unit of what no truncation drops.
        let mut pieces = vec![1.0];
        pieces.extend(dropped.windows(2).map(|pair| pair[0] - pair[1]));
        let mut rng = Pcg64::seed_from_u64(11);
        let probes = noisy(&mut rng, &pieces, 10, 1, 1e-4);
        statistics(40, 1, &contexts, &probes)
            .estimate(strided(1))
            .unwrap()
    };
    let long = estimate(0.95);
    let size = 2.0 - 0.95f64.powi(39);
    for k in [3, 10, 21, 40, 60] {
        let expected = 0.95f64.powi(k as i32 - 1) / size;
        let got = long.relative_bias(k);
        assert!(
            (got / expected - 1.0).abs() < 0.05,
            "K = {k}: {got} {expected}"
        );
    }
    // 0.95^39 = 0.135 of 1.865: 7 % of the gradient.
    assert_eq!(long.outcome(), DirectOutcome::Usable);
    let outcome = long.outcome_for(0.5);
    assert!(matches!(
        outcome,
        DirectOutcome::WindowTooShort {
            window: 40,
            share: Some(_)
        }
    ));
    assert!(
        outcome.to_string().contains("about 7 % of the gradient"),
        "{outcome}"
    );
    assert_eq!(long.smallest_k(0.05), None);
    let endless = estimate(0.9999);
    let outcome = endless.outcome();
    assert!(
        matches!(outcome, DirectOutcome::WindowTooShort { share: None, .. }),
        "{outcome}"
    );
    assert!(outcome.to_string().contains("no decay"), "{outcome}");
    let short = estimate(0.7);
    assert_eq!(short.outcome_for(0.01), DirectOutcome::Usable);
    assert!(short.relative_bias(40) < 1e-3);
}

/// d(c) = 0.95^c again, by five probes so noisy that hardly one far cut stands out of its error: together they show the tail all the
/// same, of its size in the median, in nearly all of a hundred draws. (A fit to those that stand out alone found it in five.)
#[test]
fn the_tail_is_found_where_no_single_cut_would_show_it() {
    let contexts = [0, 2, 5, 9, 14, 20, 27, 33, 39];
    let shown = |c: usize| 0.95f64.powi(c as i32) - 0.95f64.powi(39);
    let dropped: Vec<f64> = contexts.iter().map(|c| shown(*c)).collect();
    let mut pieces = vec![1.0];
    pieces.extend(dropped.windows(2).map(|pair| pair[0] - pair[1]));
    let mut tails: Vec<f64> = (0..100)
        .map(|seed| {
            let mut rng = Pcg64::seed_from_u64(seed);
            let probes = noisy(&mut rng, &pieces, 5, 16, 0.05);
            let estimate = statistics(40, 1, &contexts, &probes)
                .estimate(strided(1))
                .unwrap();
            estimate.relative_bias(40) * estimate.gradient_square().max(0.0).sqrt()
        })
        .collect();
    tails.sort_by(f64::total_cmp);
    let found = tails.iter().filter(|tail| **tail > 0.0).count();
    assert!(found >= 85, "{found} of 100");
    let ratio = tails[50] / 0.95f64.powi(39);
    assert!((0.6..1.5).contains(&ratio), "{ratio}");
}

/// Squared bias that the noise turned negative: estimate 0, limit above it.
#[test]
fn a_negative_square_is_zero_with_a_limit() {
    let probes: Vec<Probe> = [[1.0, 0.5], [-1.0, 0.5], [0.1, -0.8]]
        .map(|d| vec![vec![0.0, 0.0, 9.0], vec![d[0], d[1], 0.0]])
        .to_vec();
    let estimate = statistics(5, 1, &[0, 4], &probes)
        .estimate(strided(1))
        .unwrap();
    assert!(estimate.bias_squares()[0] < 0.0);
    assert_eq!(estimate.relative_bias(1), 0.0);
    let upper = estimate.upper_limit(1);
    assert!(upper > 0.0 && upper < 0.2, "{upper}");
    assert!(
        estimate.describe(1).contains("bias at most 0."),
        "{}",
        estimate.describe(1)
    );
    assert_eq!(
        estimate.updates_until_bias_outweighs_noise(1),
        f64::INFINITY
    );
    // A tolerance that the limit encloses is not told from K = 1.
    assert_eq!(estimate.k_interval(upper / 2.0, 2.0).0, 1);
}

#[test]
fn a_gradient_below_zero_compares_with_nothing() {
    let probes: Vec<Probe> = [[1.0, 0.0], [-1.0, 0.1], [0.0, 0.0]]
        .map(|g| vec![g.to_vec(), vec![0.0, 0.0]])
        .to_vec();
    let statistics = statistics(5, 1, &[0, 4], &probes);
    assert_eq!(statistics.relative_biases(), [None, None]);
    let estimate = statistics.estimate(strided(1)).unwrap();
    assert_eq!(estimate.relative_bias(1), f64::INFINITY);
    assert_eq!(estimate.smallest_k(0.9), None);
    assert_eq!(estimate.noise_scale(), f64::INFINITY);
    assert!(matches!(
        estimate.outcome(),
        DirectOutcome::NoiseLimited { .. }
    ));
    assert!(estimate.describe(3).contains("noise-limited"));
}

/// Ĉ = 100, tr V = 12, bias ½ at K = 1: N/S = 0.12, n* = 0.12/0.25. With √(0.12/3) = 0.2 per epoch of three updates.
#[test]
fn noise_sets_a_floor_for_the_tolerance() {
    // Whole gradients (10, ±a) with a² · 3/2 … four probes of signs +, −, +, −: within 100 + a², between 100 − a²/3.
    let a = 3.0;
    let probes: Vec<Probe> = [a, -a, a, -a]
        .map(|noise| vec![vec![5.0, noise], vec![5.0, 0.0]])
        .to_vec();
    let statistics = statistics(5, 1, &[0, 4], &probes);
    assert!(close(statistics.gradient_square(), 97.0, 1e-12));
    assert!(close(statistics.noise_trace(), 12.0, 1e-12));
    let estimate = statistics.estimate(strided(1)).unwrap();
    let scale = 12.0 / 97.0;
    assert!(close(estimate.noise_scale(), scale, 1e-12));
    assert!(close(
        estimate.updates_until_bias_outweighs_noise(1),
        12.0 / 25.0,
        1e-12
    ));
    assert!(close(
        estimate.effective_tolerance(0.1, 3.0),
        (scale / 3.0).sqrt(),
        1e-12
    ));
    assert_eq!(estimate.effective_tolerance(0.5, 3.0), 0.5);
    // An update of twice the losses has half the noise.
    let twice = statistics.estimate(strided(2)).unwrap();
    let bias = twice.relative_bias(1);
    let expected = scale / 2.0 / (bias * bias);
    assert!(close(
        twice.updates_until_bias_outweighs_noise(1),
        expected,
        1e-12
    ));
}

/// b(j) = 2^−j at j kept lags: the means of BPTT(2K−1; K), of chunks and of strided windows, from probes of m = 2.
#[test]
fn every_scheme_has_its_own_mean_of_the_bias() {
    let window = 40;
    let b = |j: usize| 0.5f64.powi(j as i32);
    let d = |c: usize| (b(c + 1) + b(c + 2)) / 2.0;
    let contexts: Vec<usize> = (0..window).collect();
    let mut pieces = vec![1.0];
    pieces.extend((1..window).map(|c| d(c - 1) - d(c)));
    let probe: Probe = pieces.iter().map(|p| vec![*p]).collect();
    let statistics = statistics(window, 2, &contexts, &vec![probe; 3]);
    let size = 1.0 + d(0);
    let mean = |lags: std::ops::RangeInclusive<usize>| {
        let count = lags.clone().count() as f64;
        lags.map(b).sum::<f64>() / count / size
    };
    for k in [2, 4, 6] {
        for (scheme, expected) in [
            (Scheme::Overlapping, mean(k..=2 * k - 1)),
            (Scheme::Chunked, mean(1..=k)),
            (strided(2), mean(k..=k + 1)),
            (strided(6), mean(k..=k + 5)),
        ] {
            let got = statistics.estimate(scheme).unwrap().relative_bias(k);
            assert!(
                (got - expected).abs() < 1e-9,
                "{scheme:?} K = {k}: {got} {expected}"
            );
        }
    }
}
