//! A matrix inside a slice.

use super::pool::Buffer;
use super::simd::Real;
use super::threads::{PARALLEL_WORK, each_chunk};

/// A matrix inside a slice, with the distances between rows and between columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, E> {
    pub(super) data: &'a [E],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
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
        let strip = |index: usize, out: &mut [E]| {
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
        each_chunk(out.len() >= PARALLEL_WORK, &mut out, size, strip);
        out
    }

    pub(super) fn rows(self, from: usize, count: usize) -> Self {
        self.transposed().columns(from, count).transposed()
    }

    pub(super) fn columns(self, from: usize, count: usize) -> Self {
        Self {
            data: &self.data[(from * self.column_stride).min(self.data.len())..],
            columns: count,
            ..self
        }
    }
}
