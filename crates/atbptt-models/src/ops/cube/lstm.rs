//! LSTM: one kernel per step and direction, around Burn's matrix products, or one per window and direction.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Present;
use super::launch::{Place, product, writable};
use super::window::{
    Carries, Sizes, entering_state, flat, leaving_grad, mask, sigma, step, transposed, zero,
};

/// One value per gate of a unit.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Gates {
    i: f32,
    f: f32,
    g: f32,
    o: f32,
}

/// Those of the unit whose first gate is at `at`.
#[cube]
fn read<F: Float>(from: &[F], at: usize, hidden: usize) -> Gates {
    Gates {
        i: f32::cast_from(from[at]),
        f: f32::cast_from(from[at + hidden]),
        g: f32::cast_from(from[at + 2 * hidden]),
        o: f32::cast_from(from[at + 3 * hidden]),
    }
}

/// The reverse.
#[cube]
fn write<F: Float>(into: &mut [F], gates: Gates, at: usize, hidden: usize) {
    into[at] = F::cast_from(gates.i);
    into[at + hidden] = F::cast_from(gates.f);
    into[at + 2 * hidden] = F::cast_from(gates.g);
    into[at + 3 * hidden] = F::cast_from(gates.o);
}

/// What step `t` leaves to the step after it.
#[derive(CubeType)]
struct Carry {
    h: f32,
    c: f32,
}

/// Unit `j` of sequence `b` at step `t`, from its pre-activations and its cell: gates and state are written, and what enters
/// the next step is handed back.
#[cube]
fn unit<F: Float>(
    a: Gates,
    c_in: f32,
    gates: &mut [F],  // [T, B, 4H]
    states: &mut [F], // [T, B, 2H]
    taps: &[F],       // [T, B, 2H]
    keep: &[F],       // [T, B, 1]
    t: usize,
    b: usize,
    j: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] tapped: bool,
    #[comptime] kept: bool,
) -> Carry {
    let at = (t * batch + b) * 4 * hidden + j;
    let out = (t * batch + b) * 2 * hidden + j;
    let i = sigma(a.i);
    let f = sigma(a.f);
    let g = a.g.tanh();
    let o = sigma(a.o);
    let c = f * c_in + i * g;
    let h = o * c.tanh();
    write(gates, Gates { i, f, g, o }, at, hidden);
    states[out] = F::cast_from(h);
    states[out + hidden] = F::cast_from(c);
    let mut next_h = h;
    let mut next_c = c;
    if t + 1 < time {
        if comptime!(tapped) {
            next_h += f32::cast_from(taps[out]);
            next_c += f32::cast_from(taps[out + hidden]);
        }
        if comptime!(kept) {
            let mask = f32::cast_from(keep[(t + 1) * batch + b]);
            next_h *= mask;
            next_c *= mask;
        }
    }
    Carry {
        // As the next product reads it.
        h: f32::cast_from(F::cast_from(next_h)),
        c: next_c,
    }
}

/// Step `t` once its product is known.
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
    let x = read(&*gates, (t * batch + b) * 4 * hidden + j, hidden);
    let p = read(product, b * 4 * hidden + j, hidden);
    let shift = read(bias, j, hidden);
    let a = Gates {
        i: x.i + p.i + shift.i,
        f: x.f + p.f + shift.f,
        g: x.g + p.g + shift.g,
        o: x.o + p.o + shift.o,
    };
    let c = c_in[ABSOLUTE_POS];
    let next = unit(
        a, c, gates, states, taps, keep, t, b, j, time, batch, hidden, tapped, kept,
    );
    h_in[ABSOLUTE_POS] = F::cast_from(next.h);
    c_in[ABSOLUTE_POS] = next.c;
}

/// All steps of one sequence by one cube. Its state stays in the cube's memory; the recurrent weight is read anew at each step.
#[cube(launch_unchecked)]
fn lstm_window<F: Float>(
    gates: &mut [F],  // [T, B, 4H]: x W in, activated gates out
    weight: &[F],     // [H, 4H]
    bias: &[F],       // [4H]
    states: &mut [F], // [T, B, 2H]
    state: &[F],      // [B, 2H]
    taps: &[F],       // [T, B, 2H]
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
    let mut c = Shared::<[f32]>::new_slice(hidden);
    let mask = mask(keep, 0, b, batch, kept);
    let mut j = UNIT_POS as usize;
    while j < hidden {
        h[j] = f32::cast_from(F::cast_from(
            f32::cast_from(state[b * 2 * hidden + j]) * mask,
        ));
        c[j] = f32::cast_from(state[b * 2 * hidden + hidden + j]) * mask;
        j += units;
    }
    sync_cube();
    for t in 0..time {
        let here = (t % 2) * hidden;
        let mut j = UNIT_POS as usize;
        while j < hidden {
            let x = read(&*gates, (t * batch + b) * 4 * hidden + j, hidden);
            let shift = read(bias, j, hidden);
            let mut a_i = x.i + shift.i;
            let mut a_f = x.f + shift.f;
            let mut a_g = x.g + shift.g;
            let mut a_o = x.o + shift.o;
            for k in 0..hidden {
                let w = read(weight, k * 4 * hidden + j, hidden);
                let h = h[here + k];
                a_i += h * w.i;
                a_f += h * w.f;
                a_g += h * w.g;
                a_o += h * w.o;
            }
            let a = Gates {
                i: a_i,
                f: a_f,
                g: a_g,
                o: a_o,
            };
            let next = unit(
                a, c[j], gates, states, taps, keep, t, b, j, time, batch, hidden, tapped, kept,
            );
            h[hidden - here + j] = next.h;
            c[j] = next.c;
            j += units;
        }
        sync_cube();
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
    if let Some(grid) = sizes.one_launch(&place, 4) {
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            lstm_window::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                gates.clone().into_buffer_arg(),
                into_contiguous(recurrent_weight).into_buffer_arg(),
                bias.into_buffer_arg(),
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

/// What a step's unit leaves on the way back.
#[derive(CubeType)]
struct Back {
    /// Gradients at the pre-activations.
    a: Gates,
    /// Gradient of the cell that entered the step, as the step computed with it.
    c: f32,
}

/// Unit `j` of sequence `b` at step `t` on the way back, from what step t + 1 hands to it: `r_h`, `r_c`, before that step's
/// reset mask (zero at the last step). Gradients of taps and pre-activations are written.
#[cube]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
fn unit_back<F: Float>(
    r_h: f32,
    r_c: f32,
    grad: &[F],        // [T, B, 2H]
    gates: &[F],       // [T, B, 4H]
    states: &[F],      // [T, B, 2H]
    state: &[F],       // [B, 2H]
    taps: &[F],        // [T, B, 2H]
    keep: &[F],        // [T, B, 1]
    d_gates: &mut [F], // [T, B, 4H]
    d_taps: &mut [F],  // [T, B, 2H]
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
    let at = (t * batch + b) * 4 * hidden + j;
    let out = (t * batch + b) * 2 * hidden + j;
    let mut r_h = r_h;
    let mut r_c = r_c;
    if comptime!(kept) {
        if t + 1 < time {
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
    let gate = read(gates, at, hidden);
    let tanh_c = f32::cast_from(states[out + hidden]).tanh();
    let d_h = f32::cast_from(grad[out]) + r_h;
    let d_c = f32::cast_from(grad[out + hidden]) + r_c + d_h * gate.o * (1.0f32 - tanh_c * tanh_c);
    let d_i = d_c * gate.g * gate.i * (1.0f32 - gate.i);
    let d_f = d_c * c_in * gate.f * (1.0f32 - gate.f);
    let d_g = d_c * gate.i * (1.0f32 - gate.g * gate.g);
    let d_o = d_h * tanh_c * gate.o * (1.0f32 - gate.o);
    let a = Gates {
        i: d_i,
        f: d_f,
        g: d_g,
        o: d_o,
    };
    write(d_gates, a, at, hidden);
    Back {
        // As the product reads them.
        a: read(&*d_gates, at, hidden),
        c: d_c * gate.f,
    }
}

/// Step `t` on the way back.
#[cube(launch_unchecked)]
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
    let mut r_h = 0.0f32;
    let mut r_c = 0.0f32;
    if t + 1 < time {
        r_h = f32::cast_from(product[ABSOLUTE_POS]);
        r_c = carried[ABSOLUTE_POS];
    }
    let back = unit_back(
        r_h, r_c, grad, gates, states, state, taps, keep, d_gates, d_taps, t, b, j, time, batch,
        hidden, tapped, kept, tap_grads,
    );
    carried[ABSOLUTE_POS] = back.c;
}

/// All steps of one sequence on the way back by one cube.
#[cube(launch_unchecked)]
fn lstm_window_back<F: Float>(
    grad: &[F],        // [T, B, 2H]
    weight: &[F],      // [4H, H]: Rᵀ
    gates: &[F],       // [T, B, 4H]
    states: &[F],      // [T, B, 2H]
    state: &[F],       // [B, 2H]
    taps: &[F],        // [T, B, 2H]
    keep: &[F],        // [T, B, 1]
    d_gates: &mut [F], // [T, B, 4H]
    d_taps: &mut [F],  // [T, B, 2H]
    d_state: &mut [F], // [B, 2H]
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
    // Gradients at the pre-activations, of two steps in turn; zero after the last step.
    let mut d = Shared::<[f32]>::new_slice(comptime!(8 * hidden));
    let mut c = Shared::<[f32]>::new_slice(hidden);
    let size = comptime!(4 * hidden);
    zero(&mut c, hidden, units);
    zero(&mut d, comptime!(8 * hidden), units);
    sync_cube();
    for s in 0..time {
        let t = time - 1 - s;
        let here = (t % 2) * size;
        let mut j = UNIT_POS as usize;
        while j < hidden {
            let mut r_h = 0.0f32;
            for k in 0..size {
                r_h += d[size - here + k] * f32::cast_from(weight[k * hidden + j]);
            }
            let back = unit_back(
                r_h, c[j], grad, gates, states, state, taps, keep, d_gates, d_taps, t, b, j, time,
                batch, hidden, tapped, kept, tap_grads,
            );
            d[here + j] = back.a.i;
            d[here + hidden + j] = back.a.f;
            d[here + 2 * hidden + j] = back.a.g;
            d[here + 3 * hidden + j] = back.a.o;
            c[j] = back.c;
            j += units;
        }
        sync_cube();
    }
    let mask = mask(keep, 0, b, batch, kept);
    let mut j = UNIT_POS as usize;
    while j < hidden {
        let mut r_h = 0.0f32;
        for k in 0..size {
            r_h += d[k] * f32::cast_from(weight[k * hidden + j]);
        }
        d_state[b * 2 * hidden + j] = F::cast_from(r_h * mask);
        d_state[b * 2 * hidden + hidden + j] = F::cast_from(c[j] * mask);
        j += units;
    }
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
    if let Some(grid) = sizes.one_launch(&place, 4) {
        let d_state = place.empty(&[batch, 2 * hidden]);
        // SAFETY: the buffers have the lengths that the sizes give, and every index stays below them.
        unsafe {
            lstm_window_back::launch_unchecked(
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
                d_gates.clone().into_buffer_arg(),
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
        return (d_gates, d_state, d_taps);
    }
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
