//! How fast the lag profile decays: log β, the change of log φ per step.
//!
//! Reads log φ from `profile`; feeds the geometric tail of `bias`.
//!
//! `log_phi[k]`: log φ_k, `k = 0..=W`; `tau` (τ): lag from which on the profile is taken as geometric;
//! `log_beta`: below 0 when the gradient decays, at or above 0 when it does not.

use serde::{Deserialize, Serialize};

use crate::EstimateError;
use crate::profile::{LOG_VANISHED, LOG_ZERO};

/// Estimator of log β (Aicher et al. 2019, "estimating β").
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
#[non_exhaustive]
pub enum DecayFit {
    /// Least-squares slope of log φ over the lags τ..=W, those that the geometric tail stands for. Lags that vanished
    /// (log φ < −50) take no part; with fewer than two left the slope is 0, "no decay seen".
    #[default]
    LeastSquares,
    /// The same over all lags, as the released code of Aicher et al. 2019 does: more points, and moved by the head of the
    /// profile. Profiles bend, so that this makes the tail too short: on Penn Treebank, E(30) came out at 0.62 to 0.87 of what
    /// windows of 300 lags measured, and at 0.94 to 1.02 from the tail.
    LeastSquaresOfAllLags,
    /// Largest slope from lag τ to any later lag: φ_{τ+k} ≤ φ_τ β^k then holds on the whole window (conservative).
    Max,
    /// This quantile, in [0, 1], of the slopes between all pairs of lags in τ..=W, interpolated linearly between order
    /// statistics. Between `LeastSquares` and `Max` in caution, and deaf to a few outlying lags.
    Quantile(f64),
}

/// Most lags that [`DecayFit::Quantile`] pairs: 256 MiB of slopes.
const MAX_PAIRED: usize = 8192;

/// [`DecayFit`] as settings files have it.
#[derive(Serialize, Deserialize)]
#[serde(rename = "DecayFit")]
enum Written {
    LeastSquares(FitLags),
    Max,
    Quantile(f64),
}

#[derive(Serialize, Deserialize)]
enum FitLags {
    All,
    Tail,
}

impl From<Written> for DecayFit {
    fn from(written: Written) -> Self {
        match written {
            Written::LeastSquares(FitLags::All) => Self::LeastSquaresOfAllLags,
            Written::LeastSquares(FitLags::Tail) => Self::LeastSquares,
            Written::Max => Self::Max,
            Written::Quantile(quantile) => Self::Quantile(quantile),
        }
    }
}

impl From<DecayFit> for Written {
    fn from(fit: DecayFit) -> Self {
        match fit {
            DecayFit::LeastSquaresOfAllLags => Self::LeastSquares(FitLags::All),
            DecayFit::LeastSquares => Self::LeastSquares(FitLags::Tail),
            DecayFit::Max => Self::Max,
            DecayFit::Quantile(quantile) => Self::Quantile(quantile),
        }
    }
}

/// A fitted geometric decay: a straight line through the log profile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DecayLine {
    /// Slope: log β.
    pub(crate) log_beta: f64,
    /// A lag on the line, not necessarily a whole one.
    pub(crate) lag: f64,
    /// log φ̃ there.
    pub(crate) log_phi: f64,
}

impl DecayLine {
    /// log φ̃ at a lag.
    pub(crate) fn log_phi_at(&self, lag: usize) -> f64 {
        self.log_phi + (lag as f64 - self.lag) * self.log_beta
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
        Ok(self.line(log_phi, tau)?.log_beta)
    }

    /// The fitted line: the slope is [`DecayFit::log_beta`]. A least-squares line goes through the centre of its points, a
    /// largest slope starts from lag `tau`, and for a quantile of slopes the line leaves as many points of `tau..=W` above
    /// it as below.
    ///
    /// # Errors
    /// As [`DecayFit::log_beta`].
    pub(crate) fn line(self, log_phi: &[f64], tau: usize) -> Result<DecayLine, EstimateError> {
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
        let at_tau = log_phi.get(tau).copied().unwrap_or(LOG_ZERO);
        let line = match self {
            Self::LeastSquaresOfAllLags => least_squares(log_phi, 0),
            Self::LeastSquares => least_squares(log_phi, tau),
            Self::Max => {
                let largest = slopes_from(log_phi, tau).fold(f64::NEG_INFINITY, f64::max);
                DecayLine {
                    log_beta: if largest > f64::NEG_INFINITY {
                        largest
                    } else {
                        0.0
                    },
                    lag: tau as f64,
                    log_phi: at_tau,
                }
            }
            Self::Quantile(q) => {
                let got = log_phi.len() - tau;
                if got > MAX_PAIRED {
                    return Err(EstimateError::TooManyLags {
                        most: MAX_PAIRED,
                        got,
                    });
                }
                let mut slopes: Vec<f64> = (tau..window)
                    .flat_map(|i| slopes_from(log_phi, i))
                    .collect();
                slopes.sort_by(f64::total_cmp);
                let log_beta = quantile_of_sorted(&slopes, q).unwrap_or(0.0);
                let level = |(k, x): (usize, &f64)| x - (k as f64 - tau as f64) * log_beta;
                let mut levels: Vec<f64> =
                    log_phi.iter().enumerate().skip(tau).map(level).collect();
                levels.sort_by(f64::total_cmp);
                DecayLine {
                    log_beta,
                    lag: tau as f64,
                    log_phi: quantile_of_sorted(&levels, 0.5).unwrap_or(at_tau),
                }
            }
        };
        for value in [line.log_beta, line.log_phi_at(window)] {
            if !value.is_finite() {
                return Err(EstimateError::OutOfRange {
                    what: "the fitted log decay",
                    rule: "finite: these log norms are too far apart",
                    value,
                });
            }
        }
        Ok(line)
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

/// Line through log φ over the lag, from lag `from` on, lags that vanished left out; level where fewer than two are left.
pub(crate) fn least_squares(log_phi: &[f64], from: usize) -> DecayLine {
    let points = || {
        let lags = log_phi.iter().enumerate().skip(from);
        lags.filter(|(_, x)| **x >= LOG_VANISHED)
            .map(|(k, x)| (k as f64, *x))
    };
    let (count, sum_k, sum_x) = points().fold((0.0, 0.0, 0.0), |(count, k, x), p| {
        (count + 1.0, k + p.0, x + p.1)
    });
    if count < 2.0 {
        let (lag, log_phi) = points().next().unwrap_or((from as f64, LOG_ZERO));
        return DecayLine {
            log_beta: 0.0,
            lag,
            log_phi,
        };
    }
    let (mean_k, mean_x) = (sum_k / count, sum_x / count);
    let (covariance, variance) = points().fold((0.0, 0.0), |(c, v), (k, x)| {
        let dk = k - mean_k;
        (c + dk * (x - mean_x), v + dk * dk)
    });
    DecayLine {
        log_beta: covariance / variance,
        lag: mean_k,
        log_phi: mean_x,
    }
}

/// Quantile `q` of sorted values: linear interpolation at position `q · (n − 1)`.
pub(crate) fn quantile_of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
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
        DecayFit::LeastSquaresOfAllLags,
        DecayFit::LeastSquares,
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
            (DecayFit::LeastSquaresOfAllLags, -1.5),
            (DecayFit::LeastSquares, -1.6),
            (DecayFit::Max, -1.5),
            (DecayFit::Quantile(0.5), -(5.0 / 3.0 + 1.5) / 2.0),
            (DecayFit::Quantile(1.0), -1.0),
        ];
        for (fit, slope) in expected {
            let got = fit.log_beta(&log_phi, 1).unwrap();
            assert!((got - slope).abs() < 1e-14, "{fit:?}: {got}");
        }
        // The tail's line at lag 4: the mean −3.5 at lag 2.5, and 1.5 steps of −1.6. The largest slope starts at τ.
        let at_end = |fit: DecayFit| fit.line(&log_phi, 1).unwrap().log_phi_at(4);
        assert!((at_end(DecayFit::LeastSquares) + 5.9).abs() < 1e-14);
        assert!((at_end(DecayFit::Max) + 5.5).abs() < 1e-14);
        // Slope −1 from lag 1 on: levels −1, −2, −2, −3, so the line goes through −2 there.
        assert!((at_end(DecayFit::Quantile(1.0)) + 5.0).abs() < 1e-14);
    }

    #[test]
    fn vanished_lags_take_no_part_in_least_squares() {
        let fit = DecayFit::LeastSquaresOfAllLags;
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
