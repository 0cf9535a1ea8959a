//! [`AdaptiveTbptt`]: truncated backpropagation with a policy for K, as a training strategy of Burn's.
//!
//! Place in the flow: Burn's `SupervisedTraining` is built as always, with its metrics, renderer, checkpointers, scheduler,
//! early stopping and interrupter; the strategy runs the loop. Per window: probes if the policy wants them, the steps that
//! scheme and K ask for with the carried state, backward pass, clipping; then an update, or one for several windows.

mod capture;
mod config;
mod handle;
mod run;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atbptt_core::policy::TruncationPolicy;
use atbptt_models::RecurrentModel;
use burn::data::dataset::DatasetError;
use burn::train::{
    Learner, SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainLoader,
    TrainingComponents, TrainingError, TrainingStrategy, ValidLoader,
};

use crate::TrainError;
use crate::checkpoint::{Checkpoint, CheckpointConfig};
use crate::device::{NamedDevice, check_alike};
use crate::learner::Tbptt;
use crate::observer::{Resumed, TrainingObserver};
use crate::report::EpochReport;
use crate::workers::WorkerReport;

pub use self::config::{OnNonFinite, TbpttConfig};
pub use self::handle::TbpttHandle;

/// Truncated backpropagation through time with a policy for the truncation length.
///
/// ```no_run
/// use atbptt_core::AdaptiveKConfig;
/// use atbptt_train::{AdaptiveTbptt, TbpttConfig};
/// # use atbptt_models::{LanguageModel, LstmLayer};
/// # use atbptt_train::{Tbptt, TbpttInput};
/// # use burn::{data::dataloader::DataLoader, optim::ModuleOptimizer, train::{Learner, SupervisedTraining}};
/// # use std::sync::Arc;
/// # type Model = LanguageModel<LstmLayer>;
/// # fn run(
/// #     model: Model, optimizer: ModuleOptimizer,
/// #     train: Arc<dyn DataLoader<TbpttInput<Model>>>, valid: Arc<dyn DataLoader<TbpttInput<Model>>>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let policy = AdaptiveKConfig::new(0.5).with_k0(100).init()?;
/// let strategy = AdaptiveTbptt::new(policy, TbpttConfig::default())?;
/// let handle = strategy.handle();
/// let result = SupervisedTraining::new("runs/1", train, valid)
///     .num_epochs(10)
///     .with_training_strategy(strategy.into_strategy())
///     .launch(Learner::new(Tbptt::new(model), optimizer, 1.0));
/// handle.finish(&result)?;
/// for report in handle.reports() {
///     println!("{}: perplexity {:.1}, K = {}", report.epoch, report.train_perplexity, report.k);
/// }
/// # Ok(()) }
/// ```
pub struct AdaptiveTbptt {
    config: TbpttConfig,
    on_non_finite: OnNonFinite,
    checkpoints: Option<CheckpointConfig>,
    resume: Mutex<Option<Checkpoint>>,
    /// Whether a resumed run takes the learning rate given now.
    new_learning_rate: bool,
    /// Whether a resumed run may have more steps than before.
    more_data: bool,
    /// Whether the model is checked before the first window.
    check_model: bool,
    observer: Option<Arc<dyn TrainingObserver>>,
    /// A [`Measures`] of the model that is trained.
    measures: Option<Box<dyn Any + Send + Sync>>,
    /// A [`Look`] at the model that is trained.
    look: Option<Box<dyn Any + Send + Sync>>,
    /// Where to train; empty: where the model is.
    devices: Vec<NamedDevice>,
    shared: Arc<Shared>,
}

/// Named numbers of a model, measured after every epoch.
struct Measures<M>(Box<MeasureFn<M>>);

/// Looks at a model after every window.
struct Look<M>(Box<LookFn<M>>);

type LookFn<M> = dyn Fn(&M, WindowPlace) -> Result<(), TrainError> + Send + Sync;

/// Where training stands between two windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowPlace {
    /// The epoch, counted from one.
    pub epoch: usize,
    /// Windows since the start of the run.
    pub window: u64,
    /// Steps of every sequence, from the first one of the epoch on, whose losses are behind: the next window begins with the loss
    /// of this step.
    pub counted: usize,
}

type MeasureFn<M> = dyn Fn(&M) -> Result<BTreeMap<String, f64>, TrainError> + Send + Sync;

/// What strategy and handle share.
struct Shared {
    policy: Mutex<Box<dyn TruncationPolicy>>,
    reports: Mutex<Vec<EpochReport>>,
    error: Mutex<Option<TrainError>>,
    resumed: Mutex<Option<Resumed>>,
    interrupted: Mutex<bool>,
    workers: Mutex<Vec<WorkerReport>>,
}

/// Locks even after a panic elsewhere: the data are plain values, whole after every assignment.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AdaptiveTbptt {
    /// A strategy with a policy: that of [`AdaptiveKConfig`](atbptt_core::AdaptiveKConfig) for adaptive truncation, of
    /// [`FixedKConfig`](atbptt_core::FixedKConfig) for a fixed length, or a boxed one, as
    /// [`PolicyConfig`](atbptt_core::PolicyConfig) gives it.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] when a setting is outside its range.
    pub fn new(
        policy: impl TruncationPolicy + 'static,
        config: TbpttConfig,
    ) -> Result<Self, TrainError> {
        config.check(&policy)?;
        Ok(Self {
            config,
            on_non_finite: OnNonFinite::default(),
            checkpoints: None,
            resume: Mutex::new(None),
            new_learning_rate: false,
            more_data: false,
            check_model: true,
            observer: None,
            measures: None,
            look: None,
            devices: Vec::new(),
            shared: Arc::new(Shared {
                policy: Mutex::new(Box::new(policy)),
                reports: Mutex::new(Vec::new()),
                error: Mutex::new(None),
                resumed: Mutex::new(None),
                interrupted: Mutex::new(false),
                workers: Mutex::new(Vec::new()),
            }),
        })
    }

    /// Writes checkpoints into `run/checkpoint` at the ends of epochs and where the run is interrupted: short for
    /// [`with_checkpoints`](Self::with_checkpoints).
    pub fn with_run_folder(self, run: impl Into<PathBuf>) -> Self {
        self.with_checkpoints(CheckpointConfig::new(run))
    }

    /// Writes checkpoints. Burn's own checkpointers may write theirs beside them, for other programs; a run resumes from these.
    pub fn with_checkpoints(mut self, config: CheckpointConfig) -> Self {
        self.checkpoints = Some(config);
        self
    }

    /// Goes on from a checkpoint when training starts: with its weights, optimiser, scheduler, policy and position, so that the
    /// run ends with the bits of one that never stopped (same device and program). Everything else must be set up as it was;
    /// a difference that matters is refused then, one that does not is listed ([`TbpttHandle::resumed`]).
    ///
    /// Tell Burn's dashboard by `SupervisedTraining::checkpoint(checkpoint.epochs())`, without checkpointers of Burn's, which
    /// would bring their weights along.
    pub fn resume(self, checkpoint: Checkpoint) -> Self {
        *lock(&self.resume) = Some(checkpoint);
        self
    }

    /// Lets a resumed run go on with another learning rate: the learner's scheduler and the [`RateSchedule`](crate::RateSchedule) given now, as if they
    /// had been there from the start, each at the place that the run has reached. Without this, a learning rate or schedule that
    /// differs from the checkpoint's is refused; with it, it is listed ([`TbpttHandle::resumed`]).
    pub fn with_new_learning_rate(mut self) -> Self {
        self.new_learning_rate = true;
        self
    }

    /// Lets a resumed run go on with more training data than it had: as many sequences, each with as many steps as before or more.
    /// Without this, another number of steps is refused; with it, it is listed ([`TbpttHandle::resumed`]).
    ///
    /// From the end of an epoch, the next epochs read all there is. From within one, the run goes on at its place with the carried
    /// state, where data were appended to each sequence: the steps before the place must be those that were read
    /// ([`SequenceSource::fingerprint`](crate::SequenceSource::fingerprint)), which a text cut anew into several parallel sequences
    /// does not keep. Whatever the program itself says of the data has to be said as something that
    /// [may change](CheckpointConfig::may_change).
    pub fn with_more_data(mut self) -> Self {
        self.more_data = true;
        self
    }

    /// Leaves out the check of the model that training begins with
    /// ([`check_pieces`](atbptt_models::check_pieces): a window in pieces is the window, its features and its loss).
    pub fn without_model_check(mut self) -> Self {
        self.check_model = false;
        self
    }

    /// What to do about values that are not finite; by default, stop.
    pub fn on_non_finite(mut self, choice: OnNonFinite) -> Self {
        self.on_non_finite = choice;
        self
    }

    /// Tells `observer` what happens.
    pub fn with_observer(mut self, observer: Arc<dyn TrainingObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Trains on several devices of one backend, as one run with one K: each gets sequences of its own
    /// ([`shards`](crate::shards)), and the gradients of all make one update. A device may be named twice. The first one also
    /// coordinates: it holds weights and optimiser, and validates. One device, or none: the run is the usual one, there or where
    /// the model is.
    ///
    /// Gradients are those of one device up to rounding, added up in one fixed order: the same devices give the same bits every
    /// time. Probes are shared out whole, so that K is decided from the same numbers. Checkpoints do not depend on the number
    /// of devices: a run may go on with more or fewer. Models of this library drop the same units on Flex and NdArray, however
    /// many devices there are; on other backends, the same for the same devices. Burn's own `Dropout` draws from a generator
    /// that all workers of a process share, so that a model that uses it is not reproducible on several devices.
    ///
    /// ```
    /// use atbptt_core::AdaptiveKConfig;
    /// use atbptt_train::{AdaptiveTbptt, TbpttConfig};
    /// use burn::tensor::Device;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let strategy = AdaptiveTbptt::new(AdaptiveKConfig::new(0.5).init()?, TbpttConfig::default())?
    ///     .on_devices([Device::flex(), Device::flex()])?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TrainError::Device`] for a backend that cannot run this library's operations, and for several backends. Training ends
    /// with [`TrainError::TooManyDevices`] when there are fewer sequences than devices, and with [`TrainError::NotShared`] when
    /// the source hands out no [shards](crate::SequenceSource::shard).
    pub fn on_devices(
        mut self,
        devices: impl IntoIterator<Item = impl Into<NamedDevice>>,
    ) -> Result<Self, TrainError> {
        let devices: Vec<NamedDevice> = devices.into_iter().map(Into::into).collect();
        if !devices.is_empty() {
            check_alike(&devices)?;
        }
        self.devices = devices;
        Ok(self)
    }

    /// Measures the model after every epoch, in evaluation mode, and adds the numbers to the epoch's report: the loss on a
    /// test set, an accuracy, an error in the units of the data. A number that is not finite is left out, with a warning.
    ///
    /// `M` is the model that will be trained; a strategy with measures of another model refuses to train.
    pub fn with_measures<M: RecurrentModel, N: Into<String>, All: IntoIterator<Item = (N, f64)>>(
        mut self,
        measures: impl Fn(&M) -> Result<All, TrainError> + Send + Sync + 'static,
    ) -> Self {
        let named = move |model: &M| -> Result<BTreeMap<String, f64>, TrainError> {
            let all = measures(model)?.into_iter();
            Ok(all.map(|(name, value)| (name.into(), value)).collect())
        };
        self.measures = Some(Box::new(Measures::<M>(Box::new(named))));
        self
    }

    /// What the measures say about `model`.
    fn measure<M: RecurrentModel>(&self, model: &M) -> Result<BTreeMap<String, f64>, TrainError> {
        let Some(measures) = &self.measures else {
            return Ok(BTreeMap::new());
        };
        match measures.downcast_ref::<Measures<M>>() {
            Some(Measures(measure)) => measure(model),
            None => Err(TrainError::Config {
                field: "measures",
                rule: "of the model that is trained",
                got: "measures of another type of model".into(),
                remedy: "give `with_measures` a closure over the model of the learner",
            }),
        }
    }

    /// Shows the model, in evaluation mode, to `look` after every training window: for forecasts while it learns, from a stream that
    /// is read once. Time spent there counts as none of training's. A run that goes on repeats the windows after its checkpoint,
    /// and shows the same model at the same places again.
    ///
    /// `M` is the model that will be trained; a strategy with a look at another model refuses to train.
    pub fn after_windows<M: RecurrentModel>(
        mut self,
        look: impl Fn(&M, WindowPlace) -> Result<(), TrainError> + Send + Sync + 'static,
    ) -> Self {
        self.look = Some(Box::new(Look::<M>(Box::new(look))));
        self
    }

    /// Shows `model`, where it is wanted.
    fn look<M: RecurrentModel>(
        &self,
        model: impl FnOnce() -> M,
        place: WindowPlace,
    ) -> Result<(), TrainError> {
        let Some(look) = &self.look else {
            return Ok(());
        };
        match look.downcast_ref::<Look<M>>() {
            Some(Look(look)) => look(&model(), place),
            None => Err(TrainError::Config {
                field: "look",
                rule: "at the model that is trained",
                got: "a look at another type of model".into(),
                remedy: "give `after_windows` a closure over the model of the learner",
            }),
        }
    }

    /// A view of the run, to keep when the strategy moves into the training.
    pub fn handle(&self) -> TbpttHandle {
        TbpttHandle {
            shared: self.shared.clone(),
        }
    }

    /// The strategy as `SupervisedTraining::with_training_strategy` takes it.
    pub fn into_strategy<M: RecurrentModel>(self) -> TrainingStrategy<Tbptt<M>> {
        TrainingStrategy::Custom(Arc::new(self))
    }
}

impl<M: RecurrentModel> SupervisedLearningStrategy<Tbptt<M>> for AdaptiveTbptt {
    fn fit(
        &self,
        components: TrainingComponents<Tbptt<M>>,
        learner: Learner<Tbptt<M>>,
        train: TrainLoader<Tbptt<M>>,
        valid: ValidLoader<Tbptt<M>>,
        starting_epoch: usize,
    ) -> (Tbptt<M>, SupervisedTrainingEventProcessor<Tbptt<M>>) {
        let interrupter = components.interrupter.clone();
        let mut run = run::Run::new(self, components, learner);
        if let Err(error) = run.train_to_end(train, valid, starting_epoch) {
            interrupter.fail(TrainingError::Dataset(DatasetError::new(Stopped(
                error.to_string(),
            ))));
            *lock(&self.shared.error) = Some(error);
        }
        run.finish()
    }
}

/// A [`TrainError`]'s text, as Burn's error type carries it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stopped(String);
