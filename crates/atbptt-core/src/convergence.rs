//! What a bounded relative bias guarantees for stochastic gradient descent.
//!
//! Theory to read a tolerance by; no part of the control loop. Aicher et al. 2019, the convergence theorem: on a smooth,
//! possibly non-convex loss, SGD with relative bias at most δ < 1 converges as unbiased SGD does, slowed by 1/(1−δ).
//!
//! `delta` (δ): bound on the relative bias, in [0, 1); `smoothness` (L): Lipschitz constant of the gradient;
//! `gap` (D_L): first loss minus the smallest; `variance` (σ²): of the stochastic gradient; `steps` (γ_n): step sizes.

use crate::EstimateError;

/// How many times longer SGD takes under relative bias `delta`: 1/(1−δ).
///
/// # Errors
/// [`EstimateError::OutOfRange`] unless `delta` lies in [0, 1).
pub fn slowdown(delta: f64) -> Result<f64, EstimateError> {
    check_delta(delta)?;
    Ok(1.0 / (1.0 - delta))
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
        assert_eq!(slowdown(0.5).unwrap(), 2.0);
        assert!((max_step_size(0.5, 2.0).unwrap() - 1.0 / 9.0).abs() < 1e-15);
        assert!(
            (gradient_norm_bound(0.5, 2.0, 1.0, 3.0, &[0.1, 0.1]).unwrap() - 21.2).abs() < 1e-12
        );
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
