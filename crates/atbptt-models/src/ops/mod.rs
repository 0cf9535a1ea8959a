//! Sequence operations: one operation per recurrent layer and window, with the [`Cell`] as a parameter.
//!
//! Place in the flow: layers such as [`LstmLayer`](crate::LstmLayer) hold the weights and call [`sequence`], models call the
//! softmax loss and the embedding, training loops the passes over the weights. The functions of this module take
//! `Tensor<D>`, check shapes, types and devices, and cross to the backend in use. Each is **one autodiff node** with a
//! hand-written backward pass, and several results packed in one tensor.
//!
//! # Shapes
//!
//! All operations are time-major. `time` T, `batch` B, `input` I, `hidden` H. How many gates and state parts a cell has, and
//! its equations, are told by [`Cell`].
//!
//! | tensor | shape |
//! |---|---|
//! | input | `[T, B, I]` |
//! | input weight | `[I, gates · H]` |
//! | recurrent weight | `[H, recurrent gates · H]` |
//! | bias | `[gates · H]` |
//! | recurrent bias (GRU) | `[H]` |
//! | packed state S | `[B, parts · H]`: hidden, and an LSTM's cell beside it |
//! | result | `[T, B, S]` |
//!
//! # State taps
//!
//! `taps` `[T, B, S]` is a perturbation, zero in use, added to the copy of the state that step t hands to step
//! t + 1. Its gradient is ∂L/∂h_t of METHOD §1 for all steps at once: what flows back from step t + 1, without the
//! uses inside step t. The last tap hands over to no step of the window, so its gradient is zero. When only taps
//! (or the initial state) are tracked, no weight gradient is computed.
//!
//! # Reset mask
//!
//! `reset_mask` `[T, B, 1]` multiplies the state that enters a step: zero where the step begins a new sequence, so that the
//! state is zeroed and the gradient cut before it, else one.

#![allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.

// Beneath `tensor`, code indexes what `checks` measured before.
#[allow(clippy::indexing_slicing)]
mod autodiff;
#[allow(unused_imports)]
// Which of its imports are used depends on the backends that are compiled in.
mod backends;
mod cell;
pub(crate) mod checks;
mod contract;
#[allow(clippy::indexing_slicing)]
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
#[allow(clippy::indexing_slicing)]
#[cfg(feature = "cube")]
mod cube;
pub(crate) mod draws;
mod extension;
#[allow(clippy::indexing_slicing)]
mod reference;
mod tensor;
#[allow(clippy::indexing_slicing)]
mod types;
mod weights;

/// The operations on a backend's own tensors, for whoever works on this crate: Burn's `Tensor` runs on a closed list of backends, so
/// that one more is one more here (`docs/ARCHITECTURE.md`, *Adding something*).
#[cfg(feature = "_internals")]
pub mod backend {
    pub use super::contract::RecurrentKernels;
    pub use super::extension::RecurrentOps;
    pub use super::types::{
        Arguments, BlockLoss, DropoutMask, LogitBlock, MaskSeed, NeedsGrad, NllArguments,
        NllNeedsGrad, NllOutput, Optional, SavedActivations, SequenceGradients,
    };
}

/// What this crate's own tests and benchmarks look into.
#[cfg(feature = "_internals")]
pub mod internals {
    #[cfg(feature = "cube")]
    pub use super::cube::{Tile, TimeLoop, set_tiles, set_time_loop};

    /// The bodies that kernels are held to, also on backends that override them.
    pub mod reference {
        pub use crate::ops::reference::{backward, forward, nll, step};
    }
}

/// Runs `work` with subnormal numbers as zeros in what it computes on this thread, as in kernels on a CPU.
#[doc(hidden)]
pub fn flushed<R>(work: impl FnOnce() -> R) -> R {
    /// The compiler does not look into it, so that nothing moves to the other side of the change.
    #[inline(never)]
    fn apart<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    let _flush = cpu::Flush::new();
    apart(work)
}

pub use cell::Cell;
#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(crate) use cpu::stepper;
#[doc(hidden)]
pub use draws::{BatchPart, SharedDraws, seed_device};
pub(crate) use tensor::hidden_part;
pub use tensor::{
    dropout, embedding, linear_nll, linear_nll_rows, recast, scale, sequence, sgd_step,
    sum_of_squares,
};
pub use weights::{SequenceOptions, Weights};
