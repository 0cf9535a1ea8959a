//! Recurrent layers as sequence operations, and models over them that a trainer can truncate and probe.
//!
//! A window of an LSTM, GRU, tanh RNN or minGRU runs as one operation with a hand-written backward pass: one autodiff node per
//! layer and window, not dozens per step. Its state taps give the gradient of one loss at every earlier state in a
//! single backward pass, without any weight gradient; that is what truncation lengths are estimated from.
//!
//! ```text
//! ops ──► layer ──► Stack ──► LanguageModel, SeriesModel ──────┐
//!  ▲                                                           ├─► RecurrentModel ──► window loss      (training)
//!  └ kernels per backend            a model of your own ───────┘                  └─► StateGradients   (probe)
//! ```
//!
//! - [`ops`]: the sequence operations and the softmax loss, on `Tensor<D>`;
//! - [`LstmLayer`], [`GruLayer`], [`RnnLayer`], [`MinGruLayer`]: one layer's weights; [`Stack`]: several of them, with dropout
//!   in between;
//! - [`LanguageModel`]: embedding, stack, tied or untied softmax that never holds all logits of a window at once;
//! - [`SeriesModel`], [`SeriesBatch`]: continuous series, with missing targets;
//! - [`RecurrentModel`], [`RecurrentState`], [`SequenceBatch`]: what a model of your own implements; [`StackModel`]: the
//!   fast bodies for one around a [`Stack`];
//! - [`check_model`]: whether a model of your own keeps the rules that training relies on;
//! - [`TextState`], [`Sampling`]: a trained language model that reads and writes; [`NamedTensors`]: weights in files;
//! - [`interop`]: weights from and to PyTorch's layout and Burn's `nn::Lstm`.
//!
//! "METHOD §1" and the like cite the sections of `docs/METHOD.md` in the repository.
//!
//! # Words for shapes
//!
//! `batch`: parallel sequences; `time`: steps of a window; `input`, `hidden`: features of a layer; `part`: features of
//! one state part (hidden, or cell, of one layer); `lag`: steps back from the loss. Windows of tokens are
//! `[batch, time]`, of features `[batch, time, features]` unless a function says `[time, batch, features]` (the sequence
//! operations do). States are `[batch, part]`, and stay in the graph until someone detaches them. Losses are sums in nats.
//!
//! # Example
//!
//! ```
//! use atbptt_models::{
//!     LanguageModelConfig, LstmLayer, RecurrentModel, SequenceBatch, TokenBatch, WindowPlan,
//! };
//! use burn::tensor::Device;
//!
//! let device = Device::default().autodiff();
//! let model = LanguageModelConfig::new(10).with_hidden(8).init::<LstmLayer>(&device)?;
//! // Two sequences of 20 steps over 10 words; the target is the word one step later.
//! let words: Vec<i64> = (0..40).map(|i| i * i % 10).collect();
//! let later: Vec<i64> = (1..41).map(|i| i * i % 10).collect();
//! let batch = TokenBatch::from_host(&words, &later, 2, 20, &device)?;
//!
//! // A training window, BPTT(2K−1; K) with K = 5: 9 steps, the loss over the last 5, the next window 5 steps on.
//! let plan = WindowPlan { warm_up: 0, loss_from: 4, carry: 5 };
//! let window = model.window(&batch.slice(0..9), None, plan)?;
//! assert_eq!(window.loss.count, 2 * 5);
//! let _gradients = window.loss.sum.backward();
//!
//! // A probe: the last step's loss, its gradient at the states 0..=20 steps back.
//! let norms = model.state_gradients(&batch, None)?.lag_norms()?;
//! assert_eq!((norms.lags(), norms.sequences()), (21, 2));
//! # Ok::<(), atbptt_models::ModelError>(())
//! ```

#![deny(missing_docs)]
#![deny(clippy::indexing_slicing)]
mod batch;
mod check;
mod direct;
pub mod error;
mod inference;
mod init;
pub mod interop;
mod language_model;
mod layer;
mod named_tensors;
pub mod ops;
mod precision;
mod probe;
mod recurrent;
mod sampling;
mod series_batch;
mod series_model;
mod setters;
mod stack;
mod stack_model;
mod state;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod stepper;
pub use batch::{SequenceBatch, TokenBatch};
pub use check::{BrokenRule, check_layout, check_model, check_pieces};
pub use direct::{DirectPlan, PieceGradients, direct_statistics, piece_gradients};
pub use error::ModelError;
pub use inference::TextState;
pub use init::WeightInit;
pub use language_model::{LanguageModel, LanguageModelConfig};
pub use layer::{GruLayer, LstmLayer, MinGruLayer, RecurrentLayer, RnnLayer};
pub use named_tensors::NamedTensors;
pub use precision::Precision;
pub use probe::StateGradients;
pub use recurrent::{Predictions, RecurrentModel, StepLoss, WindowLoss, WindowPlan, frozen};
pub use sampling::Sampling;
pub use series_batch::{SeriesBatch, SeriesShape};
pub use series_model::{SeriesLoss, SeriesModel, SeriesModelConfig, SeriesPrediction};
pub use stack::{Stack, StackConfig};
pub use stack_model::StackModel;
pub use state::{LstmState, RecurrentState};
#[cfg(any(feature = "flex", feature = "ndarray"))]
pub use stepper::Stepper;

// What layers and stacks are made of, and tests look at: no part of what a version promises.
#[doc(hidden)]
pub use direct::ParameterPieces;
#[doc(hidden)]
pub use layer::LayerConfig;
#[doc(hidden)]
pub use stack::{UnrollOptions, Unrolled};
#[doc(hidden)]
pub use state::PackedState;
