//! Checkpoints of the loop: written beside Burn's, and read to go on from.

use atbptt_models::RecurrentModel;
use burn::train::EventProcessorTraining;

use super::{Run, Source};
use crate::TrainError;
use crate::checkpoint::LoopState;
use crate::strategy::lock;

impl<M: RecurrentModel> Run<'_, M> {
    /// Continues from the checkpoint of `epoch`; returns the epoch to train next.
    pub(super) fn resume(&mut self, epoch: usize, train: &Source<M>) -> Result<usize, TrainError> {
        self.last_checkpoint = Some(epoch);
        let Some(folder) = &self.strategy.run_folder else {
            log::warn!(
                "no run folder given: weights are resumed, but K and the position in the stream start afresh"
            );
            return Ok(epoch + 1);
        };
        let saved = LoopState::read(folder, epoch)?;
        lock(&self.strategy.shared.policy).restore(saved.policy.clone())?;
        *lock(&self.strategy.shared.reports) = saved.reports.clone();
        self.step = saved.step;
        if saved.complete {
            return Ok(epoch + 1);
        }
        self.cursor = saved.cursor;
        self.sums = saved.partial;
        if saved.has_state() {
            let batch = train.window(0, 1, &self.device)?;
            let model = self.learner.model().into_inner().no_grad();
            let (_, template) = model.forward(&batch, None)?;
            let state = saved.state(template, &self.device);
            self.state = Some(state.ok_or_else(|| TrainError::Checkpoint {
                path: LoopState::path(folder, epoch),
                reason: "the carried state does not fit the model or the batch size".into(),
                remedy: "resume with the sizes the run was started with",
            })?);
        }
        Ok(epoch)
    }

    /// Writes the loop's state, then has Burn write weights, optimiser and scheduler.
    pub(super) fn checkpoint(&mut self, epoch: usize, complete: bool) -> Result<(), TrainError> {
        let Some(checkpointer) = &mut self.parts.checkpointer else {
            return Ok(());
        };
        let flushed = self.parts.event_processor.flush();
        self.parts.interrupter.fail_on_error(flushed);
        if let Some(folder) = &self.strategy.run_folder {
            let policy = lock(&self.strategy.shared.policy).save();
            let reports = lock(&self.strategy.shared.reports).clone();
            LoopState::new(
                epoch,
                complete,
                self.step,
                self.cursor,
                policy,
                self.sums,
                reports,
            )
            .with_state(self.state.as_ref())?
            .write(folder)?;
            LoopState::prune(folder, epoch);
        }
        checkpointer.checkpoint(&self.learner, epoch, &self.parts.event_store);
        self.last_checkpoint = Some(epoch);
        Ok(())
    }
}
