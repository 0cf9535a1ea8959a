//! # Adaptively truncated backpropagation through time, for Burn
//!
//! Truncated backpropagation trains recurrent networks on long sequences by keeping K steps of gradient. Whoever picks K has to
//! guess: too short and the gradient is biased, too long and training is slow. Here you say how much relative bias δ you
//! tolerate. While training runs, short probes measure what truncation drops, and K follows (Aicher, Foti & Fox, *Adaptively
//! Truncating Backpropagation Through Time to Control Gradient Bias*, UAI 2019, and what `docs/METHOD.md` in the repository
//! adds to it).
//!
//! ```text
//! text, series ──► source ──► window ──► recurrent model ──► loss ──► gradients ──► optimiser
//!                               ▲ K
//! policy ◄── bias curve ◄── products of weight gradients, or norms per lag ◄── probe: a longer window, one backward pass
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`core`] | estimates of the bias, and the policies that choose K; knows no model |
//! | [`models`] | LSTM, GRU, tanh RNN and minGRU as fused sequence operations, a language model, the [`RecurrentModel`] trait |
//! | [`train`] | sources of data, windows, the [`AdaptiveTbptt`] training strategy, whole runs ([`Run`](train::run::Run)), plots |
//!
//! # Shapes
//!
//! `batch` parallel sequences, `time` steps of a window, `input` and `hidden` features, `lag` steps back in time. Windows are
//! `[batch, time, features]` unless a function says `[time, batch, features]`; lag norms are `[lag, batch]`, lag 0 first.
//!
//! # Example
//!
//! A small language model on the built-in corpus, K chosen so that the estimated relative bias stays under one half:
//!
//! ```
//! use atbptt::{prelude::*, train::data::{Corpus, Split, SyntheticConfig}};
//! use burn::optim::SgdConfig;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
//! let run = Run::new(AdaptiveKConfig::new(0.5).with_k0(10).with_k_max(40))
//!     .with_training(TbpttConfig { probe: ProbeConfig::new(50), ..TbpttConfig::default() })
//!     .with_epochs(2);
//! let model: LanguageModel<LstmLayer> = LanguageModelConfig::new(corpus.vocabulary().len())
//!     .with_hidden(16)
//!     .init(&run.device()?)?;
//!
//! # let parent = tempfile::tempdir()?;
//! # let runs = parent.path();
//! let folder = RunFolder::numbered(runs, "first")?;
//! let (train, valid) = (corpus.training(8)?, corpus.evaluation(Split::Valid, 8)?);
//! let result = run.train(&folder, model, train, valid, SgdConfig::new().init(), 1.0)?;
//!
//! for epoch in &result.reports {
//!     println!("epoch {}: perplexity {:.0}, K = {}", epoch.epoch, epoch.train_perplexity, epoch.k);
//! }
//! # assert_eq!(result.reports.len(), 2);
//! # assert!(result.history.len() == 1);
//! # Ok(()) }
//! ```
//!
//! The device chooses the backend: `Device::default()` takes the fastest that is compiled in, `BURN_DEVICE` overrides it, and
//! the features of this crate (`flex`, `ndarray`, `wgpu`, `cuda`, …) decide which are.
#![deny(missing_docs)]

pub use atbptt_core as core;
pub use atbptt_models as models;
pub use atbptt_train as train;
pub use burn;

pub use atbptt_models::RecurrentModel;
pub use atbptt_train::AdaptiveTbptt;

/// What most programs need.
pub mod prelude {
    pub use atbptt_core::{
        AdaptiveKConfig, BiasEstimator, Decision, FixedKConfig, LagNorms, PolicyConfig,
        TruncationPolicy,
    };
    pub use atbptt_models::{
        GruLayer, LanguageModel, LanguageModelConfig, LstmLayer, ModelError, RecurrentModel,
        RecurrentState, RnnLayer, SequenceBatch, StepLoss, TokenBatch,
    };
    pub use atbptt_train::run::{Run, RunFolder, RunResult};
    pub use atbptt_train::{
        AdaptiveTbptt, Clip, EpochReport, ProbeConfig, Scheme, SequenceSource, StepScaling, Tbptt,
        TbpttConfig, TbpttHandle, TbpttInput, TokenSource, TrainError, stream_loader,
    };
}

/// The code of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
