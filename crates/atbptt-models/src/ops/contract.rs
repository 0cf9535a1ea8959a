//! What the author of a backend implements: the passes of every operation on the backend's own tensors.
//!
//! The default bodies are the [reference](super::reference), made of Burn's tensor operations, so that an empty `impl` is a
//! working backend; a kernel overrides a body and is held to it by the tests. Shapes are in the [parent module](super).

use burn::backend::{
    Backend,
    tensor::{FloatTensor, IntTensor},
};

use super::cell::Cell;
use super::reference::{self, nll, step};
use super::types::{
    Arguments, BlockLoss, DropoutMask, LogitBlock, NeedsGrad, NllArguments, NllNeedsGrad,
    NllOutput, SavedActivations, SequenceGradients,
};

/// Forward and backward passes on a backend's tensors, differentiable in none of them: [`RecurrentOps`](super::extension::RecurrentOps)
/// joins the two.
pub trait RecurrentKernels: Backend {
    /// All steps of a window through `cell`.
    fn sequence_forward(cell: Cell, args: Arguments<Self>) -> SavedActivations<Self> {
        reference::forward::<Self>(cell, args)
    }

    /// The gradients of a window from that of every packed state, `grad` `[T, B, S]`.
    fn sequence_backward(
        cell: Cell,
        args: Arguments<Self>,
        saved: SavedActivations<Self>,
        grad: FloatTensor<Self>,
        needs: NeedsGrad,
    ) -> SequenceGradients<Self> {
        reference::backward::<Self>(cell, args, saved, grad, needs)
    }

    /// −log softmax(h Wᵀ + b) at the target, per row and summed with the rows' weights, and the gradients of the sum, over
    /// blocks of rows: memory does not grow with rows × classes.
    fn linear_nll_forward(args: NllArguments<Self>, needs: NllNeedsGrad) -> NllOutput<Self> {
        nll::linear_nll::<Self>(args, needs, Self::softmax_block)
    }

    /// As [`linear_nll_forward`](Self::linear_nll_forward), but the weight's gradient may be left out for the gradient at the
    /// logits, `[rows, classes]`, which is the smaller of the two where rows are few:
    /// [`linear_nll_weight_gradient`](Self::linear_nll_weight_gradient) makes one of the other.
    fn linear_nll_tracked(
        args: NllArguments<Self>,
        needs: NllNeedsGrad,
    ) -> (NllOutput<Self>, Option<FloatTensor<Self>>) {
        (Self::linear_nll_forward(args, needs), None)
    }

    /// `factor` `[1]` times the weight's gradient `[classes, H]`, from that at the logits, `[rows, classes]`, and the hidden
    /// rows `[rows, H]`.
    fn linear_nll_weight_gradient(
        logits: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        factor: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        nll::weight_gradient::<Self>(logits, hidden, factor)
    }

    /// Loss of a block of rows from its logits (`[rows, classes]`, without the bias), and the gradient of the weighted sum at
    /// the logits where `gradients` asks for it.
    fn softmax_block(block: LogitBlock<Self>, gradients: bool) -> BlockLoss<Self> {
        nll::softmax_block::<Self>(block, gradients)
    }

    /// The first `count` features of `[T, B, S]`.
    fn first_features_forward(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
        step::first_features_forward::<Self>(tensor, count)
    }

    /// Gradient `[T, B, S]` from that of the first features: zero in the others. `size` is S.
    fn first_features_backward(grad: FloatTensor<Self>, size: usize) -> FloatTensor<Self> {
        step::first_features_backward::<Self>(grad, size)
    }

    /// Rows of `weight` `[V, F]` at `tokens` `[N]`.
    fn embedding_rows_forward(
        weight: FloatTensor<Self>,
        tokens: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        step::embedding_rows_forward::<Self>(weight, tokens)
    }

    /// `into` `[V, F]`, or zeros, with each row of `grad` `[N, F]` added at its token. `rows` is V.
    fn embedding_rows_backward(
        into: Option<FloatTensor<Self>>,
        rows: usize,
        tokens: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        step::embedding_rows_backward::<Self>(into, rows, tokens, grad)
    }

    /// Each element zero with probability `prob`, else divided by 1 − `prob`; and which were kept.
    fn dropout_forward(
        tensor: FloatTensor<Self>,
        prob: f64,
    ) -> (FloatTensor<Self>, DropoutMask<Self>) {
        step::dropout_forward::<Self>(tensor, prob)
    }

    /// Gradient of the input from that of the output.
    fn dropout_backward(
        grad: FloatTensor<Self>,
        mask: DropoutMask<Self>,
        prob: f64,
    ) -> FloatTensor<Self> {
        step::dropout_backward::<Self>(grad, mask, prob)
    }

    /// `tensor` times the scalar `factor` `[1]` on the device.
    fn scale_by(tensor: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        step::scale_by::<Self>(tensor, factor)
    }
}
