//! The product of a fused step, by the threads of a cube: weights laid out for them, sums, and what they hand to the next step.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Argument, Place};
use super::tile::{LINE, Line, Plan};

/// The sums of a cube, added up: the first [`Plan::sums`] numbers of `shared`, at [`sum_at`]. All zero where nothing is `wanted`,
/// which is the same for all threads.
#[cube]
pub(super) fn multiply<F: Float>(
    weight: &[Line<F>],     // [tiles, K, columns / 4]
    entering: &[Line<f32>], // two halves [K, lines_per_term]
    from: usize,            // first line of the half that is read
    hidden: usize,
    wanted: bool,
    shared: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let tile = comptime!(plan.tile);
    let column_blocks = comptime!(plan.column_blocks());
    let blocks = comptime!(plan.blocks());
    let columns = comptime!(tile.block_units * LINE);
    let rows = comptime!(tile.block_rows * LINE);
    let terms = comptime!(plan.handed) * hidden;
    let at_once = comptime!(tile.split * tile.ahead);
    let unit = UNIT_POS as usize;
    let block = unit % blocks;
    let column_block = block % column_blocks;
    let row_block = block / column_blocks;
    let part = unit / blocks;
    let per_term = CUBE_COUNT_Y as usize * comptime!(plan.row_lines());
    let weight_at = CUBE_POS_X as usize * terms * comptime!(plan.column_lines()) + column_block;
    let entering_at = from
        + CUBE_POS_Y as usize * comptime!(plan.row_lines())
        + row_block * comptime!(tile.block_rows);
    let mut sums = Array::<Line<f32>>::new(comptime!(rows * tile.block_units));
    #[unroll]
    for at in 0..comptime!(rows * tile.block_units) {
        sums[at] = Line::<f32>::new(0.0f32);
    }
    if wanted {
        let ahead = comptime!(tile.ahead);
        let at = Lines {
            weight: weight_at,
            entering: entering_at,
            per_term,
        };
        let whole = terms / at_once * at_once;
        let mut k = part;
        if whole > 0 {
            let mut weights = Array::<Line<F>>::new(comptime!(ahead * tile.block_units));
            let mut values = Array::<Line<f32>>::new(comptime!(ahead * tile.block_rows));
            load::<F>(
                weight,
                entering,
                &mut weights,
                &mut values,
                at,
                k,
                ahead,
                plan,
            );
            // The next lines are on their way while these are multiplied. A compiler left to itself loads them one by one.
            while k + at_once < whole {
                let mut now_weights = Array::<Line<F>>::new(comptime!(ahead * tile.block_units));
                let mut now_values = Array::<Line<f32>>::new(comptime!(ahead * tile.block_rows));
                #[unroll]
                for line in 0..comptime!(ahead * tile.block_units) {
                    now_weights[line] = weights[line];
                }
                #[unroll]
                for line in 0..comptime!(ahead * tile.block_rows) {
                    now_values[line] = values[line];
                }
                k += at_once;
                load::<F>(
                    weight,
                    entering,
                    &mut weights,
                    &mut values,
                    at,
                    k,
                    ahead,
                    plan,
                );
                add_products::<F>(&now_weights, &now_values, &mut sums, ahead, plan);
            }
            add_products::<F>(&weights, &values, &mut sums, ahead, plan);
            k += at_once;
        }
        while k < terms {
            let mut weights = Array::<Line<F>>::new(comptime!(tile.block_units));
            let mut values = Array::<Line<f32>>::new(comptime!(tile.block_rows));
            load::<F>(
                weight,
                entering,
                &mut weights,
                &mut values,
                at,
                k,
                1usize,
                plan,
            );
            add_products::<F>(&weights, &values, &mut sums, 1usize, plan);
            k += comptime!(tile.split);
        }
    }
    // Neighbouring threads write neighbouring numbers.
    #[unroll]
    for row in 0..rows {
        #[unroll]
        for line in 0..comptime!(tile.block_units) {
            let sum = sums[row * comptime!(tile.block_units) + line];
            #[unroll]
            for i in 0..comptime!(LINE) {
                let at = (part * rows + row) * columns + line * comptime!(LINE) + i;
                shared[at * blocks + block] = sum.extract(i);
            }
        }
    }
    sync_cube();
    let len = comptime!(plan.sums());
    let ways = comptime!(plan.ways());
    // All threads add some of the parts, then one per sum adds what they made. Each number is read and written by one thread.
    if comptime!(ways < tile.split) {
        if unit < comptime!(ways * len) {
            let mut sum = shared[unit];
            for part in 1..comptime!(tile.split / ways) {
                sum += shared[part * comptime!(ways * len) + unit];
            }
            shared[unit] = sum;
        }
        sync_cube();
    }
    let mut at = unit;
    while at < len {
        let mut sum = shared[at];
        for part in 1..ways {
            sum += shared[part * len + at];
        }
        shared[at] = sum;
        at += comptime!(plan.threads());
    }
    sync_cube();
}

/// Where a thread's lines begin, and how many lines of sequences each term has.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Lines {
    weight: usize,
    entering: usize,
    per_term: usize,
}

/// The lines of `count` terms, beginning with the `k`-th.
#[cube]
#[allow(clippy::too_many_arguments)]
fn load<F: Float>(
    weight: &[Line<F>],
    entering: &[Line<f32>],
    weights: &mut Array<Line<F>>,
    values: &mut Array<Line<f32>>,
    at: Lines,
    k: usize,
    #[comptime] count: usize,
    #[comptime] plan: Plan,
) {
    let units = comptime!(plan.tile.block_units);
    let rows = comptime!(plan.tile.block_rows);
    #[unroll]
    for n in 0..count {
        let term = k + n * comptime!(plan.tile.split);
        #[unroll]
        for line in 0..units {
            let from = at.weight
                + term * comptime!(plan.column_lines())
                + line * comptime!(plan.column_blocks());
            weights[n * units + line] = weight[from];
        }
        #[unroll]
        for line in 0..rows {
            values[n * rows + line] = entering[at.entering + term * at.per_term + line];
        }
    }
}

/// Adds `count` terms to a thread's sums.
#[cube]
fn add_products<F: Float>(
    weights: &Array<Line<F>>,
    values: &Array<Line<f32>>,
    sums: &mut Array<Line<f32>>,
    #[comptime] count: usize,
    #[comptime] plan: Plan,
) {
    let units = comptime!(plan.tile.block_units);
    let rows = comptime!(plan.tile.block_rows);
    #[unroll]
    for n in 0..count {
        #[unroll]
        for line in 0..units {
            let w = Line::<f32>::cast_from(weights[n * units + line]);
            #[unroll]
            for row in 0..comptime!(rows * LINE) {
                let value = values[n * rows + row / comptime!(LINE)];
                let value = Line::<f32>::new(value.extract(row % comptime!(LINE)));
                sums[row * units + line] += value * w;
            }
        }
    }
}

/// Where [`multiply`] leaves the sum of this row and column of the cube.
#[cube]
pub(super) fn sum_at(row: usize, column: usize, #[comptime] plan: Plan) -> usize {
    let rows = comptime!(plan.tile.block_rows * LINE);
    let columns = comptime!(plan.tile.block_units * LINE);
    let column_blocks = comptime!(plan.column_blocks());
    let line = column / comptime!(LINE);
    let within = (row % rows) * columns
        + (line / column_blocks) * comptime!(LINE)
        + column % comptime!(LINE);
    within * comptime!(plan.blocks()) + (row / rows) * column_blocks + line % column_blocks
}

/// Where a value for the next step is left in a cube's memory, behind the sums: line by line as [`hand_on`] reads it.
#[cube]
pub(super) fn handed_at(gate: usize, unit: usize, row: usize, #[comptime] plan: Plan) -> usize {
    comptime!(plan.sums())
        + (gate * comptime!(plan.tile.units) + unit) * comptime!(plan.tile.rows)
        + row
}

/// Writes what the cube hands to the next step to the half that begins at line `to`.
#[cube]
pub(super) fn hand_on(
    shared: &Shared<[f32]>,
    entering: &mut [Line<f32>],
    to: usize,
    hidden: usize,
    #[comptime] plan: Plan,
) {
    sync_cube();
    let row_lines = comptime!(plan.row_lines());
    let units = comptime!(plan.tile.units);
    let per_term = CUBE_COUNT_Y as usize * row_lines;
    let mut at = UNIT_POS as usize;
    while at < comptime!(plan.handed * units * row_lines) {
        let row = at % row_lines;
        let of = at / row_lines;
        let j = CUBE_POS_X as usize * units + of % units;
        if j < hidden {
            let first = comptime!(plan.sums()) + at * comptime!(LINE);
            let mut line = Line::<f32>::new(0.0f32);
            #[unroll]
            for i in 0..comptime!(LINE) {
                line.insert(i, shared[first + i]);
            }
            let term = (of / units) * hidden + j;
            entering[to + term * per_term + CUBE_POS_Y as usize * row_lines + row] = line;
        }
        at += comptime!(plan.threads());
    }
}

/// The weights of each cube side by side, as its threads read them; zeros for units that there are not. Nothing but the layout is
/// compiled in: it runs once per window.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn pack<F: Float>(
    weight: &[F],
    packed: &mut [F], // [tiles, K, columns]
    elements: usize,
    terms: usize,
    hidden: usize,
    gates: usize,
    units: usize,
    #[comptime] transposed: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= elements {
        terminate!();
    }
    let columns = gates * units;
    let column = ABSOLUTE_POS % columns;
    let k = (ABSOLUTE_POS / columns) % terms;
    let j = (ABSOLUTE_POS / (columns * terms)) * units + column % units;
    let mut value = F::new(0.0f32);
    if j < hidden {
        let at = if comptime!(transposed) {
            j * terms + k
        } else {
            (k * gates + column / units) * hidden + j
        };
        value = weight[at];
    }
    packed[ABSOLUTE_POS] = value;
}

/// Weights `[K, gates · H]` (or, `transposed`, `[H, K]`; contiguous) as [`multiply`] reads them.
pub(super) fn packed(
    place: &Place,
    plan: Plan,
    hidden: usize,
    weight: CubeTensor,
    transposed: bool,
) -> CubeTensor {
    let packed = place.empty(&[plan.tiles(hidden), plan.terms(hidden), plan.columns()]);
    let elements = packed.meta.num_elements();
    let (count, dim) = place.elementwise(elements);
    // SAFETY: threads past the last element stop, and those of hidden units that there are not read nothing.
    unsafe {
        pack::launch_unchecked(
            &place.client,
            count,
            dim,
            weight.argument(),
            packed.argument(),
            elements,
            plan.terms(hidden),
            hidden,
            plan.gates,
            plan.tile.units,
            transposed,
            place.elem(),
        );
    }
    packed
}
