//! Every number of `direct_bias.json` (PyTorch, float64) from weights and inputs: dropped parts of the gradient per parameter,
//! U-statistics, relative bias and plug-in, for this library's stacks and for models made of Burn's own modules.
//!
//! f64 (CPU backends): 1e-9 relative. f32 (these and wgpu): 1e-4.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on should stop

mod values;

use crate::common::{devices_for, golden, numbers, tensor, values, with_each_time_loop};
use atbptt_models::interop::{TorchCompatible, TorchLayer};
use atbptt_models::{
    DirectPlan, GruLayer, LstmLayer, ModelError, PieceGradients, RecurrentLayer, RecurrentModel,
    RecurrentState, RnnLayer, SequenceBatch, Stack, StepLoss, UnrollOptions, direct_statistics,
    piece_gradients,
};
use burn::module::{Module, ModuleMapper, Param};
use burn::nn;
use burn::tensor::{DType, Device, Tensor};
use serde_json::Value;
use std::ops::Range;

/// Inputs `[time, batch, input]` and what each output weighs in the loss, `[time, batch, hidden]`.
#[derive(Clone)]
struct Weighted {
    x: Tensor<3>,
    weights: Tensor<3>,
}

impl SequenceBatch for Weighted {
    fn steps(&self) -> usize {
        self.x.dims()[0]
    }

    fn sequences(&self) -> usize {
        self.x.dims()[1]
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let part = |t: &Tensor<3>| t.clone().narrow(0, range.start, range.len());
        Self {
            x: part(&self.x),
            weights: part(&self.weights),
        }
    }
}

/// `features`: `[batch, time, hidden]`; the file's weights are time-major.
fn weighted_loss(features: Tensor<3>, batch: &Weighted) -> StepLoss {
    let count = batch.steps() * batch.sequences();
    StepLoss::new(
        (features.swap_dims(0, 1) * batch.weights.clone()).sum(),
        count,
    )
}

/// A golden case as a model, and its weights, or what stands in their place, in PyTorch's layout.
trait Case: RecurrentModel<Batch = Weighted> {
    fn load(layers: Vec<TorchLayer>) -> Self;
    fn state(&self, parts: Vec<Tensor<2>>) -> Self::State;
    fn torch(&self) -> Vec<TorchLayer>;
}

/// This library's layers.
#[derive(Module, Debug)]
struct Ours<L: RecurrentLayer> {
    layers: Stack<L>,
}

impl<L: TorchCompatible> RecurrentModel for Ours<L> {
    type Batch = Weighted;
    type State = Vec<L::State>;

    fn forward(
        &self,
        batch: &Weighted,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        let options = UnrollOptions::default();
        let run = self.layers.unroll(batch.x.clone(), state, options)?;
        let state = run.last_state();
        Ok((run.output.swap_dims(0, 1), state))
    }

    fn loss(&self, features: Tensor<3>, batch: &Weighted) -> Result<StepLoss, ModelError> {
        Ok(weighted_loss(features, batch))
    }
}

impl<L: TorchCompatible> Case for Ours<L> {
    fn load(layers: Vec<TorchLayer>) -> Self {
        Self {
            layers: Stack::from_torch(layers, 0.0).unwrap(),
        }
    }

    fn state(&self, parts: Vec<Tensor<2>>) -> Self::State {
        let [batch, _] = parts[0].dims();
        let device = parts[0].device();
        self.layers.zero_state(batch, &device).with_parts(parts)
    }

    fn torch(&self) -> Vec<TorchLayer> {
        self.layers.layers.iter().map(L::to_torch).collect()
    }
}

/// Burn's LSTMs above each other; one bias per gate.
#[derive(Module, Debug)]
struct BurnLstms {
    layers: Vec<nn::Lstm>,
}

impl RecurrentModel for BurnLstms {
    type Batch = Weighted;
    type State = Vec<nn::LstmState<2>>;

    fn forward(
        &self,
        batch: &Weighted,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        let mut output = batch.x.clone().swap_dims(0, 1);
        let mut states = Vec::new();
        let mut before = state.into_iter().flatten();
        for layer in &self.layers {
            let (next, state) = layer.forward(output, before.next());
            output = next;
            states.push(state);
        }
        Ok((output, states))
    }

    fn loss(&self, features: Tensor<3>, batch: &Weighted) -> Result<StepLoss, ModelError> {
        Ok(weighted_loss(features, batch))
    }
}

/// The gates of an LSTM, in its order.
fn gates(lstm: &mut nn::Lstm) -> [&mut nn::GateController; 4] {
    [
        &mut lstm.input_gate,
        lstm.forget_gate.as_mut().unwrap(),
        &mut lstm.cell_gate,
        &mut lstm.output_gate,
    ]
}

impl Case for BurnLstms {
    fn load(layers: Vec<TorchLayer>) -> Self {
        let layers = layers.into_iter().map(|layer| {
            let mut lstm = LstmLayer::from_torch(layer).unwrap().to_burn();
            for gate in gates(&mut lstm) {
                gate.hidden_transform.bias = None;
            }
            lstm
        });
        Self {
            layers: layers.collect(),
        }
    }

    fn state(&self, parts: Vec<Tensor<2>>) -> Self::State {
        parts
            .chunks(2)
            .map(|part| nn::LstmState::new(part[1].clone(), part[0].clone()))
            .collect()
    }

    fn torch(&self) -> Vec<TorchLayer> {
        let layers = self.layers.iter().cloned().map(|mut lstm| {
            for gate in gates(&mut lstm) {
                let zeros = gate
                    .input_transform
                    .bias
                    .as_ref()
                    .unwrap()
                    .val()
                    .zeros_like();
                gate.hidden_transform.bias = Some(Param::from_tensor(zeros));
            }
            LstmLayer::from_burn(&lstm).unwrap().to_torch()
        });
        layers.collect()
    }
}

/// σ by way of tanh, which every backend computes to the precision of its numbers.
fn sigmoid(x: Tensor<2>) -> Tensor<2> {
    (x * 0.5).tanh() * 0.5 + 0.5
}

/// A cell of two of Burn's linear layers: a GRU where there is a candidate bias, else an LSTM where there are four gates, else a
/// tanh RNN.
#[derive(Module, Debug)]
struct LinearCell {
    input: nn::Linear,
    hidden: nn::Linear,
    candidate_bias: Option<Param<Tensor<1>>>,
}

impl LinearCell {
    fn new(
        input: Param<Tensor<2>>,
        hidden: Param<Tensor<2>>,
        bias: Option<Param<Tensor<1>>>,
    ) -> Self {
        let linear = |weight, bias| nn::Linear { weight, bias };
        Self {
            input: linear(input, bias),
            hidden: linear(hidden, None),
            candidate_bias: None,
        }
    }

    /// `c` is the cell state of an LSTM, and of no use to the others.
    fn step(&self, x: Tensor<2>, (h, c): (Tensor<2>, Tensor<2>)) -> (Tensor<2>, Tensor<2>) {
        let [_, size] = h.dims();
        let (x, u) = (self.input.forward(x), self.hidden.forward(h.clone()));
        let gates = x.dims()[1] / size;
        let part = |t: &Tensor<2>, k: usize| t.clone().narrow(1, k * size, size);
        if let Some(bias) = &self.candidate_bias {
            let reset = sigmoid(part(&x, 0) + part(&u, 0));
            let update = sigmoid(part(&x, 1) + part(&u, 1));
            let new = (part(&x, 2) + reset * (part(&u, 2) + bias.val().unsqueeze())).tanh();
            return (new.clone() + update * (h - new), c);
        }
        let sum = x + u;
        if gates == 1 {
            return (sum.tanh(), c);
        }
        let kept = sigmoid(part(&sum, 1)) * c;
        let c = kept + sigmoid(part(&sum, 0)) * part(&sum, 2).tanh();
        (sigmoid(part(&sum, 3)) * c.clone().tanh(), c)
    }
}

#[derive(Module, Debug)]
struct BurnCells {
    layers: Vec<LinearCell>,
}

impl RecurrentModel for BurnCells {
    type Batch = Weighted;
    type State = Vec<(Tensor<2>, Tensor<2>)>;

    fn forward(
        &self,
        batch: &Weighted,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        let mut state = state.expect("golden probes start from a state");
        let mut outputs = Vec::new();
        for x in batch.x.clone().iter_dim(0) {
            let mut x: Tensor<2> = x.squeeze_dim(0);
            for (layer, state) in self.layers.iter().zip(&mut state) {
                *state = layer.step(x, state.clone());
                x = state.0.clone();
            }
            outputs.push(x);
        }
        Ok((Tensor::stack(outputs, 1), state))
    }

    fn loss(&self, features: Tensor<3>, batch: &Weighted) -> Result<StepLoss, ModelError> {
        Ok(weighted_loss(features, batch))
    }
}

impl Case for BurnCells {
    fn load(layers: Vec<TorchLayer>) -> Self {
        let layers = layers.into_iter().map(|layer| {
            let [rows, hidden] = layer.weight_hh.dims();
            match rows / hidden {
                1 => {
                    let layer = RnnLayer::from_torch(layer).unwrap();
                    LinearCell::new(layer.input_weight, layer.recurrent_weight, layer.bias)
                }
                3 => {
                    let layer = GruLayer::from_torch(layer).unwrap();
                    LinearCell {
                        candidate_bias: layer.recurrent_bias,
                        ..LinearCell::new(layer.input_weight, layer.recurrent_weight, layer.bias)
                    }
                }
                _ => {
                    let layer = LstmLayer::from_torch(layer).unwrap();
                    LinearCell::new(layer.input_weight, layer.recurrent_weight, layer.bias)
                }
            }
        });
        Self {
            layers: layers.collect(),
        }
    }

    fn state(&self, parts: Vec<Tensor<2>>) -> Self::State {
        let per_layer = parts.len() / self.layers.len();
        parts
            .chunks(per_layer)
            .map(|part| (part[0].clone(), part[per_layer - 1].clone()))
            .collect()
    }

    fn torch(&self) -> Vec<TorchLayer> {
        let layers = self.layers.iter().cloned().map(|cell| {
            let (input_weight, recurrent_weight) = (cell.input.weight, cell.hidden.weight);
            let bias = cell.input.bias;
            let [hidden, columns] = recurrent_weight.dims();
            match columns / hidden {
                1 => RnnLayer {
                    input_weight,
                    recurrent_weight,
                    bias,
                }
                .to_torch(),
                3 => GruLayer {
                    input_weight,
                    recurrent_weight,
                    bias,
                    recurrent_bias: cell.candidate_bias,
                }
                .to_torch(),
                _ => LstmLayer {
                    input_weight,
                    recurrent_weight,
                    bias,
                }
                .to_torch(),
            }
        });
        layers.collect()
    }
}
