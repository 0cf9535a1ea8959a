//! GRU: gates r, z, n and the new gate's recurrent product u; the state is h.

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
    recurrent_bias: Shared<E>,
    taps: Option<Shared<E>>,
    keep: Option<Shared<E>>,
    /// Input products of r, z, n in rows of 4H, replaced by r, z, n, u.
    gates: Shared<E>,
    /// `[T, B, H]`
    states: Shared<E>,
    /// State entering a step.
    hidden: RelayParts<E>,
}

impl<E: Real> Finish<E, 3> for Forward<'_, E> {
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
        sums: &[[E::Lanes<S>; 3]],
    ) {
        let (batch, hidden) = (self.window.batch, self.window.hidden);
        let unit = panel * E::lanes::<S>();
        let count = hidden - unit;
        let last = t + 1 == self.window.time;
        // SAFETY: step `t`, the rows from `row` on and units `unit..` exist in every buffer, and `count` keeps within the
        // row; no other call touches them in this step.
        unsafe {
            let load = |from: *const E| E::load(simd, from, count);
            let store = |to: *mut E, value| E::store(simd, to, count, value);
            for (m, sums) in sums.iter().enumerate() {
                let b = row + m;
                let gates = (t * batch + b) * 4 * hidden + unit;
                let input = |gate: usize| {
                    let bias = load(self.bias.at(gate * hidden + unit));
                    E::add(simd, load(self.gates.at(gates + gate * hidden)), bias)
                };
                let r = sigmoid::<E, S>(simd, E::add(simd, sums[0], input(0)));
                let z = sigmoid::<E, S>(simd, E::add(simd, sums[1], input(1)));
                let u = E::add(simd, sums[2], load(self.recurrent_bias.at(unit)));
                let n = tanh::<E, S>(simd, E::fma(simd, r, u, input(2)));
                let h_in = load(self.hidden.row(t, b).add(unit));
                // (1 − z) n + z h = n + z (h − n)
                let mut h = E::fma(simd, z, E::sub(simd, h_in, n), n);
                for (gate, value) in [r, z, n, u].into_iter().enumerate() {
                    store(self.gates.at(gates + gate * hidden), value);
                }
                let state = (t * batch + b) * hidden + unit;
                store(self.states.at(state), h);
                if last {
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

/// States `[T, B, H]` and gates `[T, B, 4H]`.
pub(crate) fn forward<E: Real>(window: &Window<'_, E>) -> [Buffer<E>; 2] {
    let (batch, hidden) = (window.batch, window.hidden);
    let mut gates = Room::new(window.rows() * 4 * hidden);
    let mut states = Room::new(window.rows() * hidden);
    window.input_product(gates.target(), 4 * hidden);
    let mut relay = Relay::new(batch, hidden);
    relay.begin(window);
    let packed = Packed::<E, 3>::gates(window.recurrent_weight, hidden, hidden);
    let finish = Forward {
        window,
        bias: Shared::read_only(window.bias),
        recurrent_bias: Shared::read_only(window.recurrent_bias),
        taps: address(window.taps),
        keep: address(window.keep),
        gates: gates.share(),
        states: states.share(),
        hidden: relay.share(),
    };
    team::run(window.time, batch, &packed, &finish);
    // SAFETY: every step wrote its states and gates.
    unsafe { [states.full(), gates.full()] }
}

/// Step s of the pass is time step T − 1 − s; step T only hands the gradient to the initial state.
struct Backward<'a, E> {
    window: &'a Window<'a, E>,
    taps: Option<Shared<E>>,
    keep: Option<Shared<E>>,
    gates: Shared<E>,
    states: Shared<E>,
    /// Gradient of every state, `[T, B, H]`.
    grad: Shared<E>,
    /// Gradient of the recurrent product r, z, u of the step after.
    relay: RelayParts<E>,
    /// What flows back past the product, dh z, from the step after, `[B, H]`.
    direct: Shared<E>,
    /// Gradient of the input product r, z, n, `[T, B, 3H]`, and of u, `[T, B, H]`, where a product needs them.
    d_gates: Option<[Shared<E>; 2]>,
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
                let one = E::splat(simd, E::ONE);
                let mul = |a, b| E::mul(simd, a, b);
                let sub = |a, b| E::sub(simd, a, b);
                for (m, sums) in sums.iter().enumerate() {
                    let b = row + m;
                    let direct = self.direct.at(b * hidden + unit);
                    let mut rec = E::add(simd, load(direct), sums[v]);
                    if let (Some(keep), true) = (self.keep, step > 0) {
                        rec = mul(rec, E::splat(simd, *keep.at(after * batch + b)));
                    }
                    if after == 0 {
                        store(self.d_state.at(b * hidden + unit), rec);
                        continue;
                    }
                    let t = after - 1;
                    let at = t * batch + b;
                    let state = at * hidden + unit;
                    if let Some(d_taps) = self.d_taps {
                        store(d_taps.at(state), rec);
                    }
                    let dh = E::add(simd, load(self.grad.at(state)), rec);
                    let gates = at * 4 * hidden + unit;
                    let gate = |k: usize| load(self.gates.at(gates + k * hidden));
                    let (r, z, n, u) = (gate(0), gate(1), gate(2), gate(3));
                    let h_in = entering(
                        simd,
                        self.window,
                        self.states,
                        self.taps,
                        self.keep,
                        t,
                        b,
                        unit,
                    );

                    let d_z = mul(mul(dh, sub(h_in, n)), mul(z, sub(one, z)));
                    let d_n = mul(mul(dh, sub(one, z)), sub(one, mul(n, n)));
                    let d_r = mul(mul(d_n, u), mul(r, sub(one, r)));
                    let d_u = mul(d_n, r);
                    store(direct, mul(dh, z));
                    let relay = self.relay.row(step + 1, b).add(unit);
                    for (k, value) in [d_r, d_z, d_u].into_iter().enumerate() {
                        store(relay.add(k * hidden), value);
                    }
                    if let Some([d_input, d_new]) = self.d_gates {
                        let gates = at * 3 * hidden + unit;
                        for (k, value) in [d_r, d_z, d_n].into_iter().enumerate() {
                            store(d_input.at(gates + k * hidden), value);
                        }
                        store(d_new.at(state), d_u);
                    }
                }
            }
        }
    }
}

/// The state that entered time step `t`: handed over, tapped, reset.
///
/// # Safety
/// Step, sequence and unit exist.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn entering<E: Real, S: Simd>(
    simd: S,
    window: &Window<'_, E>,
    states: Shared<E>,
    taps: Option<Shared<E>>,
    keep: Option<Shared<E>>,
    t: usize,
    b: usize,
    unit: usize,
) -> E::Lanes<S> {
    let (batch, hidden) = (window.batch, window.hidden);
    // SAFETY: the caller's promise.
    unsafe {
        let load = |from: *const E| E::load(simd, from, hidden - unit);
        let mut h = if t == 0 {
            load(window.state.as_ptr().add(b * hidden + unit))
        } else {
            let at = ((t - 1) * batch + b) * hidden + unit;
            let h = load(states.at(at));
            match taps {
                Some(taps) => E::add(simd, h, load(taps.at(at))),
                None => h,
            }
        };
        if let Some(keep) = keep {
            h = E::mul(simd, h, E::splat(simd, *keep.at(t * batch + b)));
        }
        h
    }
}

/// Gradients from that of every state, `[T, B, H]`.
pub(crate) fn backward<E: Real>(
    window: &Window<'_, E>,
    states: &[E],
    gates: &[E],
    grad: &[E],
    needs: Needs,
) -> Gradients<E> {
    let (batch, hidden, rows) = (window.batch, window.hidden, window.rows());
    let products = needs.input || needs.input_weight || needs.recurrent_weight || needs.bias;
    let mut d_gates = products.then(|| [3 * hidden, hidden].map(|width| Room::new(rows * width)));
    let mut d_taps = needs.taps.then(|| Room::new(rows * hidden));
    let mut d_state = Buffer::zeros(batch * hidden);
    let mut direct = Buffer::zeros(batch * hidden);
    let mut relay = Relay::new(batch, 3 * hidden);
    let packed = Packed::<E, 2>::transposed(window.recurrent_weight, 3 * hidden, hidden);
    let finish = Backward {
        window,
        taps: address(window.taps),
        keep: address(window.keep),
        gates: Shared::read_only(gates),
        states: Shared::read_only(states),
        grad: Shared::read_only(grad),
        relay: relay.share(),
        direct: Shared::new(&mut direct),
        d_gates: d_gates
            .as_mut()
            .map(|buffers| buffers.each_mut().map(Room::share)),
        d_taps: d_taps.as_mut().map(Room::share),
        d_state: Shared::new(&mut d_state),
    };
    team::run(window.time + 1, batch, &packed, &finish);

    // SAFETY: every step wrote its gradients.
    let d_gates = d_gates.map(|rooms| rooms.map(|room| unsafe { room.full() }));
    // SAFETY: as above.
    let d_taps = d_taps.map(|room| unsafe { room.full() });
    let width = 3 * hidden;
    let [d, d_u]: [&[E]; 2] = match &d_gates {
        Some([d, d_u]) => [&d[..], &d_u[..]],
        None => [&[], &[]],
    };
    Gradients {
        input: needs.input.then(|| window.input_grad(d, width)),
        input_weight: needs
            .input_weight
            .then(|| window.input_weight_grad(d, width)),
        recurrent_weight: needs.recurrent_weight.then(|| {
            let columns = [(d, 2 * hidden, width), (d_u, hidden, hidden)];
            window.recurrent_weight_grad(states, hidden, &columns)
        }),
        bias: needs.bias.then(|| window.bias_grad(d, width)),
        recurrent_bias: needs.bias.then(|| window.bias_grad(d_u, hidden)),
        state: d_state,
        taps: d_taps,
    }
}
