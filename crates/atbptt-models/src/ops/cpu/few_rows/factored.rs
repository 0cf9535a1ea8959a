//! The weight's gradient of a softmax of few rows as its factors: what is done with it without writing it out.
//!
//! dᵀh of ten rows, ten thousand classes and 200 features is twenty times the size of its factors. Its norm follows from the
//! products of rows with rows, ‖dᵀh‖² = Σᵢⱼ (d dᵀ)ᵢⱼ (h hᵀ)ᵢⱼ, and a step computes an element when it needs it.

use pulp::{Simd, WithSimd};

use super::tiles::Finish;
use super::weight_gradient::{Lines, weight_gradient};
use super::{PIECE, Padded, most_lines};
use crate::ops::cpu::panel::prefetch;
use crate::ops::cpu::pool::{Buffer, UninitBuffer};
use crate::ops::cpu::shared::Shared;
use crate::ops::cpu::simd::{Level, Real};
use crate::ops::cpu::threads::{PARALLEL_WORK, each, map};

/// Share of what was added up below which a sum of squares has lost too many digits to terms of the other sign.
const LOST: f64 = 1e-3;

/// `scale` (`factor` dᵀh + rows added at some classes): the gradient of a weight `[classes, features]`.
#[derive(Clone, Copy)]
pub(in crate::ops::cpu) struct Factored<'a, E> {
    /// d: the gradient at the logits, `[rows, classes]`.
    pub logits: &'a [E],
    /// h: `[rows, features]`.
    pub hidden: &'a [E],
    /// Rows, features, classes.
    pub size: [usize; 3],
    pub factor: E,
    /// Classes, each below the number of them, and the rows added there, `[n, features]`.
    pub added: Option<(&'a [usize], &'a [E])>,
    pub scale: E,
}

impl<E: Real> Factored<'_, E> {
    fn enough(&self) -> bool {
        self.size.iter().product::<usize>() >= PARALLEL_WORK
    }

    /// The gradient.
    pub(in crate::ops::cpu) fn written(&self) -> Buffer<E> {
        let [_, features, _] = self.size;
        let mut out = weight_gradient(self.logits, self.hidden, self.size, self.factor);
        if let Some((classes, rows)) = self.added {
            for (&class, row) in classes.iter().zip(rows.chunks_exact(features)) {
                add(&mut out[class * features..][..features], row);
            }
        }
        if self.scale != E::ONE {
            out.iter_mut().for_each(|value| *value *= self.scale);
        }
        out
    }

    /// Σ of its squares; `None` where too many digits would be lost.
    pub(in crate::ops::cpu) fn sum_of_squares(&self) -> Option<f64> {
        let [rows, features, classes] = self.size;
        let padded = Padded::new(self.hidden, rows, features, self.factor);
        let level = Level::detect();
        let gram = |data: &[E], stride: usize, from: usize, to: usize| {
            level.dispatch(Gram {
                data,
                rows,
                stride,
                range: [from, to],
            })
        };
        let sum = |mut parts: Vec<Vec<f64>>| {
            let mut sum = parts.pop().unwrap_or_default();
            // Backwards from the last: in one order.
            while let Some(part) = parts.pop() {
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, part)| *sum += part);
            }
            sum
        };
        let logits = sum(map(self.enough(), classes.div_ceil(PIECE), |piece| {
            let from = piece * PIECE;
            gram(self.logits, classes, from, (from + PIECE).min(classes))
        }));
        let starts = (0..features).step_by(PIECE);
        let hidden = sum(starts
            .map(|from| {
                gram(
                    &padded.data,
                    padded.stride,
                    from,
                    (from + PIECE).min(features),
                )
            })
            .collect());
        let (mut total, mut all) = (0.0, 0.0);
        for (index, (&d, &h)) in logits.iter().zip(&hidden).enumerate() {
            // Each pair of different rows stands for two.
            let times = if index / rows == index % rows {
                1.0
            } else {
                2.0
            };
            total += times * d * h;
            all += (times * d * h).abs();
        }
        for (class, row) in self.rows_with_added(&padded) {
            let (mut before, mut after) = (0.0, 0.0);
            for (without, with) in self.row(&padded, class).iter().zip(row.iter()) {
                before += without.to() * without.to();
                after += with.to() * with.to();
            }
            total += after - before;
            all += after + before;
        }
        let scale = self.scale.to();
        // What is not a number is none here, too.
        let lost = total < LOST * all;
        (!lost).then_some(total * scale * scale)
    }

    /// w − rate (g + decay w).
    pub(in crate::ops::cpu) fn sgd_step(&self, weight: &[E], rate: E, decay: E) -> Buffer<E> {
        let [rows, features, classes] = self.size;
        let padded = Padded::new(self.hidden, rows, features, self.factor);
        let mut out = UninitBuffer::new(classes * features);
        let at = out.share();
        let (level, most) = (Level::detect(), most_lines::<E>());
        each(self.enough(), classes.div_ceil(PIECE), |piece| {
            level.dispatch(Step {
                lines: Lines {
                    logits: self.logits,
                    padded: &padded,
                    rows,
                    features,
                    classes,
                    lines: most,
                    range: [piece * PIECE, ((piece + 1) * PIECE).min(classes)],
                    out: at,
                },
                weight,
                scale: self.scale,
                rate,
                decay,
            });
        });
        // SAFETY: every piece wrote its classes.
        let mut out = unsafe { out.assume_init() };
        for (class, mut row) in self.rows_with_added(&padded) {
            let at = class * features;
            row.iter_mut().for_each(|value| *value *= self.scale);
            let moved = out[at..][..features].iter_mut().zip(&weight[at..]);
            for ((moved, &weight), &grad) in moved.zip(row.iter()) {
                *moved = step(weight, grad, rate, decay);
            }
        }
        out
    }

    /// A class's row of dᵀh.
    fn row(&self, padded: &Padded<E>, class: usize) -> Buffer<E> {
        let [rows, features, classes] = self.size;
        let mut out = UninitBuffer::<E>::new(features);
        // The pointer to where the row of class 0 would begin.
        let base = out.share().near(0).wrapping_sub(class * features);
        Level::detect().dispatch(Lines {
            logits: self.logits,
            padded,
            rows,
            features,
            classes,
            lines: 1,
            range: [class, class + 1],
            out: Shared::uninit(base.cast_mut()),
        });
        // SAFETY: the row was written.
        unsafe { out.assume_init() }
    }

    /// The classes that something is added to, each once, with their rows; not scaled.
    fn rows_with_added(&self, padded: &Padded<E>) -> Vec<(usize, Buffer<E>)> {
        let features = self.size[1];
        let Some((classes, added)) = self.added else {
            return Vec::new();
        };
        let mut order: Vec<usize> = (0..classes.len()).collect();
        // Stable: what is added to one class keeps its order.
        order.sort_by_key(|&index| classes[index]);
        let mut rows: Vec<(usize, Buffer<E>)> = Vec::new();
        for index in order {
            let class = classes[index];
            if rows.last().is_none_or(|(last, _)| *last != class) {
                rows.push((class, self.row(padded, class)));
            }
            if let Some((_, row)) = rows.last_mut() {
                add(row, &added[index * features..][..features]);
            }
        }
        rows
    }
}

fn add<E: Real>(out: &mut [E], row: &[E]) {
    out.iter_mut()
        .zip(row)
        .for_each(|(sum, &value)| *sum += value);
}

/// A step of registers.
#[inline(always)]
pub(in crate::ops::cpu) fn step_of<E: Real, S: Simd>(
    simd: S,
    weight: E::Lanes<S>,
    grad: E::Lanes<S>,
    rate: E,
    decay: E,
) -> E::Lanes<S> {
    let update = E::mul(simd, weight, E::splat(simd, decay));
    let update = E::add(simd, update, grad);
    E::sub(simd, weight, E::mul(simd, update, E::splat(simd, rate)))
}

/// The same of one element; the same roundings.
fn step<E: Real>(weight: E, grad: E, rate: E, decay: E) -> E {
    let [mut update, mut moved] = [weight, weight];
    update *= decay;
    update += grad;
    update *= rate;
    moved += -update;
    moved
}

/// Products of rows with rows over the elements in `range`: `[rows · rows]`, zeros below the diagonal.
struct Gram<'a, E> {
    data: &'a [E],
    rows: usize,
    stride: usize,
    range: [usize; 2],
}

impl<E: Real> WithSimd for Gram<'_, E> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f64> {
        const ROWS: usize = 4;
        let lanes = E::lanes::<S>();
        let [from, to] = self.range;
        let mut out = vec![0.0; self.rows * self.rows];
        let row = |row: usize| self.data[row * self.stride..][from..to].as_ptr();
        for left in 0..self.rows {
            for first in (left..self.rows).step_by(ROWS) {
                // Past the end the last row again.
                let right: [usize; ROWS] =
                    std::array::from_fn(|index| (first + index).min(self.rows - 1));
                let rows = right.map(row);
                let a = row(left);
                let mut sums = [E::splat(simd, E::ZERO); ROWS];
                for at in (0..to - from).step_by(lanes) {
                    let count = to - from - at;
                    // SAFETY: so many elements of each row are in the range.
                    unsafe {
                        let a = E::load(simd, a.add(at), count);
                        for (sum, b) in sums.iter_mut().zip(rows) {
                            *sum = E::fma(simd, a, E::load(simd, b.add(at), count), *sum);
                        }
                    }
                }
                for (right, sum) in right.into_iter().zip(sums) {
                    out[left * self.rows + right] = E::sum_lanes(simd, sum).to();
                }
            }
        }
        out
    }
}

/// A step of the classes in the range of `lines`, whose `out` are the weights after it.
struct Step<'a, E> {
    lines: Lines<'a, E>,
    weight: &'a [E],
    scale: E,
    rate: E,
    decay: E,
}

impl<E: Real> WithSimd for Step<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let step = |class: usize| To {
            weight: self.weight[class * self.lines.features..].as_ptr(),
            scale: self.scale,
            rate: self.rate,
            decay: self.decay,
        };
        // SAFETY: the weight has the classes, as long as those of the result.
        unsafe { self.lines.run_to(simd, step) }
    }
}

/// Makes weights after a step of gradients: `step` on whole registers.
#[derive(Clone, Copy)]
struct To<E> {
    weight: *const E,
    scale: E,
    rate: E,
    decay: E,
}

impl<E: Real> Finish<E> for To<E> {
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        self,
        simd: S,
        at: usize,
        left: usize,
        sum: E::Lanes<S>,
    ) -> E::Lanes<S> {
        // SAFETY: the caller's promise.
        let weight = unsafe { E::load(simd, self.weight.wrapping_add(at), left) };
        let grad = E::mul(simd, sum, E::splat(simd, self.scale));
        step_of(simd, weight, grad, self.rate, self.decay)
    }

    #[inline(always)]
    fn prefetch(self, at: usize) {
        prefetch(self.weight.wrapping_add(at));
    }
}
