//! SnAp-1, the online baseline: exact where it has to be, and elsewhere what its definition says.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.
#![allow(dead_code)] // The programs use more of the modules than the tests do.

#[path = "../../examples/common/snap.rs"]
pub mod online;
mod common {
    pub use super::online as snap;
}
#[path = "../../examples/copy/model.rs"]
mod copy_model;
#[path = "../common/window.rs"]
mod window;

use atbptt::models::{
    LstmLayer, ModelError, RecurrentLayer, RecurrentModel, SequenceBatch, StepLoss, TokenBatch,
    WindowPlan,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor, TensorData};
use copy_model::CopyModel;
use online::{OneLstm, Snap};
use window::Window;

const BATCH: usize = 2;
const STEPS: usize = 7;
const INPUTS: usize = 2;
const HIDDEN: usize = 3;
const GATES: usize = 4 * HIDDEN;

/// Numbers without a pattern, in ±1.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    let device = Device::flex().autodiff();
    Tensor::from_data(
        TensorData::new(values.to_vec(), shape),
        (&device, DType::F64),
    )
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// The library's layer, with the squares of its outputs less targets as the loss.
#[derive(Module, Debug)]
struct Lstm {
    layer: LstmLayer,
}

impl RecurrentModel for Lstm {
    type Batch = Window;
    type State = Tensor<2>;

    fn forward(
        &self,
        batch: &Window,
        state: Option<Tensor<2>>,
    ) -> Result<(Tensor<3>, Tensor<2>), ModelError> {
        let start = || tensor(&[0.0; BATCH * 2 * HIDDEN], [BATCH, 2 * HIDDEN]);
        let state = state.unwrap_or_else(start);
        let states = self
            .layer
            .sequence(batch.inputs.clone(), state, Default::default())?;
        let last = states
            .clone()
            .narrow(0, batch.steps() - 1, 1)
            .squeeze_dim(0);
        Ok((states.narrow(2, 0, HIDDEN).swap_dims(0, 1), last))
    }

    fn loss(&self, features: Tensor<3>, batch: &Window) -> Result<StepLoss, ModelError> {
        let errors = features.swap_dims(0, 1) - batch.targets.clone();
        Ok(StepLoss::new(errors.square().sum(), 1))
    }
}

impl OneLstm for Lstm {
    fn lstm_inputs(&self, batch: &Window) -> Result<Tensor<3>, ModelError> {
        Ok(batch.inputs.clone())
    }

    fn input_rows(&self) -> Tensor<2> {
        self.layer.input_weight.val()
    }

    fn recurrent_rows(&self) -> Tensor<2> {
        self.layer.recurrent_weight.val()
    }
}

/// Weights and data of a test.
struct Case {
    rows: Vec<f64>,
    recurrent: Vec<f64>,
    inputs: Vec<f64>,
    targets: Vec<f64>,
}

impl Case {
    /// `alone`: no unit reads another one.
    fn new(alone: bool) -> Self {
        let mut recurrent = numbers(HIDDEN * GATES, 2);
        for (nth, weight) in recurrent.iter_mut().enumerate() {
            let (from, to) = (nth / GATES, nth % GATES % HIDDEN);
            if alone && from != to {
                *weight = 0.0;
            }
        }
        Self {
            rows: numbers(INPUTS * GATES, 1),
            recurrent,
            inputs: numbers(STEPS * BATCH * INPUTS, 3),
            targets: numbers(STEPS * BATCH * HIDDEN, 4),
        }
    }

    fn model(&self) -> Lstm {
        Lstm {
            layer: LstmLayer {
                input_weight: Param::from_tensor(tensor(&self.rows, [INPUTS, GATES])),
                recurrent_weight: Param::from_tensor(tensor(&self.recurrent, [HIDDEN, GATES])),
                bias: None,
            },
        }
    }

    fn window(&self) -> Window {
        Window {
            inputs: tensor(&self.inputs, [STEPS, BATCH, INPUTS]),
            targets: tensor(&self.targets, [STEPS, BATCH, HIDDEN]),
        }
    }

    /// Gradient and loss over windows of `lengths` steps, the weights fixed.
    fn over<M: RecurrentModel<Batch = Window>>(
        &self,
        model: &M,
        lengths: &[usize],
    ) -> (Vec<f64>, f64) {
        let (mut state, mut from) = (None, 0);
        let (mut sums, mut all) = (vec![0.0; (INPUTS + HIDDEN) * GATES], 0.0);
        for &length in lengths {
            let window = self.window().slice(from..from + length);
            let outcome = model.window(&window, state, end_to_end(length)).unwrap();
            all += values(outcome.loss.sum.clone())[0];
            let gradient = gradient(model, outcome.loss.sum);
            sums.iter_mut()
                .zip(gradient)
                .for_each(|(sum, one)| *sum += one);
            (state, from) = (outcome.state, from + length);
        }
        assert_eq!(from, STEPS);
        (sums, all)
    }

    fn snap(&self, lengths: &[usize]) -> (Vec<f64>, f64) {
        self.over(
            &Snap {
                model: self.model(),
            },
            lengths,
        )
    }

    /// By backpropagation through all steps.
    fn backpropagated(&self) -> (Vec<f64>, f64) {
        self.over(&self.model(), &[STEPS])
    }
}

fn end_to_end(steps: usize) -> WindowPlan {
    WindowPlan {
        carry: steps,
        ..WindowPlan::default()
    }
}

/// Of all parameters, one after the other.
fn gradient<M: Module>(model: &M, loss: Tensor<1>) -> Vec<f64> {
    struct Collect(GradientsParams, Vec<f64>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = self.0.get::<D>(param.id);
            self.1
                .extend(values(grad.expect("every parameter has one")));
        }
    }
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let mut collect = Collect(grads, Vec::new());
    model.visit(&mut collect);
    collect.1
}

/// Largest difference, relative to the largest number of `right`.
fn difference(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    largest(&mut left.iter().zip(right).map(|(a, b)| (a - b).abs()))
        / largest(&mut right.iter().map(|b| b.abs()))
}

#[test]
fn snap1_is_exact_where_no_unit_reads_another_one_however_the_stream_is_cut() {
    let case = Case::new(true);
    let (right, right_loss) = case.backpropagated();
    for lengths in [&[7][..], &[3, 4], &[1, 1, 1, 1, 1, 1, 1], &[2, 5]] {
        let (gradient, loss) = case.snap(lengths);
        assert!((loss / right_loss - 1.0).abs() < 1e-12, "{lengths:?}");
        assert!(difference(&gradient, &right) < 1e-12, "{lengths:?}");
    }
}

/// One step of the LSTM, `weights` `[inputs + hidden, 4·hidden]`: (hidden, cell) → (hidden, cell).
fn step(weights: &[f64], input: &[f64], state: &[f64]) -> Vec<f64> {
    let (hidden, cell) = state.split_at(HIDDEN);
    let read: Vec<f64> = input.iter().chain(hidden).copied().collect();
    let gate = |gate: usize, unit: usize| -> f64 {
        let weight = |from: usize| weights[from * GATES + gate * HIDDEN + unit];
        (0..read.len()).map(|from| read[from] * weight(from)).sum()
    };
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    let cell: Vec<f64> = (0..HIDDEN)
        .map(|unit| {
            let (i, f, g) = (gate(0, unit), gate(1, unit), gate(2, unit));
            logistic(f) * cell[unit] + logistic(i) * g.tanh()
        })
        .collect();
    let hidden = (0..HIDDEN).map(|unit| logistic(gate(3, unit)) * cell[unit].tanh());
    hidden.chain(cell.iter().copied()).collect()
}

/// `[outputs][inputs]` by central differences.
fn jacobian(at: &[f64], function: impl Fn(&[f64]) -> Vec<f64>) -> Vec<Vec<f64>> {
    const WIDTH: f64 = 1e-5;
    let columns: Vec<Vec<f64>> = (0..at.len())
        .map(|nth| {
            let moved = |by: f64| {
                let mut at = at.to_vec();
                at[nth] += by;
                function(&at)
            };
            let (above, below) = (moved(WIDTH), moved(-WIDTH));
            let slopes = above
                .iter()
                .zip(below)
                .map(|(a, b)| (a - b) / (2.0 * WIDTH));
            slopes.collect()
        })
        .collect();
    let rows = 0..columns[0].len();
    rows.map(|row| columns.iter().map(|column| column[row]).collect())
        .collect()
}

/// Real-time recurrent learning by whole Jacobians, the influence of weights on other units than their own kept or not.
fn recurrent_learning(case: &Case, of_others: bool) -> Vec<f64> {
    let weights: Vec<f64> = case.rows.iter().chain(&case.recurrent).copied().collect();
    let mut gradient = vec![0.0; weights.len()];
    for sequence in 0..BATCH {
        let mut state = vec![0.0; 2 * HIDDEN];
        let mut influence = vec![vec![0.0; weights.len()]; 2 * HIDDEN];
        for time in 0..STEPS {
            let place = time * BATCH + sequence;
            let input = &case.inputs[place * INPUTS..(place + 1) * INPUTS];
            let through = jacobian(&state, |state| step(&weights, input, state));
            let within = jacobian(&weights, |weights| step(weights, input, &state));
            let entry = |part: usize, weight: usize| -> f64 {
                if !of_others && part % HIDDEN != weight % GATES % HIDDEN {
                    return 0.0;
                }
                let before = influence.iter().zip(&through[part]);
                within[part][weight] + before.map(|(row, d)| d * row[weight]).sum::<f64>()
            };
            influence = (0..2 * HIDDEN)
                .map(|part| (0..weights.len()).map(|w| entry(part, w)).collect())
                .collect();
            state = step(&weights, input, &state);
            let targets = &case.targets[place * HIDDEN..(place + 1) * HIDDEN];
            for unit in 0..HIDDEN {
                let error = 2.0 * (state[unit] - targets[unit]);
                for (sum, one) in gradient.iter_mut().zip(&influence[unit]) {
                    *sum += error * one;
                }
            }
        }
    }
    gradient
}

#[test]
fn snap1_keeps_of_the_influence_what_a_weight_does_within_one_step() {
    let case = Case::new(false);
    let (gradient, loss) = case.snap(&[3, 4]);
    let (exact, right_loss) = case.backpropagated();
    assert!((loss / right_loss - 1.0).abs() < 1e-12);
    // The reference is right where all is kept.
    assert!(difference(&recurrent_learning(&case, true), &exact) < 1e-7);
    assert!(difference(&gradient, &recurrent_learning(&case, false)) < 1e-7);
    // What SnAp-1 leaves out is no rounding.
    let bias = difference(&gradient, &exact);
    assert!((0.01..1.0).contains(&bias), "{bias}");
}

#[test]
fn within_one_step_snap1_is_backpropagation_for_every_parameter_of_the_copy_model() {
    let device = Device::flex().autodiff();
    device.seed(5);
    let model = CopyModel::new(4, 3, 1, &device).unwrap();
    let snap = Snap {
        model: model.clone(),
    };
    let window = |steps: usize| {
        let ids =
            |offset: i64| -> Vec<i64> { (0..2 * steps as i64).map(|i| (i + offset) % 4).collect() };
        TokenBatch::from_host(&ids(1), &ids(2), 2, steps, &device).unwrap()
    };
    let one = window(1);
    let right = model.window(&one, None, end_to_end(1)).unwrap().loss;
    let ours = snap.window(&one, None, end_to_end(1)).unwrap().loss;
    let (right, ours) = (gradient(&model, right.sum), gradient(&snap, ours.sum));
    assert!(difference(&ours, &right) < 1e-5);
    // Values are the model's over any window.
    let many = window(6);
    let loss = |sum: Tensor<1>| values(sum);
    let right = loss(model.window(&many, None, end_to_end(6)).unwrap().loss.sum);
    let ours = loss(snap.window(&many, None, end_to_end(6)).unwrap().loss.sum);
    assert!(difference(&ours, &right) < 1e-6);
    // Windows that overlap are refused.
    let overlapping = WindowPlan {
        carry: 5,
        ..end_to_end(6)
    };
    let refused = snap.window(&many, None, overlapping).unwrap_err();
    assert!(refused.to_string().contains("cut windows end to end"));
}
