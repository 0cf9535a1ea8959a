//! The operations that run as kernels of our own, as a backend extension.
//!
//! So Burn's fusion, where it is on, sees each as one operation and hands over real tensors when it runs.

use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_cubecl::CubeBackend;

use super::arguments::{Steps, StepsBack};
use super::{driver, nll, step};
use crate::ops::cell::Cell;
use crate::ops::types::Optional;

/// The operations that run as kernels of our own. A result that the cell does not have, or nobody wants, is one element.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait CubeOps: Backend {
    /// All steps: states `[T, B, S]` and gates `[T, B, saved gates · H]`.
    #[fusion(meta = specs::steps)]
    fn steps(
        cell: Cell,
        #[extension_type] args: Steps<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The way back: gradients at the input products `[T, B, gates · H]`, at the recurrent products where they are others, of
    /// the initial state `[B, S]` and, `tap_grads`, of the taps.
    #[fusion(meta = specs::steps_back)]
    fn steps_back(
        cell: Cell,
        #[extension_type] args: StepsBack<Self>,
        tap_grads: bool,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// Softmax loss of rows of logits `[rows, classes]`, without their bias: losses `[rows]`, and the gradient of the
    /// weighted sum at the logits, in their memory (where `gradients` is off, the logits are left in no defined state).
    #[fusion(meta = specs::softmax_rows)]
    fn softmax_rows(
        logits: FloatTensor<Self>,
        #[extension_type] bias: Optional<Self>,
        targets: IntTensor<Self>,
        #[extension_type] weights: Optional<Self>,
        gradients: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `into` `[V, F]` with each row of `grad` `[N, F]` added at its token, in a fixed order.
    #[fusion(dtype = into, shape = into)]
    fn add_rows(
        into: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// w − rate (g + decay w).
    #[fusion(dtype = weight, shape = weight)]
    fn sgd_step_in_one(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f32,
        decay: f32,
    ) -> FloatTensor<Self>;
}

impl CubeOps for CubeBackend {
    fn steps(cell: Cell, args: Steps<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        driver::forward(cell, args)
    }

    fn steps_back(
        cell: Cell,
        args: StepsBack<Self>,
        tap_grads: bool,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        driver::backward(cell, args, tap_grads)
    }

    fn softmax_rows(
        logits: FloatTensor<Self>,
        bias: Optional<Self>,
        targets: IntTensor<Self>,
        weights: Optional<Self>,
        gradients: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        nll::softmax_rows(logits, bias, targets, weights, gradients)
    }

    fn add_rows(
        into: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        step::add_rows(into, tokens, grad)
    }

    fn sgd_step_in_one(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f32,
        decay: f32,
    ) -> FloatTensor<Self> {
        step::sgd_step(weight, grad, rate, decay)
    }
}

/// What fusion is told about outputs before they exist.
#[cfg(feature = "fusion")]
mod specs {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::{DType, Shape};

    use super::super::arguments::{StepsBackMetadata, StepsMetadata};
    use super::Cell;
    use crate::ops::types::OptionalMetadata;

    fn like(of: &TensorSpec, dims: &[usize]) -> TensorSpec {
        TensorSpec::new(Shape::from(dims.to_vec()), of.dtype)
    }

    /// `[T, B, features]`, one element where there are no features.
    fn per_step(of: &TensorSpec, features: usize) -> TensorSpec {
        match features {
            0 => like(of, &[1]),
            _ => like(of, &[of.shape[0], of.shape[1], features]),
        }
    }

    pub(super) fn steps(cell: &Cell, args: &StepsMetadata) -> (TensorSpec, TensorSpec) {
        let hidden = args.inputs.shape[2] / cell.gates();
        (
            per_step(&args.inputs, cell.state_parts() * hidden),
            per_step(&args.inputs, cell.saved_gates() * hidden),
        )
    }

    pub(super) fn steps_back(
        cell: &Cell,
        args: &StepsBackMetadata,
        tap_grads: &bool,
    ) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
        let hidden = args.grad.shape[2] / cell.state_parts();
        let apart = usize::from(cell.has_recurrent_bias()) * cell.recurrent_gates();
        let taps = usize::from(*tap_grads) * args.grad.shape[2];
        (
            per_step(&args.grad, cell.gates() * hidden),
            per_step(&args.grad, apart * hidden),
            args.state.clone(),
            per_step(&args.grad, taps),
        )
    }

    pub(super) fn softmax_rows(
        logits: &TensorSpec,
        _bias: &OptionalMetadata,
        _targets: &TensorSpec,
        _weights: &OptionalMetadata,
        _gradients: &bool,
    ) -> (TensorSpec, TensorSpec) {
        let losses = Shape::from([logits.shape[0]]);
        (TensorSpec::new(losses, DType::F32), logits.clone())
    }
}
