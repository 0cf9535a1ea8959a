//! What a training step does around the recurrent layers: embedding, dropout, and the optimiser's passes over the weights.
//!
//! Place in the flow: [`LanguageModel`](crate::LanguageModel) and [`Stack`](crate::Stack) call the differentiable ones, the
//! training loop the others. Composed of tensor operations, each makes several passes over large tensors and as many
//! temporary ones; here each is one pass where the backend has a kernel ([`StepKernels`], the CPU backends), and
//! the same composition elsewhere.

// Kernels index what the functions of this module measured before.
#[allow(clippy::indexing_slicing)]
mod autodiff;
#[allow(clippy::indexing_slicing)]
#[doc(hidden)]
pub mod generic;
mod kernels;

use burn::backend::{
    Dispatch, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::nn::Dropout;
use burn::tensor::{DType, FloatDType, Int, Tensor};

pub use kernels::{DropoutMask, StepKernels};

use super::checks;
use crate::ModelError;

/// The operations of this module, as a Burn backend extension.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff
)]
pub trait StepOps: StepKernels {
    /// The first `count` features of `[T, B, S]`; differentiable.
    fn first_features(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
        Self::first_features_forward(tensor, count)
    }

    /// Rows of `weight` `[V, F]` at `tokens` `[N]`: `[N, F]`; differentiable in the weight.
    fn embed(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        Self::embed_forward(weight, tokens)
    }

    /// Each element zero with probability `prob`, else divided by 1 − `prob`; differentiable.
    fn drop_out(tensor: FloatTensor<Self>, prob: f64) -> FloatTensor<Self> {
        Self::drop_out_forward(tensor, prob).0
    }

    /// The tensor in another float type; its gradient comes back in the old one, times `factor`.
    fn recast(tensor: FloatTensor<Self>, dtype: FloatDType, _factor: f64) -> FloatTensor<Self> {
        Self::float_cast(tensor, dtype)
    }

    /// Σ x² as `[1]`; not differentiable.
    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::squares(tensor)
    }

    /// `factor` times the tensor; not differentiable.
    fn scaled(tensor: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        Self::scale(tensor, factor)
    }

    /// w − rate (g + decay w); not differentiable.
    fn descend(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f64,
        decay: f64,
    ) -> FloatTensor<Self> {
        Self::descent(weight, grad, rate, decay)
    }
}

#[cfg(feature = "flex")]
impl StepOps for burn::backend::Flex {}
#[cfg(feature = "ndarray")]
#[allow(deprecated)]
impl StepOps for burn::backend::NdArray {}
#[cfg(feature = "cube")]
impl StepOps for burn::backend::Cube {}

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
    let rows = Dispatch::embed(weight.into_dispatch(), tokens.into_dispatch());
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
    Tensor::from_dispatch(Dispatch::drop_out(input.into_dispatch(), dropout.prob))
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
    Tensor::from_dispatch(Dispatch::scaled(tensor.into_dispatch(), factor))
}

/// A step of gradient descent with weight decay, w − rate (g + decay w), in one pass. Both tensors are untracked.
///
/// # Errors
///
/// [`ModelError::Shape`], [`ModelError::Device`] or [`ModelError::DType`] when gradient and weight differ in these.
pub fn descend<const D: usize>(
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
    Ok(Tensor::from_dispatch(Dispatch::descend(
        weight, grad, rate, decay,
    )))
}
