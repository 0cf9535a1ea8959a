//! The run folder: settings, metrics, the result.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use atbptt::train::{Checkpoint, EpochReport};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Result;
use super::options::Plan;

/// Name of the file of settings.
pub const SETTINGS: &str = "config.json";

/// Name of the file of reports, one line per epoch.
const METRICS: &str = "metrics.jsonl";

/// Where a run keeps its files.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
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

impl RunFolder {
    /// A new folder; refuses one that already holds a run.
    pub fn create(out: Option<&Path>, program: &str) -> Result<Self> {
        let path = match out {
            Some(path) => path.to_owned(),
            None => (1..)
                .map(|n| PathBuf::from(format!("runs/{program}-{n}")))
                .find(|path| !path.exists())
                .ok_or("no free folder name under runs/; name one with --out")?,
        };
        if path.join(METRICS).exists() || !Checkpoint::list(&path).is_empty() {
            return Err(format!(
                "{} already holds a run; go on with it by --resume {0}, or name another folder with --out",
                path.display()
            )
            .into());
        }
        fs::create_dir_all(&path).map_err(|error| {
            format!(
                "cannot create {}: {error}; name a writable folder with --out",
                path.display()
            )
        })?;
        Ok(Self { path })
    }

    /// The folder of an earlier run, the settings it was run with, and its checkpoint. `path` is the folder, for the newest
    /// checkpoint, or a checkpoint's file.
    pub fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Settings<T>, Checkpoint)> {
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
        // run/checkpoint/step-1.ckpt
        let run = checkpoint.path().ancestors().nth(2).unwrap_or(path);
        let path = run.to_owned();
        Ok((Self { path }, settings, checkpoint))
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
        self.write("result.json", serde_json::to_string_pretty(&result)?)?;
        Ok(Some(result))
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
