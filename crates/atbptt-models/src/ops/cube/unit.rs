//! What the kernels of any cell share: what they are compiled for, a unit's gates, and what its equations make.

use cubecl::prelude::*;

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
pub(super) struct At {
    pub t: usize,
    pub b: usize,
    pub j: usize,
    pub time: usize,
    pub batch: usize,
    pub hidden: usize,
}

/// `count` gates of the unit whose first one is at `at`.
#[cube]
pub(super) fn read<F: Float>(
    from: &[F],
    at: usize,
    hidden: usize,
    #[comptime] count: usize,
) -> Gates {
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
pub(super) fn write<F: Float>(
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
