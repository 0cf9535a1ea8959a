//! When probes are due: early and often at first, then at a regular interval.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::EstimateError;

/// How far training has come: both numbers count what is done, so both are 0 at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position {
    /// Epochs completed.
    pub epoch: usize,
    /// Updates of the weights made.
    pub update: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} epochs, {} updates", self.epoch, self.update)
    }
}

/// A regular interval between probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UpdateEvery {
    /// At the first window that comes this many epochs after the last probes.
    Epochs(usize),
    /// At the first window that comes this many updates of the weights after the last probes.
    Updates(u64),
}

impl Default for UpdateEvery {
    /// Once per epoch, as in the experiments of Aicher et al. 2019.
    fn default() -> Self {
        Self::Epochs(1)
    }
}

/// When to probe, and so when K may change.
///
/// The gradient changes fastest at the start, so that a whole epoch at K₀ may be long out of date. By default the first
/// probes come after 50 updates of the weights and the next whenever their number has doubled (100, 200, 400, …) until the
/// regular interval is the shorter wait; from then on it alone counts. What is due depends only on the present position and on
/// that of the last probes, so a resumed run probes where the uninterrupted one would have.
///
/// ```
/// use atbptt_core::policy::{Position, Schedule};
///
/// // An epoch has 300 updates.
/// let schedule = Schedule::default();
/// let (mut last, mut due) = (None, Vec::new());
/// for update in 0..1000 {
///     let at = Position { epoch: update as usize / 300, update };
///     if schedule.is_due(last, at) {
///         due.push(update);
///         last = Some(at);
///     }
/// }
/// assert_eq!(due, [50, 100, 200, 300, 600, 900]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Schedule {
    /// Updates of the weights before the first probes, at least 1. Default 50. `None`: the regular interval from the start.
    pub first: Option<u64>,
    every: UpdateEvery,
    /// Whether to probe before the first window already, which makes K₀ moot. Default false: untrained weights say little
    /// about the trained model.
    pub at_start: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            first: Some(50),
            every: UpdateEvery::default(),
            at_start: false,
        }
    }
}

impl Schedule {
    /// At regular intervals from the start: at the first window that comes `epochs` epochs after the last probes. The experiments of
    /// Aicher et al. 2019 probe once per epoch.
    pub fn every_epochs(epochs: usize) -> Self {
        Self::default().with_first(None).with_every_epochs(epochs)
    }

    /// At regular intervals from the start: at the first window that comes `updates` updates of the weights after the last probes.
    pub fn every_updates(updates: u64) -> Self {
        Self::default().with_first(None).with_every_updates(updates)
    }

    /// Sets the regular interval, in epochs, at least 1. Default 1.
    pub fn with_every_epochs(mut self, epochs: usize) -> Self {
        self.every = UpdateEvery::Epochs(epochs);
        self
    }

    /// Sets the regular interval, in updates of the weights, at least 1: for long epochs.
    pub fn with_every_updates(mut self, updates: u64) -> Self {
        self.every = UpdateEvery::Updates(updates);
        self
    }

    setters! {
        with_first => first: Option<u64>;
        with_at_start => at_start: bool;
    }

    /// Accepts intervals of at least 1.
    pub(super) fn validate(self) -> Result<(), EstimateError> {
        let zero = |what| Err(EstimateError::Zero { what });
        match (self.first, self.every) {
            (Some(0), _) => zero("the number of updates before the first probes"),
            (_, UpdateEvery::Epochs(0) | UpdateEvery::Updates(0)) => {
                zero("the interval between probes")
            }
            _ => Ok(()),
        }
    }

    /// Whether probes are due at `at`; `last`: when the last ones ran.
    pub fn is_due(self, last: Option<Position>, at: Position) -> bool {
        if last.is_none() && self.at_start {
            return true;
        }
        let from = last.unwrap_or_default();
        let regular = match self.every {
            UpdateEvery::Epochs(n) => at.epoch >= from.epoch.saturating_add(n),
            UpdateEvery::Updates(n) => at.update >= from.update.saturating_add(n),
        };
        let doubled = |first: u64| at.update >= from.update.saturating_mul(2).max(first);
        regular || self.first.is_some_and(doubled)
    }
}
