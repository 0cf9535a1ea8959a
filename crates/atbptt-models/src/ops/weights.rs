//! What [`sequence`](super::sequence) is given beside input and state.

use burn::tensor::Tensor;

#[cfg(doc)]
use super::cell::Cell;

/// Weights of one recurrent layer. Gates lie side by side in the columns, in the order that [`Cell::gates`] tells.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[input, gates·hidden]`
    pub input: Tensor<2>,
    /// `[hidden, recurrent gates·hidden]`; `None` for a cell without recurrent product.
    pub recurrent: Option<Tensor<2>>,
    /// `[gates·hidden]`, zeros where `None`. The sum of PyTorch's two biases; of a GRU's new gate the input bias alone.
    pub bias: Option<Tensor<1>>,
    /// `[hidden]`, zeros where `None`, of cells that have one ([`Cell::has_recurrent_bias`]): PyTorch's recurrent bias of a
    /// GRU's new gate, which the reset gate multiplies.
    pub recurrent_bias: Option<Tensor<1>>,
}

/// Optional inputs of a sequence operation.
#[derive(Clone, Debug, Default)]
pub struct SequenceOptions {
    /// State taps `[time, batch, S]`, see the [module documentation](super).
    pub taps: Option<Tensor<3>>,
    /// `[time, batch, 1]`, a factor on the state that enters a step: zero starts a new sequence there, one keeps the state.
    pub reset_mask: Option<Tensor<3>>,
}
