//! What surrounds the layers in training (embedding, the first features of a state, passes over weights) on plain slices.

use burn::backend::{
    TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::DType;
use pulp::{Simd, WithSimd};

use super::few_rows::step_of;
use super::host::Host;
use super::passes::{PARALLEL, PIECE, in_pieces, in_rows, pass, written};
use super::pool::Buffer;
use super::simd::{Level, Real};
use super::threads::{self, each_chunk, map};
use super::{Held, by_type};
use crate::ops::reference::step as reference;

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
                    if let Some(kept) = B::kept::<E>(sum).filter(|kept| kept.shape() == [rows, features])
                        && let Some(kept) = kept.with_added(&tokens, held.clone())
                    {
                        return Some(kept.into_tensor());
                    }
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

pub(crate) fn sum_of_squares<B: Host>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    by_type!(tensor, E => {
        let kept = B::kept::<E>(&tensor);
        if let Some(sum) = kept.and_then(|kept| kept.with(|factored| factored.sum_of_squares())?) {
            return B::tensor(Buffer::from(&[E::of(sum)][..]), vec![1]);
        }
        Held::<B>::new::<E>(&tensor, tensor.shape().num_elements()).and_then(|held| {
            let elements = held.elements::<E>()?;
            let level = Level::detect();
            let sum = |index: usize| {
                let piece = elements.chunks(PIECE).nth(index).unwrap_or_default();
                level.dispatch(SumOfSquares(piece))
            };
            let (enough, pieces) = (elements.len() >= PARALLEL, elements.len().div_ceil(PIECE));
            let sums: Vec<f64> = pass(elements.len(), || map(enough, pieces, sum));
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
        if let Some(kept) = B::kept::<E>(&tensor).and_then(|kept| kept.scaled(E::of(factor))) {
            return kept.into_tensor();
        }
        B::elements_mut::<E>(&mut tensor).map(|elements| {
            let factor = E::of(factor);
            let times = |_, piece: &mut [E]| piece.iter_mut().for_each(|value| *value *= factor);
            let enough = elements.len() >= PARALLEL;
            pass(elements.len(), || each_chunk(enough, elements, PIECE, times));
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
            if let Some(kept) = B::kept::<E>(&grad) {
                let moved = kept.with(|factored| factored.sgd_step(weight, rate, decay))?;
                grad = B::tensor(moved, grad.shape().to_vec());
                return Some(());
            }
            // Into the gradient's memory: the update is all that is still wanted of it.
            let grad = B::elements_mut::<E>(&mut grad)?;
            let level = Level::detect();
            in_pieces(grad, weight, |_, grad, weight| {
                level.dispatch(Move {
                    grad,
                    weight,
                    rate,
                    decay,
                });
            });
            Some(())
        })
    });
    match done {
        Some(()) => grad,
        None => reference::sgd_step::<B>(weight, grad, rate, decay),
    }
}

/// A step of gradient descent into the gradient's memory.
struct Move<'a, E> {
    grad: &'a mut [E],
    weight: &'a [E],
    rate: E,
    decay: E,
}

impl<E: Real> WithSimd for Move<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = E::lanes::<S>();
        for (grad, weight) in self.grad.chunks_mut(lanes).zip(self.weight.chunks(lanes)) {
            let count = grad.len().min(weight.len());
            // SAFETY: so many elements of either.
            unsafe {
                let g = E::load(simd, grad.as_ptr(), count);
                let w = E::load(simd, weight.as_ptr(), count);
                let moved = step_of(simd, w, g, self.rate, self.decay);
                E::store(simd, grad.as_mut_ptr(), count, moved);
            }
        }
    }
}
