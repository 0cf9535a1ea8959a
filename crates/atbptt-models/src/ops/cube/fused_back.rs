//! A step back in one launch: the product of the next step's gradients with Rᵀ, and the equations.
//!
//! As in `fused`, with the gradients at the recurrent product in the place of the state: K = gates · H.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::backward::{Backward, BackwardLaunch, unit_back};
use super::fused::FusedWindow;
use super::launch::Argument;
use super::multiply::{hand_on, handed_at, multiply, packed, sum_at};
use super::tile::{Line, Plan};
use super::unit::{At, Options};
use super::window::{Extent, mask};
use crate::ops::cell::Carry;

/// Step `t` on the way back, product and equations.
#[cube(launch_unchecked)]
#[allow(clippy::collapsible_if)] // The outer condition is decided when the kernel is compiled.
pub(super) fn fused_step_back<F: Float>(
    buffers: &mut Backward<F>,
    weight: &[Line<F>],         // packed
    entering: &mut [Line<f32>], // gradients at the product, of step t + 1 and of this one, each [gates · H, lines of sequences]
    carried: &mut [f32],        // [B, H]: past the product, of step t + 1 in, of step t out
    t: usize,
    time: usize,
    batch: usize,
    hidden: usize,
    #[comptime] plan: Plan,
    #[comptime] options: Options,
    #[define(F)] _dtype: ElemType,
) {
    let rows = comptime!(plan.tile.rows);
    let units = comptime!(plan.tile.units);
    let gates = comptime!(plan.handed);
    let half = CUBE_COUNT_Y as usize * comptime!(plan.row_lines() * plan.handed) * hidden;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(plan.shared()));
    let is_returned = t + 1 < time;
    let from = (t + 1) % 2 * half;
    multiply::<F>(
        weight,
        &*entering,
        from,
        hidden,
        is_returned,
        &mut shared,
        plan,
    );
    let mut of_cube = UNIT_POS as usize;
    while of_cube < comptime!(rows * units) {
        let row = of_cube / units;
        let u = of_cube % units;
        let b = CUBE_POS_Y as usize * rows + row;
        let j = CUBE_POS_X as usize * units + u;
        let mut d_a = 0.0f32;
        let mut d_b = 0.0f32;
        let mut d_c = 0.0f32;
        let mut d_d = 0.0f32;
        if b < batch && j < hidden {
            let at = At {
                t,
                b,
                j,
                time,
                batch,
                hidden,
            };
            let mut r_h = shared[sum_at(row, u, plan)];
            let mut r_c = 0.0f32;
            if comptime!(options.carry() != Carry::Nothing) {
                if is_returned {
                    if comptime!(options.carry() == Carry::Hidden) {
                        r_h += carried[b * hidden + j];
                    } else {
                        r_c = carried[b * hidden + j];
                    }
                }
            }
            let back = unit_back(r_h, r_c, buffers, at, options);
            if comptime!(options.carry() != Carry::Nothing) {
                carried[b * hidden + j] = back.carried;
            }
            d_a = back.product.a;
            d_b = back.product.b;
            d_c = back.product.c;
            d_d = back.product.d;
        }
        shared[handed_at(0usize, u, row, plan)] = d_a;
        if comptime!(gates > 1) {
            shared[handed_at(1usize, u, row, plan)] = d_b;
        }
        if comptime!(gates > 2) {
            shared[handed_at(2usize, u, row, plan)] = d_c;
        }
        if comptime!(gates > 3) {
            shared[handed_at(3usize, u, row, plan)] = d_d;
        }
        of_cube += comptime!(plan.threads());
    }
    hand_on(&shared, entering, t % 2 * half, hidden, plan);
}

/// Gradient of the initial state: the last product, and what passed it.
#[cube(launch_unchecked)]
fn fused_leave<F: Float>(
    d_state: &mut [F], // [B, S]
    weight: &[Line<F>],
    entering: &[Line<f32>],
    carried: &[f32],
    reset_mask: &[F],
    batch: usize,
    hidden: usize,
    #[comptime] plan: Plan,
    #[comptime] options: Options,
    #[define(F)] _dtype: ElemType,
) {
    let rows = comptime!(plan.tile.rows);
    let units = comptime!(plan.tile.units);
    let parts = comptime!(options.parts());
    let mut shared = Shared::<[f32]>::new_slice(comptime!(plan.shared()));
    multiply::<F>(weight, entering, 0usize, hidden, true, &mut shared, plan);
    let mut of_cube = UNIT_POS as usize;
    while of_cube < comptime!(rows * units) {
        let row = of_cube / units;
        let u = of_cube % units;
        let b = CUBE_POS_Y as usize * rows + row;
        let j = CUBE_POS_X as usize * units + u;
        if b < batch && j < hidden {
            let mask = mask(reset_mask, 0, b, batch, comptime!(options.resets));
            let at = b * parts * hidden + j;
            let mut d_h = shared[sum_at(row, u, plan)];
            if comptime!(options.carry() == Carry::Hidden) {
                d_h += carried[b * hidden + j];
            }
            d_state[at] = F::cast_from(d_h * mask);
            if comptime!(parts > 1) {
                d_state[at + hidden] = F::cast_from(carried[b * hidden + j] * mask);
            }
        }
        of_cube += comptime!(plan.threads());
    }
}

impl FusedWindow<'_> {
    /// All steps back, `buffers` making the launches' arguments: gradient of the initial state `[B, S]`. The weight,
    /// `[H, gates · H]`, is contiguous.
    pub fn backward(
        &self,
        buffers: impl Fn() -> BackwardLaunch<fused_step_back::F>,
        weight: CubeTensor,
    ) -> CubeTensor {
        let Self {
            place,
            plan,
            options,
            reset_mask,
            ..
        } = *self;
        let Extent {
            time,
            batch,
            hidden,
        } = self.extent;
        let weight = packed(place, plan, hidden, weight, true);
        let (entering, carried) = self.handover();
        for t in (0..time).rev() {
            let (count, dim) = plan.grid(batch, hidden);
            // SAFETY: what is handed over and the packed weights have the lengths that batch and plan give; what lies past the
            // last sequence or hidden unit is computed and not written, except to the lines' own rest.
            unsafe {
                fused_step_back::launch_unchecked(
                    &place.client,
                    count,
                    dim,
                    buffers(),
                    weight.argument(),
                    entering.argument(),
                    carried.argument(),
                    t,
                    time,
                    batch,
                    hidden,
                    plan,
                    options,
                    place.elem(),
                );
            }
        }
        let d_state = place.empty(&[batch, options.parts() * hidden]);
        let (count, dim) = plan.grid(batch, hidden);
        // SAFETY: as above.
        unsafe {
            fused_leave::launch_unchecked(
                &place.client,
                count,
                dim,
                d_state.argument(),
                weight.argument(),
                entering.argument(),
                carried.argument(),
                reset_mask.argument(),
                batch,
                hidden,
                plan,
                options,
                place.elem(),
            );
        }
        d_state
    }
}
