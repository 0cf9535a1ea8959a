//! How fast the lag profile decays: log β, the change of log φ per step.
//!
//! Reads log φ from `profile`; feeds the geometric tail of `bias`.
//!
//! `log_phi[k]`: log φ_k, `k = 0..=W`; `tau` (τ): lag from which on the profile is taken as geometric;
//! `log_beta`: below 0 when the gradient decays, at or above 0 when it does not.

use serde::{Deserialize, Serialize};

use crate::EstimateError;
use crate::profile::{LOG_VANISHED, LOG_ZERO};

/// Lags that take part in a least-squares fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FitLags {
    /// Lags 0..=W, as the released code of Aicher et al. 2019 does: steadier, and moved by the head of the profile.
    #[default]
    All,
    /// Lags τ..=W, the lags that the geometric tail stands for: fewer points.
    Tail,
}

/// Estimator of log β (Aicher et al. 2019, "estimating β").
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum DecayFit {
    /// Least-squares slope of log φ over the lag. Lags that vanished (log φ < −50) take no part; with fewer than two
    /// left the slope is 0, "no decay seen".
    LeastSquares(FitLags),
    /// Largest slope from lag τ to any later lag: φ_{τ+k} ≤ φ_τ β^k then holds on the whole window (conservative).
    Max,
    /// This quantile, in [0, 1], of the slopes between all pairs of lags in τ..=W, interpolated linearly between order
    /// statistics. Between `LeastSquares` and `Max` in caution, and deaf to a few outlying lags.
    Quantile(f64),
}

/// Most lags that [`DecayFit::Quantile`] pairs: 256 MiB of slopes.
const MOST_PAIRED: usize = 8192;

impl Default for DecayFit {
    fn default() -> Self {
        Self::LeastSquares(FitLags::All)
    }
}

impl DecayFit {
    /// Accepts any quantile in [0, 1].
    pub(crate) fn validate(self) -> Result<(), EstimateError> {
        match self {
            Self::Quantile(quantile) if !(0.0..=1.0).contains(&quantile) => {
                Err(EstimateError::Quantile { quantile })
            }
            _ => Ok(()),
        }
    }

    /// log β of the profile `log_phi`, with the tail starting at lag `tau`.
    ///
    /// A pair of lags that are both exactly zero has no slope and takes no part in [`DecayFit::Max`] and
    /// [`DecayFit::Quantile`]; with no pair left the slope is 0.
    ///
    /// # Errors
    /// [`EstimateError::TauOutsideWindow`] unless at least one lag follows `tau`, [`EstimateError::Quantile`],
    /// [`EstimateError::TooManyLags`] for a quantile over more than 8192 lags (it sorts the slopes of all pairs),
    /// [`EstimateError::OutOfRange`] for logs that are not finite ([`LOG_ZERO`] stands for a norm of zero), or so far apart
    /// that the slope is not.
    pub fn log_beta(self, log_phi: &[f64], tau: usize) -> Result<f64, EstimateError> {
        self.validate()?;
        let window = log_phi.len().saturating_sub(1);
        if tau >= window {
            return Err(EstimateError::TauOutsideWindow { tau, window });
        }
        if let Some(&value) = log_phi.iter().find(|x| !x.is_finite()) {
            return Err(EstimateError::OutOfRange {
                what: "a log norm",
                rule: "finite, with `LOG_ZERO` for a norm of zero",
                value,
            });
        }
        let log_beta = match self {
            Self::LeastSquares(FitLags::All) => least_squares(log_phi, 0),
            Self::LeastSquares(FitLags::Tail) => least_squares(log_phi, tau),
            Self::Max => {
                let largest = slopes_from(log_phi, tau).fold(f64::NEG_INFINITY, f64::max);
                if largest > f64::NEG_INFINITY {
                    largest
                } else {
                    0.0
                }
            }
            Self::Quantile(q) => {
                let got = log_phi.len() - tau;
                if got > MOST_PAIRED {
                    return Err(EstimateError::TooManyLags {
                        most: MOST_PAIRED,
                        got,
                    });
                }
                let mut slopes: Vec<f64> = (tau..window)
                    .flat_map(|i| slopes_from(log_phi, i))
                    .collect();
                slopes.sort_by(f64::total_cmp);
                quantile_of_sorted(&slopes, q).unwrap_or(0.0)
            }
        };
        if !log_beta.is_finite() {
            return Err(EstimateError::OutOfRange {
                what: "the fitted log decay",
                rule: "finite: these log norms are too far apart",
                value: log_beta,
            });
        }
        Ok(log_beta)
    }
}

/// Slopes from lag `i` to every later lag.
fn slopes_from(log_phi: &[f64], i: usize) -> impl Iterator<Item = f64> + '_ {
    let (start, later) = match log_phi.get(i..).and_then(<[f64]>::split_first) {
        Some((&start, later)) => (start, later),
        None => (LOG_ZERO, [].as_slice()),
    };
    let later = (1usize..).zip(later);
    later
        .filter(move |(_, x)| start > LOG_ZERO || **x > LOG_ZERO)
        .map(move |(steps, x)| (x - start) / steps as f64)
}

/// Slope of log φ over the lag, from lag `from` on, lags that vanished left out.
fn least_squares(log_phi: &[f64], from: usize) -> f64 {
    let points: Vec<(f64, f64)> = log_phi
        .iter()
        .enumerate()
        .skip(from)
        .filter(|(_, x)| **x >= LOG_VANISHED)
        .map(|(k, x)| (k as f64, *x))
        .collect();
    if points.len() < 2 {
        return 0.0;
    }
    let count = points.len() as f64;
    let (sum_k, sum_x) = points
        .iter()
        .fold((0.0, 0.0), |(k, x), p| (k + p.0, x + p.1));
    let (mean_k, mean_x) = (sum_k / count, sum_x / count);
    let (covariance, variance) = points.iter().fold((0.0, 0.0), |(c, v), (k, x)| {
        let dk = k - mean_k;
        (c + dk * (x - mean_x), v + dk * dk)
    });
    covariance / variance
}

/// Quantile `q` of sorted values: linear interpolation at position `q · (n − 1)`.
fn quantile_of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q * last as f64;
    let below = (position as usize).min(last);
    let above = (below + 1).min(last);
    let share = position - below as f64;
    let (below, above) = (sorted.get(below)?, sorted.get(above)?);
    Some(below + share * (above - below))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FITS: [DecayFit; 5] = [
        DecayFit::LeastSquares(FitLags::All),
        DecayFit::LeastSquares(FitLags::Tail),
        DecayFit::Max,
        DecayFit::Quantile(0.95),
        DecayFit::Quantile(0.0),
    ];

    /// log φ = 0, −1, −3, −4, −6 with τ = 1. All: Σ(k−2)(x+2.8) / Σ(k−2)² = −15/10. Tail: k = 1..4, mean 2.5, −3.5:
    /// (−1.5·2.5 + −0.5·0.5 + 0.5·−0.5 + 1.5·−2.5)/5 = −1.6. Max: −2, −1.5, −5/3. Pairs: −2, −5/3, −1.5, −1.5, −1, −2;
    /// median between −5/3 and −1.5.
    #[test]
    fn each_fit_has_its_slope() {
        let log_phi = [0.0, -1.0, -3.0, -4.0, -6.0];
        let expected = [
            (DecayFit::LeastSquares(FitLags::All), -1.5),
            (DecayFit::LeastSquares(FitLags::Tail), -1.6),
            (DecayFit::Max, -1.5),
            (DecayFit::Quantile(0.5), -(5.0 / 3.0 + 1.5) / 2.0),
            (DecayFit::Quantile(1.0), -1.0),
        ];
        for (fit, slope) in expected {
            let got = fit.log_beta(&log_phi, 1).unwrap();
            assert!((got - slope).abs() < 1e-14, "{fit:?}: {got}");
        }
    }

    #[test]
    fn vanished_lags_take_no_part_in_least_squares() {
        let fit = DecayFit::LeastSquares(FitLags::All);
        assert_eq!(
            fit.log_beta(&[0.0, -1.0, -2.0, -51.0, -700.0], 1).unwrap(),
            -1.0
        );
        assert_eq!(fit.log_beta(&[0.0, -60.0, -70.0], 0).unwrap(), 0.0);
    }

    #[test]
    fn exact_zeros_past_tau_still_show_decay() {
        let log_phi = [0.0, -1.0, LOG_ZERO, LOG_ZERO, LOG_ZERO];
        for fit in [DecayFit::Max, DecayFit::Quantile(0.95)] {
            assert!(fit.log_beta(&log_phi, 1).unwrap() < -200.0, "{fit:?}");
        }
        assert_eq!(
            DecayFit::Max
                .log_beta(&[0.0, LOG_ZERO, LOG_ZERO], 1)
                .unwrap(),
            0.0
        );
    }

    #[test]
    fn rejects_a_tau_without_a_tail_and_a_bad_quantile() {
        for fit in FITS {
            let error = fit.log_beta(&[0.0, -1.0], 1).unwrap_err();
            assert_eq!(error, EstimateError::TauOutsideWindow { tau: 1, window: 1 });
            assert!(fit.log_beta(&[], 0).is_err());
        }
        for q in [-0.1, 1.1, f64::NAN] {
            assert!(
                DecayFit::Quantile(q)
                    .log_beta(&[0.0, -1.0, -2.0], 0)
                    .is_err()
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn prop_every_fit_recovers_an_exact_geometric_profile(
            log_beta in -0.3f64..0.1, start in -3.0f64..3.0, window in 3usize..120, share in 0.0f64..0.9,
        ) {
            let log_phi: Vec<f64> = (0..=window).map(|k| start + log_beta * k as f64).collect();
            let tau = (share * window as f64) as usize;
            for fit in FITS {
                let got = fit.log_beta(&log_phi, tau).unwrap();
                proptest::prop_assert!((got - log_beta).abs() < 1e-12, "{fit:?} {got} {log_beta}");
            }
        }
    }
}
