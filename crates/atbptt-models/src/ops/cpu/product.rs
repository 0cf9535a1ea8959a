//! Large matrix products.

use gemm::Parallelism;

use super::amx;
use super::few_rows;
use super::matrix::Matrix;
use super::shared::{Shared, Target};
use super::simd::Real;
use super::threads::{PARALLEL_WORK, each, threads};

/// Long sums with a small result are split by columns, because splitting the sum would tie the result to the split: tasks begin
/// at multiples of so many columns.
const TASK_COLUMNS: usize = 16;
/// Multiples of [`TASK_COLUMNS`] in such a task at least: the library sums in shorter runs where a result has at most 64 rows and 64
/// columns, so that parts as small as that would not have the bits of the whole.
const TASK_LINES: usize = 5;

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
    // SAFETY: sizes are checked above; `out` is ours, and initialised where it is accumulated to.
    if unsafe { amx::product(out, stride, accumulate, a, b) } {
        return;
    }
    // SAFETY: as above.
    if unsafe { few_rows::product(out, stride, accumulate, a, b) } {
        return;
    }
    if work < PARALLEL_WORK {
        // SAFETY: sizes are checked above; `out` is ours.
        unsafe { multiply(out, 0, stride, accumulate, a, b) }
    } else if a.rows * b.columns < 1 << 16 {
        // Every task copies all of `a`: no more of them than threads, of nearly equal width.
        let lines = b.columns.div_ceil(TASK_COLUMNS);
        let tasks = (lines / TASK_LINES).clamp(1, threads());
        let task = |task: usize| {
            let begin = |task: usize| (task * lines / tasks * TASK_COLUMNS).min(b.columns);
            let (from, to) = (begin(task), begin(task + 1));
            let b = b.columns(from, to - from);
            // SAFETY: sizes are checked above; tasks write different columns.
            unsafe { multiply(out, from, stride, accumulate, a, b) }
        };
        each(true, tasks, task);
    } else {
        let grid = Grid::of(a, b, threads());
        each(true, grid.parts(), |part| {
            let ([row, rows], [column, columns]) = grid.part(part);
            let (a, b) = (a.rows(row, rows), b.columns(column, columns));
            let at = row * stride + column;
            // SAFETY: sizes are checked above; parts write different elements.
            unsafe { multiply(out, at, stride, accumulate, a, b) }
        });
    }
}

/// A product in one part per thread, as far as parts do not get too small.
///
/// Where sums are long, the `gemm` crate's own threads meet many times and copy one factor on one thread only: a part per thread
/// is up to twice as fast, although each copies what it needs of both factors. Where sums are short, it is as
/// fast. The split does not reach the bits: every element is summed in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    /// Rows and columns of the result.
    size: [usize; 2],
    /// Parts of each.
    parts: [usize; 2],
}

impl Grid {
    /// Rows and columns of a part at least.
    const LEAST: [usize; 2] = [96, 128];
    /// Parts begin at multiples of these, where registers begin.
    const ALIGN: [usize; 2] = [24, 64];

    fn of<E: Real>(a: Matrix<'_, E>, b: Matrix<'_, E>, threads: usize) -> Self {
        let size = [a.rows, b.columns];
        // The longer side first: every part copies what it needs of the other factor.
        let long = usize::from(size[1] > size[0]);
        let mut parts = [1; 2];
        parts[long] = threads.min(size[long] / Self::LEAST[long]).max(1);
        parts[1 - long] = (threads / parts[long])
            .min(size[1 - long] / Self::LEAST[1 - long])
            .max(1);
        Self { size, parts }
    }

    fn parts(&self) -> usize {
        self.parts[0] * self.parts[1]
    }

    /// First and number of rows, of columns.
    fn part(&self, part: usize) -> ([usize; 2], [usize; 2]) {
        let range = |axis: usize, part: usize| {
            let (size, parts) = (self.size[axis], self.parts[axis]);
            let align = Self::ALIGN[axis];
            let begin = |part: usize| match part == parts {
                true => size,
                false => part * size / parts / align * align,
            };
            [begin(part), begin(part + 1) - begin(part)]
        };
        let rows = part % self.parts[0];
        (range(0, rows), range(1, part / self.parts[0]))
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
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_product_cover_it_once() {
        let data = [0f32; 1];
        let of = |rows: usize, depth: usize, columns: usize, threads: usize| {
            let of_size = |rows, columns| Matrix {
                data: &data,
                rows,
                columns,
                row_stride: 0,
                column_stride: 0,
            };
            Grid::of(of_size(rows, depth), of_size(depth, columns), threads)
        };
        for (rows, columns, threads, parts) in [
            (2624, 512, 2, [2, 1]),
            (100, 3000, 4, [1, 4]),
            (800, 512, 32, [8, 4]),
            // Half of the threads stand by.
            (800, 512, 64, [8, 4]),
            (33_278, 512, 7, [7, 1]),
            (1000, 1000, 11, [10, 1]),
            (3000, 3000, 1, [1, 1]),
            (90, 100, 2, [1, 1]),
        ] {
            let grid = of(rows, 1000, columns, threads);
            assert_eq!(grid.parts, parts);
            let mut seen = vec![0; rows * columns];
            for part in 0..grid.parts() {
                let ([row, height], [column, width]) = grid.part(part);
                assert!(height >= 72 && width >= 64, "{height} x {width}");
                for line in seen.chunks_exact_mut(columns).skip(row).take(height) {
                    line[column..column + width]
                        .iter_mut()
                        .for_each(|count| *count += 1);
                }
            }
            assert!(seen.iter().all(|&count| count == 1), "{grid:?}");
        }
    }

    /// Few rows and short sums, in every layout that they are made for: 1e-5 of f64 sums, and the same bits on any number of
    /// threads.
    #[test]
    fn few_rows_and_short_sums_are_products() {
        let wave = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin()).collect()
        };
        let sizes = [
            (1, 1, 16),
            (1, 33, 70),
            (19, 200, 800),
            (200, 19, 801),
            (64, 64, 17),
            (13, 96, 5),
            (19, 800, 200),
            (65, 3, 40),
        ];
        for ((rows, depth, columns), layout) in sizes
            .into_iter()
            .flat_map(|size| [(size, 0), (size, 1), (size, 2)])
        {
            let (a, b) = (wave(rows * depth, 0.7), wave(depth * columns, 1.3));
            let (a, b) = match layout {
                0 => (
                    Matrix::new(&a, rows, depth),
                    Matrix::new(&b, depth, columns),
                ),
                1 => (
                    Matrix::new(&a, depth, rows).transposed(),
                    Matrix::new(&b, depth, columns),
                ),
                _ => (
                    Matrix::new(&a, rows, depth),
                    Matrix::new(&b, columns, depth).transposed(),
                ),
            };
            for accumulate in [false, true] {
                let stride = columns + 3;
                let before = wave(rows * stride, 0.1);
                let run = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    pool.build().unwrap().install(|| {
                        let mut out = before.clone();
                        product((&mut out[..]).into(), stride, accumulate, a, b);
                        out
                    })
                };
                let one = run(1);
                for (at, &got) in one.iter().enumerate() {
                    let (row, column) = (at / stride, at % stride);
                    let start = if accumulate {
                        f64::from(before[at])
                    } else {
                        0.0
                    };
                    let expected = match column < columns {
                        true => (0..depth).fold(start, |sum, k| {
                            let x = a.data[row * a.row_stride + k * a.column_stride];
                            let y = b.data[k * b.row_stride + column * b.column_stride];
                            sum + f64::from(x) * f64::from(y)
                        }),
                        false => f64::from(before[at]),
                    };
                    let difference = (f64::from(got) - expected).abs();
                    assert!(
                        difference < 1e-5 * depth as f64,
                        "{rows} {depth} {columns}, layout {layout}: {got} and {expected}"
                    );
                }
                for threads in [2, 3] {
                    assert!(one == run(threads), "{threads} threads");
                }
            }
        }
    }

    /// In parts and as a whole: the same bits.
    #[test]
    fn sums_have_the_same_bits_in_parts() {
        // Long and short sums; two have a small result.
        for (rows, depth, columns) in [
            (250, 1500, 300),
            (50, 3000, 200),
            (33, 900, 500),
            (300, 100, 500),
            (801, 200, 97),
            (100, 767, 1000),
        ] {
            same_bits(rows, depth, columns);
        }
    }

    fn same_bits(rows: usize, depth: usize, columns: usize) {
        let wave = |count: usize, step: f32| -> Vec<f32> {
            (0..count)
                .map(|index| (index as f32 * step).sin())
                .collect()
        };
        let (a, b) = (wave(rows * depth, 0.7), wave(depth * columns, 1.3));
        for (a, b) in [
            (
                Matrix::new(&a, rows, depth),
                Matrix::new(&b, depth, columns),
            ),
            (
                Matrix::new(&a, depth, rows).transposed(),
                Matrix::new(&b, columns, depth).transposed(),
            ),
        ] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| {
                    let mut out = wave(rows * columns, 0.1);
                    product((&mut out[..]).into(), columns, true, a, b);
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                })
            };
            let one = run(1);
            for threads in [2, 3, 4] {
                assert!(one == run(threads), "{threads} threads");
            }
        }
    }

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
