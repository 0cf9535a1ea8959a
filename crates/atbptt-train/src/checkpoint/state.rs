//! The loop between two windows, as a checkpoint holds it.

use std::ops::Range;

use atbptt_core::PolicyState;
use serde::{Deserialize, Serialize};

use crate::cursor::Cursor;
use crate::report::EpochReport;

use super::{CheckpointFault, Identity};

/// Sums over an epoch's windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochSums {
    /// Of losses, in nats.
    pub loss: f64,
    /// Of losses counted.
    pub tokens: usize,
    /// Of truncation lengths.
    pub k: f64,
    /// Number of windows.
    pub windows: usize,
    /// Windows whose gradient was clipped.
    pub clipped: usize,
    /// Windows without any target, which only carried the state on.
    pub without_target: usize,
    /// Windows left out because they were not finite.
    pub skipped: usize,
    /// Times the epoch went back to a checkpoint because a value was not finite.
    pub restored: usize,
    /// Seconds spent on windows.
    pub train_seconds: f64,
    /// Seconds spent on probes.
    pub probe_seconds: f64,
}

/// The loop between two windows; the part of a checkpoint that is written as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoopState {
    /// Epoch, counted from one; zero before the first.
    pub epoch: usize,
    /// Whether the epoch was finished; otherwise training goes on in its middle.
    pub complete: bool,
    /// Windows since the start of the run.
    pub step: u64,
    pub cursor: Cursor,
    pub policy: PolicyState,
    pub sums: EpochSums,
    pub reports: Vec<EpochReport>,
    /// Updates since the start of the run.
    pub updates: u64,
    /// Factor on the step size, below one after values that were not finite.
    pub shrink: f64,
    pub identity: Identity,
    /// The last steps that were read of the epoch, where the source can tell them from others.
    #[serde(default)]
    pub read: Option<ReadSteps>,
}

/// Steps of a stream, and what tells them from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadSteps {
    pub steps: Range<usize>,
    pub fingerprint: String,
}

/// Bounds that a counter of any real run stays below, so that adding to it cannot overflow.
pub(super) const MOST: u64 = 1 << 48;

impl LoopState {
    pub(super) fn check(&self) -> Result<(), CheckpointFault> {
        let counters = [
            self.epoch as u64,
            self.step,
            self.updates,
            self.cursor.next_loss as u64,
            self.sums.tokens as u64,
            self.sums.windows as u64,
            self.sums.clipped as u64,
            self.sums.without_target as u64,
            self.sums.skipped as u64,
            self.sums.restored as u64,
        ];
        let malformed = |reason: &str| {
            Err(CheckpointFault::Malformed {
                reason: reason.into(),
            })
        };
        if counters.iter().any(|&count| count >= MOST) {
            return malformed("a counter is beyond any run");
        }
        if self.epoch == 0 && !self.complete {
            return malformed("epochs count from one");
        }
        if self.cursor.start > self.cursor.next_loss {
            return malformed("the carried state stands after the next loss");
        }
        if !(self.shrink > 0.0 && self.shrink <= 1.0) {
            return malformed("the factor on the step size is outside (0, 1]");
        }
        Ok(())
    }
}
