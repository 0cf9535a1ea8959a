//! Embedding gradient and gradient descent, one launch each.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Place, int_elem, writable};

/// Cube `n` adds all rows whose token is that of row `n`, unless an earlier row has it: no two cubes write the same row, and
/// the order of every sum is fixed.
#[cube(launch_unchecked)]
#[allow(clippy::needless_range_loop)] // Kernels have no iterators over slices.
fn add_row<F: Float, I: Int>(
    into: &mut [F], // [V, F]
    tokens: &[I],   // [N]
    grad: &[F],     // [N, F]
    rows: usize,
    width: usize,
    vocabulary: usize,
    #[define(F, I)] _dtypes: [ElemType; 2],
) {
    let n = CUBE_POS;
    if n >= rows {
        terminate!();
    }
    let token = tokens[n];
    for earlier in 0..n {
        if tokens[earlier] == token {
            terminate!();
        }
    }
    // No word's row (a negative token is a large number here): nothing to add to.
    if usize::cast_from(token) >= vocabulary {
        terminate!();
    }
    let to = usize::cast_from(token) * width;
    let mut feature = UNIT_POS as usize;
    while feature < width {
        let mut sum = f32::cast_from(into[to + feature]);
        for row in n..rows {
            if tokens[row] == token {
                sum += f32::cast_from(grad[row * width + feature]);
            }
        }
        into[to + feature] = F::cast_from(sum);
        feature += CUBE_DIM as usize;
    }
}

/// [`CubeOps::add_rows`](super::CubeOps::add_rows).
pub(super) fn add_rows(into: CubeTensor, tokens: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let place = Place::of(&into);
    let (rows, width) = (grad.meta.shape()[0], grad.meta.shape()[1]);
    let vocabulary = into.meta.shape()[0];
    let into = writable(into);
    if rows == 0 {
        return into;
    }
    let (count, dim, _) = place.rows(rows);
    let elems = [place.elem(), int_elem(tokens.dtype)];
    // SAFETY: rows and width are the gradient's own; a token that is no row of `into` is left out.
    unsafe {
        add_row::launch_unchecked(
            &place.client,
            count,
            dim,
            into.clone().into_buffer_arg(),
            into_contiguous(tokens).into_buffer_arg(),
            into_contiguous(grad).into_buffer_arg(),
            rows,
            width,
            vocabulary,
            elems,
        );
    }
    into
}

/// Into the gradient's memory.
#[cube(launch_unchecked)]
fn sgd_step_one<F: Float>(
    weight: &[F],
    grad: &mut [F],
    rate: f32,
    decay: f32,
    elements: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= elements {
        terminate!();
    }
    let w = f32::cast_from(weight[ABSOLUTE_POS]);
    let g = f32::cast_from(grad[ABSOLUTE_POS]);
    grad[ABSOLUTE_POS] = F::cast_from(w - rate * (g + decay * w));
}

/// [`CubeOps::sgd_step_in_one`](super::CubeOps::sgd_step_in_one).
pub(super) fn sgd_step(weight: CubeTensor, grad: CubeTensor, rate: f32, decay: f32) -> CubeTensor {
    let place = Place::of(&weight);
    let elements = weight.meta.num_elements();
    let grad = writable(grad);
    if elements == 0 {
        return grad;
    }
    let (count, dim) = place.elementwise(elements);
    // SAFETY: weight and gradient have as many elements.
    unsafe {
        sgd_step_one::launch_unchecked(
            &place.client,
            count,
            dim,
            into_contiguous(weight).into_buffer_arg(),
            grad.clone().into_buffer_arg(),
            rate,
            decay,
            elements,
            place.elem(),
        );
    }
    grad
}
