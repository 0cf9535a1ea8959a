//! Observers: programs that want to know what happens while training runs.

use std::path::PathBuf;

use atbptt_core::policy::{Decision, Estimate};

use crate::checkpoint::Difference;
use crate::report::EpochReport;
use crate::workers::WorkerReport;

/// Where a resumed run continued.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// The checkpoint.
    pub path: PathBuf,
    /// Epochs it had finished.
    pub epochs: usize,
    /// Windows it had trained.
    pub step: u64,
    /// What has changed since and may, such as the device.
    pub changes: Vec<Difference>,
}

/// Receives what happens while training runs. All methods do nothing by default.
pub trait TrainingObserver: Send + Sync {
    /// The run continues from a checkpoint.
    fn on_resume(&self, _resumed: &Resumed) {}

    /// The run begins on several devices.
    fn on_workers(&self, _workers: &[WorkerReport]) {}

    /// A decision about K was taken.
    fn on_decision(&self, _decision: &Decision, _estimate: Option<&Estimate>) {}

    /// A training window is done: losses counted of all in this epoch, and the running training loss per token in nats.
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _running_loss: f64) {}

    /// An epoch is done.
    fn on_epoch(&self, _report: &EpochReport) {}
}
