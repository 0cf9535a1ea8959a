//! What surrounds the layers in training (embedding, dropout, passes over weights) on plain slices: one pass each, over all
//! threads where the tensor is large.
//!
//! Whatever the number of threads, the bits are the same: elementwise work has no order, and sums are taken over pieces
//! of fixed size, then over the pieces in order.

use atbptt_core::seed::{GAMMA, scramble};
use burn::backend::{
    TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Distribution};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::host::Host;
use super::pool::{Buffer, UninitBuffer};
use super::shared::Shared;
use super::simd::{Level, Real};
use super::threads::{self, shared};
use super::{Held, by_type};
use crate::ops::draws::{BatchPart, SharedDraw};
use crate::ops::reference::step as reference;
use crate::ops::types::{DropoutMask, MaskSeed};

/// Elements per task.
const PIECE: usize = 1 << 14;
/// Elements from which a second thread pays for its waking up.
const PARALLEL: usize = 1 << 17;
/// Multiplications that take about as long as reading and writing an element.
const ELEMENT_WORK: usize = threads::SHARED_WORK / PARALLEL;

/// Runs a pass over `elements` elements as a kernel.
fn pass<R: Send>(elements: usize, kernel: impl FnOnce() -> R + Send) -> R {
    threads::inside(elements.saturating_mul(ELEMENT_WORK), kernel)
}

/// Runs `work(index, out, in)` on the pieces of two slices of one length.
fn in_pieces<E: Real>(out: &mut [E], from: &[E], work: impl Fn(usize, &mut [E], &[E]) + Sync) {
    pass(out.len(), || {
        if shared(out.len() >= PARALLEL) {
            out.par_chunks_mut(PIECE)
                .zip(from.par_chunks(PIECE))
                .enumerate()
                .for_each(|(index, (out, from))| work(index, out, from));
        } else {
            let pieces = out.chunks_mut(PIECE).zip(from.chunks(PIECE)).enumerate();
            pieces.for_each(|(index, (out, from))| work(index, out, from));
        }
    })
}

/// Runs `work(row)` on every row of `width` elements.
fn in_rows(rows: usize, width: usize, work: impl Fn(usize) + Send + Sync) {
    pass(rows * width, || {
        if shared(rows * width >= PARALLEL) {
            let rows = (0..rows).into_par_iter();
            rows.with_min_len(PIECE.div_ceil(width)).for_each(work);
        } else {
            (0..rows).for_each(work);
        }
    })
}

/// A buffer of `len` elements, written by `write`.
///
/// # Safety
/// `write` writes every element through the pointer.
unsafe fn written<E: Real>(len: usize, write: impl FnOnce(Shared<E>)) -> Buffer<E> {
    let mut buffer = UninitBuffer::new(len);
    write(buffer.share());
    // SAFETY: the caller's promise.
    unsafe { buffer.assume_init() }
}

pub(crate) fn first_features_forward<B: Host>(
    tensor: FloatTensor<B>,
    count: usize,
) -> FloatTensor<B> {
    by_type!(tensor, E => {
        let shape = tensor.shape().to_vec();
        let (rows, size) = (shape[0] * shape[1], shape[2]);
        Held::<B>::new::<E>(&tensor, rows * size).and_then(|held| {
            let from = held.elements::<E>()?;
            // SAFETY: every row is written, `count` elements each.
            let out = unsafe {
                written(rows * count, |out| {
                    in_rows(rows, count, |row| {
                        let from = from[row * size..][..count].as_ptr();
                        std::ptr::copy_nonoverlapping(from, out.at(row * count), count);
                    });
                })
            };
            Some(B::tensor(out, vec![shape[0], shape[1], count]))
        })
    })
    .unwrap_or_else(|| reference::first_features_forward::<B>(tensor, count))
}

pub(crate) fn first_features_backward<B: Host>(
    grad: FloatTensor<B>,
    size: usize,
) -> FloatTensor<B> {
    by_type!(grad, E => {
        let shape = grad.shape().to_vec();
        let (rows, count) = (shape[0] * shape[1], shape[2]);
        Held::<B>::new::<E>(&grad, rows * count).and_then(|held| {
            let from = held.elements::<E>()?;
            // SAFETY: every row is written: `count` elements and zeros up to `size`.
            let out = unsafe {
                written(rows * size, |out| {
                    in_rows(rows, size, |row| {
                        let line = out.at(row * size);
                        let from = from[row * count..][..count].as_ptr();
                        std::ptr::copy_nonoverlapping(from, line, count);
                        std::ptr::write_bytes(line.add(count), 0, size - count);
                    });
                })
            };
            Some(B::tensor(out, vec![shape[0], shape[1], size]))
        })
    })
    .unwrap_or_else(|| reference::first_features_backward::<B>(grad, size))
}

pub(crate) fn embedding_rows_forward<B: Host>(
    weight: FloatTensor<B>,
    tokens: IntTensor<B>,
) -> FloatTensor<B> {
    by_type!(weight, E => {
        let shape = weight.shape().to_vec();
        let (rows, features) = (shape[0], shape[1]);
        B::indices(&tokens, rows).zip(Held::<B>::new::<E>(&weight, rows * features)).and_then(|(tokens, held)| {
            let from = held.elements::<E>()?;
            // SAFETY: a row is written for every token.
            let out = unsafe {
                written(tokens.len() * features, |out| {
                    in_rows(tokens.len(), features, |index| {
                        let row = from[tokens[index] * features..][..features].as_ptr();
                        std::ptr::copy_nonoverlapping(row, out.at(index * features), features);
                    });
                })
            };
            Some(B::tensor(out, vec![tokens.len(), features]))
        })
    })
    .unwrap_or_else(|| reference::embedding_rows_forward::<B>(weight, tokens))
}

pub(crate) fn embedding_rows_backward<B: Host>(
    into: Option<FloatTensor<B>>,
    rows: usize,
    tokens: IntTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let features = grad.shape()[1];
    let mut into = into;
    by_type!(grad, E => {
        B::indices(&tokens, rows).zip(Held::<B>::new::<E>(&grad, tokens.shape()[0] * features)).and_then(|(tokens, held)| {
            let grad = held.elements::<E>()?;
            let add = |out: &mut [E]| {
                threads::alone(|| {
                    for (&token, grad) in tokens.iter().zip(grad.chunks_exact(features)) {
                        let row = out[token * features..][..features].iter_mut();
                        row.zip(grad).for_each(|(sum, &grad)| *sum += grad);
                    }
                });
            };
            let mut out = match &mut into {
                Some(sum) => {
                    if let Some(sum) = B::elements_mut::<E>(sum).filter(|sum| sum.len() == rows * features) {
                        add(sum);
                        return into.take();
                    }
                    Buffer::from(Held::<B>::new::<E>(sum, rows * features)?.elements::<E>()?)
                }
                None => Buffer::zeros(rows * features),
            };
            add(&mut out);
            Some(B::tensor(out, vec![rows, features]))
        })
    })
    .unwrap_or_else(|| reference::embedding_rows_backward::<B>(into, rows, tokens, grad))
}

pub(crate) fn dropout_forward<B: Host>(
    tensor: FloatTensor<B>,
    prob: f64,
) -> (FloatTensor<B>, DropoutMask<B>) {
    let seed = mask_seed::<B>(&tensor);
    match seed.and_then(|seed| Some((masked::<B>(&tensor, seed, prob)?, seed))) {
        Some((out, seed)) => (out, DropoutMask::Seed(seed)),
        None => reference::dropout_forward::<B>(tensor, prob),
    }
}

pub(crate) fn dropout_backward<B: Host>(
    grad: FloatTensor<B>,
    mask: DropoutMask<B>,
    prob: f64,
) -> FloatTensor<B> {
    match mask {
        DropoutMask::Seed(seed) => masked::<B>(&grad, seed, prob).unwrap_or(grad),
        mask => reference::dropout_backward::<B>(grad, mask, prob),
    }
}

/// The seed of the next mask; in a window that several devices share, that of the whole batch.
fn mask_seed<B: Host>(tensor: &FloatTensor<B>) -> Option<MaskSeed> {
    let Some(shared) = SharedDraw::next() else {
        let seed = drawn_seed::<B>(tensor)?;
        return Some(MaskSeed { seed, part: None });
    };
    let seed = shared.seed(|seed, count| {
        B::seed(&tensor.device(), seed);
        (0..count).map(|_| drawn_seed::<B>(tensor)).collect()
    })?;
    let shape = tensor.shape();
    let fits = shape.num_dims() == 3 && shape[1] == shared.part.rows;
    Some(match fits {
        true => MaskSeed {
            seed,
            part: Some(shared.part),
        },
        // Of no shape we know: units of its own.
        false => MaskSeed {
            seed: seed.wrapping_add(shared.part.first as u64),
            part: None,
        },
    })
}

/// A seed from the backend's generator, so that seeding the device fixes it.
fn drawn_seed<B: Host>(like: &FloatTensor<B>) -> Option<u64> {
    let sixteen_bits = Distribution::Uniform(0.0, 65_536.0);
    let drawn = B::float_random([4].into(), sixteen_bits, &like.device(), DType::F32.into());
    let drawn = B::elements::<f32>(&drawn)?;
    Some(
        drawn
            .iter()
            .fold(0, |seed, &bits| seed << 16 | u64::from(bits as u16)),
    )
}

/// The tensor with the elements that `seed` drops set to zero, and the others divided by 1 − `prob`.
fn masked<B: Host>(
    tensor: &FloatTensor<B>,
    MaskSeed { seed, part }: MaskSeed,
    prob: f64,
) -> Option<FloatTensor<B>> {
    by_type!(tensor, E => {
        let shape = tensor.shape();
        let held = Held::<B>::new::<E>(tensor, shape.num_elements())?;
        let from = held.elements::<E>()?;
        let mut buffer = UninitBuffer::new(from.len());
        let at = buffer.share();
        // SAFETY: as many elements as `from` has; each is written before it is read.
        let out = unsafe { std::slice::from_raw_parts_mut(at.at(0), from.len()) };
        let level = Level::detect();
        let drop = |piece: usize, first: usize, out: &mut [E], from: &[E]| {
            level.dispatch(Drop {
                out,
                from,
                first: first as u32,
                seeds: seeds_of(seed, piece as u64),
                threshold: (prob * 2f64.powi(32)) as u32,
                scale: E::of(1.0 / (1.0 - prob)),
            });
        };
        match part {
            None => in_pieces(out, from, |piece, out, from| drop(piece, 0, out, from)),
            Some(part) => in_whole_batch(part, shape[2], out, from, drop),
        }
        // SAFETY: every piece was written.
        Some(B::tensor(unsafe { buffer.assume_init() }, shape.to_vec()))
    })
}

/// Runs `work(piece, first, out, in)` on what is the same piece of the whole batch, `first` elements into it. Slices are
/// `[time, rows of the part, features]`.
fn in_whole_batch<E: Real>(
    part: BatchPart,
    features: usize,
    out: &mut [E],
    from: &[E],
    work: impl Fn(usize, usize, &mut [E], &[E]) + Sync,
) {
    let step = (part.rows * features).max(1);
    let of_step = |(time, (mut out, mut from)): (usize, (&mut [E], &[E]))| {
        let mut at = (time * part.batch + part.first) * features;
        while !out.is_empty() {
            let (piece, first) = (at / PIECE, at % PIECE);
            let length = out.len().min(PIECE - first);
            let (now, later) = out.split_at_mut(length);
            work(piece, first, now, &from[..length]);
            (out, from, at) = (later, &from[length..], at + length);
        }
    };
    pass(out.len(), || {
        if shared(out.len() >= PARALLEL) {
            let steps = out.par_chunks_mut(step).zip(from.par_chunks(step));
            steps.enumerate().for_each(of_step);
        } else {
            let steps = out.chunks_mut(step).zip(from.chunks(step)).enumerate();
            steps.for_each(of_step);
        }
    })
}

/// Two seeds for a piece: SplitMix64 of the tensor's seed and the piece's number.
fn seeds_of(seed: u64, piece: u64) -> [u32; 2] {
    let z = scramble(seed.wrapping_add(piece.wrapping_add(1).wrapping_mul(GAMMA)));
    [z as u32, (z >> 32) as u32]
}

struct Drop<'a, E> {
    out: &'a mut [E],
    from: &'a [E],
    /// Place of the first element in its piece.
    first: u32,
    seeds: [u32; 2],
    threshold: u32,
    scale: E,
}

/// A bijection of 32-bit words whose every output bit depends on every input bit (constants: Wellons, "Prospecting for
/// hash functions", 2018).
#[inline(always)]
fn stir(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ x >> 16
}

impl<E: Real> WithSimd for Drop<'_, E> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let [first, second] = self.seeds;
        for (index, (out, &from)) in (self.first..).zip(self.out.iter_mut().zip(self.from)) {
            let draw = stir(stir(index.wrapping_add(first)) ^ second);
            // A product, so that NaN and infinity stay visible.
            let mut value = from;
            value *= if draw >= self.threshold {
                self.scale
            } else {
                E::ZERO
            };
            *out = value;
        }
    }
}

pub(crate) fn sum_of_squares<B: Host>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    by_type!(tensor, E => {
        Held::<B>::new::<E>(&tensor, tensor.shape().num_elements()).and_then(|held| {
            let elements = held.elements::<E>()?;
            let level = Level::detect();
            let sum = |piece: &[E]| level.dispatch(SumOfSquares(piece));
            let sums: Vec<f64> = pass(elements.len(), || {
                if shared(elements.len() >= PARALLEL) {
                    elements.par_chunks(PIECE).map(sum).collect()
                } else {
                    elements.chunks(PIECE).map(sum).collect()
                }
            });
            let total = E::of(sums.into_iter().sum());
            Some(B::tensor(Buffer::from(&[total][..]), vec![1]))
        })
    })
    .unwrap_or_else(|| reference::sum_of_squares::<B>(tensor))
}

struct SumOfSquares<'a, E>(&'a [E]);

impl<E: Real> WithSimd for SumOfSquares<'_, E> {
    type Output = f64;
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        const WAYS: usize = 8;
        let lanes = E::lanes::<S>();
        let mut total = 0.0;
        // Short runs in the element type, their sums in double.
        for run in self.0.chunks(64 * lanes * WAYS) {
            let mut sums = [E::splat(simd, E::ZERO); WAYS];
            for chunk in run.chunks(lanes * WAYS) {
                for (sum, part) in sums.iter_mut().zip(chunk.chunks(lanes)) {
                    // SAFETY: as many elements as the part has.
                    let x = unsafe { E::load(simd, part.as_ptr(), part.len()) };
                    *sum = E::fma(simd, x, x, *sum);
                }
            }
            total += sums
                .map(|sum| E::sum_lanes(simd, sum).to())
                .iter()
                .sum::<f64>();
        }
        total
    }
}

pub(crate) fn scale<B: Host>(tensor: FloatTensor<B>, factor: f64) -> FloatTensor<B> {
    let mut tensor = tensor;
    let scaled = by_type!(tensor, E => {
        B::elements_mut::<E>(&mut tensor).map(|elements| {
            let factor = E::of(factor);
            let times = |piece: &mut [E]| piece.iter_mut().for_each(|value| *value *= factor);
            pass(elements.len(), || {
                if shared(elements.len() >= PARALLEL) {
                    elements.par_chunks_mut(PIECE).for_each(times);
                } else {
                    times(elements);
                }
            });
        })
    });
    match scaled {
        Some(()) => tensor,
        None => reference::scale::<B>(tensor, factor),
    }
}

pub(crate) fn scale_by<B: Host>(tensor: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B> {
    let known = by_type!(factor, E => {
        B::elements::<E>(&factor).and_then(|factor| factor.first().map(|factor| factor.to()))
    });
    match known {
        Some(1.0) => tensor,
        Some(factor) => scale::<B>(tensor, factor),
        None => reference::scale_by::<B>(tensor, factor),
    }
}

pub(crate) fn sgd_step<B: Host>(
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    rate: f64,
    decay: f64,
) -> FloatTensor<B> {
    let mut grad = grad;
    let done = by_type!(weight, E => {
        Held::<B>::new::<E>(&weight, grad.shape().num_elements()).and_then(|held| {
            let weight = held.elements::<E>()?;
            let [rate, decay] = [rate, decay].map(E::of);
            // Into the gradient's memory: the update is all that is still wanted of it.
            let grad = B::elements_mut::<E>(&mut grad)?;
            in_pieces(grad, weight, |_, grad, weight| {
                for (grad, &weight) in grad.iter_mut().zip(weight) {
                    let [mut update, mut moved] = [weight, weight];
                    update *= decay;
                    update += *grad;
                    update *= rate;
                    moved += -update;
                    *grad = moved;
                }
            });
            Some(())
        })
    });
    match done {
        Some(()) => grad,
        None => reference::sgd_step::<B>(weight, grad, rate, decay),
    }
}
