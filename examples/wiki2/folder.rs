//! The run folder: settings, metrics, the controller's history, figures.

use std::fs;
use std::path::{Path, PathBuf};

use atbptt::core::{BiasEstimate, Decision};
use atbptt::train::plot::{EpochRow, LagProfileFigure, report_figure};
use atbptt::train::{Checkpoint, EpochReport};

use super::options::outcome::Result;
use super::options::{PROGRAM, Settings};

/// Where a run keeps its files.
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A new folder; refuses one that already holds a run.
    pub fn create(out: Option<&Path>) -> Result<Self> {
        let path = match out {
            Some(path) => path.to_owned(),
            None => (1..)
                .map(|n| PathBuf::from(format!("runs/{PROGRAM}-{n}")))
                .find(|path| !path.exists())
                .ok_or("no free folder name under runs/; name one with --out")?,
        };
        if path.join("metrics.jsonl").exists() || !Checkpoint::list(&path).is_empty() {
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

    /// The folder of an earlier run, its checkpoint, and the settings it was run with. `path` is the folder, for the newest
    /// checkpoint, or a checkpoint's file.
    pub fn open(path: &Path) -> Result<(Self, Checkpoint, Settings)> {
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
        let folder = Self {
            path: run.to_owned(),
        };
        Ok((folder, checkpoint, settings))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()).into())
    }

    /// The outcome at the best validation epoch, as sweeps read it; written last.
    pub fn write_result(&self, reports: &[EpochReport], best: &EpochReport) -> Result<()> {
        let result = serde_json::json!({
            "best_epoch": best.epoch,
            "valid_loss": best.valid_loss,
            "measures": best.measures,
            "epochs": reports.len(),
            "seconds": reports.last().map(|last| last.elapsed_seconds),
        });
        self.write("result.json", &serde_json::to_string_pretty(&result)?)
    }

    pub fn write_settings(&self, settings: &Settings) -> Result<()> {
        self.write("config.json", &serde_json::to_string_pretty(settings)?)
    }

    /// Metrics per epoch as JSON lines, decisions as JSON, and the figure.
    pub fn write_results(
        &self,
        reports: &[EpochReport],
        history: &[Decision],
        estimate: Option<&BiasEstimate>,
        delta: Option<f64>,
    ) -> Result<Option<PathBuf>> {
        if reports.is_empty() {
            return Ok(None);
        }
        let lines: std::result::Result<Vec<String>, _> =
            reports.iter().map(serde_json::to_string).collect();
        self.write("metrics.jsonl", &(lines?.join("\n") + "\n"))?;
        self.write("controller.json", &serde_json::to_string_pretty(history)?)?;
        let path = self.path.join("report.png");
        let rows: Vec<EpochRow> = reports.iter().map(row).collect();
        match estimate {
            Some(estimate) => {
                let k = reports.last().map_or(0, |report| report.k);
                let curve = estimate.relative_bias_curve();
                let bias: Vec<(usize, f64)> = curve.into_iter().enumerate().skip(1).collect();
                let mean: Vec<f64> = estimate.profile().phi().to_vec();
                let beta = estimate.beta();
                let title = format!(
                    "Lag profile of the last estimate ({} lags, {})",
                    estimate.window(),
                    match beta < 1.0 {
                        true => format!("half-life {:.1} steps", -(2f64.ln()) / beta.ln()),
                        false => "no decay".into(),
                    },
                );
                let figure = LagProfileFigure {
                    title: &title,
                    mean: &mean,
                    sequences: &[],
                    tau: estimate.tau(),
                    beta: beta.is_finite().then_some(beta),
                    bias: &bias,
                    delta: delta.unwrap_or(f64::NAN),
                    k,
                };
                report_figure(&path, &rows, delta, Some(&figure))?;
            }
            None => report_figure(&path, &rows, delta, None)?,
        }
        Ok(Some(path))
    }
}

fn row(report: &EpochReport) -> EpochRow {
    EpochRow {
        epoch: report.epoch,
        train_perplexity: report.train_perplexity,
        valid_perplexity: report.valid_perplexity.unwrap_or(f64::NAN),
        k: report.k as f64,
        relative_bias: report.relative_bias.unwrap_or(f64::NAN),
    }
}
