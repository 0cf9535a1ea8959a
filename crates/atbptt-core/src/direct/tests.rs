mod average;
mod curve;

use super::caution::small_sample;
use super::spread::Spread;
use super::*;
use crate::{EstimateError, Scheme};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

/// Gradients of one probe, one vector per piece.
type Probe = Vec<Vec<f64>>;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn gram(probes: &[Probe]) -> Vec<f64> {
    let all: Vec<&Vec<f64>> = probes.iter().flatten().collect();
    let row = |a: &Vec<f64>| all.iter().map(|b| dot(a, b)).collect::<Vec<f64>>();
    all.iter().flat_map(|a| row(a)).collect()
}

fn statistics(
    window: usize,
    losses: usize,
    contexts: &[usize],
    probes: &[Probe],
) -> DirectStatistics {
    DirectStatistics::new(
        window,
        losses,
        contexts.to_vec(),
        probes.len(),
        gram(probes),
    )
    .unwrap()
}

fn strided(losses: usize) -> Scheme {
    Scheme::Strided { losses }
}

fn normal(rng: &mut Pcg64) -> f64 {
    StandardNormal.sample(rng)
}

/// Probes whose piece p is `signal[p]` times a fixed direction, plus noise of the given size in every coordinate.
fn noisy(rng: &mut Pcg64, signal: &[f64], probes: usize, size: usize, noise: f64) -> Vec<Probe> {
    let piece = |rng: &mut Pcg64, s: f64| {
        (0..size)
            .map(|i| f64::from(u8::from(i == 0)) * s + noise * normal(rng))
            .collect()
    };
    (0..probes)
        .map(|_| signal.iter().map(|s| piece(rng, *s)).collect())
        .collect()
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs())
}

/// What the variance of three probes counts for.
fn three_probes() -> f64 {
    let spread = Spread {
        shared: 0.0,
        pairs: 1.0,
    };
    small_sample(spread, 3)
}

/// Three probes, two pieces in two dimensions. Whole gradients (2, 1), (1, 1), (0, 3): products 3, 3, 3 between them, so
/// Ĉ = 3; behind the cut (1, 0), (0, 1), (0, 2): products 0, 0, 2, so Â = 2/3. Within: 5, 2, 9, so tr V = 16/3 − 3.
#[test]
fn u_statistics_match_a_sum_by_hand() {
    let probes = vec![
        vec![vec![1.0, 1.0], vec![1.0, 0.0]],
        vec![vec![1.0, 0.0], vec![0.0, 1.0]],
        vec![vec![0.0, 1.0], vec![0.0, 2.0]],
    ];
    let got = statistics(5, 1, &[0, 4], &probes);
    assert_eq!(got.gradient_square(), 3.0);
    let squares = got.bias_squares();
    assert!(close(squares[0], 2.0 / 3.0, 1e-15) && squares[1] == 0.0);
    assert!(close(got.noise_trace(), 16.0 / 3.0 - 3.0, 1e-15));
    let estimate = got.estimate(strided(1)).unwrap();
    assert!(close(
        estimate.relative_bias(1),
        (2.0 / 9.0f64).sqrt(),
        1e-15
    ));
    // Means (1, 5/3) and (1/3, 1).
    let plug_in = got.plug_in_relative_biases()[0].unwrap();
    assert!(close(
        plug_in,
        ((10.0 / 9.0) / (34.0 / 9.0f64)).sqrt(),
        1e-12
    ));
    // Without probe 1: Ĉ = 3 whichever is left out, so no error; Â is 2, 0 and 0.
    assert_eq!(estimate.gradient_square_error(), Some(0.0));
    // Jackknife of (2, 0, 0): 2/3 · ((4/3)² + 2 · (2/3)²) = 16/9, standard error 4/3, widened for three probes.
    let error = 4.0 / 3.0 * three_probes().sqrt();
    let upper = ((2.0 / 3.0 + 2.0 * error) / 3.0f64).sqrt();
    assert!(close(estimate.upper_limit(1), upper, 1e-12));
    // The logarithm of 0 leaves only the limit one error above.
    let one_above = ((2.0 / 3.0 + error) / 3.0f64).sqrt();
    assert!(close(
        estimate.standard_error(1),
        one_above - (2.0 / 9.0f64).sqrt(),
        1e-12
    ));
}

/// In one dimension, h_12 = 8, h_13 = 4, h_23 = 2 behind the cut, 9 + h in all: Â = 14/3, Ĉ = 41/3, δ̂² = x = 14/41. Â − x Ĉ is the mean of
/// (1 − x) h − 9 x, whose variance is that of three probes, (1 − x)² · 4/3 · (28 − 56/3).
#[test]
fn the_error_is_that_of_the_difference_from_the_share() {
    let probes: Vec<Probe> = [4.0, 2.0, 1.0]
        .map(|v| vec![vec![0.0, 3.0], vec![v, 0.0]])
        .to_vec();
    let estimate = statistics(5, 1, &[0, 4], &probes)
        .estimate(strided(1))
        .unwrap();
    let bias = estimate.relative_bias(1);
    assert!(close(bias, (14.0 / 41.0f64).sqrt(), 1e-12));
    let error = 27.0 / 41.0 * (4.0 / 3.0 * 28.0 / 3.0f64).sqrt();
    let wide = three_probes();
    let expected = bias * wide.sqrt() * error / (2.0 * 14.0 / 3.0);
    assert!(close(estimate.standard_error(1), expected, 1e-12));
    let (measured, of_measured) = estimate.as_measured(1).unwrap();
    assert!(close(measured, bias, 1e-12) && close(of_measured, expected, 1e-12));
    // A tolerance that lies z errors of its own difference away is just told apart; what is added for so few probes is that of δ̂.
    let (unit, y) = ((4.0 / 3.0 * 28.0 / 3.0f64).sqrt(), 0.2);
    let own = ((1.0 - y) * unit).hypot((wide - 1.0).sqrt() * error);
    let z = (14.0 / 3.0 - y * 41.0 / 3.0) / own;
    assert_eq!(estimate.k_interval(y.sqrt(), 1.001 * z).0, 1);
    assert_ne!(estimate.k_interval(y.sqrt(), 0.999 * z).0, 1);
}

/// A population of windows, all draws of n = 2 probes of B windows each with replacement: whatever B, the mean of Â is the
/// squared norm of the population's mean.
#[test]
fn the_mean_over_all_draws_is_the_squared_mean_for_any_batch_size() {
    let mut rng = Pcg64::seed_from_u64(3);
    let population: Vec<Probe> = noisy(&mut rng, &[0.5, 0.3], 4, 3, 1.0);
    let mean = |of: &[usize]| -> Probe {
        let pieces = 0..2;
        let size = of.len() as f64;
        let entry = |piece: usize, i: usize| {
            of.iter().map(|w| population[*w][piece][i]).sum::<f64>() / size
        };
        pieces
            .map(|piece| (0..3).map(|i| entry(piece, i)).collect())
            .collect()
    };
    let everything = mean(&[0, 1, 2, 3]);
    let expected = dot(&everything[1], &everything[1]);
    for batch in [1, 2, 3] {
        let draws = 4usize.pow(batch);
        let windows =
            |draw: usize| -> Vec<usize> { (0..batch).map(|i| draw / 4usize.pow(i) % 4).collect() };
        let mut sum = 0.0;
        for first in 0..draws {
            for second in 0..draws {
                let probes = [mean(&windows(first)), mean(&windows(second))];
                sum += statistics(5, 1, &[0, 4], &probes).bias_squares()[0];
            }
        }
        let got = sum / (draws * draws) as f64;
        assert!(
            close(got, expected, 1e-12),
            "batch {batch}: {got} {expected}"
        );
    }
}

#[test]
fn refuses_what_no_probe_can_have_measured() {
    let two = vec![1.0; 4 * 2 * 2];
    let new = DirectStatistics::new;
    let cuts = || vec![0, 4];
    assert_eq!(
        new(5, 1, cuts(), 1, vec![1.0; 4]).unwrap_err(),
        EstimateError::TooFewProbes { needed: 2, got: 1 }
    );
    assert!(matches!(
        new(5, 0, cuts(), 2, two.clone()),
        Err(EstimateError::Zero { .. })
    ));
    assert_eq!(
        new(5, 4, cuts(), 2, two.clone()).unwrap_err(),
        EstimateError::ShortWindow {
            window: 5,
            losses: 4
        }
    );
    for contexts in [vec![], vec![1, 4], vec![0, 0], vec![0, 3, 2], vec![0, 5]] {
        let got = new(5, 1, contexts, 2, two.clone());
        assert!(
            matches!(got, Err(EstimateError::Contexts { .. })),
            "{got:?}"
        );
    }
    assert!(matches!(
        new(5, 1, cuts(), 3, two.clone()),
        Err(EstimateError::Length { expected: 36, .. })
    ));
    assert!(matches!(
        new(5, 1, cuts(), usize::MAX, two.clone()),
        Err(EstimateError::Length { .. })
    ));
    assert!(matches!(
        new(usize::MAX, 1, cuts(), 2, two.clone()),
        Err(EstimateError::OutOfRange { .. })
    ));
    for (at, value) in [(1, f64::NAN), (1, f64::INFINITY), (0, -1.0), (1, 2.0)] {
        let mut gram = two.clone();
        gram[at] = value;
        let got = new(5, 1, cuts(), 2, gram);
        assert!(
            matches!(got, Err(EstimateError::NotProducts { .. })),
            "{at} {value}: {got:?}"
        );
    }
    let good = new(5, 1, cuts(), 2, two).unwrap();
    assert!(good.estimate(strided(0)).is_err());
}

#[test]
fn numbers_survive_json_and_are_checked_there() {
    let probes = noisy(&mut Pcg64::seed_from_u64(5), &[8.0, 4.0, 1.0], 4, 6, 0.3);
    let statistics = statistics(9, 2, &[0, 3], &probes);
    let both = statistics.clone().merge(statistics.clone()).unwrap();
    let drawn = statistics.clone().out_of(9).unwrap();
    for statistics in [statistics, both, drawn] {
        let text = serde_json::to_string(&statistics).unwrap();
        assert_eq!(
            serde_json::from_str::<DirectStatistics>(&text).unwrap(),
            statistics
        );
        let estimate = statistics.estimate(Scheme::Overlapping).unwrap();
        let text = serde_json::to_string(&estimate).unwrap();
        assert_eq!(
            serde_json::from_str::<DirectEstimate>(&text).unwrap(),
            estimate
        );
        for (good, bad) in [
            ("\"window\":9", "\"window\":0"),
            ("\"k\":1,", "\"k\":4,"),
            ("\"losses\":2", "\"losses\":0"),
        ] {
            let broken = text.replace(good, bad);
            assert!(
                broken != text && serde_json::from_str::<DirectEstimate>(&broken).is_err(),
                "{bad}"
            );
        }
    }
    let bad = r#"{"window":5,"losses":1,"contexts":[0,4],"probes":1,"gram":[1,1,1,1]}"#;
    assert!(serde_json::from_str::<DirectStatistics>(bad).is_err());
    let bad = r#"{"window":5,"losses":1,"contexts":[0],"probes":2,"gram":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"merged":[{"probes":2,"gram":[]}]}"#;
    assert!(serde_json::from_str::<DirectStatistics>(bad).is_err());
}

/// Four of six windows, as the formula has it; the more are left, the larger the error. Of merged probes nobody knows whether they are the same.
#[test]
fn different_windows_have_a_square_and_an_error_of_their_own() {
    let probes = noisy(&mut Pcg64::seed_from_u64(6), &[2.0, 1.0], 4, 3, 1.0);
    let independent = statistics(5, 1, &[0, 4], &probes);
    let of = |windows| independent.clone().out_of(windows);
    let all = of(4).unwrap();
    let plug_in = all.plug_in_relative_biases();
    for (bias, plug_in) in all.relative_biases().iter().zip(plug_in) {
        assert!(close(bias.unwrap(), plug_in.unwrap(), 1e-9));
    }
    let within = independent.noise_trace() + independent.gradient_square();
    let some = of(6).unwrap();
    let expected = (5.0 * independent.gradient_square() + within) / 6.0;
    assert!(close(some.gradient_square(), expected, 1e-9));
    assert!(close(some.noise_trace(), within - expected, 1e-9));
    let error = |s: &DirectStatistics| s.estimate(strided(1)).unwrap().gradient_square_error();
    assert!(error(&all) < error(&some) && error(&some) < error(&of(600).unwrap()));
    assert!(error(&of(600).unwrap()) < error(&independent));
    assert!(matches!(of(3), Err(EstimateError::OutOfRange { .. })));
    for (a, b) in [(&some, &some), (&some, &independent), (&independent, &some)] {
        let merged = a.clone().merge(b.clone());
        assert!(matches!(merged, Err(EstimateError::UnequalProbes { .. })));
    }
    let text = serde_json::to_string(&some).unwrap();
    for bad in [
        text.replace("\"population\":6", "\"population\":3"),
        text.replace(
            "\"population\"",
            r#""merged":[{"probes":2,"gram":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}],"population""#,
        ),
    ] {
        assert!(bad != text && serde_json::from_str::<DirectStatistics>(&bad).is_err());
    }
}

/// Two workers with two and three probes: means over 2 + 6 ordered pairs; a third of other cuts is refused.
#[test]
fn merged_probes_count_the_pairs_that_are_known() {
    let probes = noisy(&mut Pcg64::seed_from_u64(9), &[2.0, 1.0], 5, 4, 1.0);
    let whole = |probes: &[Probe]| statistics(5, 1, &[0, 4], probes);
    let (a, b) = (whole(&probes[..2]), whole(&probes[2..]));
    let merged = a.clone().merge(b.clone()).unwrap();
    assert_eq!(merged.probes(), 5);
    let expected = (2.0 * a.gradient_square() + 6.0 * b.gradient_square()) / 8.0;
    assert!(close(merged.gradient_square(), expected, 1e-12));
    // Without a probe of the first group none of its pairs are left: still a value.
    let estimate = merged.estimate(strided(1)).unwrap();
    assert!(estimate.gradient_square_error().is_some());
    let other = statistics(6, 1, &[0, 5], &probes);
    assert!(matches!(
        a.merge(other),
        Err(EstimateError::UnequalProbes { .. })
    ));
}

#[test]
fn default_cuts_are_about_a_dozen_and_end_at_the_window() {
    assert_eq!(default_contexts(0), Vec::<usize>::new());
    assert_eq!(default_contexts(1), [0]);
    assert_eq!(default_contexts(9), [0, 1, 2, 4, 7, 8]);
    assert_eq!(default_contexts(17), [0, 1, 2, 4, 7, 11, 16]);
    assert_eq!(
        default_contexts(100),
        [0, 1, 2, 4, 7, 11, 16, 23, 33, 48, 69, 99]
    );
    assert_eq!(
        default_contexts(400),
        [0, 1, 2, 4, 7, 11, 16, 30, 58, 110, 210, 399]
    );
    for window in 1..3000 {
        let contexts = default_contexts(window);
        assert!(contexts.len() <= 12 && contexts.last() == Some(&(window - 1)));
        assert!(
            contexts.windows(2).all(|pair| pair[0] < pair[1]),
            "{contexts:?}"
        );
    }
}

proptest! {
    /// The scale of the loss cancels, and the order of probes does not matter.
    #[test]
    fn prop_relative_biases_know_neither_scale_nor_order(
        seed in any::<u64>(), scale in 1e-6f64..1e6, probes in 3usize..6,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut all = noisy(&mut rng, &[2.0, 1.0, 0.5], probes, 4, 0.3);
        let before = statistics(12, 2, &[0, 4], &all).estimate(Scheme::Overlapping).unwrap();
        let turn = rng.random_range(0..probes);
        all.rotate_left(turn);
        all.swap(0, 1);
        all.iter_mut().flatten().flatten().for_each(|x| *x *= scale);
        let after = statistics(12, 2, &[0, 4], &all).estimate(Scheme::Overlapping).unwrap();
        for k in 1..=12 {
            let (a, b) = (before.relative_bias(k), after.relative_bias(k));
            prop_assert!(a == b || close(a, b, 1e-6), "K = {}: {} {}", k, a, b);
            let (a, b) = (before.upper_limit(k), after.upper_limit(k));
            prop_assert!(a == b || close(a, b, 1e-6), "K = {}: {} {}", k, a, b);
        }
        prop_assert_eq!(before.smallest_k(0.3), after.smallest_k(0.3));
    }

    /// Whatever the noise: no NaN, no growth with K, K(δ) within the tolerance and its interval.
    #[test]
    fn prop_answers_are_ordered(
        seed in any::<u64>(), noise in 0.0f64..3.0, delta in 0.01f64..1.0, probes in 2usize..7,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let all = noisy(&mut rng, &[2.0, 1.0, 0.5, 0.1], probes, 4, noise);
        for scheme in [strided(2), Scheme::Overlapping, Scheme::Chunked] {
            let estimate = statistics(20, 2, &[0, 4, 9], &all).estimate(scheme).unwrap();
            let curve: Vec<f64> = (1..=25).map(|k| estimate.relative_bias(k)).collect();
            prop_assert!(curve.iter().all(|x| !x.is_nan()));
            prop_assert!(curve.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-12)), "{:?}", curve);
            for k in 1..=20 {
                prop_assert!(!estimate.standard_error(k).is_nan() && estimate.standard_error(k) >= 0.0);
                prop_assert!(estimate.upper_limit(k) >= estimate.relative_bias(k) * (1.0 - 1e-12));
            }
            let (first, last) = estimate.k_interval(delta, 1.0);
            let k = estimate.smallest_k(delta);
            prop_assert!(1 <= first && first <= last && last <= 20);
            prop_assert!((first..=last).contains(&k.unwrap_or(20)));
            if let Some(k) = k {
                prop_assert!(estimate.relative_bias(k) <= delta);
                prop_assert!(k == 1 || estimate.relative_bias(k - 1) > delta);
            }
        }
    }
}
