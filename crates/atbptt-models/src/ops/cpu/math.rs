//! exp, σ and tanh on registers of lanes.
//!
//! All three reduce to eʸ − 1 = 2ⁿ (eʳ − 1) + (2ⁿ − 1) with y ≤ 0, n = round(y / ln 2), |r| ≤ ln 2 / 2, and the series of
//! eʳ − 1, whose rest is below half a unit in the last place. Measured against f64 (f32) the errors are at most
//! 1 ulp (exp), 2.2 ulp (σ) and 2.5 ulp (tanh); the tests beside this file hold them to it, subnormal results included, which
//! kernels flush to zero (`flush`).

use pulp::Simd;

use super::simd::Real;

/// y = n ln 2 + r: n + [`Real::ROUND`], n, r.
#[inline(always)]
fn reduce<E: Real, S: Simd>(simd: S, y: E::Lanes<S>) -> [E::Lanes<S>; 3] {
    let round = E::splat(simd, E::ROUND);
    let shifted = E::fma(simd, y, E::splat(simd, E::LOG2_E), round);
    let n = E::sub(simd, shifted, round);
    let [high, low] = E::LN_2;
    let r = E::fma(simd, n, E::splat(simd, high), y);
    let r = E::fma(simd, n, E::splat(simd, low), r);
    [shifted, n, r]
}

/// eʳ − 1 for |r| ≤ ln 2 / 2.
#[inline(always)]
fn series<E: Real, S: Simd>(simd: S, r: E::Lanes<S>) -> E::Lanes<S> {
    let mut sum = E::splat(simd, E::SERIES[0]);
    for &coefficient in &E::SERIES[1..] {
        sum = E::fma(simd, sum, r, E::splat(simd, coefficient));
    }
    E::fma(simd, E::mul(simd, r, r), sum, r)
}

/// eʸ for y ≤ 0; NaN gives any value.
#[inline(always)]
fn exp_negative<E: Real, S: Simd>(simd: S, y: E::Lanes<S>) -> E::Lanes<S> {
    let y = E::max(simd, y, E::splat(simd, E::EXP_LOWEST));
    let [_, n, r] = reduce::<E, S>(simd, y);
    let p = E::add(simd, series::<E, S>(simd, r), E::splat(simd, E::ONE));
    // Two factors: 2ⁿ itself may be subnormal. The first product is exact, the second rounds once.
    let round = E::splat(simd, E::ROUND);
    let normal = E::max(simd, n, E::splat(simd, E::MIN_EXPONENT));
    let rest = E::sub(simd, n, normal);
    let rest = E::power_of_two(simd, E::add(simd, rest, round));
    let normal = E::power_of_two(simd, E::add(simd, normal, round));
    E::mul(simd, E::mul(simd, p, rest), normal)
}

/// eˣ for x ≤ 0.
#[inline(always)]
pub(crate) fn exp_of_negative<E: Real, S: Simd>(simd: S, x: E::Lanes<S>) -> E::Lanes<S> {
    E::or_nan(simd, exp_negative::<E, S>(simd, x), x)
}

/// σ(x) = 1 / (1 + e⁻ˣ), from e⁻|ˣ|: neither overflows nor loses small results.
#[inline(always)]
pub(crate) fn sigmoid<E: Real, S: Simd>(simd: S, x: E::Lanes<S>) -> E::Lanes<S> {
    let one = E::splat(simd, E::ONE);
    let e = exp_negative::<E, S>(simd, E::with_sign(simd, x, E::splat(simd, E::of(-1.0))));
    let numerator = E::where_positive(simd, x, one, e);
    E::or_nan(simd, E::div(simd, numerator, E::add(simd, one, e)), x)
}

/// tanh(x) = −m / (2 + m) with m = e^(−2|x|) − 1, and the sign of x: small x keep their digits.
#[inline(always)]
pub(crate) fn tanh<E: Real, S: Simd>(simd: S, x: E::Lanes<S>) -> E::Lanes<S> {
    let twice = E::add(simd, x, x);
    let y = E::with_sign(simd, twice, E::splat(simd, E::of(-1.0)));
    // Beyond −40 the result is one in both types.
    let y = E::max(simd, y, E::splat(simd, E::of(-40.0)));
    let [shifted, _, r] = reduce::<E, S>(simd, y);
    let scale = E::power_of_two(simd, shifted);
    let shift = E::sub(simd, scale, E::splat(simd, E::ONE));
    let m = E::fma(simd, scale, series::<E, S>(simd, r), shift);
    let quotient = E::div(simd, m, E::add(simd, m, E::splat(simd, E::of(2.0))));
    E::or_nan(simd, E::with_sign(simd, quotient, x), x)
}

/// Derivative of σ at output `y`, times `d`: d y (1 − y).
#[inline(always)]
pub(crate) fn d_sigmoid<E: Real, S: Simd>(simd: S, y: E::Lanes<S>, d: E::Lanes<S>) -> E::Lanes<S> {
    let rest = E::sub(simd, E::splat(simd, E::ONE), y);
    E::mul(simd, d, E::mul(simd, y, rest))
}

/// Derivative of tanh at output `y`, times `d`: d (1 − y²).
#[inline(always)]
pub(crate) fn d_tanh<E: Real, S: Simd>(simd: S, y: E::Lanes<S>, d: E::Lanes<S>) -> E::Lanes<S> {
    let rest = E::sub(simd, E::splat(simd, E::ONE), E::mul(simd, y, y));
    E::mul(simd, d, rest)
}

#[cfg(test)]
mod tests {
    use super::super::simd::Level;
    use super::*;
    use pulp::WithSimd;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
    }

    struct Apply<'a, E>(Function, &'a mut [E]);

    impl<E: Real> WithSimd for Apply<'_, E> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for chunk in self.1.chunks_mut(E::lanes::<S>()) {
                let (at, count) = (chunk.as_mut_ptr(), chunk.len());
                // SAFETY: `count` elements of the chunk.
                unsafe {
                    let x = E::load(simd, at, count);
                    let y = match self.0 {
                        Function::Exp => exp_of_negative::<E, S>(simd, x),
                        Function::Sigmoid => sigmoid::<E, S>(simd, x),
                        Function::Tanh => tanh::<E, S>(simd, x),
                    };
                    E::store(simd, at, count, y);
                }
            }
        }
    }

    fn apply<E: Real>(function: Function, x: &[E]) -> Vec<Vec<E>> {
        let mut native = x.to_vec();
        Level::detect().dispatch(Apply(function, &mut native));
        let mut scalar = x.to_vec();
        Simd::vectorize(pulp::Scalar::new(), Apply(function, &mut scalar));
        vec![native, scalar]
    }

    fn exact(function: Function, x: f64) -> f64 {
        match function {
            Function::Exp => x.exp(),
            Function::Sigmoid if x < 0.0 => x.exp() / (1.0 + x.exp()),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Tanh => x.tanh(),
        }
    }

    /// Units in the last place of an f32 near `y`.
    fn ulp32(y: f64) -> f64 {
        let exponent = (y.abs() as f32).to_bits() >> 23;
        2f64.powi((exponent.max(1) as i32) - 127 - 23)
    }

    #[test]
    fn functions_are_within_their_stated_errors_in_f32() {
        // Every 1009th float from 2⁻¹⁴⁹ to 128, both signs; exp takes the negative ones.
        let positive: Vec<f32> = (1..128f32.to_bits())
            .step_by(1009)
            .map(f32::from_bits)
            .collect();
        let negative: Vec<f32> = positive.iter().map(|x| -x).collect();
        for (function, bound) in [
            (Function::Exp, 1.0),
            (Function::Sigmoid, 2.2),
            (Function::Tanh, 2.5),
        ] {
            let mut worst = (0.0, 0.0);
            for x in [&positive, &negative] {
                if matches!(function, Function::Exp) && x[0] > 0.0 {
                    continue;
                }
                for y in apply(function, x) {
                    for (&x, &y) in x.iter().zip(&y) {
                        let expected = exact(function, x as f64);
                        let error = (y as f64 - expected).abs() / ulp32(expected);
                        if error > worst.0 {
                            worst = (error, x);
                        }
                    }
                }
            }
            println!("{function:?}: {:.3} ulp at {:e}", worst.0, worst.1);
            assert!(
                worst.0 <= bound,
                "{function:?}: {} ulp at {:e}",
                worst.0,
                worst.1
            );
        }
    }

    /// The standard library's f64 functions serve as reference, themselves good to 1 ulp: 4 in all.
    #[test]
    fn functions_are_within_four_ulp_in_f64() {
        let (low, high) = (1e-310f64.to_bits(), 800f64.to_bits());
        let positive: Vec<f64> = (low..high)
            .step_by(((high - low) / 1_000_003) as usize)
            .chain((0..200_000).map(|i| (i as f64 * 0.000_213_7).to_bits()))
            .map(f64::from_bits)
            .collect();
        let negative: Vec<f64> = positive.iter().map(|x| -x).collect();
        for function in [Function::Exp, Function::Sigmoid, Function::Tanh] {
            let mut worst = (0.0, 0.0);
            for x in [&positive, &negative] {
                if matches!(function, Function::Exp) && x[0] > 0.0 {
                    continue;
                }
                for y in apply(function, x) {
                    for (&x, &y) in x.iter().zip(&y) {
                        let expected = exact(function, x);
                        let ulp = (expected.abs().next_up() - expected.abs()).max(5e-324);
                        let error = (y - expected).abs() / ulp;
                        if error > worst.0 {
                            worst = (error, x);
                        }
                    }
                }
            }
            println!("{function:?}: {:.3} ulp at {:e}", worst.0, worst.1);
            assert!(
                worst.0 <= 4.0,
                "{function:?}: {} ulp at {:e}",
                worst.0,
                worst.1
            );
        }
    }

    #[test]
    fn special_values_follow_the_formulas() {
        fn check<E: Real>() {
            let x: Vec<E> = [
                0.0,
                -0.0,
                f64::INFINITY,
                f64::NEG_INFINITY,
                f64::NAN,
                1e30,
                -1e30,
            ]
            .map(E::of)
            .to_vec();
            let show = |y: &[E]| y.iter().map(|y| y.to().to_string()).collect::<Vec<_>>();
            for y in apply(Function::Sigmoid, &x) {
                assert_eq!(show(&y), ["0.5", "0.5", "1", "0", "NaN", "1", "0"]);
            }
            for y in apply(Function::Tanh, &x) {
                assert_eq!(show(&y), ["0", "-0", "1", "-1", "NaN", "1", "-1"]);
            }
            let x: Vec<E> = [0.0, -0.0, f64::NEG_INFINITY, f64::NAN, -1e30]
                .map(E::of)
                .to_vec();
            for y in apply(Function::Exp, &x) {
                assert_eq!(show(&y), ["1", "1", "0", "NaN", "0"]);
            }
        }
        check::<f32>();
        check::<f64>();
    }
}
