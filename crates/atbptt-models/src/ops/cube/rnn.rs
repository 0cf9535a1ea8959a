//! Tanh RNN: one kernel per step and direction, around Burn's matrix products.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Present;
use super::launch::{Place, product, writable};
use super::window::{Carries, Sizes, entering_state, flat, leaving_grad, step, transposed};

/// Step `t` once its product is known: hidden, and the state that enters the next step.
#[cube(launch_unchecked)]
fn rnn_step<F: Float>(
    states: &mut [F], // [T, B, H]: x W in, hidden out
    product: &[F],    // [B, H]: h R
    bias: &[F],       // [H]
    h_in: &mut [F],   // [B, H]: read by the product before, written for the next one
    taps: &[F],       // [T, B, H]
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
    let out = t * batch * hidden + ABSOLUTE_POS;
    let a = f32::cast_from(states[out])
        + f32::cast_from(product[ABSOLUTE_POS])
        + f32::cast_from(bias[j]);
    let h = a.tanh();
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

/// [`CubeOps::rnn_steps`](super::CubeOps::rnn_steps).
pub(super) fn forward(
    pre: CubeTensor,
    bias: CubeTensor,
    recurrent_weight: CubeTensor,
    state: CubeTensor,
    taps: CubeTensor,
    keep: CubeTensor,
    present: Present,
) -> CubeTensor {
    let place = Place::of(&pre);
    let sizes = Sizes::of(&pre, &recurrent_weight);
    let Sizes {
        time,
        batch,
        hidden,
    } = sizes;
    let states = writable(pre);
    let [state, taps, keep] = flat([state, taps, keep]);
    let bias = into_contiguous(bias);
    let (h_in, _) = entering_state(&place, sizes, &state, &keep, present, false);
    let out = place.empty(&[batch, hidden]);
    for t in 0..time {
        let product = product(h_in.clone(), recurrent_weight.clone(), &out);
        let (count, dim) = place.elementwise(sizes.units());
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            rnn_step::launch_unchecked(
                &place.client,
                count,
                dim,
                states.clone().into_buffer_arg(),
                product.into_buffer_arg(),
                bias.clone().into_buffer_arg(),
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
    states
}

/// Step `t` on the way back.
#[cube(launch_unchecked)]
fn rnn_step_back<F: Float>(
    grad: &[F],       // [T, B, H]
    product: &[F],    // [B, H]: of step t + 1; not read at the last step
    states: &[F],     // [T, B, H]
    keep: &[F],       // [T, B, 1]
    d_pre: &mut [F],  // [T, B, H]
    d_taps: &mut [F], // [T, B, H]
    t: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] kept: bool,
    #[comptime] tap_grads: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= batch * hidden {
        terminate!();
    }
    let b = ABSOLUTE_POS / hidden;
    let out = t * batch * hidden + ABSOLUTE_POS;
    let mut rec = 0.0f32;
    if t + 1 < time {
        rec = f32::cast_from(product[ABSOLUTE_POS]);
        if comptime!(kept) {
            rec *= f32::cast_from(keep[(t + 1) * batch + b]);
        }
    }
    if comptime!(tap_grads) {
        d_taps[out] = F::cast_from(rec);
    }
    let h = f32::cast_from(states[out]);
    d_pre[out] = F::cast_from((f32::cast_from(grad[out]) + rec) * (1.0f32 - h * h));
}

/// [`CubeOps::rnn_steps_back`](super::CubeOps::rnn_steps_back).
pub(super) fn backward(
    grad: CubeTensor,
    states: CubeTensor,
    recurrent_weight: CubeTensor,
    state: CubeTensor,
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
    debug_assert_eq!(state.meta.shape()[1], hidden);
    let [grad, states, keep] = flat([grad, states, keep]);
    let transposed = transposed(recurrent_weight);
    let d_pre = place.empty(&[time, batch, hidden]);
    let d_taps = match tap_grads {
        true => place.empty(&[time, batch, hidden]),
        false => place.empty(&[1]),
    };
    let out = place.empty(&[batch, hidden]);
    let mut back = out.clone();
    for t in (0..time).rev() {
        let (count, dim) = place.elementwise(sizes.units());
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            rnn_step_back::launch_unchecked(
                &place.client,
                count,
                dim,
                grad.clone().into_buffer_arg(),
                back.into_buffer_arg(),
                states.clone().into_buffer_arg(),
                keep.clone().into_buffer_arg(),
                d_pre.clone().into_buffer_arg(),
                d_taps.clone().into_buffer_arg(),
                t,
                time,
                batch,
                hidden,
                present.keep,
                tap_grads,
                place.elem(),
            );
        }
        back = product(step(&d_pre, t), transposed.clone(), &out);
    }
    let nothing = place.empty_as(&[1], DType::F32);
    let d_state = leaving_grad(
        &place,
        sizes,
        back,
        nothing,
        keep,
        present,
        Carries::Nothing,
    );
    (d_pre, d_state, d_taps)
}
