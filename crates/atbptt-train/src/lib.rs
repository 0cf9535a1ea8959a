//! Placeholder docs.
#![deny(missing_docs)]
mod checkpoint;
mod cursor;
pub mod data;
mod error;
mod evaluate;
mod learner;
pub mod metrics;
pub mod norms_file;
#[cfg(feature = "plot")]
pub mod plot;
mod probe;
mod report;
mod source;
mod step;
mod strategy;

pub use checkpoint::{EpochSums, LoopState};
pub use cursor::{Cursor, Scheme, WindowSpan};
pub use error::TrainError;
pub use evaluate::evaluate;
pub use learner::{StepReport, Tbptt, TbpttInput, TbpttOutput};
pub use probe::{ProbeConfig, probe};
pub use report::{EpochReport, TrainingObserver};
pub use source::{SequenceSource, StreamLoader, TokenSource};
pub use step::{Clip, StepScaling};
pub use strategy::{AdaptiveTbptt, TbpttConfig, TbpttHandle};
