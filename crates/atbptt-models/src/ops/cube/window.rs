//! What the windows of all cells share: the state that enters the first step, the gradient that leaves it.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Present;
use super::launch::Place;

/// Sizes of a window.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub time: usize,
    pub batch: usize,
    pub hidden: usize,
}

impl Sizes {
    /// Of a tensor `[T, B, …]` and the recurrent weight `[H, …]`.
    pub fn of(steps: &CubeTensor, recurrent_weight: &CubeTensor) -> Self {
        let shape = steps.meta.shape();
        Self {
            time: shape[0],
            batch: shape[1],
            hidden: recurrent_weight.meta.shape()[0],
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
    keep: &[F],
    t: usize,
    b: usize,
    batch: usize,
    #[comptime] kept: bool,
) -> f32 {
    let mut mask = 1.0f32;
    if comptime!(kept) {
        mask = f32::cast_from(keep[t * batch + b]);
    }
    mask
}

/// Zeros in all of a cube's memory; the caller waits for the other units.
#[cube]
pub(super) fn zero(shared: &mut Shared<[f32]>, #[comptime] len: usize, #[comptime] units: usize) {
    let mut at = UNIT_POS as usize;
    while at < len {
        shared[at] = 0.0f32;
        at += units;
    }
}

/// Splits the state into what the first product reads and, LSTM, the cell, with the reset mask of the first step applied.
#[cube(launch_unchecked)]
fn enter<F: Float>(
    state: &[F],
    keep: &[F],
    h_in: &mut [F],
    c_in: &mut [f32],
    batch: usize,
    hidden: usize,
    #[comptime] cell: bool,
    #[comptime] kept: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= batch * hidden {
        terminate!();
    }
    let b = ABSOLUTE_POS / hidden;
    let j = ABSOLUTE_POS % hidden;
    let size = comptime!(if cell { 2usize } else { 1usize });
    let at = b * size * hidden + j;
    let mask = mask(keep, 0, b, batch, kept);
    h_in[ABSOLUTE_POS] = F::cast_from(f32::cast_from(state[at]) * mask);
    if comptime!(cell) {
        c_in[ABSOLUTE_POS] = f32::cast_from(state[at + hidden]) * mask;
    }
}

/// The state entering step 0: hidden `[B, H]` and, where `cell`, cell `[B, H]` in f32 (else one element).
pub(super) fn entering_state(
    place: &Place,
    sizes: Sizes,
    state: &CubeTensor,
    keep: &CubeTensor,
    present: Present,
    cell: bool,
) -> (CubeTensor, CubeTensor) {
    let h_in = place.empty(&[sizes.batch, sizes.hidden]);
    let c_dims = if cell {
        [sizes.batch, sizes.hidden]
    } else {
        [1, 1]
    };
    let c_in = place.empty_as(&c_dims, burn::tensor::DType::F32);
    let (count, dim) = place.elementwise(sizes.units());
    // SAFETY: every index stays below the buffers' lengths, which the sizes give; units past the last one stop.
    unsafe {
        enter::launch_unchecked(
            &place.client,
            count,
            dim,
            state.clone().into_buffer_arg(),
            keep.clone().into_buffer_arg(),
            h_in.clone().into_buffer_arg(),
            c_in.clone().into_buffer_arg(),
            sizes.batch,
            sizes.hidden,
            cell,
            present.keep,
            place.elem(),
        );
    }
    (h_in, c_in)
}

/// Joins what the first step hands back: the product with Rᵀ, plus (GRU) or beside (LSTM) what flows past it.
#[cube(launch_unchecked)]
fn leave<F: Float>(
    product: &[F],
    carried: &[f32],
    keep: &[F],
    d_state: &mut [F],
    batch: usize,
    hidden: usize,
    #[comptime] cell: bool,
    #[comptime] past: bool,
    #[comptime] kept: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= batch * hidden {
        terminate!();
    }
    let b = ABSOLUTE_POS / hidden;
    let j = ABSOLUTE_POS % hidden;
    let size = comptime!(if cell { 2usize } else { 1usize });
    let at = b * size * hidden + j;
    let mask = mask(keep, 0, b, batch, kept);
    let mut d_h = f32::cast_from(product[ABSOLUTE_POS]);
    if comptime!(past) {
        d_h += carried[ABSOLUTE_POS];
    }
    d_state[at] = F::cast_from(d_h * mask);
    if comptime!(cell) {
        d_state[at + hidden] = F::cast_from(carried[ABSOLUTE_POS] * mask);
    }
}

/// What a cell carries past its products.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// Tanh RNN: nothing.
    Nothing,
    /// GRU: a part of the hidden state's gradient.
    Hidden,
    /// LSTM: the cell's gradient.
    Cell,
}

/// Gradient of the initial state, `[B, S]`.
pub(super) fn leaving_grad(
    place: &Place,
    sizes: Sizes,
    product: CubeTensor,
    carried: CubeTensor,
    keep: CubeTensor,
    present: Present,
    carries: Carries,
) -> CubeTensor {
    let cell = carries == Carries::Cell;
    let size = if cell { 2 } else { 1 };
    let d_state = place.empty(&[sizes.batch, size * sizes.hidden]);
    let (count, dim) = place.elementwise(sizes.units());
    // SAFETY: as above.
    unsafe {
        leave::launch_unchecked(
            &place.client,
            count,
            dim,
            product.into_buffer_arg(),
            carried.into_buffer_arg(),
            keep.into_buffer_arg(),
            d_state.clone().into_buffer_arg(),
            sizes.batch,
            sizes.hidden,
            cell,
            carries == Carries::Hidden,
            present.keep,
            place.elem(),
        );
    }
    d_state
}

/// Step `t` of a contiguous `[T, B, F]` as `[B, F]`: a view where the device's alignment allows it.
pub(super) fn step(tensor: &CubeTensor, t: usize) -> CubeTensor {
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

/// All of a kernel's inputs are read by flat index.
pub(super) fn flat(tensors: [CubeTensor; 3]) -> [CubeTensor; 3] {
    tensors.map(into_contiguous)
}
