//! What a bounded relative bias guarantees for stochastic gradient descent.
//!
//! Theory to read a tolerance by; no part of the control loop. Aicher et al. 2019, the convergence theorem: on a smooth,
//! possibly non-convex loss, SGD with relative bias at most δ < 1 converges at the rate of unbiased SGD. The bound after
//! N updates is 1/(1−δ) times as large ([`bound_growth`]), so that the *same* bound takes 1/(1−δ)² times as many updates
//! ([`slowdown`]), or ((1+δ)/(1−δ))² times as many where there is no noise ([`slowdown_without_noise`]).
//!
//! `delta` (δ): bound on the relative bias, in [0, 1); `smoothness` (L): Lipschitz constant of the gradient;
//! `gap` (D_L): first loss minus the smallest; `variance` (σ²): of the stochastic gradient; `steps` (γ_n): step sizes.

use crate::EstimateError;

/// How many times larger the bound on the squared gradient norm is under relative bias `delta`, after the same updates:
/// 1/(1−δ).
///
/// # Errors
/// [`EstimateError::OutOfRange`] unless `delta` lies in [0, 1).
pub fn bound_growth(delta: f64) -> Result<f64, EstimateError> {
    check_delta(delta)?;
    Ok(1.0 / (1.0 - delta))
}

/// How many times as many updates SGD needs under relative bias `delta` for the same bound: 1/(1−δ)².
///
/// With noise and the best constant step size, the bound after N updates is ∝ 1/((1−δ)√N).
///
/// # Errors
/// [`EstimateError::OutOfRange`] unless `delta` lies in [0, 1).
pub fn slowdown(delta: f64) -> Result<f64, EstimateError> {
    Ok(bound_growth(delta)?.powi(2))
}

/// The same without noise and with steps at [`max_step_size`]: ((1+δ)/(1−δ))², since the step, too, must be smaller.
///
/// # Errors
/// [`EstimateError::OutOfRange`] unless `delta` lies in [0, 1).
pub fn slowdown_without_noise(delta: f64) -> Result<f64, EstimateError> {
    Ok(((1.0 + delta) * bound_growth(delta)?).powi(2))
}

/// Step size that every γ_n must stay below: (1−δ) / (L (1+δ)²).
///
/// # Errors
/// [`EstimateError::OutOfRange`] unless `delta` lies in [0, 1) and `smoothness` is positive and finite.
pub fn max_step_size(delta: f64, smoothness: f64) -> Result<f64, EstimateError> {
    check_delta(delta)?;
    check_positive("the smoothness L", smoothness)?;
    Ok((1.0 - delta) / (smoothness * (1.0 + delta).powi(2)))
}

/// Bound on the smallest squared gradient norm met on the way:
/// min_n ‖g(θ_n)‖² ≤ (2 D_L + L σ² Σ γ_n²) / ((1−δ) Σ γ_n); `f64::INFINITY` where its terms leave the range of `f64`.
///
/// # Errors
/// [`EstimateError::OutOfRange`] unless `delta` lies in [0, 1), `smoothness` is positive, `gap` and `variance` are at
/// least 0, all finite, and every step size lies between 0 and [`max_step_size`], both excluded;
/// [`EstimateError::Zero`] for no steps.
pub fn gradient_norm_bound(
    delta: f64,
    smoothness: f64,
    gap: f64,
    variance: f64,
    steps: &[f64],
) -> Result<f64, EstimateError> {
    let limit = max_step_size(delta, smoothness)?;
    check_at_least_zero("the loss gap D_L", gap)?;
    check_at_least_zero("the gradient variance", variance)?;
    if steps.is_empty() {
        return Err(EstimateError::Zero {
            what: "the number of steps",
        });
    }
    for &step in steps {
        if !(step > 0.0 && step < limit) {
            return Err(EstimateError::OutOfRange {
                what: "a step size",
                rule: "above 0 and below (1-delta)/(L(1+delta)^2)",
                value: step,
            });
        }
    }
    let sum: f64 = steps.iter().sum();
    let squares: f64 = steps.iter().map(|step| step * step).sum();
    let bound = (2.0 * gap + smoothness * variance * squares) / ((1.0 - delta) * sum);
    // Beyond the range of f64 nothing is promised.
    Ok(if bound.is_nan() { f64::INFINITY } else { bound })
}

fn check_delta(delta: f64) -> Result<(), EstimateError> {
    if (0.0..1.0).contains(&delta) {
        Ok(())
    } else {
        Err(EstimateError::OutOfRange {
            what: "the relative bias delta",
            rule: "in [0, 1)",
            value: delta,
        })
    }
}

fn check_positive(what: &'static str, value: f64) -> Result<(), EstimateError> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(EstimateError::OutOfRange {
            what,
            rule: "positive and finite",
            value,
        })
    }
}

fn check_at_least_zero(what: &'static str, value: f64) -> Result<(), EstimateError> {
    if value >= 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(EstimateError::OutOfRange {
            what,
            rule: "finite and at least 0",
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// δ = 0.5, L = 2: 0.5 / (2 · 2.25) = 1/9. Two steps of 0.1, D = 1, σ² = 3:
    /// (2 + 2·3·0.02) / (0.5 · 0.2) = 21.2.
    #[test]
    fn closed_forms() {
        assert_eq!(bound_growth(0.5).unwrap(), 2.0);
        assert_eq!(slowdown(0.5).unwrap(), 4.0);
        assert_eq!(slowdown_without_noise(0.5).unwrap(), 9.0);
        assert!((max_step_size(0.5, 2.0).unwrap() - 1.0 / 9.0).abs() < 1e-15);
        assert!(
            (gradient_norm_bound(0.5, 2.0, 1.0, 3.0, &[0.1, 0.1]).unwrap() - 21.2).abs() < 1e-12
        );
    }

    /// What `slowdown` says, against the bound itself: as many updates of the best constant step as it says reach, under
    /// bias, what 10,000 reach without. N γ² L σ² = 2 D gives that step.
    #[test]
    fn slowdown_many_updates_reach_the_same_bound() {
        let (smoothness, gap, variance, updates) = (1.0, 1.0, 1.0, 10_000.0);
        for delta in [0.1, 0.5, 0.8] {
            let bound = |delta: f64, updates: f64, step: f64| {
                let steps = vec![step; updates.round() as usize];
                gradient_norm_bound(delta, smoothness, gap, variance, &steps).unwrap()
            };
            let best = |updates: f64| (2.0 * gap / (smoothness * variance * updates)).sqrt();
            let more = updates * slowdown(delta).unwrap();
            let (clean, biased) = (
                bound(0.0, updates, best(updates)),
                bound(delta, more, best(more)),
            );
            assert!(
                (biased / clean - 1.0).abs() < 1e-3,
                "{delta}: {biased} {clean}"
            );
            let same = bound(delta, updates, best(updates)) / clean;
            assert!(
                (same - bound_growth(delta).unwrap()).abs() < 1e-9,
                "{delta}: {same}"
            );

            let still = |delta: f64, updates: f64| {
                let step = 0.999 * max_step_size(delta, smoothness).unwrap();
                let steps = vec![step; updates.round() as usize];
                gradient_norm_bound(delta, smoothness, gap, 0.0, &steps).unwrap()
            };
            let more = updates * slowdown_without_noise(delta).unwrap();
            let ratio = still(delta, more) / still(0.0, updates);
            assert!((ratio - 1.0).abs() < 1e-3, "{delta}: {ratio}");
        }
    }

    #[test]
    fn both_sides_of_every_range() {
        assert!(slowdown(0.0).is_ok() && slowdown(1.0).is_err() && slowdown(-0.1).is_err());
        assert!(slowdown(f64::NAN).is_err() && max_step_size(0.5, f64::NAN).is_err());
        assert!(max_step_size(0.5, 0.0).is_err() && max_step_size(0.5, f64::INFINITY).is_err());
        let limit = max_step_size(0.5, 2.0).unwrap();
        assert!(gradient_norm_bound(0.5, 2.0, 0.0, 0.0, &[limit * 0.999]).is_ok());
        for step in [limit, 0.0, -0.1, f64::NAN] {
            assert!(
                gradient_norm_bound(0.5, 2.0, 0.0, 0.0, &[step]).is_err(),
                "{step}"
            );
        }
        assert!(gradient_norm_bound(0.5, 2.0, -1.0, 0.0, &[0.1]).is_err());
        assert!(gradient_norm_bound(0.5, 2.0, 1.0, f64::NAN, &[0.1]).is_err());
        assert!(gradient_norm_bound(0.5, 2.0, 1.0, 1.0, &[]).is_err());
    }
}
