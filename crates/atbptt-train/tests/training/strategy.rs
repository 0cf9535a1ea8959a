//! The training strategy end to end: a tiny language model on the built-in language through Burn's
//! `SupervisedTraining`, every claim checked on numbers.
//!
//! The random generator is one per process, so tests that train take turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::path::Path;
use std::sync::{Arc, Mutex};

use atbptt_core::BiasEstimator;
use atbptt_core::policy::{
    AdaptiveKConfig, Estimator, FixedK, FixedKConfig, MonitorConfig, RandomLengthConfig, Reason,
    Schedule, TruncationPolicy, UpdateEvery,
};
use atbptt_models::{
    LanguageModel, LanguageModelConfig, LstmLayer, RecurrentModel, RecurrentState, SequenceBatch,
};
use atbptt_train::data::{Corpus, Split, SyntheticConfig, TokenStream};
use atbptt_train::metrics::{ClippedShareMetric, PerplexityMetric};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, CheckpointFault, Clip, EpochReport, ProbeConfig, QuietRenderer,
    Scheme, SequenceSource, StepScaling, StreamLoader, Tbptt, TbpttConfig, TbpttHandle,
    TokenSource, TrainError, TrainingObserver, evaluate,
};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Gradients, Tensor};
use burn::train::metric::store::{Aggregate, Direction, EventStoreClient, Split as Part};
use burn::train::metric::{LossMetric, Metric};
use burn::train::{
    EarlyStoppingStrategy, Interrupter, Learner, LearningResult, MetricEarlyStoppingStrategy,
    StoppingCondition, SupervisedTraining,
};

use crate::common::turn;

type Model = LanguageModel<LstmLayer>;

/// A language of 36 words whose closers stand 3 steps after their openers.
fn corpus(train: usize, valid: usize) -> Corpus {
    let language = SyntheticConfig::default()
        .with_tokens(train, valid, 2)
        .with_vocabulary(36)
        .with_distances([3])
        .with_classes(2);
    Corpus::synthetic(&language).unwrap()
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn model(corpus: &Corpus, dropout: f64, seed: u64) -> Model {
    device().seed(seed);
    LanguageModelConfig::new(corpus.vocabulary().len())
        .with_hidden(12)
        .with_dropout(dropout)
        .init(&device())
        .unwrap()
}

/// Four training sequences, one validation sequence, no checkpoints.
fn training(corpus: &Corpus, folder: &Path) -> SupervisedTraining<Tbptt<Model>> {
    let train = TokenStream::for_training(corpus.tokens(Split::Train), 4).unwrap();
    let valid = TokenStream::exact(corpus.tokens(Split::Valid), 1).unwrap();
    SupervisedTraining::new(
        folder,
        StreamLoader::tokens(train).into_loader(),
        StreamLoader::tokens(valid).into_loader(),
    )
    .renderer(Box::new(QuietRenderer))
    .with_application_logger(None)
}

fn config() -> TbpttConfig {
    TbpttConfig {
        scheme: Scheme::Overlapping,
        probe: ProbeConfig::new(20),
        eval_chunk: 20,
        ..TbpttConfig::default()
    }
}

fn strategy(policy: impl TruncationPolicy + 'static, config: TbpttConfig) -> AdaptiveTbptt {
    AdaptiveTbptt::new(policy, config).unwrap()
}

fn adam() -> ModuleOptimizer {
    AdamConfig::new().init()
}

fn launch(
    training: SupervisedTraining<Tbptt<Model>>,
    strategy: AdaptiveTbptt,
    model: Model,
    optimizer: ModuleOptimizer,
    lr: impl Into<ModuleLrScheduler>,
) -> (LearningResult<Tbptt<Model>>, TbpttHandle) {
    let handle = strategy.handle();
    let result = training
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(Tbptt::new(model), optimizer, lr));
    (result, handle)
}

/// Bits of all weights in visiting order.
fn bits<M: Module>(module: &M) -> Vec<u32> {
    weights(module).into_iter().map(f32::to_bits).collect()
}

fn weights<M: Module>(module: &M) -> Vec<f32> {
    struct Collect(Vec<f32>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut collect = Collect(Vec::new());
    module.visit(&mut collect);
    collect.0
}

/// Reads Burn's own epoch values of every metric, and never stops.
#[derive(Clone, Default)]
struct Spy(Arc<Mutex<Vec<[f64; 4]>>>);

impl EarlyStoppingStrategy for Spy {
    fn should_stop(&mut self, epoch: usize, store: &EventStoreClient) -> bool {
        let read = |name: &str, part| {
            store
                .find_metric(name, epoch, Aggregate::Mean, &part)
                .unwrap()
        };
        let (loss, perplexity) = (LossMetric::new().name(), PerplexityMetric::new().name());
        self.0.lock().unwrap().push([
            read(&loss, Part::Train),
            read(&loss, Part::Valid),
            read(&perplexity, Part::Train),
            read(&perplexity, Part::Valid),
        ]);
        false
    }
}

fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    let off = (got - expected).abs() / expected.abs().max(1.0);
    assert!(off <= tolerance, "{what}: {got}, expected {expected}");
}

/// Windows of 7 steps and a last one of 1, validation chunks of 30 steps and a last one of 10: Burn's epoch values are
/// those of all tokens together, as ours are.
#[test]
fn the_loss_falls_and_burns_metrics_agree_with_the_reports() {
    let _turn = turn();
    let corpus = corpus(1604, 401);
    let folder = tempfile::tempdir().unwrap();
    let spy = Spy::default();
    let training = training(&corpus, folder.path())
        .metrics((LossMetric::new(), PerplexityMetric::new()))
        .early_stopping(spy.clone())
        .num_epochs(4);
    let settings = TbpttConfig {
        eval_chunk: 30,
        ..config()
    };
    let strategy = strategy(FixedK::new(7).unwrap(), settings);
    let start = model(&corpus, 0.1, 1);
    let (result, handle) = launch(training, strategy, start, adam(), 1e-2);
    handle.finish(&result).unwrap();
    let reports = handle.reports();
    assert_eq!(reports.len(), 4);
    let uniform = (corpus.vocabulary().len() as f64).ln();
    let last = reports[3].valid_loss.unwrap();
    assert!(
        last < 0.8 * uniform,
        "{last} after four epochs, {uniform} before"
    );
    for pair in reports.windows(2) {
        assert!(pair[1].train_loss < pair[0].train_loss);
    }
    let seen = spy.0.lock().unwrap();
    assert_eq!(seen.len(), 4);
    for (report, burn) in reports.iter().zip(seen.iter()) {
        let valid = report.valid_loss.unwrap();
        close("train loss", burn[0], report.train_loss, 1e-12);
        close("valid loss", burn[1], valid, 1e-12);
        close("train perplexity", burn[2], report.train_perplexity, 1e-12);
        close("valid perplexity", burn[3], valid.exp(), 1e-12);
        assert_eq!(report.train_perplexity, report.train_loss.exp());
        assert_eq!((report.tokens, report.k, report.mean_k), (1600, 7, 7.0));
        assert_eq!(report.step, 58 * report.epoch as u64);
    }
}

/// Plain BPTT(K; K) learns too, also where K does not divide the stream.
#[test]
fn plain_chunks_learn() {
    let _turn = turn();
    let corpus = corpus(1604, 201);
    let folder = tempfile::tempdir().unwrap();
    let settings = TbpttConfig {
        scheme: Scheme::Chunked,
        ..config()
    };
    let strategy = strategy(FixedK::new(7).unwrap(), settings);
    let (result, handle) = launch(
        training(&corpus, folder.path()).num_epochs(3),
        strategy,
        model(&corpus, 0.0, 1),
        adam(),
        1e-2,
    );
    handle.finish(&result).unwrap();
    let reports = handle.reports();
    assert!(reports[2].train_loss < 0.9 * reports[0].train_loss);
    // 400 = 57 · 7 + 1: 58 windows, every loss counted once.
    assert_eq!((reports[0].step, reports[0].tokens), (58, 1600));
}

/// Every token but the first counts once, whatever the batch and the chunk; one sequence is the model run over all.
#[test]
fn exact_evaluation_counts_every_token_once() {
    let _turn = turn();
    let corpus = corpus(1604, 402);
    let model = model(&corpus, 0.3, 5).valid();
    let device = Device::flex();
    let source = |batch| {
        let stream = TokenStream::exact(corpus.tokens(Split::Valid), batch).unwrap();
        TokenSource::new(stream)
    };
    // 401 targets: 3 sequences of 134, 134 and 133 steps; 7 of 58 (twice) and 57.
    for batch in [1, 3, 7] {
        let source = source(batch);
        let whole = evaluate(&model, &source, 10_000, &device).unwrap();
        assert_eq!(whole.count, 401);
        for chunk in [1, 7, 50, 57, 133, 134] {
            let total = evaluate(&model, &source, chunk, &device).unwrap();
            assert_eq!(total.count, 401, "batch {batch}, chunk {chunk}");
            close("summed loss", total.sum, whole.sum, 1e-6);
        }
    }
    let all = source(1).window(0, 401, &device).unwrap();
    let (features, _) = model.forward(&all, None).unwrap();
    let by_hand = model.loss(features, &all).unwrap().sum.into_scalar::<f64>();
    let total = evaluate(&model, &source(1), 64, &device).unwrap();
    close("summed loss", total.sum, by_hand, 1e-6);
}

/// What training reports as validation loss is what `evaluate` gives for the model it returns.
#[test]
fn the_last_report_is_the_returned_models_loss() {
    let _turn = turn();
    let corpus = corpus(804, 202);
    let folder = tempfile::tempdir().unwrap();
    let (result, handle) = launch(
        training(&corpus, folder.path()),
        strategy(FixedK::new(6).unwrap(), config()),
        model(&corpus, 0.2, 2),
        adam(),
        1e-2,
    );
    handle.finish(&result).unwrap();
    let stream = TokenStream::exact(corpus.tokens(Split::Valid), 1).unwrap();
    let source = TokenSource::new(stream);
    let total = evaluate(result.model.inner(), &source, 20, &Device::flex()).unwrap();
    let mean = total.sum / total.count as f64;
    assert_eq!(handle.reports()[0].valid_loss, Some(mean));
}

/// A step size of zero changes nothing: no epoch is better than the first, so the second is the last.
#[test]
fn early_stopping_stops() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let stop = MetricEarlyStoppingStrategy::new(
        &LossMetric::new(),
        Aggregate::Mean,
        Direction::Lowest,
        Part::Valid,
        StoppingCondition::NoImprovementSince { n_epochs: 1 },
    );
    let training = training(&corpus, folder.path())
        .metrics((LossMetric::new(),))
        .early_stopping(stop)
        .num_epochs(10);
    let start = model(&corpus, 0.0, 1);
    let before = bits(&start);
    let strategy = strategy(FixedK::new(10).unwrap(), config());
    let (result, handle) = launch(training, strategy, start, SgdConfig::new().init(), 0.0);
    handle.finish(&result).unwrap();
    assert_eq!(handle.reports().len(), 2);
    assert_eq!(bits(&result.model), before);
}

/// Stops the run after so many windows.
struct StopAfter {
    windows: Mutex<usize>,
    interrupter: Interrupter,
}

impl TrainingObserver for StopAfter {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _loss: f64) {
        let mut left = self.windows.lock().unwrap();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.interrupter.stop(Some("enough"));
        }
    }
}

/// A run stopped in the middle of an epoch, at its last window or between epochs, and gone on with from its checkpoint
/// in a new process' place (another start model), ends where the run that was never stopped ends: to the bit, with
/// dropout, adaptive K, Adam's moments and a moving learning rate.
#[test]
fn a_resumed_run_ends_where_the_uninterrupted_one_does() {
    let _turn = turn();
    let corpus = corpus(804, 101);
    let policy = || {
        AdaptiveKConfig::new(0.5)
            .with_estimator(Estimator::Norms(BiasEstimator::new()))
            .with_k0(6)
            .with_k_max(20)
            .with_probes(2)
            .init()
            .unwrap()
    };
    let schedule = || LinearLrSchedulerConfig::new(2e-2, 1e-3, 90).init().unwrap();
    let run = |folder: &Path, seed, epochs, resume: bool, stop: Option<usize>| {
        let interrupter = Interrupter::new();
        let training = training(&corpus, folder)
            .metrics((LossMetric::new(),))
            .with_interrupter(interrupter.clone())
            .num_epochs(epochs);
        let mut strategy = strategy(policy(), config()).with_run_folder(folder);
        if resume {
            strategy = strategy.resume(Checkpoint::newest(folder).unwrap());
        }
        if let Some(windows) = stop {
            strategy = strategy.with_observer(Arc::new(StopAfter {
                windows: Mutex::new(windows),
                interrupter,
            }));
        }
        let (result, handle) = launch(
            training,
            strategy,
            model(&corpus, 0.3, seed),
            adam(),
            schedule(),
        );
        handle.finish(&result).unwrap();
        (result, handle)
    };
    let whole_folder = tempfile::tempdir().unwrap();
    let (whole, expected) = run(whole_folder.path(), 3, 3, false, None);
    assert_eq!(expected.reports().len(), 3);
    let first = expected.reports()[0].step as usize;
    let second = expected.reports()[1].step as usize - first;

    // (windows before the stop, epochs of the first run, why)
    for (stop, epochs, why) in [
        (Some(first + second / 2), 3, "in the middle of an epoch"),
        (Some(first + 1), 3, "right after the probes of an epoch"),
        (Some(first + second), 3, "at the last window of an epoch"),
        (None, 2, "between epochs"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (stopped, handle) = run(folder.path(), 3, epochs, false, stop);
        assert_eq!(stopped.interrupted.is_some(), stop.is_some(), "{why}");
        assert_eq!(handle.reports().len(), if stop.is_some() { 1 } else { 2 });
        assert_eq!(handle.interrupted(), stop.is_some(), "{why}");
        let saved = Checkpoint::newest(folder.path()).unwrap();
        assert_eq!(saved.epochs(), if stop.is_some() { 1 } else { 2 }, "{why}");

        let (resumed, handle) = run(folder.path(), 99, 3, true, None);
        assert_eq!(handle.resumed().unwrap().step, saved.step(), "{why}");
        assert_eq!(handle.history(), expected.history(), "{why}");
        assert_eq!(handle.reports().len(), 3, "{why}");
        for (got, expected) in handle.reports().iter().zip(expected.reports()) {
            assert_eq!(timeless(got), timeless(&expected), "{why}");
        }
        assert_eq!(bits(&resumed.model), bits(&whole.model), "{why}");
    }
}

/// A report without its times.
fn timeless(report: &EpochReport) -> EpochReport {
    EpochReport {
        train_seconds: 0.0,
        probe_seconds: 0.0,
        valid_seconds: 0.0,
        elapsed_seconds: 0.0,
        ..report.clone()
    }
}

/// Burn's default checkpointing also asks for the loss of an epoch; without that metric it must still work.
#[test]
fn checkpoints_do_not_need_the_loss_metric() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let training = training(&corpus, folder.path())
        .metrics((PerplexityMetric::new(),))
        .with_default_checkpointers()
        .num_epochs(2);
    let strategy = strategy(FixedK::new(5).unwrap(), config()).with_run_folder(folder.path());
    let (result, handle) = launch(training, strategy, model(&corpus, 0.0, 1), adam(), 1e-3);
    handle.finish(&result).unwrap();
    assert_eq!(Checkpoint::newest(folder.path()).unwrap().epochs(), 2);
    // Burn's own files are there for other programs.
    for file in ["model-2.bpk", "optim-2.bpk", "scheduler-2.bpk"] {
        assert!(
            folder.path().join("checkpoint").join(file).is_file(),
            "{file}"
        );
    }
}

/// A run of another batch size, and a folder without a checkpoint, are errors with a remedy, not a silent restart.
#[test]
fn a_checkpoint_that_does_not_fit_is_a_typed_error() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let run = |batch: usize, resume: Option<Checkpoint>| {
        let stream = TokenStream::for_training(corpus.tokens(Split::Train), batch).unwrap();
        let valid = TokenStream::exact(corpus.tokens(Split::Valid), 1).unwrap();
        let training = SupervisedTraining::new(
            folder.path(),
            StreamLoader::tokens(stream).into_loader(),
            StreamLoader::tokens(valid).into_loader(),
        )
        .renderer(Box::new(QuietRenderer))
        .with_application_logger(None)
        .metrics((LossMetric::new(),));
        let mut strategy =
            strategy(FixedK::new(5).unwrap(), config()).with_run_folder(folder.path());
        if let Some(checkpoint) = resume {
            strategy = strategy.resume(checkpoint);
        }
        let (result, handle) = launch(training, strategy, model(&corpus, 0.0, 1), adam(), 1e-3);
        handle.finish(&result)
    };
    let missing = Checkpoint::newest(folder.path()).unwrap_err();
    assert!(
        matches!(missing, TrainError::NoCheckpoint { .. }),
        "{missing}"
    );
    run(4, None).unwrap();
    let saved = Checkpoint::newest(folder.path()).unwrap();
    let error = run(3, Some(saved)).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            &error,
            TrainError::Checkpoint {
                fault: CheckpointFault::OtherRun { .. },
                ..
            }
        ) && text.contains("sequences is 4 in the checkpoint and 3 now"),
        "{text}"
    );
    let error = run(4, None).unwrap_err();
    assert!(matches!(error, TrainError::RunExists { .. }), "{error}");
}

/// A NaN in the model: the run ends with the place named, and the weights are the ones it started with.
#[test]
fn a_nan_stops_the_run_and_leaves_the_weights() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let mut start = model(&corpus, 0.0, 1);
    start.softmax_bias = start
        .softmax_bias
        .map(|bias| Tensor::from_inner(bias.inner() * f64::NAN).require_grad());
    let before = bits(&start);
    let strategy = strategy(FixedK::new(5).unwrap(), config());
    let (result, handle) = launch(
        training(&corpus, folder.path()),
        strategy,
        start,
        adam(),
        0.1,
    );
    assert!(result.error.is_some());
    let error = handle.finish(&result).unwrap_err();
    assert!(
        matches!(
            error,
            TrainError::NonFinite {
                what: "loss",
                epoch: 1,
                step: 0,
                k: 5,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(bits(&result.model), before);
    assert!(handle.reports().is_empty());
}

/// A step size without measure blows the weights up after some steps; the last finite ones stay.
#[test]
fn a_run_that_diverges_ends_with_finite_weights() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let settings = TbpttConfig {
        clip: Clip::None,
        ..config()
    };
    let strategy = strategy(FixedK::new(5).unwrap(), settings);
    let (result, handle) = launch(
        training(&corpus, folder.path()).num_epochs(50),
        strategy,
        model(&corpus, 0.0, 1),
        SgdConfig::new().init(),
        1e37,
    );
    let error = handle.finish(&result).unwrap_err();
    assert!(
        matches!(error, TrainError::NonFinite { step, .. } if step > 0)
            || matches!(error, TrainError::NonFiniteValidation { .. }),
        "{error}"
    );
    assert!(weights(&result.model).iter().all(|w| w.is_finite()));
}

/// A controller decides once per epoch after the first; a watched fixed K records and changes nothing.
#[test]
fn policies_decide_and_record() {
    let _turn = turn();
    let corpus = corpus(1604, 101);
    let run = |policy: Box<dyn TruncationPolicy>| {
        let folder = tempfile::tempdir().unwrap();
        let strategy = AdaptiveTbptt::new(policy, config()).unwrap();
        let (result, handle) = launch(
            training(&corpus, folder.path()).num_epochs(3),
            strategy,
            model(&corpus, 0.1, 1),
            adam(),
            1e-2,
        );
        handle.finish(&result).unwrap();
        handle
    };
    let every_epoch = Schedule::regular(UpdateEvery::Epochs(1));
    let adaptive = AdaptiveKConfig::new(0.1)
        .with_estimator(Estimator::Norms(BiasEstimator::new()))
        .with_k0(10)
        .with_k_min(2)
        .with_k_max(15)
        .with_schedule(every_epoch);
    let handle = run(Box::new(adaptive.init().unwrap()));
    let (reports, history) = (handle.reports(), handle.history());
    assert_eq!(reports[0].k, 10, "before the first decision");
    assert_eq!(reports[0].reason, None);
    assert_eq!(history.len(), 2);
    for (report, decision) in reports[1..].iter().zip(&history) {
        assert!((2..=15).contains(&decision.k));
        assert_eq!((report.k, report.mean_k), (decision.k, decision.k as f64));
        assert_eq!(report.reason, Some(decision.explanation()));
        assert_eq!(decision.position.epoch, report.epoch - 1);
        assert_eq!(report.relative_bias, decision.relative_bias);
        assert!(report.decay.unwrap() > 0.0);
        assert!(report.probe_seconds > 0.0);
        assert_eq!(report.tokens, 1600);
    }
    assert!(handle.last_estimate().is_some());

    let monitor = MonitorConfig::default()
        .with_estimator(Estimator::Norms(BiasEstimator::new()))
        .with_schedule(every_epoch);
    let fixed = FixedKConfig::new(6).with_monitor(Some(monitor));
    let handle = run(Box::new(fixed.init().unwrap()));
    assert!(handle.reports().iter().all(|report| report.k == 6));
    let history = handle.history();
    assert_eq!(history.len(), 2);
    assert!(
        history
            .iter()
            .all(|d| (d.k, d.reason) == (6, Reason::Fixed))
    );
    assert!(handle.reports()[2].decay.is_some());
}

/// 400 steps of every sequence: 50 windows of eight losses an epoch, and an update for every three of them, 17 in all. Probes after 2,
/// 4, 8 and 16 updates and with the second epoch.
#[test]
fn accumulated_windows_count_as_one_update() {
    let _turn = turn();
    let corpus = corpus(1604, 101);
    let schedule = Schedule::regular(UpdateEvery::Epochs(1)).with_first(Some(2));
    let monitor = MonitorConfig::default().with_schedule(schedule);
    let policy = FixedKConfig::new(6).with_monitor(Some(monitor));
    let folder = tempfile::tempdir().unwrap();
    let scheme = Scheme::Strided { losses: 8 };
    let strategy = strategy(policy.init().unwrap(), TbpttConfig { scheme, ..config() });
    let training = training(&corpus, folder.path())
        .grads_accumulation(3)
        .num_epochs(2);
    let (result, handle) = launch(training, strategy, model(&corpus, 0.0, 1), adam(), 1e-2);
    handle.finish(&result).unwrap();
    let history = handle.history();
    let updates: Vec<u64> = history.iter().map(|d| d.position.update).collect();
    assert_eq!(updates, [2, 4, 8, 16, 17]);
    assert_eq!(history[4].position.epoch, 1);
}

/// A window: first step, length, first step with a loss, and steps until the carried state; and the factor on its step.
type Span = (usize, usize, usize, usize, f64);

/// Plain SGD over 7 steps, written out: mean loss of the window, its global norm clipped to `limit`, step size of the scheduler
/// times the window's own factor; the gradients of `every` windows, at the same weights, make one update.
fn sgd_by_hand(
    mut model: Model,
    windows: &[Span],
    source: &TokenSource,
    mut lr: ModuleLrScheduler,
    limit: f64,
    every: usize,
) -> Model {
    struct Norm<'a>(&'a Gradients, f64);
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = param.val().grad(self.0).unwrap();
            self.1 += grad.square().sum().into_scalar::<f64>();
        }
    }
    /// The step that a gradient asks for, by parameter.
    struct Steps<'a>(&'a Gradients, f64, &'a mut Vec<(Vec<f64>, f64)>);
    impl ModuleVisitor for Steps<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = param.val().grad(self.0).unwrap().into_data();
            self.2.push((grad.iter::<f64>().collect(), self.1));
        }
    }
    struct Descend(std::collections::VecDeque<(Vec<f64>, f64)>);
    impl ModuleMapper for Descend {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (grad, rate) = self.0.pop_front().unwrap();
            param.map(|w| {
                let shape = w.dims();
                let values = w.clone().into_data();
                let moved: Vec<f64> = values
                    .iter::<f64>()
                    .zip(grad)
                    .map(|(w, g)| w - g * rate)
                    .collect();
                let moved = burn::tensor::TensorData::new(moved, shape);
                Tensor::from_data(moved, (&device(), w.dtype())).require_grad()
            })
        }
    }
    let mut state = None;
    for group in windows.chunks(every) {
        let rate = lr.step().base();
        let mut steps = Vec::new();
        for &(start, len, loss_from, carry, factor) in group {
            let batch = source.window(start, len, &device()).unwrap();
            let (features, _) = model.forward(&batch, state.clone()).unwrap();
            let tail = features.narrow(1, loss_from, len - loss_from);
            let loss = model.loss(tail, &batch.slice(loss_from..len)).unwrap();
            let grads = (loss.sum / loss.count as f64).backward();
            if carry > 0 {
                let (_, carried) = model.forward(&batch.slice(0..carry), state).unwrap();
                state = Some(carried.detach());
            }
            let mut norm = Norm(&grads, 0.0);
            model.visit(&mut norm);
            let clip = (limit / norm.1.sqrt()).min(1.0);
            assert!(clip < 1.0 || limit.is_infinite(), "the test clips");
            let mut of_window = Vec::new();
            model.visit(&mut Steps(&grads, rate * factor * clip, &mut of_window));
            steps.push(of_window);
        }
        for of_window in steps {
            model = model.map(&mut Descend(of_window.into()));
        }
    }
    model
}

/// One epoch of SGD over 7 steps with `policy` against the windows by hand. f32 weights of order 0.3 after a few steps: 1e-6.
fn assert_sgd(
    what: &str,
    policy: Box<dyn TruncationPolicy>,
    settings: TbpttConfig,
    windows: &[Span],
    limit: f64,
    every: Option<usize>,
) -> EpochReport {
    let corpus = corpus(32, 11);
    let schedule = || LinearLrSchedulerConfig::new(1.0, 0.25, 3).init().unwrap();
    let start = model(&corpus, 0.0, 4);
    let stream = TokenStream::for_training(corpus.tokens(Split::Train), 4).unwrap();
    let source = TokenSource::new(stream);
    assert_eq!(source.common_steps(), 7);
    let every_window = every.unwrap_or(1);
    let expected = sgd_by_hand(
        start.clone(),
        windows,
        &source,
        schedule(),
        limit,
        every_window,
    );
    let folder = tempfile::tempdir().unwrap();
    let mut training = training(&corpus, folder.path());
    if let Some(every) = every {
        training = training.grads_accumulation(every);
    }
    let strategy = AdaptiveTbptt::new(policy, settings).unwrap();
    let sgd = SgdConfig::new().init();
    let (result, handle) = launch(training, strategy, start.clone(), sgd, schedule());
    handle.finish(&result).unwrap();
    let (got, expected, start) = (weights(&result.model), weights(&expected), weights(&start));
    let largest = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(largest(&got, &start) > 1e-3, "{what}: nothing was learned");
    let off = largest(&got, &expected);
    assert!(off < 1e-6, "{what}: off by {off:e}");
    handle.reports().remove(0)
}

/// K = 3 over 7 steps, by scheme; the factor is the share of losses of the last, shorter window.
fn spans_of_three(scheme: Scheme) -> Vec<Span> {
    match scheme {
        // m = 2: K − 1 + m = 4 steps, the last two with a loss.
        Scheme::Strided { .. } => vec![
            (0, 2, 0, 0, 1.0),
            (0, 4, 2, 2, 1.0),
            (2, 4, 2, 2, 1.0),
            (4, 3, 2, 1, 0.5),
        ],
        Scheme::Overlapping => {
            vec![
                (0, 3, 0, 1, 1.0),
                (1, 5, 2, 3, 1.0),
                (4, 3, 2, 1, 1.0 / 3.0),
            ]
        }
        Scheme::Chunked => vec![
            (0, 3, 0, 3, 1.0),
            (3, 3, 0, 3, 1.0),
            (6, 1, 0, 1, 1.0 / 3.0),
        ],
    }
}

fn fixed(k: usize) -> Box<dyn TruncationPolicy> {
    Box::new(FixedK::new(k).unwrap())
}

/// One epoch against SGD by hand: scheme, carried state, mean loss, clipping, step scaling, the last window's share of a step
/// and the scheduler.
#[test]
fn an_epoch_is_sgd_by_hand() {
    let _turn = turn();
    let limit = 0.05;
    for scheme in [
        Scheme::Strided { losses: 2 },
        Scheme::Overlapping,
        Scheme::Chunked,
    ] {
        for (step_scaling, factor) in [
            (StepScaling::None, 1.0),
            (StepScaling::SqrtK, 3f64.sqrt()),
            (StepScaling::LinearK, 3.0),
        ] {
            for (clip, limit) in [
                (Clip::None, f64::INFINITY),
                (Clip::Norm(limit), limit),
                (Clip::PerK(limit), limit / 3.0),
            ] {
                let what = format!("{scheme:?}, {step_scaling:?}, {clip:?}");
                let settings = TbpttConfig {
                    scheme,
                    step_scaling,
                    clip,
                    ..config()
                };
                let windows: Vec<Span> = spans_of_three(scheme)
                    .into_iter()
                    .map(|(a, b, c, d, share)| (a, b, c, d, share * factor))
                    .collect();
                let report = assert_sgd(&what, fixed(3), settings, &windows, limit, None);
                let clipped = if limit.is_finite() { windows.len() } else { 0 };
                assert_eq!((report.windows, report.clipped), (windows.len(), clipped));
            }
        }
    }
}

/// Two windows to an update. Every window keeps its own share: stepped with the last one's factor, the third window, as long as
/// the others, would lose half its weight.
#[test]
fn accumulated_windows_keep_their_own_share_of_the_step() {
    let _turn = turn();
    let scheme = Scheme::Strided { losses: 2 };
    for (clip, limit) in [(Clip::None, f64::INFINITY), (Clip::Norm(0.05), 0.05)] {
        let settings = TbpttConfig {
            scheme,
            clip,
            ..config()
        };
        let what = format!("{clip:?}");
        assert_sgd(
            &what,
            fixed(3),
            settings,
            &spans_of_three(scheme),
            limit,
            Some(2),
        );
    }
}

/// The windows of random lengths as the policy draws them, one after the other; factor: the policy's, and the share of the last
/// window. A clip by the drawn length would make all updates equally long, and undo the policy's weights.
#[test]
fn a_clip_by_k_takes_the_typical_length_of_a_random_policy() {
    let _turn = turn();
    let policy = || {
        let lengths = RandomLengthConfig::new(3).with_spread(1.0).with_seed(5);
        lengths.init().unwrap()
    };
    let (mut draws, mut at, mut windows) = (policy(), 0, Vec::new());
    while at < 7 {
        let k = draws.next_window().k;
        let len = k.min(7 - at);
        windows.push((at, len, 0, len, len as f64 / 3.0));
        at += len;
    }
    let lengths: Vec<usize> = windows.iter().map(|window| window.1).collect();
    assert!(lengths.iter().any(|len| *len != lengths[0]), "{lengths:?}");
    for every in [None, Some(2)] {
        let settings = TbpttConfig {
            scheme: Scheme::Chunked,
            clip: Clip::PerK(0.05),
            ..config()
        };
        let what = format!("{every:?}");
        let limit = 0.05 / 3.0;
        assert_sgd(&what, Box::new(policy()), settings, &windows, limit, every);
    }
}

/// 400 steps in windows of 20 losses: as many updates for any K, and every loss counts once.
#[test]
fn by_default_k_changes_the_reach_of_the_gradient_alone() {
    let _turn = turn();
    let corpus = corpus(1604, 101);
    for k in [2, 20, 60] {
        let folder = tempfile::tempdir().unwrap();
        let settings = TbpttConfig {
            probe: ProbeConfig::new(20),
            ..TbpttConfig::default()
        };
        let (result, handle) = launch(
            training(&corpus, folder.path()),
            strategy(FixedK::new(k).unwrap(), settings),
            model(&corpus, 0.0, 1),
            adam(),
            1e-2,
        );
        handle.finish(&result).unwrap();
        let report = &handle.reports()[0];
        let counts = (report.step, report.windows, report.tokens);
        assert_eq!(counts, (20, 20, 1600), "K = {k}");
    }
}

/// A clip that binds everywhere, and none: both are told.
#[test]
fn the_share_of_windows_in_which_the_clip_bound_is_reported() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let run = |clip| {
        let folder = tempfile::tempdir().unwrap();
        let share = Share::default();
        let training = training(&corpus, folder.path())
            .metric_train_numeric(ClippedShareMetric::new())
            .early_stopping(share.clone());
        let settings = TbpttConfig { clip, ..config() };
        let (result, handle) = launch(
            training,
            strategy(FixedK::new(10).unwrap(), settings),
            model(&corpus, 0.0, 1),
            adam(),
            1e-3,
        );
        handle.finish(&result).unwrap();
        let report = handle.reports().remove(0);
        assert_eq!(*share.0.lock().unwrap(), Some(report.clipped_share()));
        report
    };
    let bound = run(Clip::Norm(1e-6));
    assert_eq!((bound.windows, bound.clipped_share()), (10, 1.0));
    let text = bound.to_string();
    assert!(
        text.contains("gradient clipped in 100 % of windows"),
        "{text}"
    );
    let free = run(Clip::None);
    assert_eq!((free.windows, free.clipped_share()), (10, 0.0));
    assert!(!free.to_string().contains("clipped"), "{free}");
}

/// What Burn's metric says of the share of clipped windows.
#[derive(Clone, Default)]
struct Share(Arc<Mutex<Option<f64>>>);

impl EarlyStoppingStrategy for Share {
    fn should_stop(&mut self, epoch: usize, store: &EventStoreClient) -> bool {
        let name = ClippedShareMetric::new().name();
        *self.0.lock().unwrap() = store.find_metric(&name, epoch, Aggregate::Mean, &Part::Train);
        false
    }
}

#[test]
fn what_does_not_fit_the_stream_is_a_typed_error() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let run = |policy: Box<dyn TruncationPolicy>, config: TbpttConfig| {
        let folder = tempfile::tempdir().unwrap();
        let strategy = AdaptiveTbptt::new(policy, config).unwrap();
        let (result, handle) = launch(
            training(&corpus, folder.path()),
            strategy,
            model(&corpus, 0.0, 1),
            adam(),
            1e-3,
        );
        handle.finish(&result).unwrap_err()
    };
    let adaptive = |k_max| {
        let config = AdaptiveKConfig::new(0.5)
            .with_estimator(Estimator::Norms(BiasEstimator::new()))
            .with_k0(5)
            .with_k_max(k_max);
        Box::new(config.init().unwrap())
    };
    // 404 tokens in 4 sequences: 100 steps each.
    let long = TbpttConfig {
        probe: ProbeConfig::new(100),
        ..config()
    };
    let error = run(adaptive(20), long.clone());
    assert!(
        matches!(
            error,
            TrainError::ProbeTooLong {
                needed: 110,
                window: 100,
                burn_in: 10,
                steps: 100
            }
        ),
        "{error}"
    );
    let error = run(adaptive(101), config());
    assert!(
        matches!(
            error,
            TrainError::StreamTooShort {
                k_max: 101,
                steps: 100
            }
        ),
        "{error}"
    );

    let wide = config().with_losses(101);
    let error = run(Box::new(FixedK::new(5).unwrap()), wide);
    assert!(
        matches!(
            error,
            TrainError::StrideTooLong {
                losses: 101,
                steps: 100
            }
        ),
        "{error}"
    );

    // Without probes a long one does not matter.
    let folder = tempfile::tempdir().unwrap();
    let strategy = strategy(FixedK::new(100).unwrap(), long);
    let (result, handle) = launch(
        training(&corpus, folder.path()),
        strategy,
        model(&corpus, 0.0, 1),
        adam(),
        1e-3,
    );
    handle.finish(&result).unwrap();
    assert_eq!(handle.reports()[0].step, 1);
}

#[test]
fn settings_outside_their_range_are_refused() {
    let field = |config: TbpttConfig| match AdaptiveTbptt::new(FixedK::new(5).unwrap(), config) {
        Err(TrainError::Config { field, .. }) => field,
        other => panic!("{:?}", other.map(|_| ())),
    };
    for clip in [Clip::Norm(f64::NAN), Clip::Norm(0.0), Clip::PerK(-1.0)] {
        assert_eq!(field(TbpttConfig { clip, ..config() }), "clip");
    }
    assert_eq!(field(config().with_losses(0)), "losses");
    let probe = ProbeConfig::new(1);
    assert_eq!(field(TbpttConfig { probe, ..config() }), "window");
    let eval_chunk = 0;
    assert_eq!(
        field(TbpttConfig {
            eval_chunk,
            ..config()
        }),
        "eval_chunk"
    );
}
