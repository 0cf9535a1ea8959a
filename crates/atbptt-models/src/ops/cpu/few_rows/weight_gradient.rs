//! The weight's gradient of a softmax of few rows.

use pulp::{Simd, WithSimd};

use super::tiles::{Finish, Outer, next_lines};
use super::{PIECE, Padded, most_lines};
use crate::ops::cpu::pool::{Buffer, UninitBuffer};
use crate::ops::cpu::shared::Shared;
use crate::ops::cpu::simd::{Level, Real};
use crate::ops::cpu::threads::{PARALLEL_WORK, each};

/// `factor` · dᵀ h, `[classes, features]`, from the gradient d at the logits, `[rows, classes]`, and the hidden rows h.
pub(in crate::ops::cpu) fn weight_gradient<E: Real>(
    logits: &[E],
    hidden: &[E],
    [rows, features, classes]: [usize; 3],
    factor: E,
) -> Buffer<E> {
    let padded = Padded::new(hidden, rows, features, factor);
    let mut out = UninitBuffer::new(classes * features);
    let (level, most) = (Level::detect(), most_lines::<E>());
    let at = out.share();
    let task = |task: usize| {
        let first = task * PIECE;
        level.dispatch(Lines {
            logits,
            padded: &padded,
            rows,
            features,
            classes,
            lines: most,
            range: [first, (first + PIECE).min(classes)],
            out: at,
        });
    };
    let enough = rows * features * classes >= PARALLEL_WORK;
    each(enough, classes.div_ceil(PIECE), task);
    // SAFETY: the tasks wrote every class.
    unsafe { out.assume_init() }
}

/// The rows of the weight's gradient in `range`; as a kernel it writes them to `out`.
pub(super) struct Lines<'a, E> {
    pub logits: &'a [E],
    pub padded: &'a Padded<E>,
    pub rows: usize,
    pub features: usize,
    pub classes: usize,
    /// Lines at once.
    pub lines: usize,
    pub range: [usize; 2],
    /// Where the row of class 0 is.
    pub out: Shared<E>,
}

impl<E: Real> WithSimd for Lines<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (mut class, mut factors) = self.begin();
        while let Some((sum, lines)) = self.group(class, &mut factors) {
            // SAFETY: the classes and all rows exist; tasks write different classes.
            unsafe { sum.run::<S, false>(simd, lines) }
            class += lines;
        }
    }
}

impl<E: Real> Lines<'_, E> {
    /// Writes what `finish` makes of the rows: told the first class, it gives what reads on from that class.
    ///
    /// # Safety
    /// What it reads exists for every class in the range.
    #[inline(always)]
    pub(super) unsafe fn run_to<S: Simd, F: Finish<E>>(
        &self,
        simd: S,
        finish: impl Fn(usize) -> F,
    ) {
        let (mut class, mut factors) = self.begin();
        while let Some((sum, lines)) = self.group(class, &mut factors) {
            // SAFETY: the classes and all rows exist; tasks write different classes. And the caller's promise.
            unsafe { sum.run_to::<S, F, false>(simd, lines, finish(class)) }
            class += lines;
        }
    }

    /// The first class, and room for [`group`](Self::group).
    fn begin(&self) -> (usize, Vec<E>) {
        (self.range[0], vec![E::ZERO; self.rows * self.lines])
    }

    /// The sums of the lines that are next from `class` on, and how many lines these are.
    fn group(&self, class: usize, factors: &mut [E]) -> Option<(Outer<E, 1>, usize)> {
        let left = self.range[1].checked_sub(class).filter(|&left| left > 0)?;
        let lines = next_lines(left, self.lines);
        // Their factors side by side: rows of logits may be as far apart as makes them share a set of the cache.
        let rows = self.logits.chunks_exact(self.classes);
        for (to, row) in factors.chunks_exact_mut(lines).zip(rows) {
            to.copy_from_slice(&row[class..class + lines]);
        }
        let sum = Outer {
            factors: factors.as_ptr(),
            step_stride: lines,
            right: self.padded.data.as_ptr(),
            right_stride: self.padded.stride,
            steps: self.rows,
            out: self.out.near(class * self.features).cast_mut(),
            out_stride: self.features,
            width: self.features,
        };
        Some((sum, lines))
    }
}
