//! The step's operations on backend primitives, which a backend may override.

use burn::backend::{
    Backend,
    tensor::{FloatTensor, IntTensor},
};

use super::generic;

/// Which elements a dropout kept.
#[derive(Clone, Debug)]
pub enum DropoutMask<B: Backend> {
    /// Ones and zeros.
    Tensor(FloatTensor<B>),
    /// Drawn again from this seed by the backend's own kernel.
    Seed(u64),
}

/// The step's operations on backend primitives. The default bodies are the reference.
pub trait StepKernels: Backend {
    /// The first `count` features of `[T, B, S]`.
    fn first_features_forward(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
        generic::first_features_forward::<Self>(tensor, count)
    }

    /// Gradient `[T, B, S]` from that of the first features: zero in the others.
    fn first_features_backward(grad: FloatTensor<Self>, size: usize) -> FloatTensor<Self> {
        generic::first_features_backward::<Self>(grad, size)
    }

    /// Rows of `weight` `[V, F]` at `tokens` `[N]`.
    fn embed_forward(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        generic::embed_forward::<Self>(weight, tokens)
    }

    /// `into` `[V, F]`, or zeros, with each row of `grad` `[N, F]` added at its token. `rows` is V.
    fn embed_backward(
        into: Option<FloatTensor<Self>>,
        rows: usize,
        tokens: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::embed_backward::<Self>(into, rows, tokens, grad)
    }

    /// Each element zero with probability `prob`, else divided by 1 − `prob`; and which were kept.
    fn drop_out_forward(
        tensor: FloatTensor<Self>,
        prob: f64,
    ) -> (FloatTensor<Self>, DropoutMask<Self>) {
        generic::drop_out_forward::<Self>(tensor, prob)
    }

    /// Gradient of the input from that of the output.
    fn drop_out_backward(
        grad: FloatTensor<Self>,
        mask: DropoutMask<Self>,
        prob: f64,
    ) -> FloatTensor<Self> {
        generic::drop_out_backward::<Self>(grad, mask, prob)
    }

    /// Σ x² as `[1]`.
    fn squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::squares::<Self>(tensor)
    }

    /// `factor` times the tensor.
    fn scale(tensor: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        generic::scale::<Self>(tensor, factor)
    }

    /// `tensor` times the scalar `factor` `[1]` on the device.
    fn scale_by(tensor: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::scale_by::<Self>(tensor, factor)
    }

    /// w − rate (g + decay w).
    fn descent(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f64,
        decay: f64,
    ) -> FloatTensor<Self> {
        generic::descent::<Self>(weight, grad, rate, decay)
    }
}

/// The kernels of `ops::cpu` in place of the default bodies.
#[cfg(any(feature = "flex", feature = "ndarray"))]
macro_rules! cpu_kernels {
    () => {
        fn first_features_forward(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
            crate::ops::cpu::step::first_features_forward::<Self>(tensor, count)
        }
        fn first_features_backward(grad: FloatTensor<Self>, size: usize) -> FloatTensor<Self> {
            crate::ops::cpu::step::first_features_backward::<Self>(grad, size)
        }
        fn embed_forward(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
            crate::ops::cpu::step::embed_forward::<Self>(weight, tokens)
        }
        fn embed_backward(
            into: Option<FloatTensor<Self>>,
            rows: usize,
            tokens: IntTensor<Self>,
            grad: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            crate::ops::cpu::step::embed_backward::<Self>(into, rows, tokens, grad)
        }
        fn drop_out_forward(
            tensor: FloatTensor<Self>,
            prob: f64,
        ) -> (FloatTensor<Self>, DropoutMask<Self>) {
            crate::ops::cpu::step::drop_out_forward::<Self>(tensor, prob)
        }
        fn drop_out_backward(
            grad: FloatTensor<Self>,
            mask: DropoutMask<Self>,
            prob: f64,
        ) -> FloatTensor<Self> {
            crate::ops::cpu::step::drop_out_backward::<Self>(grad, mask, prob)
        }
        fn squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
            crate::ops::cpu::step::squares::<Self>(tensor)
        }
        fn scale(tensor: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
            crate::ops::cpu::step::scale::<Self>(tensor, factor)
        }
        fn scale_by(tensor: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
            crate::ops::cpu::step::scale_by::<Self>(tensor, factor)
        }
        fn descent(
            weight: FloatTensor<Self>,
            grad: FloatTensor<Self>,
            rate: f64,
            decay: f64,
        ) -> FloatTensor<Self> {
            crate::ops::cpu::step::descent::<Self>(weight, grad, rate, decay)
        }
    };
}

#[cfg(feature = "flex")]
impl StepKernels for burn::backend::Flex {
    cpu_kernels!();
}
#[cfg(feature = "ndarray")]
#[allow(deprecated)]
impl StepKernels for burn::backend::NdArray {
    cpu_kernels!();
}
/// The kernels of `ops::cube`, where they serve tensor and device.
#[cfg(feature = "cube")]
impl StepKernels for burn::backend::Cube {
    fn embed_backward(
        into: Option<FloatTensor<Self>>,
        rows: usize,
        tokens: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match crate::ops::kernels::served::<Self>(&grad) {
            true => crate::ops::cube::embed_backward::<Self>(into, rows, tokens, grad),
            false => generic::embed_backward::<Self>(into, rows, tokens, grad),
        }
    }
    fn descent(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f64,
        decay: f64,
    ) -> FloatTensor<Self> {
        use crate::ops::cube::CubeOps;
        match crate::ops::kernels::served::<Self>(&grad) {
            true => Self::descend_in_one(weight, grad, rate as f32, decay as f32),
            false => generic::descent::<Self>(weight, grad, rate, decay),
        }
    }
}

/// The default bodies, differentiated by Burn: a witness for the hand-written backward passes.
impl<B, C> StepKernels for burn::backend::Autodiff<B, C>
where
    B: Backend,
    C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy,
{
}

/// Only routes.
impl StepKernels for burn::backend::Dispatch {}
