//! The bias that truncation leaves in the gradient, as a function of the truncation length.
//!
//! Reads [`LagNorms`](crate::LagNorms); takes the decay rate from `decay` and its onset from Lepski's rule; gives `policy`
//! the length that a tolerance asks for.
//!
//! `k`, `K`: kept steps, lags `0..K`; `tau` (τ): lag from which on the profile is taken as geometric; `beta` (β): its
//! decay per step; `E(K)`: absolute bias; `δ(K)`: relative bias; `G(j)`: gradient size of `j` kept lags; φ̃: the fitted
//! geometric profile. The sums run in log space: profiles span hundreds of orders of magnitude.
//!
//! # An estimate, and no bound
//!
//! Norms of state gradients bound the bias of the *parameter* gradient only up to a constant (Theorem 1 of Aicher et al.
//! 2019 has one: how strongly a parameter acts on a state), and no reading of the gradient's size changes that. In
//! h_t = ½ h_{t−1} + w x_t with white x and ∂L_s/∂h_s = 3 + x_{s−5}, all of the gradient with respect to w comes through
//! lag 5: keeping five steps leaves a relative bias of 1, where the most cautious reading here says 0.03.
//! `DirectStatistics` measures the parameter gradient itself.

mod settings;

pub use settings::{BiasEstimator, GradientSize, Tau};

use serde::{Deserialize, Serialize};

use crate::decay::DecayLine;
use crate::profile::{LOG_VANISHED, LOG_ZERO, LagProfile};
use crate::{EstimateError, logs};

/// Share of a bias below which the tail, and with it τ, hardly matters.
pub const MOOT_TAIL_SHARE: f64 = 0.05;

/// What lies beyond the lags that are summed as measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Tail {
    /// The sum of all of it, as a log; falls by log β per further kept step.
    Decaying { log_sum: f64 },
    /// The profile vanished and no decay was seen: nothing is left to drop.
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
    /// First lag that is summed by the fitted tail.
    tail_from: usize,
    tail: Tail,
    /// log E(K) below it; empty when unbounded.
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
    tail_from: usize,
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
        if ![tau, raw.profile.lags()].contains(&raw.tail_from) {
            return Err(EstimateError::OutOfRange {
                what: "the first lag of a stored tail",
                rule: "tau or the number of lags",
                value: raw.tail_from as f64,
            });
        }
        let expected = match raw.tail {
            Tail::Unbounded => 0,
            _ => raw.tail_from,
        };
        if raw.log_head.len() != expected {
            return Err(EstimateError::Length {
                what: "the bias below the tail",
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
            tail_from: raw.tail_from,
            tail: raw.tail,
            log_head: raw.log_head,
            log_scale: raw.log_scale,
        })
    }
}

impl BiasEstimate {
    /// `log_gradient[j]`: log G(j), `j = 0..=lags`.
    fn new(
        profile: LagProfile,
        tau: usize,
        line: DecayLine,
        tail_from_tau: bool,
        log_gradient: &[f64],
    ) -> Self {
        let log_phi = profile.log();
        let log_beta = line.log_beta;
        let at = |lag: usize| log_phi.get(lag).copied().unwrap_or(LOG_ZERO);
        // The first lag of the tail, its log φ̃, and the last measured lag before it that says whether anything is left.
        let (tail_from, log_first, log_last) = match tail_from_tau {
            true => (tau, at(tau), at(tau)),
            false => (
                log_phi.len(),
                line.log_phi_at(log_phi.len()),
                at(profile.window()),
            ),
        };
        let tail = if log_beta < 0.0 {
            // log(1 − β), exact for β near 1.
            Tail::Decaying {
                log_sum: log_first - (-log_beta.exp_m1()).ln(),
            }
        } else if log_last < LOG_VANISHED {
            // Edge rule of the reference values. Sound, because a gradient that is zero at one lag is zero at every
            // longer lag: what flows back flows through the state.
            Tail::Vanished
        } else {
            Tail::Unbounded
        };
        let head = log_phi.get(..tail_from).unwrap_or(log_phi);
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
            tail_from,
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

    /// Lag from which on the profile is taken as geometric, in steps. See [`BiasEstimate::tau_is_moot`].
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

    /// The lag profile: φ_k, the averaged norm at lag k, `k = 0..=W`.
    pub fn phi(&self) -> Vec<f64> {
        self.profile.phi()
    }

    /// Whether the bias has a bound at all; false when no decay was seen.
    pub fn is_bounded(&self) -> bool {
        self.tail != Tail::Unbounded
    }

    /// log E(k) for `k` kept steps, also beyond the window; `f64::INFINITY` when unbounded.
    ///
    /// With lags `0..k` kept, the measured lags that are dropped and the fitted tail beyond the window,
    /// E(k) = Σ_{k ≤ i ≤ W} φ_i + φ̃_W β/(1−β), or with [`BiasEstimator::tail_from_tau`] the sum of Aicher et al. 2019,
    /// E(k) = Σ_{k ≤ i < τ} φ_i + φ_τ/(1−β) for `k < τ` and φ_τ β^{k−τ}/(1−β) from τ on. (The released code adds φ_τ
    /// twice below τ and starts its profile at lag 1; this does neither.) Non-increasing in `k`, with one exception: a
    /// vanished tail without a decay rate reports the threshold, log −50, from its first lag on.
    pub fn log_absolute_bias(&self, k: usize) -> f64 {
        match self.tail {
            Tail::Unbounded => f64::INFINITY,
            _ if k < self.tail_from => self.log_head.get(k).copied().unwrap_or(f64::INFINITY),
            Tail::Decaying { log_sum } => log_sum + (k - self.tail_from) as f64 * self.log_beta,
            Tail::Vanished => LOG_VANISHED,
        }
    }

    /// Share of E(k) that is the fitted tail, in [0, 1]; the rest was measured lag by lag. 1 when unbounded.
    pub fn tail_share(&self, k: usize) -> f64 {
        match self.tail {
            Tail::Unbounded => 1.0,
            Tail::Vanished => 0.0,
            Tail::Decaying { log_sum } if k < self.tail_from => {
                (log_sum - self.log_absolute_bias(k)).exp().min(1.0)
            }
            Tail::Decaying { .. } => 1.0,
        }
    }

    /// Whether the choice of τ hardly matters to E(k): the fitted tail is less than [`MOOT_TAIL_SHARE`] of it.
    pub fn tau_is_moot(&self, k: usize) -> bool {
        self.tail_share(k) < MOOT_TAIL_SHARE
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
