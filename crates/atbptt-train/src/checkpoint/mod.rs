//! Checkpoints: everything that shapes the rest of a run, in one checked file.
//!
//! Place in the flow: [`AdaptiveTbptt`](crate::AdaptiveTbptt) writes one every so many windows and at the end of every epoch
//! ([`CheckpointConfig`]); [`AdaptiveTbptt::resume`](crate::AdaptiveTbptt::resume) continues from one. A run that was killed and
//! resumed ends with the bits of a run that never stopped.
//!
//! A file holds weights, optimiser, learning-rate scheduler, policy with its history, carried state, position in the stream,
//! sums and windows of the epoch so far, all reports, and what the run is made of ([`CheckpointConfig::must_match`]). No random generator is
//! stored, for every draw is a function of the seed and the number of windows before it.
//!
//! ```text
//! magic "atbpttCK" | version u32 | sections u32 | length of the file u64
//! per section: name [8 bytes] | length u64
//! the sections
//! SHA-256 of all that
//! ```
//!
//! Numbers are little endian. A file is written beside its place, flushed to the disk, read back and compared, and only then
//! renamed; older ones are dropped after that. Reading checks magic, version, length and checksum, in this order, before any
//! section is looked at, and takes no memory beyond the file's size.

pub(crate) mod container;
mod fault;
mod folder;
mod identity;
mod parts;
mod state;

use std::path::{Path, PathBuf};

use atbptt_core::PolicyState;
use atbptt_models::RecurrentModel;
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Bytes;

use crate::TrainError;
use crate::data::beginning;
use crate::learner::Tbptt;
use crate::panics;
use crate::report::EpochReport;

pub use fault::CheckpointFault;
pub use folder::CheckpointConfig;
pub use identity::{Difference, Identity};

pub(crate) use folder::{name_of, prune, remove_temporary};
pub(crate) use identity::{READ_LAST, STEPS};
pub(crate) use parts::{Carried, WindowRow};
pub(crate) use state::{EpochSums, LoopState, ReadSteps};

/// A checkpoint that was read and found whole.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    settings: String,
    pub(crate) state: LoopState,
    pub(crate) windows: Vec<WindowRow>,
    pub(crate) carried: Option<Carried>,
    pub(crate) model: Vec<u8>,
    pub(crate) optimizer: Vec<u8>,
    pub(crate) scheduler: Vec<u8>,
}

/// Names of the sections.
const SECTIONS: [&str; 7] = [
    "loop", "settings", "windows", "carried", "model", "optim", "sched",
];

impl Checkpoint {
    #[allow(clippy::too_many_arguments)] // one per section, in their order
    pub(crate) fn new(
        state: LoopState,
        settings: String,
        windows: Vec<WindowRow>,
        carried: Option<Carried>,
        model: Vec<u8>,
        optimizer: Vec<u8>,
        scheduler: Vec<u8>,
    ) -> Self {
        Self {
            path: PathBuf::new(),
            settings,
            state,
            windows,
            carried,
            model,
            optimizer,
            scheduler,
        }
    }

    /// Reads a checkpoint and checks that it is whole.
    ///
    /// # Errors
    ///
    /// [`TrainError::Checkpoint`], with what is wrong and which older checkpoint of the same folder is whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TrainError> {
        let path = path.as_ref();
        Self::read(path).map_err(|fault| TrainError::Checkpoint {
            path: path.to_owned(),
            remedy: folder::remedy(path, &fault),
            fault,
        })
    }

    /// The newest checkpoint of a run folder.
    ///
    /// # Errors
    ///
    /// [`TrainError::NoCheckpoint`] when there is none; [`TrainError::Checkpoint`] when the newest is not whole: nothing older
    /// is taken in its place unasked, but the error names it.
    pub fn newest(run: impl AsRef<Path>) -> Result<Self, TrainError> {
        let run = run.as_ref();
        match Self::list(run).into_iter().next() {
            Some(path) => Self::open(path),
            None => Err(TrainError::NoCheckpoint {
                run: run.to_owned(),
            }),
        }
    }

    /// Checkpoints of a run folder by their names, newest first. They are not opened.
    pub fn list(run: impl AsRef<Path>) -> Vec<PathBuf> {
        folder::list(run.as_ref())
    }

    /// Path of the checkpoint at the end of `epoch`, if it is still there.
    pub fn end_of_epoch(run: impl AsRef<Path>, epoch: usize) -> Option<PathBuf> {
        folder::end_of_epoch(run.as_ref(), epoch)
    }

    fn read(path: &Path) -> Result<Self, CheckpointFault> {
        let sections = container::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            ..Self::from_sections(sections)?
        })
    }

    /// Parses the sections. Any bytes give a checkpoint or a fault, never a panic.
    pub(crate) fn from_sections(
        mut sections: container::Sections,
    ) -> Result<Self, CheckpointFault> {
        let mut take = |name: &str| {
            sections
                .remove(name)
                .ok_or_else(|| CheckpointFault::Malformed {
                    reason: format!("it has no section {name:?}"),
                })
        };
        let malformed = |what: &str, error: &dyn std::fmt::Display| CheckpointFault::Malformed {
            // What serde and Burn say may repeat the file.
            reason: format!("{what}: {}", beginning(&error.to_string())),
        };
        let [
            state,
            settings,
            windows,
            carried,
            model,
            optimizer,
            scheduler,
        ] = SECTIONS;
        let state: LoopState = serde_json::from_slice(&take(state)?)
            .map_err(|error| malformed("the state of the loop", &error))?;
        state.check()?;
        Ok(Self {
            path: PathBuf::new(),
            settings: String::from_utf8(take(settings)?)
                .map_err(|error| malformed("the settings", &error))?,
            state,
            windows: parts::windows_from(&take(windows)?)?,
            carried: Carried::from_bytes(&take(carried)?)?,
            model: take(model)?,
            optimizer: take(optimizer)?,
            scheduler: take(scheduler)?,
        })
    }

    /// Reads a checkpoint from memory: a file's bytes, wherever they were kept.
    ///
    /// # Errors
    ///
    /// [`CheckpointFault`], whatever the bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointFault> {
        Self::from_sections(container::parse(bytes)?)
    }

    /// The bytes of the file.
    ///
    /// # Errors
    ///
    /// [`CheckpointFault::Malformed`] when the policy's state does not survive being written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointFault> {
        let mut bytes = Vec::new();
        self.with_sections(|sections| {
            container::put(&mut bytes, sections).map_err(|cause| CheckpointFault::Io {
                action: "written",
                cause,
            })
        })?;
        self.check_survival(&Self::from_bytes(&bytes)?)?;
        Ok(bytes)
    }

    /// Writes the checkpoint to its place, checked before it takes the name.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CheckpointFault> {
        self.with_sections(|sections| {
            container::write(path, sections, |written| {
                self.check_survival(&Self::read(written)?)
            })
        })
    }

    /// Hands the sections to `act`.
    fn with_sections<T>(
        &self,
        act: impl FnOnce(&[(&str, &[u8])]) -> Result<T, CheckpointFault>,
    ) -> Result<T, CheckpointFault> {
        let state =
            serde_json::to_vec(&self.state).map_err(|error| CheckpointFault::Malformed {
                reason: format!("the state of the loop cannot be written: {error}"),
            })?;
        let windows = parts::windows_to(&self.windows);
        let carried = Carried::to_bytes(self.carried.as_ref());
        let contents: [&[u8]; 7] = [
            &state,
            self.settings.as_bytes(),
            &windows,
            &carried,
            &self.model,
            &self.optimizer,
            &self.scheduler,
        ];
        let sections: Vec<(&str, &[u8])> = SECTIONS.into_iter().zip(contents).collect();
        act(&sections)
    }

    /// Whatever JSON cannot carry, such as an infinity in a policy's state, is found when it is written, not when it is needed.
    fn check_survival(&self, back: &Self) -> Result<(), CheckpointFault> {
        if back.state == self.state {
            return Ok(());
        }
        Err(CheckpointFault::Malformed {
            reason: "the state of the loop does not survive being written; a policy's state must be finite".into(),
        })
    }

    /// Where it was read from; empty for one read from memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text given to [`CheckpointConfig::with_settings`].
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// Epochs finished.
    pub fn epochs(&self) -> usize {
        match self.state.complete {
            true => self.state.epoch,
            false => self.state.epoch.saturating_sub(1),
        }
    }

    /// Windows since the start of the run.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The policy's state, with its history.
    pub fn policy(&self) -> &PolicyState {
        &self.state.policy
    }

    /// Epochs finished, one report each.
    pub fn reports(&self) -> &[EpochReport] {
        &self.state.reports
    }

    /// The epoch with the lowest validation loss so far.
    pub fn best_epoch(&self) -> Option<usize> {
        folder::best_epoch(&self.state.reports)
    }

    /// The best epoch's checkpoint, where it lies beside this one.
    pub(crate) fn best_beside(&self) -> Option<PathBuf> {
        let run = self.path.parent()?.parent()?;
        Self::end_of_epoch(run, self.best_epoch()?)
    }

    /// What the run is made of.
    #[doc(hidden)]
    pub fn identity(&self) -> &Identity {
        &self.state.identity
    }

    /// The weights, in the structure of `template`: to evaluate or to use elsewhere.
    ///
    /// # Errors
    ///
    /// [`TrainError::Checkpoint`] when they do not fit.
    pub fn model<M: RecurrentModel>(&self, template: M) -> Result<M, TrainError> {
        Ok(self.load(Tbptt::new(template))?.into_inner())
    }

    pub(crate) fn load<M: Module>(&self, template: M) -> Result<M, TrainError> {
        let loaded = guarded("model", || {
            let record = self.model_record()?;
            template
                .try_load_record(record)
                .map_err(|error| CheckpointFault::Mismatch {
                    what: "model",
                    reason: beginning(&error.to_string()),
                })
        });
        loaded.map_err(|fault| self.fault(fault))
    }

    pub(crate) fn model_record(&self) -> Result<ModuleRecord, CheckpointFault> {
        ModuleRecord::from_bytes(self.bytes(&self.model)).map_err(|error| {
            CheckpointFault::Malformed {
                reason: format!("the weights: {}", beginning(&error.to_string())),
            }
        })
    }

    pub(crate) fn bytes(&self, section: &[u8]) -> Bytes {
        Bytes::from_bytes_vec(section.to_vec())
    }

    pub(crate) fn fault(&self, fault: CheckpointFault) -> TrainError {
        TrainError::Checkpoint {
            path: self.path.clone(),
            remedy: folder::remedy(&self.path, &fault),
            fault,
        }
    }
}

/// Runs code of Burn's that panics on records that pass the checksum and yet do not fit `what`, such as one of another optimiser.
pub(crate) fn guarded<T>(
    what: &'static str,
    act: impl FnOnce() -> Result<T, CheckpointFault>,
) -> Result<T, CheckpointFault> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    caught.unwrap_or_else(|cause| {
        Err(CheckpointFault::Mismatch {
            what,
            reason: beginning(&panics::message(cause.as_ref())),
        })
    })
}

#[cfg(test)]
mod tests;
