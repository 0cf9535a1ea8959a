//! The loop itself: epochs, one after the other.

mod identity;
#[cfg(feature = "remote")]
mod lost;
mod probes;
mod saved;
mod shared;
mod trouble;
mod valid;
mod window;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atbptt_models::{ModelError, RecurrentModel, check_pieces};
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::tensor::Device;
use burn::train::{
    EventProcessorTraining, Learner, LearnerEvent, SupervisedTrainingEventProcessor, TrainLoader,
    TrainingComponents, ValidLoader,
};

use super::capture::Capture;
use super::{AdaptiveTbptt, WindowPlace, lock};
use crate::TrainError;
use crate::checkpoint::{EpochSums, Identity, WindowRow};
use crate::cursor::Cursor;
use crate::device::{NamedDevice, check_device};
use crate::learner::{Tbptt, TbpttInput};
use crate::output::TbpttOutput;
use crate::source::SequenceSource;
use crate::step::Accumulation;
use crate::workers::Workers;

type Source<M> = Arc<dyn SequenceSource<Batch = <M as RecurrentModel>::Batch>>;

/// One training run.
pub(super) struct Run<'a, M: RecurrentModel> {
    strategy: &'a AdaptiveTbptt,
    parts: TrainingComponents<Tbptt<M>>,
    learner: Learner<Tbptt<M>>,
    device: Device,
    /// Where workers train; empty where one device does and is of this process.
    named: Vec<NamedDevice>,
    /// Windows since the start of the run.
    step: u64,
    cursor: Cursor,
    /// The carried state, each worker's part on its device; of one device, the whole.
    state: Option<Vec<M::State>>,
    /// Where several devices share the run.
    workers: Option<Workers<M>>,
    /// Seconds of windows and probes in this process.
    seconds: f64,
    sums: EpochSums,
    /// Windows of the epoch so far.
    windows: Vec<WindowRow>,
    /// Updates since the start of the run: steps of the learner's scheduler.
    updates: u64,
    /// Factor on the step size, below one after values that were not finite.
    shrink: f64,
    /// Factor on the step size in this epoch, from the validation losses of those before it.
    plateau: f64,
    capture: Capture<M>,
    identity: Identity,
    /// What this epoch reads.
    reading: Option<Source<M>>,
    /// The newest checkpoint that was written or resumed from, and the step it stands at.
    last_checkpoint: Option<PathBuf>,
    saved_at: u64,
    /// When that was, and how long it took to write.
    saved_when: Instant,
    save_took: Duration,
    /// The checkpoint that keeps a trained epoch while it is validated.
    before_validation: Option<PathBuf>,
    /// Restarts from the last checkpoint.
    restores: u32,
    /// Whether early stopping ended the run that was resumed.
    stopped_early: bool,
}

impl<'a, M: RecurrentModel> Run<'a, M> {
    pub(super) fn new(
        strategy: &'a AdaptiveTbptt,
        parts: TrainingComponents<Tbptt<M>>,
        mut learner: Learner<Tbptt<M>>,
    ) -> Self {
        let device = match strategy.devices.first() {
            Some(first) => first.device.clone().autodiff(),
            None => {
                let devices = learner.model().devices();
                devices.into_iter().next().unwrap_or_default().autodiff()
            }
        };
        learner.fork(&device);
        let named = match strategy.devices.is_empty() {
            true => vec![NamedDevice::from(device.clone())],
            false => strategy.devices.clone(),
        };
        // A device of another process fails as a worker's does.
        let shared = named.len() > 1 || named.iter().any(NamedDevice::is_remote);
        Self {
            strategy,
            parts,
            learner,
            device,
            named: if shared { named } else { Vec::new() },
            step: 0,
            cursor: Cursor::default(),
            state: None,
            workers: None,
            seconds: 0.0,
            sums: EpochSums::default(),
            windows: Vec::new(),
            updates: 0,
            shrink: 1.0,
            plateau: 1.0,
            capture: Capture::new(),
            identity: Identity::new(),
            reading: None,
            last_checkpoint: None,
            saved_at: 0,
            saved_when: Instant::now(),
            save_took: Duration::ZERO,
            before_validation: None,
            restores: 0,
            stopped_early: false,
        }
    }

    pub(super) fn finish(self) -> (Tbptt<M>, SupervisedTrainingEventProcessor<Tbptt<M>>) {
        (self.learner.model(), self.parts.event_processor)
    }

    /// All epochs, to their end or an error that names its cause.
    pub(super) fn train_to_end(
        &mut self,
        train: TrainLoader<Tbptt<M>>,
        valid: ValidLoader<Tbptt<M>>,
        starting_epoch: usize,
    ) -> Result<(), TrainError> {
        #[cfg(feature = "remote")]
        if self.named.iter().any(NamedDevice::is_remote) {
            return self.train_on_servers(train, valid, starting_epoch);
        }
        self.train(train, valid, starting_epoch)
    }

    /// All epochs.
    fn train(
        &mut self,
        train: TrainLoader<Tbptt<M>>,
        valid: ValidLoader<Tbptt<M>>,
        starting_epoch: usize,
    ) -> Result<(), TrainError> {
        let train = stream::<M>(&train, "training")?;
        let valid = stream::<M>(&valid, "validation")?;
        check_device(&self.device)?;
        {
            let policy = lock(&self.strategy.shared.policy);
            let config = &self.strategy.config;
            config.check_stream(&*policy, train.common_steps())?;
        }
        if train.active(train.common_steps()) > 0 {
            log::warn!(
                "training reads the {} steps that all sequences have, and some are longer; `PackedSource` uses them whole",
                train.common_steps()
            );
        }
        self.check_model(&train)?;
        if !self.named.is_empty() {
            let mut workers = Workers::new(&self.named, train.sequences())?;
            // Refused before anything is trained.
            workers.share_out(&train)?;
            self.workers = Some(workers);
            self.tell_of_workers();
            if let Some(observer) = &self.strategy.observer {
                observer.on_workers(&lock(&self.strategy.shared.workers));
            }
        }

        let mut epoch = self.begin(&train, starting_epoch)?;
        while epoch <= self.parts.num_epochs && !self.stopped_early {
            let ordered = train.in_epoch(epoch).unwrap_or_else(|| train.clone());
            self.reading = Some(ordered.clone());
            self.train_epoch(epoch, &ordered)?;
            if self.interrupted(epoch)? {
                break;
            }
            self.save_before_validation(epoch)?;
            let (loss, seconds) = self.valid_epoch(epoch, &valid)?;
            if self.interrupted(epoch)? {
                break;
            }
            self.report(epoch, loss, seconds)?;
            self.cursor = Cursor::default();
            self.state = None;
            self.sums = EpochSums::default();
            self.windows.clear();
            self.checkpoint(epoch, true)?;
            let store = &self.parts.event_store;
            if let Some(early) = &mut self.parts.early_stopping
                && early.should_stop(epoch, store)
            {
                break;
            }
            epoch += 1;
        }
        Ok(())
    }

    /// Whether the run is to stop; then, unless an error stopped it, its place is saved.
    fn interrupted(&mut self, epoch: usize) -> Result<bool, TrainError> {
        let stop = self.parts.interrupter.should_stop();
        if stop && self.parts.interrupter.error().is_none() {
            self.checkpoint(epoch, false)?;
            // Burn's dashboard forgets the interruption when it closes.
            *lock(&self.strategy.shared.interrupted) = true;
        }
        Ok(stop)
    }

    /// Refuses a model that breaks a rule, on the first steps of the stream; by the model in evaluation mode, so that no random
    /// draw is spent.
    fn check_model(&self, train: &Source<M>) -> Result<(), TrainError> {
        const STEPS: usize = 8;
        let steps = train.common_steps().min(STEPS);
        if !self.strategy.check_model || steps < 2 {
            return Ok(());
        }
        let device = self.device.clone().inner();
        let batch = train.window(0, steps, &device)?;
        let model = self.learner.model().valid().into_inner();
        let failed = |error: ModelError| match error {
            broken @ ModelError::Rules { .. } => broken.into(),
            error => {
                let k = lock(&self.strategy.shared.policy).k();
                TrainError::from(error).in_window("check of the model", steps, train.sequences(), k)
            }
        };
        for sentence in check_pieces(&model, &batch).map_err(failed)? {
            log::debug!("not checked: {sentence}");
        }
        Ok(())
    }

    /// One pass over the training stream, or the rest of one.
    fn train_epoch(&mut self, epoch: usize, source: &Source<M>) -> Result<(), TrainError> {
        let steps = source.common_steps();
        if let Some(workers) = &mut self.workers {
            workers.share_out(source)?;
        }
        self.train_event(LearnerEvent::StartSplit {
            epoch_number: epoch,
            total_items: steps,
        });
        self.replay_windows(steps);
        self.plateau = {
            let reports = lock(&self.strategy.shared.reports);
            let losses = reports.iter().filter_map(|report| report.valid_loss);
            self.strategy.config.schedule.plateau_factor(losses)
        };
        let mut accumulated = Accumulation::new();
        while self.cursor.next_loss < steps {
            self.run_probes(epoch, source)?;
            self.train_window(epoch, source, &mut accumulated)?;
            self.look(epoch)?;
            // Between updates, so that accumulated gradients are not lost.
            if accumulated.windows() == 0 {
                if self.parts.interrupter.should_stop() {
                    break;
                }
                if self.checkpoint_due() {
                    self.checkpoint(epoch, false)?;
                }
            }
        }
        // The window that should have completed them was left out.
        if accumulated.windows() > 0 {
            let update = accumulated.take(&self.learner.model());
            let taken = self.update(update);
            self.sums.skipped += usize::from(!taken);
        }
        self.train_event(LearnerEvent::EndSplit(epoch));
        Ok(())
    }

    /// Shows the model to who wants to see it.
    fn look(&self, epoch: usize) -> Result<(), TrainError> {
        let place = WindowPlace {
            epoch,
            window: self.step,
            counted: self.cursor.next_loss,
        };
        let model = || self.learner.model().valid().into_inner();
        self.strategy.look(model, place)
    }

    /// Brings up to date what the handle says of the workers.
    fn tell_of_workers(&self) {
        if let Some(workers) = &self.workers {
            *lock(&self.strategy.shared.workers) = workers.reports(self.seconds);
        }
    }

    fn train_event(&mut self, event: LearnerEvent<TbpttOutput<M>>) {
        let result = self.parts.event_processor.process_train(event);
        self.parts.interrupter.fail_on_error(result);
    }

    fn valid_event(&mut self, event: LearnerEvent<TbpttOutput<M>>) {
        let result = self.parts.event_processor.process_valid(event);
        self.parts.interrupter.fail_on_error(result);
    }
}

/// The stream behind a data loader.
fn stream<M: RecurrentModel>(
    loader: &Arc<dyn DataLoader<TbpttInput<M>>>,
    split: &'static str,
) -> Result<Source<M>, TrainError> {
    match loader.iter().next() {
        Some(Ok(TbpttInput::Stream(source))) if source.sequences() > 0 => Ok(source),
        _ => Err(TrainError::NoStream { split }),
    }
}

/// What a seed is drawn for.
#[derive(Clone, Copy)]
enum Draw {
    Dropout,
    Probe(u64),
    Windows,
}

/// A seed of its own for every draw of a run: a resumed run draws what the uninterrupted one would have.
fn mix(seed: u64, step: u64, draw: Draw) -> u64 {
    let purpose = match draw {
        Draw::Dropout => 0,
        Draw::Probe(index) => index + 1,
        Draw::Windows => u64::MAX,
    };
    atbptt_core::seed::mix(seed, [step, purpose])
}
