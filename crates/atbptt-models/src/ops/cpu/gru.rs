//! GRU, [`Cell::Gru`]: gates r, z, n and the new gate's recurrent product u; the state is h.

use pulp::Simd;

use super::math::{sigmoid, tanh};
use super::simd::Real;
use super::unit::{Pointwise, Stepped, SteppedBack, Unit, UnitBack};
use crate::ops::cell::Cell;

pub(super) struct Gru;

impl<E: Real> Pointwise<E> for Gru {
    const CELL: Cell = Cell::Gru;

    #[inline(always)]
    fn forward<S: Simd>(unit: &Unit<'_, E, S>) -> Stepped<E::Lanes<S>> {
        let simd = unit.simd;
        let input = |gate: usize| E::add(simd, unit.input(gate), unit.bias(gate));
        let r = sigmoid::<E, S>(simd, E::add(simd, unit.product(0), input(0)));
        let z = sigmoid::<E, S>(simd, E::add(simd, unit.product(1), input(1)));
        let u = E::add(simd, unit.product(2), unit.recurrent_bias());
        let n = tanh::<E, S>(simd, E::fma(simd, r, u, input(2)));
        // (1 − z) n + z h = n + z (h − n)
        let h = E::fma(simd, z, E::sub(simd, unit.entering(0), n), n);
        Stepped {
            gates: [r, z, n, u],
            state: [h; 2],
        }
    }

    #[inline(always)]
    fn backward<S: Simd>(unit: &UnitBack<E, S>) -> SteppedBack<E::Lanes<S>> {
        let simd = unit.simd;
        let one = E::splat(simd, E::ONE);
        let mul = |a, b| E::mul(simd, a, b);
        let sub = |a, b| E::sub(simd, a, b);
        let [d_h, _] = unit.grad;
        let (r, z, n, u) = (unit.gate(0), unit.gate(1), unit.gate(2), unit.gate(3));
        let h_in = unit.entering(0);
        let d_z = mul(mul(d_h, sub(h_in, n)), mul(z, sub(one, z)));
        let d_n = mul(mul(d_h, sub(one, z)), sub(one, mul(n, n)));
        let d_r = mul(mul(d_n, u), mul(r, sub(one, r)));
        SteppedBack {
            input: [d_r, d_z, d_n, d_n],
            last_product: mul(d_n, r),
            carried: mul(d_h, z),
        }
    }
}
