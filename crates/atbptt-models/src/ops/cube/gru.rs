//! GRU: one kernel per step and direction, around Burn's matrix products.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Present;
use super::launch::{Place, product};
use super::window::{Carries, Sizes, entering_state, flat, leaving_grad, sigma, step, transposed};

/// Step `t` once its product is known: gates, hidden, and the state that enters the next step.
#[cube(launch_unchecked)]
fn gru_step<F: Float>(
    pre: &[F],            // [T, B, 3H]: x W
    product: &[F],        // [B, 3H]: h R
    bias: &[F],           // [3H]
    recurrent_bias: &[F], // [H]
    gates: &mut [F],      // [T, B, 4H]: r, z, n, and the new gate's product before the reset
    states: &mut [F],     // [T, B, H]
    h_in: &mut [F],       // [B, H]: read by the product before, written for the next one
    taps: &[F],           // [T, B, H]
    keep: &[F],           // [T, B, 1]
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
    let row = b * 3 * hidden + j;
    let at = t * batch * 3 * hidden + row;
    let two = 2 * hidden;
    let a_r = f32::cast_from(pre[at]) + f32::cast_from(product[row]) + f32::cast_from(bias[j]);
    let a_z = f32::cast_from(pre[at + hidden])
        + f32::cast_from(product[row + hidden])
        + f32::cast_from(bias[j + hidden]);
    let r = sigma(a_r);
    let z = sigma(a_z);
    let u = f32::cast_from(product[row + two]) + f32::cast_from(recurrent_bias[j]);
    let a_n = f32::cast_from(pre[at + two]) + f32::cast_from(bias[j + two]) + r * u;
    let n = a_n.tanh();
    let h = n + z * (f32::cast_from(h_in[ABSOLUTE_POS]) - n);
    let gate = (t * batch + b) * 4 * hidden + j;
    gates[gate] = F::cast_from(r);
    gates[gate + hidden] = F::cast_from(z);
    gates[gate + two] = F::cast_from(n);
    gates[gate + 3 * hidden] = F::cast_from(u);
    let out = t * batch * hidden + ABSOLUTE_POS;
    states[out] = F::cast_from(h);
    if t + 1 < time {
        let mut next = h;
        if comptime!(tapped) {
            next += f32::cast_from(taps[out]);
        }
        if comptime!(kept) {
            next *= f32::cast_from(keep[(t + 1) * batch + b]);
        }
        h_in[ABSOLUTE_POS] = F::cast_from(next);
    }
}

/// [`CubeOps::gru_steps`](super::CubeOps::gru_steps).
#[allow(clippy::too_many_arguments)]
pub(super) fn forward(
    pre: CubeTensor,
    bias: CubeTensor,
    recurrent_weight: CubeTensor,
    recurrent_bias: CubeTensor,
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
    let [pre, bias, recurrent_bias] = flat([pre, bias, recurrent_bias]);
    let [state, taps, keep] = flat([state, taps, keep]);
    let gates = place.empty(&[time, batch, 4 * hidden]);
    let states = place.empty(&[time, batch, hidden]);
    let (h_in, _) = entering_state(&place, sizes, &state, &keep, present, false);
    let out = place.empty(&[batch, 3 * hidden]);
    for t in 0..time {
        let product = product(h_in.clone(), recurrent_weight.clone(), &out);
        let (count, dim) = place.elementwise(sizes.units());
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            gru_step::launch_unchecked(
                &place.client,
                count,
                dim,
                pre.clone().into_buffer_arg(),
                product.into_buffer_arg(),
                bias.clone().into_buffer_arg(),
                recurrent_bias.clone().into_buffer_arg(),
                gates.clone().into_buffer_arg(),
                states.clone().into_buffer_arg(),
                h_in.clone().into_buffer_arg(),
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

/// Step `t` on the way back.
#[cube(launch_unchecked)]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
fn gru_step_back<F: Float>(
    grad: &[F],            // [T, B, H]
    product: &[F],         // [B, H]: of step t + 1; not read at the last step
    carried: &mut [f32],   // [B, H]: gradient past the products, of step t + 1 in, of step t out
    gates: &[F],           // [T, B, 4H]
    states: &[F],          // [T, B, H]
    state: &[F],           // [B, H]
    taps: &[F],            // [T, B, H]
    keep: &[F],            // [T, B, 1]
    d_input: &mut [F],     // [T, B, 3H]
    d_recurrent: &mut [F], // [T, B, 3H]
    d_taps: &mut [F],      // [T, B, H]
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
    let out = t * batch * hidden + ABSOLUTE_POS;
    let gate = (t * batch + b) * 4 * hidden + j;
    let at = (t * batch + b) * 3 * hidden + j;
    let two = 2 * hidden;

    let mut rec = 0.0f32;
    if t + 1 < time {
        rec = f32::cast_from(product[ABSOLUTE_POS]) + carried[ABSOLUTE_POS];
        if comptime!(kept) {
            rec *= f32::cast_from(keep[(t + 1) * batch + b]);
        }
    }
    if comptime!(tap_grads) {
        d_taps[out] = F::cast_from(rec);
    }
    // The state entering the step: of the step before, or the initial one.
    let size = batch * hidden;
    let mut h_in = if t > 0 {
        f32::cast_from(states[out - size])
    } else {
        f32::cast_from(state[out])
    };
    if comptime!(tapped) {
        if t > 0 {
            h_in += f32::cast_from(taps[out - size]);
        }
    }
    if comptime!(kept) {
        h_in *= f32::cast_from(keep[t * batch + b]);
    }
    let r = f32::cast_from(gates[gate]);
    let z = f32::cast_from(gates[gate + hidden]);
    let n = f32::cast_from(gates[gate + two]);
    let u = f32::cast_from(gates[gate + 3 * hidden]);
    let d_h = f32::cast_from(grad[out]) + rec;
    let d_z = d_h * (h_in - n) * z * (1.0f32 - z);
    let d_n = d_h * (1.0f32 - z) * (1.0f32 - n * n);
    let d_r = d_n * u * r * (1.0f32 - r);
    d_input[at] = F::cast_from(d_r);
    d_input[at + hidden] = F::cast_from(d_z);
    d_input[at + two] = F::cast_from(d_n);
    d_recurrent[at] = F::cast_from(d_r);
    d_recurrent[at + hidden] = F::cast_from(d_z);
    d_recurrent[at + two] = F::cast_from(d_n * r);
    carried[ABSOLUTE_POS] = d_h * z;
}

/// [`CubeOps::gru_steps_back`](super::CubeOps::gru_steps_back).
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
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let place = Place::of(&grad);
    let sizes = Sizes::of(&grad, &recurrent_weight);
    let Sizes {
        time,
        batch,
        hidden,
    } = sizes;
    let [grad, states, gates] = flat([grad, states, gates]);
    let [state, taps, keep] = flat([state, taps, keep]);
    let transposed = transposed(into_contiguous(recurrent_weight));
    let d_input = place.empty(&[time, batch, 3 * hidden]);
    let d_recurrent = place.empty(&[time, batch, 3 * hidden]);
    let d_taps = match tap_grads {
        true => place.empty(&[time, batch, hidden]),
        false => place.empty(&[1]),
    };
    let carried = place.empty_as(&[batch, hidden], DType::F32);
    let out = place.empty(&[batch, hidden]);
    let mut back = out.clone();
    for t in (0..time).rev() {
        let (count, dim) = place.elementwise(sizes.units());
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            gru_step_back::launch_unchecked(
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
                d_input.clone().into_buffer_arg(),
                d_recurrent.clone().into_buffer_arg(),
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
        back = product(step(&d_recurrent, t), transposed.clone(), &out);
    }
    let d_state = leaving_grad(&place, sizes, back, carried, keep, present, Carries::Hidden);
    (d_input, d_recurrent, d_state, d_taps)
}
