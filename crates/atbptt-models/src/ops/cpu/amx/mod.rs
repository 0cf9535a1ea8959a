//! Large f32 products on the matrix unit of some x86-64 processors (`kernel`), with the accuracy of f32.
//!
//! Both factors are packed block by block, by all threads, into the three parts of every number; pairs of groups are then shared
//! out over threads. Every element of the result is summed in the same order whatever the threads. What differs from f32
//! arithmetic: the parts of a number below about 1e-33 may lie below the smallest normal number and count as zero, so that
//! it is taken with an error of up to 1e-38. Where a factor is infinite or above 3.38e38, its group is multiplied in f32.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod blocks;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod kernel;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod pack;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod phase;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

use burn::tensor::Element;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use self::{kernel::is_available, pack::Factor};
use super::matrix::Matrix;
use super::shared::Shared;
use super::simd::Real;

/// Multiplications from which packing pays.
const LEAST_WORK: usize = 1 << 23;
/// Rows and columns of the result from which it pays.
const LEAST_LINES: usize = 96;
/// Length of the sums from which it pays.
const LEAST_SUM: usize = 64;

/// Whether products of this size, `[rows, columns, length of the sums]`, are made here.
pub(super) fn takes<E: Real>([rows, columns, sum]: [usize; 3]) -> bool {
    let large = rows.min(columns) >= LEAST_LINES && sum >= LEAST_SUM;
    large && rows * columns * sum >= LEAST_WORK && E::dtype() == f32::dtype() && is_available()
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn is_available() -> bool {
    false
}

/// `out` = a b, or += where `accumulate`, if products of this size [are made here](takes); else nothing, and `false`. `out` has
/// `stride` elements from row to row.
///
/// # Safety
/// `a.rows` rows of `b.columns` elements are writable in `out`, by nobody else; what is accumulated to is initialised.
pub(super) unsafe fn product<E: Real>(
    out: Shared<E>,
    stride: usize,
    accumulate: bool,
    a: Matrix<'_, E>,
    b: Matrix<'_, E>,
) -> bool {
    let size = [a.rows, b.columns, a.columns];
    // One of the strides is 1 in all that the kernels multiply.
    let packable = |m: Matrix<'_, E>| m.row_stride == 1 || m.column_stride == 1;
    if !takes::<E>(size) || !packable(a) || !packable(b) {
        return false;
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let factor = |m: Matrix<'_, E>| Factor {
            data: m.data.as_ptr().cast(),
            line_stride: m.row_stride,
            sum_stride: m.column_stride,
        };
        // SAFETY: the caller's promise; `E` is f32.
        unsafe {
            let out = Shared::uninit(out.at(0).cast::<f32>());
            blocks::product(
                size,
                out,
                stride,
                accumulate,
                factor(a),
                factor(b.transposed()),
            );
        }
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    let _ = (out, stride, accumulate);
    true
}
