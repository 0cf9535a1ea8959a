//! Training with adaptively truncated backpropagation through time, as a strategy for Burn's `SupervisedTraining`.
//!
//! [`AdaptiveTbptt`] runs the loop: it cuts windows by the current truncation length K from a [`SequenceSource`], carries
//! the state from one to the next, probes the model now and then, and lets a policy of `atbptt-core` choose K.
//!
//! ```text
//! data ──► SequenceSource ──► stream_loader ──► Burn's SupervisedTraining ──► AdaptiveTbptt
//!                                                                               │
//!              ┌────────────────────────────────────────────────────────────────┤ per window
//!              ▼                                                                ▼
//!    probe ──► policy ──► K ──► Cursor ──► window ──► Tbptt<model> ──► clip ──► update
//! ```
//!
//! - [`data`]: corpora, vocabularies, batchified streams; [`TokenSource`]: a text as a source of windows
//!   (`Corpus::training`, `Corpus::evaluation`);
//! - [`Tbptt`]: a `RecurrentModel` as Burn's learner sees it;
//! - [`AdaptiveTbptt`], [`TbpttConfig`]: the strategy and its settings: [`Scheme`], [`StepScaling`], [`Clip`],
//!   [`RateSchedule`], [`ProbeConfig`]; [`TbpttHandle`] and [`TrainingObserver`] look into a run;
//! - [`run`]: a whole run around the strategy: folder, settings, resuming, progress, metrics files, a figure;
//! - [`probe_direct()`], [`probe()`]: what estimates are made of; [`evaluate()`], [`evaluate_with()`]: exact losses and
//!   measures of one's own ([`ForecastErrors`] for series); all also without a training run; [`measured_bias()`]: the true
//!   bias of the truncated gradient, to check the estimate against;
//! - [`device_from_env()`]: the device that `BURN_DEVICE` names, or an error that says what is missing;
//! - [`metrics`]: perplexity, truncation length, clipped windows, relative bias and decay for Burn's dashboard; `plot` (feature `plot`):
//!   PNG figures;
//! - [`probe_file`]: gradient norms and direct statistics measured elsewhere, from JSON.
//!
//! "METHOD §1" and the like cite the sections of `docs/METHOD.md` in the repository.
//!
//! # Words for shapes
//!
//! `batch`: parallel sequences; `time`: steps of a window; `lag`: steps back from the loss. Token windows are
//! `[batch, time]`, lag norms `[lag, batch]`, lag 0 first. K, windows, burn-ins and chunks are counted in steps, losses in
//! nats, times in seconds.
//!
//! # Example
//!
//! One probe of an untrained model, and the truncation length it asks for. [`AdaptiveTbptt`] shows a whole run.
//!
//! ```
//! use atbptt_core::BiasEstimator;
//! use atbptt_models::{LanguageModelConfig, LstmLayer};
//! use atbptt_train::data::{Corpus, SyntheticConfig};
//! use atbptt_train::{ProbeConfig, probe};
//! use burn::tensor::Device;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
//! let source = corpus.training(8)?;
//!
//! let device = Device::default().autodiff();
//! let words = corpus.vocabulary().len();
//! let model = LanguageModelConfig::new(words).with_hidden(16).init::<LstmLayer>(&device)?;
//!
//! // W = 40 steps after a burn-in of 4, one random window per sequence, seed 0.
//! let norms = probe(&model, &source, ProbeConfig::new(40), 0, &device)?;
//! assert_eq!((norms.lags(), norms.sequences()), (41, 8));
//! let estimate = BiasEstimator::new().estimate(&norms)?;
//! println!("β = {:.2}, K(0.5) = {:?}", estimate.beta(), estimate.smallest_k(0.5));
//! # Ok(()) }
//! ```

#![deny(missing_docs)]
#![deny(clippy::indexing_slicing)]
mod checkpoint;
mod cursor;
pub mod data;
mod device;
mod distinct;
mod error;
mod evaluate;
mod files;
mod forecast_errors;
mod learner;
mod measured;
mod metric_files;
pub mod metrics;
mod observer;
mod optimizer;
mod output;
mod panics;
#[cfg(feature = "plot")]
pub mod plot;
mod probe;
pub mod probe_file;
mod renderer;
mod report;
pub mod run;
mod schedule;
#[cfg(feature = "signals")]
mod signals;
mod source;
mod step;
mod strategy;
mod stream_loader;
mod tensorboard;
mod token_sources;
mod workers;

pub use atbptt_core::Scheme;
#[doc(hidden)] // For tests to look into.
pub use checkpoint::Identity;
pub use checkpoint::{Checkpoint, CheckpointConfig, CheckpointFault, Difference};
pub use device::{
    DEVICE_VARIABLE, DeviceError, NamedDevice, check_device, compiled_backends, device_by_name,
    device_from_env, devices_by_names,
};
pub use error::TrainError;
pub use evaluate::{EvaluatedChunk, SummedLoss, evaluate, evaluate_with};
pub use forecast_errors::ForecastErrors;
#[doc(hidden)]
pub use learner::Task;
pub use learner::{Tbptt, TbpttInput};
pub use measured::{measured_bias, measured_bias_of_all_weights};
pub use metric_files::metric_files;
pub use observer::{Resumed, TrainingObserver};
pub use optimizer::FusedSgd;
pub use output::{StepReport, TbpttOutput};
pub use probe::{ProbeConfig, direct_probe, probe, probe_direct, probe_direct_distinct};
pub use renderer::quiet_renderer;
pub use report::EpochReport;
pub use schedule::{Plateau, RateSchedule, RateShape};
#[cfg(feature = "signals")]
pub use signals::StopSignals;
pub use source::{SequenceSource, TokenSource};
pub use step::{Clip, StepScaling};
pub use strategy::{AdaptiveTbptt, OnNonFinite, TbpttConfig, TbpttHandle, WindowPlace};
pub use stream_loader::stream_loader;
pub use tensorboard::tensorboard_files;
pub use workers::{WorkerReport, shards};
