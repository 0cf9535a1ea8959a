//! LSTM: one kernel per step and direction, around Burn's matrix products.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Present;
use super::launch::{Place, product, writable};
use super::window::{Carries, Sizes, entering_state, flat, leaving_grad, sigma, step, transposed};

/// Step `t` once its product is known: gates, cell, hidden, and the state that enters the next step.
#[cube(launch_unchecked)]
fn lstm_step<F: Float>(
    gates: &mut [F],  // [T, B, 4H]: x W in, activated gates out
    product: &[F],    // [B, 4H]: h R
    bias: &[F],       // [4H]
    states: &mut [F], // [T, B, 2H]
    h_in: &mut [F],   // [B, H]: read by the product before, written for the next one
    c_in: &mut [f32], // [B, H]
    taps: &[F],       // [T, B, 2H]
    keep: &[F],       // [T, B, 1]
    t: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= batch * hidden {
        terminate!();
    }
    let b = ABSOLUTE_POS / hidden;
    let j = ABSOLUTE_POS % hidden;
    let row = b * 4 * hidden + j;
    let at = t * batch * 4 * hidden + row;
    let (two, three) = (2 * hidden, 3 * hidden);
    let a_i = f32::cast_from(gates[at]) + f32::cast_from(product[row]) + f32::cast_from(bias[j]);
    let a_f = f32::cast_from(gates[at + hidden])
        + f32::cast_from(product[row + hidden])
        + f32::cast_from(bias[j + hidden]);
    let a_g = f32::cast_from(gates[at + two])
        + f32::cast_from(product[row + two])
        + f32::cast_from(bias[j + two]);
    let a_o = f32::cast_from(gates[at + three])
        + f32::cast_from(product[row + three])
        + f32::cast_from(bias[j + three]);
    let i = sigma(a_i);
    let f = sigma(a_f);
    let g = a_g.tanh();
    let o = sigma(a_o);
    let c = f * c_in[ABSOLUTE_POS] + i * g;
    let h = o * c.tanh();
    gates[at] = F::cast_from(i);
    gates[at + hidden] = F::cast_from(f);
    gates[at + two] = F::cast_from(g);
    gates[at + three] = F::cast_from(o);
    let out = (t * batch + b) * 2 * hidden + j;
    states[out] = F::cast_from(h);
    states[out + hidden] = F::cast_from(c);
    if t + 1 < time {
        let mut next_h = h;
        let mut next_c = c;
        if comptime!(tapped) {
            next_h += f32::cast_from(taps[out]);
            next_c += f32::cast_from(taps[out + hidden]);
        }
        if comptime!(kept) {
            let mask = f32::cast_from(keep[(t + 1) * batch + b]);
            next_h *= mask;
            next_c *= mask;
        }
        h_in[ABSOLUTE_POS] = F::cast_from(next_h);
        c_in[ABSOLUTE_POS] = next_c;
    }
}

/// [`CubeOps::lstm_steps`](super::CubeOps::lstm_steps).
pub(super) fn forward(
    pre: CubeTensor,
    bias: CubeTensor,
    recurrent_weight: CubeTensor,
    state: CubeTensor,
    taps: CubeTensor,
    keep: CubeTensor,
    present: Present,
) -> (CubeTensor, CubeTensor) {
    let place = Place::of(&pre);
    let sizes = Sizes::of(&pre, &recurrent_weight);
    let Sizes {
        time,
        batch,
        hidden,
    } = sizes;
    let gates = writable(pre);
    let [state, taps, keep] = flat([state, taps, keep]);
    let bias = into_contiguous(bias);
    let states = place.empty(&[time, batch, 2 * hidden]);
    let (h_in, c_in) = entering_state(&place, sizes, &state, &keep, present, true);
    let out = place.empty(&[batch, 4 * hidden]);
    for t in 0..time {
        let product = product(h_in.clone(), recurrent_weight.clone(), &out);
        let (count, dim) = place.elementwise(sizes.units());
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            lstm_step::launch_unchecked(
                &place.client,
                count,
                dim,
                gates.clone().into_buffer_arg(),
                product.into_buffer_arg(),
                bias.clone().into_buffer_arg(),
                states.clone().into_buffer_arg(),
                h_in.clone().into_buffer_arg(),
                c_in.clone().into_buffer_arg(),
                taps.clone().into_buffer_arg(),
                keep.clone().into_buffer_arg(),
                t,
                time,
                batch,
                hidden,
                present.taps,
                present.keep,
                place.elem(),
            );
        }
    }
    (states, gates)
}

/// Step `t` on the way back: what step t + 1 hands to it, and from there the gradient at its pre-activations.
#[cube(launch_unchecked)]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
fn lstm_step_back<F: Float>(
    grad: &[F],          // [T, B, 2H]
    product: &[F],       // [B, H]: of step t + 1; not read at the last step
    carried: &mut [f32], // [B, H]: cell gradient, of step t + 1 in, of step t out
    gates: &[F],         // [T, B, 4H]
    states: &[F],        // [T, B, 2H]
    state: &[F],         // [B, 2H]
    taps: &[F],          // [T, B, 2H]
    keep: &[F],          // [T, B, 1]
    d_gates: &mut [F],   // [T, B, 4H]
    d_taps: &mut [F],    // [T, B, 2H]
    t: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
    #[comptime] tap_grads: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= batch * hidden {
        terminate!();
    }
    let b = ABSOLUTE_POS / hidden;
    let j = ABSOLUTE_POS % hidden;
    let at = (t * batch + b) * 4 * hidden + j;
    let out = (t * batch + b) * 2 * hidden + j;
    let (two, three) = (2 * hidden, 3 * hidden);

    let mut r_h = 0.0f32;
    let mut r_c = 0.0f32;
    if t + 1 < time {
        r_h = f32::cast_from(product[ABSOLUTE_POS]);
        r_c = carried[ABSOLUTE_POS];
        if comptime!(kept) {
            let mask = f32::cast_from(keep[(t + 1) * batch + b]);
            r_h *= mask;
            r_c *= mask;
        }
    }
    if comptime!(tap_grads) {
        d_taps[out] = F::cast_from(r_h);
        d_taps[out + hidden] = F::cast_from(r_c);
    }
    // The cell entering the step: of the step before, or of the initial state.
    let size = batch * 2 * hidden;
    let mut c_in = if t > 0 {
        f32::cast_from(states[out + hidden - size])
    } else {
        f32::cast_from(state[out + hidden])
    };
    if comptime!(tapped) {
        if t > 0 {
            c_in += f32::cast_from(taps[out + hidden - size]);
        }
    }
    if comptime!(kept) {
        c_in *= f32::cast_from(keep[t * batch + b]);
    }
    let i = f32::cast_from(gates[at]);
    let f = f32::cast_from(gates[at + hidden]);
    let g = f32::cast_from(gates[at + two]);
    let o = f32::cast_from(gates[at + three]);
    let tanh_c = f32::cast_from(states[out + hidden]).tanh();
    let d_h = f32::cast_from(grad[out]) + r_h;
    let d_c = f32::cast_from(grad[out + hidden]) + r_c + d_h * o * (1.0f32 - tanh_c * tanh_c);
    d_gates[at] = F::cast_from(d_c * g * i * (1.0f32 - i));
    d_gates[at + hidden] = F::cast_from(d_c * c_in * f * (1.0f32 - f));
    d_gates[at + two] = F::cast_from(d_c * i * (1.0f32 - g * g));
    d_gates[at + three] = F::cast_from(d_h * tanh_c * o * (1.0f32 - o));
    carried[ABSOLUTE_POS] = d_c * f;
}

/// [`CubeOps::lstm_steps_back`](super::CubeOps::lstm_steps_back).
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    grad: CubeTensor,
    states: CubeTensor,
    gates: CubeTensor,
    recurrent_weight: CubeTensor,
    state: CubeTensor,
    taps: CubeTensor,
    keep: CubeTensor,
    present: Present,
    tap_grads: bool,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let place = Place::of(&grad);
    let sizes = Sizes::of(&grad, &recurrent_weight);
    let Sizes {
        time,
        batch,
        hidden,
    } = sizes;
    let [grad, states, gates] = flat([grad, states, gates]);
    let [state, taps, keep] = flat([state, taps, keep]);
    let transposed = transposed(recurrent_weight);
    let d_gates = place.empty(&[time, batch, 4 * hidden]);
    let d_taps = match tap_grads {
        true => place.empty(&[time, batch, 2 * hidden]),
        false => place.empty(&[1]),
    };
    let carried = place.empty_as(&[batch, hidden], DType::F32);
    let out = place.empty(&[batch, hidden]);
    let mut back = out.clone();
    for t in (0..time).rev() {
        let (count, dim) = place.elementwise(sizes.units());
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            lstm_step_back::launch_unchecked(
                &place.client,
                count,
                dim,
                grad.clone().into_buffer_arg(),
                back.into_buffer_arg(),
                carried.clone().into_buffer_arg(),
                gates.clone().into_buffer_arg(),
                states.clone().into_buffer_arg(),
                state.clone().into_buffer_arg(),
                taps.clone().into_buffer_arg(),
                keep.clone().into_buffer_arg(),
                d_gates.clone().into_buffer_arg(),
                d_taps.clone().into_buffer_arg(),
                t,
                time,
                batch,
                hidden,
                present.taps,
                present.keep,
                tap_grads,
                place.elem(),
            );
        }
        back = product(step(&d_gates, t), transposed.clone(), &out);
    }
    let d_state = leaving_grad(&place, sizes, back, carried, keep, present, Carries::Cell);
    (d_gates, d_state, d_taps)
}
