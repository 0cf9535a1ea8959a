//! A rival: windows of random length around a base, as AWD-LSTM trains.
//!
//! Merity, Keskar and Socher (2018, *Regularizing and Optimizing LSTM Language Models*, "variable length backpropagation
//! sequences"): the base length with probability 0.95, else half of it; the length then normal around that with a
//! standard deviation of 5 steps; the learning rate in proportion to the length, for a short window would otherwise
//! weigh as much as a long one.

use rand::RngExt;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use super::{
    Decision, FixedKState, Monitor, PolicyState, Position, Reason, TruncationPolicy, generator,
};
use crate::{BiasEstimate, EstimateError, LagNorms};

/// Settings of a [`RandomLength`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        }
    }

    /// Sets [`RandomLengthConfig::seed`].
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets [`RandomLengthConfig::spread`], and the longest length with it.
    pub fn with_spread(mut self, spread: f64) -> Self {
        self.spread = spread;
        self.longest = self.base.saturating_add((4.0 * spread).ceil() as usize);
        self
    }

    /// The policy, before its first draw.
    ///
    /// # Errors
    /// [`EstimateError::Lengths`], [`EstimateError::OutOfRange`].
    pub fn init(&self) -> Result<RandomLength, EstimateError> {
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
            monitor: None,
            state: RandomLengthState {
                draws: 0,
                last: base,
                watched: FixedKState::default(),
            },
        })
    }
}

/// What a [`RandomLength`] carries from window to window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RandomLengthState {
    /// Lengths drawn so far.
    pub draws: u64,
    /// The last one, in steps; the base before the first.
    pub last: usize,
    /// Bias estimates at the base length.
    pub watched: FixedKState,
}

/// A new random length for every window.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomLength {
    config: RandomLengthConfig,
    monitor: Option<Monitor>,
    state: RandomLengthState,
}

impl RandomLength {
    /// Watches the bias at the base length.
    ///
    /// # Errors
    /// [`EstimateError::Zero`], or a setting of the estimator out of range.
    pub fn with_monitor(mut self, monitor: Monitor) -> Result<Self, EstimateError> {
        monitor.validate()?;
        self.monitor = Some(monitor);
        Ok(self)
    }
}

impl TruncationPolicy for RandomLength {
    fn next_k(&mut self) -> usize {
        let config = &self.config;
        let mut rng = generator(config.seed, self.state.draws);
        self.state.draws = self.state.draws.wrapping_add(1);
        let centre = match rng.random_bool(config.whole) {
            true => config.base as f64,
            false => config.base as f64 / 2.0,
        };
        // The spread was checked: the distribution exists.
        let length =
            Normal::new(centre, config.spread).map_or(centre, |normal| normal.sample(&mut rng));
        // AWD-LSTM cuts the fraction off.
        self.state.last = (length.max(0.0) as usize).clamp(config.shortest, config.longest);
        self.state.last
    }

    fn k(&self) -> usize {
        self.config.base
    }

    fn step_scale(&self) -> f64 {
        self.state.last as f64 / self.config.base as f64
    }

    fn k_max(&self) -> usize {
        self.config.longest
    }

    fn probes_due(&self, at: Position) -> usize {
        self.state.watched.probes_due(self.monitor.as_ref(), at)
    }

    fn update(&mut self, at: Position, probes: &[Result<LagNorms, EstimateError>]) -> Decision {
        let k = (self.config.base, Reason::Random);
        let watched = &mut self.state.watched;
        watched.record(k, self.monitor.as_ref(), at, probes)
    }

    fn history(&self) -> &[Decision] {
        &self.state.watched.history
    }

    fn last_estimate(&self) -> Option<&BiasEstimate> {
        self.state.watched.last_estimate.as_ref()
    }

    fn save(&self) -> PolicyState {
        PolicyState::RandomLength(self.state.clone())
    }

    /// The last length is clamped to this configuration's bounds, should they have changed since.
    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        let PolicyState::RandomLength(mut state) = state else {
            return Err(EstimateError::ForeignState {
                expected: "random_length",
                got: state.policy().to_owned(),
            });
        };
        state.last = state.last.clamp(self.config.shortest, self.config.longest);
        self.state = state;
        Ok(())
    }
}
