//! The run folder: settings, metrics, the controller's history, figures, the result.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use atbptt::core::Decision;
use atbptt::train::plot::{Line, LinesPanel, lines_figure};
use atbptt::train::{Checkpoint, EpochReport};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Result;
use super::options::Plan;

/// Name of the file of settings.
pub const SETTINGS: &str = "config.json";

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
        // A run that failed before its first epoch was over leaves nothing worth keeping.
        if !Checkpoint::list(&path).is_empty() {
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

    /// The folder of an earlier run, its settings and the checkpoint to go on from.
    pub fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Settings<T>, Checkpoint)> {
        let config = path.join(SETTINGS);
        let text = fs::read_to_string(&config).map_err(|error| {
            format!(
                "cannot read {}: {error}; --resume takes the folder of an earlier run",
                config.display()
            )
        })?;
        let settings = serde_json::from_str(&text).map_err(|error| {
            format!(
                "{} is not a configuration of this program: {error}; start a new run",
                config.display()
            )
        })?;
        let checkpoint = Checkpoint::newest(path)?;
        let path = path.to_owned();
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
        self.write("metrics.jsonl", lines?.join("\n") + "\n")?;
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

    /// The history of decisions, and a figure of the run.
    pub fn write_figures(
        &self,
        title: &str,
        loss: &str,
        reports: &[EpochReport],
        history: &[Decision],
        delta: Option<f64>,
    ) -> Result<()> {
        self.write("controller.json", serde_json::to_string_pretty(history)?)?;
        if reports.is_empty() {
            return Ok(());
        }
        let column = |name: &str, value: &dyn Fn(&EpochReport) -> Option<f64>| Line {
            name: name.into(),
            points: reports
                .iter()
                .map(|report| (report.epoch as f64, value(report).unwrap_or(f64::NAN)))
                .collect(),
            dashed: false,
        };
        let mut bias = vec![column("estimate", &|report| report.relative_bias)];
        if let Some(delta) = delta {
            let mut tolerance = column("tolerance δ", &|_| Some(delta));
            tolerance.dashed = true;
            bias.push(tolerance);
        }
        let measures = reports[0].measures.keys().map(|name| LinesPanel {
            title: name.replace('_', " "),
            x: "epoch".into(),
            lines: vec![column("", &|report| report.measures.get(name).copied())],
        });
        let mut panels = vec![
            LinesPanel {
                title: loss.into(),
                x: "epoch".into(),
                lines: vec![
                    column("train", &|report| Some(report.train_loss)),
                    column("validation", &|report| report.valid_loss),
                ],
            },
            LinesPanel {
                title: "Truncation length K (steps)".into(),
                x: "epoch".into(),
                lines: vec![column("", &|report| Some(report.mean_k))],
            },
            LinesPanel {
                title: "Estimated relative bias δ(K)".into(),
                x: "epoch".into(),
                lines: bias,
            },
        ];
        panels.splice(1..1, measures);
        lines_figure(self.path.join("report.png"), title, &panels)?;
        Ok(())
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
