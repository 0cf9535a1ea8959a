//! The products of a block of classes, as tiles that stay in registers.

use pulp::Simd;

use super::{LINES, WIDTH};
use crate::ops::cpu::panel::{prefetch, prefetch_to_write};
use crate::ops::cpu::simd::Real;

/// Rows of weights that are asked for ahead.
const AHEAD: usize = 8;

/// Products of a group of rows with rows of weights, such as their logits at some classes.
pub(super) struct Logits<E> {
    /// The first class's weights.
    pub weight: *const E,
    pub features: usize,
    /// Elements from a row of weights to the next.
    pub weight_stride: usize,
    pub count: usize,
    pub left: *const E,
    pub stride: usize,
    pub out: *mut E,
    pub out_stride: usize,
}

impl<E: Real> Logits<E> {
    /// Of `height` rows: up to 4, or an even number up to [`LINES`].
    ///
    /// # Safety
    /// `count` classes of `features` weights and the rows, of `stride` features, are readable, rows of the result writable.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(&self, simd: S, height: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match height {
                1 => self.rows::<S, 1>(simd),
                2 => self.rows::<S, 2>(simd),
                3 => self.rows::<S, 3>(simd),
                4 => self.rows::<S, 4>(simd),
                6 => self.rows::<S, 6>(simd),
                8 => self.rows::<S, 8>(simd),
                10 => self.rows::<S, 10>(simd),
                _ => self.rows::<S, LINES>(simd),
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run), of `R` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, simd: S) {
        let lanes = E::lanes::<S>();
        for class in (0..self.count).step_by(2) {
            // Of the last one, without a second: twice the same.
            let pair = [class, (class + 1).min(self.count - 1)];
            let mut sums = [[E::splat(simd, E::ZERO); 2]; R];
            for at in (0..self.features).step_by(lanes) {
                let left = self.features - at;
                // SAFETY: the caller's promise; the rows are zero where the weights end.
                unsafe {
                    let weights = pair.map(|class| {
                        let from = self.weight.add(class * self.weight_stride + at);
                        prefetch(from.wrapping_add(AHEAD * self.weight_stride));
                        E::load(simd, from, left)
                    });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = E::load_all::<S>(self.left.add(row * self.stride + at));
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = E::fma(simd, x, weight, *sum);
                        }
                    }
                }
            }
            let by_registers = added_up::<E, S, R>(&sums);
            for (index, &sum) in by_registers.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { *self.out.add(index / 2 * self.out_stride + pair[index % 2]) = sum };
            }
            let done = by_registers.len() / 2;
            for (row, sums) in sums.into_iter().enumerate().skip(done) {
                for (class, sum) in pair.into_iter().zip(sums) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        *self.out.add(row * self.out_stride + class) = E::sum_lanes(simd, sum)
                    };
                }
            }
        }
    }
}

/// The sums of the lanes of the first registers, sixteen at once, where that is possible: a third of the instructions.
#[inline(always)]
fn added_up<E: Real, S: Simd, const R: usize>(sums: &[[E::Lanes<S>; 2]; R]) -> Sixteen<E> {
    let mut out = Sixteen {
        sums: [E::ZERO; 16],
        count: 0,
    };
    #[cfg(target_arch = "x86_64")]
    if R >= 8 && crate::ops::cpu::turn::can_turn::<E, S>() {
        let from = sums.as_ptr().cast();
        // SAFETY: sixteen registers of sixteen f32, as `E` is one; so many numbers have room.
        unsafe { crate::ops::cpu::turn::add_up(from, out.sums.as_mut_ptr().cast()) };
        out.count = 16;
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = sums;
    out
}

/// Sums of registers, as many as were made.
struct Sixteen<E> {
    sums: [E; 16],
    count: usize,
}

impl<E> std::ops::Deref for Sixteen<E> {
    type Target = [E];
    #[inline(always)]
    fn deref(&self) -> &[E] {
        &self.sums[..self.count]
    }
}

/// How many of `left` lines, of which registers hold `most`, are worked on next: a number that the kernels have.
pub(super) fn next_lines(left: usize, most: usize) -> usize {
    match left.min(most) {
        few if few <= 4 => few,
        many => many / 2 * 2,
    }
}

/// What becomes of the sums before they are stored.
pub(super) trait Finish<E: Real>: Copy {
    /// `sum` of the elements that lie `at` elements behind the beginning of the result, of which `left` are in its line.
    ///
    /// # Safety
    /// What the implementation reads exists there.
    unsafe fn finish<S: Simd>(
        self,
        simd: S,
        at: usize,
        left: usize,
        sum: E::Lanes<S>,
    ) -> E::Lanes<S>;
    /// Asks for what will be read there; it need not exist.
    fn prefetch(self, _at: usize) {}
}

/// The sums as they are.
#[derive(Clone, Copy)]
struct Plain;

impl<E: Real> Finish<E> for Plain {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, _: S, _: usize, _: usize, sum: E::Lanes<S>) -> E::Lanes<S> {
        sum
    }
}

/// Sums over steps of a factor per line times a row: out[line] (+)= Σ factors[line, step] · right[step].
pub(super) struct Outer<E, const APART: usize> {
    /// Those of a step `APART` elements from line to line: known when compiled, since registers for addresses are few.
    pub factors: *const E,
    pub step_stride: usize,
    pub right: *const E,
    pub right_stride: usize,
    pub steps: usize,
    pub out: *mut E,
    pub out_stride: usize,
    /// Elements of a row.
    pub width: usize,
}

impl<E: Real, const APART: usize> Outer<E, APART> {
    /// `lines` lines, at most [`LINES`]; added to what is there where `ADD`.
    ///
    /// # Safety
    /// So many lines and all steps are readable, the lines of the result writable, and nobody else's; initialised where they are
    /// added to.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd, const ADD: bool>(&self, simd: S, lines: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.run_to::<S, Plain, ADD>(simd, lines, Plain) }
    }

    /// The same; `finish` makes the result of the sums.
    ///
    /// # Safety
    /// As [`run`](Self::run), and what `finish` reads exists for every element of the lines.
    #[inline(always)]
    pub(super) unsafe fn run_to<S: Simd, F: Finish<E>, const ADD: bool>(
        &self,
        simd: S,
        lines: usize,
        finish: F,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match lines {
                1 => self.lines::<S, F, ADD, 1>(simd, finish),
                2 => self.lines::<S, F, ADD, 2>(simd, finish),
                3 => self.lines::<S, F, ADD, 3>(simd, finish),
                4 => self.lines::<S, F, ADD, 4>(simd, finish),
                6 => self.lines::<S, F, ADD, 6>(simd, finish),
                8 => self.lines::<S, F, ADD, 8>(simd, finish),
                10 => self.lines::<S, F, ADD, 10>(simd, finish),
                _ => self.lines::<S, F, ADD, LINES>(simd, finish),
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run), of `R` lines.
    #[inline(always)]
    unsafe fn lines<S: Simd, F: Finish<E>, const ADD: bool, const R: usize>(
        &self,
        simd: S,
        finish: F,
    ) {
        let lanes = E::lanes::<S>();
        let mut at = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while self.width - at >= WIDTH * lanes {
                self.columns::<S, F, ADD, true, R, WIDTH>(simd, at, finish);
                at += WIDTH * lanes;
            }
            if self.width - at > lanes {
                self.columns::<S, F, ADD, false, R, WIDTH>(simd, at, finish);
            } else if self.width > at {
                self.columns::<S, F, ADD, false, R, 1>(simd, at, finish);
            }
        }
    }

    /// `V` registers of columns from `at` on, `FULL` or less.
    ///
    /// # Safety
    /// As [`run`](Self::run), of `R` lines.
    #[inline(always)]
    unsafe fn columns<
        S: Simd,
        F: Finish<E>,
        const ADD: bool,
        const FULL: bool,
        const R: usize,
        const V: usize,
    >(
        &self,
        simd: S,
        at: usize,
        finish: F,
    ) {
        let lanes = E::lanes::<S>();
        let left = |v: usize| (self.width - at).saturating_sub(v * lanes);
        let mut sums = [[E::splat(simd, E::ZERO); V]; R];
        // SAFETY: the caller's promise; nothing is read or written past the width.
        unsafe {
            let load = |from: *const E, v: usize| match FULL {
                true => E::load_all::<S>(from.wrapping_add(v * lanes)),
                false => E::load(simd, from.wrapping_add(v * lanes), left(v)),
            };
            for (line, sums) in sums.iter_mut().enumerate() {
                let out = self.out.wrapping_add(line * self.out_stride + at);
                for (v, sum) in sums.iter_mut().enumerate() {
                    if ADD {
                        *sum = load(out, v);
                    } else {
                        // What the next lines are written to.
                        prefetch_to_write(out.wrapping_add(R * self.out_stride + v * lanes));
                        finish.prefetch((line + R) * self.out_stride + at + v * lanes);
                    }
                }
            }
            for step in 0..self.steps {
                let from = self.right.wrapping_add(step * self.right_stride + at);
                let mut row = [E::splat(simd, E::ZERO); V];
                for (v, value) in row.iter_mut().enumerate() {
                    *value = load(from, v);
                }
                let factors = self.factors.wrapping_add(step * self.step_stride);
                for (line, sums) in sums.iter_mut().enumerate() {
                    let factor = E::splat(simd, *factors.wrapping_add(line * APART));
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum = E::fma(simd, factor, value, *sum);
                    }
                }
            }
            for (line, sums) in sums.into_iter().enumerate() {
                let to = self.out.wrapping_add(line * self.out_stride + at);
                for (v, sum) in sums.into_iter().enumerate() {
                    let here = line * self.out_stride + at + v * lanes;
                    let sum = finish.finish(simd, here, left(v), sum);
                    match FULL {
                        true => E::store_all::<S>(to.wrapping_add(v * lanes), sum),
                        false => E::store(simd, to.wrapping_add(v * lanes), left(v), sum),
                    }
                }
            }
        }
    }
}
