//! A baseline: windows of random length around a base, as AWD-LSTM trains.
//!
//! Merity, Keskar and Socher (2018, *Regularizing and Optimizing LSTM Language Models*, "variable length backpropagation
//! sequences"): the base length with probability 0.95, else half of it; the length then normal around that with a
//! standard deviation of 5 steps; the learning rate in proportion to the length, for a short window would otherwise
//! weigh as much as a long one.

use rand::RngExt;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use super::{
    Decision, Measurement, Monitor, MonitorConfig, NextWindow, PolicyState, Position, Reason,
    TruncationPolicy, generator,
};
use crate::EstimateError;

/// Settings of a policy that draws a new length for every window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
#[non_exhaustive]
pub struct RandomLengthConfig {
    /// Base length, in steps, at least 1.
    pub base: usize,
    /// Probability of the whole base, in [0, 1]; else half of it. Default 0.95.
    pub whole: f64,
    /// Standard deviation of the length, in steps, at least 0. Default 5; lower it for a short base.
    pub spread: f64,
    /// Shortest length, in steps, at least 1. Default 5, or the base where that is less.
    pub shortest: usize,
    /// Longest length, in steps, at least the base. Default the base and four standard deviations: bounds memory.
    pub longest: usize,
    /// Seed of the draws. Default 0.
    pub seed: u64,
    /// How the bias at the base length is watched. Default not at all.
    pub monitor: Option<MonitorConfig>,
}

/// [`RandomLengthConfig`] as a settings file may give it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    base: usize,
    whole: Option<f64>,
    spread: Option<f64>,
    shortest: Option<usize>,
    longest: Option<usize>,
    seed: Option<u64>,
    monitor: Option<MonitorConfig>,
}

impl From<Written> for RandomLengthConfig {
    fn from(written: Written) -> Self {
        let default = Self::new(written.base);
        let default = match written.spread {
            Some(spread) => default.with_spread(spread),
            None => default,
        };
        Self {
            base: written.base,
            whole: written.whole.unwrap_or(default.whole),
            spread: default.spread,
            shortest: written.shortest.unwrap_or(default.shortest),
            longest: written.longest.unwrap_or(default.longest),
            seed: written.seed.unwrap_or(default.seed),
            monitor: written.monitor,
        }
    }
}

impl RandomLengthConfig {
    /// AWD-LSTM's choices around `base`.
    pub fn new(base: usize) -> Self {
        Self {
            base,
            whole: 0.95,
            spread: 5.0,
            shortest: base.min(5),
            longest: base.saturating_add(20),
            seed: 0,
            monitor: None,
        }
    }

    setters! {
        with_whole => whole: f64;
        with_shortest => shortest: usize;
        with_longest => longest: usize;
        with_seed => seed: u64;
        with_monitor => monitor: Option<MonitorConfig>;
    }

    /// Sets `spread`, and the longest length with it.
    pub fn with_spread(mut self, spread: f64) -> Self {
        self.spread = spread;
        self.longest = self.base.saturating_add((4.0 * spread).ceil() as usize);
        self
    }

    /// The policy, before its first draw.
    ///
    /// # Errors
    /// [`EstimateError::Lengths`], [`EstimateError::OutOfRange`], or a setting of the monitor.
    pub fn init(&self) -> Result<impl TruncationPolicy + Clone + PartialEq + use<>, EstimateError> {
        let Self {
            base,
            shortest,
            longest,
            ..
        } = *self;
        if !(1 <= shortest && shortest <= base && base <= longest) {
            return Err(EstimateError::Lengths {
                k_min: shortest,
                k0: base,
                k_max: longest,
            });
        }
        let range = |what, rule, value: f64, ok: bool| match ok {
            true => Ok(()),
            false => Err(EstimateError::OutOfRange { what, rule, value }),
        };
        let (whole, spread) = (self.whole, self.spread);
        range(
            "the probability of the whole base length",
            "in [0, 1]",
            whole,
            (0.0..=1.0).contains(&whole),
        )?;
        range(
            "the spread of random lengths",
            "finite and at least 0",
            spread,
            spread >= 0.0 && spread.is_finite(),
        )?;
        Ok(RandomLength {
            config: self.clone(),
            monitor: Monitor::new(self.monitor)?,
            draws: 0,
        })
    }
}

/// The policy of a [`RandomLengthConfig`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RandomLength {
    config: RandomLengthConfig,
    monitor: Monitor,
    /// Lengths drawn so far.
    draws: u64,
}

impl TruncationPolicy for RandomLength {
    fn next_window(&mut self) -> NextWindow {
        let config = &self.config;
        let mut rng = generator(config.seed, self.draws);
        self.draws = self.draws.wrapping_add(1);
        let centre = match rng.random_bool(config.whole) {
            true => config.base as f64,
            false => config.base as f64 / 2.0,
        };
        // The spread was checked: the distribution exists.
        let length =
            Normal::new(centre, config.spread).map_or(centre, |normal| normal.sample(&mut rng));
        // AWD-LSTM cuts the fraction off.
        let k = (length.max(0.0) as usize).clamp(config.shortest, config.longest);
        NextWindow {
            k,
            typical_k: config.base,
            step_scale: k as f64 / config.base as f64,
            compensation: Vec::new(),
        }
    }

    fn k(&self) -> usize {
        self.config.base
    }

    fn k_max(&self) -> usize {
        self.config.longest
    }

    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn update(&mut self, at: Position, measured: Measurement) -> Decision {
        self.monitor
            .record(self.config.base, Reason::Random, at, measured)
    }

    fn save(&self) -> PolicyState {
        PolicyState::RandomLength {
            draws: self.draws,
            monitor: self.monitor.save(),
        }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        match state {
            PolicyState::RandomLength { draws, monitor } => {
                self.draws = draws;
                self.monitor.restore(monitor);
                Ok(())
            }
            other => Err(other.foreign("random_length")),
        }
    }
}
