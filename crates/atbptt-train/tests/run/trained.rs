//! The trained model in a run folder, for those who have neither program nor data.

use super::*;

/// Whether losses of the model have gradients.
fn tracked(model: &Model) -> bool {
    model.embedding.weight.val().is_require_grad()
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
    let best_model = result.best_model().unwrap();
    assert!(tracked(&best_model.clone().train()) && !tracked(&best_model));
    let best_model = NamedTensors::of(&best_model).unwrap();
    let away = parent.path().join("away");
    std::fs::rename(path.join("model"), &away).unwrap();
    assert!(result.best_model().is_err());
    let best = result.summary.unwrap();
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
    let weights = NamedTensors::of(&model).unwrap();
    assert_eq!(NamedTensors::of(&loaded).unwrap(), weights);
    // The run that trained it has it at hand.
    assert_eq!(best_model, weights);
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
    let source = |set: &SeriesSet| PackedSource::new(normalisation.apply(set).unwrap(), 1).unwrap();
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
