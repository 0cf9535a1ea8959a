//! Which backend takes which bodies.
//!
//! Flex and NdArray take the kernels of `cpu`, CubeCL backends those of `cube` where they serve tensor and device, everything
//! else, devices of other processes among it, the reference.

use burn::backend::{
    Autodiff, Backend, Dispatch,
    autodiff::checkpoint::strategy::CheckpointStrategy,
    tensor::{FloatTensor, IntTensor},
};

use super::cell::Cell;
use super::contract::RecurrentKernels;
use super::extension::RecurrentOps;
use super::types::{
    Arguments, DropoutMask, NeedsGrad, NllArguments, NllNeedsGrad, NllOutput, SavedActivations,
    SequenceGradients,
};

/// The kernels of `cpu` in place of the default bodies.
#[cfg(any(feature = "flex", feature = "ndarray"))]
macro_rules! cpu_backend {
    ($backend:ty) => {
        impl RecurrentKernels for $backend {
            fn sequence_forward(cell: Cell, args: Arguments<Self>) -> SavedActivations<Self> {
                super::cpu::sequence_forward(cell, args)
            }
            fn sequence_backward(
                cell: Cell,
                args: Arguments<Self>,
                saved: SavedActivations<Self>,
                grad: FloatTensor<Self>,
                needs: NeedsGrad,
            ) -> SequenceGradients<Self> {
                super::cpu::sequence_backward(cell, args, saved, grad, needs)
            }
            fn linear_nll_forward(
                args: NllArguments<Self>,
                needs: NllNeedsGrad,
            ) -> NllOutput<Self> {
                super::cpu::linear_nll(args, needs)
            }
            fn linear_nll_tracked(
                args: NllArguments<Self>,
                needs: NllNeedsGrad,
            ) -> (NllOutput<Self>, Option<FloatTensor<Self>>) {
                super::cpu::linear_nll_tracked(args, needs)
            }
            fn linear_nll_weight_gradient(
                logits: FloatTensor<Self>,
                hidden: FloatTensor<Self>,
                factor: FloatTensor<Self>,
            ) -> FloatTensor<Self> {
                super::cpu::linear_nll_weight_gradient::<Self>(logits, hidden, factor)
            }
            fn first_features_forward(
                tensor: FloatTensor<Self>,
                count: usize,
            ) -> FloatTensor<Self> {
                super::cpu::step::first_features_forward::<Self>(tensor, count)
            }
            fn first_features_backward(grad: FloatTensor<Self>, size: usize) -> FloatTensor<Self> {
                super::cpu::step::first_features_backward::<Self>(grad, size)
            }
            fn embedding_rows_forward(
                weight: FloatTensor<Self>,
                tokens: IntTensor<Self>,
            ) -> FloatTensor<Self> {
                super::cpu::step::embedding_rows_forward::<Self>(weight, tokens)
            }
            fn embedding_rows_backward(
                into: Option<FloatTensor<Self>>,
                rows: usize,
                tokens: IntTensor<Self>,
                grad: FloatTensor<Self>,
            ) -> FloatTensor<Self> {
                super::cpu::step::embedding_rows_backward::<Self>(into, rows, tokens, grad)
            }
            fn dropout_forward(
                tensor: FloatTensor<Self>,
                prob: f64,
            ) -> (FloatTensor<Self>, DropoutMask<Self>) {
                super::cpu::dropout::dropout_forward::<Self>(tensor, prob)
            }
            fn dropout_backward(
                grad: FloatTensor<Self>,
                mask: DropoutMask<Self>,
                prob: f64,
            ) -> FloatTensor<Self> {
                super::cpu::dropout::dropout_backward::<Self>(grad, mask, prob)
            }
            fn scale_by(tensor: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
                super::cpu::step::scale_by::<Self>(tensor, factor)
            }
        }

        impl RecurrentOps for $backend {
            fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
                super::cpu::step::sum_of_squares::<Self>(tensor)
            }
            fn scale(tensor: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
                super::cpu::step::scale::<Self>(tensor, factor)
            }
            fn sgd_step(
                weight: FloatTensor<Self>,
                grad: FloatTensor<Self>,
                rate: f64,
                decay: f64,
            ) -> FloatTensor<Self> {
                super::cpu::step::sgd_step::<Self>(weight, grad, rate, decay)
            }
        }
    };
}

#[cfg(feature = "flex")]
cpu_backend!(burn::backend::Flex);
#[cfg(feature = "ndarray")]
cpu_backend!(burn::backend::NdArray);

/// Burn's operations go to the server one by one, whatever backend it runs.
#[cfg(feature = "remote")]
mod remote {
    use burn::backend::Remote;

    use super::*;

    impl RecurrentKernels for Remote {
        /// In a window that workers share, the units that Flex drops: its mask is made here, and sent.
        #[cfg(feature = "flex")]
        fn dropout_forward(
            tensor: FloatTensor<Self>,
            prob: f64,
        ) -> (FloatTensor<Self>, DropoutMask<Self>) {
            use burn::backend::ops::{BoolTensorOps as _, FloatTensorOps as _};
            use burn::backend::{Flex, TensorMetadata as _};
            use burn::tensor::{FloatDType, TensorData};

            use super::super::cpu::{dropout, host::Host};
            use super::super::{draws, reference};

            if !draws::in_shared_window() {
                return reference::step::dropout_forward::<Self>(tensor, prob);
            }
            let shape = tensor.shape();
            let ones = Flex::float_ones(shape.clone(), &Default::default(), FloatDType::F32);
            let (kept, _) = dropout::dropout_forward::<Flex>(ones, prob);
            let Some(kept) = Flex::elements::<f32>(&kept) else {
                return reference::step::dropout_forward::<Self>(tensor, prob);
            };
            let kept: Vec<bool> = kept.iter().map(|&value| value != 0.0).collect();
            let kept = TensorData::new(kept, shape);
            let mask = Self::bool_from_data(kept, &tensor.device());
            let mask = Self::bool_into_float(mask, tensor.dtype().into());
            let out = reference::step::masked::<Self>(tensor, mask.clone(), prob);
            (out, DropoutMask::Tensor(mask))
        }
    }

    impl RecurrentOps for Remote {}
}

/// The alias is the fused backend where fusion is on.
#[cfg(feature = "cube")]
mod cubecl {
    use burn::backend::Cube;
    use burn_cubecl::CubeDevice;

    use super::super::types::{BlockLoss, LogitBlock};
    use super::super::{cube, reference};
    use super::*;

    /// Whether the kernels serve a tensor of this type on its device.
    fn served<B: Backend<Device = CubeDevice>>(tensor: &FloatTensor<B>) -> bool {
        use burn::backend::TensorMetadata as _;
        cube::serves(tensor.dtype(), &tensor.device())
    }

    impl RecurrentKernels for Cube {
        fn sequence_forward(cell: Cell, args: Arguments<Self>) -> SavedActivations<Self> {
            match served::<Self>(&args.input) {
                true => cube::sequence_forward(cell, args),
                false => reference::forward::<Self>(cell, args),
            }
        }
        fn sequence_backward(
            cell: Cell,
            args: Arguments<Self>,
            saved: SavedActivations<Self>,
            grad: FloatTensor<Self>,
            needs: NeedsGrad,
        ) -> SequenceGradients<Self> {
            match served::<Self>(&grad) {
                true => cube::sequence_backward(cell, args, saved, grad, needs),
                false => reference::backward::<Self>(cell, args, saved, grad, needs),
            }
        }
        fn softmax_block(block: LogitBlock<Self>, gradients: bool) -> BlockLoss<Self> {
            match served::<Self>(&block.logits) {
                true => cube::softmax_block(block, gradients),
                false => reference::nll::softmax_block::<Self>(block, gradients),
            }
        }
        fn embedding_rows_backward(
            into: Option<FloatTensor<Self>>,
            rows: usize,
            tokens: IntTensor<Self>,
            grad: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            match served::<Self>(&grad) {
                true => cube::embedding_rows_backward::<Self>(into, rows, tokens, grad),
                false => reference::step::embedding_rows_backward::<Self>(into, rows, tokens, grad),
            }
        }
    }

    impl RecurrentOps for Cube {
        fn sgd_step(
            weight: FloatTensor<Self>,
            grad: FloatTensor<Self>,
            rate: f64,
            decay: f64,
        ) -> FloatTensor<Self> {
            use cube::CubeOps as _;
            match served::<Self>(&grad) {
                true => Self::sgd_step_in_one(weight, grad, rate as f32, decay as f32),
                false => reference::step::sgd_step::<Self>(weight, grad, rate, decay),
            }
        }
    }
}

/// The default bodies on an autodiff backend: Burn differentiates the unfused formula, a witness for the hand-written
/// backward passes.
impl<B: Backend, C: CheckpointStrategy> RecurrentKernels for Autodiff<B, C> {}

/// `Dispatch` only routes; its operations run these bodies on the backend behind each tensor.
impl RecurrentKernels for Dispatch {}
