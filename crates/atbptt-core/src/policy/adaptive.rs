//! The controller: the shortest K whose estimated relative bias meets a tolerance.
//!
//! Reads what a few probes measured at every update; gives K to the trainer (Aicher et al. 2019, the adaptive truncation
//! algorithm).
//!
//! `delta` (δ): tolerated relative bias; `k0` (K₀): K before the first update; `k_min`, `k_max`: bounds on K, in steps.

use serde::{Deserialize, Serialize};

use super::estimate::Assessment;
use super::monitor::Wanted;
use super::{
    Decision, Estimate, Estimator, Measurement, Monitor, MonitorConfig, NextWindow, PolicyState,
    Position, Reason, Schedule, TruncationPolicy,
};
use crate::{DirectEstimate, DirectOutcome, EstimateError};

/// Largest ratio of K(δ) and the K that hysteresis keeps.
const MAX_KEPT_RATIO: f64 = 4.0 / 3.0;

/// Settings of the controller, which holds the estimated relative bias at a tolerance. The tolerance is the user's choice; the lengths
/// default to those of the copy task of Aicher et al. 2019 and should be set for the data at hand.
///
/// One update: the estimate from all usable probes together gives K(δ), the shortest K that meets the tolerance, clamped to
/// `[k_min, k_max]`; where no K does (saturated), `k_max`. Without a usable probe K is kept.
///
/// The direct estimate knows its own error. More probes are run, up to [`MonitorConfig::max_probes`], while it leaves lengths open that
/// differ by more than a factor 1.5, and older estimates are averaged in only where it does so alone. K moves only when the present K lies outside the lengths that the estimate
/// cannot tell from K(δ), or is more than a third longer or shorter than it; where noise hides the gradient itself, K goes
/// back to K₀ (a model that has not yet learnt to use its memory has a gradient without long reach, and a short K could
/// keep it so) or stays, as the settings say.
///
/// With [`Estimator::Paper`] each usable probe gives its own K(δ), `k_max` at most and where it is saturated, and their mean,
/// rounded, is the new K. The decision's reason is the saturated one when at least half of the usable probes were saturated
/// (no decay before out of reach when they tie).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdaptiveKConfig {
    /// Tolerated relative bias δ, in (0, 1]. Smaller means longer windows and more memory; 0.9, 0.5 and 0.1 are the
    /// published choices, 0.5 a fair start.
    pub delta: f64,
    /// K before the first update, in steps, in `k_min..=k_max`. Default 15. Set it near the K you would have fixed.
    #[serde(default = "default_k0")]
    pub k0: usize,
    /// Shortest K, in steps, at least 1. Default 2. Raise it when very short windows waste the device.
    #[serde(default = "default_k_min")]
    pub k_min: usize,
    /// Longest K, in steps: bounds memory and time per update; saturated probes ask for it. Default 100.
    #[serde(default = "default_k_max")]
    pub k_max: usize,
    /// How sure the estimate must be before K moves: K is kept while the estimated bias at K lies within so many standard errors
    /// of the tolerance, and K within a third of the length that meets it, at least 0. Default 1. 0 follows every estimate. For
    /// the direct estimate, which knows its error.
    #[serde(default = "default_hysteresis")]
    pub hysteresis: f64,
    /// Whether K stays as it is when the probes cannot tell the gradient from noise. Default false: back to `k0`, the length that
    /// would have been fixed. In settings files `when_noise_limited`, `keep` or `back_to_k0`.
    #[serde(default, rename = "when_noise_limited", with = "when_noise_limited")]
    pub keep_when_noise_limited: bool,
    /// How the bias is estimated, and when.
    #[serde(default)]
    pub monitor: MonitorConfig,
}

/// The choice as settings files have it.
mod when_noise_limited {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum WhenNoiseLimited {
        BackToK0,
        Keep,
    }

    pub(super) fn serialize<S: Serializer>(keep: &bool, to: S) -> Result<S::Ok, S::Error> {
        match keep {
            true => WhenNoiseLimited::Keep,
            false => WhenNoiseLimited::BackToK0,
        }
        .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        WhenNoiseLimited::deserialize(from).map(|when| matches!(when, WhenNoiseLimited::Keep))
    }
}

fn default_k0() -> usize {
    15
}

fn default_k_min() -> usize {
    2
}

fn default_k_max() -> usize {
    100
}

fn default_hysteresis() -> f64 {
    1.0
}

impl AdaptiveKConfig {
    /// Defaults for everything but the tolerance.
    pub fn new(delta: f64) -> Self {
        Self {
            delta,
            k0: default_k0(),
            k_min: default_k_min(),
            k_max: default_k_max(),
            hysteresis: default_hysteresis(),
            keep_when_noise_limited: false,
            monitor: MonitorConfig::default(),
        }
    }

    setters! {
        with_k0 => k0: usize;
        with_k_min => k_min: usize;
        with_k_max => k_max: usize;
        with_hysteresis => hysteresis: f64;
        with_keep_when_noise_limited => keep_when_noise_limited: bool;
        with_monitor => monitor: MonitorConfig;
        with_estimator => monitor.estimator: Estimator;
        with_probes => monitor.probes: usize;
        with_schedule => monitor.schedule: Schedule;
    }

    /// The controller, at `k0`.
    ///
    /// # Errors
    /// [`EstimateError::Tolerance`], [`EstimateError::Lengths`], [`EstimateError::OutOfRange`] for the hysteresis, or a setting
    /// of the monitor.
    pub fn init(&self) -> Result<impl TruncationPolicy + Clone + PartialEq + use<>, EstimateError> {
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
        if !(self.hysteresis >= 0.0 && self.hysteresis.is_finite()) {
            return Err(EstimateError::OutOfRange {
                what: "the hysteresis of K",
                rule: "finite and at least 0 standard errors",
                value: self.hysteresis,
            });
        }
        Ok(AdaptiveK {
            monitor: Monitor::new(Some(self.monitor))?,
            config: self.clone(),
            k: k0,
        })
    }
}

/// The policy of an [`AdaptiveKConfig`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AdaptiveK {
    config: AdaptiveKConfig,
    monitor: Monitor,
    k: usize,
}

impl AdaptiveK {
    fn wanted(&self) -> Wanted {
        let AdaptiveKConfig {
            delta,
            k_min,
            k_max,
            ..
        } = self.config;
        Wanted {
            delta,
            k_min,
            k_max,
        }
    }

    /// The new K and why.
    fn choose(&self, assessed: &Assessment) -> (usize, Reason) {
        match (&assessed.estimate, self.config.monitor.estimator) {
            (None, _) => (self.k, Reason::Unusable),
            (Some(Estimate::Norms { .. }), Estimator::Paper(_)) => {
                self.mean_of_probes(&assessed.each)
            }
            (Some(Estimate::Direct(direct)), _) => self.by_direct(direct),
            (Some(estimate), _) => {
                self.clamped(estimate.smallest_k(self.config.delta), saturation(estimate))
            }
        }
    }

    /// By the bias of the parameter gradient, whose error is known.
    fn by_direct(&self, direct: &DirectEstimate) -> (usize, Reason) {
        let AdaptiveKConfig {
            delta, hysteresis, ..
        } = self.config;
        let outcome = direct.outcome_for(delta);
        if let DirectOutcome::NoiseLimited { .. } = outcome {
            return match self.config.keep_when_noise_limited {
                true => (self.k, Reason::NoiseLimitedKept),
                false => (self.config.k0, Reason::NoiseLimitedBackToK0),
            };
        }
        let (k, reason) = self.clamped(direct.smallest_k(delta), Reason::OutOfReach);
        let (low, high) = direct.k_interval(delta, hysteresis);
        // Further apart, what K lags behind and what the estimate is off by would add up.
        let near = MAX_KEPT_RATIO * k as f64 >= self.k as f64
            && MAX_KEPT_RATIO * self.k as f64 >= k as f64;
        if k != self.k && hysteresis > 0.0 && near && (low..=high).contains(&self.k) {
            return (self.k, Reason::KeptByHysteresis);
        }
        match outcome {
            DirectOutcome::WindowTooShort { .. } => (k, Reason::WindowTooShort),
            _ => (k, reason),
        }
    }

    /// K(δ) within the bounds; where there is none, the longest for the reason `lacking`.
    fn clamped(&self, found: Option<usize>, lacking: Reason) -> (usize, Reason) {
        let AdaptiveKConfig { k_min, k_max, .. } = self.config;
        match found {
            Some(k) if k < k_min => (k_min, Reason::ClampedToMin),
            Some(k) if k > k_max => (k_max, Reason::ClampedToMax),
            Some(k) => (k, Reason::ToleranceMet),
            None => (k_max, lacking),
        }
    }

    /// K of one probe: `k_max` at most, and where it is saturated, so that a K which no window could have weighs no more
    /// than one that can.
    fn probe_k(&self, estimate: &Estimate) -> (usize, bool) {
        let found = estimate.smallest_k(self.config.delta);
        let k_max = self.config.k_max;
        (found.map_or(k_max, |k| k.min(k_max)), found.is_none())
    }

    /// The mean of the probes' K (Aicher et al. 2019), for at least one probe.
    fn mean_of_probes(&self, each: &[Estimate]) -> (usize, Reason) {
        let AdaptiveKConfig {
            delta,
            k_min,
            k_max,
            ..
        } = self.config;
        let count = each.len().max(1);
        let sum: f64 = each.iter().map(|e| self.probe_k(e).0 as f64).sum();
        let mean = (sum / count as f64).round();
        let k = (mean as usize).clamp(k_min, k_max);
        let lacking: Vec<Reason> = each
            .iter()
            .filter(|e| e.smallest_k(delta).is_none())
            .map(saturation)
            .collect();
        let no_decay = lacking.iter().filter(|r| **r == Reason::NoDecay).count();
        let too_long = |e: &&Estimate| e.smallest_k(delta).is_none_or(|k| k > k_max);
        let reason = if 2 * lacking.len() >= count {
            match 2 * no_decay >= lacking.len() {
                true => Reason::NoDecay,
                false => Reason::OutOfReach,
            }
        } else if mean < k_min as f64 {
            Reason::ClampedToMin
        } else if 2 * each.iter().filter(too_long).count() >= count {
            Reason::ClampedToMax
        } else {
            Reason::ToleranceMet
        };
        (k, reason)
    }
}

/// Why an estimate has no K that meets the tolerance.
fn saturation(estimate: &Estimate) -> Reason {
    match estimate.norms() {
        Some(curve) if !curve.is_bounded() => Reason::NoDecay,
        _ => Reason::OutOfReach,
    }
}

impl TruncationPolicy for AdaptiveK {
    fn next_window(&mut self) -> NextWindow {
        NextWindow::new(self.k)
    }

    fn k(&self) -> usize {
        self.k
    }

    fn k_max(&self) -> usize {
        self.config.k_max
    }

    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn more_probes(&self, measured: &Measurement) -> usize {
        self.monitor.more_probes_for(Some(&self.wanted()), measured)
    }

    fn update(&mut self, at: Position, measured: Measurement) -> Decision {
        let assessed = self.monitor.assess(Some(&self.wanted()), &measured);
        let (k, reason) = self.choose(&assessed);
        self.k = k;
        let probes: Vec<(usize, bool)> = assessed.each.iter().map(|e| self.probe_k(e)).collect();
        let decision = Decision {
            delta: Some(self.config.delta),
            saturated: probes.iter().filter(|(_, saturated)| *saturated).count(),
            probe_ks: probes.into_iter().map(|(k, _)| k).collect(),
            ..Decision::new(k, reason, at)
        };
        self.monitor.conclude(decision, assessed)
    }

    fn save(&self) -> PolicyState {
        PolicyState::Adaptive {
            k: self.k,
            monitor: self.monitor.save(),
        }
    }

    /// K is clamped to this configuration's bounds, should they have changed since.
    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        match state {
            PolicyState::Adaptive { k, monitor } => {
                self.k = k.clamp(self.config.k_min, self.config.k_max);
                self.monitor.restore(monitor);
                Ok(())
            }
            other => Err(other.foreign("adaptive")),
        }
    }
}
