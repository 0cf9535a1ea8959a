//! Every number of the reference file against this crate.
//!
//! The reference values come from an independent computation. `ATBPTT_GOLDEN` names their folder; by default it is
//! `../shared/golden` beside the workspace. Without the folder the tests say so and pass.
//!
//! The curves of the file start at one kept step: entry `i` is the bias of `K = i + 1`.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use atbptt_core::{Averaging, BiasEstimate, BiasEstimator, DecayFit, EstimateError, LagNorms, Tau};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    lags: usize,
    batch: usize,
    tau: usize,
    window: usize,
    gradient_norms: Vec<Vec<f64>>,
    phi: Vec<f64>,
    phi_log_mean: Vec<f64>,
    methods: BTreeMap<String, Method>,
}

#[derive(Deserialize)]
struct Method {
    log_beta: f64,
    log_absolute_bias: Vec<Option<f64>>,
    log_relative_bias: Vec<Option<f64>>,
    smallest_k: BTreeMap<String, Option<usize>>,
}

fn golden() -> Option<Golden> {
    let folder = std::env::var_os("ATBPTT_GOLDEN")
        .map_or_else(|| PathBuf::from("../../../shared/golden"), PathBuf::from);
    let path = folder.join("bias_estimator.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(error) => {
            println!("skipped: {}: {error}", path.display());
            None
        }
    }
}

fn fit(name: &str) -> DecayFit {
    match name {
        "max" => DecayFit::Max,
        "quantile_95" => DecayFit::Quantile(0.95),
        "ols_all" => DecayFit::LeastSquaresOfAllLags,
        "ols_tail" => DecayFit::LeastSquares,
        other => panic!("unknown method {other}"),
    }
}

/// 1e-9 relative, absolute below 1. Infinities agree with themselves: their difference is no number.
fn assert_close(got: f64, expected: f64, what: &str) {
    if got == expected {
        return;
    }
    let tolerance = 1e-9 * expected.abs().max(1.0);
    assert!(
        (got - expected).abs() <= tolerance,
        "{what}: got {got}, expected {expected}"
    );
}

/// 1e-9 relative, however small the number.
fn assert_close_relative(got: f64, expected: f64, what: &str) {
    assert!(
        (got - expected).abs() <= 1e-9 * expected.abs(),
        "{what}: got {got}, expected {expected}"
    );
}

fn assert_curve(got: impl Fn(usize) -> f64, expected: &[Option<f64>], what: &str) {
    for (i, expected) in expected.iter().enumerate() {
        let k = i + 1;
        match expected {
            Some(value) => assert_close(got(k), *value, &format!("{what}, K = {k}")),
            None => assert_eq!(got(k), f64::INFINITY, "{what}, K = {k}"),
        }
    }
}

fn assert_method(estimate: &BiasEstimate, method: &Method, what: &str) {
    assert_close(
        estimate.log_beta(),
        method.log_beta,
        &format!("{what}: log beta"),
    );
    assert_eq!(method.log_absolute_bias.len(), estimate.window() + 1);
    assert_eq!(method.log_relative_bias.len(), estimate.window() + 1);
    let absolute = |k| estimate.log_absolute_bias(k);
    assert_curve(
        absolute,
        &method.log_absolute_bias,
        &format!("{what}: absolute bias"),
    );
    let relative = |k| estimate.log_relative_bias(k);
    assert_curve(
        relative,
        &method.log_relative_bias,
        &format!("{what}: relative bias"),
    );
    for (delta, k) in &method.smallest_k {
        let got = estimate.smallest_k(delta.parse().unwrap());
        assert_eq!(got, *k, "{what}: smallest K for delta {delta}");
    }
}

/// A reference set may hold a profile that decays and yet has no relative bias, as G(j) never exceeds E(j): all of its
/// relative biases are infinite, and equal.
#[test]
fn golden_comparison_takes_infinities_that_agree() {
    let slow = LagNorms::new((0..20).map(|k| vec![0.99f64.powi(k); 2]).collect()).unwrap();
    let estimate = BiasEstimator::paper().estimate(&slow).unwrap();
    assert!(estimate.is_bounded());
    let method = Method {
        log_beta: estimate.log_beta(),
        log_absolute_bias: (1..=20)
            .map(|k| Some(estimate.log_absolute_bias(k)))
            .collect(),
        log_relative_bias: vec![None; 20],
        smallest_k: BTreeMap::from([("0.5".into(), None)]),
    };
    assert_method(&estimate, &method, "slow decay");
    let relative = estimate.log_relative_bias(3);
    assert_close(relative, relative, "a bias that is infinite");
}

#[test]
#[should_panic(expected = "got inf")]
fn golden_comparison_tells_an_infinity_from_a_number() {
    assert_close(f64::INFINITY, 1.0, "a bias");
}

#[test]
#[should_panic(expected = "got NaN")]
fn golden_comparison_takes_no_nan() {
    assert_close(f64::NAN, f64::NAN, "a bias");
}

#[test]
fn golden_profiles_agree_for_both_averages() {
    let Some(golden) = golden() else { return };
    for (i, case) in golden.cases.iter().enumerate() {
        let norms = LagNorms::new(case.gradient_norms.clone()).unwrap();
        assert_eq!(
            (norms.lags(), norms.sequences(), norms.window()),
            (case.lags, case.batch, case.window)
        );
        for (averaging, phi) in [
            (Averaging::MeanThenLog, &case.phi),
            (Averaging::LogThenMean, &case.phi_log_mean),
        ] {
            let got = norms.phi(averaging).unwrap();
            assert_eq!(got.len(), phi.len());
            for (k, (got, expected)) in got.iter().zip(phi).enumerate() {
                assert_close_relative(
                    *got,
                    *expected,
                    &format!("case {i}, {averaging:?}, lag {k}"),
                );
            }
        }
    }
}

#[test]
fn golden_bias_curves_agree_for_every_fit() {
    let Some(golden) = golden() else { return };
    assert!(!golden.cases.is_empty());
    for (i, case) in golden.cases.iter().enumerate() {
        let norms = LagNorms::new(case.gradient_norms.clone()).unwrap();
        assert!(!case.methods.is_empty(), "case {i}");
        for (name, method) in &case.methods {
            let estimator = BiasEstimator::paper()
                .with_tau(Tau::Lag(case.tau))
                .with_fit(fit(name));
            let estimate = estimator.estimate(&norms).unwrap();
            assert_method(&estimate, method, &format!("case {i}, {name}"));
            // The curves are defined by the profile alone: read from JSON they are the same.
            let stored = serde_json::to_string(&estimate).unwrap();
            assert_eq!(
                serde_json::from_str::<BiasEstimate>(&stored).unwrap(),
                estimate
            );
        }
    }
}

/// The geometric mean profile, fed as one sequence, goes through the same estimator as the profile of means does.
#[test]
fn golden_log_mean_profile_gives_the_curve_of_its_own_norms() -> Result<(), EstimateError> {
    let Some(golden) = golden() else {
        return Ok(());
    };
    for case in &golden.cases {
        let norms = LagNorms::new(case.gradient_norms.clone())?;
        let single = LagNorms::new(case.phi_log_mean.iter().map(|phi| vec![*phi]).collect())?;
        let estimator = BiasEstimator::paper().with_tau(Tau::Lag(case.tau));
        let got = estimator
            .with_averaging(Averaging::LogThenMean)
            .estimate(&norms)?;
        let expected = estimator.estimate(&single)?;
        for k in 0..=case.lags {
            assert_close(
                got.log_relative_bias(k),
                expected.log_relative_bias(k),
                "log mean",
            );
        }
    }
    Ok(())
}
