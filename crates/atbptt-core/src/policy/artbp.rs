//! A rival without bias: anticipated reweighted truncated backpropagation (ARTBP; Tallec and Ollivier 2017, *Unbiasing
//! Truncated Backpropagation Through Time*).
//!
//! After every step the backward pass is cut with probability c, else the state gradient that crosses the boundary is
//! divided by 1 − c. In expectation every path of the full backward pass then has weight one, at the price of variance.
//!
//! `c_i`: probability of a cut at the boundary after the i-th step since the last cut, i = 1, 2, …; `L₀`: mean length.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{
    Decision, FixedKState, Monitor, PolicyState, Position, Reason, TruncationPolicy, generator,
};
use crate::{BiasEstimate, EstimateError, LagNorms};

/// How the probability of a cut depends on the distance from the last one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Truncation {
    /// c = 1/L₀: geometric lengths. The weights grow as (1 − 1/L₀)^−k with the lag k.
    Constant,
    /// c_i = (α − 1)/((α − 2) L₀ + i), the authors' choice: lengths with a power-law tail and mean L₀, weights that grow as
    /// a power of the lag, so that far lags add less variance. α above 2; 6 in their experiments.
    Decaying {
        /// Exponent α, above 2 and at most 1e9.
        alpha: f64,
    },
}

/// Longest [`ArtbpConfig::longest`].
const LONGEST: usize = 1 << 24;

/// Largest exponent: beyond, c_i is 1/L₀ to the last digit, and products with L₀ may overflow.
const LARGEST_ALPHA: f64 = 1e9;

/// Settings of an [`Artbp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtbpConfig {
    /// L₀, mean length between cuts, in steps, at least 1.
    pub mean_length: usize,
    /// Cut probabilities. Default decaying with α = 6.
    pub truncation: Truncation,
    /// Longest length, in steps: bounds memory. What lies further back than this is dropped without compensation, so set
    /// it where the state gradient has vanished. Default twenty times the mean. At most 2^24.
    pub longest: usize,
    /// Seed of the draws. Default 0.
    pub seed: u64,
}

impl ArtbpConfig {
    /// The authors' choices for a mean length L₀.
    pub fn new(mean_length: usize) -> Self {
        Self {
            mean_length,
            truncation: Truncation::Decaying { alpha: 6.0 },
            longest: mean_length.saturating_mul(20),
            seed: 0,
        }
    }

    /// Sets [`ArtbpConfig::truncation`].
    pub fn with_truncation(mut self, truncation: Truncation) -> Self {
        self.truncation = truncation;
        self
    }

    /// Sets [`ArtbpConfig::longest`].
    pub fn with_longest(mut self, longest: usize) -> Self {
        self.longest = longest;
        self
    }

    /// Sets [`ArtbpConfig::seed`].
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// c_i, the probability of a cut after the `i`-th step since the last cut, `i` from 1; in (0, 1] for settings that
    /// [`ArtbpConfig::init`] accepts.
    pub fn cut_probability(&self, i: usize) -> f64 {
        let mean = self.mean_length as f64;
        match self.truncation {
            Truncation::Constant => 1.0 / mean,
            Truncation::Decaying { alpha } => {
                ((alpha - 1.0) / ((alpha - 2.0) * mean + i as f64)).min(1.0)
            }
        }
    }

    /// The policy, before its first draw.
    ///
    /// # Errors
    /// [`EstimateError::Lengths`], [`EstimateError::OutOfRange`].
    pub fn init(&self) -> Result<Artbp, EstimateError> {
        let (mean, longest) = (self.mean_length, self.longest);
        if !(1 <= mean && mean <= longest) {
            return Err(EstimateError::Lengths {
                k_min: 1,
                k0: mean,
                k_max: longest,
            });
        }
        if longest > LONGEST {
            return Err(EstimateError::OutOfRange {
                what: "ARTBP's longest length",
                rule: "at most 2^24 steps: every step has a factor in memory",
                value: longest as f64,
            });
        }
        if let Truncation::Decaying { alpha } = self.truncation
            && !(alpha > 2.0 && alpha <= LARGEST_ALPHA)
        {
            return Err(EstimateError::OutOfRange {
                what: "ARTBP's exponent alpha",
                rule: "above 2, so that the mean length exists, and at most 1e9, where lengths are geometric",
                value: alpha,
            });
        }
        // The factors do not depend on the draw: the first K − 1 of them serve every window. Past a certain cut (c = 1)
        // there is no boundary to cross.
        let factors = (1..longest)
            .map(|i| 1.0 / (1.0 - self.cut_probability(i)))
            .take_while(|factor| factor.is_finite())
            .collect();
        Ok(Artbp {
            config: self.clone(),
            factors,
            monitor: None,
            state: ArtbpState {
                draws: 0,
                last: mean,
                watched: FixedKState::default(),
            },
        })
    }
}

/// What an [`Artbp`] carries from window to window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtbpState {
    /// Lengths drawn so far.
    pub draws: u64,
    /// The last one, in steps; the mean before the first.
    pub last: usize,
    /// Bias estimates of plain truncation at the mean length.
    pub watched: FixedKState,
}

/// Cuts at random, and compensates.
///
/// Windows lie end to end, and their mean loss is weighed by their length (through [`TruncationPolicy::step_scale`]), so
/// that steps of gradient descent sum to the gradient of the whole sequence. Clipping undoes the unbiasedness where it
/// bites.
#[derive(Debug, Clone, PartialEq)]
pub struct Artbp {
    config: ArtbpConfig,
    /// 1/(1 − c_i), i = 1, 2, …
    factors: Vec<f64>,
    monitor: Option<Monitor>,
    state: ArtbpState,
}

impl Artbp {
    /// Watches the bias that plain truncation at the mean length would have.
    ///
    /// # Errors
    /// [`EstimateError::Zero`], or a setting of the estimator out of range.
    pub fn with_monitor(mut self, monitor: Monitor) -> Result<Self, EstimateError> {
        monitor.validate()?;
        self.monitor = Some(monitor);
        Ok(self)
    }
}

impl TruncationPolicy for Artbp {
    fn next_k(&mut self) -> usize {
        let mut rng = generator(self.config.seed, self.state.draws);
        self.state.draws = self.state.draws.wrapping_add(1);
        let mut length = 1;
        while length < self.config.longest
            && rng.random::<f64>() >= self.config.cut_probability(length)
        {
            length += 1;
        }
        self.state.last = length;
        length
    }

    fn k(&self) -> usize {
        self.config.mean_length
    }

    fn step_scale(&self) -> f64 {
        self.state.last as f64 / self.config.mean_length as f64
    }

    fn compensation(&self) -> &[f64] {
        let boundaries = self.state.last.saturating_sub(1);
        self.factors.get(..boundaries).unwrap_or(&self.factors)
    }

    fn needs_chunks(&self) -> bool {
        true
    }

    fn k_max(&self) -> usize {
        self.config.longest
    }

    fn probes_due(&self, at: Position) -> usize {
        self.state.watched.probes_due(self.monitor.as_ref(), at)
    }

    fn update(&mut self, at: Position, probes: &[Result<LagNorms, EstimateError>]) -> Decision {
        let k = (self.config.mean_length, Reason::Random);
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
        PolicyState::Artbp(self.state.clone())
    }

    /// The last length is clamped to this configuration's bounds, should they have changed since.
    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        let PolicyState::Artbp(mut state) = state else {
            return Err(EstimateError::ForeignState {
                expected: "artbp",
                got: state.policy().to_owned(),
            });
        };
        state.last = state.last.clamp(1, self.config.longest);
        self.state = state;
        Ok(())
    }
}
