//! Sequences of unequal length through training and evaluation: every step counted once, in an order that a resumed run
//! meets again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use atbptt_core::{AdaptiveKConfig, BiasEstimator, Estimator, FixedKConfig};
use atbptt_models::{LstmLayer, SeriesBatch, SeriesModel, SeriesModelConfig};
use atbptt_train::data::SequenceSet;
use atbptt_train::data::{PackedSource, Series, SeriesSet, WindowLayout};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, CheckpointConfig, Clip, ProbeConfig, Scheme, SequenceSource, Tbptt,
    TbpttConfig, TbpttHandle, TrainError, TrainingObserver, evaluate, quiet_renderer,
    stream_loader,
};
use burn::optim::AdamConfig;
use burn::tensor::Device;
use burn::train::{Learner, LearningResult, SupervisedTraining};

use crate::common::{bits, copy_folder, device, timeless, turn};

type Model = SeriesModel<LstmLayer>;

/// A sine per series, to be predicted one step ahead.
fn set(lengths: &[usize]) -> SeriesSet {
    let series = lengths.iter().enumerate().map(|(nth, &steps)| {
        let wave = |t: usize| (0.3 * t as f32 + nth as f32).sin();
        let inputs = (0..steps).map(wave).collect();
        let targets = (1..=steps).map(wave).collect();
        Series::new(inputs, 1, targets, 1).unwrap()
    });
    SeriesSet::new(series.collect()).unwrap()
}

fn model(learned_start: bool) -> Model {
    device().seed(5);
    SeriesModelConfig::new(1, 1, 8)
        .with_learned_start(learned_start)
        .init(&device())
        .unwrap()
}

fn config(scheme: Scheme) -> TbpttConfig {
    TbpttConfig {
        scheme,
        clip: Clip::Norm(1.0),
        probe: ProbeConfig::new(12).with_burn_in(4),
        seed: 3,
        ..TbpttConfig::default()
    }
}

fn training<S: SequenceSource<Batch = SeriesBatch>>(
    train: S,
    folder: &Path,
    epochs: usize,
) -> SupervisedTraining<Tbptt<Model>> {
    let valid = PackedSource::new(set(&[30, 20]), 2).unwrap();
    SupervisedTraining::new(folder, stream_loader(train), stream_loader(valid))
        .renderer(quiet_renderer())
        .with_application_logger(None)
        .num_epochs(epochs)
}

#[test]
fn of_lengths_2000_1500_900_250_training_and_evaluation_count_every_step_once_per_epoch() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let source = PackedSource::new(set(&[2000, 1500, 900, 250]), 2).unwrap();
    for (nth, scheme) in [Scheme::Chunked, Scheme::Overlapping]
        .into_iter()
        .enumerate()
    {
        let strategy =
            AdaptiveTbptt::new(FixedKConfig::new(50).init().unwrap(), config(scheme)).unwrap();
        let handle = strategy.handle();
        let run = folder.path().join(nth.to_string());
        let result = training(source.clone().with_shuffle(1), &run, 2)
            .with_training_strategy(strategy.into_strategy())
            .launch(Learner::new(
                Tbptt::new(model(false)),
                AdamConfig::new().init(),
                1e-2,
            ));
        handle.finish(&result).unwrap();
        let tokens: Vec<usize> = handle
            .reports()
            .iter()
            .map(|report| report.tokens)
            .collect();
        assert_eq!(tokens, [4650, 4650]);
    }
    let valid = model(false);
    let loss = evaluate(&valid, &source, 64, &Device::flex()).unwrap();
    assert_eq!(loss.count, 4650);
    // The same losses as of the sequences one by one.
    let mut sum = 0.0;
    for lengths in [2000, 1500, 900, 250] {
        let nth = source
            .set()
            .series()
            .iter()
            .position(|s| s.steps() == lengths)
            .unwrap();
        let alone = SeriesSet::new(vec![source.set().series()[nth].clone()]).unwrap();
        let alone = PackedSource::new(alone, 1).unwrap();
        sum += evaluate(&valid, &alone, 100, &Device::flex()).unwrap().sum;
    }
    assert!(
        (loss.sum - sum).abs() < 1e-3 * sum,
        "{} and {sum}",
        loss.sum
    );
}

/// Windows (start, steps) by epoch.
type Windows = BTreeMap<usize, Vec<(usize, usize)>>;

/// Writes down what training reads.
#[derive(Clone)]
struct Recorded {
    source: PackedSource<SeriesSet>,
    seen: Arc<Mutex<Windows>>,
    epoch: usize,
}

impl SequenceSource for Recorded {
    type Batch = SeriesBatch;
    fn sequences(&self) -> usize {
        self.source.sequences()
    }
    fn common_steps(&self) -> usize {
        self.source.common_steps()
    }
    fn active(&self, step: usize) -> usize {
        self.source.active(step)
    }
    fn window(&self, start: usize, len: usize, device: &Device) -> Result<SeriesBatch, TrainError> {
        let mut seen = self.seen.lock().unwrap();
        seen.entry(self.epoch).or_default().push((start, len));
        self.source.window(start, len, device)
    }
    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<SeriesBatch, TrainError> {
        self.source.gather(starts, len, device)
    }
    fn in_epoch(&self, epoch: usize) -> Option<Arc<dyn SequenceSource<Batch = SeriesBatch>>> {
        Some(Arc::new(Self {
            source: self.source.epoch(epoch),
            epoch,
            ..self.clone()
        }))
    }
}

#[test]
fn every_epoch_reads_its_own_order() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Windows::new()));
    let source = Recorded {
        source: PackedSource::new(set(&[40, 40, 40]), 1)
            .unwrap()
            .with_shuffle(2),
        seen: seen.clone(),
        epoch: 0,
    };
    let strategy = AdaptiveTbptt::new(
        FixedKConfig::new(40).init().unwrap(),
        config(Scheme::Chunked),
    )
    .unwrap();
    let handle = strategy.handle();
    let result = training(source, folder.path(), 3)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(model(false)),
            AdamConfig::new().init(),
            1e-2,
        ));
    handle.finish(&result).unwrap();
    let windows = vec![(0, 40), (40, 40), (80, 40)];
    let mut expected: Windows = (1..=3).map(|epoch| (epoch, windows.clone())).collect();
    // The check of the model, before the first epoch.
    expected.insert(0, vec![(0, 8)]);
    assert_eq!(*seen.lock().unwrap(), expected);
}

/// What is on the disk when the process is killed after this window.
struct Snapshot {
    from: std::path::PathBuf,
    to: std::path::PathBuf,
    at: usize,
    windows: Mutex<usize>,
}

impl TrainingObserver for Snapshot {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _loss: f64) {
        let mut windows = self.windows.lock().unwrap();
        *windows += 1;
        if *windows == self.at {
            copy_folder(&self.from, &self.to);
        }
    }
}

fn shuffled_run(
    folder: &Path,
    resume: Option<Checkpoint>,
    observer: Option<Arc<dyn TrainingObserver>>,
) -> (LearningResult<Tbptt<Model>>, TbpttHandle) {
    let policy = AdaptiveKConfig::new(0.5)
        .with_estimator(Estimator::Norms(BiasEstimator::new()))
        .with_k0(6)
        .with_k_max(12)
        .with_probes(1);
    let checkpoints = CheckpointConfig::new(folder).every(2);
    let mut strategy = AdaptiveTbptt::new(policy.init().unwrap(), config(Scheme::Overlapping))
        .unwrap()
        .with_checkpoints(checkpoints);
    if let Some(checkpoint) = resume {
        strategy = strategy.resume(checkpoint);
    }
    if let Some(observer) = observer {
        strategy = strategy.with_observer(observer);
    }
    let handle = strategy.handle();
    let source = PackedSource::new(set(&[31, 22, 17, 9, 40, 12]), 3)
        .unwrap()
        .with_shuffle(11);
    let result = training(source, folder, 4)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(model(true)),
            AdamConfig::new().init(),
            1e-2,
        ));
    handle.finish(&result).unwrap();
    (result, handle)
}

#[test]
fn a_shuffled_run_that_is_killed_anywhere_goes_on_exactly() {
    let _turn = turn();
    let whole = tempfile::tempdir().unwrap();
    let (result, handle) = shuffled_run(whole.path(), None, None);
    let (weights, reports) = (bits(&result.model), timeless(&handle.reports()));
    for at in [1, 5, 10, 16] {
        let (run, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let snapshot = Snapshot {
            from: run.path().into(),
            to: killed.path().into(),
            at,
            windows: Mutex::new(0),
        };
        shuffled_run(run.path(), None, Some(Arc::new(snapshot)));
        let checkpoint = Checkpoint::newest(killed.path()).unwrap();
        let (result, handle) = shuffled_run(killed.path(), Some(checkpoint), None);
        assert_eq!(bits(&result.model), weights, "killed after window {at}");
        assert_eq!(timeless(&handle.reports()), reports);
    }
}

/// A part of a source keeps the order of the epochs.
#[test]
fn a_slice_of_a_shuffled_source_is_shuffled_too() {
    let source = PackedSource::new(set(&[5, 5, 5, 5]), 1)
        .unwrap()
        .with_shuffle(4);
    let loader = stream_loader::<Model>(source.clone()).slice(0, 10);
    let Some(Ok(atbptt_train::TbpttInput::Stream(part))) = loader.iter().next() else {
        panic!("no stream");
    };
    let values = |source: &dyn SequenceSource<Batch = SeriesBatch>, epoch| {
        let source = source.in_epoch(epoch).unwrap();
        let window = source.window(0, 10, &Device::flex()).unwrap();
        let data = window.inputs().clone().into_data();
        data.iter::<f32>().collect::<Vec<_>>()
    };
    for epoch in 1..4 {
        assert_eq!(values(part.as_ref(), epoch), values(&source, epoch));
    }
}

/// `SequenceSet` is all that a source of one's own has to be.
#[test]
fn a_set_of_ones_own_is_packed_like_any_other() {
    let _turn = turn();
    struct Constant;
    impl SequenceSet for Constant {
        type Batch = SeriesBatch;
        fn len(&self) -> usize {
            3
        }
        fn steps(&self, sequence: usize) -> usize {
            [4, 2, 1].get(sequence).copied().unwrap_or(0)
        }
        fn batch(&self, window: &WindowLayout, device: &Device) -> Result<SeriesBatch, TrainError> {
            let set = set(&[4, 2, 1]);
            set.batch(window, device)
        }
    }
    let source = atbptt_train::data::PackedSource::new(Constant, 2).unwrap();
    let loss = evaluate(&model(false), &source, 3, &Device::flex()).unwrap();
    assert_eq!(loss.count, 7);
}
