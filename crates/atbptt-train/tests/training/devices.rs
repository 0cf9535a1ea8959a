//! Several devices as one run: the gradient, the K and the checkpoints of one device, shared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use atbptt_core::policy::{AdaptiveKConfig, Decision, Estimator, Schedule};
use atbptt_core::{BiasEstimator, FixedKConfig, Scheme};
use atbptt_models::{LanguageModelConfig, LstmLayer, SeriesModelConfig, TokenBatch};
use atbptt_train::data::{PackedSource, Series, SeriesSet, Split};
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, CheckpointConfig, Clip, EpochReport, OnNonFinite, ProbeConfig,
    SequenceSource, Tbptt, TbpttConfig, TbpttHandle, TokenSource, TrainError, TrainingObserver,
    WorkerReport, quiet_renderer, stream_loader,
};
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use burn::train::{Learner, SupervisedTraining};

use crate::common::{Model, bits, copy_folder, corpus, device, timeless, turn, weights};

/// A run over seven sequences, which no number of devices from two to four divides, with dropout and K decided often.
#[derive(Clone)]
pub struct Setup {
    pub devices: Vec<Device>,
    estimator: Estimator,
    config: TbpttConfig,
    adam: bool,
    layers: usize,
    pub dropout: f64,
}

/// Seven sequences of 157 steps: 52 windows of 6 losses in two epochs.
const SEQUENCES: usize = 7;

impl Setup {
    pub fn new(devices: usize) -> Self {
        let config = TbpttConfig {
            clip: Clip::Norm(0.5),
            probe: ProbeConfig::new(20),
            eval_chunk: 20,
            seed: 7,
            ..TbpttConfig::default().with_losses(6)
        };
        Self {
            devices: vec![Device::flex(); devices],
            estimator: Estimator::Direct,
            config,
            adam: false,
            layers: 2,
            dropout: 0.3,
        }
    }

    pub fn run(&self, folder: &Path, resume: Option<Checkpoint>) -> Outcome {
        self.watched(folder, resume, None).unwrap()
    }

    pub fn watched(
        &self,
        folder: &Path,
        resume: Option<Checkpoint>,
        observer: Option<Arc<dyn TrainingObserver>>,
    ) -> Result<Outcome, TrainError> {
        let corpus = corpus(1101, 101);
        let policy = AdaptiveKConfig::new(0.5)
            .with_k0(6)
            .with_k_max(20)
            .with_probes(5)
            .with_estimator(self.estimator)
            .with_schedule(
                Schedule::default()
                    .with_every_updates(7)
                    .with_first(Some(3)),
            )
            .init()
            .unwrap();
        let mut strategy = AdaptiveTbptt::new(policy, self.config.clone())
            .unwrap()
            .with_checkpoints(CheckpointConfig::new(folder).every(5));
        if !self.devices.is_empty() {
            strategy = strategy.on_devices(self.devices.clone()).unwrap();
        }
        // Weights are drawn before anything else, and are the same for every number of devices.
        device().seed(if resume.is_some() { 99 } else { 3 });
        let model: Model = LanguageModelConfig::new(corpus.vocabulary().len())
            .with_hidden(12)
            .with_layers(self.layers)
            .with_dropout(self.dropout)
            .init(&device())
            .unwrap();
        if let Some(checkpoint) = resume {
            strategy = strategy.resume(checkpoint);
        }
        if let Some(observer) = observer {
            strategy = strategy.with_observer(observer);
        }
        let handle = strategy.handle();
        let optimizer: ModuleOptimizer = match self.adam {
            true => AdamConfig::new().init(),
            false => SgdConfig::new().init(),
        };
        let rate = if self.adam { 1e-2 } else { 0.5 };
        let result = SupervisedTraining::new(
            folder,
            stream_loader(corpus.training(SEQUENCES).unwrap()),
            stream_loader(corpus.evaluation(Split::Valid, 1).unwrap()),
        )
        .renderer(quiet_renderer())
        .with_application_logger(None)
        .num_epochs(2)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(Tbptt::new(model), optimizer, rate));
        handle.finish(&result)?;
        Ok(Outcome {
            bits: bits(&result.model),
            weights: weights(&result.model),
            reports: timeless(&handle.reports()),
            history: handle.history(),
            workers: handle.workers(),
        })
    }
}

#[derive(Debug)]
pub struct Outcome {
    bits: Vec<u32>,
    weights: Vec<f32>,
    pub reports: Vec<EpochReport>,
    history: Vec<Decision>,
    pub workers: Vec<WorkerReport>,
}

impl Outcome {
    pub fn ks(&self) -> Vec<usize> {
        self.history.iter().map(|decision| decision.k).collect()
    }

    /// What the decisions about K were made of.
    fn estimates(&self) -> Vec<Option<f64>> {
        let numbers = |decision: &Decision| {
            [
                decision.relative_bias,
                decision.standard_error,
                decision.upper_limit,
                decision.effective_tolerance,
                decision.log_beta,
            ]
        };
        self.history.iter().flat_map(numbers).collect()
    }

    /// ‖w − w′‖ over ‖w′‖.
    pub fn distance(&self, other: &Self) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let pairs = self.weights.iter().zip(&other.weights);
        let apart = square(&mut pairs.map(|(a, b)| f64::from(a - b)));
        (apart / square(&mut other.weights.iter().map(|v| f64::from(*v)))).sqrt()
    }
}

/// Copies the run folder after chosen windows: what is on the disk when the process is killed right then.
pub struct Snapshots {
    pub folder: PathBuf,
    pub into: PathBuf,
    pub at: Vec<usize>,
    pub windows: Mutex<usize>,
}

impl TrainingObserver for Snapshots {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _loss: f64) {
        let mut windows = self.windows.lock().unwrap();
        *windows += 1;
        if self.at.contains(&windows) {
            copy_folder(&self.folder, &self.into.join(windows.to_string()));
        }
    }
}

pub fn trained(setup: &Setup) -> Outcome {
    setup.run(tempfile::tempdir().unwrap().path(), None)
}

/// 52 updates, dropout on: the same units are dropped, the same numbers estimated, and the same K chosen.
#[test]
fn two_three_and_four_devices_train_as_one_does() {
    let _turn = turn();
    for estimator in [Estimator::Direct, Estimator::Norms(BiasEstimator::new())] {
        let of = |devices| Setup {
            estimator,
            ..Setup::new(devices)
        };
        let one = trained(&of(1));
        assert!(one.workers.is_empty() && one.history.len() > 4);
        assert!(one.reports.last().unwrap().step >= 50);
        println!("{estimator:?}: K = {:?}", one.ks());
        for devices in [2, 3, 4] {
            let several = trained(&of(devices));
            let distance = several.distance(&one);
            println!("{devices} devices: weights {distance:.1e} apart");
            assert!(distance < 1e-5, "{devices} devices: {distance:e}");
            assert_eq!(several.ks(), one.ks(), "{devices} devices");
            let pairs = several.estimates().into_iter().zip(one.estimates());
            for (several, one) in pairs {
                assert_eq!(several.is_some(), one.is_some(), "{devices} devices");
                let (several, one) = (several.unwrap_or(0.0), one.unwrap_or(0.0));
                let apart = (several - one).abs();
                assert!(apart <= 1e-2 * one.abs(), "{several} and {one}");
            }
            assert!(one.estimates().iter().any(Option::is_some));
            let loss = |outcome: &Outcome| outcome.reports[1].train_loss;
            assert!((loss(&several) / loss(&one) - 1.0).abs() < 1e-5);
            assert_eq!(several.reports[1].tokens, one.reports[1].tokens);
        }
    }
}

#[test]
fn windows_that_overlap_or_lie_end_to_end_are_shared_too() {
    let _turn = turn();
    for scheme in [Scheme::Overlapping, Scheme::Chunked] {
        let of = |devices| {
            let mut setup = Setup::new(devices);
            setup.config.scheme = scheme;
            setup
        };
        let (one, two) = (trained(&of(1)), trained(&of(2)));
        assert_eq!(two.ks(), one.ks(), "{scheme:?}");
        assert!(
            two.distance(&one) < 1e-5,
            "{scheme:?}: {:e}",
            two.distance(&one)
        );
    }
}

#[test]
fn one_device_by_name_is_the_usual_run_to_the_bit() {
    let _turn = turn();
    let (unnamed, named) = (trained(&Setup::new(0)), trained(&Setup::new(1)));
    assert_eq!(named.bits, unnamed.bits);
    assert_eq!(named.reports, unnamed.reports);
    assert_eq!(named.history, unnamed.history);
}

/// Adam has memory; outputs arrive in any order.
#[test]
fn a_run_on_two_devices_goes_on_to_the_bit_and_on_one_or_three_to_rounding() {
    let _turn = turn();
    let setup = |devices| Setup {
        adam: true,
        layers: 1,
        ..Setup::new(devices)
    };
    let expected = trained(&setup(2));
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = vec![4, 13, 26, 37];
    let observer = Arc::new(Snapshots {
        folder: folder.path().to_owned(),
        into: copies.path().to_owned(),
        at: at.clone(),
        windows: Mutex::new(0),
    });
    let again = setup(2)
        .watched(folder.path(), None, Some(observer))
        .unwrap();
    assert_eq!(again.bits, expected.bits);
    for window in at {
        let run = copies.path().join(window.to_string());
        let saved = Checkpoint::newest(&run).unwrap();
        for devices in [1, 3, 2] {
            let here = tempfile::tempdir().unwrap();
            copy_folder(&run, here.path());
            let resumed = setup(devices).run(here.path(), Some(saved.clone()));
            let what = format!("killed after window {window}, on {devices}");
            assert_eq!(resumed.ks(), expected.ks(), "{what}");
            if devices == 2 {
                assert_eq!(resumed.bits, expected.bits, "{what}");
                assert_eq!(resumed.reports, expected.reports, "{what}");
                assert_eq!(resumed.history, expected.history, "{what}");
            } else {
                // Adam divides by the gradient's own size, which makes rounding larger.
                let distance = resumed.distance(&expected);
                assert!(distance < 1e-4, "{what}: {distance:e}");
            }
        }
    }
}

#[test]
fn workers_are_told_with_their_sequences_and_their_time() {
    let _turn = turn();
    let workers = trained(&Setup::new(3)).workers;
    let rows: Vec<_> = workers
        .iter()
        .map(|worker| worker.sequences.clone())
        .collect();
    assert_eq!(rows, [0..3, 3..5, 5..7]);
    for worker in &workers {
        assert_eq!(worker.device, "flex");
        assert!(
            worker.busy_seconds > 0.0 && worker.busy_share() <= 1.0,
            "{worker:?}"
        );
        assert!(worker.busy_seconds <= worker.total_seconds, "{worker:?}");
    }
}

/// Sequences of unequal length, shuffled: a shard reads what the whole reads in its streams.
#[test]
fn packed_sequences_are_shared_in_the_order_of_the_epoch() {
    let _turn = turn();
    let lengths = [40, 31, 22, 50, 17, 9, 64];
    let series = lengths.iter().enumerate().map(|(nth, &steps)| {
        let wave = |t: usize| (0.3 * t as f32 + nth as f32).sin();
        let inputs = (0..steps).map(wave).collect();
        Series::new(inputs, 1, (1..=steps).map(wave).collect(), 1).unwrap()
    });
    let set = SeriesSet::new(series.collect()).unwrap();
    let source = PackedSource::new(set, 3).unwrap().with_shuffle(5);
    let shard = source.epoch(2).shard(1..3).unwrap();
    assert_eq!(
        (shard.sequences(), shard.common_steps()),
        (2, source.common_steps())
    );
    assert!(shard.in_epoch(3).is_none(), "it is ordered already");
    let device = Device::flex();
    let (whole, part) = (
        source.epoch(2).window(20, 15, &device).unwrap(),
        shard.window(20, 15, &device).unwrap(),
    );
    let rows = whole.inputs().clone().slice([1..3, 0..15, 0..1]);
    assert_eq!(part.inputs().to_data(), rows.to_data());

    let (one, two) = (series_run(&source, 1), series_run(&source, 2));
    // Streams end at different steps, so that shards count different numbers of losses.
    assert_eq!((one.1[1].tokens, two.1[1].tokens), (233, 233));
    assert!(apart(&one.0, &two.0) < 1e-6, "{:e}", apart(&one.0, &two.0));
}

/// Two epochs over `source` on so many devices, windows that are not finite left out: weights and reports.
fn series_run(source: &PackedSource<SeriesSet>, devices: usize) -> (Vec<f32>, Vec<EpochReport>) {
    let folder = tempfile::tempdir().unwrap();
    device().seed(5);
    let model = SeriesModelConfig::new(1, 1, 8)
        .init::<LstmLayer>(&device())
        .unwrap();
    let strategy = AdaptiveTbptt::new(
        FixedKConfig::new(8).init().unwrap(),
        TbpttConfig::default().with_losses(5),
    )
    .unwrap()
    .on_non_finite(OnNonFinite::Skip)
    .on_devices(vec![Device::flex(); devices])
    .unwrap();
    let handle = strategy.handle();
    let loader = || stream_loader(source.clone());
    let result = SupervisedTraining::new(folder.path(), loader(), loader())
        .renderer(quiet_renderer())
        .with_application_logger(None)
        .num_epochs(2)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(model),
            SgdConfig::new().init(),
            0.1,
        ));
    handle.finish(&result).unwrap();
    (weights(&result.model), handle.reports())
}

fn apart(one: &[f32], other: &[f32]) -> f32 {
    let pairs = one.iter().zip(other);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The square of a target of 1e30 is beyond all numbers, on the device that has the third sequence. The coordinator leaves out the
/// window of all, as one device alone does.
#[test]
fn a_window_that_is_not_finite_on_one_device_is_left_out_on_all() {
    let _turn = turn();
    let series = (0..4).map(|nth| {
        let wave = |t: usize| (0.3 * t as f32 + nth as f32).sin();
        let mut targets: Vec<f32> = (1..=60).map(wave).collect();
        if nth == 2 {
            targets[33] = 1e30;
        }
        Series::new((0..60).map(wave).collect(), 1, targets, 1).unwrap()
    });
    let set = SeriesSet::new(series.collect()).unwrap();
    let source = PackedSource::new(set, 4).unwrap();
    let one = series_run(&source, 1);
    for devices in [2, 3] {
        let several = series_run(&source, devices);
        for (report, alone) in several.1.iter().zip(&one.1) {
            assert_eq!((report.skipped, alone.skipped), (1, 1));
            assert_eq!((report.tokens, alone.tokens), (4 * 55, 4 * 55));
            let loss = (report.train_loss, alone.train_loss);
            assert!(
                loss.0.is_finite() && (loss.0 / loss.1 - 1.0).abs() < 1e-5,
                "{loss:?}"
            );
        }
        assert!(apart(&several.0, &one.0) < 1e-6, "{devices} devices");
    }
}

/// A source that hands out no shards.
struct Whole(TokenSource);

impl SequenceSource for Whole {
    type Batch = TokenBatch;
    fn sequences(&self) -> usize {
        self.0.sequences()
    }
    fn common_steps(&self) -> usize {
        self.0.common_steps()
    }
    fn active(&self, step: usize) -> usize {
        self.0.active(step)
    }
    fn window(&self, start: usize, len: usize, device: &Device) -> Result<TokenBatch, TrainError> {
        self.0.window(start, len, device)
    }
    fn gather(&self, at: &[usize], len: usize, device: &Device) -> Result<TokenBatch, TrainError> {
        self.0.gather(at, len, device)
    }
}

/// Trains on `devices` over `train`, which is to be refused.
fn refused(train: impl SequenceSource<Batch = TokenBatch>, devices: usize) -> TrainError {
    let corpus = corpus(1001, 101);
    let folder = tempfile::tempdir().unwrap();
    let strategy = AdaptiveTbptt::new(FixedKConfig::new(4).init().unwrap(), TbpttConfig::default())
        .unwrap()
        .on_devices(vec![Device::flex(); devices])
        .unwrap();
    let handle: TbpttHandle = strategy.handle();
    let result = SupervisedTraining::new(
        folder.path(),
        stream_loader(train),
        stream_loader(corpus.evaluation(Split::Valid, 1).unwrap()),
    )
    .renderer(quiet_renderer())
    .with_application_logger(None)
    .with_training_strategy(strategy.into_strategy())
    .launch(Learner::new(
        Tbptt::new(crate::common::model(&corpus, 8, 0.0, 1)),
        SgdConfig::new().init(),
        0.1,
    ));
    handle.finish(&result).unwrap_err()
}

#[test]
fn what_cannot_be_shared_is_refused_with_the_remedy() {
    let _turn = turn();
    let corpus = corpus(1001, 101);
    let error = refused(corpus.training(3).unwrap(), 4);
    assert!(
        matches!(
            error,
            TrainError::TooManyDevices {
                devices: 4,
                sequences: 3
            }
        ),
        "{error}"
    );
    let error = refused(Whole(corpus.training(4).unwrap()), 2);
    assert!(
        matches!(error, TrainError::NotShared { devices: 2 }),
        "{error}"
    );
    assert!(
        error.to_string().contains("SequenceSource::shard"),
        "{error}"
    );
}

#[test]
#[cfg(feature = "ndarray")]
#[allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.
fn devices_of_several_backends_are_refused() {
    let strategy =
        AdaptiveTbptt::new(FixedKConfig::new(4).init().unwrap(), TbpttConfig::default()).unwrap();
    let error = strategy
        .on_devices([Device::flex(), Device::ndarray()])
        .err()
        .unwrap();
    let expected = atbptt_train::DeviceError::Mixed {
        first: "flex".into(),
        other: "ndarray".into(),
    };
    assert!(
        matches!(&error, TrainError::Device(got) if *got == expected),
        "{error}"
    );
}
