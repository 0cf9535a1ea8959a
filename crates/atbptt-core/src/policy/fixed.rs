//! The baseline: one truncation length for the whole run, optionally watched.
//!
//! With a [`Monitor`] it probes as the controller does and records the bias at its K, changing nothing.

use serde::{Deserialize, Serialize};

use super::{
    Assessment, Decision, PolicyState, Position, Reason, TruncationPolicy, UpdateEvery, assess,
    finite_bias,
};
use crate::{BiasEstimate, BiasEstimator, EstimateError, LagNorms};

/// How to watch the bias of a policy that does not act on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Monitor {
    /// Estimator of the bias.
    pub estimator: BiasEstimator,
    /// Probes per estimate, at least 1. Default 1.
    pub probes: usize,
    /// How often to estimate. Default once per epoch.
    pub every: UpdateEvery,
    /// Whether to probe before the first window already. Default false.
    pub probe_first: bool,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            estimator: BiasEstimator::default(),
            probes: 1,
            every: UpdateEvery::default(),
            probe_first: false,
        }
    }
}

impl Monitor {
    pub(super) fn validate(&self) -> Result<(), EstimateError> {
        if self.probes == 0 {
            return Err(EstimateError::Zero {
                what: "the number of probes",
            });
        }
        self.every.validate()?;
        self.estimator.validate()
    }
}

/// What a policy that does not act on its estimates has seen: the state of a [`FixedK`], and part of other policies'.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FixedKState {
    /// When the bias was last estimated.
    pub last_update: Option<Position>,
    /// Last usable estimate.
    pub last_estimate: Option<BiasEstimate>,
    /// All decisions, oldest first.
    pub history: Vec<Decision>,
}

impl FixedKState {
    /// Probes due at `at` under `monitor`.
    pub(super) fn probes_due(&self, monitor: Option<&Monitor>, at: Position) -> usize {
        match monitor {
            Some(m) if m.every.is_due(self.last_update, m.probe_first, at) => m.probes,
            _ => 0,
        }
    }

    /// Writes down the bias at `k`, which stays as it is.
    pub(super) fn record(
        &mut self,
        (k, reason): (usize, Reason),
        monitor: Option<&Monitor>,
        at: Position,
        probes: &[Result<LagNorms, EstimateError>],
    ) -> Decision {
        let estimator = monitor.map(|m| m.estimator).unwrap_or_default();
        let Assessment {
            together, unusable, ..
        } = assess(&estimator, probes);
        let decision = Decision {
            k,
            reason,
            position: at,
            delta: None,
            relative_bias: together.as_ref().and_then(|e| finite_bias(e, k)),
            log_beta: together.as_ref().map(BiasEstimate::log_beta),
            tau: together.as_ref().map(BiasEstimate::tau),
            probe_ks: Vec::new(),
            saturated: 0,
            unusable,
        };
        self.last_update = Some(at);
        if together.is_some() {
            self.last_estimate = together;
        }
        self.history.push(decision.clone());
        decision
    }
}

/// One K for the whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedK {
    k: usize,
    monitor: Option<Monitor>,
    state: FixedKState,
}

impl FixedK {
    /// Keeps `k` steps, `k >= 1`, and never probes.
    ///
    /// # Errors
    /// [`EstimateError::Zero`].
    pub fn new(k: usize) -> Result<Self, EstimateError> {
        if k == 0 {
            return Err(EstimateError::Zero {
                what: "the truncation length",
            });
        }
        Ok(Self {
            k,
            monitor: None,
            state: FixedKState::default(),
        })
    }

    /// Watches the bias at this K.
    ///
    /// # Errors
    /// [`EstimateError::Zero`], or a setting of the estimator out of range.
    pub fn with_monitor(mut self, monitor: Monitor) -> Result<Self, EstimateError> {
        monitor.validate()?;
        self.monitor = Some(monitor);
        Ok(self)
    }
}

impl TruncationPolicy for FixedK {
    fn next_k(&mut self) -> usize {
        self.k
    }

    fn k(&self) -> usize {
        self.k
    }

    fn k_max(&self) -> usize {
        self.k
    }

    fn probes_due(&self, at: Position) -> usize {
        self.state.probes_due(self.monitor.as_ref(), at)
    }

    fn update(&mut self, at: Position, probes: &[Result<LagNorms, EstimateError>]) -> Decision {
        let k = (self.k, Reason::Fixed);
        self.state.record(k, self.monitor.as_ref(), at, probes)
    }

    fn history(&self) -> &[Decision] {
        &self.state.history
    }

    fn last_estimate(&self) -> Option<&BiasEstimate> {
        self.state.last_estimate.as_ref()
    }

    fn save(&self) -> PolicyState {
        PolicyState::Fixed(self.state.clone())
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        let PolicyState::Fixed(state) = state else {
            return Err(EstimateError::ForeignState {
                expected: "fixed",
                got: state.policy().to_owned(),
            });
        };
        self.state = state;
        Ok(())
    }
}
