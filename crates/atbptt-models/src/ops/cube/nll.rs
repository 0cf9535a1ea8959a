//! Softmax and negative log-likelihood of rows of logits: one cube per row, one launch per block of rows.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Place, fold, int_elem, writable};
use crate::ops::types::Optional;

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
    let most = fold(&mut shared, most, true);

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
    let sum = fold(&mut shared, sum, false);

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
    bias: Optional<CubeBackend>,
    targets: CubeTensor,
    weights: Optional<CubeBackend>,
    gradients: bool,
) -> (CubeTensor, CubeTensor) {
    let place = Place::of(&logits);
    let (rows, classes) = (logits.meta.shape()[0], logits.meta.shape()[1]);
    let logits = writable(logits);
    let losses = place.empty_as(&[rows], DType::F32);
    // For what is absent, and never read.
    let nothing = place.empty_as(&[1], DType::F32);
    let (biased, weighted) = (bias.is_given(), weights.is_given());
    let [bias, weights] =
        [bias, weights].map(|tensor| tensor.into_option().unwrap_or_else(|| nothing.clone()));
    let (count, dim, units) = place.rows(rows);
    let elems = [place.elem(), int_elem(targets.dtype)];
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
            biased,
            weighted,
            gradients,
            elems,
        );
    }
    (losses, logits)
}
