//! Where a window begins and ends: the state that enters the first step, the gradient that leaves it.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Argument, Place};
use super::unit::Options;
use crate::ops::cell::Carry;

/// Sizes of a window on the device.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub time: usize,
    pub batch: usize,
    pub hidden: usize,
}

impl Extent {
    /// Of a tensor `[T, B, blocks · H]`.
    pub fn of(steps: &CubeTensor, blocks: usize) -> Self {
        let shape = steps.meta.shape();
        Self {
            time: shape[0],
            batch: shape[1],
            hidden: shape[2] / blocks,
        }
    }

    pub fn units(self) -> usize {
        self.batch * self.hidden
    }
}

/// σ(x).
#[cube]
pub(super) fn sigma(x: f32) -> f32 {
    1.0f32 / (1.0f32 + (-x).exp())
}

/// What multiplies the state that enters step `t` of sequence `b`: one where nothing resets it.
#[cube]
pub(super) fn mask<F: Float>(
    reset_mask: &[F],
    t: usize,
    b: usize,
    batch: usize,
    #[comptime] resets: bool,
) -> f32 {
    let mut mask = 1.0f32;
    if comptime!(resets) {
        mask = f32::cast_from(reset_mask[t * batch + b]);
    }
    mask
}

/// Splits the state into what the first product reads and the cell, where there is one, with the reset mask of the first step
/// applied.
#[cube(launch_unchecked)]
fn enter<F: Float>(
    state: &[F],
    reset_mask: &[F],
    h_in: &mut [F],
    c_in: &mut [f32],
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
    let parts = comptime!(options.parts());
    let at = b * parts * hidden + j;
    let mask = mask(reset_mask, 0, b, batch, comptime!(options.resets));
    h_in[ABSOLUTE_POS] = F::cast_from(f32::cast_from(state[at]) * mask);
    if comptime!(parts > 1) {
        c_in[ABSOLUTE_POS] = f32::cast_from(state[at + hidden]) * mask;
    }
}

/// The state entering step 0: hidden `[B, H]` and, of cells that have one, cell `[B, H]` in f32 (else one element).
pub(super) fn entering_state(
    place: &Place,
    extent: Extent,
    state: &CubeTensor,
    reset_mask: &Option<CubeTensor>,
    options: Options,
) -> (CubeTensor, CubeTensor) {
    let dims = [extent.batch, extent.hidden];
    let h_in = place.empty(&dims);
    let c_dims = if options.parts() > 1 { dims } else { [1, 1] };
    let c_in = place.empty_as(&c_dims, DType::F32);
    let (count, dim) = place.elementwise(extent.units());
    // SAFETY: every index stays below the buffers' lengths, which the extent gives; units past the last one stop.
    unsafe {
        enter::launch_unchecked(
            &place.client,
            count,
            dim,
            state.argument(),
            reset_mask.argument(),
            h_in.argument(),
            c_in.argument(),
            extent.batch,
            extent.hidden,
            options,
            place.elem(),
        );
    }
    (h_in, c_in)
}

/// Joins what the first step returns: the product with Rᵀ, and what the cell carries past it or beside it.
#[cube(launch_unchecked)]
fn leave<F: Float>(
    product: &[F],
    carried: &[f32],
    reset_mask: &[F],
    d_state: &mut [F],
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
    let parts = comptime!(options.parts());
    let at = b * parts * hidden + j;
    let mask = mask(reset_mask, 0, b, batch, comptime!(options.resets));
    let mut d_h = f32::cast_from(product[ABSOLUTE_POS]);
    if comptime!(options.carry() == Carry::Hidden) {
        d_h += carried[ABSOLUTE_POS];
    }
    d_state[at] = F::cast_from(d_h * mask);
    if comptime!(parts > 1) {
        d_state[at + hidden] = F::cast_from(carried[ABSOLUTE_POS] * mask);
    }
}

/// Gradient of the initial state, `[B, S]`.
pub(super) fn leaving_grad(
    place: &Place,
    extent: Extent,
    product: CubeTensor,
    carried: CubeTensor,
    reset_mask: &Option<CubeTensor>,
    options: Options,
) -> CubeTensor {
    let d_state = place.empty(&[extent.batch, options.parts() * extent.hidden]);
    let (count, dim) = place.elementwise(extent.units());
    // SAFETY: as above.
    unsafe {
        leave::launch_unchecked(
            &place.client,
            count,
            dim,
            product.argument(),
            carried.argument(),
            reset_mask.argument(),
            d_state.argument(),
            extent.batch,
            extent.hidden,
            options,
            place.elem(),
        );
    }
    d_state
}

/// Step `t` of a contiguous `[T, B, F]` as `[B, F]`: a view where the device's alignment allows it.
pub(super) fn step_of(tensor: &CubeTensor, t: usize) -> CubeTensor {
    let shape = tensor.meta.shape().clone();
    let (batch, features) = (shape[1], shape[2]);
    let one = burn_cubecl::kernel::slice(tensor.clone(), &[t..t + 1, 0..batch, 0..features]);
    burn_cubecl::ops::reshape(one, [batch, features].into())
}

/// Rᵀ, a view: the products take either layout.
pub(super) fn transposed(weight: CubeTensor) -> CubeTensor {
    use burn::backend::ops::FloatTensorOps as _;
    burn_cubecl::CubeBackend::float_transpose(weight)
}
