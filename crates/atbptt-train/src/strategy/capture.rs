//! Records of a learner's model, optimiser and scheduler.
//!
//! Burn's `Learner` keeps optimiser and scheduler to itself; only its checkpointer gets at their records. So one of these is
//! given places that hand the records over instead of writing them to files.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use atbptt_models::RecurrentModel;
use burn::optim::OptimizerRecord;
use burn::optim::lr_scheduler::LrSchedulerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{
    AsyncCheckpointer, Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction,
    CheckpointingStrategy,
};
use burn::train::metric::store::EventStoreClient;
use burn::train::{Learner, LearningCheckpointer};

use crate::TrainError;
use crate::learner::Tbptt;

/// Hands a record over.
struct Slot<R>(SyncSender<R>);

impl<R: Checkpoint> Checkpointer<R> for Slot<R> {
    fn save(&self, _epoch: usize, record: R) -> Result<(), CheckpointerError> {
        let sent = self.0.send(record);
        sent.map_err(|_| CheckpointerError::Unknown("nobody takes the record".into()))
    }

    fn delete(&self, _epoch: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, _epoch: usize) -> Result<R, CheckpointerError> {
        Err(CheckpointerError::Unknown("nothing is kept here".into()))
    }
}

struct Always;

impl CheckpointingStrategy for Always {
    fn checkpointing(&mut self, _: usize, _: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}

/// Takes the records of a learner.
pub(super) struct Capture<M: RecurrentModel> {
    checkpointer: LearningCheckpointer<Tbptt<M>>,
    model: Receiver<ModuleRecord>,
    optimizer: Receiver<OptimizerRecord>,
    scheduler: Receiver<LrSchedulerRecord>,
}

/// The records of a learner.
pub(super) struct Records {
    pub model: ModuleRecord,
    pub optimizer: OptimizerRecord,
    pub scheduler: LrSchedulerRecord,
}

fn slot<R: Checkpoint>() -> (AsyncCheckpointer<R>, Receiver<R>) {
    let (sender, receiver) = sync_channel(1);
    (AsyncCheckpointer::new(Slot(sender)), receiver)
}

impl<M: RecurrentModel> Capture<M> {
    pub(super) fn new() -> Self {
        let (model_slot, model) = slot();
        let (optimizer_slot, optimizer) = slot();
        let (scheduler_slot, scheduler) = slot();
        Self {
            checkpointer: LearningCheckpointer::new(
                model_slot,
                optimizer_slot,
                scheduler_slot,
                Box::new(Always),
            ),
            model,
            optimizer,
            scheduler,
        }
    }

    pub(super) fn take(
        &mut self,
        learner: &Learner<Tbptt<M>>,
        store: &EventStoreClient,
    ) -> Result<Records, TrainError> {
        let gone = |_| TrainError::Training {
            reason: "the thread that takes a learner's records has ended".into(),
        };
        self.checkpointer.checkpoint(learner, 0, store);
        Ok(Records {
            model: self.model.recv().map_err(gone)?,
            optimizer: self.optimizer.recv().map_err(gone)?,
            scheduler: self.scheduler.recv().map_err(gone)?,
        })
    }
}
