//! How sure K is, from the spread over the sequences of a probe.
//!
//! Reads [`LagNorms`] and a [`BiasEstimator`]; for reports and plots, no part of the control loop.
//!
//! `n`: sequences; `K_(i)`: K(δ) without sequence `i`; `z`: standard normal quantile.

use serde::{Deserialize, Serialize};

use crate::{BiasEstimator, EstimateError, LagNorms};

/// K with a jackknife standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KInterval {
    /// K(δ) of all sequences as a real number (see [`crate::BiasEstimate::crossing`]), in steps.
    pub estimate: f64,
    /// Jackknife standard error, in steps.
    pub standard_error: f64,
    /// Lower end, in steps, at least 1.
    pub low: f64,
    /// Upper end, in steps, at most `cap`.
    pub high: f64,
    /// Value that stands for "no K reaches δ", in steps.
    pub cap: usize,
    /// How many of the leave-one-out estimates reached no K; each counts as `cap`. Above 0 the interval is a lower
    /// bound on the true uncertainty.
    pub saturated: usize,
}

/// Interval for K(δ) by the jackknife over sequences: `K ± z · sqrt((n−1)/n · Σ (K_(i) − mean)²)`, cut to `[1, cap]`.
///
/// The real-valued crossing is used, not the whole K: the jackknife needs a smooth statistic, and a whole K hardly moves
/// when one of many sequences is left out. `z`: 1.96 for 95 %. `cap`: the longest K in use. Sequences count as
/// independent; pool probes ([`LagNorms::pool`]) for more of them. With [`crate::GradientSize::NormOfMeanSum`] the
/// cumulative sizes stay those of the whole batch, so only the spread of the bias itself is seen.
///
/// # Errors
/// [`EstimateError::TooFewSequences`] below two, [`EstimateError::OutOfRange`] for `delta` or `z`, `cap` of 0, and the
/// errors of [`BiasEstimator::estimate`].
pub fn k_interval(
    estimator: &BiasEstimator,
    norms: &LagNorms,
    delta: f64,
    z: f64,
    cap: usize,
) -> Result<KInterval, EstimateError> {
    if cap == 0 {
        return Err(EstimateError::Zero {
            what: "the cap on K",
        });
    }
    if !(delta > 0.0 && delta <= 1.0) {
        return Err(EstimateError::Tolerance { delta });
    }
    if !(z >= 0.0 && z.is_finite()) {
        return Err(EstimateError::OutOfRange {
            what: "z",
            rule: "finite and at least 0",
            value: z,
        });
    }
    let n = norms.sequences();
    if n < 2 {
        return Err(EstimateError::TooFewSequences { needed: 2, got: n });
    }
    let limit = cap as f64;
    let crossing = |norms: &LagNorms| {
        estimator
            .estimate(norms)
            .map(|e| e.crossing(delta).map(|k| k.min(limit)))
    };
    let estimate = crossing(norms)?.unwrap_or(limit);
    let mut saturated = 0;
    let mut left_out = Vec::with_capacity(n);
    for rest in (0..n).filter_map(|i| norms.without_sequence(i)) {
        left_out.push(crossing(&rest)?.unwrap_or_else(|| {
            saturated += 1;
            limit
        }));
    }
    let count = n as f64;
    let mean = left_out.iter().sum::<f64>() / count;
    let squares: f64 = left_out.iter().map(|k| (k - mean).powi(2)).sum();
    let standard_error = ((count - 1.0) / count * squares).sqrt();
    Ok(KInterval {
        estimate,
        standard_error,
        low: (estimate - z * standard_error).max(1.0),
        high: (estimate + z * standard_error).min(limit),
        cap,
        saturated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometric(betas: &[f64]) -> LagNorms {
        LagNorms::new(
            (0..=60)
                .map(|k| betas.iter().map(|b| b.powi(k)).collect())
                .collect(),
        )
        .unwrap()
    }

    #[test]
    fn equal_sequences_leave_no_doubt() {
        let got = k_interval(&BiasEstimator::new(), &geometric(&[0.8; 4]), 0.1, 1.96, 50).unwrap();
        // 0.8^K = 0.1 (a long window: the bracket is the whole sum): K = ln 0.1 / ln 0.8.
        assert!(
            (got.estimate - 0.1f64.ln() / 0.8f64.ln()).abs() < 1e-3,
            "{got:?}"
        );
        assert!(got.standard_error < 1e-9 && got.saturated == 0);
    }

    /// Two sequences: K_(1) and K_(2) are each other's, so the standard error is half their distance:
    /// sqrt(1/2 · 2 · (d/2)²) = d/2.
    #[test]
    fn two_sequences_give_half_their_distance() {
        let got = k_interval(&BiasEstimator::new(), &geometric(&[0.5, 0.8]), 0.1, 1.0, 50).unwrap();
        let distance = 0.1f64.ln() / 0.8f64.ln() - 0.1f64.ln() / 0.5f64.ln();
        assert!(
            (got.standard_error - distance / 2.0).abs() < 1e-2,
            "{got:?} {distance}"
        );
        assert!(got.low >= 1.0 && got.low < got.estimate && got.estimate < got.high);
    }

    #[test]
    fn a_growing_sequence_is_counted_as_saturated() {
        let got = k_interval(
            &BiasEstimator::new(),
            &geometric(&[1.01, 0.5]),
            0.1,
            1.96,
            30,
        )
        .unwrap();
        assert_eq!((got.saturated, got.high), (1, 30.0));
    }

    #[test]
    fn refuses_one_sequence_and_settings_out_of_range() {
        let (estimator, two) = (BiasEstimator::new(), geometric(&[0.5, 0.6]));
        let one = k_interval(&estimator, &geometric(&[0.5]), 0.1, 1.0, 9).unwrap_err();
        assert_eq!(one, EstimateError::TooFewSequences { needed: 2, got: 1 });
        assert!(k_interval(&estimator, &two, f64::NAN, 1.0, 9).is_err());
        assert!(k_interval(&estimator, &two, 0.1, f64::NAN, 9).is_err());
        assert!(k_interval(&estimator, &two, 0.1, 1.0, 0).is_err());
    }
}
