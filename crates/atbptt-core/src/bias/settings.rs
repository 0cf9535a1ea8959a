//! What can be chosen about a bias estimate, and how the choices meet the norms.

use serde::{Deserialize, Serialize};

use super::BiasEstimate;
use crate::decay::DecayFit;
use crate::onset::Onsets;
use crate::profile::{Averaging, LOG_VANISHED};
use crate::{EstimateError, LagNorms, logs};

/// What the bias is compared with: the size G(j) of the gradient that `j` kept lags give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GradientSize {
    /// Σ_{k<j} φ_k, as in the language experiments of Aicher et al. 2019 (but for lag 0). Every probe has it. It overstates
    /// the gradient where the lags or sequences cancel, so δ(K) comes out lower.
    #[default]
    SumOfNorms,
    /// Σ_{1≤k<j} φ_k: the same without φ_0, the gradient of what the decoder sees. What truncation drops is compared with
    /// what the recurrence keeps, so δ(K) comes out higher: for tasks whose decoder outweighs the memory. The language
    /// experiments' profile starts at lag 1 and has this size.
    SumOfStateNorms,
    /// ‖mean over sequences of Σ_{k<j} ∂L/∂h_{s−k}‖: smaller, so δ(K) comes out higher; no bound either, and it depends on
    /// the number of sequences, whose noise it holds. The probe must have kept it.
    NormOfMeanSum,
    /// ‖mean over sequences of Σ_{1≤k<j} ∂L/∂h_{s−k}‖: the same without lag 0. What the released scripts of Aicher et al.
    /// 2019 use for the copy and point-process tasks; noisy where the mean over a probe's sequences nearly cancels.
    NormOfMeanStateSum,
    /// [`GradientSize::NormOfMeanSum`] without the noise of a mean over few sequences, √max(U(j), 0): the same in expectation
    /// for every number of sequences. The probe must have kept the squares ([`LagNorms::with_sum_squares`]).
    DebiasedNormOfMeanSum,
    /// The same over the states only, √max(U(j) − U(1), 0).
    DebiasedNormOfMeanStateSum,
}

/// The lag from which on the profile is taken as geometric.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Tau {
    /// Chosen from the data by Lepski's rule: the earliest lag, on a geometric grid, whose least-squares slope to the end of
    /// the window lies within two standard errors of that from every later lag, with ten lags after it at least. The
    /// standard errors are a bootstrap over the sequences, with a fixed seed. Of a single sequence, whose errors nobody
    /// knows, 0.9 W, or ten lags before W if that is earlier.
    #[default]
    Lepski,
    /// A share of the window W, in [0, 1); rounded to a lag, and at most W − 1.
    Fraction(f64),
    /// A lag, in steps, below W.
    Lag(usize),
}

impl Tau {
    fn validate(self) -> Result<(), EstimateError> {
        match self {
            Self::Fraction(fraction) if !(0.0..1.0).contains(&fraction) => {
                Err(EstimateError::TauFraction { fraction })
            }
            _ => Ok(()),
        }
    }
}

/// How to turn lag norms into a bias curve.
///
/// The default sums what was measured to the end of the window, and beyond it the tail of a least-squares fit over the lags
/// from τ on, with τ chosen from the data. [`BiasEstimator::paper`] is the estimator of Aicher et al. 2019.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct BiasEstimator {
    /// Onset of the geometric tail. A fixed one where estimates of different probes are to be compared.
    pub tau: Tau,
    /// Whether the fitted tail stands for the profile in E(K) from τ on, as in Aicher et al. 2019, so that what was measured past τ
    /// only shapes the fit. Default false: it begins beyond the window, everything measured is summed as it was measured, and τ
    /// matters only beyond W. In settings files `tail_from`, `Tau` or `WindowEnd`.
    #[serde(rename = "tail_from", with = "tail_from")]
    pub tail_from_tau: bool,
    /// Fit of the decay rate. [`DecayFit::Max`] to err on the side of slow decay.
    pub fit: DecayFit,
    /// Whether lag 0 takes part in the fit. Default false: its gradient lives in another space (features, not states) than
    /// that of the other lags.
    pub fit_lag_zero: bool,
    /// Order of mean and log over sequences.
    pub averaging: Averaging,
    /// What the bias is relative to.
    pub gradient_size: GradientSize,
}

/// The choice as settings files have it.
mod tail_from {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    enum TailFrom {
        WindowEnd,
        Tau,
    }

    pub(super) fn serialize<S: Serializer>(tau: &bool, to: S) -> Result<S::Ok, S::Error> {
        match tau {
            true => TailFrom::Tau,
            false => TailFrom::WindowEnd,
        }
        .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        TailFrom::deserialize(from).map(|from| matches!(from, TailFrom::Tau))
    }
}

impl BiasEstimator {
    /// The default estimator.
    pub fn new() -> Self {
        Self::default()
    }

    /// The estimator of Aicher et al. 2019: τ = 0.9 W, the tail summed from τ on, least squares over all lags (lag 0 among
    /// them), mean before log, sum of norms.
    ///
    /// Their scripts' profiles start at lag 1. To follow an experiment of theirs, leave lag 0 out of the fit and of the
    /// size: [`GradientSize::SumOfStateNorms`] for the language models, [`GradientSize::NormOfMeanStateSum`] for the copy
    /// task (τ = 0.8 W) and the point process.
    pub fn paper() -> Self {
        Self {
            tau: Tau::Fraction(0.9),
            tail_from_tau: true,
            fit: DecayFit::LeastSquaresOfAllLags,
            fit_lag_zero: true,
            averaging: Averaging::MeanThenLog,
            gradient_size: GradientSize::SumOfNorms,
        }
    }

    /// Sets [`BiasEstimator::tau`].
    pub fn with_tau(mut self, tau: Tau) -> Self {
        self.tau = tau;
        self
    }

    /// Sets [`BiasEstimator::tail_from_tau`].
    pub fn with_tail_from_tau(mut self, tail_from_tau: bool) -> Self {
        self.tail_from_tau = tail_from_tau;
        self
    }

    /// Sets [`BiasEstimator::fit`].
    pub fn with_fit(mut self, fit: DecayFit) -> Self {
        self.fit = fit;
        self
    }

    /// Sets [`BiasEstimator::fit_lag_zero`].
    pub fn with_fit_lag_zero(mut self, fit_lag_zero: bool) -> Self {
        self.fit_lag_zero = fit_lag_zero;
        self
    }

    /// Sets [`BiasEstimator::averaging`].
    pub fn with_averaging(mut self, averaging: Averaging) -> Self {
        self.averaging = averaging;
        self
    }

    /// Sets [`BiasEstimator::gradient_size`].
    pub fn with_gradient_size(mut self, gradient_size: GradientSize) -> Self {
        self.gradient_size = gradient_size;
        self
    }

    /// Checks the settings that do not depend on data.
    ///
    /// # Errors
    /// [`EstimateError::TauFraction`], [`EstimateError::Quantile`].
    pub fn validate(&self) -> Result<(), EstimateError> {
        self.tau.validate()?;
        self.fit.validate()
    }

    /// The bias curve of these norms.
    ///
    /// # Errors
    /// A setting out of range; [`EstimateError::TooFewLags`] below two lags to fit, or three with lag 0;
    /// [`EstimateError::TauOutsideWindow`]; [`EstimateError::NoGradient`] when every lag vanished;
    /// [`EstimateError::MeanSumsMissing`] or [`EstimateError::SumSquaresMissing`]; [`EstimateError::ZeroAmongNorms`].
    pub fn estimate(&self, norms: &LagNorms) -> Result<BiasEstimate, EstimateError> {
        self.prepare(norms)?.estimate(norms)
    }

    /// The rule for these norms and for draws of their sequences.
    pub(crate) fn prepare(&self, norms: &LagNorms) -> Result<Rule<'_>, EstimateError> {
        self.validate()?;
        let needed = if self.fit_lag_zero { 2 } else { 3 };
        let got = norms.lags();
        if got < needed {
            return Err(EstimateError::TooFewLags { needed, got });
        }
        let window = norms.window();
        let onset = match self.tau {
            Tau::Lepski => {
                let profile = norms.profile(self.averaging)?;
                check_gradient(profile.log())?;
                Onset::Chosen(Onsets::measure(norms, self.averaging, profile.log())?)
            }
            Tau::Fraction(fraction) => {
                let lag = (fraction * window as f64).round() as usize;
                Onset::Fixed(lag.min(window.saturating_sub(1)))
            }
            Tau::Lag(lag) => Onset::Fixed(lag),
        };
        Ok(Rule {
            estimator: self,
            onset,
        })
    }
}

/// An estimator, with what one set of norms has told it: applied to draws of the same sequences, too.
pub(crate) struct Rule<'a> {
    estimator: &'a BiasEstimator,
    onset: Onset,
}

enum Onset {
    Fixed(usize),
    Chosen(Onsets),
}

impl Rule<'_> {
    pub(crate) fn estimate(&self, norms: &LagNorms) -> Result<BiasEstimate, EstimateError> {
        let estimator = self.estimator;
        let profile = norms.profile(estimator.averaging)?;
        let (log_phi, window) = (profile.log(), profile.window());
        check_gradient(log_phi)?;
        let log_gradient = estimator.gradient_size.logs(norms, log_phi)?;
        let first = usize::from(!estimator.fit_lag_zero);
        let tau = match &self.onset {
            Onset::Fixed(lag) => *lag,
            Onset::Chosen(onsets) => onsets.choose(log_phi),
        };
        if tau >= window {
            return Err(EstimateError::TauOutsideWindow { tau, window });
        }
        let fitted = log_phi.get(first..).unwrap_or_default();
        let mut line = estimator.fit.line(fitted, tau.saturating_sub(first))?;
        line.lag += first as f64;
        let tail_from_tau = estimator.tail_from_tau;
        Ok(BiasEstimate::new(
            profile,
            tau,
            line,
            tail_from_tau,
            &log_gradient,
        ))
    }
}

fn check_gradient(log_phi: &[f64]) -> Result<(), EstimateError> {
    let largest_log = log_phi.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match largest_log < LOG_VANISHED {
        true => Err(EstimateError::NoGradient { largest_log }),
        false => Ok(()),
    }
}

impl GradientSize {
    /// log G(j), `j = 0..=lags`.
    fn logs(self, norms: &LagNorms, log_phi: &[f64]) -> Result<Vec<f64>, EstimateError> {
        Ok(match self {
            Self::SumOfNorms => logs::cumulative_sums(log_phi),
            Self::SumOfStateNorms => {
                let mut states = log_phi.to_vec();
                if let Some(output) = states.first_mut() {
                    *output = f64::NEG_INFINITY;
                }
                logs::cumulative_sums(&states)
            }
            Self::NormOfMeanSum | Self::NormOfMeanStateSum => {
                let sizes = norms
                    .mean_sum_norms()
                    .ok_or(EstimateError::MeanSumsMissing)?;
                let output = match self {
                    Self::NormOfMeanSum => 0.0,
                    // Lag 0 has coordinates of its own: without it, its square is missing from every other size's.
                    _ => sizes.get(1).copied().unwrap_or(0.0),
                };
                let without = |size: &f64| match *size > output {
                    true => size * (1.0 - (output / size).powi(2)).sqrt(),
                    false => 0.0,
                };
                sizes.iter().map(|size| without(size).ln()).collect()
            }
            Self::DebiasedNormOfMeanSum | Self::DebiasedNormOfMeanStateSum => {
                let squares = norms
                    .debiased_squares()
                    .ok_or(EstimateError::SumSquaresMissing)?;
                let output = match self {
                    Self::DebiasedNormOfMeanSum => 0.0,
                    _ => squares.get(1).copied().unwrap_or(0.0),
                };
                let log = |square: &f64| 0.5 * (square - output).max(0.0).ln();
                let mut sizes: Vec<f64> = squares.iter().map(log).collect();
                // No lag kept, no gradient, whatever the estimate of lag 0's square.
                if let Some(nothing) = sizes.first_mut() {
                    *nothing = f64::NEG_INFINITY;
                }
                sizes
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_files_have_one_form() {
        let written = [
            (
                BiasEstimator::paper(),
                r#"{"tau":{"Fraction":0.9},"tail_from":"Tau","fit":{"LeastSquares":"All"},"fit_lag_zero":true,"averaging":"MeanThenLog","gradient_size":"SumOfNorms"}"#,
            ),
            (
                BiasEstimator::new().with_fit(DecayFit::Quantile(0.5)),
                r#"{"tau":"Lepski","tail_from":"WindowEnd","fit":{"Quantile":0.5},"fit_lag_zero":false,"averaging":"MeanThenLog","gradient_size":"SumOfNorms"}"#,
            ),
        ];
        for (estimator, json) in written {
            assert_eq!(serde_json::to_string(&estimator).unwrap(), json);
            assert_eq!(
                serde_json::from_str::<BiasEstimator>(json).unwrap(),
                estimator
            );
        }
    }
}
