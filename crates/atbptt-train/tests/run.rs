//! [`Run`]: a folder that belongs to one run and one process, runs that go on exactly, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atbptt_core::policy::AdaptiveKConfig;
use atbptt_models::{
    GruLayer, LanguageModel, LanguageModelConfig, LstmLayer, NamedTensors, SeriesLoss, SeriesModel,
    SeriesModelConfig, TokenBatch,
};
use atbptt_train::data::{
    Corpus, Normalisation, Series, SeriesSet, SeriesSource, Split, SyntheticConfig,
};
use atbptt_train::run::{
    Display, EarlierRun, LossName, Run, RunEnd, RunFault, RunFolder, RunResult, RunSummary,
    TrainedModel,
};
use atbptt_train::{Checkpoint, Clip, ProbeConfig, SequenceSource, Tbptt, TbpttConfig, TrainError};
use burn::module::Module;
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::Device;

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

#[test]
fn a_run_leaves_settings_metrics_and_its_result_and_goes_on_exactly() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let test = corpus.evaluation(Split::Test, 1).unwrap();
    let whole = RunFolder::numbered(parent.path(), "some").unwrap();
    assert!(whole.path().ends_with("some-1"));
    let whole = train(run(3, &corpus).with_test(test.clone()), &whole, 1.0).unwrap();
    assert_eq!((whole.end, whole.reports.len()), (RunEnd::Complete, 3));
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

fn fault<T: std::fmt::Debug>(result: Result<T, TrainError>) -> RunFault {
    match result.unwrap_err() {
        TrainError::Run { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn a_folder_belongs_to_one_run_and_one_process() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let path = parent.path().join("run");
    let folder = RunFolder::create(&path).unwrap();
    // Held until the last clone is gone.
    assert!(matches!(fault(RunFolder::create(&path)), RunFault::InUse));
    let result = train(run(3, &corpus), &folder, 1.0).unwrap();
    drop(folder);
    assert!(matches!(fault(RunFolder::resume(&path)), RunFault::InUse));
    drop(result);
    assert!(matches!(
        fault(RunFolder::create(&path)),
        RunFault::HoldsRun
    ));

    let foreign = parent.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("precious"), "").unwrap();
    assert!(matches!(
        fault(RunFolder::create(&foreign)),
        RunFault::ForeignFiles
    ));

    // An older checkpoint goes on elsewhere only, a lone one as well.
    let older = Checkpoint::end_of_epoch(&path, 2).unwrap();
    assert!(matches!(
        fault(RunFolder::resume(&older)),
        RunFault::NotNewest { .. }
    ));
    let lone = foreign.join("lone.ckpt");
    std::fs::copy(&older, &lone).unwrap();
    assert!(matches!(fault(RunFolder::resume(&lone)), RunFault::NoHome));
    let other = parent.path().join("other");
    let other = EarlierRun::find(&lone).unwrap().go_on_in(other).unwrap();
    assert_eq!(
        train(run(3, &corpus), &other, 1.0).unwrap().reports.len(),
        3
    );
    assert!(matches!(
        RunFolder::resume(parent.path().join("nothing")),
        Err(TrainError::NoCheckpoint { .. })
    ));
}

#[test]
fn a_run_is_not_gone_on_with_as_another_one() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let path = parent.path().join("run");
    train(run(2, &corpus), &RunFolder::create(&path).unwrap(), 1.0).unwrap();
    let files = |path: &Path| {
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
        (read("config.json"), read("metrics.jsonl"))
    };
    let before = files(&path);
    let refused = |run: Run<Model>, lr: f64| {
        let folder = RunFolder::resume(&path).unwrap();
        let error = train(run, &folder, lr).unwrap_err().to_string();
        assert_eq!(files(&path), before);
        error
    };
    let run = |epochs| run(epochs, &corpus);
    for (changed, lr, expected) in [
        (run(3).must_match("data", "other"), 1.0, "data is "),
        (
            run(3),
            0.5,
            "learning rate is 1 in the checkpoint and 0.5 now",
        ),
        (run(1), 1.0, "below the 2 epochs it has behind it"),
    ] {
        let error = refused(changed, lr);
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
    let other = Run::new(AdaptiveKConfig::new(0.1).with_k0(6).with_k_max(20))
        .with_training(TbpttConfig {
            probe: ProbeConfig::new(24),
            seed: 7,
            ..TbpttConfig::default()
        })
        .with_display(Display::Silent)
        .with_epochs(3);
    let error = refused(other, 1.0);
    assert!(
        error.contains("delta is 0.5 in the checkpoint and 0.1 now"),
        "{error}"
    );
}

/// Both only where the program says so, and both are listed.
#[test]
fn a_run_goes_on_with_another_learning_rate_and_more_data_where_asked_for() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    let few = corpus();
    train(run(1, &few), &RunFolder::create(&path).unwrap(), 1.0).unwrap();
    let language = SyntheticConfig::default()
        .with_tokens(1204, 101, 53)
        .with_vocabulary(36)
        .with_distances([3])
        .with_classes(2);
    let many = Corpus::synthetic(&language).unwrap();
    let go_on = |run: Run<Model>, lr: f64| {
        let folder = RunFolder::resume(&path).unwrap();
        let run = run.may_change("data", many.fingerprint());
        let model = LanguageModelConfig::new(many.vocabulary().len())
            .with_hidden(8)
            .init(&run.device().unwrap())
            .unwrap();
        let (source, valid) = (
            many.training(4).unwrap(),
            many.evaluation(Split::Valid, 2).unwrap(),
        );
        run.train(&folder, model, source, valid, SgdConfig::new().init(), lr)
    };
    let error = go_on(run(2, &few).with_more_data(), 0.5)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("learning rate is 1 in the checkpoint and 0.5 now")
            && error.contains("`with_new_learning_rate` allows"),
        "{error}"
    );
    let both = run(2, &few).with_more_data().with_new_learning_rate();
    let result = go_on(both, 0.5).unwrap();
    let changes = result.resumed.unwrap().changes;
    let changes: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(
        changes,
        ["data", "epochs", "learning rate", "steps per sequence"]
    );
    let tokens: Vec<usize> = result.reports.iter().map(|report| report.tokens).collect();
    assert_eq!(tokens, [4 * 200, 4 * 300]);
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
    assert_eq!(stopped.end, RunEnd::Interrupted { status: None });
    assert!(stopped.summary.is_none() && !folder.path().join("result.json").exists());
    assert!(stopped.to_string().contains("--resume"));

    let folder = RunFolder::numbered(parent.path(), "named").unwrap();
    let named = run(1, &corpus)
        .with_loss_name(LossName::Named("Loss (nats)".into()))
        .with_test(corpus.evaluation(Split::Test, 1).unwrap())
        .with_measures(|_| Ok([("of_ones_own".to_owned(), 2.5)].into()));
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

/// The folder is enough: configuration, weights of the best epoch, vocabulary. Copied elsewhere, without the run.
#[test]
fn a_run_folder_is_enough_to_use_the_trained_model() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let config = LanguageModelConfig::new(corpus.vocabulary().len()).with_hidden(8);
    let path = parent.path().join("run");
    let folder = RunFolder::create(&path).unwrap();
    assert!(matches!(
        fault(TrainedModel::open(&path)),
        RunFault::NoModel
    ));
    let result = train(
        run(2, &corpus)
            .with_language_model(&config, &corpus)
            .with_model_file("note.json", &"by hand"),
        &folder,
        1.0,
    )
    .unwrap();
    let best = result.summary.unwrap();
    let away = parent.path().join("away");
    std::fs::rename(path.join("model"), &away).unwrap();
    let trained = TrainedModel::open(&away).unwrap();
    assert_eq!(trained.epoch(), best.best_epoch);
    assert_eq!(trained.vocabulary().unwrap(), *corpus.vocabulary());
    let tokens = trained.tokens().unwrap();
    let word = corpus.vocabulary().word(3).unwrap();
    assert_eq!(tokens.encode(word).unwrap(), [3]);
    assert_eq!(tokens.decode(&[3]).unwrap(), word);
    assert_eq!(trained.layer().unwrap(), "LSTM");
    assert_eq!(trained.file::<String>("note.json").unwrap(), "by hand");
    // The weights are those that the validation loss was measured with.
    let device = Device::default();
    let model = trained.language_model::<LstmLayer>(&device).unwrap();
    let valid = corpus.evaluation(Split::Valid, 2).unwrap();
    let loss = atbptt_train::evaluate(&model, &valid, 20, &device).unwrap();
    let mean = loss.sum / loss.count as f64;
    assert!((mean - best.valid_loss).abs() < 1e-6, "{mean} {best}");
    // A model of one's own program takes them too; another kind is refused.
    let plain: Model = config.init(&device).unwrap();
    let loaded = trained.load(plain).unwrap();
    assert_eq!(
        NamedTensors::of(&loaded).unwrap(),
        NamedTensors::of(&model).unwrap()
    );
    assert!(trained.language_model::<GruLayer>(&device).is_err());
    // A note of versions; what a newer one wrote is refused with that version.
    let about = std::fs::read_to_string(away.join("about.json")).unwrap();
    let mut note: serde_json::Value = serde_json::from_str(&about).unwrap();
    assert_eq!(note["atbptt"], env!("CARGO_PKG_VERSION"));
    assert_eq!(note["format"], 1);
    (note["atbptt"], note["format"]) = ("9.8.7".into(), 2.into());
    std::fs::write(away.join("about.json"), note.to_string()).unwrap();
    let error = TrainedModel::open(&away).unwrap_err().to_string();
    assert!(
        error.contains("version 9.8.7 of the library wrote it, in format 2"),
        "{error}"
    );
    std::fs::write(away.join("about.json"), about).unwrap();
    std::fs::write(away.join("weights.safetensors"), "damaged").unwrap();
    let error = trained.language_model::<LstmLayer>(&device).unwrap_err();
    assert!(error.to_string().contains("no safetensors file"), "{error}");
}

/// The same for series: forecasts in the units of the data, row by row with the carried state, from the folder alone.
#[test]
fn a_run_folder_is_enough_to_forecast_in_the_units_of_the_data() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let steps = 300;
    let wave = |t: usize| (0.2 * t as f32).sin();
    let inputs: Vec<f32> = (0..steps).map(|t| 50.0 + 10.0 * wave(t)).collect();
    let targets = (1..=steps).map(|t| -3.0 + 0.1 * wave(t)).collect();
    let data = Series::new(inputs.clone(), 1, targets, 1).unwrap();
    let [training, valid, _] = SeriesSet::new(vec![data])
        .unwrap()
        .split(0.7, 0.2, 20)
        .unwrap();
    let normalisation = Normalisation::fit(&training).unwrap();
    let source = |set: &SeriesSet| SeriesSource::new(normalisation.apply(set).unwrap(), 1).unwrap();
    let config = SeriesModelConfig::new(1, 1, 8).with_loss(SeriesLoss::GaussianNll);
    let run =
        Run::<SeriesModel<GruLayer>>::new(AdaptiveKConfig::new(0.5).with_k0(6).with_k_max(20))
            .with_training(TbpttConfig {
                probe: ProbeConfig::new(24),
                ..TbpttConfig::default()
            })
            .with_epochs(3)
            .with_display(Display::Silent)
            .with_series_model(&config, &normalisation);
    let folder = RunFolder::create(parent.path().join("run")).unwrap();
    let model = config.init(&run.device().unwrap()).unwrap();
    let (train, valid) = (source(&training), source(&valid));
    run.train(&folder, model, train, valid, AdamConfig::new().init(), 1e-2)
        .unwrap();

    let away = parent.path().join("away");
    std::fs::rename(folder.path().join("model"), &away).unwrap();
    let trained = TrainedModel::open(&away).unwrap();
    assert_eq!(trained.layer().unwrap(), "GRU");
    let device = Device::default();
    assert!(trained.forecast::<LstmLayer>(&device).is_err());
    let start = trained.forecast::<GruLayer>(&device).unwrap();
    let whole = start.clone().predict(&inputs).unwrap();
    // The units of the target, in which it hardly moves.
    assert!(whole.mean.iter().all(|mean| (mean + 3.0).abs() < 0.5));
    let deviation = whole.deviation.unwrap();
    assert!(deviation.iter().all(|d| *d > 0.0 && *d < 0.5));
    let mut stepwise = start.clone();
    for (step, input) in inputs.iter().enumerate() {
        let row = stepwise.predict(&[*input]).unwrap();
        assert!((row.mean[0] - whole.mean[step]).abs() < 1e-4, "row {step}");
    }
    let mut refused = |inputs: &[f32]| stepwise.predict(inputs).unwrap_err().to_string();
    assert!(refused(&[]).contains("at least one row"));
    assert!(refused(&[1.0, f32::NAN]).contains("input 0 at step 1 is NaN"));
}

/// A tokeniser of Hugging Face's goes along with the model whose texts it cut.
#[cfg(feature = "tokenizers")]
#[test]
fn a_trained_model_keeps_the_tokeniser_of_its_texts() {
    use atbptt_train::data::{CorpusOptions, HuggingFaceTokenizer};
    let _turn = turn();
    let file = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "the": 1, "cat": 2, "dog": 3}, "unk_token": "[UNK]"}
    }"#;
    let tokenizer = HuggingFaceTokenizer::from_bytes(file.as_bytes()).unwrap();
    let text = "the cat the dog\n".repeat(60);
    let texts = [text.as_bytes(); 3];
    let options = CorpusOptions::default();
    let corpus =
        Corpus::from_readers_with(texts, std::sync::Arc::new(tokenizer), &options).unwrap();
    let config = LanguageModelConfig::new(corpus.vocabulary().len()).with_hidden(4);
    let run = run(1, &corpus).with_language_model(&config, &corpus);
    let parent = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(parent.path().join("run")).unwrap();
    let model = config.init(&run.device().unwrap()).unwrap();
    let (source, valid) = (
        corpus.training(2).unwrap(),
        corpus.evaluation(Split::Valid, 1).unwrap(),
    );
    run.train(&folder, model, source, valid, SgdConfig::new().init(), 1.0)
        .unwrap();
    let tokens = TrainedModel::open(folder.path()).unwrap().tokens().unwrap();
    assert_eq!(tokens.encode("the dog\na cat").unwrap(), [1, 3, 0, 2]);
    assert_eq!(tokens.decode(&[1, 2]).unwrap(), "the cat");
    assert_eq!(tokens.vocabulary(), corpus.vocabulary());
}

/// Burn's own records of the wrapped model hold its weights by the model's own paths.
#[test]
fn records_of_a_learners_model_load_into_the_plain_model() {
    let corpus = corpus();
    let config = LanguageModelConfig::new(corpus.vocabulary().len()).with_hidden(4);
    let device = Device::default();
    let [trained, plain]: [Model; 2] = [1, 2].map(|seed| {
        let _turn = turn();
        device.seed(seed);
        config.init(&device).unwrap()
    });
    let wrapped = Tbptt::new(trained.clone());
    assert_eq!(wrapped.num_params(), trained.num_params());
    let record = wrapped.into_record();
    let loaded = plain.try_load_record(record).unwrap();
    assert_eq!(
        NamedTensors::of(&loaded).unwrap(),
        NamedTensors::of(&trained).unwrap()
    );
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

/// Reads the scalars of a folder with TensorBoard's own reader: a line `tag step value` each.
const READ_EVENTS: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
for tag in sorted(events.Tags()['scalars']):
    for event in events.Scalars(tag):
        print(tag.replace(' ', '_'), event.step, event.value)
";

/// Two epochs, then a third in another process's place: one value per window and per epoch, at the windows' numbers.
#[test]
fn tensorboard_reads_what_a_run_and_its_continuation_wrote() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let folder = RunFolder::numbered(parent.path(), "board").unwrap();
    let path = folder.path().to_owned();
    drop(train(run(2, &corpus).with_tensorboard(), &folder, 1.0).unwrap());
    drop(folder);
    let folder = RunFolder::resume(&path).unwrap();
    let result = train(run(3, &corpus).with_tensorboard(), &folder, 1.0).unwrap();
    for split in ["train", "valid"] {
        let files = std::fs::read_dir(path.join("tensorboard").join(split)).unwrap();
        assert_eq!(files.count(), 2, "one of each process");
    }
    let python = std::env::var("TORCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let read = |split: &str| {
        let folder = path.join("tensorboard").join(split);
        let mut python = std::process::Command::new(&python);
        python.args(["-c", READ_EVENTS]).arg(folder).output().ok()
    };
    let Some(output) = read("valid").filter(|output| output.status.success()) else {
        println!(
            "skipped: no Python with tensorboard; set TORCH_PYTHON to one that has it, for TensorBoard's own reader"
        );
        return;
    };
    let scalars = |output: std::process::Output, tag: &str| -> Vec<(u64, f64)> {
        let text = String::from_utf8(output.stdout).unwrap();
        let of_tag = text
            .lines()
            .filter_map(|line| line.strip_prefix(tag)?.strip_prefix(' '));
        of_tag
            .map(|line| {
                let (step, value) = line.split_once(' ').unwrap();
                (step.parse().unwrap(), value.parse().unwrap())
            })
            .collect()
    };
    let valid = scalars(output, "Perplexity");
    assert_eq!(valid.len(), 3);
    for ((step, perplexity), report) in valid.iter().zip(&result.reports) {
        assert_eq!(*step, report.step);
        let expected = report.valid_perplexity.unwrap();
        assert!((perplexity - expected).abs() < 1e-5 * expected);
    }
    let k = scalars(read("train").unwrap(), "Truncation_length");
    let steps: Vec<u64> = k.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=result.reports[2].step).collect::<Vec<_>>());
    let clipped = scalars(read("train").unwrap(), "Clipped_windows");
    let sum: f64 = clipped.iter().map(|(_, value)| value).sum();
    let expected: usize = result.reports.iter().map(|report| report.clipped).sum();
    assert_eq!(sum, expected as f64);
}
