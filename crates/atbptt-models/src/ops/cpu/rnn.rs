//! Tanh RNN: the state is h, and is all that the backward pass needs.

use pulp::Simd;

use super::math::tanh;
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
    /// Input products, replaced by the states, `[T, B, H]`.
    states: Shared<E>,
    /// State entering a step.
    hidden: RelayParts<E>,
}

impl<E: Real> Finish<E, 2> for Forward<'_, E> {
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
        sums: &[[E::Lanes<S>; 2]],
    ) {
        let (batch, hidden) = (self.window.batch, self.window.hidden);
        for v in 0..2 {
            let unit = (2 * panel + v) * E::lanes::<S>();
            if unit >= hidden {
                return;
            }
            let count = hidden - unit;
            // SAFETY: step `t`, the rows from `row` on and units `unit..` exist in every buffer, and `count` keeps within
            // the row; no other call touches them in this step.
            unsafe {
                let load = |from: *const E| E::load(simd, from, count);
                let store = |to: *mut E, value| E::store(simd, to, count, value);
                for (m, sums) in sums.iter().enumerate() {
                    let b = row + m;
                    let state = (t * batch + b) * hidden + unit;
                    let input = E::add(simd, load(self.states.at(state)), load(self.bias.at(unit)));
                    let mut h = tanh::<E, S>(simd, E::add(simd, sums[v], input));
                    store(self.states.at(state), h);
                    if t + 1 == self.window.time {
                        continue;
                    }
                    if let Some(taps) = self.taps {
                        h = E::add(simd, h, load(taps.at(state)));
                    }
                    if let Some(keep) = self.keep {
                        h = E::mul(simd, h, E::splat(simd, *keep.at((t + 1) * batch + b)));
                    }
                    store(self.hidden.row(t + 1, b).add(unit), h);
                }
            }
        }
    }
}

/// States `[T, B, H]`.
pub(crate) fn forward<E: Real>(window: &Window<'_, E>) -> Buffer<E> {
    let (batch, hidden) = (window.batch, window.hidden);
    let mut states = Room::new(window.rows() * hidden);
    window.input_product(states.target(), hidden);
    let mut relay = Relay::new(batch, hidden);
    relay.begin(window);
    let packed = Packed::<E, 2>::columns(window.recurrent_weight, hidden, hidden);
    let finish = Forward {
        window,
        bias: Shared::read_only(window.bias),
        taps: address(window.taps),
        keep: address(window.keep),
        states: states.share(),
        hidden: relay.share(),
    };
    team::run(window.time, batch, &packed, &finish);
    // SAFETY: every step wrote its states.
    unsafe { states.full() }
}

/// Step s of the pass is time step T − 1 − s; step T only hands the gradient to the initial state.
struct Backward<'a, E> {
    window: &'a Window<'a, E>,
    keep: Option<Shared<E>>,
    states: Shared<E>,
    /// Gradient of every state, `[T, B, H]`.
    grad: Shared<E>,
    /// ∂L/∂(h before tanh) of the step after.
    relay: RelayParts<E>,
    /// The same of every step, `[T, B, H]`, where a product needs it.
    d_pre: Option<Shared<E>>,
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
                let load = |from: *const E| E::load(simd, from, count);
                let store = |to: *mut E, value| E::store(simd, to, count, value);
                for (m, sums) in sums.iter().enumerate() {
                    let b = row + m;
                    let mut rec = sums[v];
                    if let (Some(keep), true) = (self.keep, step > 0) {
                        rec = E::mul(simd, rec, E::splat(simd, *keep.at(after * batch + b)));
                    }
                    if after == 0 {
                        store(self.d_state.at(b * hidden + unit), rec);
                        continue;
                    }
                    let state = ((after - 1) * batch + b) * hidden + unit;
                    if let Some(d_taps) = self.d_taps {
                        store(d_taps.at(state), rec);
                    }
                    let dh = E::add(simd, load(self.grad.at(state)), rec);
                    let h = load(self.states.at(state));
                    let slope = E::sub(simd, E::splat(simd, E::ONE), E::mul(simd, h, h));
                    let d = E::mul(simd, dh, slope);
                    store(self.relay.row(step + 1, b).add(unit), d);
                    if let Some(d_pre) = self.d_pre {
                        store(d_pre.at(state), d);
                    }
                }
            }
        }
    }
}

/// Gradients from that of every state, `[T, B, H]`.
pub(crate) fn backward<E: Real>(
    window: &Window<'_, E>,
    states: &[E],
    grad: &[E],
    needs: Needs,
) -> Gradients<E> {
    let (batch, hidden, rows) = (window.batch, window.hidden, window.rows());
    let products = needs.input || needs.input_weight || needs.recurrent_weight || needs.bias;
    let mut d_pre = products.then(|| Room::new(rows * hidden));
    let mut d_taps = needs.taps.then(|| Room::new(rows * hidden));
    let mut d_state = Buffer::zeros(batch * hidden);
    let mut relay = Relay::new(batch, hidden);
    let packed = Packed::<E, 2>::transposed(window.recurrent_weight, hidden, hidden);
    let finish = Backward {
        window,
        keep: address(window.keep),
        states: Shared::read_only(states),
        grad: Shared::read_only(grad),
        relay: relay.share(),
        d_pre: d_pre.as_mut().map(Room::share),
        d_taps: d_taps.as_mut().map(Room::share),
        d_state: Shared::new(&mut d_state),
    };
    team::run(window.time + 1, batch, &packed, &finish);

    // SAFETY: every step wrote its gradients.
    let [d_pre, d_taps] = [d_pre, d_taps].map(|room| room.map(|room| unsafe { room.full() }));
    let d = d_pre.as_deref().unwrap_or_default();
    Gradients {
        input: needs.input.then(|| window.input_grad(d, hidden)),
        input_weight: needs
            .input_weight
            .then(|| window.input_weight_grad(d, hidden)),
        recurrent_weight: needs
            .recurrent_weight
            .then(|| window.recurrent_weight_grad(states, hidden, &[(d, hidden, hidden)])),
        bias: needs.bias.then(|| window.bias_grad(d, hidden)),
        recurrent_bias: None,
        state: d_state,
        taps: d_taps,
    }
}
