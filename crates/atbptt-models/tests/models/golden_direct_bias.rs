//! Every number of `direct_bias.json` (PyTorch, float64) from weights and inputs: dropped parts of the gradient per parameter,
//! U-statistics, relative bias and plug-in, for this library's stacks and for models made of Burn's own modules.
//!
//! f64 (CPU backends): 1e-9 relative. f32 (these and wgpu): 1e-4.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on should stop

use std::ops::Range;

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

/// The dropped part at a cut in place of the weights.
struct Dropped<'a> {
    gradients: &'a PieceGradients,
    cut: usize,
}

impl ModuleMapper for Dropped<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let found = self
            .gradients
            .parameters()
            .iter()
            .find(|p| p.id == param.id);
        let pieces = found.expect("every weight counts").gradients.clone();
        let behind = pieces.dims()[0] - (self.cut + 1);
        let sum: Tensor<3> = match behind {
            0 => pieces.narrow(0, 0, 1).zeros_like(),
            _ => pieces.narrow(0, self.cut + 1, behind).sum_dim(0),
        };
        Param::from_tensor(sum.reshape(param.val().dims()))
    }
}

/// Largest difference as a share of the largest value; where that is nothing but the rounding of the whole gradient, of that.
fn off(got: &[f64], expected: &[f64], whole: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = |all: &[f64]| all.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let difference: Vec<f64> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
    assert!(got.iter().all(|x| x.is_finite()));
    largest(&difference)
        / largest(expected)
            .max(1e-6 * largest(whole))
            .max(f64::MIN_POSITIVE)
}

/// A reference number: `None` for null; infinities and NaN as they are spelled.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(
            text.to_lowercase()
                .replace("infinity", "inf")
                .parse()
                .unwrap(),
        ),
        value => Some(value.as_f64().unwrap()),
    }
}

/// Equal, infinities too, or within the tolerance of the larger of reference and `floor`; null is no answer.
fn same(got: Option<f64>, expected: &Value, floor: f64, tolerance: f64) -> bool {
    match (got, number(expected)) {
        (None, None) => true,
        (Some(got), None) => !got.is_finite(),
        (None, Some(expected)) => !expected.is_finite(),
        (Some(got), Some(expected)) => {
            got == expected
                || (got.is_nan() && expected.is_nan())
                || (got - expected).abs() <= tolerance * expected.abs().max(floor)
        }
    }
}

fn check<M: Case>(case: &Value, label: &str, device: &Device, dtype: DType, tolerance: f64) {
    let size = |name: &str| case[name].as_u64().unwrap() as usize;
    let (layers, losses, hidden) = (size("layers"), size("losses"), size("d_hidden"));
    let params = &case["params"];
    let torch = (0..layers).map(|index| {
        TorchLayer::by_name(
            index,
            |name| params.get(name).map(|v| tensor::<2>(v, device, dtype)),
            |name| params.get(name).map(|v| tensor::<1>(v, device, dtype)),
        )
        .unwrap()
    });
    let model = M::load(torch.collect());
    let contexts: Vec<usize> = case["context_cuts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_u64().unwrap() as usize)
        .collect();
    let plan = DirectPlan::new(losses, contexts.clone());

    let mut worst = 0.0f64;
    let mut wrong = Vec::new();
    let probes: Vec<PieceGradients> = case["probes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|probe| {
            let x = tensor::<3>(&probe["x"], device, dtype);
            let last = tensor::<3>(&probe["loss_weights"], device, dtype);
            let [time, batch, _] = x.dims();
            let before = Tensor::zeros([time - losses, batch, hidden], (device, dtype));
            let weights = Tensor::cat(vec![before, last], 0);
            let parts = (0..layers).flat_map(|layer| {
                let names: &[&str] = match case["kind"] == "lstm" {
                    true => &["h0", "c0"],
                    false => &["h0"],
                };
                names
                    .iter()
                    .map(move |name| tensor::<2>(&probe[*name][layer], device, dtype))
            });
            let state = model.state(parts.collect());
            let batch = Weighted { x, weights };
            let gradients = piece_gradients(&model, &batch, Some(state), &plan).unwrap();
            for (index, cut) in probe["cuts"].as_array().unwrap().iter().enumerate() {
                let gradients = &gradients;
                let dropped = model.clone().map(&mut Dropped {
                    gradients,
                    cut: index,
                });
                for (layer, got) in dropped.torch().into_iter().enumerate() {
                    let (bias_ih, bias_hh) = got.biases.unwrap();
                    let gru = case["kind"] == "gru";
                    for (name, got) in [
                        ("weight_ih", values(got.weight_ih)),
                        ("weight_hh", values(got.weight_hh)),
                        ("bias_ih", values(bias_ih)),
                        ("bias_hh", values(bias_hh)),
                    ] {
                        let name = format!("{name}_l{layer}");
                        let rows = match name.starts_with("bias_hh") {
                            // Only the candidate's recurrent bias is a parameter of its own.
                            true if gru => 2 * hidden..3 * hidden,
                            true => continue,
                            false => 0..got.len(),
                        };
                        let whole = &numbers(&probe["full"][&name]).0[rows.clone()];
                        let kept = &numbers(&cut["truncated"][&name]).0[rows.clone()];
                        let expected: Vec<f64> =
                            whole.iter().zip(kept).map(|(a, b)| a - b).collect();
                        let off = off(&got[rows], &expected, whole);
                        if off > tolerance {
                            wrong.push(format!("{name} dropped at cut {index}: off by {off:e}"));
                        }
                        worst = worst.max(off);
                    }
                }
            }
            gradients
        })
        .collect();

    assert!(wrong.is_empty(), "{label}: {wrong:#?}");
    let statistics = direct_statistics(&probes).unwrap();
    assert_eq!(statistics.contexts(), contexts);
    assert_eq!(
        (statistics.window(), statistics.losses()),
        (size("window"), losses)
    );
    let square = statistics.gradient_square();
    assert!(
        same(Some(square), &case["gradient_square"], 0.0, tolerance),
        "{label}: {square}"
    );
    let check = |what: &str, got: Vec<Option<f64>>, floor: f64| {
        let expected = case[what].as_array().unwrap();
        assert_eq!(got.len(), expected.len(), "{label}: {what}");
        for (cut, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            assert!(
                same(got, expected, floor, tolerance),
                "{label}: {what} at cut {cut}: {got:?}, not {expected}"
            );
        }
    };
    let squares = statistics.bias_squares().into_iter().map(Some).collect();
    check("bias_square", squares, 1e-6 * square.abs());
    check("relative_bias", statistics.relative_biases(), 1e-3);
    check(
        "plug_in_relative_bias",
        statistics.plug_in_relative_biases(),
        1e-3,
    );
    println!("{label}: dropped parts off by {worst:.1e} at most, tolerance {tolerance:e}");
}

fn check_all(dtype: DType, tolerance: f64) {
    let Some(golden) = golden("direct_bias.json") else {
        return;
    };
    for (index, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        for (backend, device) in devices_for(dtype) {
            let device = device.autodiff();
            let kind = case["kind"].as_str().unwrap();
            let label = |of: &str| {
                format!(
                    "case {index} ({kind}, {} layers) of {of} on {backend}, {dtype:?}",
                    case["layers"]
                )
            };
            let (ours, burn) = (label("our stacks"), label("Burn's modules"));
            match kind {
                "lstm" => {
                    check::<Ours<LstmLayer>>(case, &ours, &device, dtype, tolerance);
                    check::<BurnCells>(case, &burn, &device, dtype, tolerance);
                    if dtype == DType::F32 {
                        // Burn's module makes its states in f32, whatever its weights are.
                        let lstm = label("Burn's nn::Lstm");
                        check::<BurnLstms>(case, &lstm, &device, dtype, tolerance);
                    }
                }
                "gru" => {
                    check::<Ours<GruLayer>>(case, &ours, &device, dtype, tolerance);
                    check::<BurnCells>(case, &burn, &device, dtype, tolerance);
                }
                "rnn" | "rnn_tanh" => {
                    check::<Ours<RnnLayer>>(case, &ours, &device, dtype, tolerance);
                    check::<BurnCells>(case, &burn, &device, dtype, tolerance);
                }
                other => panic!("unknown kind {other}"),
            }
        }
    }
}

#[test]
fn golden_direct_bias_is_reproduced_in_f64() {
    check_all(DType::F64, 1e-9);
}

#[test]
fn golden_direct_bias_is_reproduced_in_f32() {
    with_each_time_loop(|| check_all(DType::F32, 1e-4));
}
