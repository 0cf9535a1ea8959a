//! A window backward through any cell: the recurrent products with their pointwise part as epilogue, and the large products after
//! them.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::Simd;

use super::fade::{Fading, finite};
use super::packed::Packed;
use super::panel::{Epilogue, prefetch_far};
use super::pool::{Buffer, UninitBuffer};
use super::shared::Shared;
use super::simd::Real;
use super::team;
use super::unit::{Entering, Pointwise, UnitBack};
use super::window::{DoubleBuffer, DoubleBufferParts, Gradients, Window, address};
use super::{gru, lstm, mingru, rnn};
use crate::ops::cell::{Carry, Cell};
use crate::ops::types::NeedsGrad;

/// Step s of the pass is time step T − 1 − s; step T only hands the gradient to the initial state.
struct Backward<'a, E, C> {
    window: &'a Window<'a, E>,
    taps: Option<Shared<E>>,
    reset_mask: Option<Shared<E>>,
    gates: Shared<E>,
    states: Shared<E>,
    /// Gradient of every state, `[T, B, S]`.
    grad: Shared<E>,
    /// Gradient at the recurrent product of the step after.
    left: DoubleBufferParts<E>,
    /// Gradient of what the step after was handed past the product, `[B, H]`, of cells that carry something.
    carried: Shared<E>,
    /// Gradient at the input product, `[T, B, gates · H]`, where a product needs it.
    d_input: Option<Shared<E>>,
    /// Whether that is the gates' memory.
    in_place: bool,
    /// Gradient at the last gate's recurrent product, `[T, B, H]`, likewise, of cells that have a bias there.
    d_last: Option<Shared<E>>,
    d_taps: Option<Shared<E>>,
    d_state: Shared<E>,
    fading: Fading,
    cell: PhantomData<C>,
}

impl<E: Real, C: Pointwise<E>, const V: usize> Epilogue<E, V> for Backward<'_, E, C> {
    fn left(&self, step: usize) -> Option<(*const E, usize)> {
        (step > 0 && C::CELL.recurrent_gates() > 0).then(|| self.left.left(step))
    }

    #[inline(always)]
    fn prefetch(&self, step: usize, panel: usize, row: usize, lanes: usize) {
        let (parts, saved) = const { (C::CELL.state_parts(), C::CELL.saved_gates()) };
        let gates = const { C::CELL.gates() };
        let (batch, hidden) = (self.window.batch, self.window.hidden);
        let Some(t) = self.window.time.checked_sub(step + 1) else {
            return;
        };
        let at = t * batch + row;
        let unit = V * panel * lanes;
        {
            let near = |from: Shared<E>, width: usize| {
                for part in 0..width {
                    for v in 0..V {
                        prefetch_far(from.near((at * width + part) * hidden + unit + v * lanes));
                    }
                }
            };
            near(self.gates, saved);
            near(self.grad, parts);
            near(self.states, parts);
            if let Some(d_input) = self.d_input.filter(|_| !self.in_place) {
                near(d_input, gates);
            }
        }
    }

    fn rest_is_zero(&self, step: usize, rows: Range<usize>) -> bool {
        self.fading.is_over(step, rows)
    }

    unsafe fn write_zeros(&self, step: usize, rows: Range<usize>) {
        let (parts, gates) = (C::CELL.state_parts(), C::CELL.gates());
        let (time, batch, hidden) = (self.window.time, self.window.batch, self.window.hidden);
        let buffers = [
            (self.d_input, gates),
            (self.d_last, 1),
            (self.d_taps, parts),
        ];
        for (buffer, width) in buffers {
            let Some(buffer) = buffer else { continue };
            for t in 0..time.saturating_sub(step) {
                let first = (t * batch + rows.start) * width * hidden;
                // SAFETY: the rows exist in every step; all bits zero are the number zero.
                unsafe { buffer.at(first).write_bytes(0, rows.len() * width * hidden) };
            }
        }
    }

    #[inline(always)]
    unsafe fn apply<S: Simd>(
        &self,
        simd: S,
        step: usize,
        panel: usize,
        row: usize,
        sums: &[[E::Lanes<S>; V]],
    ) {
        let (parts, saved) = const { (C::CELL.state_parts(), C::CELL.saved_gates()) };
        let (gates, products) = const { (C::CELL.gates(), C::CELL.recurrent_gates()) };
        let (time, batch, hidden) = (self.window.time, self.window.batch, self.window.hidden);
        // The time step after the one whose states receive a gradient.
        let after = time - step;
        let zero = E::splat(simd, E::ZERO);
        // All bits of what is handed on.
        let mut handed_on = zero;
        for (m, sums) in sums.iter().enumerate() {
            let b = row + m;
            for (v, &sum) in sums.iter().enumerate() {
                let unit = (V * panel + v) * E::lanes::<S>();
                if unit >= hidden {
                    break;
                }
                let count = hidden - unit;
                // SAFETY: as in the forward pass.
                unsafe {
                    let load = |from: Shared<E>, index: usize| E::load(simd, from.at(index), count);
                    let store = |to: *mut E, value| E::store(simd, to, count, value);
                    let cell = b * hidden + unit;
                    let mut returned = match C::CELL.carry() {
                        Carry::Nothing => [sum; 2],
                        Carry::Hidden => [E::add(simd, load(self.carried, cell), sum); 2],
                        Carry::Cell => [sum, load(self.carried, cell)],
                    };
                    if let (Some(mask), true) = (self.reset_mask, step > 0) {
                        let mask = E::splat(simd, *mask.at(after * batch + b));
                        returned = returned.map(|value| E::mul(simd, value, mask));
                    }
                    // Zeros have one sign, computed or skipped.
                    let without_sign = |value| E::add(simd, value, zero);
                    if after == 0 {
                        let state = b * parts * hidden + unit;
                        for (part, &value) in returned[..parts].iter().enumerate() {
                            store(self.d_state.at(state + part * hidden), without_sign(value));
                        }
                        continue;
                    }
                    let t = after - 1;
                    let at = t * batch + b;
                    let state = at * parts * hidden + unit;
                    if let Some(d_taps) = self.d_taps {
                        for (part, &value) in returned[..parts].iter().enumerate() {
                            store(d_taps.at(state + part * hidden), without_sign(value));
                        }
                    }
                    let mut grad = returned;
                    for (part, value) in grad[..parts].iter_mut().enumerate() {
                        *value = E::add(simd, load(self.grad, state + part * hidden), *value);
                    }
                    let back = C::backward(&UnitBack {
                        simd,
                        grad,
                        gates: self.gates.at(at * saved * hidden + unit),
                        state: self.states.at(state),
                        entering: self.entering(t, b, unit, parts * hidden),
                        hidden,
                        count,
                    });
                    if !matches!(C::CELL.carry(), Carry::Nothing) {
                        store(self.carried.at(cell), back.carried);
                        handed_on = E::or(simd, handed_on, back.carried);
                    }
                    for (gate, &value) in back.input[..products].iter().enumerate() {
                        let value = match C::CELL.has_recurrent_bias() && gate + 1 == products {
                            true => back.last_product,
                            false => value,
                        };
                        store(self.left.row(step + 1, b).add(unit + gate * hidden), value);
                        handed_on = E::or(simd, handed_on, value);
                    }
                    if let Some(d_input) = self.d_input {
                        let at = at * gates * hidden + unit;
                        for (gate, &value) in back.input[..gates].iter().enumerate() {
                            store(d_input.at(at + gate * hidden), value);
                        }
                    }
                    if let Some(d_last) = self.d_last {
                        store(d_last.at(at * hidden + unit), back.last_product);
                    }
                }
            }
        }
        if !E::is_zero(simd, handed_on) {
            self.fading.handed_on(step, row);
        }
    }
}

impl<E: Real, C: Pointwise<E>> Backward<'_, E, C> {
    /// The state that entered time step `t`, from unit `unit` on; states hold `size` values per sequence.
    ///
    /// # Safety
    /// Step, sequence and unit exist.
    #[inline(always)]
    unsafe fn entering(&self, t: usize, b: usize, unit: usize, size: usize) -> Entering<E> {
        let batch = self.window.batch;
        // SAFETY: the caller's promise.
        unsafe {
            let mask = self.reset_mask.map(|mask| *mask.at(t * batch + b));
            match t.checked_sub(1) {
                None => Entering {
                    state: self.window.state.as_ptr().add(b * size + unit),
                    tap: None,
                    mask,
                },
                Some(before) => {
                    let at = (before * batch + b) * size + unit;
                    Entering {
                        state: self.states.at(at),
                        tap: self.taps.map(|taps| taps.at(at).cast_const()),
                        mask,
                    }
                }
            }
        }
    }
}

/// What the backward pass reads besides the window.
pub(super) struct Saved<'a, E> {
    /// `[T, B, S]`
    pub states: &'a [E],
    /// `[T, B, saved gates · H]`
    pub gates: Gates<'a, E>,
    /// Gradient of every state, `[T, B, S]`.
    pub grad: &'a [E],
}

/// The gates that the forward pass saved.
pub(super) enum Gates<'a, E> {
    /// Somebody may read them again.
    Kept(&'a [E]),
    /// Nobody will. A step's gradients at the input product take their place where they are as many (LSTM, minGRU), which
    /// saves the backward pass a fifth of the memory that it goes over.
    Free(&'a mut [E]),
}

/// Gradients from that of every state.
pub(super) fn backward<E: Real>(
    cell: Cell,
    window: &Window<'_, E>,
    saved: Saved<'_, E>,
    needs: NeedsGrad,
) -> Gradients<E> {
    match cell {
        Cell::Lstm => backward_of::<E, lstm::Lstm>(window, saved, needs),
        Cell::Gru => backward_of::<E, gru::Gru>(window, saved, needs),
        Cell::Rnn => backward_of::<E, rnn::Rnn>(window, saved, needs),
        Cell::MinGru => backward_of::<E, mingru::MinGru>(window, saved, needs),
    }
}

fn backward_of<E: Real, C: Pointwise<E>>(
    window: &Window<'_, E>,
    saved: Saved<'_, E>,
    needs: NeedsGrad,
) -> Gradients<E> {
    let (batch, hidden, rows) = (window.batch, window.hidden, window.rows());
    let size = C::CELL.state_parts() * hidden;
    let width = C::CELL.gates() * hidden;
    let depth = C::CELL.recurrent_gates() * hidden;
    let products = needs.input || needs.input_weight || needs.recurrent_weight || needs.bias;
    let fits = C::CELL.saved_gates() == C::CELL.gates();
    let (kept, mut in_place) = match saved.gates {
        Gates::Free(gates) if products && fits => (None, Some(gates)),
        Gates::Free(gates) => (Some(&*gates), None),
        Gates::Kept(gates) => (Some(gates), None),
    };
    let over_gates = in_place.as_deref_mut().map(Shared::new);
    let gates = over_gates.unwrap_or(Shared::read_only(kept.unwrap_or_default()));
    let beside = products && over_gates.is_none();
    let mut d_input = beside.then(|| UninitBuffer::new(rows * width));
    let apart = products && C::CELL.has_recurrent_bias();
    let mut d_last = apart.then(|| UninitBuffer::new(rows * hidden));
    let mut d_taps = needs.taps.then(|| UninitBuffer::new(rows * size));
    let mut d_state = Buffer::zeros(batch * size);
    let mut carried = Buffer::zeros(match C::CELL.carry() {
        Carry::Nothing => 0,
        Carry::Hidden | Carry::Cell => batch * hidden,
    });
    let mut left = DoubleBuffer::new(batch, depth);
    let epilogue = Backward::<E, C> {
        window,
        taps: address(window.taps),
        reset_mask: address(window.reset_mask),
        gates: match C::CELL.saved_gates() {
            // Not read; an address that counts like the gates'.
            0 => Shared::read_only(saved.states),
            _ => gates,
        },
        states: Shared::read_only(saved.states),
        grad: Shared::read_only(saved.grad),
        left: left.share(),
        carried: Shared::new(&mut carried),
        d_input: over_gates.or(d_input.as_mut().map(UninitBuffer::share)),
        in_place: over_gates.is_some(),
        d_last: d_last.as_mut().map(UninitBuffer::share),
        d_taps: d_taps.as_mut().map(UninitBuffer::share),
        d_state: Shared::new(&mut d_state),
        fading: match C::CELL.recurrent_gates() > 0 && window.taps.is_none_or(finite) {
            true => Fading::new(saved.grad, window.time, batch),
            false => Fading::never(batch),
        },
        cell: PhantomData,
    };
    // Panels of four registers read the left factor half as often as those of two, but a small layer fills only two.
    let steps = match hidden.div_ceil(E::native_lanes()) {
        0..=2 => recur::<E, C, 2>(window, depth, &epilogue),
        _ => recur::<E, C, 4>(window, depth, &epilogue),
    };
    // The gradients of the time steps before `first` are zero.
    let first = window.time.saturating_sub(steps);
    // Their rows of the large products are skipped as well, unless zero times something there is not zero.
    let skipped = &window.input[..first * batch * window.inputs];
    let without_effect = || finite(skipped) && finite(window.state) && finite(window.input_weight);
    let first = match first == 0 || without_effect() {
        true => first,
        false => 0,
    };

    // SAFETY: every step wrote its gradients, or they were written as zeros.
    let [d_input, d_last, d_taps] = [d_input, d_last, d_taps]
        .map(|buffer| buffer.map(|buffer| unsafe { buffer.assume_init() }));
    let d = in_place.as_deref().or(d_input.as_deref());
    let d = d.unwrap_or_default();
    let last = d_last.as_deref().unwrap_or_default();
    Gradients {
        input: needs.input.then(|| window.input_grad(d, width, first)),
        input_weight: needs
            .input_weight
            .then(|| window.input_weight_grad(d, width, first)),
        recurrent_weight: (needs.recurrent_weight && depth > 0).then(|| match d_last.is_some() {
            true => {
                let columns = [(d, depth - hidden, width), (last, hidden, hidden)];
                window.recurrent_weight_grad(saved.states, size, &columns, first)
            }
            false => window.recurrent_weight_grad(saved.states, size, &[(d, depth, width)], first),
        }),
        bias: needs.bias.then(|| window.bias_grad(d, width, first)),
        recurrent_bias: (needs.bias && apart).then(|| window.bias_grad(last, hidden, first)),
        state: d_state,
        taps: d_taps,
    }
}

/// Runs the pass on panels of `V` registers; returns the number of steps run.
fn recur<E: Real, C: Pointwise<E>, const V: usize>(
    window: &Window<'_, E>,
    depth: usize,
    epilogue: &Backward<'_, E, C>,
) -> usize {
    let packed = Packed::<E, V>::transposed(window.recurrent_weight, depth, window.hidden);
    team::run(window.time + 1, window.batch, &packed, epilogue)
}
