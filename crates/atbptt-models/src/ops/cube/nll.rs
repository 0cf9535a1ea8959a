//! Softmax and negative log-likelihood of rows of logits: one cube per row, one launch per block of rows.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::SoftmaxFlags;
use super::launch::{Place, float_elem, int_elem, writable};

/// Largest of the units' values, known to all of them.
#[cube]
fn largest(shared: &mut Shared<[f32]>, value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut active = CUBE_DIM;
    while active > 1 {
        active /= 2;
        if UNIT_POS < active {
            shared[unit] = max(shared[unit], shared[unit + active as usize]);
        }
        sync_cube();
    }
    shared[0]
}

/// Sum of the units' values, known to all of them; always in the same order.
#[cube]
fn total(shared: &mut Shared<[f32]>, value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut active = CUBE_DIM;
    while active > 1 {
        active /= 2;
        if UNIT_POS < active {
            let other = shared[unit + active as usize];
            shared[unit] += other;
        }
        sync_cube();
    }
    shared[0]
}

/// −log softmax(z + bias) at the target, and, in place of the logits, weight · (softmax − onehot).
#[cube(launch_unchecked)]
fn softmax_row<F: Float, I: Int>(
    logits: &mut [F],   // [rows, classes]
    bias: &[F],         // [classes]
    targets: &[I],      // [rows]
    weights: &[f32],    // [rows]
    losses: &mut [f32], // [rows]
    rows: usize,
    classes: usize,
    #[comptime] units: usize,
    #[comptime] biased: bool,
    #[comptime] weighted: bool,
    #[comptime] gradients: bool,
    #[define(F, I)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let start = row * classes;

    let mut most = f32::new(-3.0e38f32);
    let mut class = unit;
    while class < classes {
        let mut z = f32::cast_from(logits[start + class]);
        if comptime!(biased) {
            z += f32::cast_from(bias[class]);
        }
        most = max(most, z);
        class += units;
    }
    let most = largest(&mut shared, most);

    let mut sum = 0.0f32;
    let mut class = unit;
    while class < classes {
        let mut z = f32::cast_from(logits[start + class]);
        if comptime!(biased) {
            z += f32::cast_from(bias[class]);
        }
        sum += (z - most).exp();
        class += units;
    }
    let sum = total(&mut shared, sum);

    // A target that is no class (a negative one is a large number here) has no loss: NaN, and the softmax as its gradient.
    let target = usize::cast_from(targets[row]);
    if unit == 0 && target >= classes {
        losses[row] = (f32::new(-1.0f32) - sum).sqrt();
    }
    if unit == 0 && target < classes {
        let mut z = f32::cast_from(logits[start + target]);
        if comptime!(biased) {
            z += f32::cast_from(bias[target]);
        }
        losses[row] = sum.ln() - (z - most);
    }
    if comptime!(gradients) {
        // Unit 0 has read the target's logit before anyone overwrites it.
        sync_cube();
        let mut weight = 1.0f32;
        if comptime!(weighted) {
            weight = weights[row];
        }
        let mut class = unit;
        while class < classes {
            let mut z = f32::cast_from(logits[start + class]);
            if comptime!(biased) {
                z += f32::cast_from(bias[class]);
            }
            let mut p = (z - most).exp() / sum;
            if class == target {
                p -= 1.0f32;
            }
            logits[start + class] = F::cast_from(weight * p);
            class += units;
        }
    }
}

/// [`CubeOps::softmax_rows`](super::CubeOps::softmax_rows).
pub(super) fn softmax_rows(
    logits: CubeTensor,
    bias: CubeTensor,
    targets: CubeTensor,
    weights: CubeTensor,
    has: SoftmaxFlags,
) -> (CubeTensor, CubeTensor) {
    let place = Place::of(&logits);
    let (rows, classes) = (logits.meta.shape()[0], logits.meta.shape()[1]);
    let logits = writable(logits);
    let losses = place.empty_as(&[rows], DType::F32);
    let (count, dim, units) = place.rows(rows);
    let elems = [float_elem(place.dtype), int_elem(targets.dtype)];
    // SAFETY: rows and classes are the logits' own; a target that is no class is not followed.
    unsafe {
        softmax_row::launch_unchecked(
            &place.client,
            count,
            dim,
            logits.clone().into_buffer_arg(),
            into_contiguous(bias).into_buffer_arg(),
            into_contiguous(targets).into_buffer_arg(),
            into_contiguous(weights).into_buffer_arg(),
            losses.clone().into_buffer_arg(),
            rows,
            classes,
            units,
            has.bias,
            has.weights,
            has.gradients,
            elems,
        );
    }
    (losses, logits)
}
