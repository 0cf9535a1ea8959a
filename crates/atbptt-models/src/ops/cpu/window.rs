//! A window's arguments as slices, what steps hand over to each other, and the large products after the loop.

use super::amx;
use super::matrix::Matrix;
use super::pool::{Buffer, UninitBuffer};
use super::product::product;
use super::shared::{Shared, Target};
use super::simd::Real;
use super::sum_rows::sum_rows;

/// Rows of a product from which a transposed copy of the weights pays: the `gemm` crate reads it up to a sixth faster.
const TRANSPOSE_ROWS: usize = 512;
/// Rows up to which the states that enter the steps are copied.
const FEW_ROWS: usize = 64;

/// A window's arguments, contiguous; shapes as in the [`ops`](crate::ops) module.
pub(crate) struct Window<'a, E> {
    pub time: usize,
    pub batch: usize,
    pub inputs: usize,
    pub hidden: usize,
    pub input: &'a [E],
    pub input_weight: &'a [E],
    /// Empty for cells without.
    pub recurrent_weight: &'a [E],
    pub bias: &'a [E],
    /// Empty for cells without.
    pub recurrent_bias: &'a [E],
    pub state: &'a [E],
    pub taps: Option<&'a [E]>,
    pub reset_mask: Option<&'a [E]>,
}

/// Gradients as buffers; see [`SequenceGradients`](crate::ops::types::SequenceGradients).
pub(crate) struct Gradients<E> {
    pub input: Option<Buffer<E>>,
    pub input_weight: Option<Buffer<E>>,
    pub recurrent_weight: Option<Buffer<E>>,
    pub bias: Option<Buffer<E>>,
    pub recurrent_bias: Option<Buffer<E>>,
    pub state: Buffer<E>,
    pub taps: Option<Buffer<E>>,
}

/// A copy of an optional slice's address, for kernels.
pub(crate) fn address<E>(slice: Option<&[E]>) -> Option<Shared<E>> {
    slice.map(Shared::read_only)
}

/// The left factor of the recurrent product, for this step and the next: `[B, K]` with rows apart from each other, so
/// that rows of 2ⁿ elements do not share one set of the cache.
pub(crate) struct DoubleBuffer<E> {
    buffers: [Buffer<E>; 2],
    stride: usize,
}

impl<E: Real> DoubleBuffer<E> {
    pub(crate) fn new(batch: usize, width: usize) -> Self {
        let stride = width.next_multiple_of(16) + 16;
        Self {
            buffers: [Buffer::zeros(batch * stride), Buffer::zeros(batch * stride)],
            stride,
        }
    }

    pub(crate) fn row(&mut self, index: usize) -> &mut [E] {
        &mut self.buffers[0][index * self.stride..][..self.stride]
    }

    pub(crate) fn share(&mut self) -> DoubleBufferParts<E> {
        let [a, b] = &mut self.buffers;
        DoubleBufferParts {
            buffers: [Shared::new(a), Shared::new(b)],
            stride: self.stride,
        }
    }
}

/// A [`DoubleBuffer`] in use.
#[derive(Clone, Copy)]
pub(crate) struct DoubleBufferParts<E> {
    buffers: [Shared<E>; 2],
    stride: usize,
}

impl<E: Real> DoubleBufferParts<E> {
    /// What `step` reads.
    pub(crate) fn left(&self, step: usize) -> (*const E, usize) {
        // SAFETY: the first element exists.
        (unsafe { self.buffers[step % 2].at(0) }, self.stride)
    }

    /// Where `step` reads row `row`.
    ///
    /// # Safety
    /// The row exists.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, step: usize, row: usize) -> *mut E {
        // SAFETY: the caller's promise.
        unsafe { self.buffers[step % 2].at(row * self.stride) }
    }
}

impl<E: Real> Window<'_, E> {
    /// Rows of all steps.
    pub(crate) fn rows(&self) -> usize {
        self.time * self.batch
    }

    /// x W of all steps, into rows `stride` apart.
    pub(crate) fn input_product(&self, out: Target<'_, E>, stride: usize) {
        let gates = self.input_weight.len() / self.inputs;
        product(
            out,
            stride,
            false,
            Matrix::new(self.input, self.rows(), self.inputs),
            Matrix::new(self.input_weight, self.inputs, gates),
        );
    }

    /// The mask of step `t` for sequence `b`.
    fn mask(&self, t: usize, b: usize) -> E {
        self.reset_mask
            .map_or(E::ONE, |mask| mask[t * self.batch + b])
    }

    /// `part` (0 or 1) of the initial state of sequence `b` as it enters the first step; states hold `size` values.
    pub(crate) fn first(&self, b: usize, part: usize, size: usize) -> impl Iterator<Item = E> + '_ {
        let mask = self.mask(0, b);
        let masked = self.reset_mask.is_some();
        self.state[b * size + part * self.hidden..][..self.hidden]
            .iter()
            .map(move |&value| {
                let mut value = value;
                if masked {
                    value *= mask;
                }
                value
            })
    }

    /// xᵀ d of the steps from `first` on: `[I, G]`.
    pub(crate) fn input_weight_grad(&self, grad: &[E], gates: usize, first: usize) -> Buffer<E> {
        let (skipped, rows) = self.from(first);
        let mut out = UninitBuffer::new(self.inputs * gates);
        product(
            out.target(),
            gates,
            false,
            Matrix::new(&self.input[skipped * self.inputs..], rows, self.inputs).transposed(),
            Matrix::new(&grad[skipped * gates..], rows, gates),
        );
        // SAFETY: the product wrote all of it.
        unsafe { out.assume_init() }
    }

    /// d Wᵀ: `[T, B, I]`, zero in the steps before `first`.
    pub(crate) fn input_grad(&self, grad: &[E], gates: usize, first: usize) -> Buffer<E> {
        let (skipped, rows) = self.from(first);
        let mut out = UninitBuffer::new(self.rows() * self.inputs);
        out.clear(skipped * self.inputs);
        let grad = Matrix::new(&grad[skipped * gates..], rows, gates);
        let weight = Matrix::new(self.input_weight, self.inputs, gates);
        let target = out.target_from(skipped * self.inputs);
        let [sum, columns] = [gates, self.inputs];
        if rows < TRANSPOSE_ROWS || amx::takes::<E>([rows, columns, sum]) {
            product(target, self.inputs, false, grad, weight.transposed());
        } else {
            let copy = weight.transposed_copy();
            let copy = Matrix::new(&copy, gates, self.inputs);
            product(target, self.inputs, false, grad, copy);
        }
        // SAFETY: the product wrote all that was not cleared.
        unsafe { out.assume_init() }
    }

    /// Σ d over batch and the steps from `first` on.
    pub(crate) fn bias_grad(&self, grad: &[E], gates: usize, first: usize) -> Buffer<E> {
        let (skipped, rows) = self.from(first);
        let mut out = Buffer::zeros(gates);
        sum_rows(&mut out, &grad[skipped * gates..], rows, gates);
        out
    }

    /// Rows before time step `first`, and from it on.
    fn from(&self, first: usize) -> (usize, usize) {
        (first * self.batch, (self.time - first) * self.batch)
    }

    /// hᵀ d over the steps from `first` on, h the hidden state entering each, from packed `states` of `size` values per
    /// sequence. `grads` lists the gradient's column blocks: values, columns, columns per row. Result `[H, Σ columns]`.
    pub(crate) fn recurrent_weight_grad(
        &self,
        states: &[E],
        size: usize,
        grads: &[(&[E], usize, usize)],
        first: usize,
    ) -> Buffer<E> {
        let (batch, hidden) = (self.batch, self.hidden);
        let (skipped, rows) = self.from(first);
        let total = grads.iter().map(|grad| grad.1).sum();
        let mut out = UninitBuffer::new(hidden * total);
        let changed = self.taps.is_some() || self.reset_mask.is_some();
        // Of few rows a copy costs less than a second product, which reads and writes the result again.
        let entering = (changed || first == 0 && rows <= FEW_ROWS).then(|| {
            let mut entering = Buffer::zeros(rows * hidden);
            for (row, out) in (skipped..).zip(entering.chunks_exact_mut(hidden)) {
                let (t, b) = (row / batch, row % batch);
                if t == 0 {
                    out.iter_mut()
                        .zip(self.first(b, 0, size))
                        .for_each(|(out, value)| *out = value);
                    continue;
                }
                let from = (row - batch) * size;
                out.copy_from_slice(&states[from..from + hidden]);
                if let Some(taps) = self.taps {
                    for (out, &tap) in out.iter_mut().zip(&taps[from..]) {
                        *out += tap;
                    }
                }
                if self.reset_mask.is_some() {
                    let mask = self.mask(t, b);
                    out.iter_mut().for_each(|out| *out *= mask);
                }
            }
            entering
        });
        let mut from = 0;
        for &(grad, columns, stride) in grads {
            let column = from;
            from += columns;
            let grad = |first: usize, rows: usize| {
                Matrix::strided(&grad[first * stride..], rows, columns, stride)
            };
            match &entering {
                Some(entering) => product(
                    out.target_from(column),
                    total,
                    false,
                    Matrix::new(entering, rows, hidden).transposed(),
                    grad(skipped, rows),
                ),
                // The states shifted by one step, without a copy.
                None => {
                    let initial = if first == 0 { batch } else { 0 };
                    if initial > 0 {
                        let state = Matrix::strided(self.state, batch, hidden, size);
                        product(
                            out.target_from(column),
                            total,
                            false,
                            state.transposed(),
                            grad(0, batch),
                        );
                    }
                    if rows > initial {
                        let from = skipped + initial;
                        let states = &states[(from - batch) * size..];
                        let shifted = Matrix::strided(states, rows - initial, hidden, size);
                        let grad = grad(from, rows - initial);
                        product(
                            out.target_from(column),
                            total,
                            initial > 0,
                            shifted.transposed(),
                            grad,
                        );
                    }
                }
            }
        }
        // SAFETY: there are rows, so that a product wrote every column block before any was added to it.
        unsafe { out.assume_init() }
    }
}
