//! Sequence operations on CPU backends whose tensors are plain slices: Flex and NdArray, f32 and f64.
//!
//! Place in the flow: [`RecurrentKernels`](super::contract::RecurrentKernels) of those backends call the functions of this module; other element types take the
//! reference bodies.
//!
//! 1. The input products of all steps are one large product (`product`: the `gemm` crate or, where the processor has one, its
//!    matrix unit, `amx`).
//! 2. The recurrence multiplies a few rows (`panel`) with weights packed once per window (`packed`), and the sums meet the
//!    pointwise part of the cell (`lstm`, `gru`, `rnn`, `mingru`; functions in `math`) while they are in registers, as the epilogue of
//!    the product (`forward`). `team` shares the steps out over threads.
//! 3. Backward likewise (`backward`), as far as there is a gradient (`fade`); the gradients of weights and input are large products after the loop.
//!
//! Results do not depend on the number of threads: every sum is in one order. Subnormal numbers count as zero in all of it
//! (`flush`), on every thread (`threads`): this changes nothing at or above the smallest normal number.

mod amx;
mod backward;
pub(crate) mod dropout;
mod fade;
mod few_rows;
mod flush;
mod forward;
mod gru;
mod helpers;
pub(crate) mod host;
mod kept;
mod lstm;
mod math;
mod matrix;
mod mingru;
mod nll;
mod one_step;
mod packed;
mod panel;
mod passes;
mod pool;
mod processors;
mod product;
mod rnn;
mod shared;
mod simd;
pub(crate) mod step;
pub(crate) mod stepper;
mod sum_rows;
mod team;
mod threads;
#[cfg(target_arch = "x86_64")]
mod turn;
mod unit;
#[cfg(feature = "flex")]
mod unwritten;
mod window;

pub(super) use flush::Flush;

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;

use super::cell::Cell;
use super::reference;
use super::types::{
    Arguments, NeedsGrad, NllArguments, NllNeedsGrad, NllOutput, Optional, SavedActivations,
    SequenceGradients, Sizes,
};
use backward::Gates;
use host::Host;
use kept::{Kept, MOST_ROWS};
use pool::Buffer;
use simd::Real;
use threads::EPILOGUE_WORK;
use window::Window;

/// Runs `with` on the window's slices, where it goes over the weights `passes` times. `None` where a tensor is not of type
/// `E`, is empty, or does not have the expected number of elements: then the reference body decides what that means.
fn with_window<E: Real, B: Host, R>(
    cell: Cell,
    args: &Arguments<B>,
    passes: usize,
    with: impl FnOnce(&Window<'_, E>) -> Option<R>,
) -> Option<R> {
    let Sizes {
        time,
        batch,
        inputs,
        hidden,
    } = args.sizes(cell);
    let (gates, size) = (cell.gates() * hidden, cell.state_parts() * hidden);
    let recurrent = [
        (&args.recurrent_weight, cell.recurrent_gates() * hidden),
        (&args.recurrent_bias, usize::from(cell.has_recurrent_bias())),
    ];
    if recurrent
        .iter()
        .any(|(weight, columns)| weight.is_given() != (*columns > 0))
    {
        return None;
    }
    let [recurrent_weight, recurrent_bias] =
        recurrent.map(|(weight, columns)| Held::<B>::optional::<E>(weight, hidden * columns));
    let (recurrent_weight, recurrent_bias) = (recurrent_weight?, recurrent_bias?);
    let input = Held::<B>::new::<E>(&args.input, time * batch * inputs)?;
    let input_weight = Held::<B>::new::<E>(&args.input_weight, inputs * gates)?;
    let bias = Held::<B>::new::<E>(&args.bias, gates)?;
    let state = Held::<B>::new::<E>(&args.state, batch * size)?;
    let taps = Held::<B>::optional::<E>(&args.taps, time * batch * size)?;
    let reset_mask = Held::<B>::optional::<E>(&args.reset_mask, time * batch)?;
    let window = Window {
        time,
        batch,
        inputs,
        hidden,
        input: input.elements()?,
        input_weight: input_weight.elements()?,
        recurrent_weight: elements(&recurrent_weight)?.unwrap_or_default(),
        bias: bias.elements()?,
        recurrent_bias: elements(&recurrent_bias)?.unwrap_or_default(),
        state: state.elements()?,
        taps: elements(&taps)?,
        reset_mask: elements(&reset_mask)?,
    };
    let weights = gates * inputs + cell.recurrent_gates() * hidden * hidden;
    let work = (window.rows() * passes).saturating_mul(weights + EPILOGUE_WORK * hidden);
    threads::inside(work, || with(&window))
}

/// A contiguous tensor of known type and size.
#[derive(Clone)]
struct Held<B: Host>(FloatTensor<B>);

impl<B: Host> Held<B> {
    fn new<E: Real>(tensor: &FloatTensor<B>, elements: usize) -> Option<Self> {
        (tensor.dtype() == E::dtype() && elements > 0 && tensor.shape().num_elements() == elements)
            .then(|| Self(B::contiguous(tensor.clone())))
    }

    /// The outer option says whether a given tensor is acceptable.
    fn optional<E: Real>(tensor: &Optional<B>, elements: usize) -> Option<Option<Self>> {
        match tensor {
            Optional::Given(tensor) => Self::new::<E>(tensor, elements).map(Some),
            Optional::Absent => Some(None),
        }
    }

    fn elements<E: Real>(&self) -> Option<&[E]> {
        B::elements::<E>(&self.0)
    }
}

/// The elements of a tensor that may be absent; the outer option is that of [`Held::elements`].
fn elements<B: Host, E: Real>(held: &Option<Held<B>>) -> Option<Option<&[E]>> {
    match held {
        Some(held) => held.elements().map(Some),
        None => Some(None),
    }
}

/// Runs the body with `$E` as f32 or f64, after the tensor; other types give `None`.
macro_rules! by_type {
    ($tensor:expr, $E:ident => $body:expr) => {
        match $tensor.dtype() {
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::F64 => {
                type $E = f64;
                $body
            }
            _ => None,
        }
    };
}

use by_type;

pub(crate) fn sequence_forward<B: Host>(cell: Cell, args: Arguments<B>) -> SavedActivations<B> {
    by_type!(args.input, E => with_window::<E, B, _>(cell, &args, 1, |window| {
        let (states, gates) = forward::forward(cell, window);
        let tensor = |data: Buffer<E>, parts: usize| {
            B::tensor::<E>(data, vec![window.time, window.batch, parts * window.hidden])
        };
        let states = tensor(states, cell.state_parts());
        Some(SavedActivations {
            gates: match gates {
                Some(gates) => tensor(gates, cell.saved_gates()),
                None => states.clone(),
            },
            states,
        })
    }))
    .unwrap_or_else(|| reference::forward::<B>(cell, args))
}

pub(crate) fn sequence_backward<B: Host>(
    cell: Cell,
    args: Arguments<B>,
    saved: SavedActivations<B>,
    grad: FloatTensor<B>,
    needs: NeedsGrad,
) -> SequenceGradients<B> {
    let mut saved = saved;
    by_type!(args.input, E => with_window::<E, B, _>(cell, &args, 2, |window| {
        let values = window.rows() * window.hidden;
        let size = cell.state_parts() * window.hidden;
        let states = Held::<B>::new::<E>(&saved.states, window.rows() * size)?;
        let grad = Held::<B>::new::<E>(&grad, window.rows() * size)?;
        let (states, grad) = (states.elements()?, grad.elements()?);
        let count = values * cell.saved_gates();
        let held;
        // Where nobody else holds the gates, gradients may take their place.
        let gates = match B::elements_mut::<E>(&mut saved.gates) {
            _ if count == 0 => Gates::Kept(&[]),
            Some(gates) if gates.len() == count => Gates::Free(gates),
            _ => {
                held = Held::<B>::new::<E>(&saved.gates, count)?;
                Gates::Kept(held.elements()?)
            }
        };
        let saved = backward::Saved { states, gates, grad };
        let out = backward::backward(cell, window, saved, needs);
        let tensor = |data: Option<Buffer<E>>, shape: &[usize]| {
            data.map(|data| B::tensor::<E>(data, shape.to_vec()))
        };
        let like = |data, tensor_of: &FloatTensor<B>| tensor(data, &tensor_of.shape().to_vec());
        let width = cell.recurrent_gates() * window.hidden;
        Some(SequenceGradients {
            input: like(out.input, &args.input),
            input_weight: like(out.input_weight, &args.input_weight),
            recurrent_weight: tensor(out.recurrent_weight, &[window.hidden, width]),
            bias: like(out.bias, &args.bias),
            recurrent_bias: tensor(out.recurrent_bias, &[window.hidden]),
            state: B::tensor::<E>(out.state, vec![window.batch, size]),
            taps: tensor(out.taps, &[window.time, window.batch, size]),
        })
    }))
    .unwrap_or_else(|| reference::backward::<B>(cell, args, saved, grad, needs))
}

pub(crate) fn linear_nll<B: Host>(input: NllArguments<B>, needs: NllNeedsGrad) -> NllOutput<B> {
    linear_nll_with(input, needs, false).0
}

pub(crate) fn linear_nll_tracked<B: Host>(
    input: NllArguments<B>,
    needs: NllNeedsGrad,
) -> (NllOutput<B>, Option<FloatTensor<B>>) {
    linear_nll_with(input, needs, true)
}

/// The gradient at the logits beside the others, where it may stand for the weight's and does.
fn linear_nll_with<B: Host>(
    input: NllArguments<B>,
    needs: NllNeedsGrad,
    to_logits: bool,
) -> (NllOutput<B>, Option<FloatTensor<B>>) {
    by_type!(input.hidden, E => linear_nll_of::<E, B>(&input, needs, to_logits)).unwrap_or_else(
        || {
            let block = reference::nll::softmax_block::<B>;
            (reference::nll::linear_nll::<B>(input, needs, block), None)
        },
    )
}

pub(crate) fn linear_nll_weight_gradient<B: Host>(
    logits: FloatTensor<B>,
    hidden: FloatTensor<B>,
    factor: FloatTensor<B>,
) -> FloatTensor<B> {
    let (rows, classes, features) = (logits.shape()[0], logits.shape()[1], hidden.shape()[1]);
    by_type!(logits, E => {
        let held = Held::<B>::new::<E>(&logits, rows * classes);
        held.zip(Held::<B>::new::<E>(&hidden, rows * features)).and_then(|(logits, hidden)| {
            let factor = *B::elements::<E>(&factor)?.first()?;
            let size = [rows, features, classes];
            if rows <= MOST_ROWS {
                return Some(Kept::new(logits, hidden, size, factor).into_tensor());
            }
            let (logits, hidden) = (logits.elements::<E>()?, hidden.elements::<E>()?);
            let work = (rows * features).saturating_mul(classes);
            let out = threads::inside(work, || {
                few_rows::weight_gradient(logits, hidden, size, factor)
            });
            Some(B::tensor(out, vec![classes, features]))
        })
    })
    .unwrap_or_else(|| reference::nll::weight_gradient::<B>(logits, hidden, factor))
}

fn linear_nll_of<E: Real, B: Host>(
    input: &NllArguments<B>,
    needs: NllNeedsGrad,
    to_logits: bool,
) -> Option<(NllOutput<B>, Option<FloatTensor<B>>)> {
    let (rows, classes) = (input.hidden.shape()[0], input.weight.shape()[0]);
    let features = input.hidden.shape()[1];
    let hidden = Held::<B>::new::<E>(&input.hidden, rows * features)?;
    let weight = Held::<B>::new::<E>(&input.weight, classes * features)?;
    let bias = Held::<B>::optional::<E>(&input.bias, classes)?;
    let row_weights = Held::<B>::optional::<E>(&input.row_weights, rows)?;
    let targets = B::indices(&input.targets, classes).filter(|targets| targets.len() == rows)?;
    let args = nll::Arguments {
        rows,
        features,
        classes,
        hidden: hidden.elements::<E>()?,
        weight: weight.elements()?,
        bias: elements(&bias)?,
        targets: &targets,
        row_weights: elements(&row_weights)?,
    };
    let products = 1 + usize::from(needs.hidden) + usize::from(needs.weight);
    let work = (rows * products).saturating_mul(classes * features);
    let out = threads::inside(work, || nll::linear_nll(&args, needs, to_logits));
    let logits = out.logits.map(|data| B::tensor(data, vec![rows, classes]));
    let out = NllOutput {
        loss: B::tensor(Buffer::from(&[out.loss][..]), vec![1]),
        rows: B::tensor(out.rows, vec![rows]),
        hidden: out.hidden.map(|data| B::tensor(data, vec![rows, features])),
        weight: out
            .weight
            .map(|data| B::tensor(data, vec![classes, features])),
        bias: out.bias.map(|data| B::tensor(data, vec![classes])),
    };
    Some((out, logits))
}
