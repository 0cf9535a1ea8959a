//! The kernels that run any cell: one step, all steps of a window by one cube per sequence or, without recurrent product, by one
//! unit each; in either direction.
//!
//! A cell adds its equations on one hidden unit; all that surrounds them is here: where values lie, taps, reset mask, and what
//! is handed from step to step.

use cubecl::prelude::*;

use super::window::mask;
use super::{gru, lstm, mingru, rnn};
use crate::ops::cell::{Carry, Cell};

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Options {
    pub cell: Cell,
    /// Taps were given.
    pub taps: bool,
    /// A reset mask was given.
    pub resets: bool,
    /// The gradient of the taps is wanted.
    pub tap_grads: bool,
}

impl Options {
    pub fn parts(self) -> usize {
        self.cell.state_parts()
    }

    pub fn carry(self) -> Carry {
        self.cell.carry()
    }
}

/// One value per gate of a unit: as many as the cell has, then zeros.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Gates {
    pub a: f32,
    pub b: f32,
    pub c: f32,
    pub d: f32,
}

/// What a unit's equations make on the way forward.
#[derive(CubeType)]
pub(super) struct Stepped {
    /// The gates to save.
    pub gates: Gates,
    pub h: f32,
    /// Zero for cells without a cell state.
    pub c: f32,
}

/// What a unit's equations make on the way back.
#[derive(CubeType)]
pub(super) struct SteppedBack {
    /// Gradients at the input product; at the recurrent product they are the same.
    pub input: Gates,
    /// At the last gate's recurrent product, for cells that have a bias there.
    pub last_product: f32,
    /// Of what the cell carries past the recurrent product.
    pub carried: f32,
}

/// Unit `j` of sequence `b` at step `t`, in a window of these sizes.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct At {
    t: usize,
    b: usize,
    j: usize,
    time: usize,
    batch: usize,
    hidden: usize,
}

/// What the forward kernels read and write. A buffer that the cell or the options leave out is not touched.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Forward<F: Float> {
    /// `[T, B, gates · H]`: x W, for cells that save other gates than those; else they lie where gates or states will.
    inputs: Box<[F]>,
    /// `[gates · H]`
    bias: Box<[F]>,
    /// `[H]`
    recurrent_bias: Box<[F]>,
    /// `[T, B, saved gates · H]`
    gates: Box<[F]>,
    /// `[T, B, S]`
    states: Box<[F]>,
    /// `[T, B, S]`
    taps: Box<[F]>,
    /// `[T, B, 1]`
    reset_mask: Box<[F]>,
}

/// What the backward kernels read and write, likewise.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Backward<F: Float> {
    /// `[T, B, S]`
    grad: Box<[F]>,
    /// `[T, B, saved gates · H]`
    gates: Box<[F]>,
    /// `[T, B, S]`
    states: Box<[F]>,
    /// `[B, S]`
    state: Box<[F]>,
    /// `[T, B, S]`
    taps: Box<[F]>,
    /// `[T, B, 1]`
    reset_mask: Box<[F]>,
    /// `[T, B, gates · H]`: gradient at the input products.
    d_input: Box<[F]>,
    /// `[T, B, gates · H]`: gradient at the recurrent products, of cells where it is another.
    d_product: Box<[F]>,
    /// `[T, B, S]`
    d_taps: Box<[F]>,
}

/// `count` gates of the unit whose first one is at `at`.
#[cube]
fn read<F: Float>(from: &[F], at: usize, hidden: usize, #[comptime] count: usize) -> Gates {
    let mut a = 0.0f32;
    let mut b = 0.0f32;
    let mut c = 0.0f32;
    let mut d = 0.0f32;
    if comptime!(count > 0) {
        a = f32::cast_from(from[at]);
    }
    if comptime!(count > 1) {
        b = f32::cast_from(from[at + hidden]);
    }
    if comptime!(count > 2) {
        c = f32::cast_from(from[at + 2 * hidden]);
    }
    if comptime!(count > 3) {
        d = f32::cast_from(from[at + 3 * hidden]);
    }
    Gates { a, b, c, d }
}

/// The reverse.
#[cube]
fn write<F: Float>(
    into: &mut [F],
    gates: Gates,
    at: usize,
    hidden: usize,
    #[comptime] count: usize,
) {
    if comptime!(count > 0) {
        into[at] = F::cast_from(gates.a);
    }
    if comptime!(count > 1) {
        into[at + hidden] = F::cast_from(gates.b);
    }
    if comptime!(count > 2) {
        into[at + 2 * hidden] = F::cast_from(gates.c);
    }
    if comptime!(count > 3) {
        into[at + 3 * hidden] = F::cast_from(gates.d);
    }
}

/// What step `t` leaves to the step after it.
#[derive(CubeType)]
struct Handed {
    h: f32,
    c: f32,
}

/// One unit and step, from its recurrent product and the state that enters: gates and state are written, and what enters the
/// next step is handed back.
#[cube]
fn unit<F: Float>(
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

/// What a step leaves on the way back.
#[derive(CubeType)]
struct Back {
    /// Gradients at the recurrent product, as the product reads them.
    product: Gates,
    /// Gradient of what the cell carries past it.
    carried: f32,
}

/// One unit and step on the way back, from what step t + 1 returns to it before that step's reset mask (zero at the last step).
/// Gradients of taps and products are written.
#[cube]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
fn unit_back<F: Float>(
    returned_h: f32,
    returned_c: f32,
    buffers: &mut Backward<F>,
    at: At,
    #[comptime] options: Options,
) -> Back {
    let cell = comptime!(options.cell);
    let gates = comptime!(cell.gates());
    let saved = comptime!(cell.saved_gates());
    let parts = comptime!(options.parts());
    let row = at.t * at.batch + at.b;
    let out = row * parts * at.hidden + at.j;
    let mut r_h = returned_h;
    let mut r_c = returned_c;
    if comptime!(options.resets) {
        if at.t + 1 < at.time {
            let mask = f32::cast_from(buffers.reset_mask[(at.t + 1) * at.batch + at.b]);
            r_h *= mask;
            r_c *= mask;
        }
    }
    if comptime!(options.tap_grads) {
        buffers.d_taps[out] = F::cast_from(r_h);
        if comptime!(parts > 1) {
            buffers.d_taps[out + at.hidden] = F::cast_from(r_c);
        }
    }
    // The last part of the state: as it entered the step, and as the step made it.
    let part = out + (parts - 1) * at.hidden;
    let mut entering = 0.0f32;
    if comptime!(options.carry() != Carry::Nothing) {
        let step = at.batch * parts * at.hidden;
        if at.t > 0 {
            entering = f32::cast_from(buffers.states[part - step]);
        } else {
            entering = f32::cast_from(buffers.state[part]);
        }
        if comptime!(options.taps) {
            if at.t > 0 {
                entering += f32::cast_from(buffers.taps[part - step]);
            }
        }
        if comptime!(options.resets) {
            entering *= f32::cast_from(buffers.reset_mask[row]);
        }
    }
    let state = f32::cast_from(buffers.states[part]);
    let gate = read(
        &buffers.gates,
        row * saved * at.hidden + at.j,
        at.hidden,
        saved,
    );
    let d_h = f32::cast_from(buffers.grad[out]) + r_h;
    let mut d_c = 0.0f32;
    if comptime!(parts > 1) {
        d_c = f32::cast_from(buffers.grad[part]) + r_c;
    }
    let back = if comptime!(cell == Cell::Lstm) {
        lstm::backward(gate, state, entering, d_h, d_c)
    } else if comptime!(cell == Cell::Gru) {
        gru::backward(gate, entering, d_h)
    } else if comptime!(cell == Cell::MinGru) {
        mingru::backward(gate, entering, d_h)
    } else {
        rnn::backward(state, d_h)
    };
    let to = row * gates * at.hidden + at.j;
    write(&mut buffers.d_input, back.input, to, at.hidden, gates);
    let product = if comptime!(cell.has_recurrent_bias()) {
        write(&mut buffers.d_product, back.input, to, at.hidden, gates);
        let last = to + comptime!(gates - 1) * at.hidden;
        buffers.d_product[last] = F::cast_from(back.last_product);
        read(&buffers.d_product, to, at.hidden, gates)
    } else {
        read(
            &buffers.d_input,
            to,
            at.hidden,
            comptime!(cell.recurrent_gates()),
        )
    };
    Back {
        product,
        carried: back.carried,
    }
}

/// Step `t` on the way back.
#[cube(launch_unchecked)]
pub(super) fn step_back<F: Float>(
    buffers: &mut Backward<F>,
    product: &[F],       // [B, H]: of step t + 1; not read at the last step
    carried: &mut [f32], // [B, H]: past the products, of step t + 1 in, of step t out
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
    let at = At {
        t,
        b: ABSOLUTE_POS / hidden,
        j: ABSOLUTE_POS % hidden,
        time,
        batch,
        hidden,
    };
    let mut r_h = 0.0f32;
    let mut r_c = 0.0f32;
    if t + 1 < time {
        r_h = f32::cast_from(product[ABSOLUTE_POS]);
        if comptime!(options.carry() == Carry::Hidden) {
            r_h += carried[ABSOLUTE_POS];
        }
        if comptime!(options.carry() == Carry::Cell) {
            r_c = carried[ABSOLUTE_POS];
        }
    }
    let back = unit_back(r_h, r_c, buffers, at, options);
    if comptime!(options.carry() != Carry::Nothing) {
        carried[ABSOLUTE_POS] = back.carried;
    }
}

/// All steps of one sequence on the way back by one cube.
#[cube(launch_unchecked)]
pub(super) fn window_back<F: Float>(
    buffers: &mut Backward<F>,
    weight: &[F],      // [recurrent gates · H, H]: Rᵀ
    d_state: &mut [F], // [B, S]
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
    let size = comptime!(gates * hidden);
    let carry_size = comptime!(if options.carry() == Carry::Nothing {
        1
    } else {
        hidden
    });
    // Gradients at the recurrent product, of two steps in turn, and of what the cell carries; zero after the last step.
    let mut d = Shared::<[f32]>::new_slice(comptime!(2 * size));
    let mut carried = Shared::<[f32]>::new_slice(carry_size);
    zero(&mut carried, carry_size, units);
    zero(&mut d, comptime!(2 * size), units);
    sync_cube();
    for s in 0..time {
        let t = time - 1 - s;
        let here = (t % 2) * size;
        let mut j = UNIT_POS as usize;
        while j < hidden {
            let mut r_h = 0.0f32;
            let mut r_c = 0.0f32;
            if comptime!(options.carry() == Carry::Hidden) {
                r_h = carried[j];
            }
            if comptime!(options.carry() == Carry::Cell) {
                r_c = carried[j];
            }
            for k in 0..size {
                r_h += d[size - here + k] * f32::cast_from(weight[k * hidden + j]);
            }
            let at = At {
                t,
                b,
                j,
                time,
                batch,
                hidden,
            };
            let back = unit_back(r_h, r_c, buffers, at, options);
            d[here + j] = back.product.a;
            if comptime!(gates > 1) {
                d[here + hidden + j] = back.product.b;
            }
            if comptime!(gates > 2) {
                d[here + 2 * hidden + j] = back.product.c;
            }
            if comptime!(gates > 3) {
                d[here + 3 * hidden + j] = back.product.d;
            }
            if comptime!(options.carry() != Carry::Nothing) {
                carried[j] = back.carried;
            }
            j += units;
        }
        sync_cube();
    }
    let mask = mask(&buffers.reset_mask, 0, b, batch, comptime!(options.resets));
    let mut j = UNIT_POS as usize;
    while j < hidden {
        let mut d_h = 0.0f32;
        if comptime!(options.carry() == Carry::Hidden) {
            d_h = carried[j];
        }
        for k in 0..size {
            d_h += d[k] * f32::cast_from(weight[k * hidden + j]);
        }
        let at = b * parts * hidden + j;
        d_state[at] = F::cast_from(d_h * mask);
        if comptime!(parts > 1) {
            d_state[at + hidden] = F::cast_from(carried[j] * mask);
        }
        j += units;
    }
}

/// All steps of one unit on the way back, of a cell without recurrent product.
#[cube(launch_unchecked)]
pub(super) fn scan_back<F: Float>(
    buffers: &mut Backward<F>,
    d_state: &mut [F], // [B, S]
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
    let mut returned = 0.0f32;
    for s in 0..time {
        let at = At {
            t: time - 1 - s,
            b,
            j,
            time,
            batch,
            hidden,
        };
        let back = unit_back(returned, 0.0f32, buffers, at, options);
        returned = back.carried;
    }
    let mask = mask(&buffers.reset_mask, 0, b, batch, comptime!(options.resets));
    d_state[ABSOLUTE_POS] = F::cast_from(returned * mask);
}

/// Zeros in all of a cube's memory; the caller waits for the other units.
#[cube]
fn zero(shared: &mut Shared<[f32]>, #[comptime] len: usize, #[comptime] units: usize) {
    let mut at = UNIT_POS as usize;
    while at < len {
        shared[at] = 0.0f32;
        at += units;
    }
}
