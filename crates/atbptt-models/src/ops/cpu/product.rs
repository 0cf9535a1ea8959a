//! Large matrix products, and sums over rows.

use gemm::Parallelism;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pool::Buffer;
use super::shared::{Shared, Target};
use super::simd::{Level, Real};

/// A matrix inside a slice, with the distances between rows and between columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, E> {
    data: &'a [E],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, E: Real> Matrix<'a, E> {
    /// `rows` × `columns`, one row after the other.
    pub(crate) fn new(data: &'a [E], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// As [`Matrix::new`], with `row_stride` elements from row to row.
    pub(crate) fn strided(data: &'a [E], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= data.len(),
            "a matrix lies inside its slice"
        );
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The elements of the transpose, one row after the other.
    pub(crate) fn transposed_copy(self) -> Buffer<E> {
        /// Rows and columns of a block: its lines stay in cache while it is written across.
        const BLOCK: usize = 32;
        let mut out = Buffer::zeros(self.rows * self.columns);
        let strip = |(index, out): (usize, &mut [E])| {
            let columns = index * BLOCK..(index * BLOCK + out.len() / self.rows);
            for first in (0..self.rows).step_by(BLOCK) {
                for (line, column) in out.chunks_exact_mut(self.rows).zip(columns.clone()) {
                    let last = (first + BLOCK).min(self.rows);
                    for (row, out) in (first..last).zip(&mut line[first..last]) {
                        *out = self.data[row * self.row_stride + column * self.column_stride];
                    }
                }
            }
        };
        let size = (BLOCK * self.rows).max(1);
        if out.len() < PARALLEL_WORK {
            out.chunks_mut(size).enumerate().for_each(strip);
        } else {
            out.par_chunks_mut(size).enumerate().for_each(strip);
        }
        out
    }

    fn columns(self, from: usize, count: usize) -> Self {
        Self {
            data: &self.data[(from * self.column_stride).min(self.data.len())..],
            columns: count,
            ..self
        }
    }
}

/// Multiplications below which a product runs on one thread.
const PARALLEL_WORK: usize = 1 << 20;
/// Long sums with a small result: columns per task, because splitting the sum would tie the result to the split.
const TASK_COLUMNS: usize = 64;

/// `out` = a b, or += where `accumulate`; `out` has `stride` elements from row to row.
pub(crate) fn product<E: Real>(
    out: Target<'_, E>,
    stride: usize,
    accumulate: bool,
    a: Matrix<'_, E>,
    b: Matrix<'_, E>,
) {
    assert_eq!(a.columns, b.rows, "inner sizes agree");
    assert!(
        a.rows == 0 || b.columns <= stride && (a.rows - 1) * stride + b.columns <= out.len,
        "the product fits its buffer"
    );
    let work = a.rows * a.columns * b.columns;
    let out = out.at;
    if work < PARALLEL_WORK {
        // SAFETY: sizes are checked above; `out` is ours.
        unsafe { multiply(out, 0, stride, accumulate, a, b, Parallelism::None) }
    } else if a.rows * b.columns < 1 << 16 {
        (0..b.columns.div_ceil(TASK_COLUMNS))
            .into_par_iter()
            .for_each(|task| {
                let from = task * TASK_COLUMNS;
                let b = b.columns(from, TASK_COLUMNS.min(b.columns - from));
                // SAFETY: sizes are checked above; tasks write different columns.
                unsafe { multiply(out, from, stride, accumulate, a, b, Parallelism::None) }
            });
    } else {
        // SAFETY: sizes are checked above; `out` is ours.
        unsafe { multiply(out, 0, stride, accumulate, a, b, Parallelism::Rayon(0)) }
    }
}

/// # Safety
/// `a.rows` rows of `b.columns` elements from `offset` on are writable in `out`, by nobody else.
unsafe fn multiply<E: Real>(
    out: Shared<E>,
    offset: usize,
    stride: usize,
    accumulate: bool,
    a: Matrix<'_, E>,
    b: Matrix<'_, E>,
    parallelism: Parallelism,
) {
    // SAFETY: matrices lie inside their slices (checked when made), `out` is as promised.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.at(offset),
            1,
            stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            if accumulate { E::ONE } else { E::ZERO },
            E::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Columns per task of [`sum_rows`].
const SUM_COLUMNS: usize = 256;
/// Rows added up before they join the total: keeps rounding errors of long sums small.
const SUM_ROWS: usize = 64;

/// `out[c]` = Σ over rows of `data` `[rows, columns]`, of `out.len()` columns with `stride` elements from row to row.
pub(crate) fn sum_rows<E: Real>(out: &mut [E], data: &[E], rows: usize, stride: usize) {
    assert!(rows == 0 || (rows - 1) * stride + out.len() <= data.len());
    let level = Level::detect();
    let task = |(index, out): (usize, &mut [E])| {
        level.dispatch(SumRows {
            out,
            data: &data[(index * SUM_COLUMNS).min(data.len())..],
            rows,
            stride,
        });
    };
    if rows * out.len() < PARALLEL_WORK / 4 {
        out.chunks_mut(SUM_COLUMNS).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(SUM_COLUMNS).enumerate().for_each(task);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_copy_is_the_transpose() {
        for (rows, columns) in [(1, 1), (3, 70), (70, 3), (33, 65), (1200, 901)] {
            let data: Vec<f32> = (0..rows * columns).map(|value| value as f32).collect();
            let copy = Matrix::new(&data, rows, columns)
                .transposed()
                .transposed_copy();
            assert_eq!(&copy[..], &data[..], "the transpose of the transpose");
            let copy = Matrix::new(&data, rows, columns).transposed_copy();
            for column in 0..columns {
                for row in 0..rows {
                    assert_eq!(copy[column * rows + row], data[row * columns + column]);
                }
            }
        }
    }
}
