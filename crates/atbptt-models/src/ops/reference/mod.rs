//! The operations made of Burn's tensor operations: they run on every backend, and are what kernels are held to.
//!
//! This file takes a window step by step, whatever the cell; one file per cell has its equations.
//!
//! Words: the *input product* is x W + b of all steps, one large matrix product, the *recurrent product* h R of one step. What
//! flows back from step t + 1 into the state that step t hands over is called *returned*.

mod gru;
mod lstm;
mod mingru;
pub mod nll;
mod rnn;
pub mod step;
mod unit;
pub(crate) mod util;

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use super::cell::{Carry, Cell};
use super::types::{Arguments, NeedsGrad, SavedActivations, SequenceGradients};
use unit::Returned;
use util::*;

/// The reference of [`RecurrentKernels::sequence_forward`](super::contract::RecurrentKernels::sequence_forward).
pub fn forward<B: Backend>(cell: Cell, args: Arguments<B>) -> SavedActivations<B> {
    let sizes = args.sizes(cell);
    let (time, hidden) = (sizes.time, sizes.hidden);
    let recurrent_weight = recurrent_weight::<B>(cell, &args);
    let recurrent_bias =
        recurrent_bias::<B>(cell, &args).map(|bias| B::float_reshape(bias, [1, hidden].into()));
    let input_products = input_product::<B>(args.input, args.input_weight, args.bias);

    let mut entering = args.state;
    let mut states = Vec::with_capacity(time);
    let mut gates = Vec::with_capacity(time);
    for t in 0..time {
        if let Some(mask) = args.reset_mask.as_option() {
            entering = B::float_mul(entering, step_of::<B>(mask, t));
        }
        let input = step_of::<B>(&input_products, t);
        let product = recurrent_weight
            .as_ref()
            .map(|weight| B::float_matmul(part::<B>(&entering, 0, hidden), weight.clone()));
        let stepped = match cell {
            Cell::Lstm => lstm::forward::<B>(input, product, entering, hidden),
            Cell::Gru => {
                gru::forward::<B>(input, product, recurrent_bias.clone(), entering, hidden)
            }
            Cell::Rnn => rnn::forward::<B>(input, product),
            Cell::MinGru => mingru::forward::<B>(input, entering, hidden),
        };
        gates.extend(stepped.gates.map(as_step::<B>));
        states.push(as_step::<B>(stepped.state.clone()));
        entering = match args.taps.as_option() {
            Some(taps) if t + 1 < time => B::float_add(stepped.state, step_of::<B>(taps, t)),
            _ => stepped.state,
        };
    }
    let states = B::float_cat(states, 0);
    SavedActivations {
        gates: match gates.is_empty() {
            true => states.clone(),
            false => B::float_cat(gates, 0),
        },
        states,
    }
}

/// The reference of [`RecurrentKernels::sequence_backward`](super::contract::RecurrentKernels::sequence_backward).
pub fn backward<B: Backend>(
    cell: Cell,
    args: Arguments<B>,
    saved: SavedActivations<B>,
    grad: FloatTensor<B>,
    needs: NeedsGrad,
) -> SequenceGradients<B> {
    let sizes = args.sizes(cell);
    let (time, hidden) = (sizes.time, sizes.hidden);
    let entering = entering::<B>(&args, &saved.states);
    let transposed = recurrent_weight::<B>(cell, &args).map(transposed_copy::<B>);

    let mut returned = zeros_like::<B>(&args.state, args.state.shape());
    let mut d_input = Vec::with_capacity(time);
    let mut d_product = Vec::new();
    let mut d_taps = Vec::new();
    for t in (0..time).rev() {
        if needs.taps {
            d_taps.push(as_step::<B>(returned.clone()));
        }
        let at = Returned::<B> {
            grad: B::float_add(step_of::<B>(&grad, t), returned),
            state: step_of::<B>(&saved.states, t),
            entering: step_of::<B>(&entering, t),
            gates: step_of::<B>(&saved.gates, t),
            hidden,
        };
        let back = match cell {
            Cell::Lstm => lstm::backward::<B>(at),
            Cell::Gru => gru::backward::<B>(at),
            Cell::Rnn => rnn::backward::<B>(at),
            Cell::MinGru => mingru::backward::<B>(at),
        };
        let product = transposed.as_ref().map(|transposed| {
            let grad = back.product.as_ref().unwrap_or(&back.input).clone();
            B::float_matmul(grad, transposed.clone())
        });
        returned = match (back.carried, product) {
            (Some(carried), Some(product)) => match cell.carry() {
                Carry::Cell => B::float_cat(vec![product, carried], 1),
                _ => B::float_add(carried, product),
            },
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => zeros_like::<B>(&args.state, args.state.shape()),
        };
        if let Some(mask) = args.reset_mask.as_option() {
            returned = B::float_mul(returned, step_of::<B>(mask, t));
        }
        d_input.push(as_step::<B>(back.input));
        d_product.extend(back.product.map(as_step::<B>));
    }
    let d_input = stack_reversed::<B>(d_input);
    Backpropagated {
        d_product: match d_product.is_empty() {
            true => d_input.clone(),
            false => stack_reversed::<B>(d_product),
        },
        d_input,
        d_state: returned,
        d_taps: needs.taps.then(|| stack_reversed::<B>(d_taps)),
    }
    .gradients(cell, args, &saved.states, needs)
}

/// The recurrent weight, zeros where a cell with a recurrent product was given none; `None` for a cell without.
pub(super) fn recurrent_weight<B: Backend>(
    cell: Cell,
    args: &Arguments<B>,
) -> Option<FloatTensor<B>> {
    if cell.recurrent_gates() == 0 {
        return None;
    }
    let hidden = args.sizes(cell).hidden;
    let zeros = || zeros_like::<B>(&args.state, [hidden, cell.recurrent_gates() * hidden]);
    Some(
        args.recurrent_weight
            .as_option()
            .cloned()
            .unwrap_or_else(zeros),
    )
}

/// The recurrent bias, zeros where a cell that has one was given none; `None` for a cell without.
pub(super) fn recurrent_bias<B: Backend>(
    cell: Cell,
    args: &Arguments<B>,
) -> Option<FloatTensor<B>> {
    let zeros = || zeros_like::<B>(&args.state, [args.sizes(cell).hidden]);
    cell.has_recurrent_bias().then(|| {
        args.recurrent_bias
            .as_option()
            .cloned()
            .unwrap_or_else(zeros)
    })
}

/// What the way back through all steps leaves.
pub(super) struct Backpropagated<B: Backend> {
    /// Gradient at the input products, `[T, B, gates · H]`.
    pub d_input: FloatTensor<B>,
    /// Gradient at the recurrent products, `[T, B, recurrent gates · H]`.
    pub d_product: FloatTensor<B>,
    /// `[B, S]`
    pub d_state: FloatTensor<B>,
    /// `[T, B, S]`
    pub d_taps: Option<FloatTensor<B>>,
}

impl<B: Backend> Backpropagated<B> {
    /// All gradients that are asked for: products over all steps at once.
    pub fn gradients(
        self,
        cell: Cell,
        args: Arguments<B>,
        states: &FloatTensor<B>,
        needs: NeedsGrad,
    ) -> SequenceGradients<B> {
        let hidden = args.sizes(cell).hidden;
        let d_input = self.d_input;
        SequenceGradients {
            recurrent_weight: (needs.recurrent_weight && cell.recurrent_gates() > 0).then(|| {
                let entering = entering::<B>(&args, states);
                let entering = match cell.state_parts() {
                    1 => entering,
                    _ => features::<B>(&entering, 0, hidden),
                };
                weight_grad::<B>(entering, self.d_product.clone())
            }),
            recurrent_bias: (needs.bias && cell.has_recurrent_bias()).then(|| {
                let gates = cell.recurrent_gates();
                let last = features::<B>(&self.d_product, (gates - 1) * hidden, gates * hidden);
                bias_grad::<B>(last)
            }),
            input_weight: needs
                .input_weight
                .then(|| weight_grad::<B>(args.input, d_input.clone())),
            bias: needs.bias.then(|| bias_grad::<B>(d_input.clone())),
            input: needs
                .input
                .then(|| input_grad::<B>(d_input, args.input_weight)),
            state: self.d_state,
            taps: self.d_taps,
        }
    }
}
