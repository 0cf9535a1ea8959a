//! A step forward in one launch, recurrent product and equations, whatever the cell.
//!
//! All cubes read the state that enters a step while they write the one that enters the next, so there are two of them in turn,
//! in f32, stored by hidden unit with the sequences side by side: as the product reads it.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::forward::{Forward, ForwardLaunch, unit};
use super::launch::{Argument, Place};
use super::multiply::{hand_on, handed_at, multiply, packed, sum_at};
use super::tile::{LINE, Line, Plan};
use super::unit::{At, Gates, Options};
use super::window::{Extent, mask};
use crate::ops::cell::Carry;

/// The sums of a unit, one per gate.
#[cube]
fn sums_of(shared: &Shared<[f32]>, row: usize, unit: usize, #[comptime] plan: Plan) -> Gates {
    let gates = comptime!(plan.gates);
    let units = comptime!(plan.tile.units);
    let a = shared[sum_at(row, unit, plan)];
    let mut b = 0.0f32;
    let mut c = 0.0f32;
    let mut d = 0.0f32;
    if comptime!(gates > 1) {
        b = shared[sum_at(row, units + unit, plan)];
    }
    if comptime!(gates > 2) {
        c = shared[sum_at(row, comptime!(2 * units) + unit, plan)];
    }
    if comptime!(gates > 3) {
        d = shared[sum_at(row, comptime!(3 * units) + unit, plan)];
    }
    Gates { a, b, c, d }
}

/// Step `t`, product and equations.
#[cube(launch_unchecked)]
pub(super) fn fused_step<F: Float>(
    buffers: &mut Forward<F>,
    weight: &[Line<F>],         // packed
    entering: &mut [Line<f32>], // h of this step and of the next, each [H, lines of sequences]
    carried: &mut [f32], // [B, H]: what enters beside the product, of cells with such a thing
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
    let half = CUBE_COUNT_Y as usize * comptime!(plan.row_lines() * plan.handed) * hidden;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(plan.shared()));
    multiply::<F>(
        weight,
        &*entering,
        t % 2 * half,
        hidden,
        true,
        &mut shared,
        plan,
    );
    let mut of_cube = UNIT_POS as usize;
    while of_cube < comptime!(rows * units) {
        let row = of_cube / units;
        let u = of_cube % units;
        let b = CUBE_POS_Y as usize * rows + row;
        let j = CUBE_POS_X as usize * units + u;
        let mut next_h = 0.0f32;
        if b < batch && j < hidden {
            let at = At {
                t,
                b,
                j,
                time,
                batch,
                hidden,
            };
            let mut h = 0.0f32;
            let mut c = 0.0f32;
            if comptime!(options.carry() == Carry::Hidden) {
                h = carried[b * hidden + j];
            }
            if comptime!(options.carry() == Carry::Cell) {
                c = carried[b * hidden + j];
            }
            let product = sums_of(&shared, row, u, plan);
            let next = unit(product, h, c, buffers, at, options);
            next_h = next.h;
            if comptime!(options.carry() == Carry::Hidden) {
                carried[b * hidden + j] = next.h;
            }
            if comptime!(options.carry() == Carry::Cell) {
                carried[b * hidden + j] = next.c;
            }
        }
        shared[handed_at(0usize, u, row, plan)] = next_h;
        of_cube += comptime!(plan.threads());
    }
    hand_on(&shared, entering, (t + 1) % 2 * half, hidden, plan);
}

/// The state that enters the first step, as the first launch reads it.
#[cube(launch_unchecked)]
fn enter_lines<F: Float>(
    state: &[F], // [B, S]
    reset_mask: &[F],
    entering: &mut [Line<f32>],
    carried: &mut [f32],
    batch: usize,
    hidden: usize,
    lines: usize,
    #[comptime] options: Options,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= lines {
        terminate!();
    }
    let parts = comptime!(options.parts());
    let per_term = lines / hidden;
    let j = ABSOLUTE_POS / per_term;
    let first = ABSOLUTE_POS % per_term * comptime!(LINE);
    let mut line = Line::<f32>::new(0.0f32);
    #[unroll]
    for i in 0..comptime!(LINE) {
        let b = first + i;
        if b < batch {
            let mask = mask(reset_mask, 0, b, batch, comptime!(options.resets));
            let at = b * parts * hidden + j;
            // As a product of tensors would read it.
            let h = f32::cast_from(F::cast_from(f32::cast_from(state[at]) * mask));
            line.insert(i, h);
            if comptime!(options.carry() == Carry::Hidden) {
                carried[b * hidden + j] = h;
            }
            if comptime!(options.carry() == Carry::Cell) {
                carried[b * hidden + j] = f32::cast_from(state[at + hidden]) * mask;
            }
        }
    }
    entering[ABSOLUTE_POS] = line;
}

/// A window whose steps are launched one by one.
pub(super) struct FusedWindow<'a> {
    pub place: &'a Place,
    pub extent: Extent,
    pub plan: Plan,
    pub options: Options,
    pub reset_mask: &'a Option<CubeTensor>,
}

impl FusedWindow<'_> {
    /// Lines of what enters a step.
    fn lines(&self) -> usize {
        self.plan.terms(self.extent.hidden) * self.plan.lines_per_term(self.extent.batch)
    }

    /// What the steps hand on, not initialised: what the product reads, of two steps in turn, and what passes it.
    pub fn handover(&self) -> (CubeTensor, CubeTensor) {
        let carried = match self.options.carry() {
            Carry::Nothing => [1, 1],
            Carry::Hidden | Carry::Cell => [self.extent.batch, self.extent.hidden],
        };
        let entering = [2, self.lines(), LINE];
        (
            self.place.empty_as(&entering, DType::F32),
            self.place.empty_as(&carried, DType::F32),
        )
    }

    /// All steps, `buffers` making the launches' arguments. State and weight are contiguous.
    pub fn forward(
        &self,
        buffers: impl Fn() -> ForwardLaunch<fused_step::F>,
        weight: CubeTensor,
        state: &CubeTensor,
    ) {
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
        let weight = packed(place, plan, hidden, weight, false);
        let (entering, carried) = self.handover();
        let (count, dim) = place.elementwise(self.lines());
        // SAFETY: what is handed over has the lengths that batch and plan give; threads past the last line stop.
        unsafe {
            enter_lines::launch_unchecked(
                &place.client,
                count,
                dim,
                state.argument(),
                reset_mask.argument(),
                entering.argument(),
                carried.argument(),
                batch,
                hidden,
                self.lines(),
                options,
                place.elem(),
            );
        }
        for t in 0..time {
            let (count, dim) = plan.grid(batch, hidden);
            // SAFETY: as above, and the packed weights are as long as the grid asks for; what lies past the last sequence or
            // hidden unit is computed and not written, except to the lines' own rest.
            unsafe {
                fused_step::launch_unchecked(
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
    }
}
