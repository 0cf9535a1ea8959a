//! The part of a checkpoint that Burn does not know: policy, position in the stream, carried state.
//!
//! Burn writes weights, optimiser and scheduler to `checkpoint/{model,optim,scheduler}-{epoch}.bpk`; this module adds
//! `checkpoint/tbptt-{epoch}.json` beside them, written to a temporary file and renamed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use atbptt_core::PolicyState;
use atbptt_models::RecurrentState;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::cursor::Cursor;
use crate::report::EpochReport;

/// Version of the file's format.
const VERSION: u32 = 1;

/// State of the training loop between two optimiser steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoopState {
    version: u32,
    /// Epoch, counted from one.
    pub epoch: usize,
    /// Whether the epoch was finished; otherwise training goes on in its middle.
    pub complete: bool,
    /// Optimiser steps taken since the start of the run.
    pub step: u64,
    /// Position in the stream.
    pub cursor: Cursor,
    /// The policy, with its history.
    pub policy: PolicyState,
    /// Sums over the epoch so far.
    pub partial: EpochSums,
    /// Epochs finished.
    pub reports: Vec<EpochReport>,
    /// Parts of the carried state; `None` at the start of the stream.
    state: Option<Vec<Part>>,
}

/// Sums over an epoch's windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Of losses, in nats.
    pub loss: f64,
    /// Of losses paid.
    pub tokens: usize,
    /// Of truncation lengths.
    pub k: f64,
    /// Number of windows.
    pub windows: usize,
    /// Seconds spent on windows.
    pub train_seconds: f64,
    /// Seconds spent on probes.
    pub probe_seconds: f64,
}

/// One part of a recurrent state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Part {
    shape: [usize; 2],
    double: bool,
    values: Vec<f64>,
}

impl LoopState {
    /// Everything but the carried state.
    pub(crate) fn new(
        epoch: usize,
        complete: bool,
        step: u64,
        cursor: Cursor,
        policy: PolicyState,
        partial: EpochSums,
        reports: Vec<EpochReport>,
    ) -> Self {
        Self {
            version: VERSION,
            epoch,
            complete,
            step,
            cursor,
            policy,
            partial,
            reports,
            state: None,
        }
    }

    /// Adds the carried state.
    pub(crate) fn with_state<S: RecurrentState>(
        mut self,
        state: Option<&S>,
    ) -> Result<Self, TrainError> {
        let Some(state) = state else { return Ok(self) };
        let mut parts = Vec::new();
        for part in state.parts() {
            let shape = part.dims();
            let double = part.dtype() == DType::F64;
            let data = part
                .detach()
                .try_into_data()
                .map_err(|error| TrainError::Read {
                    reason: format!("{error:?}"),
                })?;
            parts.push(Part {
                shape,
                double,
                values: data.iter::<f64>().collect(),
            });
        }
        self.state = Some(parts);
        Ok(self)
    }

    /// Whether a carried state is stored.
    pub(crate) fn has_state(&self) -> bool {
        self.state.is_some()
    }

    /// The carried state, in the structure of `template`; `None` when none was stored or the parts do not fit.
    pub(crate) fn state<S: RecurrentState>(&self, template: S, device: &Device) -> Option<S> {
        let parts = self.state.as_ref()?;
        let expected = template.parts();
        let fits = parts.len() == expected.len()
            && parts.iter().zip(&expected).all(|(part, like)| {
                part.shape == like.dims() && part.values.len() == part.shape[0] * part.shape[1]
            });
        fits.then(|| {
            let tensors = parts.iter().map(|part| {
                let data = TensorData::new(part.values.clone(), part.shape);
                let dtype = if part.double { DType::F64 } else { DType::F32 };
                Tensor::from_data(data, (device, dtype))
            });
            template.with_parts(tensors.collect())
        })
    }

    /// Where the state of `epoch` lies in a run folder.
    pub fn path(run: &Path, epoch: usize) -> PathBuf {
        run.join("checkpoint").join(format!("tbptt-{epoch}.json"))
    }

    /// Writes the state into a run folder.
    ///
    /// # Errors
    ///
    /// [`TrainError::Checkpoint`] when the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<(), TrainError> {
        let path = Self::path(run, self.epoch);
        let fail = |reason: String| TrainError::Checkpoint {
            path: path.clone(),
            reason,
            remedy: "check free space and write permission of the run folder",
        };
        let folder = path.parent().unwrap_or(run);
        fs::create_dir_all(folder).map_err(|error| fail(error.to_string()))?;
        let temporary = path.with_extension("json.tmp");
        let text = serde_json::to_vec(self).map_err(|error| fail(error.to_string()))?;
        let mut file = fs::File::create(&temporary).map_err(|error| fail(error.to_string()))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| fail(error.to_string()))
    }

    /// Reads the state of `epoch` from a run folder.
    ///
    /// # Errors
    ///
    /// [`TrainError::Checkpoint`] when the file is missing, is not such a file or has another version.
    pub fn read(run: &Path, epoch: usize) -> Result<Self, TrainError> {
        let path = Self::path(run, epoch);
        let fail = |reason: String| TrainError::Checkpoint {
            path: path.clone(),
            reason,
            remedy: "resume from an older epoch, or start the run again",
        };
        let text = fs::read(&path).map_err(|error| fail(error.to_string()))?;
        let state: Self = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
        if state.version != VERSION || state.epoch != epoch {
            return Err(fail(format!(
                "format version {} of epoch {}, expected version {VERSION} of epoch {epoch}",
                state.version, state.epoch
            )));
        }
        Ok(state)
    }

    /// The newest epoch of a run folder for which all files of a checkpoint exist.
    pub fn newest(run: &Path) -> Option<usize> {
        Self::epochs(run)
            .filter(|&epoch| Self::is_whole(run, epoch))
            .max()
    }

    /// Removes the states of epochs well before `epoch` whose weights Burn has deleted; those of the epoch just before may
    /// still be on their way to the disk.
    pub(crate) fn prune(run: &Path, epoch: usize) {
        let outdated = |old: &usize| *old + 1 < epoch && !Self::is_whole(run, *old);
        for old in Self::epochs(run).filter(outdated) {
            let path = Self::path(run, old);
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("the outdated {} stays: {error}", path.display());
            }
        }
    }

    /// Epochs whose state lies in a run folder.
    fn epochs(run: &Path) -> impl Iterator<Item = usize> {
        let epoch_of = |name: &str| {
            let number = name.strip_prefix("tbptt-")?.strip_suffix(".json")?;
            number.parse().ok()
        };
        fs::read_dir(run.join("checkpoint"))
            .into_iter()
            .flatten()
            .filter_map(move |entry| epoch_of(entry.ok()?.file_name().to_str()?))
    }

    /// Whether all files of the checkpoint of `epoch` exist.
    pub fn is_whole(run: &Path, epoch: usize) -> bool {
        let folder = run.join("checkpoint");
        let burn = ["model", "optim", "scheduler"];
        Self::path(run, epoch).is_file()
            && burn
                .iter()
                .all(|name| folder.join(format!("{name}-{epoch}.bpk")).is_file())
    }
}
