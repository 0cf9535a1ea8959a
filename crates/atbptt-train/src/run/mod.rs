//! A whole training run: a folder, settings, checkpoints, progress, metrics and a figure around the
//! [`AdaptiveTbptt`](crate::AdaptiveTbptt) strategy.
//!
//! Place in the flow: the program brings a model, sources, an optimiser and a policy for K; [`Run`] puts Burn's
//! `SupervisedTraining` together, trains in a [`RunFolder`], and gives a [`RunResult`]. What a run is made of
//! ([`Run::must_match`]) is written into its checkpoints, so that a run which goes on as another one is refused.
//!
//! ```
//! use atbptt_core::policy::AdaptiveKConfig;
//! use atbptt_models::{LanguageModelConfig, LstmLayer};
//! use atbptt_train::data::{Corpus, Split, SyntheticConfig};
//! use atbptt_train::run::{Run, RunFolder};
//! use atbptt_train::{ProbeConfig, TbpttConfig};
//! use burn::optim::SgdConfig;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
//! let run = Run::new(AdaptiveKConfig::new(0.5).with_k0(10).with_k_max(40))
//!     .with_training(TbpttConfig { probe: ProbeConfig::new(50), ..TbpttConfig::default() })
//!     .with_epochs(2)
//!     .must_match("data", corpus.fingerprint());
//!
//! // Weights are drawn from the run's seed.
//! let model = LanguageModelConfig::new(corpus.vocabulary().len())
//!     .with_hidden(16)
//!     .init::<LstmLayer>(&run.device()?)?;
//! # let parent = tempfile::tempdir()?;
//! # let runs = parent.path();
//! let folder = RunFolder::numbered(runs, "first")?; // or `RunFolder::resume("runs/first-1")`
//! let (train, valid) = (corpus.training(8)?, corpus.evaluation(Split::Valid, 8)?);
//! let result = run.train(&folder, model, train, valid, SgdConfig::new().init(), 1.0)?;
//! result.print();
//! # assert_eq!(result.reports.len(), 2);
//! # Ok(()) }
//! ```

mod data_path;
mod fault;
#[cfg(feature = "plot")]
mod figure;
mod folder;
mod forecast;
mod launch;
mod lines;
mod metrics;
mod stop;
mod summary;
mod trained;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use atbptt_models::RecurrentModel;
use burn::tensor::Device;
use burn::train::{Interrupter, SupervisedTraining};
use serde::Serialize;

use crate::TrainError;
use crate::checkpoint::Identity;
use crate::device::{NamedDevice, check_alike, device_from_env};
use crate::learner::Tbptt;
use crate::observer::TrainingObserver;
use crate::report::EpochReport;
use crate::source::SequenceSource;
use crate::strategy::{OnNonFinite, TbpttConfig, WindowPlace};
use crate::workers::check_shared;

pub use atbptt_core::policy::PolicyConfig;
pub use data_path::DataPath;
pub use fault::RunFault;
pub use folder::RunFolder;
pub use forecast::Forecast;
pub use lines::{Display, number, say};
pub use summary::{RunResult, RunSummary};
pub use trained::TrainedModel;

/// The outcome of a complete run; written last, so that its presence says the run is complete.
const RESULT: &str = "result.json";

type EpochLine = fn(&EpochReport) -> String;
type Configure<M> = Box<dyn FnOnce(SupervisedTraining<Tbptt<M>>) -> SupervisedTraining<Tbptt<M>>>;
type Measures<M> = Box<dyn Fn(&M) -> Result<BTreeMap<String, f64>, TrainError> + Send + Sync>;
type Look<M> = Box<dyn Fn(&M, WindowPlace) -> Result<(), TrainError> + Send + Sync>;

/// A training run about to begin, or to go on. See the [module](self) for an example.
pub struct Run<M: RecurrentModel> {
    policy: PolicyConfig,
    training: TbpttConfig,
    epochs: usize,
    checkpoint_every: Option<u64>,
    on_non_finite: OnNonFinite,
    new_learning_rate: bool,
    more_data: bool,
    identity: Identity,
    settings: Option<serde_json::Result<String>>,
    title: String,
    /// The name of a loss that is no perplexity.
    loss: Option<String>,
    /// What stands above the lines of epochs, and what each says.
    lines: Option<(Option<&'static str>, EpochLine)>,
    display: Display,
    tensorboard: bool,
    signals: bool,
    interrupter: Interrupter,
    measures: Option<Measures<M>>,
    look: Option<Look<M>>,
    test: Option<Arc<dyn SequenceSource<Batch = M::Batch>>>,
    observer: Option<Arc<dyn TrainingObserver>>,
    configure: Option<Configure<M>>,
    /// Where it trains; empty: where `BURN_DEVICE` says.
    devices: Vec<NamedDevice>,
    /// Files beside the trained model.
    model_files: Vec<(String, serde_json::Result<String>)>,
}

impl<M: RecurrentModel> Run<M> {
    /// A run of one epoch under a rule for K, with the default settings of the training loop.
    pub fn new(policy: impl Into<PolicyConfig>) -> Self {
        Self {
            policy: policy.into(),
            training: TbpttConfig::default(),
            epochs: 1,
            checkpoint_every: None,
            on_non_finite: OnNonFinite::default(),
            new_learning_rate: false,
            more_data: false,
            identity: Identity::new(),
            settings: None,
            title: "Training run".into(),
            loss: None,
            lines: None,
            display: Display::default(),
            tensorboard: false,
            signals: false,
            interrupter: Interrupter::new(),
            measures: None,
            look: None,
            test: None,
            observer: None,
            configure: None,
            devices: Vec::new(),
            model_files: Vec::new(),
        }
    }

    /// Settings of the training loop, the seed of the run among them.
    pub fn with_training(mut self, config: TbpttConfig) -> Self {
        self.training = config;
        self
    }

    /// Passes over the training data, with those of the run that is resumed.
    pub fn with_epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
        self
    }

    /// Writes a checkpoint after every so many training windows beside those at the ends of epochs; 0: only those. By default every
    /// 200 windows, but for those with which writing would take more than a twentieth of the time.
    pub fn with_checkpoint_every(mut self, windows: u64) -> Self {
        self.checkpoint_every = Some(windows);
        self
    }

    /// What to do about values that are not finite; by default, stop.
    pub fn on_non_finite(mut self, choice: OnNonFinite) -> Self {
        self.on_non_finite = choice;
        self
    }

    /// Lets a run that goes on take another learning rate or schedule, and lists it; see
    /// [`AdaptiveTbptt::with_new_learning_rate`](crate::AdaptiveTbptt::with_new_learning_rate).
    pub fn with_new_learning_rate(mut self) -> Self {
        self.new_learning_rate = true;
        self
    }

    /// Lets a run that goes on have more training data than it had, and lists it; see
    /// [`AdaptiveTbptt::with_more_data`](crate::AdaptiveTbptt::with_more_data). A hash of
    /// the data is then given by [`may_change`](Self::may_change).
    pub fn with_more_data(mut self) -> Self {
        self.more_data = true;
        self
    }

    /// Adds something without which the run would be another one, above all a hash of the data: a run that goes on with
    /// another value is refused. Policy, training loop, learning rate at the start, sizes of data and weights are there
    /// already.
    pub fn must_match(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.identity = self.identity.must_match(name, value);
        self
    }

    /// Adds something that may differ when the run goes on, and is then listed.
    pub fn may_change(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.identity = self.identity.may_change(name, value);
        self
    }

    /// What the program needs to set the run up again: goes into `config.json` and every checkpoint;
    /// [`Checkpoint::settings_as`](crate::Checkpoint::settings_as) gives it back. Without it, `config.json` holds policy, training loop and epochs.
    pub fn with_settings(mut self, settings: &impl Serialize) -> Self {
        self.settings = Some(serde_json::to_string_pretty(settings));
        self
    }

    /// Heading of the figure.
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// What the loss is called in lines and figures, such as `Negative log-likelihood per event (nats)`. By default it is a negative
    /// log-likelihood per token, and shown as its exponential, the perplexity.
    pub fn with_loss_name(mut self, name: impl Into<String>) -> Self {
        self.loss = Some(name.into());
        self
    }

    /// What the line of an epoch says, and a header above these lines; by default, what goes with the name of the loss.
    pub fn with_epoch_lines(
        mut self,
        header: Option<&'static str>,
        line: fn(&EpochReport) -> String,
    ) -> Self {
        self.lines = Some((header, line));
        self
    }

    /// What is shown while it trains; by default, [`Display::Lines`].
    pub fn with_display(mut self, display: Display) -> Self {
        self.display = display;
        self
    }

    /// Writes metrics as TensorBoard event files, too: `tensorboard --logdir RUN/tensorboard`; see
    /// [`tensorboard_files`](crate::tensorboard_files).
    pub fn with_tensorboard(mut self) -> Self {
        self.tensorboard = true;
        self
    }

    /// SIGINT, SIGTERM and SIGHUP end the run with a checkpoint ([`StopSignals`](crate::StopSignals)). Handlers are one set
    /// per process, so this is the program's choice.
    #[cfg(feature = "signals")]
    pub fn stop_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// Measures the model after every epoch, such as `|model| Ok([("test_error", error(model)?)])`; see
    /// [`AdaptiveTbptt::with_measures`](crate::AdaptiveTbptt::with_measures).
    pub fn with_measures<N: Into<String>, All: IntoIterator<Item = (N, f64)>>(
        mut self,
        measures: impl Fn(&M) -> Result<All, TrainError> + Send + Sync + 'static,
    ) -> Self {
        self.measures = Some(Box::new(move |model: &M| {
            let all = measures(model)?.into_iter();
            Ok(all.map(|(name, value)| (name.into(), value)).collect())
        }));
        self
    }

    /// Shows the model to `look` after every training window; see
    /// [`AdaptiveTbptt::after_windows`](crate::AdaptiveTbptt::after_windows).
    pub fn after_windows(
        mut self,
        look: impl Fn(&M, WindowPlace) -> Result<(), TrainError> + Send + Sync + 'static,
    ) -> Self {
        self.look = Some(Box::new(look));
        self
    }

    /// Evaluates the model on a test set after every epoch: `test_perplexity` among the measures, or `test_loss` where the
    /// loss has a name of its own.
    pub fn with_test(mut self, test: impl SequenceSource<Batch = M::Batch>) -> Self {
        self.test = Some(Arc::new(test));
        self
    }

    /// Tells `observer` what happens.
    pub fn with_observer(mut self, observer: Arc<dyn TrainingObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Lets the program change Burn's training before it is launched: metrics, early stopping, accumulated gradients.
    ///
    /// ```
    /// # use atbptt_core::policy::AdaptiveKConfig;
    /// # use atbptt_models::{LanguageModel, LstmLayer};
    /// # use atbptt_train::run::Run;
    /// # let run = Run::<LanguageModel<LstmLayer>>::new(AdaptiveKConfig::new(0.5));
    /// let run = run.with_supervised(|training| training.grads_accumulation(4));
    /// ```
    pub fn with_supervised(
        mut self,
        change: impl FnOnce(SupervisedTraining<Tbptt<M>>) -> SupervisedTraining<Tbptt<M>> + 'static,
    ) -> Self {
        self.configure = Some(Box::new(change));
        self
    }

    /// Stops the run from elsewhere, as a signal would: it ends after the window with a checkpoint.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Trains on these devices of one backend as one run, each with sequences of its own, in place of the one that `BURN_DEVICE`
    /// names ([`AdaptiveTbptt::on_devices`](crate::AdaptiveTbptt::on_devices)); [`devices_by_names`](crate::devices_by_names)
    /// reads a list of names. The run prints
    /// at its start which sequences each device gets, and at its end how long each has worked.
    pub fn with_devices(
        mut self,
        devices: impl IntoIterator<Item = impl Into<NamedDevice>>,
    ) -> Self {
        self.devices = devices.into_iter().map(Into::into).collect();
        self
    }

    /// The device that `BURN_DEVICE` names, or the first of [`with_devices`](Self::with_devices), with gradient tracking. Its
    /// random generator is seeded with the run's seed, so that a model initialised right away has the same weights every time.
    ///
    /// # Errors
    ///
    /// [`TrainError::Device`].
    pub fn device(&self) -> Result<Device, TrainError> {
        let device = match self.devices.first() {
            Some(first) => first.device.clone(),
            None => device_from_env()?.device,
        };
        let device = device.autodiff();
        device.seed(self.training.seed);
        Ok(device)
    }

    /// Refuses settings outside their range, and a training source too short for the longest window or a probe.
    /// [`train`](Self::train) does the same; a program that asks before it makes the folder leaves none behind.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`], [`TrainError::Estimate`], [`TrainError::StreamTooShort`], [`TrainError::ProbeTooLong`]; on several
    /// devices, [`TrainError::Device`], [`TrainError::TooManyDevices`], [`TrainError::NotShared`].
    pub fn check(&self, train: &dyn SequenceSource<Batch = M::Batch>) -> Result<(), TrainError> {
        if self.epochs == 0 {
            return Err(TrainError::Config {
                field: "epochs",
                rule: "at least 1",
                got: "0".into(),
                remedy: "an epoch is one pass over the training data",
            });
        }
        if !self.devices.is_empty() {
            check_alike(&self.devices)?;
            check_shared(train, self.devices.len())?;
        }
        let policy = self.policy.init()?;
        self.training.check(&policy)?;
        self.training.check_stream(&policy, train.common_steps())
    }
}

fn json(value: &impl Serialize, pretty: bool) -> Result<String, TrainError> {
    match pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    }
    .map_err(cannot_serialize)
}

fn cannot_serialize(error: serde_json::Error) -> TrainError {
    TrainError::Training {
        reason: format!("settings or reports cannot be written as JSON: {error}"),
    }
}
