//! Kernels for CubeCL backends: wgpu (Vulkan, Metal, WebGPU), CUDA, ROCm.
//!
//! A GPU waits for work more than it works when a step is made of dozens of small operations. Here a step of a layer is two
//! launches in either direction, the recurrent product and one kernel for all that lies between two products: gates, cell,
//! taps, reset mask and the copy of the state that the next product reads. Where the recurrent weight is small, one launch does
//! all steps: sequences need nothing of each other, so each has a cube that loops over time by itself ([`TimeLoop`]). The products
//! over all steps (input, weight gradients) stay Burn's, outside.
//!
//! [`CubeOps`] is a backend extension of its own, so that Burn's fusion, where it is on, sees each method as one operation
//! and hands over real tensors when it runs. [`RecurrentKernels`](super::backend::RecurrentKernels) of the CubeCL backend calls it.
//!
//! Arithmetic is done in f32, whatever type the tensors hold. `f64` goes through the reference bodies.
//!
//! Symbols: `T` time, `B` batch, `H` hidden, `S` size of the packed state; `x`, `h`, `c` input, hidden, cell; `R` recurrent
//! weight.

mod gru;
mod launch;
mod lstm;
mod nll;
mod rnn;
mod step;
mod time_loop;
mod window;

use burn::backend::{
    Backend, TensorMetadata, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, FloatDType};
use burn_cubecl::{CubeBackend, CubeDevice};

pub use time_loop::{TimeLoop, set_time_loop};

use super::cell::Cell;
use super::reference::{self, util::plain_input_product};
use super::types::{
    Arguments, BlockLoss, LogitBlock, NeedsGrad, Optional, SavedActivations, SequenceGradients,
};

/// Buffers of the kernel with the most of them (the GRU's backward step); browsers allow fewer.
const MOST_BUFFERS: u32 = 11;

/// Which optional tensors of a sequence operation are present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// State taps were given.
    pub taps: bool,
    /// A reset mask was given.
    pub keep: bool,
}

/// The operations that run as kernels of our own.
///
/// Shapes as in the [parent module](super); `pre` is x W without the bias, `[T, B, gates · H]`. An absent tensor is passed as
/// any other together with a flag.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait CubeOps: Backend {
    /// All steps of an LSTM: states `[T, B, 2H]` and gates `[T, B, 4H]`.
    #[fusion(meta = specs::lstm_steps)]
    #[allow(clippy::too_many_arguments)]
    fn lstm_steps(
        pre: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The way back: gradients of `pre`, of the initial state and, `tap_grads`, of the taps (else one element).
    #[fusion(meta = specs::lstm_steps_back)]
    #[allow(clippy::too_many_arguments)]
    fn lstm_steps_back(
        grad: FloatTensor<Self>,
        states: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
        tap_grads: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// All steps of a GRU: states `[T, B, H]` and gates `[T, B, 4H]`.
    #[fusion(meta = specs::gru_steps)]
    #[allow(clippy::too_many_arguments)]
    fn gru_steps(
        pre: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        recurrent_bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The way back: gradients of `pre` and of h R, both `[T, B, 3H]`, of the initial state and of the taps.
    #[fusion(meta = specs::gru_steps_back)]
    #[allow(clippy::too_many_arguments)]
    fn gru_steps_back(
        grad: FloatTensor<Self>,
        states: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
        tap_grads: bool,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// All steps of a tanh RNN: states `[T, B, H]`.
    #[fusion(dtype = pre, shape = pre)]
    #[allow(clippy::too_many_arguments)]
    fn rnn_steps(
        pre: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self>;

    /// The way back: gradients of `pre`, of the initial state and of the taps.
    #[fusion(meta = specs::rnn_steps_back)]
    fn rnn_steps_back(
        grad: FloatTensor<Self>,
        states: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
        tap_grads: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Softmax loss of rows of logits `[rows, classes]`, without their bias: losses `[rows]`, and the gradient of the
    /// weighted sum at the logits, in their memory (where `gradients` is off, the logits are left in no defined state).
    #[fusion(meta = specs::softmax_rows)]
    fn softmax_rows(
        logits: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        has: SoftmaxFlags,
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

/// What a softmax loss has and needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftmaxFlags {
    /// A bias per class was given.
    pub bias: bool,
    /// A factor per row was given.
    pub weights: bool,
    /// The gradient is wanted.
    pub gradients: bool,
}

impl CubeOps for CubeBackend {
    fn lstm_steps(
        pre: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        lstm::forward(pre, bias, recurrent_weight, state, taps, keep, present)
    }

    fn lstm_steps_back(
        grad: FloatTensor<Self>,
        states: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
        tap_grads: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        lstm::backward(
            grad,
            states,
            gates,
            recurrent_weight,
            state,
            taps,
            keep,
            present,
            tap_grads,
        )
    }

    fn gru_steps(
        pre: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        recurrent_bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        gru::forward(
            pre,
            bias,
            recurrent_weight,
            recurrent_bias,
            state,
            taps,
            keep,
            present,
        )
    }

    fn gru_steps_back(
        grad: FloatTensor<Self>,
        states: FloatTensor<Self>,
        gates: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
        tap_grads: bool,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        gru::backward(
            grad,
            states,
            gates,
            recurrent_weight,
            state,
            taps,
            keep,
            present,
            tap_grads,
        )
    }

    fn rnn_steps(
        pre: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self> {
        rnn::forward(pre, bias, recurrent_weight, state, taps, keep, present)
    }

    fn rnn_steps_back(
        grad: FloatTensor<Self>,
        states: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
        tap_grads: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        rnn::backward(
            grad,
            states,
            recurrent_weight,
            state,
            keep,
            present,
            tap_grads,
        )
    }

    fn softmax_rows(
        logits: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        has: SoftmaxFlags,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        nll::softmax_rows(logits, bias, targets, weights, has)
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

/// Whether the kernels serve a tensor of this type on this device.
pub(super) fn serves(dtype: DType, device: &CubeDevice) -> bool {
    matches!(dtype, DType::F32 | DType::Flex32 | DType::F16 | DType::BF16)
        && device.client().properties().hardware.max_bindings >= MOST_BUFFERS
}

/// [`RecurrentKernels::sequence_forward`](super::backend::RecurrentKernels::sequence_forward) by kernels.
pub(super) fn sequence_forward<B: CubeOps>(cell: Cell, args: Arguments<B>) -> SavedActivations<B> {
    let present = present(&args);
    let weight = reference::recurrent_weight(cell, &args).unwrap_or_else(|| args.state.clone());
    let recurrent_bias = args.recurrent_bias.into_option();
    let recurrent_bias = recurrent_bias.unwrap_or_else(|| args.state.clone());
    let pre = plain_input_product::<B>(args.input, args.input_weight);
    let (bias, state) = (args.bias, args.state);
    let (taps, keep) = stand_ins::<B>(args.taps, args.reset_mask, &state);
    let (states, gates) = match cell {
        Cell::Lstm => B::lstm_steps(pre, bias, weight, state, taps, keep, present),
        Cell::Gru => B::gru_steps(
            pre,
            bias,
            weight,
            recurrent_bias,
            state,
            taps,
            keep,
            present,
        ),
        Cell::Rnn => {
            let states = B::rnn_steps(pre, bias, weight, state, taps, keep, present);
            (states.clone(), states)
        }
    };
    SavedActivations { states, gates }
}

/// [`RecurrentKernels::sequence_backward`](super::backend::RecurrentKernels::sequence_backward) by kernels.
pub(super) fn sequence_backward<B: CubeOps>(
    cell: Cell,
    args: Arguments<B>,
    saved: SavedActivations<B>,
    grad: FloatTensor<B>,
    needs: NeedsGrad,
) -> SequenceGradients<B> {
    let present = present(&args);
    let weight = reference::recurrent_weight(cell, &args).unwrap_or_else(|| args.state.clone());
    let state = args.state.clone();
    let (taps, keep) = stand_ins::<B>(args.taps.clone(), args.reset_mask.clone(), &state);
    let (states, gates) = (saved.states.clone(), saved.gates);
    let (d_input, d_product, d_state, d_taps) = match cell {
        Cell::Lstm => {
            let (d_input, d_state, d_taps) = B::lstm_steps_back(
                grad, states, gates, weight, state, taps, keep, present, needs.taps,
            );
            (d_input.clone(), d_input, d_state, d_taps)
        }
        Cell::Gru => B::gru_steps_back(
            grad, states, gates, weight, state, taps, keep, present, needs.taps,
        ),
        Cell::Rnn => {
            let (d_input, d_state, d_taps) =
                B::rnn_steps_back(grad, states, weight, state, keep, present, needs.taps);
            (d_input.clone(), d_input, d_state, d_taps)
        }
    };
    let back = reference::Backpropagated {
        d_input,
        d_product,
        d_state,
        d_taps: needs.taps.then_some(d_taps),
    };
    back.gradients(cell, args, &saved.states, needs)
}

/// [`RecurrentKernels::softmax_block`](super::backend::RecurrentKernels::softmax_block) by a kernel.
pub(super) fn softmax_block<B: CubeOps>(block: LogitBlock<B>, gradients: bool) -> BlockLoss<B> {
    let has = SoftmaxFlags {
        bias: block.bias.is_some(),
        weights: block.row_weights.is_some(),
        gradients,
    };
    // A stand-in for what is absent; a clone of the logits would have them copied before they are overwritten.
    let stand_in = |dtype: DType| B::float_zeros([1].into(), &block.logits.device(), dtype.into());
    let bias = block.bias.unwrap_or_else(|| stand_in(block.logits.dtype()));
    let weights = match block.row_weights {
        Some(weights) => B::float_cast(weights, FloatDType::F32),
        None => stand_in(DType::F32),
    };
    let (rows, logits) = B::softmax_rows(block.logits, bias, block.targets, weights, has);
    BlockLoss {
        rows,
        logits: gradients.then_some(logits),
    }
}

/// The embedding's gradient by a kernel.
pub(super) fn embedding_rows_backward<B: CubeOps>(
    into: Option<FloatTensor<B>>,
    rows: usize,
    tokens: IntTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let into = into.unwrap_or_else(|| {
        let shape = [rows, grad.shape()[1]].into();
        B::float_zeros(shape, &grad.device(), grad.dtype().into())
    });
    B::add_rows(into, tokens, grad)
}

fn present<B: Backend>(args: &Arguments<B>) -> Present {
    Present {
        taps: args.taps.is_given(),
        keep: args.reset_mask.is_given(),
    }
}

/// Absent tensors replaced by one that is there: a kernel has a fixed number of buffers, and does not read these.
fn stand_ins<B: Backend>(
    taps: Optional<B>,
    keep: Optional<B>,
    state: &FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let or_state = |tensor: Optional<B>| tensor.into_option().unwrap_or_else(|| state.clone());
    (or_state(taps), or_state(keep))
}

/// What fusion is told about outputs before they exist.
#[cfg(feature = "fusion")]
mod specs {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::{DType, Shape};

    use super::{Present, SoftmaxFlags};

    fn like(of: &TensorSpec, dims: &[usize]) -> TensorSpec {
        TensorSpec::new(Shape::from(dims.to_vec()), of.dtype)
    }

    fn tap_grads(like_: &TensorSpec, wanted: bool) -> TensorSpec {
        match wanted {
            true => like_.clone(),
            false => like(like_, &[1]),
        }
    }

    pub(super) fn lstm_steps(
        pre: &TensorSpec,
        _bias: &TensorSpec,
        recurrent_weight: &TensorSpec,
        _state: &TensorSpec,
        _taps: &TensorSpec,
        _keep: &TensorSpec,
        _present: &Present,
    ) -> (TensorSpec, TensorSpec) {
        let hidden = recurrent_weight.shape[0];
        let states = like(pre, &[pre.shape[0], pre.shape[1], 2 * hidden]);
        (states, pre.clone())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn lstm_steps_back(
        grad: &TensorSpec,
        _states: &TensorSpec,
        gates: &TensorSpec,
        _recurrent_weight: &TensorSpec,
        state: &TensorSpec,
        _taps: &TensorSpec,
        _keep: &TensorSpec,
        _present: &Present,
        wanted: &bool,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        (gates.clone(), state.clone(), tap_grads(grad, *wanted))
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn gru_steps(
        pre: &TensorSpec,
        _bias: &TensorSpec,
        recurrent_weight: &TensorSpec,
        _recurrent_bias: &TensorSpec,
        _state: &TensorSpec,
        _taps: &TensorSpec,
        _keep: &TensorSpec,
        _present: &Present,
    ) -> (TensorSpec, TensorSpec) {
        let hidden = recurrent_weight.shape[0];
        let of = |features| like(pre, &[pre.shape[0], pre.shape[1], features]);
        (of(hidden), of(4 * hidden))
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn gru_steps_back(
        grad: &TensorSpec,
        _states: &TensorSpec,
        _gates: &TensorSpec,
        recurrent_weight: &TensorSpec,
        state: &TensorSpec,
        _taps: &TensorSpec,
        _keep: &TensorSpec,
        _present: &Present,
        wanted: &bool,
    ) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
        let gates = recurrent_weight.shape[1];
        let d = like(grad, &[grad.shape[0], grad.shape[1], gates]);
        (d.clone(), d, state.clone(), tap_grads(grad, *wanted))
    }

    pub(super) fn rnn_steps_back(
        grad: &TensorSpec,
        _states: &TensorSpec,
        _recurrent_weight: &TensorSpec,
        state: &TensorSpec,
        _keep: &TensorSpec,
        _present: &Present,
        wanted: &bool,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        (grad.clone(), state.clone(), tap_grads(grad, *wanted))
    }

    pub(super) fn softmax_rows(
        logits: &TensorSpec,
        _bias: &TensorSpec,
        _targets: &TensorSpec,
        _weights: &TensorSpec,
        _has: &SoftmaxFlags,
    ) -> (TensorSpec, TensorSpec) {
        let losses = Shape::from([logits.shape[0]]);
        (TensorSpec::new(losses, DType::F32), logits.clone())
    }
}
