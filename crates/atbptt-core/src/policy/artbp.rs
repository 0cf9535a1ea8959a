//! A baseline without bias: anticipated reweighted truncated backpropagation (ARTBP; Tallec and Ollivier 2017, *Unbiasing
//! Truncated Backpropagation Through Time*).
//!
//! After every step the backward pass is cut with probability c, else the state gradient that crosses the boundary is
//! divided by 1 − c. In expectation every path of the full backward pass then has weight one, at the price of variance.
//!
//! `c_i`: probability of a cut at the boundary after the i-th step since the last cut, i = 1, 2, …; `L₀`: mean length.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{
    Decision, Measurement, Monitor, MonitorConfig, NextWindow, PolicyState, Position, Reason,
    TruncationPolicy, generator,
};
use crate::EstimateError;

/// Longest [`ArtbpConfig::longest`].
const MAX_LONGEST: usize = 1 << 24;

/// Largest exponent α: beyond, c_i is 1/L₀ to the last digit, and products with L₀ may overflow.
const MAX_ALPHA: f64 = 1e9;

/// Settings of ARTBP: it cuts at random, and compensates.
///
/// Windows lie end to end, and their mean loss is weighed by their length (through [`NextWindow::step_scale`]), so that steps
/// of gradient descent sum to the gradient of the whole sequence. Clipping undoes the unbiasedness where it bites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
#[non_exhaustive]
pub struct ArtbpConfig {
    /// L₀, mean length between cuts, in steps, at least 1.
    pub mean_length: usize,
    /// Exponent α of cut probabilities that decay with the distance from the last cut, c_i = (α − 1)/((α − 2) L₀ + i), the authors'
    /// choice: lengths with a power-law tail and mean L₀, weights that grow as a power of the lag, so that far lags add less variance.
    /// Above 2 and at most 1e9; 6 in their experiments and by default. `None`: c = 1/L₀, geometric lengths; the weights then grow as
    /// (1 − 1/L₀)^−k with the lag k.
    pub alpha: Option<f64>,
    /// Longest length, in steps: bounds memory. What lies further back than this is dropped without compensation, so set
    /// it where the state gradient has vanished. Default twenty times the mean. At most 2^24.
    pub longest: usize,
    /// Seed of the draws. Default 0.
    pub seed: u64,
    /// How the bias that plain truncation at the mean length would have is watched. Default not at all.
    pub monitor: Option<MonitorConfig>,
}

/// [`ArtbpConfig`] as a settings file may give it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    mean_length: usize,
    truncation: Option<Truncation>,
    longest: Option<usize>,
    seed: Option<u64>,
    monitor: Option<MonitorConfig>,
}

/// [`ArtbpConfig::alpha`] as settings files have it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Truncation {
    Constant,
    Decaying { alpha: f64 },
}

impl From<ArtbpConfig> for Written {
    fn from(config: ArtbpConfig) -> Self {
        Self {
            mean_length: config.mean_length,
            truncation: Some(match config.alpha {
                Some(alpha) => Truncation::Decaying { alpha },
                None => Truncation::Constant,
            }),
            longest: Some(config.longest),
            seed: Some(config.seed),
            monitor: config.monitor,
        }
    }
}

impl From<Written> for ArtbpConfig {
    fn from(written: Written) -> Self {
        let default = Self::new(written.mean_length);
        Self {
            mean_length: written.mean_length,
            alpha: match written.truncation {
                Some(Truncation::Decaying { alpha }) => Some(alpha),
                Some(Truncation::Constant) => None,
                None => default.alpha,
            },
            longest: written.longest.unwrap_or(default.longest),
            seed: written.seed.unwrap_or(default.seed),
            monitor: written.monitor,
        }
    }
}

impl ArtbpConfig {
    /// The authors' choices for a mean length L₀.
    pub fn new(mean_length: usize) -> Self {
        Self {
            mean_length,
            alpha: Some(6.0),
            longest: mean_length.saturating_mul(20),
            seed: 0,
            monitor: None,
        }
    }

    setters! {
        with_alpha => alpha: Option<f64>;
        with_longest => longest: usize;
        with_seed => seed: u64;
        with_monitor => monitor: Option<MonitorConfig>;
    }

    /// c_i, the probability of a cut after the `i`-th step since the last cut, `i` from 1; in (0, 1] for settings that
    /// [`ArtbpConfig::init`] accepts.
    pub fn cut_probability(&self, i: usize) -> f64 {
        let mean = self.mean_length as f64;
        match self.alpha {
            None => 1.0 / mean,
            Some(alpha) => ((alpha - 1.0) / ((alpha - 2.0) * mean + i as f64)).min(1.0),
        }
    }

    /// The policy, before its first draw.
    ///
    /// # Errors
    /// [`EstimateError::Lengths`], [`EstimateError::OutOfRange`], or a setting of the monitor.
    pub fn init(&self) -> Result<impl TruncationPolicy + Clone + PartialEq + use<>, EstimateError> {
        let (mean, longest) = (self.mean_length, self.longest);
        if !(1 <= mean && mean <= longest) {
            return Err(EstimateError::Lengths {
                k_min: 1,
                k0: mean,
                k_max: longest,
            });
        }
        if longest > MAX_LONGEST {
            return Err(EstimateError::OutOfRange {
                what: "ARTBP's longest length",
                rule: "at most 2^24 steps: every step has a factor in memory",
                value: longest as f64,
            });
        }
        if let Some(alpha) = self.alpha
            && !(alpha > 2.0 && alpha <= MAX_ALPHA)
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
            monitor: Monitor::new(self.monitor)?,
            draws: 0,
        })
    }
}

/// The policy of an [`ArtbpConfig`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Artbp {
    config: ArtbpConfig,
    /// 1/(1 − c_i), i = 1, 2, …
    factors: Vec<f64>,
    monitor: Monitor,
    /// Lengths drawn so far.
    draws: u64,
}

impl TruncationPolicy for Artbp {
    fn next_window(&mut self) -> NextWindow {
        let mut rng = generator(self.config.seed, self.draws);
        self.draws = self.draws.wrapping_add(1);
        let mut k = 1;
        while k < self.config.longest && rng.random::<f64>() >= self.config.cut_probability(k) {
            k += 1;
        }
        let factors = self.factors.get(..k - 1).unwrap_or(&self.factors);
        NextWindow {
            k,
            typical_k: self.config.mean_length,
            step_scale: k as f64 / self.config.mean_length as f64,
            compensation: factors.to_vec(),
        }
    }

    fn k(&self) -> usize {
        self.config.mean_length
    }

    fn needs_chunks(&self) -> bool {
        true
    }

    fn k_max(&self) -> usize {
        self.config.longest
    }

    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn update(&mut self, at: Position, measured: Measurement) -> Decision {
        let k = self.config.mean_length;
        self.monitor.record(k, Reason::Random, at, measured)
    }

    fn save(&self) -> PolicyState {
        PolicyState::Artbp {
            draws: self.draws,
            monitor: self.monitor.save(),
        }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        match state {
            PolicyState::Artbp { draws, monitor } => {
                self.draws = draws;
                self.monitor.restore(monitor);
                Ok(())
            }
            other => Err(other.foreign("artbp")),
        }
    }
}
