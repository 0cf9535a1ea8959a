//! The weight's gradient of a softmax of few rows.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::tiles::{Outer, next_lines};
use super::{PIECE, Padded, most_lines};
use crate::ops::cpu::pool::{Buffer, UninitBuffer};
use crate::ops::cpu::shared::Shared;
use crate::ops::cpu::simd::{Level, Real};
use crate::ops::cpu::threads::{PARALLEL_WORK, shared};

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
    let task = |first: usize| {
        level.dispatch(WeightGradient {
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
    let tasks = (0..classes.div_ceil(PIECE)).map(|task| task * PIECE);
    if shared(rows * features * classes >= PARALLEL_WORK) {
        let tasks: Vec<usize> = tasks.collect();
        tasks.into_par_iter().for_each(task);
    } else {
        tasks.for_each(task);
    }
    // SAFETY: the tasks wrote every class.
    unsafe { out.assume_init() }
}

/// The rows of the weight's gradient in `range`.
struct WeightGradient<'a, E> {
    logits: &'a [E],
    padded: &'a Padded<E>,
    rows: usize,
    features: usize,
    classes: usize,
    /// Lines at once.
    lines: usize,
    range: [usize; 2],
    out: Shared<E>,
}

impl<E: Real> WithSimd for WeightGradient<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [mut class, end] = self.range;
        // The factors of some lines, side by side: rows of logits may be as far apart as makes them share a set of the cache.
        let mut factors = vec![E::ZERO; self.rows * self.lines];
        while class < end {
            let lines = next_lines(end - class, self.lines);
            let rows = self.logits.chunks_exact(self.classes);
            for (to, row) in factors.chunks_exact_mut(lines).zip(rows) {
                to.copy_from_slice(&row[class..class + lines]);
            }
            let sum = Outer::<E, 1> {
                factors: factors.as_ptr(),
                step_stride: lines,
                right: self.padded.data.as_ptr(),
                right_stride: self.padded.stride,
                steps: self.rows,
                out: self.out.near(class * self.features).cast_mut(),
                out_stride: self.features,
                width: self.features,
            };
            // SAFETY: the classes and all rows exist; tasks write different classes.
            unsafe { sum.run::<S, false>(simd, lines) }
            class += lines;
        }
    }
}
