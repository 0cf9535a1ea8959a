//! What can be wrong with a run's folder, or with going on with a run.

use std::io;
use std::path::PathBuf;

/// What is wrong with a run's folder or with the checkpoint to go on from, as a clause after its path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFault {
    /// A new run was to be written into the folder of another one.
    #[error("already holds a run; resume that run, or choose another folder")]
    HoldsRun,
    /// A new run was to be written into a folder with files of somebody else's.
    #[error("holds files that are no run's; choose a new folder")]
    ForeignFiles,
    /// Another process has it.
    #[error(
        "is in use: another process is at work in it; wait for its end, or choose another folder"
    )]
    InUse,
    /// No number after the name is free.
    #[error("has no free number left; choose another name")]
    NoNumber,
    /// The operating system refused.
    #[error("cannot be {action}: {cause}; {}", remedy(action))]
    Io {
        /// `created`, `read`, `written`.
        action: &'static str,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// An older checkpoint was to be gone on from in its own folder.
    #[error(
        "is not the newest checkpoint of its run, and what came after it would be lost: go on from it in a new folder, or \
         go on from {}", newest.display()
    )]
    NotNewest {
        /// The newest one.
        newest: PathBuf,
    },
    /// A checkpoint that lies alone was to be gone on from in its own folder.
    #[error("lies in no run's folder; name a new folder to go on in")]
    NoHome,
    /// The settings are not those of the program that reads them.
    #[error("is not of this program: {reason}; start a new run")]
    Settings {
        /// What does not fit.
        reason: String,
    },
    /// There is no trained model.
    #[error(
        "holds no trained model; give the folder of a run with at least one epoch behind it, or its folder `model`"
    )]
    NoModel,
    /// The trained model lacks a file.
    #[error(
        "is not there: the trained model is of another kind; one of texts has `language_model.json` and goes on with a text, \
         one of series has `series_model.json` and forecasts"
    )]
    OtherModel,
    /// A file of a trained model is not what it should be.
    #[error("cannot be used: {reason}")]
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// The run has more epochs behind it than it is to have in all.
    #[error(
        "cannot end after {epochs} epochs, which is below the {done} epochs it has behind it; ask for {done} or more"
    )]
    EpochsDone {
        /// Epochs asked for.
        epochs: usize,
        /// Epochs finished.
        done: usize,
    },
}

/// What to do where the operating system refused.
fn remedy(action: &str) -> &'static str {
    match action {
        "read" => "check that it is whole and that you may read it",
        _ => "choose a folder that can be written to",
    }
}
