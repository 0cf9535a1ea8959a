//! The bias that truncation leaves in the gradient, as a function of the truncation length.
//!
//! Reads [`LagNorms`]; takes the decay rate from `decay`; gives `policy` the length that a tolerance asks for.
//!
//! `k`, `K`: kept steps, lags `0..K`; `tau` (τ): lag from which on the profile is taken as geometric; `beta` (β): its
//! decay per step; `E(K)`: absolute bias; `δ(K)`: relative bias; `G(j)`: gradient size of `j` kept lags. The sums run in
//! log space: profiles span hundreds of orders of magnitude.

use serde::{Deserialize, Serialize};

use crate::decay::DecayFit;
use crate::profile::{Averaging, LOG_VANISHED, LOG_ZERO, LagProfile};
use crate::{EstimateError, LagNorms, logs};

/// What the bias is compared with: the size G(j) of the gradient that `j` kept lags give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GradientSize {
    /// Σ_{k<j} φ_k, as in the language experiments of Aicher et al. 2019 (but for lag 0). Every probe has it. It overstates
    /// the gradient where the lags or sequences cancel, so δ(K) comes out lower: an estimate, and no bound.
    #[default]
    SumOfNorms,
    /// Σ_{1≤k<j} φ_k: the same without φ_0, the gradient of what the decoder sees. What truncation drops is compared with
    /// what the recurrence keeps, so δ(K) comes out higher: for tasks whose decoder outweighs the memory. The language
    /// experiments' profile starts at lag 1 and has this size.
    SumOfStateNorms,
    /// ‖mean over sequences of Σ_{k<j} ∂L/∂h_{s−k}‖: a true lower bound, more conservative. The probe must have kept it.
    NormOfMeanSum,
    /// ‖mean over sequences of Σ_{1≤k<j} ∂L/∂h_{s−k}‖: the same without lag 0. What the released scripts of Aicher et al.
    /// 2019 use for the copy and point-process tasks; the most conservative of all, and noisy where the mean over a probe's
    /// sequences nearly cancels.
    NormOfMeanStateSum,
}

/// The lag from which on the profile is taken as geometric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Tau {
    /// A share of the window W, in [0, 1); rounded to a lag, and at most W − 1.
    Fraction(f64),
    /// A lag, in steps, below W.
    Lag(usize),
}

impl Default for Tau {
    /// 0.9 W, the choice of the language models of Aicher et al. 2019.
    fn default() -> Self {
        Self::Fraction(0.9)
    }
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

    fn lag(self, window: usize) -> usize {
        match self {
            Self::Fraction(fraction) => {
                ((fraction * window as f64).round() as usize).min(window.saturating_sub(1))
            }
            Self::Lag(lag) => lag,
        }
    }
}

/// How to turn lag norms into a bias curve.
///
/// The default is the estimator of the experiments in Aicher et al. 2019: τ = 0.9 W, least squares over all lags, mean
/// before log, sum of norms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct BiasEstimator {
    /// Onset of the geometric tail. Raise it when the log profile still bends; lower it when its end is noise.
    pub tau: Tau,
    /// Fit of the decay rate. [`DecayFit::Max`] when the bound must hold on the whole window.
    pub fit: DecayFit,
    /// Order of mean and log over sequences.
    pub averaging: Averaging,
    /// What the bias is relative to. [`GradientSize::NormOfMeanSum`] for the cautious reading.
    pub gradient_size: GradientSize,
}

impl BiasEstimator {
    /// The default estimator.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`BiasEstimator::tau`].
    pub fn with_tau(mut self, tau: Tau) -> Self {
        self.tau = tau;
        self
    }

    /// Sets [`BiasEstimator::fit`].
    pub fn with_fit(mut self, fit: DecayFit) -> Self {
        self.fit = fit;
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
    /// A setting out of range; [`EstimateError::TooFewLags`] below two lags; [`EstimateError::TauOutsideWindow`];
    /// [`EstimateError::NoGradient`] when every lag vanished; [`EstimateError::MeanSumsMissing`].
    pub fn estimate(&self, norms: &LagNorms) -> Result<BiasEstimate, EstimateError> {
        self.validate()?;
        let profile = norms.profile(self.averaging);
        let log_phi = profile.log();
        if log_phi.len() < 2 {
            return Err(EstimateError::TooFewLags {
                needed: 2,
                got: log_phi.len(),
            });
        }
        let largest_log = log_phi.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest_log < LOG_VANISHED {
            return Err(EstimateError::NoGradient { largest_log });
        }
        let log_gradient = match self.gradient_size {
            GradientSize::SumOfNorms => logs::cumulative_sums(log_phi),
            GradientSize::SumOfStateNorms => {
                let mut states = log_phi.to_vec();
                if let Some(output) = states.first_mut() {
                    *output = f64::NEG_INFINITY;
                }
                logs::cumulative_sums(&states)
            }
            GradientSize::NormOfMeanSum | GradientSize::NormOfMeanStateSum => {
                let sizes = norms
                    .mean_sum_norms()
                    .ok_or(EstimateError::MeanSumsMissing)?;
                let output = match self.gradient_size {
                    GradientSize::NormOfMeanSum => 0.0,
                    // Lag 0 has coordinates of its own: without it, its square is missing from every other size's.
                    _ => sizes.get(1).copied().unwrap_or(0.0),
                };
                let without = |size: &f64| match *size > output {
                    true => size * (1.0 - (output / size).powi(2)).sqrt(),
                    false => 0.0,
                };
                sizes.iter().map(|size| without(size).ln()).collect()
            }
        };
        let tau = self.tau.lag(profile.window());
        let log_beta = self.fit.log_beta(log_phi, tau)?;
        Ok(BiasEstimate::new(profile, tau, log_beta, &log_gradient))
    }
}

/// What lies beyond lag τ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Tail {
    /// φ_τ/(1−β), as a log; falls by log β per further kept step.
    Decaying { log_sum: f64 },
    /// φ_τ vanished and no decay was seen: nothing is left to drop.
    Vanished,
    /// β ≥ 1: the sum has no bound.
    Unbounded,
}

/// The bias curve of one profile.
///
/// Relative biases do not depend on the scale of the loss, as long as the profile stays away from the log −50 at which
/// norms count as zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct BiasEstimate {
    profile: LagProfile,
    tau: usize,
    log_beta: f64,
    tail: Tail,
    /// log E(K) for K < τ; empty when unbounded.
    log_head: Vec<f64>,
    /// log max_j [G(j) − E(j)], `None` where the bracket is positive for no j.
    log_scale: Option<f64>,
}

/// [`BiasEstimate`] as stored: checked when read, so that no answer of one is ever NaN.
#[derive(Deserialize)]
struct Raw {
    profile: LagProfile,
    tau: usize,
    log_beta: f64,
    tail: Tail,
    log_head: Vec<f64>,
    log_scale: Option<f64>,
}

impl TryFrom<Raw> for BiasEstimate {
    type Error = EstimateError;

    fn try_from(raw: Raw) -> Result<Self, EstimateError> {
        let (tau, window) = (raw.tau, raw.profile.window());
        if tau >= window {
            return Err(EstimateError::TauOutsideWindow { tau, window });
        }
        let expected = if raw.tail == Tail::Unbounded { 0 } else { tau };
        if raw.log_head.len() != expected {
            return Err(EstimateError::Length {
                what: "the bias below tau",
                expected,
                got: raw.log_head.len(),
            });
        }
        let sum = match raw.tail {
            Tail::Decaying { log_sum } => log_sum,
            Tail::Vanished | Tail::Unbounded => 0.0,
        };
        let logs = [raw.log_beta, sum, raw.log_scale.unwrap_or(0.0)];
        if let Some(&value) = logs.iter().chain(&raw.log_head).find(|x| !x.is_finite()) {
            return Err(EstimateError::OutOfRange {
                what: "a logarithm of a stored estimate",
                rule: "finite",
                value,
            });
        }
        Ok(Self {
            profile: raw.profile,
            tau,
            log_beta: raw.log_beta,
            tail: raw.tail,
            log_head: raw.log_head,
            log_scale: raw.log_scale,
        })
    }
}

impl BiasEstimate {
    /// `log_gradient[j]`: log G(j), `j = 0..=lags`.
    fn new(profile: LagProfile, tau: usize, log_beta: f64, log_gradient: &[f64]) -> Self {
        let log_phi = profile.log();
        // The fit has refused a tau outside the window.
        let (head, from_tau) = log_phi.split_at_checked(tau).unwrap_or((log_phi, &[]));
        let at_tau = from_tau.first().copied().unwrap_or(LOG_ZERO);
        let tail = if log_beta < 0.0 {
            // log(1 − β), exact for β near 1.
            Tail::Decaying {
                log_sum: at_tau - (-log_beta.exp_m1()).ln(),
            }
        } else if at_tau < LOG_VANISHED {
            // Edge rule of the reference values. Sound, because a gradient that is zero at lag τ is zero at every
            // longer lag: what flows back flows through the state.
            Tail::Vanished
        } else {
            Tail::Unbounded
        };
        let start = match tail {
            Tail::Decaying { log_sum } => Some(log_sum),
            Tail::Vanished => Some(f64::NEG_INFINITY),
            Tail::Unbounded => None,
        };
        let log_head = start.map_or_else(Vec::new, |tail| {
            let mut sum = tail;
            let mut head: Vec<f64> = head
                .iter()
                .rev()
                .map(|x| {
                    sum = logs::add(sum, *x);
                    sum
                })
                .collect();
            head.reverse();
            head
        });
        let mut estimate = Self {
            profile,
            tau,
            log_beta,
            tail,
            log_head,
            log_scale: None,
        };
        let brackets = log_gradient
            .iter()
            .enumerate()
            .map(|(j, g)| logs::sub(*g, estimate.log_absolute_bias(j)));
        let log_scale = brackets.fold(f64::NEG_INFINITY, f64::max);
        estimate.log_scale = log_scale.is_finite().then_some(log_scale);
        estimate
    }

    /// Lag from which on the profile is taken as geometric, in steps.
    pub fn tau(&self) -> usize {
        self.tau
    }

    /// Window length W, in steps.
    pub fn window(&self) -> usize {
        self.profile.window()
    }

    /// log of the decay per step; at or above 0 when no decay was seen.
    pub fn log_beta(&self) -> f64 {
        self.log_beta
    }

    /// Decay per step.
    pub fn beta(&self) -> f64 {
        self.log_beta.exp()
    }

    /// The averaged lag norms.
    pub fn profile(&self) -> &LagProfile {
        &self.profile
    }

    /// Whether the bias has a bound at all; false when no decay was seen.
    pub fn is_bounded(&self) -> bool {
        self.tail != Tail::Unbounded
    }

    /// log E(k) for `k` kept steps, also beyond the window; `f64::INFINITY` when unbounded.
    ///
    /// Aicher et al. 2019, the bound on the truncated gradient's bias, with lags `0..k` kept:
    /// E(k) = Σ_{k ≤ i < τ} φ_i + φ_τ/(1−β) for `k < τ`, and φ_τ β^{k−τ}/(1−β) from τ on. (The released code adds φ_τ
    /// twice below τ and starts its profile at lag 1; this does neither.) Non-increasing in `k`, with one exception: a
    /// vanished tail without a decay rate reports the threshold, log −50, from τ on.
    pub fn log_absolute_bias(&self, k: usize) -> f64 {
        match self.tail {
            Tail::Unbounded => f64::INFINITY,
            _ if k < self.tau => self.log_head.get(k).copied().unwrap_or(f64::INFINITY),
            Tail::Decaying { log_sum } => log_sum + (k - self.tau) as f64 * self.log_beta,
            Tail::Vanished => LOG_VANISHED,
        }
    }

    /// E(k), in units of the state gradient's norm.
    pub fn absolute_bias(&self, k: usize) -> f64 {
        self.log_absolute_bias(k).exp()
    }

    /// log δ(k), where δ(k) = E(k) / max_j [G(j) − E(j)] over `j = 1..=W+1`; `f64::INFINITY` when unbounded.
    pub fn log_relative_bias(&self, k: usize) -> f64 {
        match self.log_scale {
            Some(scale) => self.log_absolute_bias(k) - scale,
            None => f64::INFINITY,
        }
    }

    /// δ(k), the bias as a share of the gradient.
    pub fn relative_bias(&self, k: usize) -> f64 {
        self.log_relative_bias(k).exp()
    }

    /// E(k) for `k = 0..=W+1`.
    pub fn absolute_bias_curve(&self) -> Vec<f64> {
        (0..=self.profile.lags())
            .map(|k| self.absolute_bias(k))
            .collect()
    }

    /// δ(k) for `k = 0..=W+1`.
    pub fn relative_bias_curve(&self) -> Vec<f64> {
        (0..=self.profile.lags())
            .map(|k| self.relative_bias(k))
            .collect()
    }

    /// K(δ): the smallest number of kept steps in `1..=W+1` whose relative bias is at most `delta`.
    ///
    /// `None` when no such K exists, and for a NaN tolerance.
    pub fn smallest_k(&self, delta: f64) -> Option<usize> {
        let log_delta = delta.ln();
        (1..=self.profile.lags()).find(|k| self.log_relative_bias(*k) <= log_delta)
    }

    /// K(δ) as a real number: where log δ(k), joined linearly between whole k, crosses the tolerance.
    ///
    /// [`BiasEstimate::smallest_k`] is its ceiling. At least 1; `None` as there.
    pub fn crossing(&self, delta: f64) -> Option<f64> {
        let k = self.smallest_k(delta)?;
        let (before, after) = (self.log_relative_bias(k - 1), self.log_relative_bias(k));
        let share = (before - delta.ln()) / (before - after);
        let crossing = (k - 1) as f64 + share;
        // Nothing crosses below 1, from an infinite bias, or nearer to k − 1 than numbers of that size can tell.
        let inside = k > 1 && crossing > (k - 1) as f64 && crossing <= k as f64;
        Some(if inside { crossing } else { k as f64 })
    }
}

/// Bias bound of `k >= tau` kept steps: `phi_tau · beta^(k−tau) / (1−beta)`.
///
/// Aicher et al. 2019, supplement (B.4) summed over the dropped lags `k, k+1, …`, as in (B.5) with `M = 1`. Holds for
/// `0 <= beta < 1`, `k >= tau` and finite `phi_tau >= 0`; `f64::INFINITY`, no bound, anywhere else.
pub fn tail_bound(phi_tau: f64, beta: f64, tau: usize, k: usize) -> f64 {
    if (0.0..1.0).contains(&beta) && k >= tau && (0.0..=f64::MAX).contains(&phi_tau) {
        phi_tau * beta.powf((k - tau) as f64) / (1.0 - beta)
    } else {
        f64::INFINITY
    }
}
