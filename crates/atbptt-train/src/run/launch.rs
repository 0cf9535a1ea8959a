//! The run itself: Burn's training put together, launched, and what it leaves in the folder.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use atbptt_models::RecurrentModel;
use burn::optim::ModuleOptimizer;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::train::{Learner, SupervisedTraining};
use serde::Serialize;

#[cfg(feature = "plot")]
use super::figure;
use super::folder::{SETTINGS, absolute, fault};
use super::lines::{EpochLines, Progress};
use super::stop::Stop;
use super::watch::Watch;
use super::{
    Display, Measures, PolicyConfig, RESULT, Run, RunFault, RunFolder, RunResult, RunSummary,
    cannot_serialize, json, metrics,
};
use crate::TrainError;
use crate::checkpoint::{CheckpointConfig, Identity};
use crate::evaluate::evaluate;
use crate::learner::Tbptt;
use crate::metric_files::metric_files;
use crate::metrics::StepMetric;
use crate::renderer::quiet_renderer;
use crate::source::SequenceSource;
use crate::strategy::{AdaptiveTbptt, OnNonFinite, TbpttConfig, TbpttHandle};
use crate::stream_loader::stream_loader;
use crate::tensorboard::tensorboard_files;

/// The settings of a run whose program has none of its own.
#[derive(Serialize)]
struct OwnSettings<'a> {
    policy: &'a PolicyConfig,
    training: &'a TbpttConfig,
    epochs: usize,
    checkpoint_every: Option<u64>,
    on_non_finite: OnNonFinite,
}

impl<M: RecurrentModel> Run<M> {
    /// Trains in `folder`: from the beginning, or from the checkpoint that the folder was entered with.
    ///
    /// `train` is read in windows; `valid` after every epoch, whole. `learning_rate` is a number or one of Burn's schedulers.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check); [`TrainError::Run`] when the folder cannot be written, or the run has more epochs behind it
    /// than it is to have; whatever ends the training.
    pub fn train(
        mut self,
        folder: &RunFolder,
        model: M,
        train: impl SequenceSource<Batch = M::Batch>,
        valid: impl SequenceSource<Batch = M::Batch>,
        optimizer: ModuleOptimizer,
        learning_rate: impl Into<ModuleLrScheduler>,
    ) -> Result<RunResult<M>, TrainError> {
        self.check(&train)?;
        let resumed = folder.checkpoint().cloned();
        if let Some(checkpoint) = &resumed
            && checkpoint.epochs() > self.epochs
        {
            let (epochs, done) = (self.epochs, checkpoint.epochs());
            return Err(fault(
                checkpoint.path(),
                RunFault::EpochsDone { epochs, done },
            ));
        }
        let settings = match self.settings.take() {
            Some(settings) => settings.map_err(cannot_serialize)?,
            None => json(&self.own_settings(), true)?,
        };
        if resumed.is_none() {
            folder.write(SETTINGS, &settings)?;
        }
        let learning_rate: ModuleLrScheduler = learning_rate.into();
        let checkpoints = CheckpointConfig::new(folder.path());
        let checkpoints = match self.checkpoint_every {
            Some(windows) => checkpoints.every(windows),
            None => checkpoints.every(200).share_of_time(0.05),
        };
        let checkpoints = checkpoints
            .with_identity(self.identify(folder)?)
            .with_settings(settings.clone());
        let signals = Stop::listen(self.signals, &self.interrupter)?;
        let dashboard = self.display == Display::Dashboard && std::io::stdout().is_terminal();
        let lines = self.display != Display::Silent && !dashboard;
        let mut style = match self.loss {
            None => EpochLines::PERPLEXITY,
            Some(_) => EpochLines::LOSS,
        };
        if let Some((header, line)) = self.lines {
            (style.header, style.line) = (header, line);
        }
        let progress = Arc::new(Progress::new(lines, self.epochs, style));
        let mut strategy = AdaptiveTbptt::new(self.policy.init()?, self.training.clone())?
            .with_checkpoints(checkpoints)
            .on_devices(self.devices.clone())?
            .on_non_finite(self.on_non_finite);
        if let Some(measures) = self.all_measures() {
            strategy = strategy.with_measures(measures);
        }
        if let Some(look) = self.look.take() {
            strategy = strategy.after_windows(look);
        }
        if self.new_learning_rate {
            strategy = strategy.with_new_learning_rate();
        }
        if self.more_data {
            strategy = strategy.with_more_data();
        }
        let handle = strategy.handle();
        strategy = strategy.with_observer(Arc::new(Watch {
            progress: progress.clone(),
            folder: folder.clone(),
            handle: handle.clone(),
            settings,
            dashboard: dashboard.then(|| signals.clone()),
            begun: AtomicBool::new(false),
            observer: self.observer.take(),
        }));
        let mut training = self.supervised(folder, train, valid, dashboard);
        if let Some(checkpoint) = resumed {
            if checkpoint.epochs() > 0 {
                training = training.checkpoint(checkpoint.epochs());
            }
            strategy = strategy.resume(checkpoint);
        }
        let training = training.with_training_strategy(strategy.into_strategy());
        let result = training.launch(Learner::new(Tbptt::new(model), optimizer, learning_rate));
        let outcome = handle.finish(&result);
        // The dashboard ends with the renderer in `result`.
        let model = result.model.into_inner();
        drop(result.renderer);
        progress.clear();
        signals.restore_terminal();

        let reports = handle.reports();
        // A checkpoint that does not belong to this run leaves its folder as it was.
        let refused = matches!(&outcome, Err(TrainError::Checkpoint { .. })) && reports.is_empty();
        let written = match refused {
            true => Ok(()),
            false => self.write(folder, &handle),
        };
        // The error that ended the run says more than one of its files.
        outcome?;
        written?;
        progress.worked(&handle.workers());
        if dashboard {
            progress.all(handle.resumed().as_ref(), &reports);
        }
        let interrupted = handle.interrupted();
        let best = RunSummary::of(&reports);
        let weights = best.as_ref().map(|best| (best.best_epoch, best.valid_loss));
        self.write_model(folder, &model, weights)?;
        let summary = best.filter(|_| !interrupted);
        if let Some(summary) = &summary {
            folder.write(RESULT, json(summary, true)?)?;
        }
        Ok(RunResult {
            model,
            reports,
            history: handle.history(),
            resumed: handle.resumed(),
            interrupted,
            summary,
            folder: folder.clone(),
            status: signals.exit_status(),
        })
    }

    fn own_settings(&self) -> OwnSettings<'_> {
        OwnSettings {
            policy: &self.policy,
            training: &self.training,
            epochs: self.epochs,
            checkpoint_every: self.checkpoint_every,
            on_non_finite: self.on_non_finite,
        }
    }

    /// Burn's training, but for the strategy.
    fn supervised(
        &mut self,
        folder: &RunFolder,
        train: impl SequenceSource<Batch = M::Batch>,
        valid: impl SequenceSource<Batch = M::Batch>,
        dashboard: bool,
    ) -> SupervisedTraining<Tbptt<M>> {
        let mut training = SupervisedTraining::new(
            folder.path(),
            stream_loader::<M>(train),
            stream_loader::<M>(valid),
        )
        .with_metric_logger(metric_files(folder.path()))
        .metric_valid_numeric(StepMetric::perplexity())
        .metric_train_numeric(StepMetric::clipped_share())
        .with_interrupter(self.interrupter.clone())
        .num_epochs(self.epochs);
        if self.loss.is_none() {
            training = training
                .metric_train_numeric(StepMetric::perplexity())
                .metric_train_numeric(StepMetric::truncation_length())
                .metric_train_numeric(StepMetric::relative_bias())
                .metric_train_numeric(StepMetric::decay_rate())
                .metric_train_numeric(StepMetric::tokens_per_second());
        }
        if self.tensorboard {
            let before = folder
                .checkpoint()
                .and_then(|checkpoint| checkpoint.reports().last());
            let windows = before.map_or(0, |report| report.step);
            let files = tensorboard_files(folder.path(), windows);
            training = training.with_metric_logger(files);
        }
        if !dashboard {
            training = training.renderer(quiet_renderer());
        }
        match self.configure.take() {
            Some(change) => change(training),
            None => training,
        }
    }

    /// What the run is made of, as far as the strategy does not know it.
    fn identify(&self, folder: &RunFolder) -> Result<Identity, TrainError> {
        let policy = serde_json::to_value(&self.policy).map_err(cannot_serialize)?;
        let mut identity = self.identity.clone();
        let mut settings: Vec<(String, &serde_json::Value)> = policy
            .as_object()
            .into_iter()
            .flatten()
            // The kind of policy is known to the strategy.
            .filter(|(name, _)| *name != "policy")
            .map(|(name, value)| (format!("policy: {}", name.replace('_', " ")), value))
            .collect();
        while let Some((name, value)) = settings.pop() {
            match value.as_object() {
                Some(inner) => {
                    settings.extend(inner.iter().map(|(part, value)| {
                        (format!("{name}, {}", part.replace('_', " ")), value)
                    }))
                }
                None => identity = identity.must_match(name, value),
            }
        }
        Ok(identity
            .may_change("checkpoint every", format!("{:?}", self.checkpoint_every))
            .may_change("on non-finite", format!("{:?}", self.on_non_finite))
            .may_change("run folder", absolute(folder.path()).display()))
    }

    /// The program's measures and those on the test set.
    fn all_measures(&mut self) -> Option<Measures<M>> {
        let (measures, test) = (self.measures.take(), self.test.take());
        let Some(test) = test else { return measures };
        let (chunk, perplexity) = (self.training.eval_chunk, self.loss.is_none());
        Some(Box::new(move |model: &M| {
            let mut all = match &measures {
                Some(measures) => measures(model)?,
                None => BTreeMap::new(),
            };
            let device = model.devices().into_iter().next().unwrap_or_default();
            let loss = evaluate(model, test.as_ref(), chunk, &device)?;
            let mean = loss.sum / loss.count as f64;
            match perplexity {
                true => all.insert("test_perplexity".into(), mean.exp()),
                false => all.insert("test_loss".into(), mean),
            };
            Ok(all)
        }))
    }

    /// Metrics, the history of decisions, and the figure.
    fn write(&self, folder: &RunFolder, handle: &TbpttHandle) -> Result<(), TrainError> {
        folder.write("controller.json", json(&handle.history(), true)?)?;
        let reports = handle.reports();
        if reports.is_empty() {
            return Ok(());
        }
        metrics::write(folder, &reports)?;
        #[cfg(feature = "plot")]
        figure::draw(
            &folder.path().join("report.png"),
            &self.title,
            self.loss.as_deref(),
            &reports,
            handle,
            match &self.policy {
                PolicyConfig::Adaptive(config) => Some(config.delta),
                _ => None,
            },
        )?;
        Ok(())
    }
}
