//! GRU reference bodies: gates r, z, n; the reset gate is applied after the recurrent product.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use super::util::*;
use crate::ops::kernels::{Grads, GruInput, Needs, Trace};

/// The reference forward pass.
pub fn forward<B: Backend>(args: GruInput<B>) -> Trace<B> {
    let time = args.input.shape()[0];
    let hidden = args.recurrent_weight.shape()[0];
    let pre = input_product::<B>(args.input, args.input_weight, args.bias);
    let recurrent_bias = B::float_reshape(args.recurrent_bias, [1, hidden].into());

    let mut h = args.state;
    let mut states = Vec::with_capacity(time);
    let mut gates = Vec::with_capacity(time);
    for t in 0..time {
        if let Some(keep) = &args.keep {
            h = B::float_mul(h, step::<B>(keep, t));
        }
        let x = step::<B>(&pre, t);
        let u = B::float_matmul(h.clone(), args.recurrent_weight.clone());
        let rz = sigmoid::<B>(B::float_add(
            columns::<B>(&x, 0, 2 * hidden),
            columns::<B>(&u, 0, 2 * hidden),
        ));
        let (r, z) = (
            columns::<B>(&rz, 0, hidden),
            columns::<B>(&rz, hidden, 2 * hidden),
        );
        let u_n = B::float_add(
            columns::<B>(&u, 2 * hidden, 3 * hidden),
            recurrent_bias.clone(),
        );
        let n = B::float_tanh(B::float_add(
            columns::<B>(&x, 2 * hidden, 3 * hidden),
            B::float_mul(r, u_n.clone()),
        ));
        // (1 − z) n + z h = n + z (h − n)
        let next = B::float_add(n.clone(), B::float_mul(z, B::float_sub(h, n.clone())));
        gates.push(as_step::<B>(B::float_cat(vec![rz, n, u_n], 1)));
        states.push(as_step::<B>(next.clone()));
        h = match &args.taps {
            Some(taps) if t + 1 < time => B::float_add(next, step::<B>(taps, t)),
            _ => next,
        };
    }
    Trace {
        states: B::float_cat(states, 0),
        gates: B::float_cat(gates, 0),
    }
}

/// The reference backward pass.
pub fn backward<B: Backend>(
    args: GruInput<B>,
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
    let mut d_input = Vec::with_capacity(time);
    let mut d_recurrent = Vec::with_capacity(time);
    let mut d_taps = Vec::with_capacity(if needs.taps { time } else { 0 });
    for t in (0..time).rev() {
        if needs.taps {
            d_taps.push(as_step::<B>(rec.clone()));
        }
        let dh = B::float_add(step::<B>(&grad, t), rec);
        let gates = step::<B>(&trace.gates, t);
        let gate = |k: usize| columns::<B>(&gates, k * hidden, (k + 1) * hidden);
        let (r, z, n, u_n) = (gate(0), gate(1), gate(2), gate(3));
        let h_in = step::<B>(&entering, t);

        let d_z = sigmoid_grad::<B>(
            z.clone(),
            B::float_mul(dh.clone(), B::float_sub(h_in, n.clone())),
        );
        let d_n = tanh_grad::<B>(n, B::float_mul(dh.clone(), one_minus::<B>(z.clone())));
        let d_r = sigmoid_grad::<B>(r.clone(), B::float_mul(d_n.clone(), u_n));
        let d_u = B::float_cat(
            vec![d_r.clone(), d_z.clone(), B::float_mul(d_n.clone(), r)],
            1,
        );

        rec = B::float_add(
            B::float_mul(dh, z),
            B::float_matmul(d_u.clone(), recurrent_t.clone()),
        );
        if let Some(keep) = &args.keep {
            rec = B::float_mul(rec, step::<B>(keep, t));
        }
        d_input.push(as_step::<B>(B::float_cat(vec![d_r, d_z, d_n], 1)));
        d_recurrent.push(as_step::<B>(d_u));
    }
    let d_input = stack_reversed::<B>(d_input);
    let d_recurrent = stack_reversed::<B>(d_recurrent);
    Grads {
        recurrent_weight: needs
            .recurrent_weight
            .then(|| weight_grad::<B>(entering, d_recurrent.clone())),
        input_weight: needs
            .input_weight
            .then(|| weight_grad::<B>(args.input, d_input.clone())),
        bias: needs.bias.then(|| bias_grad::<B>(d_input.clone())),
        recurrent_bias: needs
            .bias
            .then(|| bias_grad::<B>(features::<B>(&d_recurrent, 2 * hidden, 3 * hidden))),
        input: needs
            .input
            .then(|| input_grad::<B>(d_input, args.input_weight)),
        state: rec,
        taps: needs.taps.then(|| stack_reversed::<B>(d_taps)),
    }
}
