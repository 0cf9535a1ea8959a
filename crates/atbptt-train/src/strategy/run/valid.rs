//! The end of an epoch: exact validation, and the report of what the epoch brought.

use std::ops::Range;
use std::time::Instant;

use atbptt_models::{RecurrentModel, WindowPlan};
use burn::data::dataloader::Progress;
use burn::module::Module;
use burn::train::{EventProcessorTraining, InferenceStep, LearnerEvent, TrainingItem};

use super::trouble::NonFinite;
use super::{Run, Source};
use crate::TrainError;
use crate::evaluate::{keep_first, next_chunk, read_scalar};
use crate::learner::TbpttInput;
use crate::output::StepReport;
use crate::report::EpochReport;
use crate::strategy::{OnNonFinite, lock};

impl<M: RecurrentModel> Run<'_, M> {
    /// Exact validation; returns the loss and the time it took.
    pub(super) fn valid_epoch(
        &mut self,
        epoch: usize,
        source: &Source<M>,
    ) -> Result<(ValidLoss, f64), TrainError> {
        let started = Instant::now();
        let model = self.learner.model().valid();
        let device = self.device.clone().inner();
        let steps = source.common_steps();
        self.valid_event(LearnerEvent::StartSplit {
            epoch_number: epoch,
            total_items: steps,
        });
        let mut total = ValidLoss::default();
        let mut state: Option<M::State> = None;
        let (mut start, mut iteration) = (0, 0);
        while let Some((sequences, len)) =
            next_chunk(source.as_ref(), start, self.strategy.config.eval_chunk)
        {
            let chunk_started = Instant::now();
            let batch = source.window(start, len, &device)?;
            let state_in = state
                .take()
                .map(|state| keep_first(state, sequences, &device));
            let plan = WindowPlan {
                warm_up: 0,
                loss_from: 0,
                carry: len,
            };
            let mut output = InferenceStep::step(
                &model,
                TbpttInput::Window {
                    batch,
                    state: state_in,
                    plan,
                    compensation: Vec::new(),
                },
            );
            let window = output.take()?;
            let count = window.loss.count;
            let sum = read_scalar(window.loss.sum).map_err(|error| {
                let k = lock(&self.strategy.shared.policy).k();
                error.in_window("validation window", len, sequences, k)
            })?;
            total.add(sum, count, start..start + len);
            state = window.state;
            start += len;
            // Without a target there is no loss for a metric to read.
            if count == 0 {
                continue;
            }
            iteration += 1;
            output.report = StepReport {
                loss_sum: sum,
                count,
                seconds: chunk_started.elapsed().as_secs_f64(),
                ..StepReport::default()
            };
            let progress = Progress::new(start.min(steps), steps, Some("steps".into()));
            let item = TrainingItem::new(output, progress, Some(iteration), None);
            self.valid_event(LearnerEvent::ProcessedItem(item));
            if self.parts.interrupter.should_stop() {
                break;
            }
        }
        self.valid_event(LearnerEvent::EndSplit(epoch));
        self.train_event(LearnerEvent::EndEpoch(epoch));
        // Checkpoint strategies and early stopping read this epoch's metrics.
        let flushed = self.parts.event_processor.flush();
        self.parts.interrupter.fail_on_error(flushed);
        Ok((total, started.elapsed().as_secs_f64()))
    }

    /// # Errors
    ///
    /// [`TrainError::NoTarget`] when no window of the epoch had a target, [`TrainError::NonFinite`] when none was finite,
    /// [`TrainError::NonFiniteValidation`] when the validation loss is not and the run is to stop on that.
    pub(super) fn report(
        &self,
        epoch: usize,
        valid: ValidLoss,
        valid_seconds: f64,
    ) -> Result<(), TrainError> {
        let mut measures = match self.strategy.measures {
            Some(_) => self
                .strategy
                .measure(&self.learner.model().valid().into_inner())?,
            None => Default::default(),
        };
        // Metrics and checkpoints are JSON, which has no such numbers.
        measures.retain(|name, value| {
            if !value.is_finite() {
                log::warn!("epoch {epoch}: {name} is {value} and left out");
            }
            value.is_finite()
        });
        let policy = lock(&self.strategy.shared.policy);
        let (k, reason) = (
            policy.k(),
            policy
                .monitor()
                .history()
                .last()
                .map(|decision| decision.explanation()),
        );
        drop(policy);
        let (relative_bias, decay) = self.estimate(k);
        let sums = &self.sums;
        if sums.tokens == 0 && sums.skipped == 0 {
            return Err(TrainError::NoTarget { epoch });
        }
        let train_loss = sums.loss / sums.tokens as f64;
        if !train_loss.is_finite() {
            let found = NonFinite {
                what: "loss of every window",
                value: train_loss,
            };
            return Err(self.non_finite(found, epoch, k));
        }
        if let Some((steps, value)) = valid.non_finite.clone() {
            let error = TrainError::NonFiniteValidation {
                value,
                epoch,
                steps,
                checkpoint: self.good_checkpoint(),
            };
            if self.strategy.on_non_finite != OnNonFinite::Skip {
                return Err(error);
            }
            log::warn!("{error}");
        }
        let valid_loss =
            (valid.count > 0 && valid.non_finite.is_none()).then(|| valid.sum / valid.count as f64);
        let mut reports = lock(&self.strategy.shared.reports);
        let before = reports.last().map_or(0.0, |report| report.elapsed_seconds);
        let report = EpochReport {
            epoch,
            step: self.step,
            train_loss,
            train_perplexity: perplexity(train_loss),
            valid_loss,
            valid_perplexity: valid_loss.map(perplexity),
            k,
            mean_k: sums.k / sums.windows.max(1) as f64,
            relative_bias,
            decay,
            reason,
            tokens: sums.tokens,
            windows: sums.windows,
            clipped: sums.clipped,
            without_target: sums.without_target,
            skipped: sums.skipped,
            restored: sums.restored,
            train_seconds: sums.train_seconds,
            probe_seconds: sums.probe_seconds,
            valid_seconds,
            elapsed_seconds: before + sums.train_seconds + sums.probe_seconds + valid_seconds,
            measures,
        };
        reports.push(report.clone());
        drop(reports);
        if let Some(observer) = &self.strategy.observer {
            observer.on_epoch(&report);
        }
        Ok(())
    }
}

/// The loss of a validation stream so far.
#[derive(Clone, Debug, Default)]
pub(super) struct ValidLoss {
    sum: f64,
    count: usize,
    /// The first steps whose loss is not finite, and that loss.
    non_finite: Option<(Range<usize>, f64)>,
}

impl ValidLoss {
    fn add(&mut self, sum: f64, count: usize, steps: Range<usize>) {
        self.sum += sum;
        self.count += count;
        // Many finite losses may have a sum that is not.
        let value = if sum.is_finite() { self.sum } else { sum };
        if !value.is_finite() && self.non_finite.is_none() {
            self.non_finite = Some((steps, value));
        }
    }
}

/// exp of a mean loss in nats, kept finite: reports go into JSON, which has no infinity.
fn perplexity(loss: f64) -> f64 {
    loss.min(700.0).exp()
}
