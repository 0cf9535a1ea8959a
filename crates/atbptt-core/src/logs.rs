//! Sums and differences of numbers held as logarithms; −∞ stands for zero.

/// log(e^a + e^b).
pub(crate) fn add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if high == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// log(e^a − e^b), or −∞ where the difference is not positive.
pub(crate) fn sub(a: f64, b: f64) -> f64 {
    if a > b {
        a + (-(b - a).exp_m1()).ln()
    } else {
        f64::NEG_INFINITY
    }
}

/// log Σ_{k<j} e^{x_k} for `j = 0..=n`.
pub(crate) fn cumulative_sums(log_values: &[f64]) -> Vec<f64> {
    let mut sum = f64::NEG_INFINITY;
    let tail = log_values.iter().map(|x| {
        sum = add(sum, *x);
        sum
    });
    std::iter::once(f64::NEG_INFINITY).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_sums_and_differences() {
        assert_eq!(add(f64::NEG_INFINITY, f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert_eq!(add(2.0, f64::NEG_INFINITY), 2.0);
        assert!((add(1000.0, 1000.0) - (1000.0 + 2f64.ln())).abs() < 1e-12);
        assert_eq!(sub(1.0, 1.0), f64::NEG_INFINITY);
        assert_eq!(sub(1.0, f64::INFINITY), f64::NEG_INFINITY);
        assert_eq!(sub(1.0, f64::NEG_INFINITY), 1.0);
        assert!((sub(3f64.ln(), 2f64.ln())).abs() < 1e-15);
        assert_eq!(cumulative_sums(&[0.0])[1], 0.0);
    }
}
