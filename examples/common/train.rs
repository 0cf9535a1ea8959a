//! One run: Burn's `SupervisedTraining` with the `AdaptiveTbptt` strategy, a run folder around it.

use std::collections::BTreeMap;
use std::sync::Arc;

use atbptt::models::RecurrentModel;
use atbptt::prelude::*;
use atbptt::train::metrics::PerplexityMetric;
use atbptt::train::{
    Checkpoint, CheckpointConfig, FusedSgd, Identity, MetricFiles, QuietRenderer, Resumed,
    StopSignals, TrainingObserver,
};
use burn::train::{Interrupter, Learner, SupervisedTraining};
use serde::Serialize;

use super::diagnostics::diagnose;
use super::folder::{RunFolder, RunResult, SETTINGS, Settings};
use super::progress::Progress;
use super::{Ended, Result, autodiff};

/// What is trained, on what, and how it is judged.
pub struct Task<M: RecurrentModel> {
    /// Name of the run, for figures.
    pub title: String,
    /// Name of the loss, for figures.
    pub loss: &'static str,
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

/// Trains; returns the result of a complete run. The settings are written once it is clear that they are this run's.
pub fn train<M: RecurrentModel, T: Serialize>(
    task: Task<M>,
    settings: &Settings<T>,
    folder: &RunFolder,
    resumed: Option<Checkpoint>,
    quiet: bool,
) -> Result<(Ended, Option<RunResult>)> {
    let plan = &settings.plan;
    let settings = serde_json::to_string_pretty(settings)?;
    if resumed.is_none() {
        folder.write(SETTINGS, &settings)?;
    }
    let identity = task
        .identity
        .may_change("run folder", folder.path().display());
    let interrupter = Interrupter::new();
    let signals = StopSignals::listen(&interrupter)?;
    let progress = Arc::new(Progress::new(!quiet, plan.epochs));
    let strategy = AdaptiveTbptt::with_boxed_policy(plan.rule()?, plan.training.clone())?
        .with_checkpoints(CheckpointConfig::new(folder.path()).with_identity(identity))
        .with_measures(task.measures);
    let handle = strategy.handle();
    let written = Arc::new(Written {
        progress: progress.clone(),
        folder: folder.clone(),
        handle: handle.clone(),
        settings,
    });
    let mut strategy = strategy.with_observer(written);

    let mut training = SupervisedTraining::new(
        folder.path(),
        task.train.clone().into_loader::<M>(),
        task.valid.into_loader::<M>(),
    )
    .with_metric_logger(MetricFiles::new(folder.path()))
    .metric_valid_numeric(PerplexityMetric::new())
    .with_interrupter(interrupter)
    .renderer(Box::new(QuietRenderer))
    .num_epochs(plan.epochs);
    if let Some(checkpoint) = resumed {
        if checkpoint.epochs() > 0 {
            training = training.checkpoint(checkpoint.epochs());
        }
        strategy = strategy.resume(checkpoint);
    }
    let training = training.with_training_strategy(strategy.into_strategy());
    let optimizer = FusedSgd::new().with_weight_decay(plan.weight_decay)?.init();
    let result = training.launch(Learner::new(Tbptt::new(task.model), optimizer, plan.lr));
    let outcome = handle.finish(&result);
    let trained = result.model.into_inner();
    progress.clear();

    let reports = handle.reports();
    // A checkpoint that does not belong to this run leaves its folder as it was.
    if matches!(&outcome, Err(TrainError::Checkpoint { .. })) && reports.is_empty() {
        return outcome
            .map(|()| (Ended::Complete, None))
            .map_err(Into::into);
    }
    if !reports.is_empty() {
        folder.write_metrics(&reports)?;
    }
    folder.write_figures(
        &task.title,
        task.loss,
        &reports,
        &handle.history(),
        plan.delta(),
    )?;
    outcome?;
    if let Some(status) = signals.exit_status() {
        println!(
            "interrupted; go on with:  --resume {}",
            folder.path().display()
        );
        return Ok((Ended::Interrupted(status), None));
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
    Ok((Ended::Complete, folder.write_result(&reports)?))
}

/// Shows progress and writes the metrics after every epoch, for who looks into the folder meanwhile.
struct Written {
    progress: Arc<Progress>,
    folder: RunFolder,
    handle: TbpttHandle,
    settings: String,
}

impl TrainingObserver for Written {
    fn on_resume(&self, resumed: &Resumed) {
        self.progress.resumed(resumed);
        if let Err(error) = self.folder.write(SETTINGS, &self.settings) {
            log::warn!("{error}");
        }
    }

    fn on_window(&self, epoch: usize, paid: usize, total: usize, running_loss: f64) {
        self.progress.window(epoch, paid, total, running_loss);
    }

    fn on_epoch(&self, report: &EpochReport) {
        self.progress.epoch(report);
        if let Err(error) = self.folder.write_metrics(&self.handle.reports()) {
            log::warn!("{error}");
        }
    }
}
