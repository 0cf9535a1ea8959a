//! Products on the matrix unit beside sums in f64.

use super::*;

/// Whether these tests can run here.
fn here() -> bool {
    if !is_available() {
        eprintln!("skipped: this processor has no AMX, or ATBPTT_AMX=0");
    }
    is_available()
}

/// Numbers of both signs and several magnitudes.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let number = |index: u64| {
        let bits = atbptt_core::seed::scramble(seed << 32 | index);
        let unit = (bits >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        unit * (-((bits & 7) as f32)).exp2()
    };
    (0..count as u64).map(number).collect()
}

/// The product into `out`, rows `stride` apart, by the unit.
fn multiply(out: &mut [f32], stride: usize, add: bool, a: Matrix<'_, f32>, b: Matrix<'_, f32>) {
    // SAFETY: `out` has the rows, and is ours.
    let taken = unsafe { product(Shared::new(out), stride, add, a, b) };
    assert!(taken);
}

/// Every layout, sizes that fill no group, rows apart, several blocks along the sum, into zeros and into numbers. Tolerance:
/// 2⁻²¹ of the sum of magnitudes, a few roundings; and no more than three times the error of f32 in the mean square.
#[test]
fn products_are_as_accurate_as_in_f32() {
    if !here() {
        return;
    }
    for ([rows, columns, sum], transposed) in [
        ([300, 130, 700], [false, false]),
        ([131, 290, 513], [true, false]),
        ([97, 2100, 64], [false, true]),
        ([2051, 97, 100], [true, true]),
    ] {
        for add in [false, true] {
            let (stride, data) = (columns + 3, [rows * sum, sum * columns]);
            let [left, right] = [numbers(data[0], 1), numbers(data[1], 2)];
            let matrix = |data, rows, columns, transposed| match transposed {
                true => Matrix::new(data, columns, rows).transposed(),
                false => Matrix::new(data, rows, columns),
            };
            let a = matrix(&left[..], rows, sum, transposed[0]);
            let b = matrix(&right[..], sum, columns, transposed[1]);
            let before = numbers(rows * stride, 3);
            let mut out = before.clone();
            multiply(&mut out, stride, add, a, b);
            let at = |m: Matrix<'_, f32>, row: usize, column: usize| {
                m.data[row * m.row_stride + column * m.column_stride]
            };
            let mut errors = [0f64; 2];
            for (row, column) in (0..rows).flat_map(|r| (0..stride).map(move |c| (r, c))) {
                let (got, start) = (out[row * stride + column], before[row * stride + column]);
                if column >= columns {
                    assert_eq!(got, start, "between the rows");
                    continue;
                }
                let start = if add { start } else { 0.0 };
                let (mut exact, mut magnitude) = (f64::from(start), f64::from(start.abs()));
                let mut plain = 0f32;
                for k in 0..sum {
                    let (x, y) = (at(a, row, k), at(b, k, column));
                    exact += f64::from(x) * f64::from(y);
                    magnitude += f64::from((x * y).abs());
                    plain = x.mul_add(y, plain);
                }
                let off = f64::from(got) - exact;
                assert!(
                    off.abs() <= magnitude * 2f64.powi(-21),
                    "[{row}, {column}]: {got}, not {exact}"
                );
                errors[0] += off * off;
                errors[1] += (f64::from(start + plain) - exact).powi(2);
            }
            assert!(errors[0] <= 9.0 * errors[1], "{errors:?} of {sum} terms");
        }
    }
}

#[test]
fn what_is_not_finite_spreads_as_in_f32_and_large_numbers_stay() {
    if !here() {
        return;
    }
    let (rows, columns, sum) = (200, 300, 200);
    let (mut left, right) = (numbers(rows * sum, 1), numbers(sum * columns, 2));
    left[7 * sum + 5] = f32::INFINITY;
    left[70 * sum + 6] = f32::NAN;
    left[140 * sum..][..sum].fill(0.0);
    // Rounds to infinity in eight bits.
    left[140 * sum] = f32::MAX;
    let mut out = vec![0f32; rows * columns];
    let (a, b) = (
        Matrix::new(&left, rows, sum),
        Matrix::new(&right, sum, columns),
    );
    multiply(&mut out, columns, false, a, b);
    for column in 0..columns {
        let factor = right[5 * columns + column];
        assert_eq!(out[7 * columns + column], f32::INFINITY * factor);
        assert!(out[70 * columns + column].is_nan());
        let large = f32::MAX * right[column];
        assert_eq!(out[140 * columns + column], large);
    }
    let others = (0..rows).filter(|row| ![7, 70].contains(row));
    for row in others {
        assert!(
            out[row * columns..][..columns]
                .iter()
                .all(|x| x.is_finite())
        );
    }
}

/// Tolerance: 2⁻¹²⁶, the smallest normal number, for every product of a tiny factor.
#[test]
fn tiny_numbers_are_off_by_less_than_the_smallest_normal_one() {
    if !here() {
        return;
    }
    let (rows, columns, sum) = (200, 210, 230);
    let mut left = vec![0f32; rows * sum];
    for (row, line) in left.chunks_exact_mut(sum).enumerate() {
        line[row] = 1.234_567e-36 * (1.0 + row as f32);
    }
    let right = numbers(sum * columns, 2);
    let mut out = vec![1f32; rows * columns];
    let (a, b) = (
        Matrix::new(&left, rows, sum),
        Matrix::new(&right, sum, columns),
    );
    multiply(&mut out, columns, false, a, b);
    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
        let exact = f64::from(left[row * sum + row]) * f64::from(right[row * columns + column]);
        let off = f64::from(out[row * columns + column]) - exact;
        assert!(off.abs() <= 1e-6 * exact.abs() + 4.0 * f64::from(f32::MIN_POSITIVE));
    }
}

#[test]
fn small_products_and_other_types_are_left_to_others() {
    assert!(!takes::<f32>([95, 4000, 4000]));
    assert!(!takes::<f32>([4000, 4000, 63]));
    assert!(!takes::<f32>([100, 100, 100]));
    assert!(!takes::<f64>([4000, 4000, 4000]));
    assert_eq!(takes::<f32>([400, 400, 400]), is_available());
}
