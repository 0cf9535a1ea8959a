//! LSTM reference bodies: gates i, f, g, o; packed state h, c.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use super::util::*;
use crate::ops::kernels::{Grads, LstmInput, Needs, Trace};

/// The reference forward pass.
pub fn forward<B: Backend>(args: LstmInput<B>) -> Trace<B> {
    let time = args.input.shape()[0];
    let hidden = args.recurrent_weight.shape()[0];
    let pre = input_product::<B>(args.input, args.input_weight, args.bias);

    let mut entering = args.state;
    let mut states = Vec::with_capacity(time);
    let mut gates = Vec::with_capacity(time);
    for t in 0..time {
        if let Some(keep) = &args.keep {
            entering = B::float_mul(entering, step::<B>(keep, t));
        }
        let (h, c) = (
            columns::<B>(&entering, 0, hidden),
            columns::<B>(&entering, hidden, 2 * hidden),
        );
        let a = B::float_add(
            step::<B>(&pre, t),
            B::float_matmul(h, args.recurrent_weight.clone()),
        );
        let i = sigmoid::<B>(columns::<B>(&a, 0, hidden));
        let f = sigmoid::<B>(columns::<B>(&a, hidden, 2 * hidden));
        let g = B::float_tanh(columns::<B>(&a, 2 * hidden, 3 * hidden));
        let o = sigmoid::<B>(columns::<B>(&a, 3 * hidden, 4 * hidden));
        let c = B::float_add(
            B::float_mul(f.clone(), c),
            B::float_mul(i.clone(), g.clone()),
        );
        let h = B::float_mul(o.clone(), B::float_tanh(c.clone()));
        let state = B::float_cat(vec![h, c], 1);
        gates.push(as_step::<B>(B::float_cat(vec![i, f, g, o], 1)));
        states.push(as_step::<B>(state.clone()));
        entering = match &args.taps {
            Some(taps) if t + 1 < time => B::float_add(state, step::<B>(taps, t)),
            _ => state,
        };
    }
    Trace {
        states: B::float_cat(states, 0),
        gates: B::float_cat(gates, 0),
    }
}

/// The reference backward pass.
pub fn backward<B: Backend>(
    args: LstmInput<B>,
    trace: Trace<B>,
    grad: FloatTensor<B>,
    needs: Needs,
) -> Grads<B> {
    let time = args.input.shape()[0];
    let hidden = args.recurrent_weight.shape()[0];
    let entering = entering::<B>(
        &args.state,
        &trace.states,
        args.taps.as_ref(),
        args.keep.as_ref(),
    );
    let recurrent_t = transposed_copy::<B>(args.recurrent_weight);

    let mut rec = zeros_like::<B>(&args.state);
    let mut d_gates = Vec::with_capacity(time);
    let mut d_taps = Vec::with_capacity(if needs.taps { time } else { 0 });
    for t in (0..time).rev() {
        if needs.taps {
            d_taps.push(as_step::<B>(rec.clone()));
        }
        let d_state = B::float_add(step::<B>(&grad, t), rec);
        let (dh, dc) = (
            columns::<B>(&d_state, 0, hidden),
            columns::<B>(&d_state, hidden, 2 * hidden),
        );
        let gates = step::<B>(&trace.gates, t);
        let gate = |k: usize| columns::<B>(&gates, k * hidden, (k + 1) * hidden);
        let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
        let c = columns::<B>(&step::<B>(&trace.states, t), hidden, 2 * hidden);
        let c_in = columns::<B>(&step::<B>(&entering, t), hidden, 2 * hidden);

        let tanh_c = B::float_tanh(c);
        let d_o = sigmoid_grad::<B>(o.clone(), B::float_mul(dh.clone(), tanh_c.clone()));
        let dc = B::float_add(dc, tanh_grad::<B>(tanh_c, B::float_mul(dh, o)));
        let d_i = sigmoid_grad::<B>(i.clone(), B::float_mul(dc.clone(), g.clone()));
        let d_f = sigmoid_grad::<B>(f.clone(), B::float_mul(dc.clone(), c_in));
        let d_g = tanh_grad::<B>(g, B::float_mul(dc.clone(), i));
        let d_a = B::float_cat(vec![d_i, d_f, d_g, d_o], 1);

        let rec_h = B::float_matmul(d_a.clone(), recurrent_t.clone());
        rec = B::float_cat(vec![rec_h, B::float_mul(dc, f)], 1);
        if let Some(keep) = &args.keep {
            rec = B::float_mul(rec, step::<B>(keep, t));
        }
        d_gates.push(as_step::<B>(d_a));
    }
    let d_gates = stack_reversed::<B>(d_gates);
    Grads {
        recurrent_weight: needs
            .recurrent_weight
            .then(|| weight_grad::<B>(features::<B>(&entering, 0, hidden), d_gates.clone())),
        input_weight: needs
            .input_weight
            .then(|| weight_grad::<B>(args.input, d_gates.clone())),
        bias: needs.bias.then(|| bias_grad::<B>(d_gates.clone())),
        recurrent_bias: None,
        input: needs
            .input
            .then(|| input_grad::<B>(d_gates, args.input_weight)),
        state: rec,
        taps: needs.taps.then(|| stack_reversed::<B>(d_taps)),
    }
}
