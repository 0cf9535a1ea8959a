//! Products with few rows, or with short sums, whose factors stay in cache: without packing.

use pulp::{Simd, WithSimd};

use super::tiles::{Logits, Outer, next_lines};
use super::{most_lines, put_side_by_side};
use crate::ops::cpu::matrix::Matrix;
use crate::ops::cpu::shared::Shared;
use crate::ops::cpu::simd::{Level, Real};
use crate::ops::cpu::threads::{SHARED_WORK, each};

/// Rows, or length of the sums, up to which packing costs more than it saves.
const FEW: usize = 64;
/// Bytes of the right factor that stay in the second-level cache.
const RIGHT_BYTES: usize = 1 << 20;
/// Parts that a product is cut into.
const PARTS: usize = 16;
/// Columns of a part begin at multiples of this.
const ALIGN: usize = 64;

/// `out` = a b, or += where `accumulate`, if this is such a product; else nothing, and `false`. `out` has `stride` elements from
/// row to row.
///
/// # Safety
/// `a.rows` rows of `b.columns` elements are writable in `out`, by nobody else; what is accumulated to is initialised.
pub(in crate::ops::cpu) unsafe fn product<E: Real>(
    out: Shared<E>,
    stride: usize,
    accumulate: bool,
    a: Matrix<'_, E>,
    b: Matrix<'_, E>,
) -> bool {
    let few = a.rows.min(a.columns) <= FEW;
    let small = b.rows * b.columns * size_of::<E>() <= RIGHT_BYTES;
    let lanes = E::native_lanes();
    let rows_of_b = b.column_stride == 1 && b.columns >= lanes;
    let sums_along_rows = b.row_stride == 1
        && a.column_stride == 1
        && a.rows <= FEW
        && a.columns.is_multiple_of(lanes)
        && !accumulate;
    if a.columns == 0 || !(few && small && (rows_of_b || sums_along_rows)) {
        return false;
    }
    // The longer side is cut.
    let by_rows = a.rows >= b.columns;
    let (length, align) = match by_rows {
        true => (a.rows, most_lines::<E>()),
        false if rows_of_b => (b.columns, ALIGN),
        false => (b.columns, lanes),
    };
    let size = length.div_ceil(PARTS).next_multiple_of(align);
    let level = Level::detect();
    let part = |part: usize| {
        let from = part * size;
        let count = size.min(length - from);
        let (a, b, at) = match by_rows {
            true => (a.rows(from, count), b, from * stride),
            false => (a, b.columns(from, count), from),
        };
        let part = Part {
            a,
            b,
            out: Shared::uninit(out.near(at).cast_mut()),
            stride,
            accumulate,
            sums_along_rows: !rows_of_b,
        };
        level.dispatch(part);
    };
    let parts = length.div_ceil(size);
    let enough = a.rows * a.columns * b.columns >= SHARED_WORK / 2;
    each(enough, parts, part);
    true
}

/// A part of a product, on one thread.
struct Part<'a, E> {
    a: Matrix<'a, E>,
    b: Matrix<'a, E>,
    out: Shared<E>,
    stride: usize,
    accumulate: bool,
    /// Whether b's columns lie one after the other, and a's rows.
    sums_along_rows: bool,
}

impl<E: Real> WithSimd for Part<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, b, .. } = self;
        let most = most_lines::<E>();
        let mut factors = Vec::new();
        let mut row = 0;
        while row < a.rows {
            let lines = next_lines(a.rows - row, most);
            let left = a.data[row * a.row_stride..].as_ptr();
            let out = self.out.near(row * self.stride).cast_mut();
            if self.sums_along_rows {
                let part = Logits {
                    weight: b.data.as_ptr(),
                    features: a.columns,
                    weight_stride: b.column_stride,
                    count: b.columns,
                    left,
                    stride: a.row_stride,
                    out,
                    out_stride: self.stride,
                };
                // SAFETY: both matrices lie inside their slices, sums are whole registers, and the rows of the result are ours.
                unsafe { part.run::<S>(simd, lines) }
            } else {
                let factors = match a.row_stride {
                    1 => left,
                    _ => {
                        factors.clear();
                        put_side_by_side(&mut factors, a.rows(row, lines));
                        factors.as_ptr()
                    }
                };
                let part = Outer::<E, 1> {
                    factors,
                    step_stride: match a.row_stride {
                        1 => a.column_stride,
                        _ => lines,
                    },
                    right: b.data.as_ptr(),
                    right_stride: b.row_stride,
                    steps: a.columns,
                    out,
                    out_stride: self.stride,
                    width: b.columns,
                };
                // SAFETY: both matrices lie inside their slices, and the rows of the result are ours.
                unsafe {
                    match self.accumulate {
                        true => part.run::<S, true>(simd, lines),
                        false => part.run::<S, false>(simd, lines),
                    }
                }
            }
            row += lines;
        }
    }
}
