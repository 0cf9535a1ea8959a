//! LSTM, [`Cell::Lstm`]: gates i, f, g, o; packed state h, c.

use pulp::Simd;

use super::math::{d_sigmoid, d_tanh, sigmoid, tanh};
use super::simd::Real;
use super::unit::{Pointwise, Stepped, SteppedBack, Unit, UnitBack};
use crate::ops::cell::Cell;

pub(super) struct Lstm;

impl<E: Real> Pointwise<E> for Lstm {
    const CELL: Cell = Cell::Lstm;

    #[inline(always)]
    fn forward<S: Simd>(unit: &Unit<'_, E, S>) -> Stepped<E::Lanes<S>> {
        let simd = unit.simd;
        let sum = |gate: usize| {
            let sum = E::add(simd, unit.product(gate), unit.input(gate));
            E::add(simd, sum, unit.bias(gate))
        };
        let i = sigmoid::<E, S>(simd, sum(0));
        let f = sigmoid::<E, S>(simd, sum(1));
        let g = tanh::<E, S>(simd, sum(2));
        let o = sigmoid::<E, S>(simd, sum(3));
        let c = E::fma(simd, f, unit.entering(1), E::mul(simd, i, g));
        let h = E::mul(simd, o, tanh::<E, S>(simd, c));
        Stepped {
            gates: [i, f, g, o],
            state: [h, c],
        }
    }

    #[inline(always)]
    fn backward<S: Simd>(unit: &UnitBack<E, S>) -> SteppedBack<E::Lanes<S>> {
        let simd = unit.simd;
        let mul = |a, b| E::mul(simd, a, b);
        let [d_h, d_c] = unit.grad;
        let (i, f, g, o) = (unit.gate(0), unit.gate(1), unit.gate(2), unit.gate(3));
        let tanh_c = tanh::<E, S>(simd, unit.state(1));
        let c_in = unit.entering(1);
        let d_o = d_sigmoid::<E, S>(simd, o, mul(d_h, tanh_c));
        let d_c = E::add(simd, d_c, d_tanh::<E, S>(simd, tanh_c, mul(d_h, o)));
        let d_i = d_sigmoid::<E, S>(simd, i, mul(d_c, g));
        let d_f = d_sigmoid::<E, S>(simd, f, mul(d_c, c_in));
        let d_g = d_tanh::<E, S>(simd, g, mul(d_c, i));
        SteppedBack {
            input: [d_i, d_f, d_g, d_o],
            last_product: d_o,
            carried: mul(d_c, f),
        }
    }
}
