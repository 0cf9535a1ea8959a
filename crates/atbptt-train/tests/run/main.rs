//! [`Run`]: a folder that belongs to one run and one process, runs that go on exactly, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

mod folders;
mod tensorboard;
mod trained;

use atbptt_core::policy::AdaptiveKConfig;
use atbptt_models::{
    GruLayer, LanguageModel, LanguageModelConfig, LstmLayer, NamedTensors, SeriesLoss, SeriesModel,
    SeriesModelConfig, TokenBatch,
};
use atbptt_train::data::{
    Corpus, Normalisation, PackedSource, Series, SeriesSet, Split, SyntheticConfig,
};
use atbptt_train::run::{Display, Run, RunFault, RunFolder, RunResult, RunSummary, TrainedModel};
use atbptt_train::{Checkpoint, Clip, ProbeConfig, SequenceSource, Tbptt, TbpttConfig, TrainError};
use burn::module::Module;
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::Device;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Model = LanguageModel<LstmLayer>;

static TURN: Mutex<()> = Mutex::new(());

/// The random generator is one per process, so tests that train take turns.
fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn corpus() -> Corpus {
    let language = SyntheticConfig::default()
        .with_tokens(804, 101, 53)
        .with_vocabulary(36)
        .with_distances([3])
        .with_classes(2);
    Corpus::synthetic(&language).unwrap()
}

fn run(epochs: usize, corpus: &Corpus) -> Run<Model> {
    Run::new(AdaptiveKConfig::new(0.5).with_k0(6).with_k_max(20))
        .with_training(TbpttConfig {
            probe: ProbeConfig::new(24),
            seed: 7,
            ..TbpttConfig::default()
        })
        .with_epochs(epochs)
        .with_display(Display::Silent)
        .must_match("data", corpus.fingerprint())
}

fn train(run: Run<Model>, folder: &RunFolder, lr: f64) -> Result<RunResult<Model>, TrainError> {
    let corpus = corpus();
    let device = run.device().unwrap();
    let model = LanguageModelConfig::new(corpus.vocabulary().len())
        .with_hidden(8)
        .init(&device)
        .unwrap();
    let (train, valid) = (
        corpus.training(4).unwrap(),
        corpus.evaluation(Split::Valid, 2).unwrap(),
    );
    run.train(folder, model, train, valid, SgdConfig::new().init(), lr)
}

/// Losses with all their digits.
fn losses(result: &RunResult<Model>) -> Vec<(u64, u64)> {
    let bits = |loss: Option<f64>| loss.unwrap().to_bits();
    let row =
        |report: &atbptt_train::EpochReport| (report.train_loss.to_bits(), bits(report.valid_loss));
    result.reports.iter().map(row).collect()
}

fn fault<T: std::fmt::Debug>(result: Result<T, TrainError>) -> RunFault {
    match result.unwrap_err() {
        TrainError::Run { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn a_run_leaves_settings_metrics_and_its_result_and_goes_on_exactly() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let test = corpus.evaluation(Split::Test, 1).unwrap();
    let whole = RunFolder::numbered(parent.path(), "some").unwrap();
    assert!(whole.path().ends_with("some-1"));
    let whole = train(run(3, &corpus).with_test(test.clone()), &whole, 1.0).unwrap();
    assert_eq!((whole.interrupted, whole.reports.len()), (false, 3));
    assert!(whole.reports[0].measures["test_perplexity"] > 1.0);
    let text = std::fs::read_to_string(whole.folder.path().join("result.json")).unwrap();
    let summary: RunSummary = serde_json::from_str(&text).unwrap();
    assert_eq!(Some(&summary), whole.summary.as_ref());
    let settings = std::fs::read_to_string(whole.folder.path().join("config.json")).unwrap();
    assert!(settings.contains("\"delta\": 0.5"), "{settings}");

    let parts = RunFolder::numbered(parent.path(), "some").unwrap();
    assert!(parts.path().ends_with("some-2"));
    let first = train(run(2, &corpus).with_test(test.clone()), &parts, 1.0).unwrap();
    assert_eq!(losses(&first), losses(&whole)[..2]);
    drop((parts, first));
    let path = parent.path().join("some-2");
    // Another seed of the weights would show: they come from the checkpoint.
    let again = RunFolder::resume(&path).unwrap();
    let again = train(run(3, &corpus).with_test(test), &again, 1.0).unwrap();
    assert_eq!(losses(&again), losses(&whole));
    let changed: Vec<String> = again
        .resumed
        .unwrap()
        .changes
        .iter()
        .map(|c| c.name.clone())
        .collect();
    assert_eq!(changed, ["epochs"]);
}

#[test]
fn two_runs_of_one_seed_give_the_same_numbers_and_another_seed_others() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let of_seed = |seed: u64| {
        let folder = RunFolder::numbered(parent.path(), "seed").unwrap();
        let training = TbpttConfig {
            probe: ProbeConfig::new(24),
            seed,
            ..TbpttConfig::default()
        };
        losses(&train(run(1, &corpus).with_training(training), &folder, 1.0).unwrap())
    };
    assert_eq!(of_seed(3), of_seed(3));
    assert_ne!(of_seed(3), of_seed(4));
}

#[test]
fn a_run_can_be_stopped_from_elsewhere_and_named_losses_have_no_perplexity() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let folder = RunFolder::numbered(parent.path(), "stopped").unwrap();
    let stopped = run(5, &corpus);
    stopped.interrupter().stop(Some("the test says so"));
    let stopped = train(stopped, &folder, 1.0).unwrap();
    assert!(stopped.interrupted);
    assert!(stopped.summary.is_none() && !folder.path().join("result.json").exists());
    assert!(stopped.to_string().contains("--resume"));

    let folder = RunFolder::numbered(parent.path(), "named").unwrap();
    let named = run(1, &corpus)
        .with_loss_name("Loss (nats)")
        .with_test(corpus.evaluation(Split::Test, 1).unwrap())
        .with_measures(|_| Ok([("of_ones_own", 2.5)]));
    let named = train(named, &folder, 1.0).unwrap();
    let measures: Vec<&String> = named.reports[0].measures.keys().collect();
    assert_eq!(measures, ["of_ones_own", "test_loss"]);
    assert_eq!(named.summary.unwrap().measure("of_ones_own", 1), "2.5");
}

fn weights(model: &Model) -> Vec<u8> {
    let weights = NamedTensors::of(model).unwrap();
    weights.to_safetensors(&[]).unwrap()
}

/// Every window once, in order, and the last time the model that comes out.
#[test]
fn the_model_is_shown_after_every_window_with_its_place() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let folder = RunFolder::numbered(parent.path(), "shown").unwrap();
    let seen = Arc::new(Mutex::new((Vec::new(), Vec::<u8>::new())));
    let looked = seen.clone();
    let shown = run(2, &corpus).after_windows(move |model: &Model, place| {
        let mut seen = looked.lock().unwrap();
        seen.0.push((place.epoch, place.window, place.counted));
        seen.1 = weights(model);
        Ok(())
    });
    let result = train(shown, &folder, 1.0).unwrap();
    let (places, last) = seen.lock().unwrap().clone();
    // 200 steps by 20 losses.
    let expected = (1..=2).flat_map(|epoch| (1..=10).map(move |nth| (epoch, nth)));
    let expected: Vec<(usize, u64, usize)> = expected
        .map(|(epoch, nth)| (epoch, (epoch as u64 - 1) * 10 + nth, 20 * nth as usize))
        .collect();
    assert_eq!(places, expected);
    assert!(last == weights(&result.model), "another model");

    let folder = RunFolder::numbered(parent.path(), "failed").unwrap();
    let fails = run(2, &corpus).after_windows(|_: &Model, place| match place.window {
        3 => Err(TrainError::Read {
            reason: "no room left".into(),
        }),
        _ => Ok(()),
    });
    let error = train(fails, &folder, 1.0).unwrap_err().to_string();
    assert!(error.contains("no room left"), "{error}");
}

/// A source that notes what was trained on, and whether a probe read more than that.
struct Watched {
    inner: atbptt_train::TokenSource,
    trained: AtomicUsize,
    ahead: AtomicUsize,
}

impl SequenceSource for Watched {
    type Batch = TokenBatch;

    fn sequences(&self) -> usize {
        self.inner.sequences()
    }

    fn common_steps(&self) -> usize {
        self.inner.common_steps()
    }

    fn active(&self, step: usize) -> usize {
        self.inner.active(step)
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<TokenBatch, TrainError> {
        self.trained.fetch_max(start + len, Ordering::SeqCst);
        self.inner.window(start, len, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<TokenBatch, TrainError> {
        let end = starts.iter().max().unwrap() + len;
        if end > self.trained.load(Ordering::SeqCst) {
            self.ahead.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.gather(starts, len, device)
    }
}

#[test]
fn probes_of_the_past_read_nothing_that_was_not_trained_on() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    for (past_only, looks_ahead) in [(false, true), (true, false)] {
        let corpus = corpus();
        let source = Arc::new(Watched {
            inner: corpus.training(4).unwrap(),
            trained: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
        });
        let mut config = TbpttConfig {
            probe: ProbeConfig::new(24),
            ..TbpttConfig::default()
        }
        // 100 updates: the first probes are due after 50.
        .with_losses(2);
        config.probe.past_only = past_only;
        let run = run(1, &corpus).with_training(config);
        let model = LanguageModelConfig::new(corpus.vocabulary().len())
            .with_hidden(8)
            .init(&run.device().unwrap())
            .unwrap();
        let folder = RunFolder::numbered(parent.path(), "past").unwrap();
        let valid = corpus.evaluation(Split::Valid, 1).unwrap();
        let sgd = SgdConfig::new().init();
        let result = run.train(&folder, model, source.clone(), valid, sgd, 1.0);
        assert_eq!(result.unwrap().history.len(), 1);
        assert_eq!(source.ahead.load(Ordering::SeqCst) > 0, looks_ahead);
    }
}

#[test]
fn settings_outside_their_range_are_refused_before_a_folder_is_needed() {
    let corpus = corpus();
    let training = corpus.training(4).unwrap();
    assert!(matches!(
        run(0, &corpus).check(&training),
        Err(TrainError::Config {
            field: "epochs",
            ..
        })
    ));
    let long = Run::<Model>::new(AdaptiveKConfig::new(0.5).with_k_max(900));
    assert!(matches!(
        long.check(&training),
        Err(TrainError::StreamTooShort { k_max: 900, .. })
    ));
}

/// A clip that always binds, and one that never does: line, table and Burn's metric tell how often.
#[test]
fn the_share_of_clipped_windows_is_told_per_epoch() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    for (limit, share) in [(1e-6, 1.0), (1e6, 0.0)] {
        let folder = RunFolder::numbered(parent.path(), "clip").unwrap();
        let clipped = run(1, &corpus).with_training(TbpttConfig {
            probe: ProbeConfig::new(24),
            clip: Clip::Norm(limit),
            seed: 7,
            ..TbpttConfig::default()
        });
        let result = train(clipped, &folder, 1.0).unwrap();
        let report = &result.reports[0];
        assert_eq!(report.clipped_share(), share, "{report:?}");
        let told = report.to_string();
        let expected = "gradient clipped in 100 % of windows";
        assert_eq!(told.contains(expected), share > 0.0, "{told}");
        let log = folder.path().join("train/epoch-1/Clipped_windows.log");
        let log = std::fs::read_to_string(log).unwrap();
        let bound = log
            .lines()
            .filter(|line| line.ends_with(",1") && line.starts_with('1'));
        assert_eq!(bound.count(), report.clipped, "{log}");
        let table = std::fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
        assert!(table.starts_with("epoch,") && table.contains("clipped_share"));
    }
}
