//! NaN injected into losses, states, probes and weights: none reaches the weights, and the run does what it was told to.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atbptt_core::BiasEstimator;
use atbptt_core::policy::{
    AdaptiveKConfig, Estimator, FixedKConfig, Reason, Schedule, TruncationPolicy,
};
use atbptt_models::{
    ModelError, RecurrentModel, RecurrentState, SequenceBatch, StateGradients, StepLoss,
    TokenBatch, WindowLoss, WindowPlan,
};
use atbptt_train::data::{Corpus, Split};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, EpochReport, OnNonFinite, ProbeConfig, Scheme, SequenceSource,
    Tbptt, TbpttConfig, TbpttHandle, TokenSource, TrainError, quiet_renderer, stream_loader,
};
use burn::module::Module;
use burn::nn;
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{Learner, LearningResult, SupervisedTraining};

use crate::common::{Model, bits, corpus, model, turn, weights};

/// Which calls give a NaN, counted from one; none by default.
#[derive(Debug, Default)]
struct Faults {
    losses: Vec<usize>,
    states: Vec<usize>,
    probes: Vec<usize>,
    windows_seen: AtomicUsize,
    probes_seen: AtomicUsize,
}

/// A language model that fails on schedule.
#[derive(Module, Debug)]
struct Faulty {
    inner: Model,
    #[module(skip)]
    faults: Arc<Faults>,
}

impl RecurrentModel for Faulty {
    type Batch = TokenBatch;
    type State = <Model as RecurrentModel>::State;

    fn forward(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        self.inner.forward(batch, state)
    }

    fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
        self.inner.loss(features, batch)
    }

    fn window(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Self::State>, ModelError> {
        let mut window = self.inner.window(batch, state, plan)?;
        // Validation runs without autodiff and is not counted.
        if window.loss.sum.device().is_autodiff() {
            let call = 1 + self.faults.windows_seen.fetch_add(1, Ordering::SeqCst);
            if self.faults.losses.contains(&call) {
                window.loss.sum = window.loss.sum * f64::NAN;
            }
            if self.faults.states.contains(&call) {
                let spoiled = |state: Self::State| state.map_parts(&mut |part| part * f64::NAN);
                window.state = window.state.map(spoiled);
            }
        }
        Ok(window)
    }

    fn state_gradients(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
    ) -> Result<StateGradients, ModelError> {
        let call = 1 + self.faults.probes_seen.fetch_add(1, Ordering::SeqCst);
        match self.faults.probes.contains(&call) {
            true => {
                let spoiled = state.map(|state| state.map_parts(&mut |part| part * f64::NAN));
                self.inner.state_gradients(batch, spoiled)
            }
            false => self.inner.state_gradients(batch, state),
        }
    }
}

fn run(
    faults: Faults,
    policy: impl TruncationPolicy + 'static,
    choice: OnNonFinite,
    folder: Option<&Path>,
    epochs: usize,
) -> (LearningResult<Tbptt<Faulty>>, TbpttHandle) {
    let corpus: Corpus = corpus(404, 101);
    let train = TokenSource::training(corpus.tokens(Split::Train), 4).unwrap();
    let valid = TokenSource::evaluation(corpus.tokens(Split::Valid), 1).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let training = SupervisedTraining::new(
        folder.unwrap_or(scratch.path()),
        stream_loader(train),
        stream_loader(valid),
    )
    .renderer(quiet_renderer())
    .with_application_logger(None)
    .num_epochs(epochs);
    let config = TbpttConfig {
        scheme: Scheme::Overlapping,
        probe: ProbeConfig::new(20),
        ..TbpttConfig::default()
    };
    let mut strategy = AdaptiveTbptt::new(policy, config)
        .unwrap()
        .on_non_finite(choice);
    if let Some(folder) = folder {
        strategy = strategy.with_run_folder(folder);
    }
    let handle = strategy.handle();
    let model = Faulty {
        inner: model(&corpus, 12, 0.2, 1),
        faults: Arc::new(faults),
    };
    let result = training
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(model),
            SgdConfig::new().init(),
            0.5,
        ));
    (result, handle)
}

fn losses(calls: &[usize]) -> Faults {
    Faults {
        losses: calls.to_vec(),
        ..Faults::default()
    }
}

fn fixed() -> impl TruncationPolicy {
    FixedKConfig::new(5).init().unwrap()
}

/// 100 steps in windows of 5: two of the twenty are left out.
#[test]
fn skipped_windows_are_counted_and_the_rest_is_trained() {
    let _turn = turn();
    let faults = Faults {
        losses: vec![3, 9],
        states: vec![9],
        ..Faults::default()
    };
    let (result, handle) = run(faults, fixed(), OnNonFinite::Skip, None, 1);
    handle.finish(&result).unwrap();
    let report = &handle.reports()[0];
    assert_eq!((report.skipped, report.restored), (2, 0));
    assert_eq!((report.step, report.tokens), (20, 18 * 5 * 4));
    assert!(report.train_loss.is_finite() && report.valid_loss.unwrap().is_finite());
    assert!(weights(&result.model).iter().all(|w| w.is_finite()));
}

#[test]
fn an_epoch_without_one_finite_window_stops_even_when_windows_may_be_skipped() {
    let _turn = turn();
    let all: Vec<usize> = (1..=20).collect();
    let (result, handle) = run(losses(&all), fixed(), OnNonFinite::Skip, None, 2);
    let error = handle.finish(&result).unwrap_err();
    assert!(
        matches!(&error, TrainError::NonFinite { what, .. } if *what == "loss of every window"),
        "{error}"
    );
}

/// The seventh window fails once: back to the start of the epoch, half the step size, and on to the end.
#[test]
fn a_restored_run_goes_on_with_half_the_step() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let (result, handle) = run(
        losses(&[7]),
        fixed(),
        OnNonFinite::Restore,
        Some(folder.path()),
        2,
    );
    handle.finish(&result).unwrap();
    let reports = handle.reports();
    assert_eq!((reports[0].restored, reports[1].restored), (1, 0));
    assert_eq!((reports[0].tokens, reports[1].step), (400, 40));
    let (whole, _) = run(losses(&[]), fixed(), OnNonFinite::Restore, None, 2);
    assert_ne!(
        bits(&result.model),
        bits(&whole.model),
        "the step size changed"
    );
    assert!(weights(&result.model).iter().all(|w| w.is_finite()));
}

/// What fails whatever the step size ends the run, with the checkpoint named.
#[test]
fn restoring_gives_up_when_it_does_not_help() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<usize> = (4..1000).collect();
    let (result, handle) = run(
        losses(&all),
        fixed(),
        OnNonFinite::Restore,
        Some(folder.path()),
        1,
    );
    let error = handle.finish(&result).unwrap_err();
    let start = Checkpoint::newest(folder.path()).unwrap();
    assert!(matches!(error, TrainError::NonFinite { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&start.path().display().to_string()),
        "{error}"
    );
    assert_eq!(start.step(), 0);
}

/// Unusable probes are counted; K stays where it was when none is usable.
#[test]
fn a_probe_that_is_not_finite_is_counted_and_k_is_kept() {
    let _turn = turn();
    let policy = AdaptiveKConfig::new(0.5)
        .with_estimator(Estimator::Norms(BiasEstimator::new()))
        .with_k0(6)
        .with_k_max(20)
        .with_probes(2)
        .with_schedule(Schedule::every_updates(5))
        .init()
        .unwrap();
    let faults = Faults {
        probes: vec![1, 2, 3],
        ..Faults::default()
    };
    let (result, handle) = run(faults, policy, OnNonFinite::Stop, None, 1);
    handle.finish(&result).unwrap();
    let history = handle.history();
    assert_eq!((history[0].k, history[0].reason), (6, Reason::Unusable));
    assert_eq!((history[0].unusable, history[1].unusable), (2, 1));
    assert!(history[1].probe_ks.len() == 1);
}

/// Two sequences of numbers, each the sine of its step; one of them may be missing.
#[derive(Clone)]
struct Waves {
    steps: usize,
    missing: Option<usize>,
}

#[derive(Clone)]
struct WaveBatch {
    /// `[sequence, time, 1]`
    inputs: Tensor<3>,
    next: Tensor<3>,
}

impl SequenceBatch for WaveBatch {
    fn steps(&self) -> usize {
        self.inputs.dims()[1]
    }

    fn sequences(&self) -> usize {
        self.inputs.dims()[0]
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let cut = |all: &Tensor<3>| all.clone().narrow(1, range.start, range.len());
        Self {
            inputs: cut(&self.inputs),
            next: cut(&self.next),
        }
    }
}

impl Waves {
    fn batch(&self, starts: &[usize], len: usize, device: &Device) -> WaveBatch {
        let tensor = |numbers: Vec<f32>| {
            Tensor::from_data(TensorData::new(numbers, [starts.len(), len, 1]), device)
        };
        let read = |value: &dyn Fn(usize) -> f32| {
            let steps = starts.iter().flat_map(|&start| start..start + len);
            tensor(steps.map(value).collect())
        };
        let wave = |step: usize| (step as f32 * 0.7).sin();
        WaveBatch {
            inputs: read(&|step| match self.missing == Some(step) {
                true => f32::NAN,
                false => wave(step),
            }),
            next: read(&|step| wave(step + 1)),
        }
    }
}

impl SequenceSource for Waves {
    type Batch = WaveBatch;

    fn sequences(&self) -> usize {
        2
    }

    fn common_steps(&self) -> usize {
        self.steps
    }

    fn active(&self, step: usize) -> usize {
        if step < self.steps { 2 } else { 0 }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<WaveBatch, TrainError> {
        Ok(self.batch(&[start; 2], len, device))
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<WaveBatch, TrainError> {
        Ok(self.batch(starts, len, device))
    }
}

#[derive(Module, Debug)]
struct WaveModel {
    lstm: nn::Lstm,
    decoder: nn::Linear,
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
        let errors = self.decoder.forward(features) - batch.next.clone();
        let [sequences, time, _] = errors.dims();
        Ok(StepLoss::new(errors.powi_scalar(2).sum(), sequences * time))
    }
}

/// A missing number in the data itself, at step 52 of 100. With K = 5 the steps 48..=52 and 53..=57 are counted by windows that
/// read it: those two are left out, the state it spoiled is dropped, and everything else is trained.
#[test]
fn a_missing_number_in_the_data_costs_the_windows_that_read_it() {
    let _turn = turn();
    let waves = |missing| Waves {
        steps: 100,
        missing,
    };
    let train = |choice, policy: Box<dyn TruncationPolicy>| {
        let device = Device::flex().autodiff();
        device.seed(3);
        let model = WaveModel {
            lstm: nn::LstmConfig::new(1, 8, true).init(&device),
            decoder: nn::LinearConfig::new(8, 1).init(&device),
        };
        let config = TbpttConfig {
            scheme: Scheme::Overlapping,
            probe: ProbeConfig::new(60),
            ..TbpttConfig::default()
        };
        let strategy = AdaptiveTbptt::new(policy, config)
            .unwrap()
            .on_non_finite(choice);
        let handle = strategy.handle();
        let folder = tempfile::tempdir().unwrap();
        let loader = |missing| stream_loader::<WaveModel>(waves(missing));
        let result = SupervisedTraining::new(folder.path(), loader(Some(52)), loader(None))
            .renderer(quiet_renderer())
            .with_application_logger(None)
            .num_epochs(2)
            .with_training_strategy(strategy.into_strategy())
            .launch(Learner::new(
                Tbptt::new(model),
                SgdConfig::new().init(),
                0.2,
            ));
        let outcome = handle.finish(&result);
        (result, handle, outcome)
    };
    let (result, handle, outcome) = train(OnNonFinite::Skip, Box::new(fixed()));
    outcome.unwrap();
    let reports = handle.reports();
    let counts = |report: &EpochReport| (report.skipped, report.tokens);
    assert_eq!(counts(&reports[0]), (2, 18 * 5 * 2));
    assert_eq!(counts(&reports[1]), (2, 18 * 5 * 2));
    assert!(reports[1].train_loss < reports[0].train_loss);
    assert!(weights(&result.model).iter().all(|w| w.is_finite()));

    let (result, handle, outcome) = train(OnNonFinite::Stop, Box::new(fixed()));
    let error = outcome.unwrap_err();
    assert!(matches!(error, TrainError::NonFinite { .. }), "{error}");
    assert!(handle.reports().is_empty());
    assert!(weights(&result.model).iter().all(|w| w.is_finite()));

    // Probes of 66 of the 100 steps nearly always read it, burn-in included.
    let policy = AdaptiveKConfig::new(0.5)
        .with_estimator(Estimator::Norms(BiasEstimator::new()))
        .with_k0(5)
        .with_k_max(20)
        .with_probes(2);
    let (_, handle, outcome) = train(OnNonFinite::Skip, Box::new(policy.init().unwrap()));
    outcome.unwrap();
    let decision = &handle.history()[0];
    assert_eq!((decision.unusable, decision.k), (2, 5), "{decision:?}");
}
