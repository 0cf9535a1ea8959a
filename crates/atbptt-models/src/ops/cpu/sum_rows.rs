//! Sums over rows.

use pulp::{Simd, WithSimd};

use super::simd::{Level, Real};
use super::threads::{PARALLEL_WORK, each_chunk};

/// Columns per task of [`sum_rows`].
const SUM_COLUMNS: usize = 256;
/// Rows added up before they join the total: keeps rounding errors of long sums small.
const SUM_ROWS: usize = 64;

/// `out[c]` = Σ over rows of `data` `[rows, columns]`, of `out.len()` columns with `stride` elements from row to row.
pub(crate) fn sum_rows<E: Real>(out: &mut [E], data: &[E], rows: usize, stride: usize) {
    assert!(rows == 0 || (rows - 1) * stride + out.len() <= data.len());
    let level = Level::detect();
    let task = |index: usize, out: &mut [E]| {
        level.dispatch(SumRows {
            out,
            data: &data[(index * SUM_COLUMNS).min(data.len())..],
            rows,
            stride,
        });
    };
    let enough = rows * out.len() >= PARALLEL_WORK / 4;
    each_chunk(enough, out, SUM_COLUMNS, task);
}

struct SumRows<'a, E> {
    out: &'a mut [E],
    data: &'a [E],
    rows: usize,
    stride: usize,
}

impl<E: Real> WithSimd for SumRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let mut part = [E::ZERO; SUM_COLUMNS];
        let part = &mut part[..self.out.len()];
        self.out.fill(E::ZERO);
        for first in (0..self.rows).step_by(SUM_ROWS) {
            part.fill(E::ZERO);
            for row in first..(first + SUM_ROWS).min(self.rows) {
                let line = &self.data[row * self.stride..][..part.len()];
                for (sum, &value) in part.iter_mut().zip(line) {
                    *sum += value;
                }
            }
            for (out, &sum) in self.out.iter_mut().zip(part.iter()) {
                *out += sum;
            }
        }
    }
}
