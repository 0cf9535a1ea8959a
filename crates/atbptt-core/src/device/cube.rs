//! The norms on CubeCL backends (wgpu, CUDA, …) in one launch.
//!
//! One cube of units per lag and sequence, and one per running sum over lags: the batch mean's and each sequence's. Computed in
//! f32. A value that is not finite reaches the norm: NaN through the sum of squares, infinity through ∞ / ∞.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Place, float_elem, fold};

#[cube(launch_unchecked)]
fn norms<F: Float, W: Float>(
    grads: &[F],      // [time, batch, features]
    weights: &[W],    // [features]
    sums: &mut [f32], // [1 + batch, features], scratch: the running sums, the batch mean's first
    out: &mut [f32],  // [lag, 1 + 2 · batch]
    lags: usize,
    batch: usize,
    features: usize,
    #[comptime] units: usize,
    #[comptime] weighted: bool,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let rows = lags * batch;
    let columns = 1 + 2 * batch;
    let row = CUBE_POS;
    if row > rows + batch {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    if row < rows {
        let start = row * features;
        let mut most = 0.0f32;
        let mut i = unit;
        while i < features {
            most = max(most, f32::cast_from(grads[start + i]).abs());
            i += units;
        }
        // The floor keeps a row of zeros from dividing by zero, and is a normal f32.
        let most = max(fold(&mut shared, most, true), 1.0e-37f32);
        let mut sum = 0.0f32;
        let mut i = unit;
        while i < features {
            let g = f32::cast_from(grads[start + i]) / most;
            let mut square = g * g;
            if comptime!(weighted) {
                square *= f32::cast_from(weights[i]);
            }
            sum += square;
            i += units;
        }
        let sum = fold(&mut shared, sum, false);
        if unit == 0 {
            // The earliest step has the largest lag.
            let lag = lags - 1 - row / batch;
            out[lag * columns + row % batch] = sum.sqrt() * most;
        }
    } else {
        // The mean over the batch, or one sequence alone.
        let which = row - rows;
        let start = which * features;
        let mut first = 0usize;
        let mut end = batch;
        let mut scale = 1.0f32 / f32::cast_from(batch as u32);
        if which > 0 {
            first = which - 1;
            end = which;
            scale = 1.0f32;
        }
        let mut i = unit;
        while i < features {
            sums[start + i] = 0.0f32;
            i += units;
        }
        for lag in 0..lags {
            let step = lags - 1 - lag;
            let mut most = 0.0f32;
            let mut i = unit;
            while i < features {
                let mut mean = 0.0f32;
                for sequence in first..end {
                    mean += f32::cast_from(grads[(step * batch + sequence) * features + i]) * scale;
                }
                let kept = sums[start + i] + mean;
                sums[start + i] = kept;
                most = max(most, kept.abs());
                i += units;
            }
            let most = max(fold(&mut shared, most, true), 1.0e-37f32);
            let mut sum = 0.0f32;
            let mut i = unit;
            while i < features {
                let kept = sums[start + i] / most;
                let mut square = kept * kept;
                if comptime!(weighted) {
                    square *= f32::cast_from(weights[i]);
                }
                sum += square;
                i += units;
            }
            let sum = fold(&mut shared, sum, false);
            if unit == 0 {
                out[lag * columns + batch + which] = sum.sqrt() * most;
            }
        }
    }
}

/// The norms of `grads` `[time, batch, features]` as `[lag, 1 + 2 · batch]`; `None` for a type the kernel does not serve.
pub(super) fn reduce(grads: &CubeTensor, weights: Option<&CubeTensor>) -> Option<CubeTensor> {
    let elem = float_elem(grads.dtype)?;
    let weight_elem = weights.map_or(Some(elem), |weights| float_elem(weights.dtype))?;
    let shape = grads.meta.shape();
    let (lags, batch, features) = (shape[0], shape[1], shape[2]);
    let place = Place::of(grads);
    let out = place.empty_as(&[lags, 1 + 2 * batch], DType::F32);
    let sums = place.empty_as(&[1 + batch, features], DType::F32);
    let grads = into_contiguous(grads.clone());
    let weighted = weights.is_some();
    let weights = weights.map_or_else(|| grads.clone(), |w| into_contiguous(w.clone()));
    let (count, dim, units) = place.rows(lags * batch + batch + 1);
    // SAFETY: lags, batch and features are the gradients' own; weights have one value per feature (checked by the caller).
    unsafe {
        norms::launch_unchecked(
            &place.client,
            count,
            dim,
            grads.into_buffer_arg(),
            weights.into_buffer_arg(),
            sums.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            lags,
            batch,
            features,
            units,
            weighted,
            [elem, weight_elem],
        );
    }
    Some(out)
}
