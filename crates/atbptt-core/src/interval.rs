//! How sure K is, from the spread over the sequences of a probe.
//!
//! Reads [`LagNorms`] and a [`BiasEstimator`]; for reports and plots, no part of the control loop.

use rand::SeedableRng;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::decay::quantile_of_sorted;
use crate::onset::draw;
use crate::{BiasEstimator, EstimateError, LagNorms};

/// Bootstrap draws.
const DRAWS: usize = 400;

/// Seed of the draws: the same norms give the same interval.
const SEED: u64 = 0x4B5F;

/// K with an interval that covers it at some level of confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KInterval {
    /// K(δ) of all sequences as a real number (see [`crate::BiasEstimate::crossing`]), in steps.
    pub estimate: f64,
    /// Lower end, in steps, at least 1.
    pub low: f64,
    /// Upper end, in steps, at most `cap`.
    pub high: f64,
    /// Share of the draws within.
    pub level: f64,
    /// Value that stands for "no K reaches δ", in steps.
    pub cap: usize,
    /// Bootstrap draws made.
    pub draws: usize,
    /// How many of them reached no K; each counts as `cap`. Above 0, the upper end may be too low.
    pub saturated: usize,
}

/// Interval for K(δ) by the percentile bootstrap over sequences: the rule is applied to 400 draws of as many sequences,
/// with replacement, and the interval leaves out the same share of the resulting lengths on either side.
///
/// Each draw goes through the whole rule: profile, choice of τ, fit, bias, and the real-valued crossing. (The standard
/// errors that Lepski's rule compares slopes by are those of all sequences.) `level`: 0.95 for 95 %. `cap`: the longest K
/// in use. Sequences count as independent; pool probes ([`LagNorms::pool`]) for more of them. With the norm of a mean as
/// gradient size, the cumulative sizes stay those of the whole batch, so only the spread of the bias itself is seen. The
/// interval is widened to hold the estimate where it would not. The draws have a fixed seed.
///
/// # Errors
/// [`EstimateError::TooFewSequences`] below two, [`EstimateError::OutOfRange`] for a `level` outside (0, 1),
/// [`EstimateError::Tolerance`], `cap` of 0, and the errors of [`BiasEstimator::estimate`].
pub fn k_interval(
    estimator: &BiasEstimator,
    norms: &LagNorms,
    delta: f64,
    level: f64,
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
    if !(level > 0.0 && level < 1.0) {
        return Err(EstimateError::OutOfRange {
            what: "the level of an interval",
            rule: "above 0 and below 1, such as 0.95",
            value: level,
        });
    }
    let n = norms.sequences();
    if n < 2 {
        return Err(EstimateError::TooFewSequences { needed: 2, got: n });
    }
    let limit = cap as f64;
    let rule = estimator.prepare(norms)?;
    let estimate = rule.estimate(norms)?.crossing(delta);
    let estimate = estimate.map_or(limit, |k| k.min(limit));
    let mut rng = Pcg64::seed_from_u64(SEED);
    let mut saturated = 0;
    let mut lengths = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        // A draw without an estimate, such as one of sequences whose gradient vanished, reaches no K.
        let drawn = rule.estimate(&draw(norms, &mut rng)?);
        lengths.push(match drawn.ok().and_then(|drawn| drawn.crossing(delta)) {
            Some(k) => k.min(limit),
            None => {
                saturated += 1;
                limit
            }
        });
    }
    lengths.sort_by(f64::total_cmp);
    let outside = (1.0 - level) / 2.0;
    let at = |share| quantile_of_sorted(&lengths, share).unwrap_or(estimate);
    Ok(KInterval {
        estimate,
        low: at(outside).min(estimate),
        high: at(1.0 - outside).max(estimate),
        level,
        cap,
        draws: DRAWS,
        saturated,
    })
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

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
        let got = k_interval(&BiasEstimator::new(), &geometric(&[0.8; 4]), 0.1, 0.95, 50).unwrap();
        // 0.8^K = 0.1 (a long window: the bracket is the whole sum): K = ln 0.1 / ln 0.8.
        let expected = 0.1f64.ln() / 0.8f64.ln();
        assert!((got.estimate - expected).abs() < 1e-3, "{got:?}");
        assert!(got.high - got.low < 1e-9 && got.saturated == 0, "{got:?}");
    }

    /// Of two sequences, a quarter of the draws has the first twice and a quarter the second twice: the ends of the
    /// interval are the lengths of either alone.
    #[test]
    fn two_sequences_span_what_either_says_alone() {
        let got = k_interval(&BiasEstimator::new(), &geometric(&[0.5, 0.8]), 0.1, 0.9, 50).unwrap();
        let alone = |beta: f64| 0.1f64.ln() / beta.ln();
        assert!((got.low - alone(0.5)).abs() < 1e-2, "{got:?}");
        assert!((got.high - alone(0.8)).abs() < 1e-2, "{got:?}");
        assert!(got.low < got.estimate && got.estimate < got.high);
    }

    /// Decays drawn evenly from 0.7 to 0.85; the truth is K of a thousand of them. Percentile intervals of few sequences are
    /// a little short: 90 % of twelve cover it less often than that.
    #[test]
    fn the_interval_covers_the_true_length_about_as_often_as_it_says() {
        let estimator = BiasEstimator::new();
        let all: Vec<f64> = (0..1000)
            .map(|i| 0.7 + 0.15 * (f64::from(i) + 0.5) / 1000.0)
            .collect();
        let truth = estimator.estimate(&geometric(&all)).unwrap();
        let truth = truth.crossing(0.1).unwrap();
        let mut rng = Pcg64::seed_from_u64(9);
        let covered = (0..100).filter(|_| {
            let some: Vec<f64> = (0..12).map(|_| rng.random_range(0.7..0.85)).collect();
            let got = k_interval(&estimator, &geometric(&some), 0.1, 0.9, 50).unwrap();
            (got.low..=got.high).contains(&truth)
        });
        let covered = covered.count();
        assert!((75..=98).contains(&covered), "{covered}");
    }

    #[test]
    fn a_growing_sequence_is_counted_as_saturated() {
        let norms = geometric(&[1.01, 0.5]);
        let got = k_interval(&BiasEstimator::new(), &norms, 0.1, 0.95, 30).unwrap();
        assert!(got.saturated > 0 && got.high == 30.0, "{got:?}");
    }

    #[test]
    fn refuses_one_sequence_and_settings_out_of_range() {
        let (estimator, two) = (BiasEstimator::new(), geometric(&[0.5, 0.6]));
        let one = k_interval(&estimator, &geometric(&[0.5]), 0.1, 0.9, 9).unwrap_err();
        assert_eq!(one, EstimateError::TooFewSequences { needed: 2, got: 1 });
        assert!(k_interval(&estimator, &two, f64::NAN, 0.9, 9).is_err());
        for level in [0.0, 1.0, 1.96, f64::NAN] {
            assert!(k_interval(&estimator, &two, 0.1, level, 9).is_err());
        }
        assert!(k_interval(&estimator, &two, 0.1, 0.9, 0).is_err());
    }
}
