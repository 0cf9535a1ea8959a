//! Errors of training.

use std::ops::Range;
use std::path::PathBuf;

use atbptt_core::EstimateError;
use atbptt_models::ModelError;

use crate::checkpoint::CheckpointFault;
use crate::data::DataError;
use crate::device::DeviceError;
use crate::run::RunFault;

/// What can stop a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The data could not be read, or do not fit the run.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model refused its input.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The estimator or the policy refused its input.
    #[error(transparent)]
    Estimate(#[from] EstimateError),
    /// There is no device to run on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More devices than sequences.
    #[error(
        "{devices} devices cannot share {sequences} sequences, since each trains on one or more; take fewer devices or a larger \
         batch"
    )]
    TooManyDevices {
        /// Devices of the run.
        devices: usize,
        /// Parallel sequences of the training data.
        sequences: usize,
    },
    /// A source that hands out no shards.
    #[error(
        "the training data cannot be shared by {devices} devices: their source hands out no shards; implement \
         `SequenceSource::shard` for it, or train on one device"
    )]
    NotShared {
        /// Devices of the run.
        devices: usize,
    },
    /// A worker's device failed, or the process that it is in.
    #[error(
        "worker {worker} of {workers} failed, on {device}: {reason}{checkpoint}; check that the device, and for a remote one its \
         server, is up and has memory enough, and resume"
    )]
    Worker {
        /// Which one, counted from zero.
        worker: usize,
        /// Workers of the run.
        workers: usize,
        /// Its device.
        device: String,
        /// The device's own words.
        reason: String,
        /// Which checkpoint is the last good one, as a clause; empty before the first.
        checkpoint: String,
    },
    /// The server of a remote device is gone.
    #[error(
        "the server of {device} no longer answers ({reason}){checkpoint}; start it again, and resume the run"
    )]
    Server {
        /// The device, by its address.
        device: String,
        /// What came of asking once more.
        reason: String,
        /// Which checkpoint is the last good one, as a clause; empty before the first.
        checkpoint: String,
    },
    /// A setting is outside its range.
    #[error("{field} must be {rule}, got {got}; {remedy}")]
    Config {
        /// Name of the setting.
        field: &'static str,
        /// The range it must lie in.
        rule: &'static str,
        /// The value received.
        got: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A probe needs a longer stream than there is.
    #[error(
        "a probe reads {needed} steps (window {window} and burn-in {burn_in}), but the training stream has {steps} \
         steps per sequence; use a shorter window, a smaller batch or more text"
    )]
    ProbeTooLong {
        /// Steps a probe reads.
        needed: usize,
        /// Its window W.
        window: usize,
        /// Its burn-in.
        burn_in: usize,
        /// Steps of the stream.
        steps: usize,
    },
    /// The longest window does not fit the training stream.
    #[error(
        "the truncation length may reach {k_max} steps, but the training stream has {steps} steps per sequence; \
         lower the largest K, use a smaller batch or more text"
    )]
    StreamTooShort {
        /// Longest truncation length of the policy.
        k_max: usize,
        /// Steps of the stream.
        steps: usize,
    },
    /// An update is to have more losses than there are.
    #[error(
        "an update is to have the losses of {losses} steps, but the training stream has {steps} steps per sequence; take fewer \
         losses per update, a smaller batch or more data"
    )]
    StrideTooLong {
        /// Losses per update, in steps.
        losses: usize,
        /// Steps of the stream.
        steps: usize,
    },
    /// The loss or the gradient became NaN or infinite.
    #[error(
        "the {what} became {value} in epoch {epoch}, at window {step} (K = {k}); the weights of the step before \
         are untouched{checkpoint}; lower the step size or clip harder"
    )]
    NonFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// Epoch, counted from one.
        epoch: usize,
        /// Windows before this one.
        step: u64,
        /// Truncation length in use.
        k: usize,
        /// Which checkpoint is the last good one, as a clause; empty before the first.
        checkpoint: String,
    },
    /// The validation loss became NaN or infinite.
    #[error(
        "the validation loss became {value} after epoch {epoch}, at steps {}..{} of the validation stream; the weights that this \
         epoch trained are whole{checkpoint}; look at the validation data at these steps; where they are sound, the weights \
         have grown too large: lower the step size or clip harder; `OnNonFinite::Skip` goes on without this loss",
        steps.start, steps.end
    )]
    NonFiniteValidation {
        /// The first loss that was not finite, summed over the steps.
        value: f64,
        /// Epoch, counted from one.
        epoch: usize,
        /// The steps, of each sequence.
        steps: Range<usize>,
        /// Which checkpoint holds the epoch, as a clause; empty without checkpoints.
        checkpoint: String,
    },
    /// No window of an epoch had a target.
    #[error(
        "no step of the training data had a target in epoch {epoch}, so nothing could be learned; check which targets are marked \
         as missing"
    )]
    NoTarget {
        /// Epoch, counted from one.
        epoch: usize,
    },
    /// A data loader gave no stream, or a window where a stream is expected.
    #[error(
        "the {split} data loader gave no stream; build it with `stream_loader` and train with the `AdaptiveTbptt` strategy"
    )]
    NoStream {
        /// `training` or `validation`.
        split: &'static str,
    },
    /// A checkpoint could not be written, read or taken over.
    #[error("checkpoint {} {fault}; {remedy}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: CheckpointFault,
        /// What to do about it; names an older checkpoint that is whole, where there is one.
        remedy: String,
    },
    /// A run folder holds no checkpoint to resume from.
    #[error(
        "{} holds no checkpoint; give the folder of an earlier run or one of its checkpoints, or start a new run",
        run.display()
    )]
    NoCheckpoint {
        /// The run folder.
        run: PathBuf,
    },
    /// A new run was to be written into the folder of another.
    #[error("{} already holds checkpoints; resume from them, or choose another folder", run.display())]
    RunExists {
        /// The run folder.
        run: PathBuf,
    },
    /// A run's folder cannot be used, or a run not gone on with.
    #[error("{} {fault}", path.display())]
    Run {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        #[source]
        fault: RunFault,
    },
    /// The figure of a run could not be drawn.
    #[cfg(feature = "plot")]
    #[error(transparent)]
    Plot(#[from] crate::plot::PlotError),
    /// The device failed while it worked on a window, most often for want of memory.
    #[error(
        "the device failed in a {what} of {steps} steps with batch {batch} (K = {k}): {reason}; if its memory is too small, \
         take a smaller batch, a smaller K or a shorter probe window"
    )]
    Window {
        /// `training window`, `probe` or `validation window`.
        what: &'static str,
        /// Steps that were run at once: of K and the steps around it, or of W and burn-in.
        steps: usize,
        /// Parallel sequences.
        batch: usize,
        /// Truncation length in use.
        k: usize,
        /// The device's own words.
        reason: String,
    },
    /// A tensor could not be read back from its device.
    #[error(
        "could not read a result from the device: {reason}; check the device's memory and driver"
    )]
    Read {
        /// The device's own words.
        reason: String,
    },
    /// Burn's training stopped with an error of its own.
    #[error("training stopped: {reason}")]
    Training {
        /// Burn's words.
        reason: String,
    },
}

impl TrainError {
    /// Says where it happened when a device failed; other errors are unchanged.
    pub(crate) fn in_window(
        self,
        what: &'static str,
        steps: usize,
        batch: usize,
        k: usize,
    ) -> Self {
        let reason = match self {
            Self::Read { reason } | Self::Model(ModelError::Read { reason }) => reason,
            Self::Model(ModelError::Estimate(EstimateError::Read { message }))
            | Self::Estimate(EstimateError::Read { message }) => message,
            other => return other,
        };
        Self::Window {
            what,
            steps,
            batch,
            k,
            reason: root_cause(&reason),
        }
    }
}

/// The last cause in a device's report, which lists one per line and what followed from it, with backtraces.
fn root_cause(report: &str) -> String {
    let noise = [
        "caused by",
        "no backtrace",
        "asked at",
        "backtrace",
        "skipped ",
        "(",
    ];
    let cause = report.lines().map(str::trim).rfind(|line| {
        let lower = line.to_lowercase();
        !line.is_empty() && !noise.iter().any(|start| lower.starts_with(start))
    });
    cause.unwrap_or(report).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_report_is_cut_down_to_its_cause() {
        let report = "An error happened during execution\nCaused by:\n  An IO error happened\nCaused by:\n  \
                      can't allocate buffer of size: 163840000\nNo backtrace available\nAsked at:\nNo backtrace available";
        let read = TrainError::Read {
            reason: report.into(),
        };
        let text = read.in_window("training window", 39, 16, 20).to_string();
        for part in [
            "39 steps with batch 16 (K = 20)",
            ": can't allocate buffer of size: 163840000;",
            "smaller batch",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(root_cause("(odd)"), "(odd)");
    }

    #[test]
    fn other_errors_are_not_about_a_window() {
        let error = TrainError::NoStream { split: "training" };
        assert!(matches!(
            error.in_window("probe", 1, 1, 1),
            TrainError::NoStream { .. }
        ));
    }
}
