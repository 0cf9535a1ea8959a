//! Training and its data under input that no honest run gives: each class has its error, never a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

mod common;

use std::fs;
use std::sync::Arc;

use atbptt_core::FixedKConfig;
use atbptt_models::{
    LanguageModelConfig, LstmLayer, ModelError, SequenceBatch, TokenBatch, WindowPlan,
};
use atbptt_train::data::{Corpus, CorpusOptions, DataError, Split, TokenStream};
use atbptt_train::plot::{Line, LinesPanel, PlotError, lines_figure};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, Clip, FusedSgd, ProbeConfig, Scheme, SequenceSource, StepScaling,
    Tbptt, TbpttConfig, TbpttInput, TokenSource, TrainError, measured_bias, probe, probe_direct,
    stream_loader,
};
use burn::module::Module;
use burn::tensor::Device;
use burn::train::{Learner, TrainStep};
use proptest::prelude::*;

use common::{Model, device};

fn source(tokens: u32, batch: usize) -> TokenSource {
    let tokens = (0..tokens).map(|id| id % 5).collect::<Vec<_>>();
    TokenSource::training(tokens, batch).unwrap()
}

fn too_long<T>(found: Result<T, TrainError>) -> bool {
    matches!(
        found,
        Err(TrainError::Data(DataError::WindowTooLong { .. }))
    )
}

/// A section is what a data loader's `slice` gives. Steps 5..15 of 19; a window may not leave them, nor the range of numbers.
#[test]
fn windows_outside_a_section_of_a_source_are_refused() {
    let loader = stream_loader::<Model>(source(40, 2));
    let section = |start, end| match loader.slice(start, end).iter().next() {
        Some(Ok(TbpttInput::Stream(source))) => source,
        _ => panic!("no stream"),
    };
    let source = section(5, 15);
    assert_eq!(
        (source.common_steps(), source.active(9), source.active(10)),
        (10, 2, 0)
    );
    assert_eq!(source.active(usize::MAX), 0);
    let device = device();
    assert_eq!(source.window(2, 8, &device).unwrap().steps(), 8);
    for (start, len) in [
        (2, 9),
        (10, 1),
        (usize::MAX, 1),
        (1, usize::MAX),
        (usize::MAX, usize::MAX),
    ] {
        assert!(
            too_long(source.window(start, len, &device)),
            "{start} {len}"
        );
        assert!(
            too_long(source.gather(&[0, start], len, &device)),
            "{start} {len}"
        );
    }
    // The other way round, and past the end.
    assert_eq!(section(15, 5).common_steps(), 0);
    assert_eq!(section(7, usize::MAX).common_steps(), 12);
    assert!(too_long(section(15, 5).window(0, 1, &device)));
}

/// 11 targets over two sequences: six steps in the first, five in the second.
#[test]
fn windows_in_which_a_sequence_ends_are_refused() {
    let source = TokenSource::evaluation((0..12).collect::<Vec<u32>>(), 2).unwrap();
    let device = device();
    assert_eq!(source.window(0, 5, &device).unwrap().sequences(), 2);
    assert_eq!(source.window(5, 1, &device).unwrap().sequences(), 1);
    assert!(too_long(source.window(3, 3, &device)));
    assert!(too_long(source.gather(&[0, 5], 1, &device)));
    assert!(too_long(source.window(usize::MAX, 1, &device)));
    assert!(matches!(
        source.window(0, 0, &device),
        Err(TrainError::Data(DataError::EmptyWindow))
    ));
}

#[test]
fn probes_and_evaluations_of_absurd_lengths_are_refused() {
    let source = source(40, 2);
    let model = LanguageModelConfig::new(5).with_hidden(2);
    let model = model.init::<LstmLayer>(&device()).unwrap();
    for config in [
        ProbeConfig::new(usize::MAX),
        ProbeConfig::new(5).with_burn_in(usize::MAX),
        ProbeConfig::new(20),
    ] {
        let found = probe(&model, &source, config, 0, &device());
        assert!(matches!(
            found,
            Err(TrainError::ProbeTooLong { steps: 19, .. })
        ));
    }
    for window in [0, 1] {
        let found = probe(&model, &source, ProbeConfig::new(window), 0, &device());
        assert!(matches!(
            found,
            Err(TrainError::Config {
                field: "window",
                ..
            })
        ));
    }
    // A chunk of no step, or of more than there are, is one that works.
    for chunk in [0, usize::MAX] {
        let loss = atbptt_train::evaluate(&model.valid(), &source, chunk, &Device::flex());
        assert_eq!(loss.unwrap().count, 38);
    }
}

/// Burn's `backward` panics on a loss without a graph; here it is an error of the window.
#[test]
fn weights_that_cannot_be_trained_are_an_error() {
    let untracked =
        |error: &TrainError| matches!(error, TrainError::Model(ModelError::Untracked { .. }));
    let model = LanguageModelConfig::new(5).with_hidden(2);
    let frozen = model.init::<LstmLayer>(&device()).unwrap().no_grad();
    let source = source(40, 2);
    let (config, scheme) = (ProbeConfig::new(5), Scheme::Strided { losses: 2 });
    let error = measured_bias(
        &frozen,
        &source,
        config.clone(),
        scheme,
        &[2],
        &[1, 2],
        &device(),
    );
    assert!(untracked(&error.unwrap_err()));
    let error = probe_direct(&frozen, &source, config, scheme, &[1, 2], &device());
    assert!(untracked(&error.unwrap_err()));

    let input = || TbpttInput::Window {
        batch: TokenBatch::from_host(&[1, 2], &[2, 3], 1, 2, &device()).unwrap(),
        state: None,
        plan: WindowPlan {
            warm_up: 0,
            loss_from: 0,
            carry: 2,
        },
        compensation: Vec::new(),
    };
    let out = TrainStep::step(&Tbptt::new(frozen), input());
    assert!(out.item.report.loss_sum.is_nan());

    let _turn = common::turn();
    let folder = tempfile::tempdir().unwrap();
    let config = TbpttConfig {
        probe: ProbeConfig::new(5),
        ..TbpttConfig::default()
    };
    let strategy = AdaptiveTbptt::new(FixedKConfig::new(3).init().unwrap(), config).unwrap();
    let handle = strategy.handle();
    let corpus = common::corpus(400, 100);
    let frozen = common::model(&corpus, 2, 0.0, 1).no_grad();
    let result = common::training(&corpus, folder.path())
        .num_epochs(1)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(frozen),
            FusedSgd::new().init(),
            0.1,
        ));
    assert!(untracked(&handle.finish(&result).unwrap_err()));
}

#[test]
fn a_damaged_vocabulary_in_the_cache_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, cache) = (folder.path().join("texts"), folder.path().join("cache"));
    fs::create_dir(&texts).unwrap();
    for split in Split::ALL {
        fs::write(texts.join(format!("{}.txt", split.name())), "a b c\n").unwrap();
    }
    let read = || Corpus::from_large_folder(&texts, &CorpusOptions::default(), &cache).unwrap();
    let first = read();
    let place = fs::read_dir(&cache)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let file = place.join("vocabulary.json");
    let whole = fs::read_to_string(&file).unwrap();
    // Still JSON, still distinct words: only the seal tells.
    fs::write(&file, whole.replace("\"b\"", "\"x\"")).unwrap();
    let second = read();
    assert_eq!(second.vocabulary(), first.vocabulary());
    assert_eq!(second.fingerprint(), first.fingerprint());
    assert_eq!(fs::read_to_string(&file).unwrap(), whole);
    let texts = ["a b c\n"; 3].map(str::as_bytes);
    let third = Corpus::from_readers(texts, &CorpusOptions::default()).unwrap();
    assert_eq!(third.fingerprint(), first.fingerprint());
    assert!(
        third
            .description()
            .contains("4 train / 4 valid / 4 test tokens")
    );
}

#[test]
fn questions_about_epochs_that_no_run_has_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("checkpoint")).unwrap();
    let name = format!("epoch-{}-step-{}.ckpt", u64::MAX, u64::MAX);
    fs::write(folder.path().join("checkpoint").join(name), "x").unwrap();
    assert_eq!(Checkpoint::end_of_epoch(folder.path(), usize::MAX), None);
    assert!(Checkpoint::list(folder.path()).is_empty());
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_are_paths_like_others() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let strange = folder.path().join(OsStr::from_bytes(b"run-\xff"));
    let found = Corpus::from_folder(&strange, &CorpusOptions::default()).unwrap_err();
    assert!(matches!(found, DataError::FolderMissing { .. }));
    fs::create_dir_all(strange.join("checkpoint")).unwrap();
    let file = strange
        .join("checkpoint")
        .join(OsStr::from_bytes(b"step-\xfe.ckpt"));
    fs::write(&file, "x").unwrap();
    assert!(Checkpoint::list(&strange).is_empty());
    assert!(matches!(
        Checkpoint::open(&file),
        Err(TrainError::Checkpoint { .. })
    ));
    let line = Line::new("", vec![(0.0, 1.0)]);
    let panel = LinesPanel {
        lines: vec![line],
        ..LinesPanel::default()
    };
    let figure = strange.join("figure.png");
    lines_figure(&figure, "\u{0}\u{1f600}", &[panel]).unwrap();
    assert!(fs::read(&figure).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn a_figure_taller_than_any_page_is_refused() {
    let panels = vec![LinesPanel::default(); 1000];
    let found = lines_figure("x.png", "many", &panels);
    assert!(matches!(
        found,
        Err(PlotError::TooLarge { most: 25_000, .. })
    ));
    let title = "x".repeat(1 << 20);
    let folder = tempfile::tempdir().unwrap();
    lines_figure(folder.path().join("x.png"), &title, &panels[..1]).unwrap();
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0f64..2.0,
        any::<f64>(),
        Just(f64::NAN),
        Just(0.0),
        Just(f64::INFINITY)
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..40, Just(usize::MAX), any::<usize>()]
}

proptest! {
    #[test]
    fn prop_any_settings_of_the_loop_are_checked_before_a_run(
        (clip, per_k, norm) in (any::<bool>(), any::<bool>(), number()),
        (window, burn_in, eval_chunk, k) in (length(), length(), length(), length()),
        (losses, steps) in (prop_oneof![length().prop_map(Some), Just(None)], length()),
        seed in any::<u64>(),
    ) {
        let config = TbpttConfig {
            scheme: losses.map_or(Scheme::Overlapping, |losses| Scheme::Strided { losses }),
            step_scaling: StepScaling::SqrtK,
            clip: match (clip, per_k) {
                (false, _) => Clip::None,
                (true, true) => Clip::PerK(norm),
                (true, false) => Clip::Norm(norm),
            },
            probe: ProbeConfig::new(window).with_burn_in(burn_in),
            seed,
            eval_chunk,
            ..TbpttConfig::default()
        };
        let sound = (!clip || norm > 0.0) && window >= 2 && eval_chunk > 0 && losses != Some(0);
        let Ok(policy) = FixedKConfig::new(k).init() else {
            prop_assert_eq!(k, 0);
            return Ok(());
        };
        match config.check(&policy) {
            Ok(()) => {
                prop_assert!(sound);
                let fits = k <= steps && losses.is_none_or(|losses| losses <= steps);
                prop_assert_eq!(config.check_stream(&policy, steps).is_ok(), fits);
            }
            Err(error) => prop_assert!(!sound && matches!(error, TrainError::Config { .. }), "{}", error),
        }
    }

    #[test]
    fn prop_any_weight_decay_is_taken_or_refused(decay in number()) {
        let sound = decay >= 0.0 && decay.is_finite();
        prop_assert_eq!(FusedSgd::new().with_weight_decay(decay).is_ok(), sound);
    }

    #[test]
    fn prop_any_stream_holds_its_windows(
        (tokens, batch, start, len) in (0usize..60, length(), length(), length()),
    ) {
        let store = Arc::new(vec![0; tokens]);
        for stream in [TokenStream::for_training(store.clone(), batch), TokenStream::exact(store.clone(), batch)] {
            let Ok(stream) = stream else { continue };
            let inside = len > 0 && start.checked_add(len).is_some_and(|end| end <= stream.steps());
            prop_assert_eq!(stream.window(start, len).is_ok(), inside);
            let source = TokenSource::new(stream);
            let whole = inside && source.active(start) == source.active(start + len - 1);
            prop_assert_eq!(source.window(start, len, &Device::flex()).is_ok(), whole);
        }
    }
}
