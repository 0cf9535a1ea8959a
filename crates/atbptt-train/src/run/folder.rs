//! The run folder, and how an earlier run is found and entered again.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::RunFault;
use crate::TrainError;
use crate::checkpoint::Checkpoint;
use crate::files;

/// Settings of the run, as JSON.
pub(super) const SETTINGS: &str = "config.json";
/// Reports, one line of JSON per epoch.
pub(super) const METRICS: &str = "metrics.jsonl";
/// Held locked by the process at work. It also tells a run's folder from others.
const LOCK: &str = "run.lock";

/// Where a run keeps its files, held by one process at a time: locked until the last clone is gone.
///
/// ```text
/// config.json        settings of the run           checkpoint/    what a run goes on from
/// metrics.jsonl      one report per epoch          train/ valid/  Burn's metrics, one value per window
/// metrics.csv        the same as a table           report.png     the figure (feature `plot`)
/// controller.json    decisions about K             result.json    the best epoch, once the run is complete
/// model/             the trained model: `TrainedModel`
/// ```
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// What the run goes on from.
    checkpoint: Option<Arc<Checkpoint>>,
    /// None where the file system has no locks.
    _lock: Option<Arc<File>>,
}

impl RunFolder {
    /// A new run's folder. It is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when it holds a run or files of somebody else's, another process is at work in it, or it cannot
    /// be made.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, TrainError> {
        let path = path.as_ref();
        refuse_a_run(path)?;
        fs::create_dir_all(path).map_err(cannot("created", path))?;
        let mut entries = fs::read_dir(path).map_err(cannot("read", path))?;
        if entries.next().is_some() && !path.join(LOCK).exists() {
            return Err(fault(path, RunFault::ForeignFiles));
        }
        let folder = Self::lock(path)?;
        // Another process may have been at it meanwhile.
        refuse_a_run(path)?;
        Ok(folder)
    }

    /// A new run's folder `parent/name-1`, or with the first number after it that is free.
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when it cannot be made.
    pub fn numbered(parent: impl AsRef<Path>, name: &str) -> Result<Self, TrainError> {
        let parent = parent.as_ref();
        fs::create_dir_all(parent).map_err(cannot("created", parent))?;
        for n in 1..u32::MAX {
            let path = parent.join(format!("{name}-{n}"));
            match fs::create_dir(&path) {
                Ok(()) => return Self::lock(&path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot("created", &path)(error)),
            }
        }
        Err(fault(&parent.join(name), RunFault::NoNumber))
    }

    /// The folder of an earlier run, to go on with it from its newest checkpoint: short for [`Checkpoint::find`] and
    /// [`RunFolder::go_on`].
    ///
    /// # Errors
    ///
    /// As these.
    pub fn resume(path: impl AsRef<Path>) -> Result<Self, TrainError> {
        Self::go_on(Checkpoint::find(path)?)
    }

    /// The folder of the run that a checkpoint is of, to go on from it there. A program looks at the checkpoint's settings before it
    /// sets the run up again:
    ///
    /// ```no_run
    /// use atbptt_train::Checkpoint;
    /// use atbptt_train::run::RunFolder;
    /// # use serde::Deserialize;
    ///
    /// # #[derive(Deserialize)]
    /// # struct Settings { hidden: usize }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let checkpoint = Checkpoint::find("runs/first-1")?;
    /// let settings: Settings = checkpoint.settings_as()?;
    /// // … data and model by these settings …
    /// let folder = RunFolder::go_on(checkpoint)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when another process is at work in it, when the checkpoint is not its newest one, whose successors
    /// would be lost, or lies in no run's folder.
    pub fn go_on(checkpoint: Checkpoint) -> Result<Self, TrainError> {
        let Some(home) = run_of(checkpoint.path())? else {
            return Err(fault(checkpoint.path(), RunFault::NoHome));
        };
        let folder = Self::lock(&home)?;
        match Checkpoint::newest(&home) {
            Ok(newest)
                if (newest.step(), newest.epochs()) > (checkpoint.step(), checkpoint.epochs()) =>
            {
                let newest = newest.path().to_owned();
                Err(fault(checkpoint.path(), RunFault::NotNewest { newest }))
            }
            _ => Ok(Self {
                checkpoint: Some(Arc::new(checkpoint)),
                ..folder
            }),
        }
    }

    /// Another folder, which is made, to go on in from a checkpoint; the earlier run stays as it is. Given the run's own folder, as
    /// [`go_on`](Self::go_on).
    ///
    /// # Errors
    ///
    /// As [`RunFolder::create`].
    pub fn go_on_in(folder: impl AsRef<Path>, checkpoint: Checkpoint) -> Result<Self, TrainError> {
        let home = run_of(checkpoint.path())?;
        if home.is_some_and(|home| absolute(&home) == absolute(folder.as_ref())) {
            return Self::go_on(checkpoint);
        }
        Ok(Self {
            checkpoint: Some(Arc::new(checkpoint)),
            ..Self::create(folder)?
        })
    }

    /// Takes the folder for this process.
    fn lock(path: &Path) -> Result<Self, TrainError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(cannot("written", path))?;
        let lock = match file.try_lock() {
            Ok(()) => Some(Arc::new(file)),
            Err(TryLockError::WouldBlock) => return Err(fault(path, RunFault::InUse)),
            Err(TryLockError::Error(error)) => {
                log::warn!("{} cannot be locked: {error}", path.display());
                None
            }
        };
        Ok(Self {
            path: path.to_owned(),
            checkpoint: None,
            _lock: lock,
        })
    }

    /// The folder's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run goes on from; `None` for a new run.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_deref()
    }

    /// Writes a file into the folder, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when it cannot be written.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<(), TrainError> {
        let path = self.path.join(name);
        files::write(&path, bytes.as_ref()).map_err(cannot("written", &path))
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), TrainError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(cannot("written", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Checkpoint {
    /// The newest checkpoint of a run's folder, or the one whose file is given.
    ///
    /// # Errors
    ///
    /// [`TrainError::NoCheckpoint`], and [`TrainError::Checkpoint`] for one that is not whole.
    pub fn find(path: impl AsRef<Path>) -> Result<Self, TrainError> {
        match path.as_ref().is_file() {
            true => Self::open(path),
            false => Self::newest(path),
        }
    }

    /// The settings given to [`Run::with_settings`](super::Run::with_settings).
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when they are another program's.
    pub fn settings_as<S: DeserializeOwned>(&self) -> Result<S, TrainError> {
        serde_json::from_str(self.settings()).map_err(|error| {
            let reason = crate::data::beginning(&error.to_string());
            fault(self.path(), RunFault::Settings { reason })
        })
    }
}

/// The path from the root, where it can be had.
pub(super) fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn refuse_a_run(path: &Path) -> Result<(), TrainError> {
    match path.join(METRICS).exists() || !Checkpoint::list(path).is_empty() {
        true => Err(fault(path, RunFault::HoldsRun)),
        false => Ok(()),
    }
}

/// The folder of the run that a checkpoint's file belongs to: of `run/checkpoint/step-1.ckpt`, `run`.
fn run_of(file: &Path) -> Result<Option<PathBuf>, TrainError> {
    let within = |file: &Path| {
        let folder = file
            .parent()
            .filter(|folder| folder.ends_with("checkpoint"))?;
        folder
            .parent()
            .filter(|run| !run.as_os_str().is_empty())
            .map(Path::to_owned)
    };
    match within(file) {
        Some(run) => Ok(Some(run)),
        // Named from within the run's folder.
        None => {
            let whole = fs::canonicalize(file).map_err(cannot("read", file))?;
            Ok(within(&whole))
        }
    }
}

pub(super) fn fault(path: &Path, fault: RunFault) -> TrainError {
    TrainError::Run {
        path: path.to_owned(),
        fault,
    }
}

pub(super) fn cannot(
    action: &'static str,
    path: &Path,
) -> impl Fn(io::Error) -> TrainError + use<> {
    let path = path.to_owned();
    move |cause| fault(&path, RunFault::Io { action, cause })
}
