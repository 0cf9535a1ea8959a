//! The kernels that take any cell back, as those of `forward`.

use cubecl::prelude::*;

use super::unit::{At, Gates, Options, read, write};
use super::window::mask;
use super::{gru, lstm, mingru, rnn};
use crate::ops::cell::{Carry, Cell};

/// What the backward kernels read and write, likewise.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Backward<F: Float> {
    /// `[T, B, S]`
    pub grad: Box<[F]>,
    /// `[T, B, saved gates · H]`
    pub gates: Box<[F]>,
    /// `[T, B, S]`
    pub states: Box<[F]>,
    /// `[B, S]`
    pub state: Box<[F]>,
    /// `[T, B, S]`
    pub taps: Box<[F]>,
    /// `[T, B, 1]`
    pub reset_mask: Box<[F]>,
    /// `[T, B, gates · H]`: gradient at the input products.
    pub d_input: Box<[F]>,
    /// `[T, B, gates · H]`: gradient at the recurrent products, of cells where it is another.
    pub d_product: Box<[F]>,
    /// `[T, B, S]`
    pub d_taps: Box<[F]>,
}

/// What a step leaves on the way back.
#[derive(CubeType)]
pub(super) struct Back {
    /// Gradients at the recurrent product, as the product reads them.
    pub product: Gates,
    /// Gradient of what the cell carries past it.
    pub carried: f32,
}

/// One unit and step on the way back, from what step t + 1 returns to it before that step's reset mask (zero at the last step).
/// Gradients of taps and products are written.
#[cube]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
pub(super) fn unit_back<F: Float>(
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
