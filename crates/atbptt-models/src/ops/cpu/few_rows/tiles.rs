//! The products of a block of classes, as tiles that stay in registers.

use pulp::Simd;

use super::{BLOCK, LINES, WIDTH};
use crate::ops::cpu::simd::Real;

/// Logits of a group of rows at up to [`BLOCK`] classes.
pub(super) struct Logits<E> {
    /// The first class's weights.
    pub weight: *const E,
    pub features: usize,
    pub count: usize,
    pub left: *const E,
    pub stride: usize,
    /// Rows [`BLOCK`] apart.
    pub out: *mut E,
}

impl<E: Real> Logits<E> {
    /// # Safety
    /// `count` classes of `features` weights and `R` rows of `stride` features are readable, `R` rows of the result writable.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd, const R: usize>(&self, simd: S) {
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
                        E::load(simd, self.weight.add(class * self.features + at), left)
                    });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = E::load_all::<S>(self.left.add(row * self.stride + at));
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = E::fma(simd, x, weight, *sum);
                        }
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (class, sum) in pair.into_iter().zip(sums) {
                    // SAFETY: the caller's promise.
                    unsafe { *self.out.add(row * BLOCK + class) = E::sum_lanes(simd, sum) };
                }
            }
        }
    }
}

/// Sums over steps of a factor per line times a row: out[line] (+)= Σ factors[line, step] · right[step].
pub(super) struct Outer<E> {
    pub factors: *const E,
    pub line_stride: usize,
    pub step_stride: usize,
    pub right: *const E,
    pub right_stride: usize,
    pub steps: usize,
    pub out: *mut E,
    pub out_stride: usize,
    /// Elements of a row.
    pub width: usize,
}

impl<E: Real> Outer<E> {
    /// `lines` lines, at most [`LINES`]; added to what is there where `ADD`.
    ///
    /// # Safety
    /// So many lines and all steps are readable, the lines of the result writable, and nobody else's; initialised where they are
    /// added to.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd, const ADD: bool>(&self, simd: S, lines: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match lines {
                1 => self.lines::<S, ADD, 1>(simd),
                2 => self.lines::<S, ADD, 2>(simd),
                3 => self.lines::<S, ADD, 3>(simd),
                4 => self.lines::<S, ADD, 4>(simd),
                6 => self.lines::<S, ADD, 6>(simd),
                8 => self.lines::<S, ADD, 8>(simd),
                10 => self.lines::<S, ADD, 10>(simd),
                _ => self.lines::<S, ADD, LINES>(simd),
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run), of `R` lines.
    #[inline(always)]
    unsafe fn lines<S: Simd, const ADD: bool, const R: usize>(&self, simd: S) {
        let lanes = E::lanes::<S>();
        for at in (0..self.width).step_by(WIDTH * lanes) {
            let left = [self.width - at, (self.width - at).saturating_sub(lanes)];
            let mut sums = [[E::splat(simd, E::ZERO); WIDTH]; R];
            // SAFETY: the caller's promise; nothing is read or written past the width.
            unsafe {
                let add = |sums: &mut [[E::Lanes<S>; WIDTH]; R],
                           step: usize,
                           row: [E::Lanes<S>; WIDTH]| {
                    let factors = self.factors.wrapping_add(step * self.step_stride);
                    for (line, sums) in sums.iter_mut().enumerate() {
                        let factor = *factors.wrapping_add(line * self.line_stride);
                        let factor = E::splat(simd, factor);
                        for (sum, value) in sums.iter_mut().zip(row) {
                            *sum = E::fma(simd, factor, value, *sum);
                        }
                    }
                };
                if ADD {
                    for (line, sums) in sums.iter_mut().enumerate() {
                        let from = self.out.wrapping_add(line * self.out_stride + at);
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = E::load(simd, from.wrapping_add(v * lanes), left[v]);
                        }
                    }
                }
                if left[1] >= lanes {
                    for step in 0..self.steps {
                        let from = self.right.wrapping_add(step * self.right_stride + at);
                        let row = [0, 1].map(|v| E::load_all::<S>(from.wrapping_add(v * lanes)));
                        add(&mut sums, step, row);
                    }
                } else {
                    for step in 0..self.steps {
                        let from = self.right.wrapping_add(step * self.right_stride + at);
                        let row =
                            [0, 1].map(|v| E::load(simd, from.wrapping_add(v * lanes), left[v]));
                        add(&mut sums, step, row);
                    }
                }
                for (line, sums) in sums.into_iter().enumerate() {
                    let to = self.out.wrapping_add(line * self.out_stride + at);
                    for (v, sum) in sums.into_iter().enumerate() {
                        E::store(simd, to.wrapping_add(v * lanes), left[v], sum);
                    }
                }
            }
        }
    }
}
