//! Placeholder docs.
#![deny(missing_docs)]
mod batch;
pub mod error;
mod init;
pub mod interop;
mod language_model;
mod layer;
pub mod ops;
mod probe;
mod recurrent;
mod stack;
mod state;
pub use batch::{SequenceBatch, TokenBatch};
pub use error::ModelError;
pub use init::WeightInit;
pub use language_model::{LanguageModel, LanguageModelConfig};
pub use layer::{GruLayer, LayerConfig, LstmLayer, RecurrentLayer, RnnLayer};
pub use probe::StateGradients;
pub use recurrent::{RecurrentModel, StepLoss, WindowLoss, WindowPlan};
pub use stack::{
    Gru, GruConfig, Lstm, LstmConfig, Rnn, RnnConfig, Stack, StackConfig, UnrollOptions, Unrolled,
};
pub use state::{LstmState, RecurrentState};
