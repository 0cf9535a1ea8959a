//! Models of one's own: what the loop does for them, and what it tells one that breaks a rule.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use atbptt_core::FixedK;
use atbptt_models::{
    ModelError, Predictions, RecurrentModel, RecurrentState, SequenceBatch, StepLoss, WindowLoss,
    WindowPlan,
};
use atbptt_train::metrics::{MaeMetric, RmseMetric};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, EpochReport, OnNonFinite, ProbeConfig, QuietRenderer,
    SequenceSource, StreamLoader, Tbptt, TbpttConfig, TbpttHandle, TbpttOutput, TrainError,
    evaluate_with,
};
use burn::module::Module;
use burn::nn;
use burn::optim::SgdConfig;
use burn::store::ModuleRecord;
use burn::tensor::{Device, Int, Tensor, TensorData, TensorReadError, activation::log_softmax};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};
use burn::train::metric::{
    AccuracyMetric, Adaptor, LearningRateMetric, Metric, MetricAttributes, MetricMetadata,
    MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry, TopKAccuracyMetric,
};
use burn::train::{EarlyStoppingStrategy, Learner, LearningResult, SupervisedTraining};

use crate::common::{bits, turn, weights};

const SEQUENCES: usize = 2;
const STEPS: usize = 100;

/// A wave, its next value, and in which of three bands that lies; targets where `known` says so.
#[derive(Clone, Debug)]
struct WaveBatch {
    inputs: Tensor<3>,
    next: Tensor<3>,
    bands: Tensor<2, Int>,
    /// By step.
    known: Vec<bool>,
}

impl SequenceBatch for WaveBatch {
    fn steps(&self) -> usize {
        self.known.len()
    }

    fn sequences(&self) -> usize {
        SEQUENCES
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let (start, length) = (range.start, range.len());
        Self {
            inputs: self.inputs.clone().narrow(1, start, length),
            next: self.next.clone().narrow(1, start, length),
            bands: self.bands.clone().narrow(1, start, length),
            known: self.known[range].to_vec(),
        }
    }
}

/// A wave with an input that is no number at one step, and without targets at others.
#[derive(Clone, Debug, Default)]
struct Waves {
    broken: Option<usize>,
    unknown: Range<usize>,
}

fn wave(step: usize) -> f32 {
    (step as f32 * 0.7).sin()
}

impl SequenceSource for Waves {
    type Batch = WaveBatch;

    fn sequences(&self) -> usize {
        SEQUENCES
    }

    fn common_steps(&self) -> usize {
        STEPS
    }

    fn active(&self, step: usize) -> usize {
        if step < STEPS { SEQUENCES } else { 0 }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<WaveBatch, TrainError> {
        self.gather(&[start; SEQUENCES], len, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<WaveBatch, TrainError> {
        let steps = || starts.iter().flat_map(|&start| start..start + len);
        let tensor = |value: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = steps().map(value).collect();
            Tensor::<3>::from_data(TensorData::new(values, [SEQUENCES, len, 1]), device)
        };
        let band = |step| match wave(step + 1) {
            low if low < -0.3 => 0,
            high if high > 0.3 => 2,
            _ => 1,
        };
        let bands: Vec<i64> = steps().map(band).collect();
        Ok(WaveBatch {
            inputs: tensor(&|step| match self.broken == Some(step) {
                true => f32::NAN,
                false => wave(step),
            }),
            next: tensor(&|step| wave(step + 1)),
            bands: Tensor::from_data(TensorData::new(bands, [SEQUENCES, len]), device),
            known: (starts[0]..starts[0] + len)
                .map(|step| !self.unknown.contains(&step))
                .collect(),
        })
    }
}

/// What a test changes about the model.
#[derive(Clone, Debug, Default)]
struct Habits {
    /// Hands on a state that is still in the graph.
    attached: bool,
    /// Predicts bands instead of values.
    classes: bool,
    /// First number of the state that each training window began with.
    seen: Arc<Mutex<Vec<Option<f32>>>>,
}

#[derive(Module, Debug)]
struct WaveModel {
    lstm: nn::Lstm,
    decoder: nn::Linear,
    #[module(skip)]
    habits: Habits,
}

fn wave_model(habits: Habits) -> WaveModel {
    let device = Device::flex().autodiff();
    device.seed(3);
    let outputs = if habits.classes { 3 } else { 1 };
    WaveModel {
        lstm: nn::LstmConfig::new(1, 8, true).init(&device),
        decoder: nn::LinearConfig::new(8, outputs).init(&device),
        habits,
    }
}

impl RecurrentModel for WaveModel {
    type Batch = WaveBatch;
    type State = nn::LstmState<2>;

    fn forward(
        &self,
        batch: &WaveBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        Ok(self.lstm.forward(batch.inputs.clone(), state))
    }

    fn loss(&self, features: Tensor<3>, batch: &WaveBatch) -> Result<StepLoss, ModelError> {
        let known: Vec<i64> = (0..batch.steps())
            .filter(|step| batch.known[*step])
            .map(|step| step as i64)
            .collect();
        let count = SEQUENCES * known.len();
        if count == 0 {
            return Ok(StepLoss::new(Tensor::zeros([1], &features.device()), 0));
        }
        let known = Tensor::<1, Int>::from_data(
            TensorData::new(known.clone(), [known.len()]),
            &features.device(),
        );
        let features = features.select(1, known.clone());
        let outputs: Tensor<2> = self.decoder.forward(features).flatten(0, 1);
        if self.habits.classes {
            let targets = batch.bands.clone().select(1, known).reshape([count]);
            let rows = targets.clone().reshape([count, 1]);
            let sum = log_softmax(outputs.clone(), 1).gather(1, rows).sum().neg();
            return Ok(StepLoss::new(sum, count).with_classes(outputs, targets));
        }
        let targets: Tensor<2> = batch.next.clone().select(1, known).flatten(0, 1);
        let sum = (outputs.clone() - targets.clone()).square().sum();
        Ok(StepLoss::new(sum, count).with_values(outputs, targets))
    }

    fn window(
        &self,
        batch: &WaveBatch,
        state: Option<Self::State>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Self::State>, ModelError> {
        if batch.inputs.device().is_autodiff() {
            let first = |state: &Self::State| {
                let part = state.parts().remove(0);
                part.into_data().iter::<f32>().next().unwrap()
            };
            let mut seen = self.habits.seen.lock().unwrap();
            seen.push(state.as_ref().map(first));
        }
        // Written out, for a state that may stay in the graph.
        let (steps, tail) = (batch.steps(), plan.loss_from);
        let (features, _) = self.forward(batch, state.clone())?;
        let loss = self.loss(
            features.narrow(1, tail, steps - tail),
            &batch.slice(tail..steps),
        )?;
        let carried = match plan.carry {
            0 => state,
            carry => Some(self.forward(&batch.slice(0..carry), state)?.1),
        };
        let state = match self.habits.attached {
            true => carried,
            false => carried.map(RecurrentState::detach),
        };
        Ok(WindowLoss { loss, state })
    }
}

/// Chunks of 10 steps, so that windows are easily counted.
fn config() -> TbpttConfig {
    TbpttConfig {
        probe: ProbeConfig::new(20),
        eval_chunk: 10,
        ..TbpttConfig::default().with_losses(10)
    }
}

fn training(train: Waves, valid: Waves, folder: &Path) -> SupervisedTraining<Tbptt<WaveModel>> {
    SupervisedTraining::new(
        folder,
        StreamLoader::new(train).into_loader(),
        StreamLoader::new(valid).into_loader(),
    )
    .renderer(Box::new(QuietRenderer))
    .with_application_logger(None)
}

fn learner(habits: Habits) -> Learner<Tbptt<WaveModel>> {
    Learner::new(Tbptt::new(wave_model(habits)), SgdConfig::new().init(), 0.1)
}

fn launch(
    training: SupervisedTraining<Tbptt<WaveModel>>,
    strategy: AdaptiveTbptt,
    habits: Habits,
) -> (LearningResult<Tbptt<WaveModel>>, TbpttHandle) {
    let handle = strategy.handle();
    let result = training
        .with_training_strategy(strategy.into_strategy())
        .launch(learner(habits));
    (result, handle)
}

fn strategy(k: usize) -> AdaptiveTbptt {
    AdaptiveTbptt::new(FixedK::new(k).unwrap(), config()).unwrap()
}

/// Issue 16: a state that was returned attached made Burn panic at the second window.
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

/// Issue 16: without the strategy, Burn's own loop trained on a loss of NaN to the end.
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

/// Burn's epoch values of some metrics, by name and split.
#[derive(Clone)]
struct Spy {
    names: Vec<(MetricName, Split)>,
    seen: Arc<Mutex<Vec<Vec<Option<f64>>>>>,
}

impl Spy {
    fn new(names: &[(MetricName, Split)]) -> Self {
        Self {
            names: names.to_vec(),
            seen: Arc::default(),
        }
    }
}

impl EarlyStoppingStrategy for Spy {
    fn should_stop(&mut self, epoch: usize, store: &EventStoreClient) -> bool {
        let read = |(name, split): &(MetricName, Split)| {
            store.find_metric(name, epoch, Aggregate::Mean, split)
        };
        self.seen
            .lock()
            .unwrap()
            .push(self.names.iter().map(read).collect());
        false
    }
}

/// A metric of one's own: the largest predicted score of this epoch and, for the test, of the last one.
#[derive(Clone, Default)]
struct LargestScore(Arc<Mutex<[Option<f64>; 2]>>);

impl LargestScore {
    fn get(&self) -> f64 {
        self.0.lock().unwrap()[0].unwrap_or(f64::NAN)
    }
}

struct Scores(Option<Tensor<2>>);

impl Adaptor<Scores> for TbpttOutput<WaveModel> {
    fn adapt(&self) -> Scores {
        match self.predictions() {
            Some(Predictions::Classes { scores, .. }) => Scores(Some(scores.clone())),
            _ => Scores(None),
        }
    }
}

impl Metric for LargestScore {
    type Input = Scores;

    fn name(&self) -> MetricName {
        MetricName::new("Largest score".into())
    }

    fn attributes(&self) -> MetricAttributes {
        let unit = None;
        NumericAttributes {
            unit,
            higher_is_better: true,
        }
        .into()
    }

    fn update(
        &mut self,
        scores: &Scores,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        if let Some(scores) = &scores.0 {
            let largest = scores.clone().max().try_into_scalar::<f64>()?;
            let so_far = &mut self.0.lock().unwrap()[0];
            *so_far = Some(so_far.map_or(largest, |so_far| so_far.max(largest)));
        }
        self.compute()
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let entry = NumericEntry::Value(self.get());
        Ok(SerializedEntry::new(
            self.get().to_string(),
            entry.serialize(),
        ))
    }

    fn clear(&mut self) {
        let mut epochs = self.0.lock().unwrap();
        if let Some(done) = epochs[0].take() {
            epochs[1] = Some(done);
        }
    }
}

impl Numeric for LargestScore {
    fn value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.get()))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.value()
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.get())
    }
}

/// Burn's accuracies of the validation stream, and a metric of one's own, are those counted by hand over the trained model, the
/// steps without a target left out.
#[test]
fn burns_accuracies_and_a_metric_of_ones_own_read_the_predictions() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let valid = Waves {
        unknown: 33..57,
        ..Waves::default()
    };
    let habits = Habits {
        classes: true,
        ..Habits::default()
    };
    let (first, second) = (AccuracyMetric::new(), TopKAccuracyMetric::new(2));
    let own = LargestScore::default();
    let spy = Spy::new(&[
        (first.name(), Split::Valid),
        (second.name(), Split::Valid),
        (first.name(), Split::Train),
    ]);
    let training = training(Waves::default(), valid.clone(), folder.path())
        .metrics((first, second))
        .metric_valid_numeric(own.clone())
        .early_stopping(spy.clone())
        .num_epochs(4);
    let (result, handle) = launch(training, strategy(5), habits);
    handle.finish(&result).unwrap();

    let (mut rows, mut right, mut second, mut largest) = (0, 0, 0, f32::MIN);
    let device = Device::flex();
    let model = result.model.inner();
    evaluate_with(model, &valid, 7, &device, |chunk| {
        let Some(Predictions::Classes { scores, targets }) = &chunk.loss.predictions else {
            assert_eq!(chunk.loss.count, 0, "steps without a target");
            return Ok(());
        };
        let scores: Vec<f32> = scores.clone().into_data().iter::<f32>().collect();
        let targets: Vec<i64> = targets.clone().into_data().iter::<i64>().collect();
        for (scores, target) in scores.chunks(3).zip(targets) {
            let own = scores[target as usize];
            let above = scores.iter().filter(|score| **score > own).count();
            rows += 1;
            right += usize::from(above == 0);
            second += usize::from(above < 2);
            largest = scores.iter().copied().fold(largest, f32::max);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(rows, (STEPS - 24) * SEQUENCES);
    let seen = spy.seen.lock().unwrap().last().unwrap().clone();
    let share = |count: usize| 100.0 * count as f64 / rows as f64;
    let own = own.0.lock().unwrap()[1];
    for (got, expected) in [
        (seen[0], share(right)),
        (seen[1], share(second)),
        (own, largest.into()),
    ] {
        let got = got.unwrap();
        assert!((got - expected).abs() < 1e-4, "{got}, expected {expected}");
    }
    assert!(right > rows / 3, "better than a guess");
    assert!(seen[2].unwrap() > 0.0, "training accuracy");
}

/// RMSE and MAE over all values of an epoch together, whatever the chunks.
#[test]
fn errors_of_predicted_numbers_are_those_of_all_values_together() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let valid = Waves {
        unknown: 33..57,
        ..Waves::default()
    };
    let spy = Spy::new(&[
        (RmseMetric::new().name(), Split::Valid),
        (MaeMetric::new().name(), Split::Valid),
        // Predicts no classes.
        (AccuracyMetric::new().name(), Split::Valid),
    ]);
    let training = training(Waves::default(), valid.clone(), folder.path())
        .metrics((RmseMetric::new(), MaeMetric::new(), AccuracyMetric::new()))
        .early_stopping(spy.clone());
    let (result, handle) = launch(training, strategy(5), Habits::default());
    handle.finish(&result).unwrap();
    let (mut squares, mut absolutes, mut count) = (0.0, 0.0, 0.0);
    let model = result.model.inner();
    let loss = evaluate_with(model, &valid, 100, &Device::flex(), |chunk| {
        if let Some(Predictions::Values { values, targets }) = &chunk.loss.predictions {
            let errors = (values.clone() - targets.clone()).into_data();
            for error in errors.iter::<f64>() {
                squares += error * error;
                absolutes += error.abs();
                count += 1.0;
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(loss.count as f64, count);
    let seen = spy.seen.lock().unwrap()[0].clone();
    let expected = [f64::sqrt(squares / count), absolutes / count];
    for (got, expected) in seen[..2].iter().zip(expected) {
        assert!(
            (got.unwrap() - expected).abs() < 1e-6,
            "{got:?}, {expected}"
        );
    }
    assert!(seen[2].is_none_or(f64::is_nan), "{:?}", seen[2]);
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
        let strategy = AdaptiveTbptt::new(FixedK::new(5).unwrap(), config).unwrap();
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
    let strategy = AdaptiveTbptt::new(FixedK::new(5).unwrap(), config).unwrap();
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
        let loader = || StreamLoader::new(Waves::default()).into_loader::<Ahead>();
        let result = SupervisedTraining::new(folder.path(), loader(), loader())
            .renderer(Box::new(QuietRenderer))
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
