//! Passes over a tensor's elements or rows: over all threads where the tensor is large.
//!
//! Whatever the number of threads, the bits are the same: elementwise work has no order, and sums are taken over pieces
//! of fixed size, then over the pieces in order.

use super::pool::{Buffer, UninitBuffer};
use super::shared::Shared;
use super::simd::Real;
use super::threads::{self, each, each_chunk};

/// Elements per task.
pub(super) const PIECE: usize = 1 << 14;
/// Elements from which a second thread pays.
pub(super) const PARALLEL: usize = 1 << 17;
/// Multiplications that take about as long as reading and writing an element.
const ELEMENT_WORK: usize = threads::SHARED_WORK / PARALLEL;

/// Runs a pass over `elements` elements as a kernel.
pub(super) fn pass<R>(elements: usize, kernel: impl FnOnce() -> R) -> R {
    threads::inside(elements.saturating_mul(ELEMENT_WORK), kernel)
}

/// Runs `work(index, out, in)` on the pieces of two slices of one length.
pub(super) fn in_pieces<E: Real>(
    out: &mut [E],
    from: &[E],
    work: impl Fn(usize, &mut [E], &[E]) + Sync,
) {
    let enough = out.len() >= PARALLEL;
    let from = |index: usize| from.chunks(PIECE).nth(index).unwrap_or_default();
    pass(out.len(), || {
        each_chunk(enough, out, PIECE, |index, out| {
            work(index, out, from(index))
        });
    })
}

/// Runs `work(row)` on every row of `width` elements.
pub(super) fn in_rows(rows: usize, width: usize, work: impl Fn(usize) + Sync) {
    pass(rows * width, || {
        let together = PIECE.div_ceil(width.max(1));
        each(rows * width >= PARALLEL, rows.div_ceil(together), |part| {
            let first = part * together;
            (first..rows.min(first + together)).for_each(&work);
        });
    })
}

/// A buffer of `len` elements, written by `write`.
///
/// # Safety
/// `write` writes every element through the pointer.
pub(super) unsafe fn written<E: Real>(len: usize, write: impl FnOnce(Shared<E>)) -> Buffer<E> {
    let mut buffer = UninitBuffer::new(len);
    write(buffer.share());
    // SAFETY: the caller's promise.
    unsafe { buffer.assume_init() }
}
