//! Checkpoints of the loop: written, and read to go on from.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use atbptt_models::RecurrentModel;
use burn::data::dataloader::Progress;
use burn::optim::OptimizerRecord;
use burn::optim::lr_scheduler::LrSchedulerRecord;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::store::RecordError;
use burn::train::{EventProcessorTraining, LearnerEvent, TrainingItem};

use super::{Run, Source};
use crate::TrainError;
use crate::checkpoint::{
    Carried, Checkpoint, CheckpointConfig, CheckpointFault, Difference, LoopState, READ_LAST,
    ReadSteps, STEPS, WindowRow, guarded, name_of, prune, remove_temporary,
};
use crate::observer::Resumed;
use crate::output::TbpttOutput;
use crate::strategy::lock;

impl<M: RecurrentModel> Run<'_, M> {
    /// Resumes if asked to, else makes the first checkpoint; returns the epoch to train first.
    pub(super) fn begin(
        &mut self,
        train: &Source<M>,
        starting_epoch: usize,
    ) -> Result<usize, TrainError> {
        self.identity = self.identify(train)?;
        let resumed = lock(&self.strategy.resume).take();
        if let Some(config) = &self.strategy.checkpoints {
            let folder = config.folder();
            std::fs::create_dir_all(&folder).map_err(|cause| TrainError::Checkpoint {
                path: folder.clone(),
                fault: CheckpointFault::Io {
                    action: "created",
                    cause,
                },
                remedy: "choose a run folder that can be written to".into(),
            })?;
            remove_temporary(&folder);
            if resumed.is_none() && !Checkpoint::list(&config.run).is_empty() {
                return Err(TrainError::RunExists {
                    run: config.run.clone(),
                });
            }
        }
        match resumed {
            Some(saved) => self.resume(&saved, train),
            None if self.parts.checkpoint.is_some() => {
                log::warn!(
                    "Burn's checkpoint brings back the weights alone; K and the position in the stream start afresh. \
                     `AdaptiveTbptt::resume` goes on exactly"
                );
                Ok(starting_epoch)
            }
            None => {
                self.checkpoint(0, true)?;
                Ok(starting_epoch)
            }
        }
    }

    /// Goes on from `saved`; returns the epoch to train next.
    fn resume(&mut self, saved: &Checkpoint, train: &Source<M>) -> Result<usize, TrainError> {
        let (mut refused, changes) = saved.identity().differences(&self.identity);
        // More steps may have come, but none can have gone.
        let fewer = |change: &&Difference| {
            let steps = |steps: &Option<String>| steps.as_ref()?.parse::<usize>().ok();
            change.name == STEPS && steps(&change.now) < steps(&change.saved)
        };
        refused.extend(changes.iter().find(fewer).cloned());
        if !refused.is_empty() {
            return Err(saved.fault(CheckpointFault::OtherRun {
                differences: refused,
            }));
        }
        let epoch = self.take_over(saved, train)?;
        if let Some(config) = &self.strategy.checkpoints
            && saved.path().parent() != Some(config.folder().as_path())
        {
            // A new run folder shall stand on its own.
            if let Some(best) = saved.best_beside() {
                copy(&best, config)?;
            }
            self.checkpoint(saved.state.epoch, saved.state.complete)?;
        } else {
            self.last_checkpoint = Some(saved.path().to_owned());
        }
        if let Some(early) = &mut self.parts.early_stopping {
            // Strategies remember the epochs they were asked about.
            for epoch in 1..=saved.epochs().min(self.parts.num_epochs) {
                self.stopped_early = early.should_stop(epoch, &self.parts.event_store);
            }
        }
        let resumed = Resumed {
            path: saved.path().to_owned(),
            epochs: saved.epochs(),
            step: saved.step(),
            changes,
        };
        if let Some(observer) = &self.strategy.observer {
            observer.on_resume(&resumed);
        }
        *lock(&self.strategy.shared.resumed) = Some(resumed);
        Ok(epoch)
    }

    /// Takes everything over from `saved`; returns the epoch to train next.
    pub(super) fn take_over(
        &mut self,
        saved: &Checkpoint,
        train: &Source<M>,
    ) -> Result<usize, TrainError> {
        let state = &saved.state;
        if state.cursor.next_loss > train.common_steps() {
            return Err(saved.fault(CheckpointFault::Malformed {
                reason: "its position lies behind the end of the stream".into(),
            }));
        }
        if saved
            .windows
            .iter()
            .any(|row| row.counted > train.common_steps())
        {
            return Err(saved.fault(CheckpointFault::Malformed {
                reason: "a window lies behind the end of the stream".into(),
            }));
        }
        self.check_what_was_read(saved, train)?;
        // Refuses what does not fit before anything is changed.
        saved.load(self.learner.model())?;
        let faulty = |fault| saved.fault(fault);
        let (optimizer, scheduler) = guarded("optimiser", || {
            let record = |error: RecordError| CheckpointFault::Malformed {
                reason: error.to_string(),
            };
            let optimizer =
                OptimizerRecord::from_bytes(saved.bytes(&saved.optimizer)).map_err(record)?;
            let scheduler =
                LrSchedulerRecord::from_bytes(saved.bytes(&saved.scheduler)).map_err(record)?;
            self.learner.load_model(saved.model_record()?);
            let loaded = (optimizer.len(), format!("{scheduler:?}"));
            self.learner.load_optim(optimizer);
            match self.strategy.new_learning_rate {
                // As if it had been there from the start.
                true => (self.updates..state.updates).for_each(|_| self.learner.lr_step()),
                false => self.learner.load_scheduler(scheduler),
            }
            Ok(loaded)
        })
        .map_err(faulty)?;
        // Burn passes over state that another optimiser or scheduler left.
        let taken = self.capture.take(&self.learner, &self.parts.event_store)?;
        let other = |what, reason: &str| {
            let reason = reason.into();
            saved.fault(CheckpointFault::Mismatch { what, reason })
        };
        if taken.optimizer.len() != optimizer {
            return Err(other("optimiser", "its state is another's"));
        }
        if !self.strategy.new_learning_rate && format!("{:?}", taken.scheduler) != scheduler {
            return Err(other(
                "learning-rate scheduler",
                "its state is another's, and `with_new_learning_rate` was not asked for",
            ));
        }
        self.state = match &saved.carried {
            None => None,
            Some(carried) => {
                let batch = train.window(0, 1, &self.device)?;
                let model = self.learner.model().into_inner().no_grad();
                let (_, template) = model.forward(&batch, None)?;
                let state = carried.state(template, &self.device).ok_or_else(|| {
                    other(
                        "model",
                        "the carried state is of other sizes or another batch",
                    )
                })?;
                Some(match &self.workers {
                    Some(workers) => workers.split(state),
                    None => vec![state],
                })
            }
        };
        self.reading = (state.cursor.next_loss > 0)
            .then(|| train.in_epoch(state.epoch).unwrap_or_else(|| train.clone()));
        lock(&self.strategy.shared.policy).restore(state.policy.clone())?;
        *lock(&self.strategy.shared.reports) = state.reports.clone();
        self.step = state.step;
        self.saved_at = state.step;
        self.cursor = state.cursor;
        self.sums = state.sums;
        self.updates = state.updates;
        self.shrink = state.shrink;
        self.windows = saved.windows.clone();
        Ok(match state.complete {
            true => state.epoch + 1,
            false => state.epoch,
        })
    }

    /// Refuses to go on within an epoch where the steps before the checkpoint's place are not those that were read, or where there
    /// are more steps than before and nobody can tell.
    fn check_what_was_read(&self, saved: &Checkpoint, train: &Source<M>) -> Result<(), TrainError> {
        let state = &saved.state;
        if state.cursor.next_loss == 0 {
            return Ok(());
        }
        let ordered = train.in_epoch(state.epoch);
        let source = ordered.as_ref().unwrap_or(train);
        let (was, now) = match &state.read {
            Some(read) => (
                Some(read.fingerprint.clone()),
                source.fingerprint(read.steps.clone()),
            ),
            None => (None, None),
        };
        let (steps, before) = (
            Some(train.common_steps().to_string()),
            saved.identity().get(STEPS),
        );
        let same = match was.is_some() && now.is_some() {
            true => was == now,
            // The whole may be compared by the program's own means.
            false => before == steps.as_ref(),
        };
        if same {
            return Ok(());
        }
        let short = |hash: Option<String>| hash.map(|hash| hash.chars().take(12).collect());
        Err(saved.fault(CheckpointFault::OtherRun {
            differences: vec![Difference {
                name: READ_LAST.into(),
                saved: short(was),
                now: short(now),
            }],
        }))
    }

    /// The last steps that were read of this epoch.
    fn read_last(&self) -> Option<ReadSteps> {
        const AT_MOST: usize = 64;
        let end = self.cursor.next_loss;
        let steps = end.saturating_sub(AT_MOST)..end;
        let source = self.reading.as_ref().filter(|_| end > 0)?;
        let fingerprint = source.fingerprint(steps.clone())?;
        Some(ReadSteps { steps, fingerprint })
    }

    /// Tells Burn's metrics of the windows that an earlier process trained in this epoch: their values for the epoch, and the
    /// files they write, are then those of a run that never stopped.
    pub(super) fn replay_windows(&mut self, steps: usize) {
        for (index, row) in self.windows.clone().into_iter().enumerate() {
            let WindowRow {
                report,
                lr,
                counted,
            } = row;
            let progress = Progress::new(counted, steps, Some("steps".into()));
            let lr = Some(ModuleLearningRate::from(lr));
            let output = TbpttOutput::replayed(report);
            let item = TrainingItem::new(output, progress, Some(index + 1), lr);
            self.train_event(LearnerEvent::ProcessedItem(item));
        }
    }

    /// Whether a checkpoint is due between two windows of an epoch.
    pub(super) fn checkpoint_due(&self) -> bool {
        let windows = self.step.saturating_sub(self.saved_at);
        let config = self.strategy.checkpoints.as_ref();
        config.is_some_and(|config| config.is_due(windows, self.saved_when, self.save_took))
    }

    /// Keeps a trained epoch whatever validation does: a checkpoint that the one at the end of the epoch takes the place of.
    pub(super) fn save_before_validation(&mut self, epoch: usize) -> Result<(), TrainError> {
        let saved = self.last_checkpoint.is_some() && self.saved_at == self.step;
        if self.strategy.checkpoints.is_none() || saved {
            return Ok(());
        }
        self.checkpoint(epoch, false)?;
        self.before_validation = self.last_checkpoint.clone();
        Ok(())
    }

    /// Writes a checkpoint, and at the end of an epoch has Burn write its own.
    pub(super) fn checkpoint(&mut self, epoch: usize, complete: bool) -> Result<(), TrainError> {
        let flushed = self.parts.event_processor.flush();
        self.parts.interrupter.fail_on_error(flushed);
        if let Some(checkpointer) = &mut self.parts.checkpointer
            && epoch > 0
            && (complete || self.strategy.checkpoints.is_none())
        {
            checkpointer.checkpoint(&self.learner, epoch, &self.parts.event_store);
        }
        let Some(config) = &self.strategy.checkpoints else {
            return Ok(());
        };
        let begin = Instant::now();
        self.check_weights(epoch)?;
        let records = self.capture.take(&self.learner, &self.parts.event_store)?;
        let path = config.folder().join(name_of(epoch, complete, self.step));
        let unusable = |error: RecordError| TrainError::Training {
            reason: format!("weights or optimiser cannot be written: {error}"),
        };
        let state = LoopState {
            epoch,
            complete,
            step: self.step,
            cursor: self.cursor,
            policy: lock(&self.strategy.shared.policy).save(),
            sums: self.sums,
            reports: lock(&self.strategy.shared.reports).clone(),
            updates: self.updates,
            shrink: self.shrink,
            identity: self.identity.clone(),
            read: self.read_last(),
        };
        let carried = self.state.as_deref().map(Carried::new).transpose()?;
        let checkpoint = Checkpoint::new(
            state,
            config.settings.clone(),
            self.windows.clone(),
            carried,
            records.model.into_bytes().map_err(unusable)?.to_vec(),
            records.optimizer.into_bytes().map_err(unusable)?.to_vec(),
            records.scheduler.into_bytes().map_err(unusable)?.to_vec(),
        );
        write_with_folder(&checkpoint, &path).map_err(|fault| TrainError::Checkpoint {
            remedy: self.after_failed_write(),
            path: path.clone(),
            fault,
        })?;
        if complete && let Some(outdated) = self.before_validation.take() {
            // The same weights, without the validation loss: it does not count among those to keep.
            if let Err(error) = std::fs::remove_file(&outdated) {
                log::warn!("the outdated {} stays: {error}", outdated.display());
            }
        }
        prune(config, &path, &checkpoint.state.reports);
        self.saved_at = self.step;
        (self.saved_when, self.save_took) = (Instant::now(), begin.elapsed());
        self.restores = 0;
        self.last_checkpoint = Some(path);
        Ok(())
    }

    fn after_failed_write(&self) -> String {
        let advice = "check free space and write permission of the run folder";
        match &self.last_checkpoint {
            Some(path) if !path.is_file() => {
                format!("the last one, {}, is gone; {advice}", path.display())
            }
            Some(path) => format!(
                "the last good one, {}, is untouched; {advice}",
                path.display()
            ),
            None => format!("nothing was trained yet; {advice}"),
        }
    }
}

/// Writes a checkpoint, also where the folder was removed under the running program: what is lost then is what was in it.
fn write_with_folder(checkpoint: &Checkpoint, path: &Path) -> Result<(), CheckpointFault> {
    // Whoever removes it may not be done yet.
    const ATTEMPTS: usize = 3;
    let gone = |fault: &CheckpointFault| matches!(fault, CheckpointFault::Io { cause, .. } if cause.kind() == ErrorKind::NotFound);
    let mut attempt = 1;
    loop {
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = folder
            .map_err(|cause| CheckpointFault::Io {
                action: "written",
                cause,
            })
            .and_then(|()| checkpoint.write(path));
        match written {
            Err(fault) if gone(&fault) && attempt < ATTEMPTS => attempt += 1,
            written => return written,
        }
    }
}

/// Copies a checkpoint into another run's folder.
fn copy(from: &Path, config: &CheckpointConfig) -> Result<(), TrainError> {
    let Some(name) = from.file_name() else {
        return Ok(());
    };
    let to: PathBuf = config.folder().join(name);
    Checkpoint::open(from)?
        .write(&to)
        .map_err(|fault| TrainError::Checkpoint {
            path: to,
            fault,
            remedy: "check free space and write permission of the run folder".into(),
        })
}
