//! Sequence operations: one operation per recurrent layer and window.
//!
//! Place in the flow: layers such as [`LstmLayer`](crate::LstmLayer) hold the weights and call the functions here, which
//! cross from `Tensor<D>` to the backend in use and run [`RecurrentOps`] there.
//!
//! Three layers of code:
//!
//! 1. [`kernels`]: a forward and a hand-written backward pass per cell, generic over `B: Backend`. The default
//!    bodies are made of Burn's tensor operations, so they run on every backend; a backend that deserves a kernel
//!    overrides them. They are the reference that kernels are tested against.
//! 2. [`RecurrentOps`]: the differentiable entry points, a Burn backend extension. Each is **one autodiff node**
//!    per layer and window, with several results packed in one tensor.
//! 3. The functions of this module: the same on `Tensor<D>`, with shapes checked.
//!
//! # Shapes
//!
//! All operations are time-major. `time` T, `batch` B, `input` I, `hidden` H.
//!
//! | tensor | LSTM | GRU | tanh RNN |
//! |---|---|---|---|
//! | input | `[T, B, I]` | `[T, B, I]` | `[T, B, I]` |
//! | input weight | `[I, 4H]`, gates i, f, g, o | `[I, 3H]`, gates r, z, n | `[I, H]` |
//! | recurrent weight | `[H, 4H]` | `[H, 3H]` | `[H, H]` |
//! | bias | `[4H]` | `[3H]`, and `[H]` inside the reset product | `[H]` |
//! | packed state S | `[B, 2H]` = hidden, cell | `[B, H]` | `[B, H]` |
//! | result | `[T, B, S]` | `[T, B, S]` | `[T, B, S]` |
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
//! `keep` `[T, B, 1]` holds one where the state entering a step is kept and zero where the step begins a new
//! sequence: the state is zeroed and the gradient cut before that step.

#![allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.

mod autodiff;
pub(crate) mod checks;
// Kernels index what `checks` measured before.
#[allow(clippy::indexing_slicing)]
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
#[allow(clippy::indexing_slicing)]
#[cfg(feature = "cube")]
mod cube;
#[allow(clippy::indexing_slicing)]
mod generic;
pub mod kernels;
#[allow(clippy::indexing_slicing)]
mod nll;
pub mod step;
mod tensor;

/// The default bodies under their own names: what kernels are held to, also on backends that override them.
#[doc(hidden)]
pub mod reference {
    pub use super::generic::{
        gru_backward, gru_forward, lstm_backward, lstm_forward, rnn_backward, rnn_forward,
    };
    pub use super::nll::{linear_nll, softmax_block};
}

use burn::backend::{
    backend_extension,
    tensor::{FloatTensor, IntTensor},
};

#[cfg(feature = "cube")]
pub use cube::{TimeLoop, set_time_loop};
pub use kernels::RecurrentKernels;
pub use tensor::{
    GruWeights, LstmWeights, RnnWeights, SequenceOptions, gru_sequence, linear_nll,
    linear_nll_rows, lstm_sequence, rnn_sequence,
};

/// The differentiable sequence operations, as a Burn backend extension.
///
/// See the [module documentation](self) for shapes. An operation takes plain tensors only, so an optional tensor
/// is passed as any tensor of the same backend together with a flag that says it is absent.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff
)]
pub trait RecurrentOps: RecurrentKernels {
    /// LSTM over a window (Hochreiter & Schmidhuber 1997, with forget gate): every step's packed state.
    #[allow(clippy::too_many_arguments)]
    fn lstm_sequence(
        input: FloatTensor<Self>,
        input_weight: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self> {
        Self::lstm_forward(kernels::LstmInput {
            input,
            input_weight,
            recurrent_weight,
            bias,
            state,
            taps: present.taps.then_some(taps),
            keep: present.keep.then_some(keep),
        })
        .states
    }

    /// GRU over a window (Cho et al. 2014, reset gate applied after the recurrent product): every step's state.
    #[allow(clippy::too_many_arguments)]
    fn gru_sequence(
        input: FloatTensor<Self>,
        input_weight: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self> {
        Self::gru_forward(kernels::GruInput {
            input,
            input_weight,
            recurrent_weight,
            bias,
            recurrent_bias,
            state,
            taps: present.taps.then_some(taps),
            keep: present.keep.then_some(keep),
        })
        .states
    }

    /// Elman RNN with tanh over a window: every step's state.
    #[allow(clippy::too_many_arguments)]
    fn rnn_sequence(
        input: FloatTensor<Self>,
        input_weight: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self> {
        Self::rnn_forward(kernels::RnnInput {
            input,
            input_weight,
            recurrent_weight,
            bias,
            state,
            taps: present.taps.then_some(taps),
            keep: present.keep.then_some(keep),
        })
        .states
    }

    /// Summed negative log-likelihood of a linear layer followed by softmax, over blocks of rows: `[1]`.
    ///
    /// `hidden` `[rows, H]`, `weight` `[classes, H]`, `bias` `[classes]`, `targets` `[rows]`.
    fn linear_nll(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        has_bias: bool,
    ) -> FloatTensor<Self> {
        Self::linear_nll_forward(
            kernels::NllInput {
                hidden,
                weight,
                bias: has_bias.then_some(bias),
                targets,
                row_weights: None,
            },
            kernels::NllNeeds::default(),
        )
        .loss
    }

    /// The same per row, `[rows]`.
    fn linear_nll_rows(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        has_bias: bool,
    ) -> FloatTensor<Self> {
        Self::linear_nll_forward(
            kernels::NllInput {
                hidden,
                weight,
                bias: has_bias.then_some(bias),
                targets,
                row_weights: None,
            },
            kernels::NllNeeds::default(),
        )
        .rows
    }
}

/// Which optional tensors of a sequence operation are present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// State taps were given.
    pub taps: bool,
    /// A reset mask was given.
    pub keep: bool,
}

#[cfg(feature = "flex")]
impl RecurrentOps for burn::backend::Flex {}
#[cfg(feature = "ndarray")]
#[allow(deprecated)]
impl RecurrentOps for burn::backend::NdArray {}
#[cfg(feature = "cube")]
/// Default bodies; the alias is the fused backend where fusion is on.
impl RecurrentOps for burn::backend::Cube {}
