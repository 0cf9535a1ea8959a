//! The differentiable operations, as a Burn backend extension: what `Tensor<D>` functions call through `Dispatch`.

use burn::backend::{
    backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::FloatDType;

use super::cell::Cell;
use super::contract::RecurrentKernels;
use super::reference::step;
use super::types::{Arguments, NllArguments, NllNeedsGrad};

/// The operations that layers, models and training loops call, differentiable unless they say otherwise.
///
/// A backend needs no bodies of its own: the default ones run the kernels of [`RecurrentKernels`], and the implementation
/// for Burn's autodiff backend makes one node of each.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Remote: cfg(feature = "remote"),
    Autodiff
)]
pub trait RecurrentOps: RecurrentKernels {
    /// A window through `cell`: every step's packed state, `[T, B, S]`.
    fn sequence(cell: Cell, #[extension_type] args: Arguments<Self>) -> FloatTensor<Self> {
        Self::sequence_forward(cell, args).states
    }

    /// Summed negative log-likelihood of a linear layer followed by softmax, over blocks of rows: `[1]`.
    fn linear_nll(#[extension_type] args: NllArguments<Self>) -> FloatTensor<Self> {
        Self::linear_nll_forward(args, NllNeedsGrad::default()).loss
    }

    /// The same per row, not weighted: `[rows]`.
    fn linear_nll_rows(#[extension_type] args: NllArguments<Self>) -> FloatTensor<Self> {
        Self::linear_nll_forward(args, NllNeedsGrad::default()).rows
    }

    /// The first `count` features of `[T, B, S]`.
    fn first_features(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
        Self::first_features_forward(tensor, count)
    }

    /// Rows of `weight` `[V, F]` at `tokens` `[N]`: `[N, F]`; differentiable in the weight.
    fn embedding_rows(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        Self::embedding_rows_forward(weight, tokens)
    }

    /// Each element zero with probability `prob`, else divided by 1 − `prob`.
    fn dropout(tensor: FloatTensor<Self>, prob: f64) -> FloatTensor<Self> {
        Self::dropout_forward(tensor, prob).0
    }

    /// The tensor in another float type; its gradient comes back in the old one, times `factor`.
    fn recast(tensor: FloatTensor<Self>, dtype: FloatDType, _factor: f64) -> FloatTensor<Self> {
        Self::float_cast(tensor, dtype)
    }

    /// Σ x² as `[1]`; not differentiable.
    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        step::sum_of_squares::<Self>(tensor)
    }

    /// `factor` times the tensor; not differentiable.
    fn scale(tensor: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        step::scale::<Self>(tensor, factor)
    }

    /// w − rate (g + decay w); not differentiable.
    fn sgd_step(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f64,
        decay: f64,
    ) -> FloatTensor<Self> {
        step::sgd_step::<Self>(weight, grad, rate, decay)
    }
}
