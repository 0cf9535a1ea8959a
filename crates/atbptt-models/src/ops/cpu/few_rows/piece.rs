//! Some classes of the softmax of few rows, on one thread.

use pulp::{Simd, WithSimd};

use super::tiles::{Logits, Outer};
use super::{BLOCK, LOWEST, Padded, TURNED_ROWS};
use crate::ops::cpu::math::exp_of_negative;
use crate::ops::cpu::nll::Arguments;
use crate::ops::cpu::pool::Buffer;
use crate::ops::cpu::shared::Shared;
use crate::ops::cpu::simd::Real;

/// Turns a block of weights, so that classes lie side by side; whether that is possible here.
///
/// # Safety
/// `lines` lines of `width` weights are readable, and the result holds a block.
#[inline(always)]
unsafe fn turn<E: Real, S: Simd>(
    weight: *const E,
    [lines, width]: [usize; 2],
    out: &mut [E],
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if crate::ops::cpu::turn::can_turn::<E, S>() {
        let (from, to) = (weight.cast(), out.as_mut_ptr().cast());
        // SAFETY: the caller's promise; the element type is f32.
        unsafe { crate::ops::cpu::turn::turn(from, [lines, width], to, BLOCK, BLOCK * width) };
        return true;
    }
    let _ = (weight, lines, width, out);
    false
}

/// What a piece of the classes adds to every row; the numbers are relative to its largest logit.
pub(super) struct Sums<E> {
    pub largest: Vec<E>,
    /// Σ e.
    pub total: Vec<E>,
    /// Σ e · the class's weights, rows as far apart as [`Padded`]'s; empty where nobody asks.
    pub hidden: Buffer<E>,
}

/// The classes from `first` to `end`.
pub(super) struct Piece<'a, 'b, E> {
    pub args: &'a Arguments<'b, E>,
    pub padded: &'a Padded<E>,
    pub first: usize,
    pub end: usize,
    /// Whether the gradient of the hidden rows is wanted.
    pub hidden: bool,
    /// Where the logits go.
    pub z: Option<Shared<E>>,
    /// `[rows]`: the logit of the target, from the piece that has it.
    pub at_target: Shared<E>,
}

impl<E: Real> WithSimd for Piece<'_, '_, E> {
    type Output = Sums<E>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Sums<E> {
        let (args, padded) = (self.args, self.padded);
        let (features, stride) = (args.features, padded.stride);
        let lowest = E::of(LOWEST);
        let mut sums = Sums {
            largest: vec![lowest; args.rows],
            total: vec![E::ZERO; args.rows],
            hidden: Buffer::zeros(if self.hidden { padded.rows * stride } else { 0 }),
        };
        // Logits, then exponentials. Of the rows that fill up the last group nothing is used.
        let mut block = vec![E::ZERO; padded.rows * BLOCK];
        let mut turned = Buffer::<E>::zeros(features.next_multiple_of(16) * BLOCK);
        for first in (self.first..self.end).step_by(BLOCK) {
            let count = BLOCK.min(self.end - first);
            let weight = args.weight[first * features..].as_ptr();
            // SAFETY: `count` classes exist, and the buffer holds a block.
            let is_turned = args.rows > TURNED_ROWS
                && unsafe { turn::<E, S>(weight, [count, features], &mut turned) };
            for group in (0..padded.rows).step_by(padded.height) {
                let left = padded.data[group * stride..].as_ptr();
                let out = block[group * BLOCK..].as_mut_ptr();
                if is_turned {
                    let logits = Outer::<E, 1> {
                        factors: padded.side_by_side[group * features..].as_ptr(),
                        step_stride: padded.height,
                        right: turned.as_ptr(),
                        right_stride: BLOCK,
                        steps: features,
                        out,
                        out_stride: BLOCK,
                        width: BLOCK,
                    };
                    // SAFETY: the group's rows exist, in the block, too.
                    unsafe { logits.run::<S, false>(simd, padded.height) }
                    continue;
                }
                let logits = Logits {
                    weight,
                    features,
                    weight_stride: features,
                    count,
                    left,
                    stride,
                    out,
                    out_stride: BLOCK,
                };
                // SAFETY: `count` classes and the group's rows exist, the latter with zeros up to the stride.
                unsafe { logits.run::<S>(simd, padded.height) }
            }
            for (row, z) in block.chunks_exact_mut(BLOCK).take(args.rows).enumerate() {
                self.exponentials(simd, row, z, first, count, &mut sums);
            }
            if !self.hidden {
                continue;
            }
            for group in (0..padded.rows).step_by(padded.height) {
                let sum = Outer::<E, BLOCK> {
                    factors: block[group * BLOCK..].as_ptr(),
                    step_stride: 1,
                    right: weight,
                    right_stride: features,
                    steps: count,
                    out: sums.hidden[group * stride..].as_mut_ptr(),
                    out_stride: stride,
                    width: features,
                };
                // SAFETY: the group's rows and `count` classes exist; lines of the result are as long as the stride.
                unsafe { sum.run::<S, true>(simd, padded.height) }
            }
        }
        sums
    }
}

impl<E: Real> Piece<'_, '_, E> {
    /// Adds the bias to a block of a row's logits, keeps them, and turns them into exponentials.
    #[inline(always)]
    fn exponentials<S: Simd>(
        &self,
        simd: S,
        row: usize,
        z: &mut [E],
        first: usize,
        count: usize,
        sums: &mut Sums<E>,
    ) {
        let lanes = E::lanes::<S>();
        let lowest = E::splat(simd, E::of(LOWEST));
        let classes = self.args.classes;
        z[count..].fill(E::of(f64::NEG_INFINITY));
        let at = z.as_mut_ptr();
        let mut most = lowest;
        // SAFETY: `count` classes from `first` on exist in the bias and in every row of logits, and the block is a whole
        // number of registers.
        unsafe {
            for from in (0..count).step_by(lanes) {
                let left = count - from;
                let mut x = E::load_all::<S>(at.add(from));
                if let Some(bias) = self.args.bias {
                    let bias = E::load(simd, bias.as_ptr().add(first + from), left);
                    x = E::add(simd, x, bias);
                    E::store_all::<S>(at.add(from), x);
                }
                if let Some(out) = self.z {
                    E::store(simd, out.at(row * classes + first + from), left, x);
                }
                most = E::max(simd, most, x);
            }
            if let Some(target) = self.args.targets[row].checked_sub(first)
                && target < count
            {
                *self.at_target.at(row) = z[target];
            }
        }
        let before = sums.largest[row];
        let most = E::max_lanes(simd, most);
        if most > before {
            let factor = E::of((before.to() - most.to()).exp());
            sums.largest[row] = most;
            sums.total[row] *= factor;
            if self.hidden {
                let line = &mut sums.hidden[row * self.padded.stride..][..self.padded.stride];
                line.iter_mut().for_each(|value| *value *= factor);
            }
        }
        let shift = E::splat(simd, sums.largest[row]);
        let mut total = E::splat(simd, E::ZERO);
        let at = z.as_mut_ptr();
        for from in (0..BLOCK).step_by(lanes) {
            // SAFETY: the block is a whole number of registers.
            unsafe {
                let x = E::load_all::<S>(at.add(from));
                let e = exp_of_negative::<E, S>(simd, E::sub(simd, x, shift));
                E::store_all::<S>(at.add(from), e);
                total = E::add(simd, total, e);
            }
        }
        sums.total[row] += E::sum_lanes(simd, total);
    }
}
