//! What a cell's equations see: one register of hidden units of one sequence and step.

use pulp::Simd;

use super::simd::Real;
use crate::ops::cell::Cell;

/// A cell's equations on one register of hidden units of one sequence and step.
pub(super) trait Pointwise<E: Real>: Sync {
    const CELL: Cell;

    fn forward<S: Simd>(unit: &Unit<'_, E, S>) -> Stepped<E::Lanes<S>>;

    fn backward<S: Simd>(unit: &UnitBack<E, S>) -> SteppedBack<E::Lanes<S>>;
}

/// What a step makes: as many of the saved gates and of the state's parts as the cell has; the rest is not read.
pub(super) struct Stepped<L> {
    pub gates: [L; 4],
    pub state: [L; 2],
}

/// Gradients that a step makes; of each as many as the cell has.
pub(super) struct SteppedBack<L> {
    /// At the input product, per gate; at the recurrent product they are the same.
    pub input: [L; 4],
    /// At the last gate's recurrent product, for cells that have a bias there.
    pub last_product: L,
    /// Of what the cell carries past the recurrent product.
    pub carried: L,
}

/// What a cell's equations read on the way forward.
pub(super) struct Unit<'a, E: Real, S: Simd> {
    pub simd: S,
    /// h R, per gate.
    pub products: &'a [E::Lanes<S>],
    /// x W of the first gate.
    pub inputs: *const E,
    pub bias: *const E,
    pub recurrent_bias: *const E,
    /// Parts of the state that enters the step.
    pub entering: [*const E; 2],
    pub hidden: usize,
    pub count: usize,
}

impl<E: Real, S: Simd> Unit<'_, E, S> {
    #[inline(always)]
    pub fn product(&self, gate: usize) -> E::Lanes<S> {
        self.products[gate]
    }

    #[inline(always)]
    pub fn input(&self, gate: usize) -> E::Lanes<S> {
        // SAFETY: the window has an input product per gate and unit.
        unsafe { E::load(self.simd, self.inputs.add(gate * self.hidden), self.count) }
    }

    #[inline(always)]
    pub fn bias(&self, gate: usize) -> E::Lanes<S> {
        // SAFETY: there is a bias per gate and unit.
        unsafe { E::load(self.simd, self.bias.add(gate * self.hidden), self.count) }
    }

    /// Of cells that have one.
    #[inline(always)]
    pub fn recurrent_bias(&self) -> E::Lanes<S> {
        // SAFETY: there is one per unit.
        unsafe { E::load(self.simd, self.recurrent_bias, self.count) }
    }

    #[inline(always)]
    pub fn entering(&self, part: usize) -> E::Lanes<S> {
        // SAFETY: a buffer of the state's part, at these units.
        unsafe { E::load(self.simd, self.entering[part], self.count) }
    }
}

/// What a cell's equations read on the way back.
pub(super) struct UnitBack<E: Real, S: Simd> {
    pub simd: S,
    /// Gradient of the state that the step made, all uses together, per part.
    pub grad: [E::Lanes<S>; 2],
    pub gates: *const E,
    pub state: *const E,
    pub entering: Entering<E>,
    pub hidden: usize,
    pub count: usize,
}

impl<E: Real, S: Simd> UnitBack<E, S> {
    /// A gate that the forward pass saved.
    #[inline(always)]
    pub fn gate(&self, gate: usize) -> E::Lanes<S> {
        // SAFETY: the forward pass saved it for every unit.
        unsafe { E::load(self.simd, self.gates.add(gate * self.hidden), self.count) }
    }

    /// A part of the state that the step made.
    #[inline(always)]
    pub fn state(&self, part: usize) -> E::Lanes<S> {
        // SAFETY: the states have it for every unit.
        unsafe { E::load(self.simd, self.state.add(part * self.hidden), self.count) }
    }

    /// A part of the state that entered the step: handed over, tapped, reset.
    #[inline(always)]
    pub fn entering(&self, part: usize) -> E::Lanes<S> {
        let at = part * self.hidden;
        // SAFETY: states and taps have the part for every unit.
        let load = |from: *const E| unsafe { E::load(self.simd, from.add(at), self.count) };
        let mut value = load(self.entering.state);
        if let Some(tap) = self.entering.tap {
            value = E::add(self.simd, value, load(tap));
        }
        if let Some(mask) = self.entering.mask {
            value = E::mul(self.simd, value, E::splat(self.simd, mask));
        }
        value
    }
}

/// Where the state that entered a step lies, and what changed it on the way.
pub(super) struct Entering<E> {
    pub state: *const E,
    pub tap: Option<*const E>,
    pub mask: Option<E>,
}
