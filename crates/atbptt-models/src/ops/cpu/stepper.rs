//! One step at a time, with weights packed once: nothing is allocated, no thread is woken.
//!
//! Input and recurrent product run as the recurrent product of a window does (`panel`), the first with the epilogue that
//! stores its sums, the second with the cell's own (`forward`).

use std::marker::PhantomData;

use pulp::Simd;

use super::forward::Forward;
use super::packed::Packed;
use super::panel::{Epilogue, Run};
use super::pool::Buffer;
use super::shared::Shared;
use super::simd::{Level, Real};
use super::unit::Pointwise;
use super::window::{DoubleBuffer, Window};
use super::{gru, lstm, mingru, rnn, threads};
use crate::ops::cell::Cell;

/// A layer that takes one step of `batch` sequences at a time.
pub(crate) trait LayerStep: Send {
    /// From the input `[batch, input]`.
    fn step(&mut self, input: &[f32]);
    /// What the last step made, `[batch, hidden]`.
    fn output(&self) -> &[f32];
    /// Replaces the state by `parts`, each `[batch, hidden]`; zeros where one is missing.
    fn set_state(&mut self, parts: &[&[f32]]);
    /// Number of parts of the state.
    fn parts(&self) -> usize;
}

/// A layer's weights, one row after the other.
pub(crate) struct LayerWeights {
    pub batch: usize,
    pub inputs: usize,
    pub hidden: usize,
    /// `[inputs, gates · hidden]`
    pub input: Vec<f32>,
    /// `[hidden, recurrent gates · hidden]`
    pub recurrent: Vec<f32>,
    /// `[gates · hidden]`
    pub bias: Vec<f32>,
    /// `[hidden]`, of cells that have one.
    pub recurrent_bias: Vec<f32>,
}

/// A layer with these weights and a state of zeros.
pub(crate) fn layer(cell: Cell, weights: LayerWeights) -> Box<dyn LayerStep> {
    match cell {
        Cell::Lstm => Box::new(Layer::<lstm::Lstm, 4>::new(weights)),
        Cell::Gru => Box::new(Layer::<gru::Gru, 3>::new(weights)),
        Cell::Rnn => Box::new(Layer::<rnn::Rnn, 2>::new(weights)),
        Cell::MinGru => Box::new(Layer::<mingru::MinGru, 2>::new(weights)),
    }
}

struct Layer<C, const V: usize> {
    batch: usize,
    inputs: usize,
    hidden: usize,
    input_weight: Packed<f32, V>,
    recurrent_weight: Packed<f32, V>,
    bias: Vec<f32>,
    recurrent_bias: Vec<f32>,
    /// The input product, and the gates after it, `[batch, gates · hidden]`; of cells that save none, empty.
    gates: Buffer<f32>,
    /// The packed state that a step makes, `[batch, S]`.
    states: Buffer<f32>,
    /// Hidden state that enters the next step.
    entering: DoubleBuffer<f32>,
    /// The second part of the state that enters it, `[batch, hidden]`.
    carried: Buffer<f32>,
    output: Vec<f32>,
    cell: PhantomData<C>,
}

impl<C: Pointwise<f32>, const V: usize> Layer<C, V> {
    fn new(weights: LayerWeights) -> Self {
        let LayerWeights {
            batch,
            inputs,
            hidden,
            ..
        } = weights;
        let (gates, products) = (C::CELL.gates(), C::CELL.recurrent_gates());
        let depth = if products > 0 { hidden } else { 0 };
        Self {
            batch,
            inputs,
            hidden,
            input_weight: Packed::gates(&weights.input, inputs, hidden, gates),
            recurrent_weight: Packed::gates(&weights.recurrent, depth, hidden, products),
            bias: weights.bias,
            recurrent_bias: weights.recurrent_bias,
            gates: Buffer::zeros(batch * C::CELL.saved_gates() * hidden),
            states: Buffer::zeros(batch * C::CELL.state_parts() * hidden),
            entering: DoubleBuffer::new(batch, hidden),
            carried: Buffer::zeros((C::CELL.state_parts() - 1) * batch * hidden),
            output: vec![0.0; batch * hidden],
            cell: PhantomData,
        }
    }

    /// Where a part of a sequence's state that enters the next step lies.
    fn part(&mut self, part: usize, sequence: usize) -> &mut [f32] {
        match part {
            0 => &mut self.entering.row(sequence)[..self.hidden],
            _ => &mut self.carried[sequence * self.hidden..][..self.hidden],
        }
    }
}

impl<C: Pointwise<f32> + Send, const V: usize> LayerStep for Layer<C, V> {
    fn step(&mut self, input: &[f32]) {
        let (batch, hidden, parts) = (self.batch, self.hidden, C::CELL.state_parts());
        let saved = C::CELL.saved_gates();
        let states = Shared::new(&mut self.states);
        // As in a window: gates or, where there are none, states take the input product's place.
        let gates = match saved {
            0 => states,
            _ => Shared::new(&mut self.gates),
        };
        let window = Window {
            time: 1,
            batch,
            inputs: self.inputs,
            hidden,
            input,
            input_weight: &[],
            recurrent_weight: &[],
            bias: &self.bias,
            recurrent_bias: &self.recurrent_bias,
            state: &[],
            taps: None,
            reset_mask: None,
        };
        let level = Level::detect();
        threads::alone(|| {
            level.dispatch(Run {
                epilogue: &InputProduct {
                    left: Shared::read_only(input),
                    inputs: self.inputs,
                    hidden,
                    gates: C::CELL.gates(),
                    out: gates,
                    stride: saved.max(1) * hidden,
                },
                packed: &self.input_weight,
                step: 0,
                panels: 0..self.input_weight.panels(),
                fresh: false,
                rows: 0..batch,
            });
            level.dispatch(Run {
                epilogue: &Forward::<f32, C>::of(
                    &window,
                    gates,
                    states,
                    self.entering.share(),
                    Shared::new(&mut self.carried),
                ),
                packed: &self.recurrent_weight,
                step: 0,
                panels: 0..self.recurrent_weight.panels(),
                fresh: false,
                rows: 0..batch,
            });
        });
        for b in 0..batch {
            let at = b * parts * hidden;
            for part in 0..parts {
                let from = at + part * hidden;
                match part {
                    0 => self.entering.row(b)[..hidden]
                        .copy_from_slice(&self.states[from..from + hidden]),
                    _ => self.carried[b * hidden..][..hidden]
                        .copy_from_slice(&self.states[from..from + hidden]),
                }
            }
            self.output[b * hidden..][..hidden].copy_from_slice(&self.states[at..at + hidden]);
        }
    }

    fn output(&self) -> &[f32] {
        &self.output
    }

    fn set_state(&mut self, parts: &[&[f32]]) {
        let hidden = self.hidden;
        for part in 0..C::CELL.state_parts() {
            for b in 0..self.batch {
                let to = self.part(part, b);
                match parts.get(part) {
                    Some(from) => to.copy_from_slice(&from[b * hidden..][..hidden]),
                    None => to.fill(0.0),
                }
            }
        }
    }

    fn parts(&self) -> usize {
        C::CELL.state_parts()
    }
}

/// Stores x W, the gates of a sequence side by side.
struct InputProduct {
    left: Shared<f32>,
    inputs: usize,
    hidden: usize,
    gates: usize,
    out: Shared<f32>,
    /// Elements of `out` per sequence.
    stride: usize,
}

impl<const V: usize> Epilogue<f32, V> for InputProduct {
    fn left(&self, _: usize) -> Option<(*const f32, usize)> {
        Some((self.left.near(0), self.inputs))
    }

    #[inline(always)]
    unsafe fn apply<S: Simd>(
        &self,
        simd: S,
        _: usize,
        panel: usize,
        row: usize,
        sums: &[[<f32 as Real>::Lanes<S>; V]],
    ) {
        let vectors = V / self.gates;
        for (b, sums) in (row..).zip(sums) {
            for (v, &sum) in sums[..vectors * self.gates].iter().enumerate() {
                let unit = (panel * vectors + v / self.gates) * f32::lanes::<S>();
                if unit < self.hidden {
                    let at = b * self.stride + v % self.gates * self.hidden + unit;
                    // SAFETY: the sequence has so many units left of this gate.
                    unsafe { f32::store(simd, self.out.at(at), self.hidden - unit, sum) };
                }
            }
        }
    }
}
