//! Tanh RNN: one kernel per step and direction, around Burn's matrix products, or one per window and direction.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Present;
use super::launch::{Place, product, writable};
use super::window::{
    Carries, Sizes, entering_state, flat, leaving_grad, mask, step, transposed, zero,
};

/// Unit `j` of sequence `b` at step `t`, from its pre-activation: the state is written, and what enters the next step is handed
/// back.
#[cube]
fn unit<F: Float>(
    a: f32,
    states: &mut [F], // [T, B, H]
    taps: &[F],       // [T, B, H]
    keep: &[F],       // [T, B, 1]
    t: usize,
    b: usize,
    j: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
) -> f32 {
    let out = (t * batch + b) * hidden + j;
    let h = a.tanh();
    states[out] = F::cast_from(h);
    let mut next = h;
    if t + 1 < time {
        if comptime!(tapped) {
            next += f32::cast_from(taps[out]);
        }
        if comptime!(kept) {
            next *= f32::cast_from(keep[(t + 1) * batch + b]);
        }
    }
    // As the next product reads it.
    f32::cast_from(F::cast_from(next))
}

/// Step `t` once its product is known.
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
    let a = f32::cast_from(states[(t * batch + b) * hidden + j])
        + f32::cast_from(product[ABSOLUTE_POS])
        + f32::cast_from(bias[j]);
    let next = unit(
        a, states, taps, keep, t, b, j, time, batch, hidden, tapped, kept,
    );
    h_in[ABSOLUTE_POS] = F::cast_from(next);
}

/// All steps of one sequence by one cube. Its state stays in the cube's memory; the recurrent weight is read anew at each step.
#[cube(launch_unchecked)]
fn rnn_window<F: Float>(
    states: &mut [F], // [T, B, H]: x W in, hidden out
    weight: &[F],     // [H, H]
    bias: &[F],       // [H]
    state: &[F],      // [B, H]
    taps: &[F],       // [T, B, H]
    keep: &[F],       // [T, B, 1]
    time: usize,
    batch: usize,
    #[comptime] hidden: usize,
    #[comptime] units: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
    #[define(F)] _dtype: ElemType,
) {
    let b = CUBE_POS;
    if b >= batch {
        terminate!();
    }
    // Two steps in turn, so that a step's state is written while the one before is still being read.
    let mut h = Shared::<[f32]>::new_slice(comptime!(2 * hidden));
    let mask = mask(keep, 0, b, batch, kept);
    let mut j = UNIT_POS as usize;
    while j < hidden {
        h[j] = f32::cast_from(F::cast_from(f32::cast_from(state[b * hidden + j]) * mask));
        j += units;
    }
    sync_cube();
    for t in 0..time {
        let here = (t % 2) * hidden;
        let mut j = UNIT_POS as usize;
        while j < hidden {
            let mut a =
                f32::cast_from(states[(t * batch + b) * hidden + j]) + f32::cast_from(bias[j]);
            for k in 0..hidden {
                a += h[here + k] * f32::cast_from(weight[k * hidden + j]);
            }
            h[hidden - here + j] = unit(
                a, states, taps, keep, t, b, j, time, batch, hidden, tapped, kept,
            );
            j += units;
        }
        sync_cube();
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
    if let Some(grid) = sizes.one_launch(&place, 1) {
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            rnn_window::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                states.clone().into_buffer_arg(),
                into_contiguous(recurrent_weight).into_buffer_arg(),
                bias.into_buffer_arg(),
                state.into_buffer_arg(),
                taps.into_buffer_arg(),
                keep.into_buffer_arg(),
                time,
                batch,
                hidden,
                grid.units,
                present.taps,
                present.keep,
                place.elem(),
            );
        }
        return states;
    }
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

/// Unit `j` of sequence `b` at step `t` on the way back, from what step t + 1 hands to it: `rec`, before that step's reset mask
/// (zero at the last step). Gradients of taps and pre-activations are written; the latter is handed back.
#[cube]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
fn unit_back<F: Float>(
    rec: f32,
    grad: &[F],       // [T, B, H]
    states: &[F],     // [T, B, H]
    keep: &[F],       // [T, B, 1]
    d_pre: &mut [F],  // [T, B, H]
    d_taps: &mut [F], // [T, B, H]
    t: usize,
    b: usize,
    j: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] kept: bool,
    #[comptime] tap_grads: bool,
) -> f32 {
    let out = (t * batch + b) * hidden + j;
    let mut rec = rec;
    if comptime!(kept) {
        if t + 1 < time {
            rec *= f32::cast_from(keep[(t + 1) * batch + b]);
        }
    }
    if comptime!(tap_grads) {
        d_taps[out] = F::cast_from(rec);
    }
    let h = f32::cast_from(states[out]);
    let d = F::cast_from((f32::cast_from(grad[out]) + rec) * (1.0f32 - h * h));
    d_pre[out] = d;
    // As the product reads it.
    f32::cast_from(d)
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
    let j = ABSOLUTE_POS % hidden;
    let mut rec = 0.0f32;
    if t + 1 < time {
        rec = f32::cast_from(product[ABSOLUTE_POS]);
    }
    unit_back(
        rec, grad, states, keep, d_pre, d_taps, t, b, j, time, batch, hidden, kept, tap_grads,
    );
}

/// All steps of one sequence on the way back by one cube.
#[cube(launch_unchecked)]
fn rnn_window_back<F: Float>(
    grad: &[F],        // [T, B, H]
    weight: &[F],      // [H, H]: Rᵀ
    states: &[F],      // [T, B, H]
    keep: &[F],        // [T, B, 1]
    d_pre: &mut [F],   // [T, B, H]
    d_taps: &mut [F],  // [T, B, H]
    d_state: &mut [F], // [B, H]
    time: usize,
    batch: usize,
    #[comptime] hidden: usize,
    #[comptime] units: usize,
    #[comptime] kept: bool,
    #[comptime] tap_grads: bool,
    #[define(F)] _dtype: ElemType,
) {
    let b = CUBE_POS;
    if b >= batch {
        terminate!();
    }
    // Gradients at the pre-activations, of two steps in turn; zero after the last step.
    let mut d = Shared::<[f32]>::new_slice(comptime!(2 * hidden));
    zero(&mut d, comptime!(2 * hidden), units);
    sync_cube();
    for s in 0..time {
        let t = time - 1 - s;
        let here = (t % 2) * hidden;
        let mut j = UNIT_POS as usize;
        while j < hidden {
            let mut rec = 0.0f32;
            for k in 0..hidden {
                rec += d[hidden - here + k] * f32::cast_from(weight[k * hidden + j]);
            }
            d[here + j] = unit_back(
                rec, grad, states, keep, d_pre, d_taps, t, b, j, time, batch, hidden, kept,
                tap_grads,
            );
            j += units;
        }
        sync_cube();
    }
    let mask = mask(keep, 0, b, batch, kept);
    let mut j = UNIT_POS as usize;
    while j < hidden {
        let mut d_h = 0.0f32;
        for k in 0..hidden {
            d_h += d[k] * f32::cast_from(weight[k * hidden + j]);
        }
        d_state[b * hidden + j] = F::cast_from(d_h * mask);
        j += units;
    }
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
    if let Some(grid) = sizes.one_launch(&place, 1) {
        let d_state = place.empty(&[batch, hidden]);
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            rnn_window_back::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                grad.into_buffer_arg(),
                into_contiguous(transposed).into_buffer_arg(),
                states.into_buffer_arg(),
                keep.into_buffer_arg(),
                d_pre.clone().into_buffer_arg(),
                d_taps.clone().into_buffer_arg(),
                d_state.clone().into_buffer_arg(),
                time,
                batch,
                hidden,
                grid.units,
                present.keep,
                tap_grads,
                place.elem(),
            );
        }
        return (d_pre, d_state, d_taps);
    }
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
