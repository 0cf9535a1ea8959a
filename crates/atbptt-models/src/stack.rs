//! Stacked recurrent layers: [`Stack`].
//!
//! Each layer runs a whole window as one operation; the law that joins windows: a sequence cut into chunks, each
//! started from the state the last one left, gives the outputs of one long run. Gradients differ by design.

mod config;

use std::marker::PhantomData;

use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::{Bool, Device, Tensor};

use crate::ModelError;
use crate::layer::RecurrentLayer;
use crate::ops::{self, SequenceOptions};
use crate::state::{PackedState, RecurrentState};

pub use self::config::StackConfig;
pub(crate) use self::config::{check_size, dropout};

/// Recurrent layers above each other, dropout in between: an LSTM is a `Stack<LstmLayer>`, a GRU a `Stack<GruLayer>`.
#[derive(Module, Debug)]
pub struct Stack<L: RecurrentLayer> {
    /// Bottom layer first.
    pub layers: Vec<L>,
    /// Between layers.
    pub dropout: Dropout,
    /// Layout of inputs and outputs of [`forward`](Self::forward).
    pub batch_first: bool,
}

/// Optional inputs of [`Stack::unroll`].
#[derive(Clone, Debug, Default)]
pub struct UnrollOptions {
    /// State taps per layer, bottom first, each packed `[time, batch, S]`. See [`crate::ops`].
    pub taps: Option<Vec<Tensor<3>>>,
    /// `[batch, time]`: true where a step begins a new sequence. The state is zeroed and the gradient cut before it.
    pub reset: Option<Tensor<2, Bool>>,
}

/// A window run through all layers.
#[derive(Clone, Debug)]
pub struct Unrolled<L: RecurrentLayer> {
    /// Output of the top layer at every step, `[time, batch, hidden]`.
    pub output: Tensor<3>,
    /// Packed states of every layer at every step, bottom first, each `[time, batch, S]`.
    pub states: Vec<Tensor<3>>,
    layer: PhantomData<L>,
}

impl<L: RecurrentLayer> Unrolled<L> {
    /// The state handed over after step `step` of the window, counted from zero; clamped to the last.
    pub fn state_after(&self, step: usize) -> Vec<L::State> {
        self.states
            .iter()
            .map(|states| {
                let [time, batch, size] = states.dims();
                let step = step.min(time.saturating_sub(1));
                let packed = states.clone().slice([step..step + 1, 0..batch, 0..size]);
                L::State::unpack(packed.reshape([batch, size]))
            })
            .collect()
    }

    /// Pieces of a window, one after the other, as one.
    pub(crate) fn join(pieces: Vec<Self>) -> Self {
        let layers = pieces.first().map_or(0, |piece| piece.states.len());
        let mut outputs = Vec::with_capacity(pieces.len());
        let mut states: Vec<Vec<Tensor<3>>> = vec![Vec::with_capacity(pieces.len()); layers];
        for piece in pieces {
            outputs.push(piece.output);
            for (all, of_piece) in states.iter_mut().zip(piece.states) {
                all.push(of_piece);
            }
        }
        Self {
            output: Tensor::cat(outputs, 0),
            states: states
                .into_iter()
                .map(|pieces| Tensor::cat(pieces, 0))
                .collect(),
            layer: PhantomData,
        }
    }

    /// The state after the last step.
    pub fn last_state(&self) -> Vec<L::State> {
        self.state_after(usize::MAX)
    }
}

impl<L: RecurrentLayer> Stack<L> {
    /// Number of hidden units of every layer.
    pub fn d_hidden(&self) -> usize {
        self.layers.first().map_or(0, L::d_hidden)
    }

    /// Number of input features.
    pub fn d_input(&self) -> usize {
        self.layers.first().map_or(0, L::d_input)
    }

    /// Zeros for every layer, packed `[batch, S]`, of the type and device of `like`.
    pub(crate) fn zero_packed(&self, batch: usize, like: &Tensor<3>) -> Tensor<2> {
        let size = L::PARTS * self.d_hidden();
        Tensor::zeros([batch, size], (&like.device(), like.dtype()))
    }

    /// The state before the first step of a sequence: zeros.
    pub fn zero_state(&self, batch: usize, device: &Device) -> Vec<L::State> {
        let size = L::PARTS * self.d_hidden();
        let zeros = |_| L::State::unpack(Tensor::zeros([batch, size], device));
        self.layers.iter().map(zeros).collect()
    }

    /// Runs a window.
    ///
    /// - `input`: `[batch, time, input]`, or `[time, batch, input]` unless `batch_first`
    /// - `state`: one per layer, parts `[batch, hidden]`; `None` starts from zero. Gradients flow into it: detach it
    ///   to cut them.
    /// - returns the top layer's outputs, in the layout of the input, and the state after the last step
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] or [`ModelError::Empty`] when a shape does not fit.
    pub fn forward(
        &self,
        input: Tensor<3>,
        state: Option<Vec<L::State>>,
    ) -> Result<(Tensor<3>, Vec<L::State>), ModelError> {
        let input = self.time_major(input);
        let unrolled = self.unroll(input, state, UnrollOptions::default())?;
        let state = unrolled.last_state();
        Ok((self.time_major(unrolled.output), state))
    }

    /// Advances by one step: `input` `[batch, input]` → top output `[batch, hidden]` and the state after it.
    ///
    /// For generation. Over known inputs, [`forward`](Self::forward) is much faster.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward).
    pub fn step(
        &self,
        input: Tensor<2>,
        state: Option<Vec<L::State>>,
    ) -> Result<(Tensor<2>, Vec<L::State>), ModelError> {
        let [batch, features] = input.dims();
        if batch == 0 || features == 0 {
            return Err(ModelError::Empty {
                what: "input",
                missing: if batch == 0 { "sequences" } else { "features" },
            });
        }
        let input = input.reshape([1, batch, features]);
        let unrolled = self.unroll(input, state, UnrollOptions::default())?;
        let width = unrolled.output.dims()[2];
        let output = unrolled.output.clone().reshape([batch, width]);
        Ok((output, unrolled.last_state()))
    }

    /// Runs a window time-major and keeps every step's state, with optional taps and reset mask.
    ///
    /// - `input`: `[time, batch, input]`, whatever `batch_first` says
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] or [`ModelError::Empty`] when a shape does not fit.
    #[doc(hidden)]
    pub fn unroll(
        &self,
        input: Tensor<3>,
        state: Option<Vec<L::State>>,
        options: UnrollOptions,
    ) -> Result<Unrolled<L>, ModelError> {
        let packed = state.map(|state| self.pack(state, &input)).transpose()?;
        self.unroll_packed(input, packed, options)
    }

    /// One packed `[batch, S]` per layer. Packing glues parts together, so that each is checked before.
    pub(crate) fn pack(
        &self,
        state: Vec<L::State>,
        input: &Tensor<3>,
    ) -> Result<Vec<Tensor<2>>, ModelError> {
        let expected = [input.dims()[1], self.d_hidden()];
        for part in state.iter().flat_map(L::State::parts) {
            ops::checks::alike("state", &part, input)?;
            if part.dims() != expected {
                return Err(ModelError::shape(
                    "state",
                    part.dims(),
                    format!("{expected:?} in every part"),
                    "pass the state of as many sequences as the input has, from a model of this size",
                ));
            }
        }
        state.into_iter().map(L::State::pack).collect()
    }

    /// [`unroll`](Self::unroll) from packed states, one `[batch, S]` per layer.
    pub(crate) fn unroll_packed(
        &self,
        input: Tensor<3>,
        state: Option<Vec<Tensor<2>>>,
        options: UnrollOptions,
    ) -> Result<Unrolled<L>, ModelError> {
        let [time, batch, _] = input.dims();
        let count = self.layers.len();
        let state = match state {
            Some(state) => state,
            None => vec![self.zero_packed(batch, &input); count],
        };
        let layers_of = |what, got: usize| match got == count {
            true => Ok(()),
            false => Err(ModelError::shape(
                what,
                [got],
                format!("one per layer, {count}"),
                "pass the state that this model returned",
            )),
        };
        layers_of("state", state.len())?;
        if let Some(taps) = &options.taps {
            layers_of("taps", taps.len())?;
        }
        if let Some(reset) = &options.reset {
            ops::checks::same_device("reset mask", &reset.device(), &input.device())?;
        }
        let mask = match options.reset {
            Some(reset) if reset.dims() == [batch, time] => {
                let mask = reset.bool_not().float().cast(input.dtype());
                Some(mask.transpose().reshape([time, batch, 1]))
            }
            Some(reset) => {
                return Err(ModelError::shape(
                    "reset mask",
                    reset.dims(),
                    format!("[{batch}, {time}]"),
                    "mark, per sequence and step, where a new sequence begins",
                ));
            }
            None => None,
        };

        let mut taps = options.taps.map(Vec::into_iter);
        let mut output = input;
        let mut states = Vec::with_capacity(count);
        for (index, (layer, state)) in self.layers.iter().zip(state).enumerate() {
            if index > 0 {
                output = ops::dropout(&self.dropout, output);
            }
            let options = SequenceOptions {
                taps: taps.as_mut().and_then(Iterator::next),
                reset_mask: mask.clone(),
            };
            let packed = layer.sequence(output, state, options)?;
            output = ops::hidden_part(packed.clone(), layer.d_hidden());
            states.push(packed);
        }
        Ok(Unrolled {
            output,
            states,
            layer: PhantomData,
        })
    }

    /// Between the layout of the caller and time-major; its own inverse.
    fn time_major(&self, tensor: Tensor<3>) -> Tensor<3> {
        match self.batch_first {
            true => tensor.swap_dims(0, 1),
            false => tensor,
        }
    }
}
