//! Dropout on plain slices, in one pass: the mask is a function of a seed and of each element's place.
//!
//! The seed comes from the backend's generator, so that seeding a device fixes all masks. In a window that several devices
//! share, every device draws its part of the whole batch's mask.

use atbptt_core::seed::{GAMMA, scramble};
use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Distribution};
use pulp::{Simd, WithSimd};

use super::host::Host;
use super::passes::{PARALLEL, PIECE, in_pieces, pass};
use super::pool::UninitBuffer;
use super::simd::{Level, Real};
use super::threads::each_chunk;
use super::{Held, by_type};
use crate::ops::draws::{BatchPart, SharedDraw};
use crate::ops::reference::step as reference;
use crate::ops::types::{DropoutMask, MaskSeed};

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
    let whole = from;
    let of_step = |time: usize, mut out: &mut [E]| {
        let mut from = whole.chunks(step).nth(time).unwrap_or_default();
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
        each_chunk(out.len() >= PARALLEL, out, step, of_step);
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
