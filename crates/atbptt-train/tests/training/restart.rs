//! Runs that die and go on: every claim checked bit by bit against a run that never stopped.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod changes;

use crate::common::{Model, bits, copy_folder, corpus, model, timeless, training, turn};
use atbptt_core::policy::{AdaptiveKConfig, Decision, Estimator, Schedule};
use atbptt_train::metrics::StepMetric;
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, CheckpointConfig, CheckpointFault, Clip, EpochReport, Plateau,
    ProbeConfig, RateSchedule, RateShape, Scheme, StepScaling, Tbptt, TbpttConfig, TbpttHandle,
    TrainError, TrainingObserver,
};
use burn::module::Module;
use burn::optim::AdamConfig;
use burn::optim::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::tensor::Device;
use burn::train::metric::store::{Aggregate, Direction, EventStoreClient, Split as Part};
use burn::train::metric::{LossMetric, Metric};
use burn::train::{
    EarlyStoppingStrategy, Learner, LearningResult, MetricEarlyStoppingStrategy, StoppingCondition,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Windows of 6 losses, most of them clipped; a rate that follows the position in the data and the validation loss.
fn strided() -> TbpttConfig {
    let schedule = RateSchedule::new(RateShape::Cosine { epochs: 3.5 })
        .with_warm_up(0.4)
        .with_floor(0.1)
        .with_plateau(Plateau {
            patience: 1,
            threshold: 0.5,
            ..Plateau::default()
        });
    TbpttConfig {
        clip: Clip::Norm(0.5),
        schedule,
        probe: ProbeConfig::new(20),
        eval_chunk: 20,
        seed: 7,
        ..TbpttConfig::default().with_losses(6)
    }
}

/// Windows, steps and clip that move with K.
fn by_k() -> TbpttConfig {
    TbpttConfig {
        scheme: Scheme::Overlapping,
        step_scaling: StepScaling::SqrtK,
        clip: Clip::PerK(1.0),
        ..strided()
    }
}

/// A run with everything that has memory: dropout, adaptive K decided every few windows, Adam's moments, a moving learning
/// rate, accumulated gradients, Burn's metrics and early stopping.
struct Setup {
    config: TbpttConfig,
    epochs: usize,
    every: u64,
    accumulate: Option<usize>,
    patience: usize,
    better: Direction,
    estimator: Estimator,
    /// Of the learner's scheduler, at the start; asked for anew where a run is resumed with another one.
    rate: f64,
    new_rate: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: strided(),
            epochs: 3,
            every: 5,
            accumulate: None,
            patience: 100,
            better: Direction::Lowest,
            estimator: Estimator::Direct,
            rate: 2e-2,
            new_rate: false,
        }
    }
}

impl Setup {
    fn run(
        &self,
        folder: &Path,
        seed: u64,
        resume: Option<Checkpoint>,
        observer: Option<Arc<dyn TrainingObserver>>,
    ) -> (LearningResult<Tbptt<Model>>, TbpttHandle, Seen) {
        let (outcome, result, handle, seen) = self.try_run(folder, seed, resume, observer);
        outcome.unwrap();
        (result, handle, seen)
    }

    /// The same, with the error that ended the run.
    #[allow(clippy::type_complexity)] // The parts of an outcome.
    fn try_run(
        &self,
        folder: &Path,
        seed: u64,
        resume: Option<Checkpoint>,
        observer: Option<Arc<dyn TrainingObserver>>,
    ) -> (
        Result<(), TrainError>,
        LearningResult<Tbptt<Model>>,
        TbpttHandle,
        Seen,
    ) {
        let corpus = corpus(804, 101);
        let policy = AdaptiveKConfig::new(0.5)
            .with_k0(6)
            .with_k_max(20)
            .with_probes(3)
            .with_estimator(self.estimator)
            .with_schedule(
                Schedule::default()
                    .with_every_updates(7)
                    .with_first(Some(3)),
            )
            .init()
            .unwrap();
        let schedule = LinearLrSchedulerConfig::new(self.rate, 1e-3, 200)
            .init()
            .unwrap();
        let seen = Seen::default();
        let mut training = training(&corpus, folder)
            .metrics((LossMetric::new(), StepMetric::perplexity()))
            .metric_train_numeric(StepMetric::clipped_share())
            .early_stopping(Both {
                seen: seen.clone(),
                stop: MetricEarlyStoppingStrategy::new(
                    &LossMetric::new(),
                    Aggregate::Mean,
                    self.better,
                    Part::Valid,
                    StoppingCondition::NoImprovementSince {
                        n_epochs: self.patience,
                    },
                ),
            })
            .num_epochs(self.epochs);
        if let Some(every) = self.accumulate {
            training = training.grads_accumulation(every);
        }
        let checkpoints = CheckpointConfig::new(folder)
            .every(self.every)
            .must_match("data", corpus.fingerprint())
            .must_match("vocabulary", corpus.vocabulary().content_hash())
            .may_change("run folder", folder.display());
        let mut strategy = AdaptiveTbptt::new(policy, self.config.clone())
            .unwrap()
            .with_checkpoints(checkpoints);
        if let Some(checkpoint) = resume {
            strategy = strategy.resume(checkpoint);
        }
        if self.new_rate {
            strategy = strategy.with_new_learning_rate();
        }
        if let Some(observer) = observer {
            strategy = strategy.with_observer(observer);
        }
        let handle = strategy.handle();
        let model = model(&corpus, 12, 0.3, seed);
        let result = training
            .with_training_strategy(strategy.into_strategy())
            .launch(Learner::new(
                Tbptt::new(model),
                AdamConfig::new().init(),
                schedule,
            ));
        (handle.finish(&result), result, handle, seen)
    }
}

/// Burn's epoch values of its metrics, by epoch: training loss, validation loss, training perplexity, share of clipped windows.
type Rows = Vec<(usize, [Option<f64>; 4])>;

/// What the spy below has seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Rows>>);

/// Writes down what Burn's metrics say of an epoch, and stops as asked.
#[derive(Clone)]
struct Both {
    seen: Seen,
    stop: MetricEarlyStoppingStrategy,
}

impl EarlyStoppingStrategy for Both {
    fn should_stop(&mut self, epoch: usize, store: &EventStoreClient) -> bool {
        let read = |name: &str, part| store.find_metric(name, epoch, Aggregate::Mean, &part);
        let (loss, perplexity) = (LossMetric::new().name(), StepMetric::perplexity().name());
        self.seen.0.lock().unwrap().push((
            epoch,
            [
                read(&loss, Part::Train),
                read(&loss, Part::Valid),
                read(&perplexity, Part::Train),
                read(&StepMetric::clipped_share().name(), Part::Train),
            ],
        ));
        self.stop.should_stop(epoch, store)
    }
}

/// What must be the same, whatever happened on the way.
#[derive(Debug, PartialEq)]
struct Outcome {
    weights: Vec<u32>,
    reports: Vec<EpochReport>,
    history: Vec<Decision>,
    burn: Rows,
}

fn outcome((result, handle, seen): &(LearningResult<Tbptt<Model>>, TbpttHandle, Seen)) -> Outcome {
    Outcome {
        weights: bits(&result.model),
        reports: timeless(&handle.reports()),
        history: handle.history(),
        burn: seen.0.lock().unwrap().clone(),
    }
}

/// Copies the run folder after chosen windows: what is on the disk when the process is killed right then.
struct Snapshots {
    folder: PathBuf,
    into: PathBuf,
    at: Vec<usize>,
    windows: Mutex<usize>,
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

/// Number of kill points; `ATBPTT_KILLS` asks for more.
fn kills() -> usize {
    let asked = std::env::var("ATBPTT_KILLS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(30)
}

/// Killed at random windows, resumed by another process' learner (other start weights): the bits of the run that went
/// through, and Burn's own metrics too.
#[test]
fn a_run_killed_anywhere_ends_with_the_bits_of_one_that_was_not() {
    let _turn = turn();
    let setup = Setup::default();
    let plain = tempfile::tempdir().unwrap();
    let expected = outcome(&setup.run(plain.path(), 3, None, None));
    assert_eq!(expected.reports.len(), 3);
    assert!(expected.history.len() > 3, "K is decided within epochs");
    let probes: Vec<usize> = expected.history.iter().map(|d| d.probes).collect();
    assert!(
        probes.iter().any(|n| *n > 3) && probes.iter().all(|n| (3..=20).contains(n)),
        "some estimates take more probes: {probes:?}"
    );
    let windows = expected.reports[2].step as usize;

    let mut rng = Pcg64::seed_from_u64(20_190_722);
    let at: Vec<usize> = (0..kills())
        .map(|_| rng.random_range(1..=windows))
        .collect();
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let observer = Arc::new(Snapshots {
        folder: folder.path().to_owned(),
        into: copies.path().to_owned(),
        at: at.clone(),
        windows: Mutex::new(0),
    });
    // Looking changes nothing.
    let watched = outcome(&setup.run(folder.path(), 3, None, Some(observer)));
    assert_eq!(watched, expected);

    let mut at = at;
    at.sort_unstable();
    at.dedup();
    for window in &at {
        let run = copies.path().join(window.to_string());
        let saved = Checkpoint::newest(&run).unwrap();
        assert!(saved.step() <= *window as u64 && *window as u64 <= saved.step() + 5);
        let resumed = outcome(&setup.run(&run, 99, Some(saved), None));
        assert_eq!(
            resumed, expected,
            "killed after window {window} of {windows}"
        );
    }
    println!("{} kill points of {windows} windows", at.len());
}

/// Gradients accumulated over three windows, each with a factor of its own: checkpoints fall between updates.
#[test]
fn accumulated_gradients_are_not_lost() {
    let _turn = turn();
    let setup = Setup {
        config: by_k(),
        estimator: Estimator::default(),
        accumulate: Some(3),
        every: 4,
        epochs: 2,
        ..Setup::default()
    };
    let plain = tempfile::tempdir().unwrap();
    let expected = outcome(&setup.run(plain.path(), 3, None, None));
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = vec![2, 8, 13, 29];
    let observer = Arc::new(Snapshots {
        folder: folder.path().to_owned(),
        into: copies.path().to_owned(),
        at: at.clone(),
        windows: Mutex::new(0),
    });
    setup.run(folder.path(), 3, None, Some(observer));
    for window in at {
        let run = copies.path().join(window.to_string());
        let saved = Checkpoint::newest(&run).unwrap();
        let resumed = outcome(&setup.run(&run, 99, Some(saved), None));
        assert_eq!(resumed, expected, "killed after window {window}");
    }
}

/// Early stopping remembers the epochs before the restart: the run ends at the same epoch, and a run that it had ended does
/// not go on.
#[test]
fn early_stopping_survives_a_restart() {
    let _turn = turn();
    let setup = Setup {
        epochs: 12,
        patience: 2,
        // The loss falls, so this never sees an improvement.
        better: Direction::Highest,
        ..Setup::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let expected = outcome(&setup.run(folder.path(), 3, None, None));
    let epochs = expected.reports.len();
    assert_eq!(epochs, 3, "stopped early");
    let again = outcome(&setup.run(
        folder.path(),
        99,
        Some(Checkpoint::newest(folder.path()).unwrap()),
        None,
    ));
    assert_eq!(again, expected);
    let before = Checkpoint::list(folder.path())
        .into_iter()
        .map(|path| Checkpoint::open(path).unwrap())
        .find(|saved| saved.epochs() == epochs - 1)
        .unwrap();
    let resumed = outcome(&setup.run(folder.path(), 99, Some(before), None));
    assert_eq!(resumed, expected);
}
