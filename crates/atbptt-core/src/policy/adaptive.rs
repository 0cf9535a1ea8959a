//! The controller: the shortest K whose estimated relative bias meets a tolerance.
//!
//! Reads the norms of a few probes at every update; gives K to the trainer (Aicher et al. 2019, the adaptive
//! truncation algorithm).
//!
//! `delta` (δ): tolerated relative bias; `k0`: K before the first update; `k_min`, `k_max`: bounds on K, in steps.

use serde::{Deserialize, Serialize};

use super::{
    Assessment, Decision, PolicyState, Position, Reason, TruncationPolicy, UpdateEvery, assess,
    finite_bias,
};
use crate::{BiasEstimate, BiasEstimator, EstimateError, LagNorms};

/// Settings of a [`KController`]. The tolerance is the user's choice; the lengths default to those of the copy task of
/// Aicher et al. 2019 and should be set for the data at hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveConfig {
    /// Tolerated relative bias δ, in (0, 1]. Smaller means longer windows and more memory; 0.9, 0.5 and 0.1 are the
    /// published choices, 0.5 a fair start.
    pub delta: f64,
    /// K before the first update, in steps, in `k_min..=k_max`. Default 15. Set it near the K you would have fixed.
    pub k0: usize,
    /// Shortest K, in steps, at least 1. Default 2. Raise it when very short windows waste the device.
    pub k_min: usize,
    /// Longest K, in steps: bounds memory and time per step; saturated probes ask for it. Default 100.
    pub k_max: usize,
    /// Probes per update, at least 1. Default 5. More when K jumps between updates, fewer when probes cost too much.
    pub probes: usize,
    /// How often to update. Default once per epoch; choose steps when an epoch is long.
    pub every: UpdateEvery,
    /// Whether to probe before the first window already, which makes `k0` moot. Default false: untrained weights say
    /// little about the trained model.
    pub probe_first: bool,
    /// Estimator of the bias. Default as in the experiments of Aicher et al. 2019.
    pub estimator: BiasEstimator,
}

impl AdaptiveConfig {
    /// Defaults for everything but the tolerance.
    pub fn new(delta: f64) -> Self {
        Self {
            delta,
            k0: 15,
            k_min: 2,
            k_max: 100,
            probes: 5,
            every: UpdateEvery::default(),
            probe_first: false,
            estimator: BiasEstimator::default(),
        }
    }

    /// Sets [`AdaptiveConfig::k0`].
    pub fn with_k0(mut self, k0: usize) -> Self {
        self.k0 = k0;
        self
    }

    /// Sets [`AdaptiveConfig::k_min`].
    pub fn with_k_min(mut self, k_min: usize) -> Self {
        self.k_min = k_min;
        self
    }

    /// Sets [`AdaptiveConfig::k_max`].
    pub fn with_k_max(mut self, k_max: usize) -> Self {
        self.k_max = k_max;
        self
    }

    /// Sets [`AdaptiveConfig::probes`].
    pub fn with_probes(mut self, probes: usize) -> Self {
        self.probes = probes;
        self
    }

    /// Sets [`AdaptiveConfig::every`].
    pub fn with_every(mut self, every: UpdateEvery) -> Self {
        self.every = every;
        self
    }

    /// Sets [`AdaptiveConfig::probe_first`].
    pub fn with_probe_first(mut self, probe_first: bool) -> Self {
        self.probe_first = probe_first;
        self
    }

    /// Sets [`AdaptiveConfig::estimator`].
    pub fn with_estimator(mut self, estimator: BiasEstimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// The controller, at `k0`.
    ///
    /// # Errors
    /// [`EstimateError::Tolerance`], [`EstimateError::Lengths`], [`EstimateError::Zero`], or a setting of the estimator.
    pub fn init(&self) -> Result<KController, EstimateError> {
        let Self {
            delta,
            k0,
            k_min,
            k_max,
            ..
        } = *self;
        if !(delta > 0.0 && delta <= 1.0) {
            return Err(EstimateError::Tolerance { delta });
        }
        if !(1 <= k_min && k_min <= k0 && k0 <= k_max) {
            return Err(EstimateError::Lengths { k_min, k0, k_max });
        }
        if self.probes == 0 {
            return Err(EstimateError::Zero {
                what: "the number of probes",
            });
        }
        self.every.validate()?;
        self.estimator.validate()?;
        let state = KControllerState {
            k: k0,
            last_update: None,
            last_estimate: None,
            history: Vec::new(),
        };
        Ok(KController {
            config: self.clone(),
            state,
        })
    }
}

/// What a [`KController`] carries from window to window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KControllerState {
    /// Truncation length in use, in steps.
    pub k: usize,
    /// When K was last updated.
    pub last_update: Option<Position>,
    /// Last usable estimate, of all usable probes' sequences together.
    pub last_estimate: Option<BiasEstimate>,
    /// All decisions, oldest first.
    pub history: Vec<Decision>,
}

/// Holds the estimated relative bias at a tolerance.
///
/// One update: each usable probe gives its K(δ), or `k_max` where it has none (saturated); their mean, rounded and
/// clamped to `[k_min, k_max]`, is the new K. Without a usable probe K is kept. The decision's reason is the saturated
/// one when at least half of the usable probes were saturated (no decay before out of reach when they tie).
#[derive(Debug, Clone, PartialEq)]
pub struct KController {
    config: AdaptiveConfig,
    state: KControllerState,
}

impl KController {
    /// The settings.
    pub fn config(&self) -> &AdaptiveConfig {
        &self.config
    }

    /// K and reason of an update; the K and saturation count of the probes.
    fn choose(&self, estimates: &[BiasEstimate]) -> (usize, Reason, Vec<usize>, usize) {
        let AdaptiveConfig {
            delta,
            k_min,
            k_max,
            ..
        } = self.config;
        let found: Vec<Option<usize>> = estimates.iter().map(|e| e.smallest_k(delta)).collect();
        let probe_ks: Vec<usize> = found.iter().map(|k| k.unwrap_or(k_max)).collect();
        if probe_ks.is_empty() {
            return (self.state.k, Reason::Unusable, probe_ks, 0);
        }
        let saturated = found.iter().filter(|k| k.is_none()).count();
        let no_decay = estimates.iter().filter(|e| !e.is_bounded()).count();
        let mean =
            (probe_ks.iter().map(|k| *k as f64).sum::<f64>() / probe_ks.len() as f64).round();
        let k = (mean as usize).clamp(k_min, k_max);
        let reason = if 2 * saturated >= probe_ks.len() {
            if 2 * no_decay >= saturated {
                Reason::NoDecay
            } else {
                Reason::OutOfReach
            }
        } else if mean < k_min as f64 {
            Reason::ClampedToMin
        } else if mean > k_max as f64 {
            Reason::ClampedToMax
        } else {
            Reason::ToleranceMet
        };
        (k, reason, probe_ks, saturated)
    }
}

impl TruncationPolicy for KController {
    fn next_k(&mut self) -> usize {
        self.state.k
    }

    fn k(&self) -> usize {
        self.state.k
    }

    fn k_max(&self) -> usize {
        self.config.k_max
    }

    fn probes_due(&self, at: Position) -> usize {
        let due = self
            .config
            .every
            .is_due(self.state.last_update, self.config.probe_first, at);
        if due { self.config.probes } else { 0 }
    }

    fn update(&mut self, at: Position, probes: &[Result<LagNorms, EstimateError>]) -> Decision {
        let Assessment {
            each,
            together,
            unusable,
        } = assess(&self.config.estimator, probes);
        let (k, reason, probe_ks, saturated) = self.choose(&each);
        let decision = Decision {
            k,
            reason,
            position: at,
            delta: Some(self.config.delta),
            relative_bias: together.as_ref().and_then(|e| finite_bias(e, k)),
            log_beta: together.as_ref().map(BiasEstimate::log_beta),
            tau: together.as_ref().map(BiasEstimate::tau),
            probe_ks,
            saturated,
            unusable,
        };
        self.state.k = k;
        self.state.last_update = Some(at);
        if together.is_some() {
            self.state.last_estimate = together;
        }
        self.state.history.push(decision.clone());
        decision
    }

    fn history(&self) -> &[Decision] {
        &self.state.history
    }

    fn last_estimate(&self) -> Option<&BiasEstimate> {
        self.state.last_estimate.as_ref()
    }

    fn save(&self) -> PolicyState {
        PolicyState::Adaptive(self.state.clone())
    }

    /// K is clamped to this configuration's bounds, should they have changed since.
    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        let PolicyState::Adaptive(mut state) = state else {
            return Err(EstimateError::ForeignState {
                expected: "adaptive",
                got: state.policy().to_owned(),
            });
        };
        state.k = state.k.clamp(self.config.k_min, self.config.k_max);
        self.state = state;
        Ok(())
    }
}
