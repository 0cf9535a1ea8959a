//! Tanh-RNN reference bodies.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use super::util::*;
use crate::ops::kernels::{Grads, Needs, RnnInput, Trace};

/// The reference forward pass.
pub fn forward<B: Backend>(args: RnnInput<B>) -> Trace<B> {
    let time = args.input.shape()[0];
    let pre = input_product::<B>(args.input, args.input_weight, args.bias);

    let mut h = args.state;
    let mut states = Vec::with_capacity(time);
    for t in 0..time {
        if let Some(keep) = &args.keep {
            h = B::float_mul(h, step::<B>(keep, t));
        }
        let next = B::float_tanh(B::float_add(
            step::<B>(&pre, t),
            B::float_matmul(h, args.recurrent_weight.clone()),
        ));
        states.push(as_step::<B>(next.clone()));
        h = match &args.taps {
            Some(taps) if t + 1 < time => B::float_add(next, step::<B>(taps, t)),
            _ => next,
        };
    }
    let states = B::float_cat(states, 0);
    Trace {
        gates: states.clone(),
        states,
    }
}

/// The reference backward pass.
pub fn backward<B: Backend>(
    args: RnnInput<B>,
    trace: Trace<B>,
    grad: FloatTensor<B>,
    needs: Needs,
) -> Grads<B> {
    let time = args.input.shape()[0];
    let recurrent_t = transposed_copy::<B>(args.recurrent_weight);

    let mut rec = zeros_like::<B>(&args.state);
    let mut d_pre = Vec::with_capacity(time);
    let mut d_taps = Vec::with_capacity(if needs.taps { time } else { 0 });
    for t in (0..time).rev() {
        if needs.taps {
            d_taps.push(as_step::<B>(rec.clone()));
        }
        let dh = B::float_add(step::<B>(&grad, t), rec);
        let d_a = tanh_grad::<B>(step::<B>(&trace.states, t), dh);
        rec = B::float_matmul(d_a.clone(), recurrent_t.clone());
        if let Some(keep) = &args.keep {
            rec = B::float_mul(rec, step::<B>(keep, t));
        }
        d_pre.push(as_step::<B>(d_a));
    }
    let d_pre = stack_reversed::<B>(d_pre);
    Grads {
        recurrent_weight: needs.recurrent_weight.then(|| {
            let entering = entering::<B>(
                &args.state,
                &trace.states,
                args.taps.as_ref(),
                args.keep.as_ref(),
            );
            weight_grad::<B>(entering, d_pre.clone())
        }),
        input_weight: needs
            .input_weight
            .then(|| weight_grad::<B>(args.input, d_pre.clone())),
        bias: needs.bias.then(|| bias_grad::<B>(d_pre.clone())),
        recurrent_bias: None,
        input: needs
            .input
            .then(|| input_grad::<B>(d_pre, args.input_weight)),
        state: rec,
        taps: needs.taps.then(|| stack_reversed::<B>(d_taps)),
    }
}
