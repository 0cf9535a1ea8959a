//! Models of one's own: what the loop does for them, and what it tells one that breaks a rule.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::path::Path;

use atbptt_core::FixedKConfig;
use atbptt_models::{ModelError, RecurrentModel, SequenceBatch, StepLoss};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, EpochReport, OnNonFinite, Tbptt, TbpttConfig, TrainError,
    quiet_renderer, stream_loader,
};
use burn::module::Module;
use burn::nn;
use burn::optim::SgdConfig;
use burn::store::ModuleRecord;
use burn::tensor::{Device, Tensor};
use burn::train::metric::store::Split;
use burn::train::metric::{LearningRateMetric, Metric};
use burn::train::{Learner, SupervisedTraining};

use super::setup::Spy;
use super::waves::{
    Habits, SEQUENCES, STEPS, WaveBatch, Waves, config, launch, learner, strategy, training,
    wave_model,
};
use crate::common::{bits, turn, weights};

/// A state that was returned attached made Burn panic at the second window.
#[test]
fn a_state_returned_attached_is_detached_by_the_loop() {
    let _turn = turn();
    let run = |attached| {
        let folder = tempfile::tempdir().unwrap();
        let training = training(Waves::default(), Waves::default(), folder.path());
        let habits = Habits {
            attached,
            ..Habits::default()
        };
        let (result, handle) = launch(training.num_epochs(2), strategy(5), habits);
        handle.finish(&result).unwrap();
        bits(&result.model)
    };
    assert_eq!(run(true), run(false));
}

/// Windows of ten steps; the third and fourth have no target at all, the second and fifth for half of their steps.
#[test]
fn windows_without_any_target_carry_the_state_on_and_take_no_update() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let gap = Waves {
        unknown: 15..45,
        ..Waves::default()
    };
    let habits = Habits::default();
    let training = training(gap.clone(), gap, folder.path());
    // K = 1: no context, and a state for every window but the first.
    let (result, handle) = launch(training, strategy(1), habits.clone());
    handle.finish(&result).unwrap();
    let report: EpochReport = handle.reports().remove(0);
    assert_eq!((report.windows, report.without_target), (8, 2));
    assert_eq!((report.step, report.tokens), (10, 70 * SEQUENCES));
    assert!(report.train_loss.is_finite() && report.valid_loss.unwrap().is_finite());
    assert!(weights(&result.model).iter().all(|w| w.is_finite()));
    let seen = habits.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 10);
    assert_eq!(seen[0], None);
    let carried: Vec<f32> = seen[1..].iter().map(|first| first.unwrap()).collect();
    assert!(
        carried.windows(2).all(|pair| pair[0] != pair[1]) && carried.iter().all(|h| *h != 0.0),
        "{carried:?}"
    );
}

/// Also where gradients are accumulated, and where there is nothing else.
#[test]
fn an_epoch_without_any_target_is_an_error_that_says_so() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let nothing = Waves {
        unknown: 0..STEPS,
        ..Waves::default()
    };
    let training = training(nothing, Waves::default(), folder.path()).grads_accumulation(3);
    let (result, handle) = launch(training, strategy(5), Habits::default());
    let error = handle.finish(&result).unwrap_err();
    assert!(
        matches!(error, TrainError::NoTarget { epoch: 1 }),
        "{error}"
    );
}

/// An input that is no number at step 52 of the validation data: the message names it and the steps, the trained epoch is kept, and
/// the run goes on from there once the loss may be left out.
#[test]
fn a_validation_loss_that_is_no_number_names_the_steps_and_keeps_the_epoch() {
    let _turn = turn();
    let broken = Waves {
        broken: Some(52),
        ..Waves::default()
    };
    let run = |folder: &Path, choice, resume| {
        let mut strategy = strategy(5).with_run_folder(folder).on_non_finite(choice);
        if let Some(checkpoint) = resume {
            strategy = strategy.resume(checkpoint);
        }
        let training = training(Waves::default(), broken.clone(), folder).num_epochs(2);
        let (result, handle) = launch(training, strategy, Habits::default());
        (handle.finish(&result), bits(&result.model), handle)
    };
    let folder = tempfile::tempdir().unwrap();
    let error = run(folder.path(), OnNonFinite::Stop, None).0.unwrap_err();
    let TrainError::NonFiniteValidation { epoch, steps, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((*epoch, steps.clone()), (1, 50..60));
    let text = error.to_string();
    assert!(
        text.contains("steps 50..60 of the validation stream") && text.contains("step-10.ckpt"),
        "{text}"
    );
    let saved = Checkpoint::newest(folder.path()).unwrap();
    assert_eq!(
        (saved.step(), saved.epochs()),
        (10, 0),
        "trained, not validated"
    );

    let (outcome, resumed, handle) = run(folder.path(), OnNonFinite::Skip, Some(saved));
    outcome.unwrap();
    assert_eq!(handle.reports()[0].valid_loss, None);
    let whole = tempfile::tempdir().unwrap();
    let (outcome, expected, _) = run(whole.path(), OnNonFinite::Skip, None);
    outcome.unwrap();
    assert_eq!(resumed, expected);
    let names: Vec<String> = Checkpoint::list(whole.path())
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["epoch-2-step-20.ckpt", "epoch-1-step-10.ckpt"]);
}

/// Without the strategy, Burn's own loop trained on a loss of NaN to the end.
#[test]
fn a_forgotten_training_strategy_ends_with_an_error() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let training = training(Waves::default(), Waves::default(), folder.path()).num_epochs(3);
    let result = training.launch(learner(Habits::default()));
    let error = result.error.expect("an error").to_string();
    assert!(
        error.contains("AdaptiveTbptt") && error.contains("gave no stream"),
        "{error}"
    );
    assert_eq!(
        weights(&result.model),
        weights(&wave_model(Habits::default()))
    );
}

/// Burn's checkpointer writes the wrapped model; what it wrote loads into the plain one, by that one's own paths.
#[test]
fn burns_own_checkpoints_load_into_the_users_model_by_its_own_paths() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let training = training(Waves::default(), Waves::default(), folder.path())
        .num_epochs(1)
        .with_default_checkpointers();
    let (result, handle) = launch(training, strategy(5), Habits::default());
    handle.finish(&result).unwrap();
    let trained = bits(&result.model);
    drop(result);
    let record = ModuleRecord::load(folder.path().join("checkpoint/model-1.bpk")).unwrap();
    let plain = wave_model(Habits::default());
    assert_ne!(bits(&plain), trained);
    let loaded = plain.try_load_record(record).unwrap();
    assert_eq!(bits(&loaded), trained);
}

/// A line down to zero over two epochs: the mean rate of an epoch of n windows is 1 − (n−1)/4n of the learner's in the first and
/// half of that less in the second, whatever n.
#[test]
fn a_schedule_by_position_does_not_depend_on_the_number_of_updates() {
    use atbptt_train::{RateSchedule, RateShape};
    let _turn = turn();
    for losses in [4, 10, 50] {
        let folder = tempfile::tempdir().unwrap();
        let spy = Spy::new(&[(LearningRateMetric::new().name(), Split::Train)]);
        let training = training(Waves::default(), Waves::default(), folder.path())
            .metric_train_numeric(LearningRateMetric::new())
            .early_stopping(spy.clone())
            .num_epochs(2);
        let config = TbpttConfig {
            schedule: RateSchedule::new(RateShape::Linear { epochs: 2.0 }),
            ..config().with_losses(losses)
        };
        let strategy = AdaptiveTbptt::new(FixedKConfig::new(5).init().unwrap(), config).unwrap();
        let (result, handle) = launch(training, strategy, Habits::default());
        handle.finish(&result).unwrap();
        let n = (STEPS / losses) as f64;
        let first = 0.1 * (1.0 - (n - 1.0) / (4.0 * n));
        let seen = spy.seen.lock().unwrap().clone();
        for (got, expected) in seen.iter().zip([first, first - 0.05]) {
            let got = got[0].unwrap();
            assert!((got - expected).abs() < 1e-9, "{n}: {got}, {expected}");
        }
    }
}

/// A plateau that is never left: the rate falls by half after two epochs without an improvement.
#[test]
fn a_plateau_of_the_validation_loss_lowers_the_rate() {
    use atbptt_train::{Plateau, RateSchedule};
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let spy = Spy::new(&[(LearningRateMetric::new().name(), Split::Train)]);
    let training = training(Waves::default(), Waves::default(), folder.path())
        .metric_train_numeric(LearningRateMetric::new())
        .early_stopping(spy.clone())
        .num_epochs(6);
    // No epoch halves the best loss, so that none after the first is an improvement.
    let plateau = Plateau {
        threshold: 0.9,
        ..Plateau::default()
    };
    let config = TbpttConfig {
        schedule: RateSchedule::default().with_plateau(plateau),
        ..config()
    };
    let strategy = AdaptiveTbptt::new(FixedKConfig::new(5).init().unwrap(), config).unwrap();
    let (result, handle) = launch(training, strategy, Habits::default());
    handle.finish(&result).unwrap();
    let seen = spy.seen.lock().unwrap().clone();
    let rates: Vec<f64> = seen.iter().map(|row| row[0].unwrap()).collect();
    for (got, expected) in rates.iter().zip([0.1, 0.1, 0.1, 0.05, 0.05, 0.025]) {
        assert!((got - expected).abs() < 1e-9, "{rates:?}");
    }
}

/// A layer that reads ahead: it would train, and see in validation what training never showed it.
#[derive(Module, Debug)]
struct Ahead {
    lstm: nn::BiLstm,
    decoder: nn::Linear,
}

impl RecurrentModel for Ahead {
    type Batch = WaveBatch;
    type State = (Tensor<2>, Tensor<2>);

    fn forward(
        &self,
        batch: &WaveBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        // Burn keeps both directions in one tensor, [2, batch, hidden]; here they stand side by side.
        let state = state.map(|(cell, hidden)| {
            let apart = |part: Tensor<2>| {
                let [batch, both] = part.dims();
                part.reshape([batch, 2, both / 2]).swap_dims(0, 1)
            };
            nn::LstmState::new(apart(cell), apart(hidden))
        });
        let (features, state) = self.lstm.forward(batch.inputs.clone(), state);
        let together = |part: Tensor<3>| {
            let [two, batch, hidden] = part.dims();
            part.swap_dims(0, 1).reshape([batch, two * hidden])
        };
        Ok((features, (together(state.cell), together(state.hidden))))
    }

    fn loss(&self, features: Tensor<3>, batch: &WaveBatch) -> Result<StepLoss, ModelError> {
        let errors = self.decoder.forward(features) - batch.next.clone();
        let count = SEQUENCES * batch.steps();
        Ok(StepLoss::new(errors.square().sum(), count))
    }
}

#[test]
fn a_bidirectional_layer_is_refused_before_the_first_window() {
    let _turn = turn();
    let run = |checked: bool| {
        let device = Device::flex().autodiff();
        device.seed(3);
        let model = Ahead {
            lstm: nn::BiLstmConfig::new(1, 6, true).init(&device),
            decoder: nn::LinearConfig::new(12, 1).init(&device),
        };
        let mut strategy = strategy(5);
        if !checked {
            strategy = strategy.without_model_check();
        }
        let handle = strategy.handle();
        let folder = tempfile::tempdir().unwrap();
        let loader = || stream_loader::<Ahead>(Waves::default());
        let result = SupervisedTraining::new(folder.path(), loader(), loader())
            .renderer(quiet_renderer())
            .with_application_logger(None)
            .with_training_strategy(strategy.into_strategy())
            .launch(Learner::new(
                Tbptt::new(model),
                SgdConfig::new().init(),
                0.1,
            ));
        (handle.finish(&result), handle.reports().len())
    };
    let (outcome, reports) = run(true);
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.contains("must not depend on later steps") && error.contains("bidirectional"),
        "{error}"
    );
    assert_eq!(reports, 0);
    let (outcome, reports) = run(false);
    outcome.unwrap();
    assert_eq!(reports, 1);
}
