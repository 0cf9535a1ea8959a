//! The operations on `Tensor<D>`: shapes are checked, then the call crosses to the backend in use.

use burn::backend::Dispatch;
use burn::nn::Dropout;
use burn::tensor::{DType, FloatDType, Int, Tensor};

use super::cell::Cell;
use super::checks;
use super::extension::RecurrentOps as _;
use super::types::{Arguments, NllArguments, Optional};
use super::weights::{SequenceOptions, Weights};
use crate::ModelError;

fn optional<const D: usize>(tensor: Option<Tensor<D>>) -> Optional<Dispatch> {
    tensor.map(Tensor::into_dispatch).into()
}

/// Runs one layer over a window as one operation.
///
/// - `input`: `[time, batch, input]`
/// - `state`: `[batch, S]`, its parts side by side: hidden, and an LSTM's cell
/// - returns every step's packed state `[time, batch, S]`
///
/// # Errors
///
/// [`ModelError::Shape`] or [`ModelError::Empty`] when a shape does not fit the cell, [`ModelError::Device`] or
/// [`ModelError::DType`] when tensors differ in these.
pub fn sequence(
    cell: Cell,
    input: Tensor<3>,
    weights: Weights,
    state: Tensor<2>,
    options: SequenceOptions,
) -> Result<Tensor<3>, ModelError> {
    checks::sequence(cell, &input, &weights, &state, &options)?;
    // Fresh, not a slice of the input: detaching a leaf keeps it a leaf in Burn, and a tracked tensor in its place would wait
    // for a gradient that never comes.
    let zeros = |size: usize| Tensor::<1>::zeros([size], (&input.device(), input.dtype()));
    let [_, gates] = weights.input.dims();
    let hidden = gates / cell.gates();
    let bias = weights.bias.unwrap_or_else(|| zeros(gates));
    let recurrent_bias = match (cell.has_recurrent_bias(), weights.recurrent_bias) {
        (true, None) => Some(zeros(hidden)),
        (_, bias) => bias,
    };
    let args = Arguments::<Dispatch> {
        input: input.into_dispatch(),
        input_weight: weights.input.into_dispatch(),
        recurrent_weight: optional(weights.recurrent),
        bias: bias.into_dispatch(),
        recurrent_bias: optional(recurrent_bias),
        state: state.into_dispatch(),
        taps: optional(options.taps),
        reset_mask: optional(options.reset_mask),
    };
    Ok(Tensor::from_dispatch(Dispatch::sequence(cell, args)))
}

/// Summed negative log-likelihood of a linear layer and softmax, without ever holding all logits.
///
/// - `hidden`: `[rows, features]`
/// - `weight`: `[classes, features]`, such as a tied embedding
/// - `bias`: `[classes]`
/// - `targets`: `[rows]`, each in `0..classes`. Checked on CPU backends; on others, where that would wait for the device, an
///   id outside gives a loss without meaning
/// - returns `[1]`, in nats, summed over rows; differentiable in `hidden`, `weight` and `bias`
///
/// # Errors
///
/// [`ModelError::Shape`] or [`ModelError::Empty`] when a shape does not fit, [`ModelError::Device`] or
/// [`ModelError::DType`] when tensors differ in these, [`ModelError::Token`] for a target outside the classes.
pub fn linear_nll(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    targets: Tensor<1, Int>,
) -> Result<Tensor<1>, ModelError> {
    let args = nll_arguments(hidden, weight, bias, targets)?;
    Ok(Tensor::from_dispatch(Dispatch::linear_nll(args)))
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
    let args = nll_arguments(hidden, weight, bias, targets)?;
    Ok(Tensor::from_dispatch(Dispatch::linear_nll_rows(args)))
}

fn nll_arguments(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    targets: Tensor<1, Int>,
) -> Result<NllArguments<Dispatch>, ModelError> {
    checks::linear_nll(&hidden, &weight, bias.as_ref(), &targets)?;
    Ok(NllArguments {
        hidden: hidden.into_dispatch(),
        weight: weight.into_dispatch(),
        bias: optional(bias),
        targets: targets.into_dispatch(),
        row_weights: Optional::Absent,
    })
}

/// The hidden part of packed states: the first `hidden` features of `[time, batch, S]`.
pub(crate) fn hidden_part(states: Tensor<3>, hidden: usize) -> Tensor<3> {
    if states.dims()[2] == hidden {
        return states;
    }
    Tensor::from_dispatch(Dispatch::first_features(states.into_dispatch(), hidden))
}

/// Rows of `weight` `[vocabulary, features]` at `tokens` `[time, batch]`: `[time, batch, features]`.
///
/// The gradient of the weight is added, row by row, to one that is there already, such as that of a tied softmax: no
/// second matrix of the vocabulary's size.
///
/// Every token is to be below `vocabulary`. That is checked on CPU backends; on others, where it would wait for the device, an
/// id outside gives a row without meaning.
///
/// # Errors
///
/// [`ModelError::Empty`] without tokens or features, [`ModelError::Device`] when the two are on different ones,
/// [`ModelError::Token`] for an id outside.
pub fn embedding(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
    let [time, batch] = tokens.dims();
    let [vocabulary, features] = weight.dims();
    for (missing, size) in [
        ("time steps", time),
        ("sequences", batch),
        ("words", vocabulary),
        ("features", features),
    ] {
        if size == 0 {
            return Err(ModelError::Empty {
                what: "embedding",
                missing,
            });
        }
    }
    checks::same_device("tokens", &tokens.device(), &weight.device())?;
    checks::ids_below(&tokens, vocabulary)?;
    let tokens = tokens.reshape([time * batch]);
    let rows = Dispatch::embedding_rows(weight.into_dispatch(), tokens.into_dispatch());
    Ok(Tensor::<2>::from_dispatch(rows).reshape([time, batch, features]))
}

/// Burn's dropout, under the same conditions: on an autodiff device, unless frozen. A probability outside `(0, 1)` drops
/// nothing.
pub fn dropout<const D: usize>(dropout: &Dropout, input: Tensor<D>) -> Tensor<D> {
    let active = dropout.training.is_enabled() && input.device().is_autodiff();
    let drops = dropout.prob > 0.0 && dropout.prob < 1.0;
    if !(active && drops) {
        return input;
    }
    Tensor::from_dispatch(Dispatch::dropout(input.into_dispatch(), dropout.prob))
}

/// The tensor in another float type; its gradient comes back in the old type, multiplied by `factor` there.
///
/// With `factor` S at the loss and 1/S at the weights, gradients in between are S times as large as they would be: what keeps
/// them within the range of f16 (Micikevicius et al. 2018).
pub fn recast<const D: usize>(tensor: Tensor<D>, dtype: FloatDType, factor: f64) -> Tensor<D> {
    if tensor.dtype() == DType::from(dtype) && factor == 1.0 {
        return tensor;
    }
    Tensor::from_dispatch(Dispatch::recast(tensor.into_dispatch(), dtype, factor))
}

/// Σ x² over all elements, `[1]`. The tensor is not tracked.
pub fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::sum_of_squares(tensor.into_dispatch()))
}

/// `factor` times an untracked tensor, in its own memory where nobody else holds it.
pub fn scale<const D: usize>(tensor: Tensor<D>, factor: f64) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::scale(tensor.into_dispatch(), factor))
}

/// An update of gradient descent with weight decay, w − rate (g + decay w), in one pass. Both tensors are untracked.
///
/// # Errors
///
/// [`ModelError::Shape`], [`ModelError::Device`] or [`ModelError::DType`] when gradient and weight differ in these.
pub fn sgd_step<const D: usize>(
    weight: Tensor<D>,
    grad: Tensor<D>,
    rate: f64,
    decay: f64,
) -> Result<Tensor<D>, ModelError> {
    checks::alike("gradient", &grad, &weight)?;
    if weight.dims() != grad.dims() {
        return Err(ModelError::shape(
            "gradient",
            grad.dims(),
            format!("{:?}, as the weight", weight.dims()),
            "pass the gradient of this weight",
        ));
    }
    let (weight, grad) = (weight.into_dispatch(), grad.into_dispatch());
    Ok(Tensor::from_dispatch(Dispatch::sgd_step(
        weight, grad, rate, decay,
    )))
}
