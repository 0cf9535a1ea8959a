//! The sequence operations on `Tensor<D>`: shapes are checked, then the call crosses to the backend in use.

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use super::checks::{self, Sequence};
use super::{Present, RecurrentOps};
use crate::ModelError;

/// Weights of one LSTM layer, gates in PyTorch's order i, f, g, o.
#[derive(Clone, Debug)]
pub struct LstmWeights {
    /// `[input, 4·hidden]`
    pub input: Tensor<2>,
    /// `[hidden, 4·hidden]`
    pub recurrent: Tensor<2>,
    /// `[4·hidden]`; the sum of PyTorch's two biases
    pub bias: Tensor<1>,
}

/// Weights of one GRU layer, gates in PyTorch's order r, z, n.
#[derive(Clone, Debug)]
pub struct GruWeights {
    /// `[input, 3·hidden]`
    pub input: Tensor<2>,
    /// `[hidden, 3·hidden]`
    pub recurrent: Tensor<2>,
    /// `[3·hidden]`; PyTorch's input bias, plus its recurrent bias for r and z
    pub bias: Tensor<1>,
    /// `[hidden]`; PyTorch's recurrent bias for n, which the reset gate multiplies
    pub recurrent_bias: Tensor<1>,
}

/// Weights of one tanh-RNN layer.
#[derive(Clone, Debug)]
pub struct RnnWeights {
    /// `[input, hidden]`
    pub input: Tensor<2>,
    /// `[hidden, hidden]`
    pub recurrent: Tensor<2>,
    /// `[hidden]`; the sum of PyTorch's two biases
    pub bias: Tensor<1>,
}

/// Optional inputs of a sequence operation.
#[derive(Clone, Debug, Default)]
pub struct SequenceOptions {
    /// State taps `[time, batch, S]`, see the [module documentation](super).
    pub taps: Option<Tensor<3>>,
    /// `[time, batch, 1]`: one keeps the state entering a step, zero starts a new sequence there.
    pub keep: Option<Tensor<3>>,
}

impl SequenceOptions {
    /// The tensors, with a placeholder for an absent one, and which are present.
    fn split(self, like: &Tensor<3>) -> (Tensor<3>, Tensor<3>, Present) {
        let present = Present {
            taps: self.taps.is_some(),
            keep: self.keep.is_some(),
        };
        // Fresh, not a slice of the input: detaching a leaf keeps it a leaf in Burn, and a tracked placeholder would
        // wait for a gradient that never comes.
        let placeholder = || Tensor::zeros([1, 1, 1], (&like.device(), like.dtype()));
        (
            self.taps.unwrap_or_else(placeholder),
            self.keep.unwrap_or_else(placeholder),
            present,
        )
    }
}

/// Runs one LSTM layer over a window as one operation.
///
/// - `input`: `[time, batch, input]`
/// - `state`: `[batch, 2·hidden]`, hidden then cell
/// - returns every step's packed state `[time, batch, 2·hidden]`
///
/// # Errors
///
/// [`ModelError::Shape`] or [`ModelError::Empty`] when a shape does not fit, [`ModelError::Device`] when a tensor is on
/// another device than the weights.
pub fn lstm_sequence(
    input: Tensor<3>,
    weights: LstmWeights,
    state: Tensor<2>,
    options: SequenceOptions,
) -> Result<Tensor<3>, ModelError> {
    checks::sequence(&Sequence {
        gates: 4,
        parts: 2,
        input: &input,
        input_weight: &weights.input,
        recurrent_weight: &weights.recurrent,
        bias: &weights.bias,
        state: &state,
        options: &options,
    })?;
    let (taps, keep, present) = options.split(&input);
    Ok(Tensor::from_dispatch(Dispatch::lstm_sequence(
        input.into_dispatch(),
        weights.input.into_dispatch(),
        weights.recurrent.into_dispatch(),
        weights.bias.into_dispatch(),
        state.into_dispatch(),
        taps.into_dispatch(),
        keep.into_dispatch(),
        present,
    )))
}

/// Runs one GRU layer over a window as one operation.
///
/// - `input`: `[time, batch, input]`
/// - `state`: `[batch, hidden]`
/// - returns every step's state `[time, batch, hidden]`
///
/// # Errors
///
/// [`ModelError::Shape`] or [`ModelError::Empty`] when a shape does not fit, [`ModelError::Device`] when a tensor is on
/// another device than the weights.
pub fn gru_sequence(
    input: Tensor<3>,
    weights: GruWeights,
    state: Tensor<2>,
    options: SequenceOptions,
) -> Result<Tensor<3>, ModelError> {
    checks::sequence(&Sequence {
        gates: 3,
        parts: 1,
        input: &input,
        input_weight: &weights.input,
        recurrent_weight: &weights.recurrent,
        bias: &weights.bias,
        state: &state,
        options: &options,
    })?;
    checks::vector(
        "GRU recurrent bias",
        &weights.recurrent_bias,
        state.dims()[1],
    )?;
    checks::same_device(
        "GRU recurrent bias",
        Some(weights.recurrent_bias.device()),
        &weights.recurrent.device(),
    )?;
    let (taps, keep, present) = options.split(&input);
    Ok(Tensor::from_dispatch(Dispatch::gru_sequence(
        input.into_dispatch(),
        weights.input.into_dispatch(),
        weights.recurrent.into_dispatch(),
        weights.bias.into_dispatch(),
        weights.recurrent_bias.into_dispatch(),
        state.into_dispatch(),
        taps.into_dispatch(),
        keep.into_dispatch(),
        present,
    )))
}

/// Runs one tanh-RNN layer over a window as one operation.
///
/// - `input`: `[time, batch, input]`
/// - `state`: `[batch, hidden]`
/// - returns every step's state `[time, batch, hidden]`
///
/// # Errors
///
/// [`ModelError::Shape`] or [`ModelError::Empty`] when a shape does not fit, [`ModelError::Device`] when a tensor is on
/// another device than the weights.
pub fn rnn_sequence(
    input: Tensor<3>,
    weights: RnnWeights,
    state: Tensor<2>,
    options: SequenceOptions,
) -> Result<Tensor<3>, ModelError> {
    checks::sequence(&Sequence {
        gates: 1,
        parts: 1,
        input: &input,
        input_weight: &weights.input,
        recurrent_weight: &weights.recurrent,
        bias: &weights.bias,
        state: &state,
        options: &options,
    })?;
    let (taps, keep, present) = options.split(&input);
    Ok(Tensor::from_dispatch(Dispatch::rnn_sequence(
        input.into_dispatch(),
        weights.input.into_dispatch(),
        weights.recurrent.into_dispatch(),
        weights.bias.into_dispatch(),
        state.into_dispatch(),
        taps.into_dispatch(),
        keep.into_dispatch(),
        present,
    )))
}

/// Summed negative log-likelihood of a linear layer and softmax, without ever holding all logits.
///
/// - `hidden`: `[rows, features]`
/// - `weight`: `[classes, features]`, such as a tied embedding
/// - `bias`: `[classes]`
/// - `targets`: `[rows]`, each in `0..classes` (not checked here: that would need a read-back)
/// - returns `[1]`, in nats, summed over rows; differentiable in `hidden`, `weight` and `bias`
///
/// # Errors
///
/// [`ModelError::Shape`] when a shape does not fit, [`ModelError::Device`] when a tensor is on another device than the weight.
pub fn linear_nll(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    targets: Tensor<1, Int>,
) -> Result<Tensor<1>, ModelError> {
    checks::linear_nll(&hidden, &weight, bias.as_ref(), &targets)?;
    let has_bias = bias.is_some();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([1], (&hidden.device(), hidden.dtype())));
    Ok(Tensor::from_dispatch(Dispatch::linear_nll(
        hidden.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        targets.into_dispatch(),
        has_bias,
    )))
}

/// [`linear_nll`] per row: `[rows]`, in nats; differentiable alike, each row's gradient by its own factor.
///
/// For sums per step, reshape rows `time · batch` to `[time, batch]` and sum over the batch. The backward pass computes the
/// logits again, block by block: it costs one product more than that of the total, and no more memory.
///
/// # Errors
///
/// As [`linear_nll`].
pub fn linear_nll_rows(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    targets: Tensor<1, Int>,
) -> Result<Tensor<1>, ModelError> {
    checks::linear_nll(&hidden, &weight, bias.as_ref(), &targets)?;
    let has_bias = bias.is_some();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([1], (&hidden.device(), hidden.dtype())));
    Ok(Tensor::from_dispatch(Dispatch::linear_nll_rows(
        hidden.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        targets.into_dispatch(),
        has_bias,
    )))
}
