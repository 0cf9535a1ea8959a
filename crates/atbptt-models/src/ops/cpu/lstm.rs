//! LSTM: gates i, f, g, o; packed state h, c.

use pulp::Simd;

use super::math::{sigmoid, tanh};
use super::panel::{Finish, Packed, Shared};
use super::pool::{Buffer, Room};
use super::simd::Real;
use super::team;
use super::window::{Gradients, Relay, RelayParts, Window, address};
use crate::ops::kernels::Needs;

struct Forward<'a, E> {
    window: &'a Window<'a, E>,
    bias: Shared<E>,
    taps: Option<Shared<E>>,
    keep: Option<Shared<E>>,
    /// Input products, replaced by the activated gates, `[T, B, 4H]`.
    gates: Shared<E>,
    /// `[T, B, 2H]`
    states: Shared<E>,
    /// Hidden state entering a step.
    hidden: RelayParts<E>,
    /// Cell state entering a step, `[B, H]`.
    cell: Shared<E>,
}

impl<E: Real> Finish<E, 4> for Forward<'_, E> {
    fn left(&self, step: usize) -> Option<(*const E, usize)> {
        Some(self.hidden.left(step))
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        t: usize,
        panel: usize,
        row: usize,
        sums: &[[E::Lanes<S>; 4]],
    ) {
        let (batch, hidden) = (self.window.batch, self.window.hidden);
        let unit = panel * E::lanes::<S>();
        let count = hidden - unit;
        let last = t + 1 == self.window.time;
        // SAFETY: step `t`, the rows from `row` on and units `unit..` exist in every buffer, and `count` keeps within the
        // row; no other call touches them in this step.
        unsafe {
            let load = |from: Shared<E>, index: usize| E::load(simd, from.at(index), count);
            let store = |to: *mut E, value| E::store(simd, to, count, value);
            for (m, sums) in sums.iter().enumerate() {
                let b = row + m;
                let gates = (t * batch + b) * 4 * hidden + unit;
                let sum = |gate: usize| {
                    let bias = load(self.bias, gate * hidden + unit);
                    let input = load(self.gates, gates + gate * hidden);
                    E::add(simd, E::add(simd, sums[gate], input), bias)
                };
                let i = sigmoid::<E, S>(simd, sum(0));
                let f = sigmoid::<E, S>(simd, sum(1));
                let g = tanh::<E, S>(simd, sum(2));
                let o = sigmoid::<E, S>(simd, sum(3));
                let cell = b * hidden + unit;
                let c = E::fma(simd, f, load(self.cell, cell), E::mul(simd, i, g));
                let h = E::mul(simd, o, tanh::<E, S>(simd, c));
                for (gate, value) in [i, f, g, o].into_iter().enumerate() {
                    store(self.gates.at(gates + gate * hidden), value);
                }
                let state = (t * batch + b) * 2 * hidden + unit;
                store(self.states.at(state), h);
                store(self.states.at(state + hidden), c);
                if last {
                    continue;
                }
                let (mut h, mut c) = (h, c);
                if let Some(taps) = self.taps {
                    h = E::add(simd, h, load(taps, state));
                    c = E::add(simd, c, load(taps, state + hidden));
                }
                if let Some(keep) = self.keep {
                    let keep = E::splat(simd, *keep.at((t + 1) * batch + b));
                    h = E::mul(simd, h, keep);
                    c = E::mul(simd, c, keep);
                }
                store(self.hidden.row(t + 1, b).add(unit), h);
                store(self.cell.at(cell), c);
            }
        }
    }
}

/// States `[T, B, 2H]` and gates `[T, B, 4H]`.
pub(crate) fn forward<E: Real>(window: &Window<'_, E>) -> [Buffer<E>; 2] {
    let (batch, hidden) = (window.batch, window.hidden);
    let mut gates = Room::new(window.rows() * 4 * hidden);
    let mut states = Room::new(window.rows() * 2 * hidden);
    window.input_product(gates.target(), 4 * hidden);
    let mut relay = Relay::new(batch, hidden);
    let mut cell = Buffer::zeros(batch * hidden);
    for b in 0..batch {
        fill(relay.row(b), window.first(b, 0, 2 * hidden));
        fill(&mut cell[b * hidden..], window.first(b, 1, 2 * hidden));
    }
    let packed = Packed::<E, 4>::gates(window.recurrent_weight, hidden, hidden);
    let finish = Forward {
        window,
        bias: Shared::read_only(window.bias),
        taps: address(window.taps),
        keep: address(window.keep),
        gates: gates.share(),
        states: states.share(),
        hidden: relay.share(),
        cell: Shared::new(&mut cell),
    };
    team::run(window.time, batch, &packed, &finish);
    // SAFETY: every step wrote its states and gates.
    unsafe { [states.full(), gates.full()] }
}

fn fill<E>(to: &mut [E], from: impl Iterator<Item = E>) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}

/// Step s of the pass is time step T − 1 − s; step T only hands the gradient to the initial state.
struct Backward<'a, E> {
    window: &'a Window<'a, E>,
    taps: Option<Shared<E>>,
    keep: Option<Shared<E>>,
    gates: Shared<E>,
    states: Shared<E>,
    /// Gradient of every state, `[T, B, 2H]`.
    grad: Shared<E>,
    /// ∂L/∂(gates before activation) of the step after.
    relay: RelayParts<E>,
    /// Gradient of the cell state from the step after, `[B, H]`.
    cell: Shared<E>,
    /// ∂L/∂(gates before activation) of every step, `[T, B, 4H]`, where a product needs it.
    d_gates: Option<Shared<E>>,
    d_taps: Option<Shared<E>>,
    d_state: Shared<E>,
}

impl<E: Real> Finish<E, 2> for Backward<'_, E> {
    fn left(&self, step: usize) -> Option<(*const E, usize)> {
        (step > 0).then(|| self.relay.left(step))
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        step: usize,
        panel: usize,
        row: usize,
        sums: &[[E::Lanes<S>; 2]],
    ) {
        let (time, batch, hidden) = (self.window.time, self.window.batch, self.window.hidden);
        // The time step after the one whose states receive a gradient.
        let after = time - step;
        for v in 0..2 {
            let unit = (2 * panel + v) * E::lanes::<S>();
            if unit >= hidden {
                return;
            }
            let count = hidden - unit;
            // SAFETY: as in the forward pass.
            unsafe {
                let load = |from: Shared<E>, index: usize| E::load(simd, from.at(index), count);
                let store = |to: *mut E, value| E::store(simd, to, count, value);
                let one = E::splat(simd, E::ONE);
                let mul = |a, b| E::mul(simd, a, b);
                // d y (1 − y) and d (1 − y²).
                let d_sigmoid = |y, d| mul(d, mul(y, E::sub(simd, one, y)));
                let d_tanh = |y, d| mul(d, E::sub(simd, one, mul(y, y)));
                for (m, sums) in sums.iter().enumerate() {
                    let b = row + m;
                    let cell = b * hidden + unit;
                    let (mut rec_h, mut rec_c) = (sums[v], load(self.cell, cell));
                    if let (Some(keep), true) = (self.keep, step > 0) {
                        let keep = E::splat(simd, *keep.at(after * batch + b));
                        rec_h = mul(rec_h, keep);
                        rec_c = mul(rec_c, keep);
                    }
                    if after == 0 {
                        let state = b * 2 * hidden + unit;
                        store(self.d_state.at(state), rec_h);
                        store(self.d_state.at(state + hidden), rec_c);
                        continue;
                    }
                    let at = (after - 1) * batch + b;
                    let state = at * 2 * hidden + unit;
                    if let Some(d_taps) = self.d_taps {
                        store(d_taps.at(state), rec_h);
                        store(d_taps.at(state + hidden), rec_c);
                    }
                    let dh = E::add(simd, load(self.grad, state), rec_h);
                    let dc = E::add(simd, load(self.grad, state + hidden), rec_c);

                    let gates = at * 4 * hidden + unit;
                    let gate = |k: usize| load(self.gates, gates + k * hidden);
                    let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
                    let tanh_c = tanh::<E, S>(simd, load(self.states, state + hidden));
                    let c_in = self.cell_entering(simd, after - 1, b, unit);
                    let d_o = d_sigmoid(o, mul(dh, tanh_c));
                    let dc = E::add(simd, dc, d_tanh(tanh_c, mul(dh, o)));
                    let d_i = d_sigmoid(i, mul(dc, g));
                    let d_f = d_sigmoid(f, mul(dc, c_in));
                    let d_g = d_tanh(g, mul(dc, i));
                    store(self.cell.at(cell), mul(dc, f));
                    let relay = self.relay.row(step + 1, b).add(unit);
                    for (k, value) in [d_i, d_f, d_g, d_o].into_iter().enumerate() {
                        store(relay.add(k * hidden), value);
                        if let Some(d_gates) = self.d_gates {
                            store(d_gates.at(gates + k * hidden), value);
                        }
                    }
                }
            }
        }
    }
}

impl<E: Real> Backward<'_, E> {
    /// The cell state that entered time step `t`: handed over, tapped, reset.
    ///
    /// # Safety
    /// Step, sequence and unit exist.
    #[inline(always)]
    unsafe fn cell_entering<S: Simd>(
        &self,
        simd: S,
        t: usize,
        b: usize,
        unit: usize,
    ) -> E::Lanes<S> {
        let (batch, hidden) = (self.window.batch, self.window.hidden);
        // SAFETY: the caller's promise.
        unsafe {
            let load = |from: *const E| E::load(simd, from, hidden - unit);
            let mut c = if t == 0 {
                load(self.window.state.as_ptr().add((2 * b + 1) * hidden + unit))
            } else {
                let at = (2 * ((t - 1) * batch + b) + 1) * hidden + unit;
                let c = load(self.states.at(at));
                match self.taps {
                    Some(taps) => E::add(simd, c, load(taps.at(at))),
                    None => c,
                }
            };
            if let Some(keep) = self.keep {
                c = E::mul(simd, c, E::splat(simd, *keep.at(t * batch + b)));
            }
            c
        }
    }
}

/// Gradients from that of every state, `[T, B, 2H]`.
pub(crate) fn backward<E: Real>(
    window: &Window<'_, E>,
    states: &[E],
    gates: &[E],
    grad: &[E],
    needs: Needs,
) -> Gradients<E> {
    let (batch, hidden, rows) = (window.batch, window.hidden, window.rows());
    let products = needs.input || needs.input_weight || needs.recurrent_weight || needs.bias;
    let mut d_gates = products.then(|| Room::new(rows * 4 * hidden));
    let mut d_taps = needs.taps.then(|| Room::new(rows * 2 * hidden));
    let mut d_state = Buffer::zeros(batch * 2 * hidden);
    let mut cell = Buffer::zeros(batch * hidden);
    let mut relay = Relay::new(batch, 4 * hidden);
    let packed = Packed::<E, 2>::transposed(window.recurrent_weight, 4 * hidden, hidden);
    let finish = Backward {
        window,
        taps: address(window.taps),
        keep: address(window.keep),
        gates: Shared::read_only(gates),
        states: Shared::read_only(states),
        grad: Shared::read_only(grad),
        relay: relay.share(),
        cell: Shared::new(&mut cell),
        d_gates: d_gates.as_mut().map(Room::share),
        d_taps: d_taps.as_mut().map(Room::share),
        d_state: Shared::new(&mut d_state),
    };
    team::run(window.time + 1, batch, &packed, &finish);

    // SAFETY: every step wrote its gradients.
    let [d_gates, d_taps] = [d_gates, d_taps].map(|room| room.map(|room| unsafe { room.full() }));
    let width = 4 * hidden;
    let d = d_gates.as_deref().unwrap_or_default();
    Gradients {
        input: needs.input.then(|| window.input_grad(d, width)),
        input_weight: needs
            .input_weight
            .then(|| window.input_weight_grad(d, width)),
        recurrent_weight: needs
            .recurrent_weight
            .then(|| window.recurrent_weight_grad(states, 2 * hidden, &[(d, width, width)])),
        bias: needs.bias.then(|| window.bias_grad(d, width)),
        recurrent_bias: None,
        state: d_state,
        taps: d_taps,
    }
}
