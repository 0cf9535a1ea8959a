//! Laws of the bias curve, and values computed by hand or by direct sums.

#![allow(clippy::unwrap_used)]

mod properties;

// Helpers outside of test functions may unwrap too: a panic is how a test fails.

use atbptt_core::{
    Averaging, BiasEstimate, BiasEstimator, DecayFit, EstimateError, GradientSize, LagNorms, Tau,
    k_interval, tail_bound,
};
use proptest::prelude::*;

const FITS: [DecayFit; 4] = [
    DecayFit::LeastSquaresOfAllLags,
    DecayFit::LeastSquares,
    DecayFit::Max,
    DecayFit::Quantile(0.95),
];

const SIZES: [GradientSize; 6] = [
    GradientSize::SumOfNorms,
    GradientSize::SumOfStateNorms,
    GradientSize::NormOfMeanSum,
    GradientSize::NormOfMeanStateSum,
    GradientSize::DebiasedNormOfMeanSum,
    GradientSize::DebiasedNormOfMeanStateSum,
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

/// phi = 4, 2, 1, 1/2, …: E(k) = 8 · 0.5^k at every k, inside the window, at tau and far beyond. Of a single sequence,
/// Lepski's rule leaves the last ten lags to the tail, the paper the last tenth.
#[test]
fn geometric_profile_has_the_geometric_sum_as_bias() {
    let norms = single(&(0..=20).map(|k| 4.0 * 0.5f64.powi(k)).collect::<Vec<_>>());
    for (estimator, tau) in [(BiasEstimator::new(), 10), (BiasEstimator::paper(), 18)] {
        for fit in FITS {
            let estimate = estimator.with_fit(fit).estimate(&norms).unwrap();
            assert_eq!(estimate.tau(), tau);
            for k in [0, 1, 5, 9, 10, 17, 18, 19, 20, 21, 22, 100] {
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
}

/// Slope log 0.5 for ten lags and log 0.9 after them, over a window of 60, with the truth to lag 2000. The default sums what
/// it saw; a fit over all lags, summed from tau on, makes the tail too short.
#[test]
fn what_was_measured_is_summed_as_measured() {
    let log_phi =
        |k: i32| f64::from(k.min(10)) * 0.5f64.ln() + f64::from((k - 10).max(0)) * 0.9f64.ln();
    let phi: Vec<f64> = (0..2000).map(|k| log_phi(k).exp()).collect();
    let norms = LagNorms::new(phi[..=60].iter().map(|x| vec![*x; 4]).collect()).unwrap();
    let truth = |k: usize| phi[k..].iter().sum::<f64>();
    let default = BiasEstimator::new().estimate(&norms).unwrap();
    assert!((10..=50).contains(&default.tau()), "{}", default.tau());
    assert!((default.beta() - 0.9).abs() < 1e-9);
    let paper = BiasEstimator::paper().with_tau(Tau::Fraction(0.5));
    let paper = paper.estimate(&norms).unwrap();
    for k in [1, 10, 30, 60, 61, 80] {
        assert!(
            (default.absolute_bias(k) / truth(k) - 1.0).abs() < 1e-9,
            "{k}"
        );
        assert!(paper.absolute_bias(k) < 0.95 * truth(k) || k < 30, "{k}");
    }
    // The tail beyond lag 60 is 1 % of all lags' sum, all of it beyond the window, and 10 · φ_61 of 10 · φ_50 from 50 on.
    assert!((default.tail_share(50) - 0.9f64.powi(11)).abs() < 1e-6);
    assert!(default.tau_is_moot(1) && !default.tau_is_moot(50));
    assert_eq!(default.tail_share(61), 1.0);
}

/// φ_0 belongs to the features: however large it is, the decay of the states is the same.
#[test]
fn lag_zero_takes_no_part_in_a_fit_unless_told_to() {
    let with = |first: f64, estimator: BiasEstimator| {
        let mut phi: Vec<f64> = (0..=40).map(|k| 0.8f64.powi(k)).collect();
        phi[0] = first;
        estimator.estimate(&single(&phi)).unwrap().log_beta()
    };
    // Of the 820 slopes between pairs of lags, 40 start at lag 0: they lie above the 0.99 quantile of the others.
    let fits = FITS
        .into_iter()
        .filter(|fit| !matches!(fit, DecayFit::Quantile(_)));
    for fit in fits.chain([DecayFit::Quantile(0.99)]) {
        // τ = 0 would let it in.
        let without = BiasEstimator::new().with_tau(Tau::Lag(0)).with_fit(fit);
        let states = with(1e-6, without);
        assert!((states - 0.8f64.ln()).abs() < 1e-12, "{fit:?}: {states}");
        let all = with(1e-6, without.with_fit_lag_zero(true));
        assert!(all > states + 0.01, "{fit:?}: {all}");
    }
    let paper = with(1e6, BiasEstimator::paper());
    assert!(paper < 1.1 * 0.8f64.ln(), "{paper}");
}

/// h_t = ½ h_{t−1} + w x_t, x_t = ±1, ∂L_s/∂h_s = 3 + x_{s−5}: ∂L_s/∂h_{s−k} = (3 + x_{s−5}) ½^k, and lag k contributes
/// (3 + x_{s−5}) ½^k x_{s−k} to ∂L_s/∂w. Its mean is ½^5 at k = 5 and 0 everywhere else, so that keeping five steps drops
/// *all* of the gradient. No reading of the gradient's size sees it.
#[test]
fn no_sum_of_state_norms_bounds_the_bias_of_the_parameter_gradient() {
    const WINDOW: usize = 13;
    // Every sequence of signs, so that means are expectations; entry k is x_{s−k}.
    let sequences: Vec<Vec<f64>> = (0..1usize << (WINDOW + 1))
        .map(|bits| {
            (0..=WINDOW)
                .map(|k| if bits >> k & 1 == 1 { 1.0 } else { -1.0 })
                .collect()
        })
        .collect();
    let count = sequences.len() as f64;
    let state_gradient = |x: &[f64], k: usize| (3.0 + x[5]) * 0.5f64.powi(k as i32);
    let mean =
        |term: &dyn Fn(&[f64]) -> f64| sequences.iter().map(|x| term(x)).sum::<f64>() / count;

    // The truth: parameter gradients through the kept lags and through all of them.
    let parameter = |kept: usize| mean(&|x| (0..kept).map(|k| state_gradient(x, k) * x[k]).sum());
    let whole = parameter(WINDOW + 1);
    assert_eq!(whole, 0.5f64.powi(5));
    assert_eq!(((parameter(5) - whole) / whole).abs(), 1.0);
    assert_eq!(parameter(6), whole);

    let rows = (0..=WINDOW).map(|k| sequences.iter().map(|x| state_gradient(x, k)).collect());
    let kept = |x: &[f64], j: usize| (0..j).map(|k| state_gradient(x, k)).sum::<f64>();
    let sizes = (0..=WINDOW + 1).map(|j| mean(&|x| kept(x, j)));
    let squares = (0..=WINDOW + 1).map(|j| mean(&|x| kept(x, j).powi(2)));
    let norms = LagNorms::new(rows.collect())
        .and_then(|norms| norms.with_mean_sum_norms(sizes.collect()))
        .and_then(|norms| norms.with_sum_squares(squares.collect()))
        .unwrap();
    for size in SIZES {
        for estimator in [BiasEstimator::new(), BiasEstimator::paper()] {
            let estimate = estimator.with_gradient_size(size).estimate(&norms).unwrap();
            let bias = estimate.relative_bias(5);
            assert!(bias < 0.07, "{size:?}: {bias} for a true bias of 1");
        }
    }
    let estimator = BiasEstimator::new().with_gradient_size(GradientSize::NormOfMeanSum);
    let bias = estimator.estimate(&norms).unwrap().relative_bias(5);
    assert!((bias - 0.031).abs() < 1e-3, "{bias}");
}

/// Two sequences whose gradients add up to √(U): the size enters as the square root, or not at all where U is negative.
#[test]
fn debiased_sizes_are_roots_of_the_products_between_sequences() {
    let norms = LagNorms::new((0..=20).map(|k| vec![0.5f64.powi(k); 2]).collect()).unwrap();
    let phi: Vec<f64> = norms.phi(Averaging::MeanThenLog).unwrap();
    let size = |j: usize| phi[..j].iter().sum::<f64>();
    // G² = 2 S², q = 3 S²: U = (2 · 2 − 3) S² = S².
    let with = |factor: f64| {
        let sizes = (0..=21).map(|j| 2f64.sqrt() * size(j)).collect();
        let squares = (0..=21).map(|j| factor * size(j).powi(2)).collect();
        norms
            .clone()
            .with_mean_sum_norms(sizes)
            .unwrap()
            .with_sum_squares(squares)
            .unwrap()
    };
    let debiased = BiasEstimator::new().with_gradient_size(GradientSize::DebiasedNormOfMeanSum);
    let (got, sum) = (
        debiased.estimate(&with(3.0)).unwrap(),
        BiasEstimator::new().estimate(&norms).unwrap(),
    );
    for k in 1..20 {
        assert!(
            (got.relative_bias(k) / sum.relative_bias(k) - 1.0).abs() < 1e-9,
            "{k}"
        );
    }
    assert_eq!(
        debiased.estimate(&with(5.0)).unwrap().relative_bias(3),
        f64::INFINITY
    );
    assert_eq!(
        debiased.estimate(&norms),
        Err(EstimateError::SumSquaresMissing)
    );
    // Without lag 0: U − U(1) = S² − 1.
    let states = BiasEstimator::new().with_gradient_size(GradientSize::DebiasedNormOfMeanStateSum);
    let states = states.estimate(&with(3.0)).unwrap();
    let scale = (1..=21)
        .map(|j| (size(j).powi(2) - 1.0).sqrt() - sum.absolute_bias(j))
        .fold(0.0, f64::max);
    assert!((states.relative_bias(3) * scale / sum.absolute_bias(3) - 1.0).abs() < 1e-9);
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
    for (tail_from_tau, first, dropped) in [(true, 3, 1e-30), (false, 5, 3e-30)] {
        let estimator = BiasEstimator::new()
            .with_tau(Tau::Lag(3))
            .with_tail_from_tau(tail_from_tau);
        let estimate = estimator.estimate(&single(&phi)).unwrap();
        assert_eq!(
            (estimate.log_beta(), estimate.log_absolute_bias(first)),
            (0.0, -50.0)
        );
        assert!((estimate.absolute_bias(2) / dropped - 1.0).abs() < 1e-9);
        assert_eq!(estimate.smallest_k(0.1), Some(2));
    }
}

#[test]
fn refuses_what_has_no_answer() {
    let estimator = BiasEstimator::new();
    let short = estimator.estimate(&single(&[1.0])).unwrap_err();
    assert_eq!(short, EstimateError::TooFewLags { needed: 3, got: 1 });
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
    // The shortest windows still have a tail: two lags, and lag 0 beside them unless it is one of the two.
    assert!(estimator.estimate(&geometric(0.5, 2)).is_ok());
    let two = estimator.estimate(&geometric(0.5, 1)).unwrap_err();
    assert_eq!(two, EstimateError::TooFewLags { needed: 3, got: 2 });
    assert!(BiasEstimator::paper().estimate(&geometric(0.5, 1)).is_ok());
}

/// Direct sums in f64, no logs: E(k), and the bracket over the given sizes.
#[test]
fn norm_of_mean_sum_agrees_with_direct_sums() {
    let window = 30;
    let norms = geometric(0.8, window);
    let phi: Vec<f64> = norms.phi(Averaging::MeanThenLog).unwrap();
    // Gradients that partly cancel: sizes well below the sum of norms, and not monotone.
    let sizes: Vec<f64> = (0..=phi.len())
        .map(|j| phi[..j].iter().sum::<f64>() * (0.6 + 0.2 * (j as f64).cos()))
        .collect();
    let norms = norms.with_mean_sum_norms(sizes.clone()).unwrap();
    for base in [BiasEstimator::new(), BiasEstimator::paper()] {
        let estimator = base.with_gradient_size(GradientSize::NormOfMeanSum);
        let estimate = estimator.estimate(&norms).unwrap();
        let (tau, beta) = (estimate.tau(), estimate.beta());
        assert!((beta - 0.8).abs() < 1e-12);
        let window = window as usize;
        let bias = |k: usize| match base.tail_from_tau {
            false if k <= window => {
                phi[k..].iter().sum::<f64>() + phi[window] * beta / (1.0 - beta)
            }
            false => phi[window] * beta.powi((k - window) as i32) / (1.0 - beta),
            true if k < tau => phi[k..tau].iter().sum::<f64>() + phi[tau] / (1.0 - beta),
            true => phi[tau] * beta.powi((k - tau) as i32) / (1.0 - beta),
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
        let sum = base.estimate(&norms).unwrap();
        assert!(
            sum.smallest_k(0.1) < estimate.smallest_k(0.1),
            "a smaller gradient asks for more"
        );
    }
}

/// Lag 0 left out of the size, and of nothing else: G(j) = Σ_{1≤k<j} φ_k, and √(‖Σ_{k<j}‖² − ‖g_0‖²).
#[test]
fn state_sizes_leave_lag_zero_out() {
    let window = 20;
    let norms = geometric(0.7, window);
    let phi: Vec<f64> = norms.phi(Averaging::MeanThenLog).unwrap();
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
