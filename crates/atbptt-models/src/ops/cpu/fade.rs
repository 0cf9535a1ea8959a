//! Gradients that have faded: where the gradient that a window's backward pass carries is exactly zero and no later loss enters, the
//! rest of the pass would only compute zeros.
//!
//! With numbers below the smallest normal one flushed to zero (`flush`), a gradient that vanishes in the usual sense becomes exactly
//! zero after a hundred steps or two. What is skipped is told apart from what is not by values alone, never by how rows are
//! shared out over threads. A NaN anywhere in a sequence's saved values is in all its later steps, by the recurrent product, and so in
//! the carried gradient (zero times NaN is NaN): nothing is skipped there. Cells without a recurrent product are not skipped at
//! all. Factors that the carried gradient does not meet are looked at ([`finite`]).

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which steps of a backward pass handed a gradient on, per group of rows.
pub(super) struct Fading {
    /// Per row that begins a group: one more than the last step whose gradient was not zero.
    alive: Vec<AtomicUsize>,
    /// Steps of the pass up to which gradients enter.
    entering: usize,
}

impl Fading {
    /// Of a pass over `grad`, the gradient of every state `[T, …]`, from its end.
    pub(super) fn new<E: Copy + Default + PartialEq>(grad: &[E], time: usize, rows: usize) -> Self {
        Self {
            alive: (0..rows).map(|_| AtomicUsize::new(0)).collect(),
            entering: time - leading_zeros(grad, time),
        }
    }

    /// Of a pass that nothing is skipped of.
    pub(super) fn never(rows: usize) -> Self {
        Self {
            alive: (0..rows).map(|_| AtomicUsize::new(0)).collect(),
            entering: usize::MAX,
        }
    }

    /// The rows from `row` on hand on a gradient after `step`.
    #[inline(always)]
    pub(super) fn handed_on(&self, step: usize, row: usize) {
        if self.alive[row].load(Ordering::Relaxed) <= step {
            self.alive[row].fetch_max(step + 1, Ordering::Relaxed);
        }
    }

    /// Whether these rows, done with `step`, hand nothing on, and no gradient enters later.
    pub(super) fn is_over(&self, step: usize, rows: Range<usize>) -> bool {
        let handed_on = |alive: &AtomicUsize| alive.load(Ordering::Relaxed) > step;
        step + 1 >= self.entering && !self.alive[rows].iter().any(handed_on)
    }
}

/// How many of the `time` equal parts of `values` are zero, from the first on.
fn leading_zeros<E: Copy + Default + PartialEq>(values: &[E], time: usize) -> usize {
    let zero = E::default();
    let size = (values.len() / time).max(1);
    values
        .chunks(size)
        .take_while(|part| {
            // Without a branch per element.
            let none = |part: &[E]| !part.iter().fold(false, |any, &x| any | (x != zero));
            part.chunks(256).all(none)
        })
        .count()
}

/// Whether all values are finite.
pub(super) fn finite<E: super::simd::Real>(values: &[E]) -> bool {
    // Zero times what is not finite is NaN, which stays.
    values.chunks(256).all(|part| {
        let mut sums = [E::ZERO; 16];
        for run in part.chunks(16) {
            for (sum, &value) in sums.iter_mut().zip(run) {
                let mut nothing = value;
                nothing *= E::ZERO;
                *sum += nothing;
            }
        }
        sums.iter().all(|&sum| sum == E::ZERO)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_counted_step_by_step() {
        assert_eq!(leading_zeros(&[0.0, -0.0, 0.0, 0.0, 0.0, 1.0], 3), 2);
        assert_eq!(leading_zeros(&[0.0, f32::NAN, 0.0, 0.0], 2), 0);
        assert_eq!(leading_zeros(&[0.0f64; 6], 3), 3);
    }

    #[test]
    fn a_pass_is_over_when_nothing_is_handed_on_and_nothing_enters() {
        // Four steps; the gradient of the second state is not zero, which the pass meets in its third step (step 2).
        let fading = Fading::new(&[0.0, 1.0, 0.0, 0.0], 4, 3);
        assert!(!fading.is_over(0, 0..3));
        assert!(!fading.is_over(1, 0..3));
        assert!(fading.is_over(2, 0..3));
        fading.handed_on(2, 1);
        assert!(!fading.is_over(2, 0..3));
        assert!(fading.is_over(2, 0..1), "other rows");
        assert!(fading.is_over(3, 0..3), "the step after");
        assert!(!Fading::never(3).is_over(3, 0..3));
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        for len in [1, 15, 16, 300, 1000] {
            let mut values = vec![1e38f32; len];
            assert!(finite(&values));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, len / 2, len - 1] {
                    values[at] = bad;
                    assert!(!finite(&values), "{bad} at {at} of {len}");
                    values[at] = 0.0;
                }
            }
        }
        assert!(finite::<f64>(&[]));
    }
}
