//! One window: forward and backward pass, what it adds to the sums of the epoch, and the update that it completes.

use std::time::Instant;

use atbptt_models::{RecurrentModel, StepLoss};
use burn::data::dataloader::Progress;
use burn::optim::GradientsParams;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::train::{LearnerEvent, TrainingItem};

use super::trouble::NonFinite;
use super::{Draw, Run, Source, mix};
use crate::TrainError;
use crate::checkpoint::WindowRow;
use crate::cursor::WindowSpan;
use crate::learner::{Tbptt, TbpttInput};
use crate::output::{StepReport, TbpttOutput};
use crate::step::{self, Accumulation};
use crate::strategy::{OnNonFinite, lock};
use crate::workers::Span;

impl<M: RecurrentModel> Run<'_, M> {
    /// One window: its gradient is added to those `accumulated`, or makes an update with them.
    pub(super) fn train_window(
        &mut self,
        epoch: usize,
        source: &Source<M>,
        accumulated: &mut Accumulation<Tbptt<M>>,
    ) -> Result<(), TrainError> {
        let steps = source.common_steps();
        let scheme = self.strategy.config.scheme;
        let next = lock(&self.strategy.shared.policy).next_window();
        let (k, typical_k) = (next.k, next.typical_k);
        let Some(span) = self.cursor.window(scheme, k, typical_k, steps) else {
            self.cursor.next_loss = steps;
            return Ok(());
        };
        let started = Instant::now();
        let failed =
            |error: TrainError| error.in_window("training window", span.len, source.sequences(), k);
        let (mut output, loss, mut grads) = self
            .window(&span, source, next.compensation)
            .map_err(failed)?;
        let (loss, count) = (loss.sum, loss.count);
        if count == 0 {
            // Nothing to learn from; the state has moved on.
            self.step += 1;
            self.cursor = span.next;
            self.sums.without_target += 1;
            self.sums.train_seconds += started.elapsed().as_secs_f64();
            return Ok(());
        }
        let model = self.learner.model();
        let (loss, norm) = step::read_loss_and_norm(&model, loss, &grads).map_err(failed)?;
        if let Some(found) = NonFinite::find(loss, norm) {
            drop(model);
            self.handle_non_finite(found, epoch, k, &span, source)?;
            if self.strategy.on_non_finite == OnNonFinite::Restore {
                *accumulated = Accumulation::new();
            }
            return Ok(());
        }
        let limit = self.strategy.config.clip.limit(typical_k);
        let clipped = step::clip(&model, &mut grads, norm, limit);
        // The mean over fewer losses, at the end of the stream, is worth a shorter step.
        let share = span.loss_steps() as f64 / scheme.losses(k).max(1) as f64;
        let scaling = self.strategy.config.step_scaling.factor(typical_k);
        let scheduled = self
            .strategy
            .config
            .schedule
            .factor(self.position(epoch, steps));
        let factor = scaling * next.step_scale * share * scheduled * self.plateau * self.shrink;
        accumulated.add(&model, grads, norm.min(limit), factor);
        let last = span.next.next_loss >= steps;
        let every = self.parts.grad_accumulation.unwrap_or(1);
        let update = (accumulated.windows() >= every || last).then(|| accumulated.take(&model));
        drop(model);
        if let Some(update) = update
            && !self.update(update)
        {
            let found = NonFinite::weights();
            return self.handle_non_finite(found, epoch, k, &span, source);
        }
        let seconds = started.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.tell_of_workers();
        self.step += 1;
        self.cursor = span.next;
        output.report = self.account(StepReport {
            loss_sum: loss,
            count,
            k,
            clipped,
            seconds,
            ..StepReport::default()
        });
        if let Some(observer) = &self.strategy.observer {
            let running = self.sums.loss / self.sums.tokens as f64;
            let sequences = source.sequences();
            observer.on_window(
                epoch,
                self.cursor.next_loss * sequences,
                steps * sequences,
                running,
            );
        }
        let progress = Progress::new(self.cursor.next_loss, steps, Some("steps".into()));
        let lr = self.learner.lr_current().base() * factor;
        self.windows.push(WindowRow {
            report: output.report,
            lr,
            counted: self.cursor.next_loss,
        });
        let lr = Some(ModuleLearningRate::from(lr));
        let item = TrainingItem::new(output, progress, Some(self.windows.len()), lr);
        self.train_event(LearnerEvent::ProcessedItem(item));
        Ok(())
    }

    /// How far training has come, in epochs: between two windows, a fraction.
    fn position(&self, epoch: usize, steps: usize) -> f64 {
        (epoch - 1) as f64 + self.cursor.next_loss as f64 / steps as f64
    }

    /// Forward and backward pass of one window; the carried state moves on.
    fn window(
        &mut self,
        span: &WindowSpan,
        source: &Source<M>,
        compensation: Vec<f64>,
    ) -> Result<(TbpttOutput<M>, StepLoss, GradientsParams), TrainError> {
        log::trace!("step {}, {span:?}", self.step);
        let seed = mix(self.strategy.config.seed, self.step, Draw::Dropout);
        if let Some(workers) = &mut self.workers {
            let span = Span {
                start: span.start,
                len: span.len,
                plan: span.plan,
                compensation,
                seed,
            };
            let (model, states) = (self.learner.model(), self.state.take());
            let (output, gathered) = workers
                .window(&model, span, states, &self.device)
                .map_err(|error| self.with_checkpoint(error))?;
            self.state = gathered.states;
            return Ok((output, gathered.loss, gathered.grads));
        }
        self.device.seed(seed);
        let batch = source.window(span.start, span.len, &self.device)?;
        let state = self.state.take().and_then(|parts| parts.into_iter().next());
        let out = self.learner.train_step(TbpttInput::Window {
            batch,
            state,
            plan: span.plan,
            compensation,
        });
        let mut output = out.item;
        let window = output.take()?;
        self.state = window.state.map(|state| vec![state]);
        Ok((output, window.loss, out.grads))
    }

    /// Adds a window to the epoch's sums, and to its report what the last estimate says of it.
    fn account(&mut self, window: StepReport) -> StepReport {
        self.sums.loss += window.loss_sum;
        self.sums.tokens += window.count;
        self.sums.k += window.k as f64;
        self.sums.windows += 1;
        self.sums.clipped += usize::from(window.clipped);
        self.sums.train_seconds += window.seconds;
        let (relative_bias, decay) = self.estimate(window.k);
        StepReport {
            relative_bias,
            decay,
            ..window
        }
    }

    /// Relative bias at `k` and decay β of the last usable estimate.
    pub(super) fn estimate(&self, k: usize) -> (Option<f64>, Option<f64>) {
        let policy = lock(&self.strategy.shared.policy);
        let estimate = policy.monitor().last_estimate();
        let finite = |value: f64| value.is_finite().then_some(value);
        (
            estimate.and_then(|estimate| finite(estimate.relative_bias(k))),
            estimate.and_then(|estimate| finite(estimate.norms()?.beta())),
        )
    }
}
