//! minGRU, [`Cell::MinGru`]: gate z and candidate n see the input alone; the state is h.

use pulp::Simd;

use super::math::{d_sigmoid, sigmoid};
use super::simd::Real;
use super::unit::{Pointwise, Stepped, SteppedBack, Unit, UnitBack};
use crate::ops::cell::Cell;

pub(super) struct MinGru;

impl<E: Real> Pointwise<E> for MinGru {
    const CELL: Cell = Cell::MinGru;

    #[inline(always)]
    fn forward<S: Simd>(unit: &Unit<'_, E, S>) -> Stepped<E::Lanes<S>> {
        let simd = unit.simd;
        let input = |gate: usize| E::add(simd, unit.input(gate), unit.bias(gate));
        let z = sigmoid::<E, S>(simd, input(0));
        let n = input(1);
        let h_in = unit.entering(0);
        // (1 − z) h + z n = h + z (n − h)
        let h = E::fma(simd, z, E::sub(simd, n, h_in), h_in);
        Stepped {
            gates: [z, n, n, n],
            state: [h; 2],
        }
    }

    #[inline(always)]
    fn backward<S: Simd>(unit: &UnitBack<E, S>) -> SteppedBack<E::Lanes<S>> {
        let simd = unit.simd;
        let [d_h, _] = unit.grad;
        let (z, n) = (unit.gate(0), unit.gate(1));
        let change = E::sub(simd, n, unit.entering(0));
        let d_z = d_sigmoid::<E, S>(simd, z, E::mul(simd, d_h, change));
        let d_n = E::mul(simd, d_h, z);
        let rest = E::sub(simd, E::splat(simd, E::ONE), z);
        SteppedBack {
            input: [d_z, d_n, d_n, d_n],
            last_product: d_n,
            carried: E::mul(simd, d_h, rest),
        }
    }
}
