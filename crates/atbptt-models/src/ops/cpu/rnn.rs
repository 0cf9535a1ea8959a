//! Tanh RNN, [`Cell::Rnn`]: the state is h, and is all that the backward pass needs.

use pulp::Simd;

use super::math::{d_tanh, tanh};
use super::simd::Real;
use super::unit::{Pointwise, Stepped, SteppedBack, Unit, UnitBack};
use crate::ops::cell::Cell;

pub(super) struct Rnn;

impl<E: Real> Pointwise<E> for Rnn {
    const CELL: Cell = Cell::Rnn;

    #[inline(always)]
    fn forward<S: Simd>(unit: &Unit<'_, E, S>) -> Stepped<E::Lanes<S>> {
        let simd = unit.simd;
        let input = E::add(simd, unit.input(0), unit.bias(0));
        let h = tanh::<E, S>(simd, E::add(simd, unit.product(0), input));
        Stepped {
            gates: [h; 4],
            state: [h; 2],
        }
    }

    #[inline(always)]
    fn backward<S: Simd>(unit: &UnitBack<E, S>) -> SteppedBack<E::Lanes<S>> {
        let d = d_tanh::<E, S>(unit.simd, unit.state(0), unit.grad[0]);
        SteppedBack {
            input: [d; 4],
            last_product: d,
            carried: d,
        }
    }
}
