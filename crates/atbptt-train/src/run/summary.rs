//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use atbptt_core::policy::Decision;
use atbptt_models::RecurrentModel;
use serde::{Deserialize, Serialize};

use super::lines::{number, say};
use super::{RunFolder, TrainedModel};
use crate::TrainError;
use crate::observer::Resumed;
use crate::report::EpochReport;

/// The outcome of a complete run, as `result.json` holds it: its best epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Epoch with the lowest validation loss.
    pub best_epoch: usize,
    /// Its mean validation loss, in nats.
    pub valid_loss: f64,
    /// Its measures, such as `test_perplexity`.
    pub measures: BTreeMap<String, f64>,
    /// Epochs trained.
    pub epochs: usize,
    /// Seconds of training, probes and validation.
    pub seconds: f64,
}

impl RunSummary {
    /// The outcome at the epoch with the lowest validation loss; `None` when no epoch has a finite one.
    pub fn of(reports: &[EpochReport]) -> Option<Self> {
        let (report, valid_loss) = reports
            .iter()
            .filter_map(|report| Some((report, report.valid_loss.filter(|loss| loss.is_finite())?)))
            .min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Self {
            best_epoch: report.epoch,
            valid_loss,
            measures: report.measures.clone(),
            epochs: reports.len(),
            seconds: reports.last().map_or(0.0, |last| last.elapsed_seconds),
        })
    }

    /// A measure in words, with so many digits after the point; a dash where there is none or it was not finite.
    pub fn measure(&self, name: &str, digits: usize) -> String {
        number(self.measures.get(name).copied(), digits)
    }
}

/// One line: validation loss, epoch, measures, time.
impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "validation loss {} at epoch {} of {}",
            number(Some(self.valid_loss), 4),
            self.best_epoch,
            self.epochs
        )?;
        for (name, value) in &self.measures {
            write!(
                f,
                ", {} {}",
                name.replace('_', " "),
                number(Some(*value), 4)
            )?;
        }
        write!(f, "; {:.0} s", self.seconds)
    }
}

/// What a run gives.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunResult<M> {
    /// The model with the weights of the last window, in evaluation mode.
    pub model: M,
    /// One report per epoch, with those of the run that was resumed.
    pub reports: Vec<EpochReport>,
    /// All decisions about K, oldest first.
    pub history: Vec<Decision>,
    /// Where the run went on, if it was resumed.
    pub resumed: Option<Resumed>,
    /// Whether it was asked to end, by a signal or otherwise: its last checkpoint is there to go on from. Else all epochs are trained,
    /// or early stopping has ended the run.
    pub interrupted: bool,
    /// The best epoch of a complete run.
    pub summary: Option<RunSummary>,
    /// Where its files are.
    pub folder: RunFolder,
    /// The conventional exit status, 128 + the signal's number, if a signal has ended it.
    pub(super) status: Option<u8>,
}

impl<M> RunResult<M> {
    /// The exit status a program ends with: that of the signal which ended the run, else success.
    pub fn exit_code(&self) -> ExitCode {
        match self.status.filter(|_| self.interrupted) {
            Some(status) => ExitCode::from(status),
            None => ExitCode::SUCCESS,
        }
    }

    /// The model with the weights of the epoch with the lowest validation loss, in evaluation mode, as [`TrainedModel`] finds them in the
    /// run's folder; [`model`](Self::model) has those of the last window.
    ///
    /// # Errors
    ///
    /// As [`TrainedModel::open`] and [`TrainedModel::load`]; [`TrainError::Run`] where no epoch has been validated.
    pub fn best_model(&self) -> Result<M, TrainError>
    where
        M: RecurrentModel,
    {
        // Loaded in training mode, weights know that they are to be tracked, should the program go on to train them.
        let trained = TrainedModel::open(self.folder.path())?.load(self.model.clone().train())?;
        Ok(trained.valid())
    }

    /// Prints its line, as [`say`] does: whoever reads may have closed the pipe.
    pub fn print(&self) {
        say(self);
    }
}

/// One line: the summary of a complete run and where its files are, or how to go on with an interrupted one.
impl<M> fmt::Display for RunResult<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.folder.path().display();
        match (&self.summary, self.interrupted) {
            (_, true) => write!(f, "interrupted; go on with:  --resume {path}"),
            (Some(summary), _) => write!(f, "{summary}; {path}"),
            (None, _) => write!(f, "no epoch was validated; {path}"),
        }
    }
}
