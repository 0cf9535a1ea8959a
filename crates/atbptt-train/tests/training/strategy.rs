//! The training strategy end to end: a tiny language model on the built-in language through Burn's
//! `SupervisedTraining`, every claim checked on numbers.
//!
//! The random generator is one per process, so tests that train take turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::path::Path;
use std::sync::{Arc, Mutex};

use atbptt_core::BiasEstimator;
use atbptt_core::policy::{
    AdaptiveKConfig, Estimator, FixedKConfig, MonitorConfig, Reason, Schedule, TruncationPolicy,
};
use atbptt_models::RecurrentModel;
use atbptt_train::data::Split;
use atbptt_train::metrics::StepMetric;
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, Clip, EpochReport, Scheme, SequenceSource, TbpttConfig, TokenSource,
    TrainError, TrainingObserver, evaluate,
};
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::optim::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::tensor::{Device, Tensor};
use burn::train::metric::store::{Aggregate, Direction, EventStoreClient, Split as Part};
use burn::train::metric::{LossMetric, Metric};
use burn::train::{
    EarlyStoppingStrategy, Interrupter, MetricEarlyStoppingStrategy, StoppingCondition,
};

use super::setup::{adam, config, launch, model, strategy};
use crate::common::{bits, corpus, timeless, training, turn, weights};

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
        let (loss, perplexity) = (LossMetric::new().name(), StepMetric::perplexity().name());
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
        .metrics((LossMetric::new(), StepMetric::perplexity()))
        .early_stopping(spy.clone())
        .num_epochs(4);
    let settings = TbpttConfig {
        eval_chunk: 30,
        ..config()
    };
    let strategy = strategy(FixedKConfig::new(7).init().unwrap(), settings);
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
    let strategy = strategy(FixedKConfig::new(7).init().unwrap(), settings);
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
    let source = |batch| TokenSource::evaluation(corpus.tokens(Split::Valid), batch).unwrap();
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
        strategy(FixedKConfig::new(6).init().unwrap(), config()),
        model(&corpus, 0.2, 2),
        adam(),
        1e-2,
    );
    handle.finish(&result).unwrap();
    let source = TokenSource::evaluation(corpus.tokens(Split::Valid), 1).unwrap();
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
    let strategy = strategy(FixedKConfig::new(10).init().unwrap(), config());
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
            let one = |report: &EpochReport| timeless(std::slice::from_ref(report));
            assert_eq!(one(got), one(&expected), "{why}");
        }
        assert_eq!(bits(&resumed.model), bits(&whole.model), "{why}");
    }
}

/// Burn's default checkpointing also asks for the loss of an epoch; without that metric it must still work.
#[test]
fn checkpoints_do_not_need_the_loss_metric() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let training = training(&corpus, folder.path())
        .metrics((StepMetric::perplexity(),))
        .with_default_checkpointers()
        .num_epochs(2);
    let strategy =
        strategy(FixedKConfig::new(5).init().unwrap(), config()).with_run_folder(folder.path());
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
    let strategy = strategy(FixedKConfig::new(5).init().unwrap(), config());
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
    let strategy = strategy(FixedKConfig::new(5).init().unwrap(), settings);
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
    let every_epoch = Schedule::every_epochs(1);
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
