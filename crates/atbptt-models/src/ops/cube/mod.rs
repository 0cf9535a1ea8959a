//! Kernels for CubeCL backends: wgpu (Vulkan, Metal, WebGPU), CUDA, ROCm.
//!
//! A GPU waits for work more than it works when a step is made of dozens of small operations. Here a step of a layer is one
//! launch in either direction: the recurrent product, and all that lies between two products, gates, cell, taps, reset mask and
//! the copy of the state that the next step reads. Where the recurrent weight is small, one launch does
//! all steps: sequences need nothing of each other, so each has a cube that loops over time by itself. For large batches the
//! product is Burn's, and a step two launches ([`TimeLoop`](time_loop::TimeLoop) chooses). Of a cell without recurrent product
//! each unit loops over time. The products over all steps (input, weight gradients) stay Burn's, outside.
//!
//! - `extension`: [`CubeOps`], an extension of its own for these operations, that
//!   [`RecurrentKernels`](super::contract::RecurrentKernels) of the CubeCL backend calls;
//! - `driver`: the host's part, buffers and launches, for all cells; `time_loop` and `tuning` choose what is launched;
//! - `forward` and `backward`: the kernels, for all cells, over what `unit` has of one hidden unit; `lstm`, `gru`, `rnn` and `mingru` have the equations;
//! - `fused` and `fused_back`: a step with its product, which `tile` cuts over the device and `multiply` computes.
//!
//! Arithmetic is done in f32, whatever type the tensors hold. `f64` goes through the reference bodies.
//!
//! Symbols: `T` time, `B` batch, `H` hidden, `S` size of the packed state; `x`, `h`, `c` input, hidden, cell; `R` recurrent
//! weight.

mod arguments;
mod backward;
mod driver;
mod extension;
mod forward;
mod fused;
mod fused_back;
mod gru;
mod launch;
mod lstm;
mod mingru;
mod multiply;
mod nll;
mod rnn;
mod step;
mod tile;
mod time_loop;
mod tuning;
mod unit;
mod window;

use burn::backend::{
    TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, FloatDType};
use burn_cubecl::CubeDevice;

pub use extension::CubeOps;
#[cfg(feature = "_internals")]
pub use tile::Tile;
#[cfg(feature = "_internals")]
pub use time_loop::{TimeLoop, set_time_loop};
#[cfg(feature = "_internals")]
pub use tuning::set_tiles;

use super::cell::Cell;
use super::reference::{self, util::plain_input_product};
use super::types::{
    Arguments, BlockLoss, LogitBlock, NeedsGrad, Optional, SavedActivations, SequenceGradients,
};
use arguments::{Steps, StepsBack};

/// Buffers of the kernel with the most of them (a GRU's step back, with everything that is optional); browsers allow fewer.
const MAX_BUFFERS: u32 = 12;

/// Whether the kernels serve a tensor of this type on this device.
pub(super) fn serves(dtype: DType, device: &CubeDevice) -> bool {
    matches!(dtype, DType::F32 | DType::Flex32 | DType::F16 | DType::BF16)
        && device.client().properties().hardware.max_bindings >= MAX_BUFFERS
}

/// [`RecurrentKernels::sequence_forward`](super::contract::RecurrentKernels::sequence_forward) by kernels.
pub(super) fn sequence_forward<B: CubeOps>(cell: Cell, args: Arguments<B>) -> SavedActivations<B> {
    let args = Steps {
        recurrent_weight: reference::recurrent_weight(cell, &args).into(),
        recurrent_bias: reference::recurrent_bias(cell, &args).into(),
        inputs: plain_input_product::<B>(args.input, args.input_weight),
        bias: args.bias,
        state: args.state,
        taps: args.taps,
        reset_mask: args.reset_mask,
    };
    let (states, gates) = B::steps(cell, args);
    SavedActivations {
        gates: match cell.saved_gates() {
            0 => states.clone(),
            _ => gates,
        },
        states,
    }
}

/// [`RecurrentKernels::sequence_backward`](super::contract::RecurrentKernels::sequence_backward) by kernels.
pub(super) fn sequence_backward<B: CubeOps>(
    cell: Cell,
    args: Arguments<B>,
    saved: SavedActivations<B>,
    grad: FloatTensor<B>,
    needs: NeedsGrad,
) -> SequenceGradients<B> {
    let back = StepsBack {
        grad,
        states: saved.states.clone(),
        gates: saved.gates,
        recurrent_weight: reference::recurrent_weight(cell, &args).into(),
        state: args.state.clone(),
        taps: args.taps.clone(),
        reset_mask: args.reset_mask.clone(),
    };
    let (d_input, d_product, d_state, d_taps) = B::steps_back(cell, back, needs.taps);
    let back = reference::Backpropagated {
        d_product: match cell.has_recurrent_bias() {
            true => d_product,
            false => d_input.clone(),
        },
        d_input,
        d_state,
        d_taps: needs.taps.then_some(d_taps),
    };
    back.gradients(cell, args, &saved.states, needs)
}

/// [`RecurrentKernels::softmax_block`](super::contract::RecurrentKernels::softmax_block) by a kernel.
pub(super) fn softmax_block<B: CubeOps>(block: LogitBlock<B>, gradients: bool) -> BlockLoss<B> {
    let weights = block
        .row_weights
        .map(|weights| B::float_cast(weights, FloatDType::F32));
    let (rows, logits) = B::softmax_rows(
        block.logits,
        block.bias.into(),
        block.targets,
        Optional::from(weights),
        gradients,
    );
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
