//! Data that have come in since: appended to a stream, gone on with where asked for, and never unnoticed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::path::Path;
use std::sync::{Arc, Mutex};

use atbptt_core::FixedKConfig;
use atbptt_models::LanguageModelConfig;
use atbptt_train::data::{Documents, PackedSource, Series, SeriesSet};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, CheckpointConfig, CheckpointFault, EpochReport, ProbeConfig,
    SequenceSource, Tbptt, TbpttConfig, TokenSource, TrainError, TrainingObserver, quiet_renderer,
    stream_loader,
};
use burn::optim::AdamConfig;
use burn::train::{Learner, SupervisedTraining};

use crate::common::{Model, bits, copy_folder, device, timeless, turn};

const WORDS: u32 = 20;

/// The first `count` tokens of one endless text.
fn text(count: usize) -> Vec<u32> {
    (0..count as u32).map(|t| (t * t + t / 7) % WORDS).collect()
}

/// What a test asks for.
struct Setup {
    epochs: usize,
    more_data: bool,
    resume: Option<Checkpoint>,
    observer: Option<Arc<dyn TrainingObserver>>,
}

impl Setup {
    fn of(epochs: usize) -> Self {
        Self {
            epochs,
            more_data: false,
            resume: None,
            observer: None,
        }
    }

    fn resuming(epochs: usize, run: &Path, more_data: bool) -> Self {
        Self {
            more_data,
            resume: Some(Checkpoint::newest(run).unwrap()),
            ..Self::of(epochs)
        }
    }
}

/// What a run came to.
#[derive(Debug, PartialEq)]
struct Outcome {
    weights: Vec<u32>,
    reports: Vec<EpochReport>,
    changes: Vec<String>,
}

/// Trains windows of 6 losses, with a checkpoint after every fifth.
fn run(
    train: impl SequenceSource<Batch = atbptt_models::TokenBatch>,
    folder: &Path,
    setup: Setup,
) -> Result<Outcome, TrainError> {
    let config = TbpttConfig {
        probe: ProbeConfig::new(20),
        ..TbpttConfig::default().with_losses(6)
    };
    let checkpoints = CheckpointConfig::new(folder).every(5);
    let mut strategy = AdaptiveTbptt::new(FixedKConfig::new(4).init().unwrap(), config)
        .unwrap()
        .with_checkpoints(checkpoints);
    if setup.more_data {
        strategy = strategy.with_more_data();
    }
    if let Some(checkpoint) = setup.resume {
        strategy = strategy.resume(checkpoint);
    }
    if let Some(observer) = setup.observer {
        strategy = strategy.with_observer(observer);
    }
    let handle = strategy.handle();
    device().seed(5);
    let model: Model = LanguageModelConfig::new(WORDS as usize)
        .with_hidden(8)
        .init(&device())
        .unwrap();
    let valid = TokenSource::evaluation(text(60), 1).unwrap();
    let result = SupervisedTraining::new(folder, stream_loader(train), stream_loader(valid))
        .renderer(quiet_renderer())
        .with_application_logger(None)
        .num_epochs(setup.epochs)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(model),
            AdamConfig::new().init(),
            1e-2,
        ));
    handle.finish(&result)?;
    let changes = handle.resumed().map(|resumed| resumed.changes);
    Ok(Outcome {
        weights: bits(&result.model),
        reports: timeless(&handle.reports()),
        changes: changes.into_iter().flatten().map(|c| c.name).collect(),
    })
}

fn refused(outcome: Result<Outcome, TrainError>) -> String {
    let error = outcome.unwrap_err();
    let another = |error: &TrainError| {
        let TrainError::Checkpoint { fault, .. } = error else {
            return false;
        };
        matches!(fault, CheckpointFault::OtherRun { .. })
    };
    assert!(another(&error), "{error}");
    error.to_string()
}

/// Copies the run folder after a window: what is on the disk when the process is killed right then.
struct Kill {
    folder: std::path::PathBuf,
    into: std::path::PathBuf,
    window: usize,
    windows: Mutex<usize>,
}

impl TrainingObserver for Kill {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _loss: f64) {
        let mut windows = self.windows.lock().unwrap();
        *windows += 1;
        if *windows == self.window {
            copy_folder(&self.folder, &self.into);
        }
    }
}

/// A run that was killed after `window` windows.
fn killed<S: SequenceSource<Batch = atbptt_models::TokenBatch>>(
    train: S,
    window: usize,
) -> tempfile::TempDir {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let observer = Arc::new(Kill {
        folder: folder.path().to_owned(),
        into: copy.path().to_owned(),
        window,
        windows: Mutex::new(0),
    });
    let setup = Setup {
        observer: Some(observer),
        ..Setup::of(1)
    };
    run(train, folder.path(), setup).unwrap();
    copy
}

#[test]
fn more_data_at_the_end_of_an_epoch_is_refused_unless_asked_for_and_then_read_and_listed() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let source = |tokens, batch| TokenSource::training(text(tokens), batch).unwrap();
    run(source(401, 1), path, Setup::of(1)).unwrap();

    let error = refused(run(source(601, 1), path, Setup::resuming(2, path, false)));
    assert!(
        error.contains("steps per sequence is 400 in the checkpoint and 600 now")
            && error.contains("`with_more_data` allows data that were appended to"),
        "{error}"
    );
    // Less is another run's.
    let error = refused(run(source(301, 1), path, Setup::resuming(2, path, true)));
    assert!(
        error.contains("is 400 in the checkpoint and 300 now"),
        "{error}"
    );

    let outcome = run(source(601, 1), path, Setup::resuming(2, path, true)).unwrap();
    assert_eq!(outcome.changes, ["epochs", "steps per sequence"]);
    let tokens: Vec<usize> = outcome.reports.iter().map(|report| report.tokens).collect();
    assert_eq!(tokens, [400, 600]);
    // Asked for, and nothing came: nothing is listed but the epochs.
    let outcome = run(source(601, 1), path, Setup::resuming(3, path, true)).unwrap();
    assert_eq!(outcome.changes, ["epochs"]);
}

/// Killed after 33 windows, checkpoint after 30: the bits of a run that had all of the text from the start.
#[test]
fn more_data_appended_to_a_stream_is_gone_on_with_at_its_place() {
    let _turn = turn();
    let source = |tokens| TokenSource::training(text(tokens), 1).unwrap();
    let plain = tempfile::tempdir().unwrap();
    let mut expected = run(source(601), plain.path(), Setup::of(2)).unwrap();
    let folder = killed(source(401), 33);
    let path = folder.path();
    assert_eq!(Checkpoint::newest(path).unwrap().step(), 30);
    let got = run(source(601), path, Setup::resuming(2, path, true)).unwrap();
    expected.changes = vec![
        "epochs".into(),
        "run folder".into(),
        "steps per sequence".into(),
    ];
    expected.changes.retain(|name| got.changes.contains(name));
    assert_eq!(got, expected);
    assert!(got.changes.contains(&"steps per sequence".to_owned()));
}

/// What lies before the place must be what was read, whether there is more of it or not.
#[test]
fn other_data_before_the_place_within_an_epoch_are_refused() {
    let _turn = turn();
    // Cut anew into two parallel sequences, a longer text has other steps at the same places.
    let source = |tokens| TokenSource::training(text(tokens), 2).unwrap();
    let folder = killed(source(402), 23);
    let path = folder.path();
    let error = refused(run(source(602), path, Setup::resuming(1, path, true)));
    assert!(
        error.contains("what was read before its place in the epoch is")
            && error.contains("from the end of an epoch"),
        "{error}"
    );
    // As many tokens, and one of them another.
    let mut other = text(402);
    other[100] = (other[100] + 1) % WORDS;
    let other = TokenSource::training(other, 2).unwrap();
    let error = refused(run(other, path, Setup::resuming(1, path, false)));
    assert!(error.contains("what was read before"), "{error}");
    run(source(402), path, Setup::resuming(1, path, false)).unwrap();

    let documents = |last: u32| {
        let texts = (0..40).map(|d| vec![d % WORDS, (d * d) % WORDS, last, 3, 4, 5, 6]);
        let documents = Documents::new(texts).with_start(0);
        PackedSource::new(documents, 2).unwrap().with_shuffle(2)
    };
    let folder = killed(documents(1), 13);
    let path = folder.path();
    let error = refused(run(documents(2), path, Setup::resuming(1, path, false)));
    assert!(error.contains("what was read before"), "{error}");
    run(documents(1), path, Setup::resuming(1, path, false)).unwrap();
}

/// Series that are measured on have the same beginning, in parallel too.
#[test]
fn series_that_grew_are_told_from_others_by_what_they_begin_with() {
    let series = |steps: usize, shift: f32| {
        let of = |nth: usize| {
            let inputs = (0..steps).map(|t| (0.1 * t as f32 + nth as f32).sin() + shift);
            Series::new(inputs.collect(), 1, vec![1.0; steps], 1).unwrap()
        };
        let set = SeriesSet::new((0..3).map(of).collect()).unwrap();
        PackedSource::new(set, 3).unwrap()
    };
    let read = |source: &PackedSource<SeriesSet>| source.fingerprint(30..94).unwrap();
    let short = series(100, 0.0);
    assert_eq!(read(&series(150, 0.0)), read(&short));
    assert_ne!(read(&series(150, 0.1)), read(&short));
    assert!(short.fingerprint(30..101).is_none());
}
