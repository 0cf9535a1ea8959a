//! GRU: one kernel per step and direction, around Burn's matrix products, or one per window and direction.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Present;
use super::launch::{Place, product};
use super::window::{
    Carries, Sizes, entering_state, flat, leaving_grad, mask, sigma, step, transposed, zero,
};

/// One value per gate of a unit: reset, update, new.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Gates {
    r: f32,
    z: f32,
    n: f32,
}

/// Those of the unit whose first gate is at `at`.
#[cube]
fn read<F: Float>(from: &[F], at: usize, hidden: usize) -> Gates {
    Gates {
        r: f32::cast_from(from[at]),
        z: f32::cast_from(from[at + hidden]),
        n: f32::cast_from(from[at + 2 * hidden]),
    }
}

/// Unit `j` of sequence `b` at step `t`, from x W, h R, their biases and its hidden state: gates and state are written, and
/// what enters the next step is handed back.
#[cube]
fn unit<F: Float>(
    x: Gates,
    product: Gates,
    h_in: f32,
    bias: &[F],           // [3H]
    recurrent_bias: &[F], // [H]
    gates: &mut [F],      // [T, B, 4H]
    states: &mut [F],     // [T, B, H]
    taps: &[F],           // [T, B, H]
    keep: &[F],           // [T, B, 1]
    t: usize,
    b: usize,
    j: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
) -> f32 {
    let shift = read(bias, j, hidden);
    let r = sigma(x.r + product.r + shift.r);
    let z = sigma(x.z + product.z + shift.z);
    let u = product.n + f32::cast_from(recurrent_bias[j]);
    let a_n = x.n + shift.n + r * u;
    let n = a_n.tanh();
    let h = n + z * (h_in - n);
    let gate = (t * batch + b) * 4 * hidden + j;
    gates[gate] = F::cast_from(r);
    gates[gate + hidden] = F::cast_from(z);
    gates[gate + 2 * hidden] = F::cast_from(n);
    gates[gate + 3 * hidden] = F::cast_from(u);
    let out = (t * batch + b) * hidden + j;
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
    let x = read(pre, (t * batch + b) * 3 * hidden + j, hidden);
    let p = read(product, b * 3 * hidden + j, hidden);
    let h = f32::cast_from(h_in[ABSOLUTE_POS]);
    let next = unit(
        x,
        p,
        h,
        bias,
        recurrent_bias,
        gates,
        states,
        taps,
        keep,
        t,
        b,
        j,
        time,
        batch,
        hidden,
        tapped,
        kept,
    );
    h_in[ABSOLUTE_POS] = F::cast_from(next);
}

/// All steps of one sequence by one cube. Its state stays in the cube's memory; the recurrent weight is read anew at each step.
#[cube(launch_unchecked)]
fn gru_window<F: Float>(
    pre: &[F],            // [T, B, 3H]: x W
    weight: &[F],         // [H, 3H]
    bias: &[F],           // [3H]
    recurrent_bias: &[F], // [H]
    gates: &mut [F],      // [T, B, 4H]
    states: &mut [F],     // [T, B, H]
    state: &[F],          // [B, H]
    taps: &[F],           // [T, B, H]
    keep: &[F],           // [T, B, 1]
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
            let x = read(pre, (t * batch + b) * 3 * hidden + j, hidden);
            let mut r = 0.0f32;
            let mut z = 0.0f32;
            let mut n = 0.0f32;
            for k in 0..hidden {
                let w = read(weight, k * 3 * hidden + j, hidden);
                let h = h[here + k];
                r += h * w.r;
                z += h * w.z;
                n += h * w.n;
            }
            let product = Gates { r, z, n };
            let h_in = h[here + j];
            h[hidden - here + j] = unit(
                x,
                product,
                h_in,
                bias,
                recurrent_bias,
                gates,
                states,
                taps,
                keep,
                t,
                b,
                j,
                time,
                batch,
                hidden,
                tapped,
                kept,
            );
            j += units;
        }
        sync_cube();
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
    if let Some(grid) = sizes.one_launch(&place, 3) {
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            gru_window::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                pre.into_buffer_arg(),
                into_contiguous(recurrent_weight).into_buffer_arg(),
                bias.into_buffer_arg(),
                recurrent_bias.into_buffer_arg(),
                gates.clone().into_buffer_arg(),
                states.clone().into_buffer_arg(),
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
        return (states, gates);
    }
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

/// What a step's unit leaves on the way back.
#[derive(CubeType)]
struct Back {
    /// Gradients at h R.
    a: Gates,
    /// Gradient of the hidden state that entered the step, past the product.
    h: f32,
}

/// Unit `j` of sequence `b` at step `t` on the way back, from what step t + 1 hands to it: `rec`, before that step's reset mask
/// (zero at the last step). Gradients of taps, x W and h R are written.
#[cube]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
fn unit_back<F: Float>(
    rec: f32,
    grad: &[F],            // [T, B, H]
    gates: &[F],           // [T, B, 4H]
    states: &[F],          // [T, B, H]
    state: &[F],           // [B, H]
    taps: &[F],            // [T, B, H]
    keep: &[F],            // [T, B, 1]
    d_input: &mut [F],     // [T, B, 3H]
    d_recurrent: &mut [F], // [T, B, 3H]
    d_taps: &mut [F],      // [T, B, H]
    t: usize,
    b: usize,
    j: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
    #[comptime] tap_grads: bool,
) -> Back {
    let out = (t * batch + b) * hidden + j;
    let gate = (t * batch + b) * 4 * hidden + j;
    let at = (t * batch + b) * 3 * hidden + j;
    let two = 2 * hidden;
    let mut rec = rec;
    if comptime!(kept) {
        if t + 1 < time {
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
    Back {
        // As the product reads them.
        a: read(&*d_recurrent, at, hidden),
        h: d_h * z,
    }
}

/// Step `t` on the way back.
#[cube(launch_unchecked)]
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
    let mut rec = 0.0f32;
    if t + 1 < time {
        rec = f32::cast_from(product[ABSOLUTE_POS]) + carried[ABSOLUTE_POS];
    }
    let back = unit_back(
        rec,
        grad,
        gates,
        states,
        state,
        taps,
        keep,
        d_input,
        d_recurrent,
        d_taps,
        t,
        b,
        j,
        time,
        batch,
        hidden,
        tapped,
        kept,
        tap_grads,
    );
    carried[ABSOLUTE_POS] = back.h;
}

/// All steps of one sequence on the way back by one cube.
#[cube(launch_unchecked)]
fn gru_window_back<F: Float>(
    grad: &[F],            // [T, B, H]
    weight: &[F],          // [3H, H]: Rᵀ
    gates: &[F],           // [T, B, 4H]
    states: &[F],          // [T, B, H]
    state: &[F],           // [B, H]
    taps: &[F],            // [T, B, H]
    keep: &[F],            // [T, B, 1]
    d_input: &mut [F],     // [T, B, 3H]
    d_recurrent: &mut [F], // [T, B, 3H]
    d_taps: &mut [F],      // [T, B, H]
    d_state: &mut [F],     // [B, H]
    time: usize,
    batch: usize,
    #[comptime] hidden: usize,
    #[comptime] units: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
    #[comptime] tap_grads: bool,
    #[define(F)] _dtype: ElemType,
) {
    let b = CUBE_POS;
    if b >= batch {
        terminate!();
    }
    // Gradients at h R, of two steps in turn, and of the state past the products; zero after the last step.
    let size = comptime!(3 * hidden);
    let mut d = Shared::<[f32]>::new_slice(comptime!(6 * hidden));
    let mut past = Shared::<[f32]>::new_slice(hidden);
    zero(&mut past, hidden, units);
    zero(&mut d, comptime!(6 * hidden), units);
    sync_cube();
    for s in 0..time {
        let t = time - 1 - s;
        let here = (t % 2) * size;
        let mut j = UNIT_POS as usize;
        while j < hidden {
            let mut rec = past[j];
            for k in 0..size {
                rec += d[size - here + k] * f32::cast_from(weight[k * hidden + j]);
            }
            let back = unit_back(
                rec,
                grad,
                gates,
                states,
                state,
                taps,
                keep,
                d_input,
                d_recurrent,
                d_taps,
                t,
                b,
                j,
                time,
                batch,
                hidden,
                tapped,
                kept,
                tap_grads,
            );
            d[here + j] = back.a.r;
            d[here + hidden + j] = back.a.z;
            d[here + 2 * hidden + j] = back.a.n;
            past[j] = back.h;
            j += units;
        }
        sync_cube();
    }
    let mask = mask(keep, 0, b, batch, kept);
    let mut j = UNIT_POS as usize;
    while j < hidden {
        let mut d_h = past[j];
        for k in 0..size {
            d_h += d[k] * f32::cast_from(weight[k * hidden + j]);
        }
        d_state[b * hidden + j] = F::cast_from(d_h * mask);
        j += units;
    }
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
    if let Some(grid) = sizes.one_launch(&place, 3) {
        let d_state = place.empty(&[batch, hidden]);
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            gru_window_back::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                grad.into_buffer_arg(),
                into_contiguous(transposed).into_buffer_arg(),
                gates.into_buffer_arg(),
                states.into_buffer_arg(),
                state.into_buffer_arg(),
                taps.into_buffer_arg(),
                keep.into_buffer_arg(),
                d_input.clone().into_buffer_arg(),
                d_recurrent.clone().into_buffer_arg(),
                d_taps.clone().into_buffer_arg(),
                d_state.clone().into_buffer_arg(),
                time,
                batch,
                hidden,
                grid.units,
                present.taps,
                present.keep,
                tap_grads,
                place.elem(),
            );
        }
        return (d_input, d_recurrent, d_state, d_taps);
    }
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
