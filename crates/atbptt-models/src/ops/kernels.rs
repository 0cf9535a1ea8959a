//! Forward and backward passes of one layer over one window, on backend primitives.
//!
//! [`RecurrentKernels`] is what a backend overrides to bring a kernel of its own. The default bodies, made of
//! Burn's tensor operations, are the reference. Shapes are in the [parent module](super).

use burn::backend::{
    Backend,
    tensor::{FloatTensor, IntTensor},
};

use super::generic;

/// Input of an LSTM window.
#[derive(Clone, Debug)]
pub struct LstmInput<B: Backend> {
    /// `[T, B, I]`
    pub input: FloatTensor<B>,
    /// `[I, 4H]`
    pub input_weight: FloatTensor<B>,
    /// `[H, 4H]`
    pub recurrent_weight: FloatTensor<B>,
    /// `[4H]`
    pub bias: FloatTensor<B>,
    /// `[B, 2H]`: hidden, cell
    pub state: FloatTensor<B>,
    /// `[T, B, 2H]`
    pub taps: Option<FloatTensor<B>>,
    /// `[T, B, 1]`, ones and zeros
    pub keep: Option<FloatTensor<B>>,
}

/// Input of a GRU window.
#[derive(Clone, Debug)]
pub struct GruInput<B: Backend> {
    /// `[T, B, I]`
    pub input: FloatTensor<B>,
    /// `[I, 3H]`
    pub input_weight: FloatTensor<B>,
    /// `[H, 3H]`
    pub recurrent_weight: FloatTensor<B>,
    /// `[3H]`
    pub bias: FloatTensor<B>,
    /// `[H]`, added to the new gate's recurrent product, before the reset gate
    pub recurrent_bias: FloatTensor<B>,
    /// `[B, H]`
    pub state: FloatTensor<B>,
    /// `[T, B, H]`
    pub taps: Option<FloatTensor<B>>,
    /// `[T, B, 1]`, ones and zeros
    pub keep: Option<FloatTensor<B>>,
}

/// Input of a tanh-RNN window.
#[derive(Clone, Debug)]
pub struct RnnInput<B: Backend> {
    /// `[T, B, I]`
    pub input: FloatTensor<B>,
    /// `[I, H]`
    pub input_weight: FloatTensor<B>,
    /// `[H, H]`
    pub recurrent_weight: FloatTensor<B>,
    /// `[H]`
    pub bias: FloatTensor<B>,
    /// `[B, H]`
    pub state: FloatTensor<B>,
    /// `[T, B, H]`
    pub taps: Option<FloatTensor<B>>,
    /// `[T, B, 1]`, ones and zeros
    pub keep: Option<FloatTensor<B>>,
}

/// What a forward pass leaves behind for the backward pass.
#[derive(Clone, Debug)]
pub struct Trace<B: Backend> {
    /// Packed state of every step, `[T, B, S]`.
    pub states: FloatTensor<B>,
    /// Activated gates of every step: LSTM `[T, B, 4H]` (i, f, g, o), GRU `[T, B, 4H]` (r, z, n, and the new gate's
    /// recurrent product before the reset), tanh RNN: the states again, nothing more is needed.
    pub gates: FloatTensor<B>,
}

/// Which gradients a backward pass has to compute.
///
/// The gradients of taps and initial state come with the recursion at no cost; the others are large products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Of the input.
    pub input: bool,
    /// Of the input weight.
    pub input_weight: bool,
    /// Of the recurrent weight.
    pub recurrent_weight: bool,
    /// Of the biases.
    pub bias: bool,
    /// Of the taps.
    pub taps: bool,
}

/// Gradients of a window; `None` where [`Needs`] did not ask.
#[derive(Clone, Debug)]
pub struct Grads<B: Backend> {
    /// `[T, B, I]`
    pub input: Option<FloatTensor<B>>,
    /// Like the input weight.
    pub input_weight: Option<FloatTensor<B>>,
    /// Like the recurrent weight.
    pub recurrent_weight: Option<FloatTensor<B>>,
    /// Like the bias.
    pub bias: Option<FloatTensor<B>>,
    /// GRU only: like the recurrent bias.
    pub recurrent_bias: Option<FloatTensor<B>>,
    /// `[B, S]`
    pub state: FloatTensor<B>,
    /// `[T, B, S]`
    pub taps: Option<FloatTensor<B>>,
}

/// Input of the summed softmax loss.
#[derive(Clone, Debug)]
pub struct NllInput<B: Backend> {
    /// `[rows, H]`
    pub hidden: FloatTensor<B>,
    /// `[classes, H]`
    pub weight: FloatTensor<B>,
    /// `[classes]`
    pub bias: Option<FloatTensor<B>>,
    /// `[rows]`, each in `0..classes`
    pub targets: IntTensor<B>,
    /// `[rows]`, factors on the losses; ones where absent.
    pub row_weights: Option<FloatTensor<B>>,
}

/// Which gradients of the softmax loss are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NllNeeds {
    /// Of the hidden rows.
    pub hidden: bool,
    /// Of the weight.
    pub weight: bool,
    /// Of the bias.
    pub bias: bool,
}

/// Summed loss and its gradients, computed together: the logits of a block of rows are used while they exist.
#[derive(Clone, Debug)]
pub struct NllOutput<B: Backend> {
    /// `[1]`, in nats, weighted
    pub loss: FloatTensor<B>,
    /// `[rows]`, in nats, not weighted
    pub rows: FloatTensor<B>,
    /// `[rows, H]`
    pub hidden: Option<FloatTensor<B>>,
    /// `[classes, H]`
    pub weight: Option<FloatTensor<B>>,
    /// `[classes]`
    pub bias: Option<FloatTensor<B>>,
}

/// A block of rows on its way through the softmax.
#[derive(Clone, Debug)]
pub struct LogitBlock<B: Backend> {
    /// `[rows, classes]`, without the bias
    pub logits: FloatTensor<B>,
    /// `[classes]`
    pub bias: Option<FloatTensor<B>>,
    /// `[rows]`
    pub targets: IntTensor<B>,
    /// `[rows]`; ones where absent
    pub row_weights: Option<FloatTensor<B>>,
}

/// What came out of it.
#[derive(Clone, Debug)]
pub struct BlockLoss<B: Backend> {
    /// `[rows]`, in nats, not weighted
    pub rows: FloatTensor<B>,
    /// `[rows, classes]`: gradient of the weighted sum at the logits
    pub logits: Option<FloatTensor<B>>,
}

/// Forward and backward passes per cell.
pub trait RecurrentKernels: Backend + super::step::StepKernels {
    /// LSTM forward: gates i, f, o = σ(·), g = tanh(·); c' = f c + i g; h' = o tanh(c').
    fn lstm_forward(input: LstmInput<Self>) -> Trace<Self> {
        generic::lstm_forward::<Self>(input)
    }

    /// LSTM backward from the gradient of every packed state `[T, B, 2H]`.
    fn lstm_backward(
        input: LstmInput<Self>,
        trace: Trace<Self>,
        grad: FloatTensor<Self>,
        needs: Needs,
    ) -> Grads<Self> {
        generic::lstm_backward::<Self>(input, trace, grad, needs)
    }

    /// GRU forward: r, z = σ(·); n = tanh(x W_n + b_n + r (h R_n + b)); h' = (1 − z) n + z h.
    fn gru_forward(input: GruInput<Self>) -> Trace<Self> {
        generic::gru_forward::<Self>(input)
    }

    /// GRU backward from the gradient of every state `[T, B, H]`.
    fn gru_backward(
        input: GruInput<Self>,
        trace: Trace<Self>,
        grad: FloatTensor<Self>,
        needs: Needs,
    ) -> Grads<Self> {
        generic::gru_backward::<Self>(input, trace, grad, needs)
    }

    /// Tanh-RNN forward: h' = tanh(x W + h R + b).
    fn rnn_forward(input: RnnInput<Self>) -> Trace<Self> {
        generic::rnn_forward::<Self>(input)
    }

    /// Tanh-RNN backward from the gradient of every state `[T, B, H]`.
    fn rnn_backward(
        input: RnnInput<Self>,
        trace: Trace<Self>,
        grad: FloatTensor<Self>,
        needs: Needs,
    ) -> Grads<Self> {
        generic::rnn_backward::<Self>(input, trace, grad, needs)
    }

    /// −log softmax(h Wᵀ + b) at the target, per row and summed with the rows' weights, and the gradients of the sum, over
    /// blocks of rows: memory does not grow with rows × classes.
    fn linear_nll_forward(input: NllInput<Self>, needs: NllNeeds) -> NllOutput<Self> {
        super::nll::linear_nll::<Self>(input, needs)
    }

    /// Loss of a block of rows from its logits (`[rows, classes]`, without the bias), and the gradient of the weighted sum at
    /// the logits where `gradients` asks for it.
    fn softmax_block(block: LogitBlock<Self>, gradients: bool) -> BlockLoss<Self> {
        super::nll::softmax_block::<Self>(block, gradients)
    }
}

/// The kernels of [`super::cpu`] in place of the default bodies.
#[cfg(any(feature = "flex", feature = "ndarray"))]
macro_rules! cpu_kernels {
    () => {
        fn lstm_forward(input: LstmInput<Self>) -> Trace<Self> {
            super::cpu::lstm_forward(input)
        }
        fn lstm_backward(
            input: LstmInput<Self>,
            trace: Trace<Self>,
            grad: FloatTensor<Self>,
            needs: Needs,
        ) -> Grads<Self> {
            super::cpu::lstm_backward(input, trace, grad, needs)
        }
        fn gru_forward(input: GruInput<Self>) -> Trace<Self> {
            super::cpu::gru_forward(input)
        }
        fn gru_backward(
            input: GruInput<Self>,
            trace: Trace<Self>,
            grad: FloatTensor<Self>,
            needs: Needs,
        ) -> Grads<Self> {
            super::cpu::gru_backward(input, trace, grad, needs)
        }
        fn rnn_forward(input: RnnInput<Self>) -> Trace<Self> {
            super::cpu::rnn_forward(input)
        }
        fn rnn_backward(
            input: RnnInput<Self>,
            trace: Trace<Self>,
            grad: FloatTensor<Self>,
            needs: Needs,
        ) -> Grads<Self> {
            super::cpu::rnn_backward(input, trace, grad, needs)
        }
        fn linear_nll_forward(input: NllInput<Self>, needs: NllNeeds) -> NllOutput<Self> {
            super::cpu::linear_nll(input, needs)
        }
    };
}

#[cfg(feature = "flex")]
impl RecurrentKernels for burn::backend::Flex {
    cpu_kernels!();
}
#[cfg(feature = "ndarray")]
#[allow(deprecated)]
impl RecurrentKernels for burn::backend::NdArray {
    cpu_kernels!();
}
/// The kernels of `ops::cube`, where they serve tensor and device.
#[cfg(feature = "cube")]
impl RecurrentKernels for burn::backend::Cube {
    fn lstm_forward(input: LstmInput<Self>) -> Trace<Self> {
        match served::<Self>(&input.input) {
            true => super::cube::lstm_forward(input),
            false => generic::lstm_forward::<Self>(input),
        }
    }
    fn lstm_backward(
        input: LstmInput<Self>,
        trace: Trace<Self>,
        grad: FloatTensor<Self>,
        needs: Needs,
    ) -> Grads<Self> {
        match served::<Self>(&grad) {
            true => super::cube::lstm_backward(input, trace, grad, needs),
            false => generic::lstm_backward::<Self>(input, trace, grad, needs),
        }
    }
    fn gru_forward(input: GruInput<Self>) -> Trace<Self> {
        match served::<Self>(&input.input) {
            true => super::cube::gru_forward(input),
            false => generic::gru_forward::<Self>(input),
        }
    }
    fn gru_backward(
        input: GruInput<Self>,
        trace: Trace<Self>,
        grad: FloatTensor<Self>,
        needs: Needs,
    ) -> Grads<Self> {
        match served::<Self>(&grad) {
            true => super::cube::gru_backward(input, trace, grad, needs),
            false => generic::gru_backward::<Self>(input, trace, grad, needs),
        }
    }
    fn rnn_forward(input: RnnInput<Self>) -> Trace<Self> {
        match served::<Self>(&input.input) {
            true => super::cube::rnn_forward(input),
            false => generic::rnn_forward::<Self>(input),
        }
    }
    fn rnn_backward(
        input: RnnInput<Self>,
        trace: Trace<Self>,
        grad: FloatTensor<Self>,
        needs: Needs,
    ) -> Grads<Self> {
        match served::<Self>(&grad) {
            true => super::cube::rnn_backward(input, trace, grad, needs),
            false => generic::rnn_backward::<Self>(input, trace, grad, needs),
        }
    }
    fn softmax_block(block: LogitBlock<Self>, gradients: bool) -> BlockLoss<Self> {
        match served::<Self>(&block.logits) {
            true => super::cube::softmax_block(block, gradients),
            false => super::nll::softmax_block::<Self>(block, gradients),
        }
    }
}

#[cfg(feature = "cube")]
pub(super) fn served<B: Backend<Device = burn_cubecl::CubeDevice>>(
    tensor: &FloatTensor<B>,
) -> bool {
    use burn::backend::TensorMetadata as _;
    super::cube::serves(tensor.dtype(), &tensor.device())
}

/// The default bodies on an autodiff backend: Burn differentiates the unfused formula, a witness for the
/// hand-written backward passes.
impl<B, C> RecurrentKernels for burn::backend::Autodiff<B, C>
where
    B: Backend,
    C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy,
{
}

/// `Dispatch` only routes; its operations run these bodies on the backend behind each tensor.
impl RecurrentKernels for burn::backend::Dispatch {}
