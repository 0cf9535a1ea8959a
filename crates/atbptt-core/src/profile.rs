//! The lag profile: how large the gradient is that reaches the state `k` steps back, on average.
//!
//! Averages [`LagNorms`](crate::LagNorms) over sequences, in logs; read by `decay` and `bias`.
//!
//! `phi[k]` (φ_k): mean over sequences of ‖∂L_s/∂h_{s−k}‖, `k = 0..=W`.

use serde::{Deserialize, Serialize};

use crate::EstimateError;

/// Logarithm that stands for an exactly zero norm: that of the smallest positive `f64`, so that every log is finite.
pub const LOG_ZERO: f64 = -744.440_071_921_381_2;

/// Logarithm below which a norm counts as vanished.
///
/// The rule of the released code: such lags take no part in a least-squares fit, and a bias whose onset lag vanished is
/// taken as zero when the fit sees no decay.
pub const LOG_VANISHED: f64 = -50.0;

/// How the norms of the sequences become one number per lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Averaging {
    /// log of the mean norm: φ_k as the bias bound needs it.
    #[default]
    MeanThenLog,
    /// Mean of the log norms (a geometric mean): less moved by single large sequences, and below φ_k. Refuses a norm of
    /// exactly zero among others that are not: one of 64 would move its lag by −11.6, whatever the others say.
    LogThenMean,
}

impl Averaging {
    /// log of the average of the norms at `lag`; [`LOG_ZERO`] stands for zero.
    fn log_average(self, lag: usize, row: &[f64]) -> Result<f64, EstimateError> {
        let count = row.len() as f64;
        Ok(match self {
            // Scaled by the largest, so that neither huge nor subnormal norms leave the range of f64.
            Self::MeanThenLog => {
                let largest = row.iter().copied().fold(0.0, f64::max);
                if largest > 0.0 {
                    let mean = row.iter().map(|x| x / largest).sum::<f64>() / count;
                    // Among zeros, the mean of a subnormal norm is smaller than any number that is not zero.
                    (largest.ln() + mean.ln()).max(LOG_ZERO)
                } else {
                    LOG_ZERO
                }
            }
            Self::LogThenMean if row.iter().all(|x| *x == 0.0) => LOG_ZERO,
            Self::LogThenMean => match row.iter().position(|x| *x == 0.0) {
                Some(sequence) => return Err(EstimateError::ZeroAmongNorms { lag, sequence }),
                None => row.iter().map(|x| x.ln()).sum::<f64>() / count,
            },
        })
    }
}

/// The averaged norms in logs, one per lag: log φ_k for `k = 0..=W`. All finite; an exact zero is [`LOG_ZERO`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct LagProfile {
    log: Vec<f64>,
}

/// [`LagProfile`] as stored: checked when read.
#[derive(Deserialize)]
struct Raw {
    log: Vec<f64>,
}

impl TryFrom<Raw> for LagProfile {
    type Error = EstimateError;

    fn try_from(Raw { log }: Raw) -> Result<Self, EstimateError> {
        match log.iter().find(|x| !(x.is_finite() && **x >= LOG_ZERO)) {
            Some(&value) => Err(EstimateError::OutOfRange {
                what: "a log norm",
                rule: "finite and at least `LOG_ZERO`",
                value,
            }),
            None => Ok(Self { log }),
        }
    }
}

impl LagProfile {
    /// Averages each row, lag by lag.
    pub(crate) fn of_rows<'a>(
        rows: impl Iterator<Item = &'a [f64]>,
        averaging: Averaging,
    ) -> Result<Self, EstimateError> {
        let log = rows
            .enumerate()
            .map(|(lag, row)| averaging.log_average(lag, row));
        Ok(Self {
            log: log.collect::<Result<_, _>>()?,
        })
    }

    /// log φ_k, lag by lag.
    pub(crate) fn log(&self) -> &[f64] {
        &self.log
    }

    /// φ_k, lag by lag.
    pub(crate) fn phi(&self) -> Vec<f64> {
        self.log
            .iter()
            .map(|x| if *x > LOG_ZERO { x.exp() } else { 0.0 })
            .collect()
    }

    /// Number of lags, `W + 1`.
    pub(crate) fn lags(&self) -> usize {
        self.log.len()
    }

    /// Window length W, in steps.
    pub(crate) fn window(&self) -> usize {
        self.log.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LagNorms;

    /// Rows (1, 4): mean 2.5, geometric mean 2.
    #[test]
    fn averages_differ_by_the_order_of_mean_and_log() {
        let norms = LagNorms::from_flat(1, 2, &[1.0f32, 4.0]).unwrap();
        assert!(
            (norms.profile(Averaging::MeanThenLog).unwrap().log()[0] - 2.5f64.ln()).abs() < 1e-15
        );
        assert!(
            (norms.profile(Averaging::LogThenMean).unwrap().log()[0] - 2f64.ln()).abs() < 1e-15
        );
    }

    #[test]
    fn a_profile_is_checked_when_it_is_read() {
        let read = serde_json::from_str::<LagProfile>;
        assert_eq!(read(r#"{"log": [0.0, -1.0]}"#).unwrap().lags(), 2);
        assert!(read(r#"{"log": [0.0, -1000.0]}"#).is_err());
    }

    #[test]
    fn extreme_norms_average_without_overflow() {
        let norms = LagNorms::new(vec![vec![f64::MAX; 3], vec![5e-324; 3], vec![0.0; 3]]).unwrap();
        let profile = norms.profile(Averaging::MeanThenLog).unwrap();
        assert!((profile.log()[0] - f64::MAX.ln()).abs() < 1e-12);
        assert!((profile.log()[1] - LOG_ZERO).abs() < 1e-12);
        assert_eq!((profile.log()[2], profile.phi()[2]), (LOG_ZERO, 0.0));
    }

    /// 63 norms of 1 and one of 0: in logs, the zero would count as −744 of 64, a factor of e^−11.6.
    #[test]
    fn a_single_zero_does_not_move_a_mean_of_logs_unseen() {
        let mut row = vec![1.0; 64];
        row[5] = 0.0;
        let norms = LagNorms::new(vec![vec![1.0; 64], row, vec![0.0; 64]]).unwrap();
        assert_eq!(
            norms.profile(Averaging::LogThenMean),
            Err(EstimateError::ZeroAmongNorms {
                lag: 1,
                sequence: 5
            })
        );
        let mean = norms.profile(Averaging::MeanThenLog).unwrap();
        assert!((mean.phi()[1] - 63.0 / 64.0).abs() < 1e-15);
        // Zeros alone are no outlier: the gradient vanished.
        let zeros = LagNorms::new(vec![vec![1.0; 64], vec![0.0; 64]]).unwrap();
        assert_eq!(
            zeros.profile(Averaging::LogThenMean).unwrap().log()[1],
            LOG_ZERO
        );
    }
}
