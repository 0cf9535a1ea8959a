//! A window forward through any cell: the recurrent products with their pointwise part as epilogue.
//!
//! A cell adds its equations on registers of hidden units, [`Pointwise`]; all that surrounds them is here and in `backward`:
//! where values are read and written, taps, reset mask, and what is handed from step to step.

use std::marker::PhantomData;

use pulp::Simd;

use super::packed::Packed;
use super::panel::{Epilogue, prefetch_far};
use super::pool::{Buffer, UninitBuffer};
use super::shared::Shared;
use super::simd::Real;
use super::team;
use super::unit::{Pointwise, Unit};
use super::window::{DoubleBuffer, DoubleBufferParts, Window, address};
use super::{gru, lstm, mingru, one_step, rnn};
use crate::ops::cell::Cell;

pub(super) struct Forward<'a, E, C> {
    window: &'a Window<'a, E>,
    bias: Shared<E>,
    recurrent_bias: Shared<E>,
    taps: Option<Shared<E>>,
    reset_mask: Option<Shared<E>>,
    /// Input products, in rows of as many gates as are saved, or one; gates or states take their place.
    inputs: Shared<E>,
    /// `[T, B, saved gates · H]`
    gates: Shared<E>,
    /// `[T, B, S]`
    states: Shared<E>,
    /// Hidden state entering a step.
    hidden: DoubleBufferParts<E>,
    /// Second part of the state entering a step, `[B, H]`, of cells that have one.
    carried: Shared<E>,
    cell: PhantomData<C>,
}

impl<'a, E: Real, C: Pointwise<E>> Forward<'a, E, C> {
    /// The steps of `window`; gates, or states where there are none, hold the input products.
    pub(super) fn of(
        window: &'a Window<'a, E>,
        gates: Shared<E>,
        states: Shared<E>,
        hidden: DoubleBufferParts<E>,
        carried: Shared<E>,
    ) -> Self {
        Self {
            window,
            bias: Shared::read_only(window.bias),
            recurrent_bias: Shared::read_only(match C::CELL.has_recurrent_bias() {
                true => window.recurrent_bias,
                // Not read; an address that counts like the units' own.
                false => window.bias,
            }),
            taps: address(window.taps),
            reset_mask: address(window.reset_mask),
            inputs: gates,
            gates,
            states,
            hidden,
            carried,
            cell: PhantomData,
        }
    }
}

impl<E: Real, C: Pointwise<E>, const V: usize> Epilogue<E, V> for Forward<'_, E, C> {
    fn left(&self, step: usize) -> Option<(*const E, usize)> {
        Some(self.hidden.left(step))
    }

    #[inline(always)]
    fn prefetch(&self, t: usize, panel: usize, row: usize, lanes: usize) {
        let (parts, saved) = const { (C::CELL.state_parts(), C::CELL.saved_gates()) };
        let vectors = const { vectors::<V>(C::CELL) };
        let hidden = self.window.hidden;
        let at = t * self.window.batch + row;
        for v in 0..vectors {
            let unit = (vectors * panel + v) * lanes;
            for gate in 0..saved.max(1) {
                prefetch_far(self.inputs.near((at * saved.max(1) + gate) * hidden + unit));
            }
            for part in 0..parts {
                prefetch_far(self.states.near((at * parts + part) * hidden + unit));
            }
        }
    }

    #[inline(always)]
    unsafe fn apply<S: Simd>(
        &self,
        simd: S,
        t: usize,
        panel: usize,
        row: usize,
        sums: &[[E::Lanes<S>; V]],
    ) {
        let (parts, saved) = const { (C::CELL.state_parts(), C::CELL.saved_gates()) };
        let products = const { C::CELL.recurrent_gates() };
        let vectors = const { vectors::<V>(C::CELL) };
        let (batch, hidden) = (self.window.batch, self.window.hidden);
        let stride = saved.max(1) * hidden;
        let last = t + 1 == self.window.time;
        for v in 0..vectors {
            let unit = (vectors * panel + v) * E::lanes::<S>();
            if unit >= hidden {
                return;
            }
            let count = hidden - unit;
            // SAFETY: step `t`, the rows from `row` on and units `unit..` exist in every buffer, and `count` keeps within the
            // row; no other call touches them in this step.
            unsafe {
                let load = |from: Shared<E>, index: usize| E::load(simd, from.at(index), count);
                for (m, sums) in sums.iter().enumerate() {
                    let b = row + m;
                    let at = t * batch + b;
                    let cell = b * hidden + unit;
                    let carried = match parts {
                        1 => std::ptr::null_mut(),
                        _ => self.carried.at(cell),
                    };
                    let done = C::forward(&Unit {
                        simd,
                        products: &sums[v * products..][..products],
                        inputs: self.inputs.at(at * stride + unit),
                        bias: self.bias.at(unit),
                        recurrent_bias: self.recurrent_bias.at(unit),
                        entering: [self.hidden.row(t, b).add(unit), carried],
                        hidden,
                        count,
                    });
                    for (gate, &value) in done.gates[..saved].iter().enumerate() {
                        let to = self.gates.at(at * stride + unit + gate * hidden);
                        E::store(simd, to, count, value);
                    }
                    let state = at * parts * hidden + unit;
                    for (part, &value) in done.state[..parts].iter().enumerate() {
                        let to = self.states.at(state + part * hidden);
                        E::store(simd, to, count, value);
                    }
                    if last {
                        continue;
                    }
                    let next = [self.hidden.row(t + 1, b).add(unit), carried];
                    for (part, &value) in done.state[..parts].iter().enumerate() {
                        let mut value = value;
                        if let Some(taps) = self.taps {
                            value = E::add(simd, value, load(taps, state + part * hidden));
                        }
                        if let Some(mask) = self.reset_mask {
                            let mask = E::splat(simd, *mask.at((t + 1) * batch + b));
                            value = E::mul(simd, value, mask);
                        }
                        E::store(simd, next[part], count, value);
                    }
                }
            }
        }
    }
}

/// Registers of hidden units in a panel of `V` registers: as many as leave one for each gate.
const fn vectors<const V: usize>(cell: Cell) -> usize {
    match cell.recurrent_gates() {
        0 => V,
        gates => V / gates,
    }
}

/// States `[T, B, S]` and, of cells that save some, gates `[T, B, saved gates · H]`.
pub(super) fn forward<E: Real>(
    cell: Cell,
    window: &Window<'_, E>,
) -> (Buffer<E>, Option<Buffer<E>>) {
    match cell {
        Cell::Lstm => forward_of::<E, lstm::Lstm, 4>(window),
        Cell::Gru => forward_of::<E, gru::Gru, 3>(window),
        Cell::Rnn => forward_of::<E, rnn::Rnn, 2>(window),
        Cell::MinGru => forward_of::<E, mingru::MinGru, 2>(window),
    }
}

fn forward_of<E: Real, C: Pointwise<E>, const V: usize>(
    window: &Window<'_, E>,
) -> (Buffer<E>, Option<Buffer<E>>) {
    let (batch, hidden, rows) = (window.batch, window.hidden, window.rows());
    let (parts, saved) = (C::CELL.state_parts(), C::CELL.saved_gates());
    let mut states = UninitBuffer::new(rows * parts * hidden);
    let mut gates = (saved > 0).then(|| UninitBuffer::new(rows * saved * hidden));
    let inputs = gates.as_mut().unwrap_or(&mut states);
    window.input_product(inputs.target(), saved.max(1) * hidden);
    let inputs = inputs.share();
    let mut left = DoubleBuffer::new(batch, hidden);
    let mut carried = Buffer::zeros((parts - 1) * batch * hidden);
    for b in 0..batch {
        fill(left.row(b), window.first(b, 0, parts * hidden));
        if parts > 1 {
            fill(
                &mut carried[b * hidden..],
                window.first(b, 1, parts * hidden),
            );
        }
    }
    let (hidden_parts, carried) = (left.share(), Shared::new(&mut carried));
    let epilogue = Forward::<E, C>::of(window, inputs, states.share(), hidden_parts, carried);
    let gate_count = C::CELL.recurrent_gates();
    if window.time == 1 && gate_count > 0 {
        one_step::run::<E, _, V>(window, &epilogue, gate_count);
    } else {
        let depth = if gate_count > 0 { hidden } else { 0 };
        let packed = Packed::<E, V>::gates(window.recurrent_weight, depth, hidden, gate_count);
        team::run(window.time, batch, &packed, &epilogue);
    }
    // SAFETY: every step wrote its states and gates.
    unsafe { (states.assume_init(), gates.map(|gates| gates.assume_init())) }
}

fn fill<E>(to: &mut [E], from: impl Iterator<Item = E>) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}
