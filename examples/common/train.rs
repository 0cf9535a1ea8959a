//! One run: Burn's `SupervisedTraining` with the `AdaptiveTbptt` strategy, a run folder around it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atbptt::models::RecurrentModel;
use atbptt::prelude::*;
use atbptt::train::metrics::{
    DecayRateMetric, PerplexityMetric, RelativeBiasMetric, TokensPerSecondMetric, TruncationMetric,
};
use atbptt::train::{
    Checkpoint, CheckpointConfig, FusedSgd, Identity, MetricFiles, QuietRenderer, Resumed,
    StopSignals, TrainingObserver,
};
use burn::train::{Interrupter, Learner, SupervisedTraining};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::diagnostics::diagnose;
use super::figures::Figure;
use super::folder::{RunFolder, RunResult, SETTINGS, Settings};
use super::options::RunArgs;
use super::progress::{Progress, Style};
use super::{Ended, Result, Show, autodiff};

/// What is trained, on what, and how it is judged.
pub struct Task<M: RecurrentModel> {
    /// Name of the run, for figures.
    pub title: String,
    pub figure: Figure,
    /// How epochs are told.
    pub style: Style,
    pub model: M,
    /// What the run is made of.
    pub identity: Identity,
    /// Names of the parts of its state.
    pub parts: Vec<String>,
    pub train: StreamLoader<M::Batch>,
    pub valid: StreamLoader<M::Batch>,
    /// Named numbers after every epoch, such as the test perplexity.
    #[allow(clippy::type_complexity)] // The type is the one of `with_measures`.
    pub measures:
        Box<dyn Fn(&M) -> std::result::Result<BTreeMap<String, f64>, TrainError> + Send + Sync>,
}

/// A run about to begin: a new one, or an earlier one to go on with.
pub struct Start<T> {
    pub settings: Settings<T>,
    checkpoint: Option<Checkpoint>,
    folder: Option<RunFolder>,
}

impl<T: DeserializeOwned> Start<T> {
    /// `options` puts what the user asked for into the settings: those of `new`, or those of the run to go on with. Whether
    /// that can go on with them is checked later.
    pub fn new(
        run: &RunArgs,
        new: impl FnOnce() -> Settings<T>,
        options: impl FnOnce(Settings<T>) -> Settings<T>,
    ) -> Result<Self> {
        let Some(path) = &run.resume else {
            let settings = options(new());
            settings.plan.check()?;
            return Ok(Self {
                settings,
                checkpoint: None,
                folder: None,
            });
        };
        let (checkpoint, settings, home) = RunFolder::find(path)?;
        let settings = options(settings);
        settings.plan.check()?;
        let (epochs, done) = (settings.plan.epochs, checkpoint.epochs());
        if epochs < done {
            return Err(format!(
                "--epochs {epochs} is below the {done} epochs that {} has behind it; give {done} or more",
                checkpoint.path().display()
            )
            .into());
        }
        // Another folder may be asked for.
        let elsewhere = run.out.as_ref().filter(|out| !same(out, home.as_deref()));
        let folder = match (elsewhere, home) {
            (Some(_), _) => None,
            (None, Some(home)) => Some(RunFolder::enter(home, &checkpoint)?),
            (None, None) => {
                return Err(format!(
                    "{} lies in no run's folder; name a new one with --out",
                    checkpoint.path().display()
                )
                .into());
            }
        };
        Ok(Self {
            settings,
            checkpoint: Some(checkpoint),
            folder,
        })
    }

    /// Whether it goes on with an earlier run.
    pub fn is_resumed(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// The folder of the run: made where it is a new one, once there is nothing left that could be wrong with the options.
    pub fn folder(&mut self, run: &RunArgs, program: &str) -> Result<RunFolder> {
        match self.folder.take() {
            Some(folder) => Ok(folder),
            None => RunFolder::create(run.out.as_deref(), program),
        }
    }
}

/// The path from the root, where it can be had.
fn whole(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether both are the same folder.
fn same(out: &Path, home: Option<&Path>) -> bool {
    home.is_some_and(|home| whole(home) == whole(out))
}

/// Trains; returns the result of a complete run. The settings are written once it is clear that they are this run's.
pub fn train<M: RecurrentModel, T: Serialize>(
    task: Task<M>,
    start: Start<T>,
    folder: &RunFolder,
    show: Show,
) -> Result<(Ended, Option<RunResult>)> {
    let plan = &start.settings.plan;
    let settings = serde_json::to_string_pretty(&start.settings)?;
    if start.checkpoint.is_none() {
        folder.write(SETTINGS, &settings)?;
    }
    let identity = task
        .identity
        .may_change("run folder", whole(folder.path()).display());
    let checkpoints = CheckpointConfig::new(folder.path())
        .every(plan.checkpoint_every)
        .with_identity(identity)
        .with_settings(settings.clone());
    let interrupter = Interrupter::new();
    let signals = StopSignals::listen(&interrupter)?;
    let lines = show == Show::Lines;
    let progress = Arc::new(Progress::new(lines, plan.epochs, task.style));
    let strategy = AdaptiveTbptt::new(plan.rule()?, plan.training.clone())?
        .with_checkpoints(checkpoints)
        .on_non_finite(plan.on_non_finite)
        .with_measures(task.measures);
    let handle = strategy.handle();
    let watch = Arc::new(Watch {
        progress: progress.clone(),
        folder: folder.clone(),
        handle: handle.clone(),
        settings,
        dashboard: (show == Show::Dashboard).then(|| signals.clone()),
        begun: AtomicBool::new(false),
    });
    let mut strategy = strategy.with_observer(watch);

    let mut training = SupervisedTraining::new(
        folder.path(),
        task.train.clone().into_loader::<M>(),
        task.valid.into_loader::<M>(),
    )
    .with_metric_logger(MetricFiles::new(folder.path()))
    .metric_valid_numeric(PerplexityMetric::new())
    .with_interrupter(interrupter)
    .num_epochs(plan.epochs);
    if let Figure::Perplexity = task.figure {
        training = training
            .metric_train_numeric(PerplexityMetric::new())
            .metric_train_numeric(TruncationMetric::new())
            .metric_train_numeric(RelativeBiasMetric::new())
            .metric_train_numeric(DecayRateMetric::new())
            .metric_train_numeric(TokensPerSecondMetric::new());
    }
    if show != Show::Dashboard {
        training = training.renderer(Box::new(QuietRenderer));
    }
    if let Some(checkpoint) = start.checkpoint {
        if checkpoint.epochs() > 0 {
            training = training.checkpoint(checkpoint.epochs());
        }
        strategy = strategy.resume(checkpoint);
    }
    let training = training.with_training_strategy(strategy.into_strategy());
    let optimizer = FusedSgd::new().with_weight_decay(plan.weight_decay)?.init();
    let result = training.launch(Learner::new(Tbptt::new(task.model), optimizer, plan.lr));
    let outcome = handle.finish(&result);
    // The dashboard ends with the renderer in `result`.
    let trained = result.model.into_inner();
    drop(result.renderer);
    progress.clear();
    signals.restore_terminal();

    let reports = handle.reports();
    // A checkpoint that does not belong to this run leaves its folder as it was.
    let refused = matches!(&outcome, Err(TrainError::Checkpoint { .. })) && reports.is_empty();
    let written = match refused {
        true => Ok(()),
        false => write(folder, &task.title, task.figure, &handle, plan.delta()),
    };
    // The error that ended the run says more than one of its files.
    outcome?;
    written?;
    if show == Show::Dashboard {
        progress.all(handle.resumed().as_ref(), &reports);
    }
    if handle.interrupted() {
        println!(
            "interrupted; go on with:  --resume {}",
            folder.path().display()
        );
        return Ok((Ended::Interrupted(signals.exit_status().unwrap_or(0)), None));
    }
    if let Some(device) = trained.devices().into_iter().next() {
        // Burn gives the model back in evaluation mode.
        let device = autodiff(device);
        let trained = trained.train();
        diagnose(
            &trained,
            task.train.source(),
            plan,
            folder,
            &task.parts,
            &device,
        )?;
    }
    let result = folder.write_result(&reports)?;
    // Of a run that goes on in another folder, or somebody may have removed it.
    if let Some(epoch) = result.as_ref().map(|result| result.best_epoch)
        && Checkpoint::end_of_epoch(folder.path(), epoch).is_none()
    {
        eprintln!(
            "warning: the checkpoint of epoch {epoch}, the best one, is not in {}",
            folder.path().display()
        );
    }
    Ok((Ended::Complete, result))
}

/// Metrics, the history of decisions, and the figure.
fn write(
    folder: &RunFolder,
    title: &str,
    figure: Figure,
    handle: &TbpttHandle,
    delta: Option<f64>,
) -> Result<()> {
    let history = serde_json::to_string_pretty(&handle.history())?;
    folder.write("controller.json", history)?;
    let reports = handle.reports();
    if !reports.is_empty() {
        folder.write_metrics(&reports)?;
        let path = folder.path().join("report.png");
        figure.draw(&path, title, &reports, handle, delta)?;
    }
    Ok(())
}

/// Shows progress and writes the metrics after every epoch, for who looks into the folder meanwhile.
struct Watch {
    progress: Arc<Progress>,
    folder: RunFolder,
    handle: TbpttHandle,
    settings: String,
    /// Where the dashboard takes Ctrl-C for itself.
    dashboard: Option<StopSignals>,
    begun: AtomicBool,
}

impl TrainingObserver for Watch {
    fn on_resume(&self, resumed: &Resumed) {
        self.progress.resumed(resumed);
        if let Err(error) = self.folder.remove_result() {
            log::warn!("{error}");
        }
        if let Err(error) = self.folder.write(SETTINGS, &self.settings) {
            log::warn!("{error}");
        }
    }

    fn on_window(&self, epoch: usize, paid: usize, total: usize, running_loss: f64) {
        if let (false, Some(signals)) = (self.begun.swap(true, Ordering::Relaxed), &self.dashboard)
        {
            signals.accept_ctrl_c();
        }
        self.progress.window(epoch, paid, total, running_loss);
    }

    fn on_epoch(&self, report: &EpochReport) {
        self.progress.epoch(report);
        if let Err(error) = self.folder.write_metrics(&self.handle.reports()) {
            log::warn!("{error}");
        }
    }
}
