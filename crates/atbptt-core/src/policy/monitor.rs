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
    /// Most probes per direct estimate. Where noise hides the gradient, or the lengths that probes cannot tell from K(δ) differ by more
    /// than a factor 1.5, `probes` more are run and so on, until so many, or until all windows of a short stream are read. Default 20.
    /// At `probes` or below it there are never more.
    pub max_probes: usize,
    /// Share of the previous estimates in a direct estimate, in [0, 1): numerator and denominator are averaged apart, over some
    /// 1/(1 − share) estimates. Default 0.5: in simulation, with a hysteresis of 1, K then stays as near the truth as without
    /// and moves a third as often. More when the estimate jumps, 0 when it lags behind.
    pub smoothing: f64,
    /// When to estimate. Default early and often at first, then once per epoch.
    pub schedule: Schedule,
}

/// Largest ratio of the lengths that an estimate may leave open around K(δ).
const MAX_OPEN_RATIO: f64 = 1.5;

/// What a controller wants to know: the shortest K that meets a tolerance, as far as it may use it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub delta: f64,
    pub k_min: usize,
    pub k_max: usize,
}

impl Wanted {
    /// Whether the lengths within so many standard errors of K(δ) lie within a factor 1.5 of each other.
    fn is_known(&self, direct: &DirectEstimate, errors: f64) -> bool {
        let (low, high) = direct.k_interval(self.delta, errors);
        let within = |k: usize| k.clamp(self.k_min, self.k_max) as f64;
        !is_noise_limited(direct) && within(high) <= MAX_OPEN_RATIO * within(low)
    }
}

/// Standard errors within which K must be known for no more probes to be run: one, and the more of a stream's few windows `max` probes
/// can read, the more, by the error of as many independent ones over theirs. What further probes can settle is worth them.
fn errors_to_settle(max: usize, population: Option<usize>) -> f64 {
    match population {
        Some(windows) => {
            let windows = windows as f64 + 1.0;
            (windows / (windows - max as f64).max(1.0)).sqrt()
        }
        None => 1.0,
    }
}

/// Whether the gradient does not stand out of its noise.
fn is_noise_limited(direct: &DirectEstimate) -> bool {
    matches!(direct.outcome(), DirectOutcome::NoiseLimited { .. })
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
        due.then(|| config.estimator.request(config.probes))
    }

    /// How many more probes the estimate at hand should have, after what those so far measured; 0 where they suffice. For policies that
    /// do not act on the bias: where noise hides the gradient.
    pub fn more_probes(&self, measured: &Measurement) -> usize {
        self.more_probes_for(None, measured)
    }

    /// The same for a controller, which wants to know K as well.
    pub(super) fn more_probes_for(&self, wanted: Option<&Wanted>, measured: &Measurement) -> usize {
        let Some(config) = self.config else {
            return 0;
        };
        let (Measurement::Direct { statistics, .. }, Estimator::Direct) =
            (measured, config.estimator)
        else {
            return 0;
        };
        // What could not be used once is not tried again.
        let Ok(statistics) = statistics else {
            return 0;
        };
        // All windows of a short stream are all there is to know.
        let max = config
            .max_probes
            .min(statistics.population().unwrap_or(usize::MAX));
        let left = max.saturating_sub(statistics.probes());
        let errors = errors_to_settle(max, statistics.population());
        let suffices = || {
            let alone = Assessment::new(config.estimator, config.probes, measured);
            let averaged = self.assess(None, measured);
            let known = |estimate: &Option<Estimate>| match estimate {
                Some(Estimate::Direct(direct)) => match wanted {
                    Some(wanted) => wanted.is_known(direct, errors),
                    None => !is_noise_limited(direct),
                },
                _ => true,
            };
            known(&alone.estimate) || known(&averaged.estimate)
        };
        match left == 0 || suffices() {
            true => 0,
            false => config.probes.min(left),
        }
    }

    /// Takes what the probes measured and writes down the bias at `k`, which stays as it is.
    pub fn record(
        &mut self,
        k: usize,
        reason: Reason,
        at: Position,
        measured: Measurement,
    ) -> Decision {
        let assessed = self.assess(None, &measured);
        self.conclude(Decision::new(k, reason, at), assessed)
    }

    /// What a measurement comes to, averaged with the estimates before it. Where it says by itself what is `wanted`, without them: they
    /// lag behind.
    pub(super) fn assess(&self, wanted: Option<&Wanted>, measured: &Measurement) -> Assessment {
        let config = self.config.unwrap_or_default();
        let alone = Assessment::new(config.estimator, config.probes, measured);
        let keep = match (wanted, &alone.estimate) {
            // The errors of older ones count all the same: a handful of probes may agree by chance.
            (Some(wanted), Some(Estimate::Direct(direct))) if wanted.is_known(direct, 1.0) => 0.0,
            _ => config.smoothing,
        };
        alone.smoothed(self.last_estimate(), keep)
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
            probes: assessed.probes,
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
