//! The run folder: settings, metrics, the result.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atbptt::train::{Checkpoint, EpochReport};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Result;
use super::options::Plan;
use super::progress::number;

/// Name of the file of settings.
pub const SETTINGS: &str = "config.json";

/// Name of the file of reports, one line per epoch.
const METRICS: &str = "metrics.jsonl";

/// Name of the file of the outcome.
const RESULT: &str = "result.json";

/// Name of the file that the process at work holds locked. It also tells a run's folder from others.
const LOCK: &str = "run.lock";

/// Where a run keeps its files; held by one process at a time.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked until the last clone is gone; none where the file system has no locks.
    _lock: Option<Arc<File>>,
}

/// Settings of a run as its folder holds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings<T> {
    /// Data and model.
    pub task: T,
    pub plan: Plan,
}

/// The outcome of a run: what a sweep reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Epoch with the lowest validation loss.
    pub best_epoch: usize,
    /// Its validation loss, in nats.
    pub valid_loss: f64,
    /// Its measures, such as `test_perplexity`.
    pub measures: BTreeMap<String, f64>,
    /// Epochs trained.
    pub epochs: usize,
    /// Seconds of training, probes and validation.
    pub seconds: f64,
}

impl RunResult {
    /// A measure in words; a dash where it was not finite.
    pub fn measure(&self, name: &str, digits: usize) -> String {
        number(self.measures.get(name).copied(), digits)
    }
}

impl RunFolder {
    /// A new folder; refuses one that already holds a run, or files of somebody else's.
    pub fn create(out: Option<&Path>, program: &str) -> Result<Self> {
        let Some(path) = out else {
            return Self::numbered(program);
        };
        let holds_a_run = || match path.join(METRICS).exists() || !Checkpoint::list(path).is_empty()
        {
            true => Err(format!(
                "{} already holds a run; go on with it by --resume {0}, or name another folder with --out",
                path.display()
            )),
            false => Ok(()),
        };
        holds_a_run()?;
        fs::create_dir_all(path).map_err(|error| cannot_create(path, &error))?;
        let mut entries = fs::read_dir(path).map_err(|error| cannot_create(path, &error))?;
        if entries.next().is_some() && !path.join(LOCK).exists() {
            return Err(format!(
                "{} holds files that are no run's; name a new folder with --out",
                path.display()
            )
            .into());
        }
        let folder = Self::lock(path.to_owned())?;
        // Another process may have been at it meanwhile.
        holds_a_run()?;
        Ok(folder)
    }

    /// `runs/PROGRAM-1`, or the first number after it that is free.
    fn numbered(program: &str) -> Result<Self> {
        let parent = Path::new("runs");
        fs::create_dir_all(parent).map_err(|error| cannot_create(parent, &error))?;
        for n in 1.. {
            let path = parent.join(format!("{program}-{n}"));
            match fs::create_dir(&path) {
                Ok(()) => return Self::lock(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot_create(&path, &error).into()),
            }
        }
        Err("no free folder name under runs/; name one with --out".into())
    }

    /// Takes the folder for this process.
    fn lock(path: PathBuf) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(|error| {
                format!(
                    "cannot write into {}: {error}; name a writable folder with --out",
                    path.display()
                )
            })?;
        let lock = match file.try_lock() {
            Ok(()) => Some(Arc::new(file)),
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "another process is at work in {}; wait for its end, or name another folder with --out",
                    path.display()
                )
                .into());
            }
            Err(TryLockError::Error(error)) => {
                log::warn!("{} cannot be locked: {error}", path.display());
                None
            }
        };
        Ok(Self { path, _lock: lock })
    }

    /// The folder of an earlier run, to go on in it from `checkpoint`.
    pub fn enter(path: PathBuf, checkpoint: &Checkpoint) -> Result<Self> {
        let folder = Self::lock(path)?;
        match Checkpoint::newest(&folder.path) {
            Ok(newest) if (newest.step(), newest.epochs()) > (checkpoint.step(), checkpoint.epochs()) => Err(format!(
                "{} is not the newest checkpoint of its run, and what came after it would be lost: name a new folder with --out, or go on from {}",
                checkpoint.path().display(),
                newest.path().display()
            )
            .into()),
            _ => Ok(folder),
        }
    }

    /// An earlier run: its checkpoint, the settings it was run with, and its folder, unless the checkpoint lies elsewhere.
    /// `path` is the folder, for the newest checkpoint, or a checkpoint's file.
    pub fn find<T: DeserializeOwned>(
        path: &Path,
    ) -> Result<(Checkpoint, Settings<T>, Option<PathBuf>)> {
        let checkpoint = match path.is_file() {
            true => Checkpoint::open(path)?,
            false => Checkpoint::newest(path).map_err(|error| {
                format!("{error}; --resume takes the folder of an earlier run, or one of its checkpoints")
            })?,
        };
        let settings = serde_json::from_str(checkpoint.settings()).map_err(|error| {
            format!(
                "{} is not of this program: {error}; start a new run",
                checkpoint.path().display()
            )
        })?;
        let run = match path.is_file() {
            true => run_of(path)?,
            false => Some(path.to_owned()),
        };
        Ok((checkpoint, settings, run))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!("{name}.tmp"));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()).into())
    }

    /// A run that goes on is not complete, whatever it once came to.
    pub fn remove_result(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(RESULT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Metrics per epoch, as JSON lines and as CSV.
    pub fn write_metrics(&self, reports: &[EpochReport]) -> Result<()> {
        let lines: std::result::Result<Vec<String>, _> =
            reports.iter().map(serde_json::to_string).collect();
        self.write(METRICS, lines?.join("\n") + "\n")?;
        let mut table = csv::Writer::from_writer(Vec::new());
        let measures: Vec<&String> = reports
            .first()
            .map_or_else(Vec::new, |report| report.measures.keys().collect());
        let columns = [
            "epoch",
            "step",
            "train_loss",
            "valid_loss",
            "k",
            "mean_k",
            "relative_bias",
            "decay",
            "train_seconds",
            "probe_seconds",
            "valid_seconds",
            "elapsed_seconds",
            "reason",
        ];
        table.write_record(
            columns
                .into_iter()
                .chain(measures.iter().map(|name| name.as_str())),
        )?;
        for report in reports {
            let known = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
            let mut row = vec![
                report.epoch.to_string(),
                report.step.to_string(),
                report.train_loss.to_string(),
                known(report.valid_loss),
                report.k.to_string(),
                report.mean_k.to_string(),
                known(report.relative_bias),
                known(report.decay),
                report.train_seconds.to_string(),
                report.probe_seconds.to_string(),
                report.valid_seconds.to_string(),
                report.elapsed_seconds.to_string(),
                report.reason.clone().unwrap_or_default(),
            ];
            row.extend(
                measures
                    .iter()
                    .map(|name| known(report.measures.get(*name).copied())),
            );
            table.write_record(&row)?;
        }
        self.write("metrics.csv", table.into_inner()?)
    }

    /// The outcome at the best validation epoch; written last, so that its presence says the run is complete.
    pub fn write_result(&self, reports: &[EpochReport]) -> Result<Option<RunResult>> {
        let Some(result) = best(reports) else {
            return Ok(None);
        };
        self.write(RESULT, serde_json::to_string_pretty(&result)?)?;
        Ok(Some(result))
    }
}

fn cannot_create(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot create {}: {error}; name a writable folder with --out",
        path.display()
    )
}

/// The folder of the run that a checkpoint's file belongs to: of `run/checkpoint/step-1.ckpt`, `run`.
fn run_of(file: &Path) -> Result<Option<PathBuf>> {
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
        None => Ok(within(&fs::canonicalize(file)?)),
    }
}

/// The outcome at the epoch with the lowest validation loss.
pub fn best(reports: &[EpochReport]) -> Option<RunResult> {
    let (report, valid_loss) = reports
        .iter()
        .filter_map(|report| Some((report, report.valid_loss.filter(|loss| loss.is_finite())?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(RunResult {
        best_epoch: report.epoch,
        valid_loss,
        measures: report.measures.clone(),
        epochs: reports.len(),
        seconds: reports.last().map_or(0.0, |last| last.elapsed_seconds),
    })
}
