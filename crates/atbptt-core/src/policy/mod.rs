//! Which truncation length the next window gets.
//!
//! Last stage of the flow: a policy asks for probes when they are due, takes their norms, and answers with K and the
//! reason. [`KController`] holds the relative bias at a tolerance; [`FixedK`] is the baseline, [`RandomLength`] and
//! [`Artbp`] are the published alternatives.
//!
//! `k`, `K`: kept steps; `delta` (δ): tolerated relative bias; `W`: probe window, in steps.

mod adaptive;
mod artbp;
mod fixed;
mod random_length;

pub use adaptive::{AdaptiveConfig, KController, KControllerState};
pub use artbp::{Artbp, ArtbpConfig, ArtbpState, Truncation};
pub use fixed::{FixedK, FixedKState, Monitor};
pub use random_length::{RandomLength, RandomLengthConfig, RandomLengthState};

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::{BiasEstimate, BiasEstimator, EstimateError, LagNorms};

/// How far training has come: both numbers count what is done, so both are 0 at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position {
    /// Epochs completed.
    pub epoch: usize,
    /// Optimiser steps taken.
    pub step: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} epochs, {} steps", self.epoch, self.step)
    }
}

/// How often to probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateEvery {
    /// At the first window that comes this many epochs after the last update.
    Epochs(usize),
    /// At the first window that comes this many optimiser steps after the last update.
    Steps(u64),
}

impl Default for UpdateEvery {
    /// Once per epoch, as in the experiments of Aicher et al. 2019.
    fn default() -> Self {
        Self::Epochs(1)
    }
}

impl UpdateEvery {
    fn validate(self) -> Result<(), EstimateError> {
        match self {
            Self::Epochs(0) | Self::Steps(0) => Err(EstimateError::Zero {
                what: "the update interval",
            }),
            _ => Ok(()),
        }
    }

    /// Whether an update is due at `at`, the last one being `last`; `first`: whether the very start is due too.
    fn is_due(self, last: Option<Position>, first: bool, at: Position) -> bool {
        let from = match last {
            None if first => return true,
            None => Position::default(),
            Some(last) => last,
        };
        match self {
            Self::Epochs(n) => at.epoch >= from.epoch.saturating_add(n),
            Self::Steps(n) => at.step >= from.step.saturating_add(n),
        }
    }
}

/// Why K is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The mean K of the probes meets the tolerance.
    ToleranceMet,
    /// The tolerance would allow a shorter K than `k_min`.
    ClampedToMin,
    /// The tolerance asks for a longer K than `k_max`; the bias exceeds it.
    ClampedToMax,
    /// Saturated: no decay was seen (β ≥ 1), so the bias has no bound.
    NoDecay,
    /// Saturated: the profile decays, but no K in the probe window reaches the tolerance.
    OutOfReach,
    /// No probe was usable; K is kept.
    Unusable,
    /// The policy never changes K.
    Fixed,
    /// Every window's K is drawn at random around this one.
    Random,
}

impl Reason {
    /// Whether the answer is "as long as possible" for want of a K that meets the tolerance.
    pub fn is_saturated(self) -> bool {
        matches!(self, Self::NoDecay | Self::OutOfReach)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToleranceMet => "shortest length that meets the bias tolerance",
            Self::ClampedToMin => "the tolerance allows less, the configured minimum does not",
            Self::ClampedToMax => "the tolerance asks for more than the configured maximum",
            Self::NoDecay => "saturated: the gradient does not decay over the probe window, so its bias has no bound",
            Self::OutOfReach => "saturated: no length in the probe window meets the bias tolerance",
            Self::Unusable => "kept: no probe gave usable gradient norms",
            Self::Fixed => "fixed by the configuration",
            Self::Random => "the mean of lengths drawn at random",
        })
    }
}

/// One update of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Truncation length from here on, in steps.
    pub k: usize,
    /// Why.
    pub reason: Reason,
    /// When.
    pub position: Position,
    /// Tolerated relative bias; `None` for a policy without one.
    pub delta: Option<f64>,
    /// Relative bias at `k`, estimated from all usable probes' sequences together; `None` when it has no bound or no
    /// probe was usable.
    pub relative_bias: Option<f64>,
    /// Log decay per step of that estimate.
    pub log_beta: Option<f64>,
    /// Onset of the geometric tail of that estimate, in steps.
    pub tau: Option<usize>,
    /// K of each usable probe, before averaging, in steps; a saturated probe gives `k_max`. Empty without a tolerance.
    pub probe_ks: Vec<usize>,
    /// How many of the usable probes were saturated.
    pub saturated: usize,
    /// How many probes were not usable.
    pub unusable: usize,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "K = {} {} ({})", self.k, self.position, self.reason)?;
        if let Some(bias) = self.relative_bias {
            write!(f, ", relative bias {bias:.3}")?;
        }
        if self.unusable > 0 {
            write!(f, ", {} unusable probes", self.unusable)?;
        }
        Ok(())
    }
}

/// A rule for the truncation length.
///
/// The trainer, before each window: asks [`TruncationPolicy::probes_due`]; if any, runs them and calls
/// [`TruncationPolicy::update`] once with all of them; then takes [`TruncationPolicy::next_k`].
pub trait TruncationPolicy: Send + Sync + fmt::Debug {
    /// Truncation length of the next window, in steps; randomised policies draw it here. At most
    /// [`TruncationPolicy::k_max`].
    fn next_k(&mut self) -> usize;

    /// Truncation length in use, in steps; the typical one of a randomised policy.
    fn k(&self) -> usize;

    /// Factor on the learning rate for the window that [`TruncationPolicy::next_k`] drew last, on top of the trainer's
    /// scaling with [`TruncationPolicy::k`].
    fn step_scale(&self) -> f64 {
        1.0
    }

    /// Factors on the state gradient at the K − 1 boundaries between steps of the window that
    /// [`TruncationPolicy::next_k`] drew last, first boundary first; empty: all one.
    fn compensation(&self) -> &[f64] {
        &[]
    }

    /// Whether windows must lie end to end, BPTT(K; K), for this policy to be what it says.
    fn needs_chunks(&self) -> bool {
        false
    }

    /// Longest K this policy can ever return, in steps: bounds memory and the data needed.
    fn k_max(&self) -> usize;

    /// How many probes to run at `at`, before the next window; 0 when none are due.
    fn probes_due(&self, at: Position) -> usize;

    /// Takes the probes' norms, updates K and returns the decision. An `Err` counts as an unusable probe.
    fn update(&mut self, at: Position, probes: &[Result<LagNorms, EstimateError>]) -> Decision;

    /// All decisions so far, oldest first.
    fn history(&self) -> &[Decision];

    /// Last usable estimate, for metrics and plots.
    fn last_estimate(&self) -> Option<&BiasEstimate>;

    /// The whole state as a value.
    fn save(&self) -> PolicyState;

    /// Continues exactly where `state` was saved. The configuration stays this policy's own.
    ///
    /// # Errors
    /// [`EstimateError::ForeignState`] for another policy's state; the policy is then unchanged.
    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError>;
}

/// State of a policy, for checkpoints. Survives JSON exactly: no field is ever infinite or NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PolicyState {
    /// Of a [`KController`].
    Adaptive(KControllerState),
    /// Of a [`FixedK`].
    Fixed(FixedKState),
    /// Of a [`RandomLength`].
    RandomLength(RandomLengthState),
    /// Of an [`Artbp`].
    Artbp(ArtbpState),
    /// Of a policy defined elsewhere.
    Custom {
        /// The policy's name.
        name: String,
        /// Its state in a format of its own, such as JSON.
        data: String,
    },
}

impl PolicyState {
    /// Name of the policy that saved it.
    pub fn policy(&self) -> &str {
        match self {
            Self::Adaptive(_) => "adaptive",
            Self::Fixed(_) => "fixed",
            Self::RandomLength(_) => "random_length",
            Self::Artbp(_) => "artbp",
            Self::Custom { name, .. } => name,
        }
    }
}

/// The usable probes' estimates, and the estimate of all their sequences together.
struct Assessment {
    each: Vec<BiasEstimate>,
    together: Option<BiasEstimate>,
    unusable: usize,
}

/// A probe is usable when it was measured and its norms give an estimate.
fn assess(estimator: &BiasEstimator, probes: &[Result<LagNorms, EstimateError>]) -> Assessment {
    let usable: Vec<(&LagNorms, BiasEstimate)> = probes
        .iter()
        .filter_map(|probe| probe.as_ref().ok())
        .filter_map(|norms| {
            estimator
                .estimate(norms)
                .ok()
                .map(|estimate| (norms, estimate))
        })
        .collect();
    let norms: Vec<&LagNorms> = usable.iter().map(|(norms, _)| *norms).collect();
    let unusable = probes.len() - usable.len();
    let each: Vec<BiasEstimate> = usable.into_iter().map(|(_, estimate)| estimate).collect();
    // Probes of different windows cannot be pooled: the last one then speaks for all.
    let pooled = LagNorms::pool(&norms)
        .and_then(|all| estimator.estimate(&all))
        .ok();
    let together = pooled.or_else(|| each.last().cloned());
    Assessment {
        each,
        together,
        unusable,
    }
}

/// δ(k) as stored: `None` when it has no bound.
fn finite_bias(estimate: &BiasEstimate, k: usize) -> Option<f64> {
    Some(estimate.relative_bias(k)).filter(|bias| bias.is_finite())
}

/// The generator of draw number `draw` of a policy: a function of both numbers, so that a state needs only the number of
/// draws to go on exactly.
fn generator(seed: u64, draw: u64) -> Pcg64 {
    let key: u64 = Pcg64::seed_from_u64(seed).random();
    Pcg64::seed_from_u64(key.wrapping_add(draw))
}
