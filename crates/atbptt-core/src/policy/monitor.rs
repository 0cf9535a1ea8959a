//! What every policy knows about the bias: when probes are due, the last estimate, and all decisions.

use serde::{Deserialize, Serialize};

use super::estimate::Assessment;
use super::{Decision, Estimate, Estimator, Measurement, Position, ProbeRequest, Reason, Schedule};
use crate::{BiasEstimate, BiasEstimator, DirectEstimate, DirectOutcome, EstimateError};

/// How the bias is watched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MonitorConfig {
    /// Estimator of the bias.
    pub estimator: Estimator,
    /// Probes per estimate, at least 1, and at least 2 for the direct estimate (3 for it to know its own error). Default 5.
    /// More when the estimate jumps, fewer when probes cost too much.
    pub probes: usize,
    /// Most probes per direct estimate. Where noise hides the gradient, the next estimate takes twice as many, until so many; where
    /// the gradient stands far out of its noise again, half as many, until `probes`. Default 20. At `probes` or below it their
    /// number never changes.
    pub max_probes: usize,
    /// Share of the previous estimates in a direct estimate, in [0, 1): numerator and denominator are averaged apart, over some
    /// 1/(1 − share) estimates. Default 0.5: in simulation, with a hysteresis of 1, K then stays as near the truth as without
    /// and moves a third as often. More when the estimate jumps, 0 when it lags behind.
    pub smoothing: f64,
    /// When to estimate. Default early and often at first, then once per epoch.
    pub schedule: Schedule,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            estimator: Estimator::default(),
            probes: 5,
            max_probes: 20,
            smoothing: 0.5,
            schedule: Schedule::default(),
        }
    }
}

impl MonitorConfig {
    /// As in the experiments of Aicher et al. 2019: the mean K of five probes once per epoch, from norms at exactly K lags.
    pub fn paper(estimator: BiasEstimator) -> Self {
        Self {
            estimator: Estimator::Paper(estimator),
            schedule: Schedule::every_epochs(1),
            ..Self::default()
        }
    }

    setters! {
        with_estimator => estimator: Estimator;
        with_probes => probes: usize;
        with_max_probes => max_probes: usize;
        with_smoothing => smoothing: f64;
        with_schedule => schedule: Schedule;
    }

    pub(super) fn validate(&self) -> Result<(), EstimateError> {
        self.schedule.validate()?;
        if !(0.0..1.0).contains(&self.smoothing) {
            return Err(EstimateError::OutOfRange {
                what: "the share of previous estimates",
                rule: "in [0, 1)",
                value: self.smoothing,
            });
        }
        self.estimator.validate(self.probes)
    }
}

/// What a [`Monitor`] has seen, for checkpoints: made by [`Monitor::save`] and read by [`Monitor::restore`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitorState {
    /// When the bias was last estimated.
    pub last_update: Option<Position>,
    /// Last usable estimate.
    pub last_estimate: Option<Estimate>,
    /// All decisions, oldest first.
    pub history: Vec<Decision>,
}

/// Watches the bias for a policy: knows when probes are due, estimates, and keeps all decisions.
///
/// Every policy owns one. A policy that acts on the bias decides in between; for one that does not, [`Monitor::record`] is the
/// whole update.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Monitor {
    config: Option<MonitorConfig>,
    state: MonitorState,
}

impl Monitor {
    /// A monitor that has seen nothing; without settings it never asks for probes.
    ///
    /// # Errors
    /// [`EstimateError::Zero`], or a setting of the estimator out of range.
    pub fn new(config: Option<MonitorConfig>) -> Result<Self, EstimateError> {
        config.as_ref().map_or(Ok(()), MonitorConfig::validate)?;
        Ok(Self {
            config,
            state: MonitorState::default(),
        })
    }

    /// The settings; `None` when nothing is watched.
    pub fn config(&self) -> Option<&MonitorConfig> {
        self.config.as_ref()
    }

    /// All decisions so far, oldest first.
    pub fn history(&self) -> &[Decision] {
        &self.state.history
    }

    /// Last usable estimate.
    pub fn last_estimate(&self) -> Option<&Estimate> {
        self.state.last_estimate.as_ref()
    }

    /// Probes to run at `at`, before the next window.
    pub fn probes_due(&self, at: Position) -> Option<ProbeRequest> {
        let config = self.config.as_ref()?;
        let due = config.schedule.is_due(self.state.last_update, at);
        due.then(|| config.estimator.request(self.probes_of(config)))
    }

    /// How many probes the next estimate has: more where noise hid the gradient from the last one.
    fn probes_of(&self, config: &MonitorConfig) -> usize {
        let last = self.last_estimate().and_then(Estimate::direct);
        let (Some(last), Estimator::Direct) = (last, config.estimator) else {
            return config.probes;
        };
        let most = config.max_probes.max(config.probes);
        let next = match last.outcome() {
            DirectOutcome::NoiseLimited { .. } => last.probes().saturating_mul(2),
            _ if last.is_far_out_of_its_noise() => last.probes() / 2,
            _ => last.probes(),
        };
        next.clamp(config.probes, most)
    }

    /// Takes what the probes measured and writes down the bias at `k`, which stays as it is.
    pub fn record(
        &mut self,
        k: usize,
        reason: Reason,
        at: Position,
        measured: Measurement,
    ) -> Decision {
        let assessed = self.assess(measured);
        self.conclude(Decision::new(k, reason, at), assessed)
    }

    /// What a measurement comes to.
    pub(super) fn assess(&self, measured: Measurement) -> Assessment {
        let config = self.config.unwrap_or_default();
        Assessment::new(config.estimator, self.probes_of(&config), measured)
            .smoothed(self.last_estimate(), config.smoothing)
    }

    /// Adds to a decision what is known about its K, and keeps it.
    pub(super) fn conclude(&mut self, decision: Decision, assessed: Assessment) -> Decision {
        let finite = |value: f64| value.is_finite().then_some(value);
        let estimate = assessed.estimate.as_ref();
        let curve = estimate.and_then(Estimate::norms);
        let direct = estimate.and_then(Estimate::direct);
        let (k, delta) = (decision.k, decision.delta);
        let outcome = match delta {
            Some(delta) => direct.map(|e| e.outcome_for(delta)),
            None => direct.map(DirectEstimate::outcome),
        };
        let effective = |direct: &DirectEstimate| {
            finite(direct.effective_tolerance(delta?, assessed.updates_per_epoch?))
        };
        let decision = Decision {
            outcome,
            standard_error: direct.and_then(|e| finite(e.standard_error(k))),
            upper_limit: direct.and_then(|e| finite(e.upper_limit(k))),
            noisy_updates: direct.and_then(|e| finite(e.updates_until_bias_outweighs_noise(k))),
            effective_tolerance: direct.and_then(effective),
            relative_bias: estimate.and_then(|e| finite(e.relative_bias(k))),
            log_beta: curve.map(BiasEstimate::log_beta),
            tau: curve.map(BiasEstimate::tau),
            unusable: assessed.unusable,
            ..decision
        };
        self.state.last_update = Some(decision.position);
        if assessed.estimate.is_some() {
            self.state.last_estimate = assessed.estimate;
        }
        self.state.history.push(decision.clone());
        decision
    }

    /// What it has seen, as a value.
    pub fn save(&self) -> MonitorState {
        self.state.clone()
    }

    /// Goes on where `state` was saved. The settings stay this monitor's own.
    pub fn restore(&mut self, state: MonitorState) {
        self.state = state;
    }
}
