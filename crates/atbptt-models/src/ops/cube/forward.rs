//! The kernels that take any cell forward: one step, all steps of a window by one cube per sequence or, without recurrent
//! product, by one unit each.
//!
//! A cell adds its equations on one hidden unit; all that surrounds them is here: where values lie, taps, reset mask, and what
//! is handed from step to step.

use cubecl::prelude::*;

use super::unit::{At, Gates, Options, read, write};
use super::window::mask;
use super::{gru, lstm, mingru, rnn};
use crate::ops::cell::Cell;

/// What the forward kernels read and write. A buffer that the cell or the options leave out is not touched.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Forward<F: Float> {
    /// `[T, B, S]`; first, so that it stands for those that are left out.
    pub states: Box<[F]>,
    /// `[T, B, gates · H]`: x W, for cells that save other gates than those; else they lie where gates or states will.
    pub inputs: Box<[F]>,
    /// `[gates · H]`
    pub bias: Box<[F]>,
    /// `[H]`
    pub recurrent_bias: Box<[F]>,
    /// `[T, B, saved gates · H]`
    pub gates: Box<[F]>,
    /// `[T, B, S]`
    pub taps: Box<[F]>,
    /// `[T, B, 1]`
    pub reset_mask: Box<[F]>,
}

/// What step `t` leaves to the step after it.
#[derive(CubeType)]
pub(super) struct Handed {
    pub h: f32,
    pub c: f32,
}

/// One unit and step, from its recurrent product and the state that enters: gates and state are written, and what enters the
/// next step is handed back.
#[cube]
pub(super) fn unit<F: Float>(
    product: Gates,
    h_in: f32,
    c_in: f32,
    buffers: &mut Forward<F>,
    at: At,
    #[comptime] options: Options,
) -> Handed {
    let cell = comptime!(options.cell);
    let gates = comptime!(cell.gates());
    let saved = comptime!(cell.saved_gates());
    let parts = comptime!(options.parts());
    let row = at.t * at.batch + at.b;
    let gate = row * saved * at.hidden + at.j;
    let out = row * parts * at.hidden + at.j;
    let input = row * gates * at.hidden + at.j;
    let x = if comptime!(saved == gates) {
        read(&buffers.gates, input, at.hidden, gates)
    } else if comptime!(saved == 0) {
        read(&buffers.states, input, at.hidden, gates)
    } else {
        read(&buffers.inputs, input, at.hidden, gates)
    };
    let bias = read(&buffers.bias, at.j, at.hidden, gates);
    let done = if comptime!(cell == Cell::Lstm) {
        lstm::forward(x, product, bias, c_in)
    } else if comptime!(cell == Cell::Gru) {
        let recurrent_bias = f32::cast_from(buffers.recurrent_bias[at.j]);
        gru::forward(x, product, bias, recurrent_bias, h_in)
    } else if comptime!(cell == Cell::MinGru) {
        mingru::forward(x, bias, h_in)
    } else {
        rnn::forward(x, product, bias)
    };
    write(&mut buffers.gates, done.gates, gate, at.hidden, saved);
    buffers.states[out] = F::cast_from(done.h);
    if comptime!(parts > 1) {
        buffers.states[out + at.hidden] = F::cast_from(done.c);
    }
    let mut next_h = done.h;
    let mut next_c = done.c;
    if at.t + 1 < at.time {
        if comptime!(options.taps) {
            next_h += f32::cast_from(buffers.taps[out]);
            if comptime!(parts > 1) {
                next_c += f32::cast_from(buffers.taps[out + at.hidden]);
            }
        }
        if comptime!(options.resets) {
            let mask = f32::cast_from(buffers.reset_mask[(at.t + 1) * at.batch + at.b]);
            next_h *= mask;
            next_c *= mask;
        }
    }
    Handed {
        // As the next product reads it.
        h: f32::cast_from(F::cast_from(next_h)),
        c: next_c,
    }
}

/// Step `t` once its product is known.
#[cube(launch_unchecked)]
pub(super) fn step<F: Float>(
    buffers: &mut Forward<F>,
    product: &[F],    // [B, recurrent gates · H]: h R
    h_in: &mut [F],   // [B, H]: read by the product before, written for the next one
    c_in: &mut [f32], // [B, H], of cells that have a cell state
    t: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] options: Options,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= batch * hidden {
        terminate!();
    }
    let gates = comptime!(options.cell.recurrent_gates());
    let parts = comptime!(options.parts());
    let b = ABSOLUTE_POS / hidden;
    let j = ABSOLUTE_POS % hidden;
    let at = At {
        t,
        b,
        j,
        time,
        batch,
        hidden,
    };
    let product = read(product, b * gates * hidden + j, hidden, gates);
    let h = f32::cast_from(h_in[ABSOLUTE_POS]);
    let mut c = 0.0f32;
    if comptime!(parts > 1) {
        c = c_in[ABSOLUTE_POS];
    }
    let next = unit(product, h, c, buffers, at, options);
    h_in[ABSOLUTE_POS] = F::cast_from(next.h);
    if comptime!(parts > 1) {
        c_in[ABSOLUTE_POS] = next.c;
    }
}

/// All steps of one sequence by one cube. Its state stays in the cube's memory; the recurrent weight is read anew at each step.
#[cube(launch_unchecked)]
pub(super) fn window<F: Float>(
    buffers: &mut Forward<F>,
    weight: &[F], // [H, recurrent gates · H]
    state: &[F],  // [B, S]
    time: usize,
    batch: usize,
    #[comptime] hidden: usize,
    #[comptime] units: usize,
    #[comptime] options: Options,
    #[define(F)] _dtype: ElemType,
) {
    let b = CUBE_POS;
    if b >= batch {
        terminate!();
    }
    let gates = comptime!(options.cell.recurrent_gates());
    let parts = comptime!(options.parts());
    // Two steps in turn, so that a step's state is written while the one before is still being read.
    let mut h = Shared::<[f32]>::new_slice(comptime!(2 * hidden));
    let mut c = Shared::<[f32]>::new_slice(comptime!((parts - 1) * hidden + 1));
    let mask = mask(&buffers.reset_mask, 0, b, batch, comptime!(options.resets));
    let mut j = UNIT_POS as usize;
    while j < hidden {
        let at = b * parts * hidden + j;
        h[j] = f32::cast_from(F::cast_from(f32::cast_from(state[at]) * mask));
        if comptime!(parts > 1) {
            c[j] = f32::cast_from(state[at + hidden]) * mask;
        }
        j += units;
    }
    sync_cube();
    for t in 0..time {
        let here = (t % 2) * hidden;
        let mut j = UNIT_POS as usize;
        while j < hidden {
            let mut p_a = 0.0f32;
            let mut p_b = 0.0f32;
            let mut p_c = 0.0f32;
            let mut p_d = 0.0f32;
            for k in 0..hidden {
                let w = read(weight, k * gates * hidden + j, hidden, gates);
                let h = h[here + k];
                p_a += h * w.a;
                if comptime!(gates > 1) {
                    p_b += h * w.b;
                }
                if comptime!(gates > 2) {
                    p_c += h * w.c;
                }
                if comptime!(gates > 3) {
                    p_d += h * w.d;
                }
            }
            let product = Gates {
                a: p_a,
                b: p_b,
                c: p_c,
                d: p_d,
            };
            let at = At {
                t,
                b,
                j,
                time,
                batch,
                hidden,
            };
            let mut c_in = 0.0f32;
            if comptime!(parts > 1) {
                c_in = c[j];
            }
            let next = unit(product, h[here + j], c_in, buffers, at, options);
            h[hidden - here + j] = next.h;
            if comptime!(parts > 1) {
                c[j] = next.c;
            }
            j += units;
        }
        sync_cube();
    }
}

/// All steps of one unit, of a cell without recurrent product: its units need nothing of each other.
#[cube(launch_unchecked)]
pub(super) fn scan<F: Float>(
    buffers: &mut Forward<F>,
    state: &[F], // [B, S]
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] options: Options,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= batch * hidden {
        terminate!();
    }
    let b = ABSOLUTE_POS / hidden;
    let j = ABSOLUTE_POS % hidden;
    let mask = mask(&buffers.reset_mask, 0, b, batch, comptime!(options.resets));
    let mut h = f32::cast_from(state[ABSOLUTE_POS]) * mask;
    for t in 0..time {
        let at = At {
            t,
            b,
            j,
            time,
            batch,
            hidden,
        };
        let product = Gates {
            a: 0.0f32,
            b: 0.0f32,
            c: 0.0f32,
            d: 0.0f32,
        };
        let next = unit(product, h, 0.0f32, buffers, at, options);
        h = next.h;
    }
}
