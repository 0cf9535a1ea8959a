//! A view of a run, during and after it.

use std::sync::Arc;

use atbptt_core::policy::{Decision, Estimate};

use crate::TrainError;
use crate::observer::Resumed;
use crate::report::EpochReport;
use crate::workers::WorkerReport;

use super::{Shared, lock};

/// A view of a run, during and after it.
#[derive(Clone)]
pub struct TbpttHandle {
    pub(super) shared: Arc<Shared>,
}

impl TbpttHandle {
    /// Epochs finished so far, with those of the run that was resumed.
    pub fn reports(&self) -> Vec<EpochReport> {
        lock(&self.shared.reports).clone()
    }

    /// All decisions about K so far, oldest first.
    pub fn history(&self) -> Vec<Decision> {
        lock(&self.shared.policy).monitor().history().to_vec()
    }

    /// The last usable estimate.
    pub fn last_estimate(&self) -> Option<Estimate> {
        lock(&self.shared.policy).monitor().last_estimate().cloned()
    }

    /// Where the run went on, if it was resumed.
    pub fn resumed(&self) -> Option<Resumed> {
        lock(&self.shared.resumed).clone()
    }

    /// On several devices, what each trains on and how long it has worked; else empty.
    pub fn workers(&self) -> Vec<WorkerReport> {
        lock(&self.shared.workers).clone()
    }

    /// Whether the run was interrupted before its end; its place is saved.
    pub fn interrupted(&self) -> bool {
        *lock(&self.shared.interrupted)
    }

    /// The error that stopped the run, taken once.
    pub fn take_error(&self) -> Option<TrainError> {
        lock(&self.shared.error).take()
    }

    /// Turns the end of a run into a result: the error of the training loop, else the one Burn met.
    ///
    /// # Errors
    ///
    /// [`TrainError`] when the run was stopped by one.
    pub fn finish<M>(&self, result: &burn::train::LearningResult<M>) -> Result<(), TrainError> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        match &result.error {
            Some(error) => Err(TrainError::Training {
                reason: error.to_string(),
            }),
            None => Ok(()),
        }
    }
}
