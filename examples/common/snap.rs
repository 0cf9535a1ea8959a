//! SnAp-1 as a baseline: an online gradient of one LSTM layer without any window (Menick et al., *Practical Real Time Recurrent
//! Learning with a Sparse Approximation*, ICLR 2021).
//!
//! Real-time recurrent learning carries forward the influence of every weight θ on every state s, J_t = I_t + D_t J_{t−1}, with
//! D_t = ∂s_t/∂s_{t−1} and I_t the effect of θ within step t. SnAp-1 keeps of J what a weight does within one step: a weight into a
//! gate of unit j acts on h_j and c_j alone, so J has two numbers per weight and sequence, and of D_t only the four ∂(h, c)_j/∂(h, c)_j
//! are needed. The gradient is Σ_t ∂L_t/∂h_t · J_t. It is that of real-time recurrent learning where no unit reads another one.
//!
//! The influence is part of the state that a model hands on, so training, checkpoints and restarts are the library's own: what is
//! an update every m steps there is a chunk of m steps.

use atbptt::models::{
    ModelError, RecurrentModel, RecurrentState, SequenceBatch, StepLoss, WindowLoss, WindowPlan,
};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

/// A model of one LSTM layer, as SnAp-1 sees it.
pub trait OneLstm: RecurrentModel {
    /// What the layer reads, without a gradient, `[time, batch, inputs]`.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the batch does not fit the model.
    fn lstm_inputs(&self, batch: &Self::Batch) -> Result<Tensor<3>, ModelError>;

    /// What every input adds to the gates i, f, g, o, `[inputs, 4·hidden]`; biases are the weights of an input that is 1.
    fn input_rows(&self) -> Tensor<2>;

    /// What every unit adds to them a step later, `[hidden, 4·hidden]`.
    fn recurrent_rows(&self) -> Tensor<2>;
}

/// A model whose LSTM layer learns by SnAp-1, the rest of it by backpropagation within a step. Values are those of the model; gradients
/// are those of [`window`](RecurrentModel::window), of windows end to end, and computed on the host.
#[derive(Module, Debug)]
pub struct Snap<M: OneLstm> {
    pub model: M,
}

impl<M: OneLstm> Snap<M> {
    /// The layer's weights, `[inputs + hidden, 4·hidden]`.
    fn weights(&self) -> Tensor<2> {
        Tensor::cat(
            vec![self.model.input_rows(), self.model.recurrent_rows()],
            0,
        )
    }
}

impl<M: OneLstm> RecurrentModel for Snap<M> {
    type Batch = M::Batch;
    type State = SnapState;

    fn forward(
        &self,
        batch: &M::Batch,
        state: Option<SnapState>,
    ) -> Result<(Tensor<3>, SnapState), ModelError> {
        let inputs = self.model.lstm_inputs(batch)?;
        let window = Window::run(inputs, self.weights().detach(), state)?;
        Ok((window.outputs(), window.state()))
    }

    fn loss(&self, features: Tensor<3>, batch: &M::Batch) -> Result<StepLoss, ModelError> {
        self.model.loss(features, batch)
    }

    fn window(
        &self,
        batch: &M::Batch,
        state: Option<SnapState>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<SnapState>, ModelError> {
        let whole = WindowPlan {
            carry: batch.steps(),
            ..WindowPlan::default()
        };
        if plan != whole {
            return Err(ModelError::Config {
                field: "scheme",
                rule: "chunked",
                got: format!("{plan:?}"),
                remedy: "SnAp-1 carries its gradient forward; cut windows end to end",
            });
        }
        let weights = self.weights();
        let inputs = self.model.lstm_inputs(batch)?;
        let mut window = Window::run(inputs, weights.clone().detach(), state)?;
        let mut loss = self.loss(window.outputs(), batch)?;
        if weights.is_tracked() {
            // What the loss says of the outputs; a graph can be gone back only once.
            let outputs = window.outputs().require_grad();
            let grads = self.loss(outputs.clone(), batch)?.sum.backward();
            let by_outputs = match outputs.grad(&grads) {
                Some(gradient) => values(gradient)?,
                None => vec![0.0; window.hidden.len()],
            };
            let gradient = window.gradient(&by_outputs);
            let gradient = Tensor::from_data(
                TensorData::new(gradient, weights.dims()),
                (&weights.device(), weights.dtype()),
            );
            // Zero, with that gradient.
            let linear = (weights * gradient).sum();
            loss.sum = loss.sum + linear.clone() - linear.detach();
        }
        Ok(WindowLoss {
            loss,
            state: Some(window.state()),
        })
    }
}

/// State of the layer, and the influence of its weights on it.
#[derive(Clone, Debug)]
pub struct SnapState {
    /// `[batch, hidden]`
    pub hidden: Tensor<2>,
    /// `[batch, hidden]`
    pub cell: Tensor<2>,
    /// ∂h_j/∂θ of every weight θ into a gate of unit j: `[batch, (inputs + hidden)·4·hidden]`, as the weights lie.
    pub hidden_influence: Tensor<2>,
    /// ∂c_j/∂θ, likewise.
    pub cell_influence: Tensor<2>,
}

impl RecurrentState for SnapState {
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            hidden: f(self.hidden),
            cell: f(self.cell),
            hidden_influence: f(self.hidden_influence),
            cell_influence: f(self.cell_influence),
        }
    }
}

/// A window on the host.
struct Window {
    steps: usize,
    sequences: usize,
    /// Inputs of a step, and units.
    sizes: (usize, usize),
    /// `[inputs + hidden, 4·hidden]`
    weights: Vec<f64>,
    /// Inputs `[time, batch, inputs]`.
    inputs: Vec<f64>,
    /// h before the window and after each step, `[1 + time, batch, hidden]`.
    hidden: Vec<f64>,
    /// c, likewise.
    cell: Vec<f64>,
    /// Gates i, f, g, o of every step, `[time, batch, 4, hidden]`.
    gates: Vec<f64>,
    /// ∂h_j/∂θ and ∂c_j/∂θ after the window, `[batch, inputs + hidden, 4, hidden]` each.
    influence: [Vec<f64>; 2],
    /// Tells device and type.
    like: Tensor<2>,
}

impl Window {
    /// Runs an LSTM: `inputs` `[time, batch, inputs]`, `weights` `[inputs + hidden, 4·hidden]`, gates i, f, g, o.
    fn run(
        inputs: Tensor<3>,
        weights: Tensor<2>,
        state: Option<SnapState>,
    ) -> Result<Self, ModelError> {
        let [steps, sequences, size] = inputs.dims();
        let [rows, columns] = weights.dims();
        let units = columns / 4;
        let zeros = |size: usize| vec![0.0; sequences * size];
        let (hidden, cell, influence) = match state {
            None => {
                let zero = zeros(rows * columns);
                (zeros(units), zeros(units), [zero.clone(), zero])
            }
            Some(state) => {
                let of_weights = [state.hidden_influence, state.cell_influence];
                let [by_h, by_c] = of_weights.map(values);
                (values(state.hidden)?, values(state.cell)?, [by_h?, by_c?])
            }
        };
        let mut window = Self {
            steps,
            sequences,
            sizes: (size, units),
            inputs: values(inputs)?,
            gates: Vec::with_capacity(steps * sequences * columns),
            hidden,
            cell,
            influence,
            weights: values(weights.clone())?,
            like: weights,
        };
        for place in 0..steps * sequences {
            window.step(place);
        }
        Ok(window)
    }

    /// What a step of a sequence reads, `place` being the step's number times that of sequences and the sequence's: inputs and h.
    fn read(&self, place: usize) -> impl Iterator<Item = f64> {
        let (size, units) = self.sizes;
        let inputs = &self.inputs[place * size..(place + 1) * size];
        let hidden = &self.hidden[place * units..(place + 1) * units];
        inputs.iter().chain(hidden).copied()
    }

    fn step(&mut self, place: usize) {
        let (_, units) = self.sizes;
        let mut gates = vec![0.0; 4 * units];
        for (read, row) in self.read(place).zip(self.weights.chunks(4 * units)) {
            // Most inputs of symbols are zero.
            if read != 0.0 {
                gates
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, w)| *sum += read * w);
            }
        }
        for (nth, gate) in gates.iter_mut().enumerate() {
            *gate = match nth / units {
                2 => gate.tanh(),
                _ => 1.0 / (1.0 + (-*gate).exp()),
            };
        }
        for unit in 0..units {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| gates[gate * units + unit]);
            let cell = f * self.cell[place * units + unit] + i * g;
            self.cell.push(cell);
            self.hidden.push(o * cell.tanh());
        }
        self.gates.extend(gates);
    }

    fn slopes(&self, place: usize) -> Slopes {
        let (size, units) = self.sizes;
        let gates = &self.gates[place * 4 * units..(place + 1) * 4 * units];
        let of_units = |slope: &dyn Fn([f64; 4], usize) -> f64| -> Vec<f64> {
            let of_unit = |unit| slope([0, 1, 2, 3].map(|gate| gates[gate * units + unit]), unit);
            (0..units).map(of_unit).collect()
        };
        let before = |unit: usize| self.cell[place * units + unit];
        let squashed = |unit: usize| self.cell[(place + self.sequences) * units + unit].tanh();
        let cell = [
            of_units(&|[i, _, g, _], _| g * i * (1.0 - i)),
            of_units(&|[_, f, _, _], unit| before(unit) * f * (1.0 - f)),
            of_units(&|[i, _, g, _], _| i * (1.0 - g * g)),
            vec![0.0; units],
        ];
        let by_o = of_units(&|[_, _, _, o], unit| squashed(unit) * o * (1.0 - o));
        // What a unit adds to its own gates.
        let own =
            |gate: usize, unit: usize| self.weights[((size + unit) * 4 + gate) * units + unit];
        let through = |unit: usize| (0..3).map(|gate| cell[gate][unit] * own(gate, unit)).sum();
        Slopes {
            forget: of_units(&|[_, f, _, _], _| f),
            through: (0..units).map(through).collect(),
            back: (0..units).map(|unit| by_o[unit] * own(3, unit)).collect(),
            by_cell: of_units(&|[_, _, _, o], unit| o * (1.0 - squashed(unit).powi(2))),
            hidden: [vec![0.0; units], vec![0.0; units], vec![0.0; units], by_o],
            cell,
        }
    }

    /// Σ_t ∂L_t/∂h_t · J_t as the weights lie; `by_outputs` is ∂L_t/∂h_t, `[batch, time, hidden]`. Carries the influence on.
    fn gradient(&mut self, by_outputs: &[f64]) -> Vec<f64> {
        let (_, units) = self.sizes;
        let columns = 4 * units;
        let mut gradient = vec![0.0; self.weights.len()];
        let [mut by_h, mut by_c] = std::mem::take(&mut self.influence);
        for place in 0..self.steps * self.sequences {
            let (step, sequence) = (place / self.sequences, place % self.sequences);
            let slopes = self.slopes(place);
            let errors = &by_outputs[(sequence * self.steps + step) * units..][..units];
            let length = self.weights.len();
            let of_sequence = sequence * length..(sequence + 1) * length;
            let by_h = by_h[of_sequence.clone()].chunks_mut(columns);
            let by_c = by_c[of_sequence].chunks_mut(columns);
            let rows = by_h.zip(by_c).zip(gradient.chunks_mut(columns));
            for (read, ((by_h, by_c), gradient)) in self.read(place).zip(rows) {
                for gate in 0..4 {
                    let of_gate = gate * units..(gate + 1) * units;
                    let influence = (&mut by_h[of_gate.clone()], &mut by_c[of_gate.clone()]);
                    slopes.advance(gate, read, influence, errors, &mut gradient[of_gate]);
                }
            }
        }
        self.influence = [by_h, by_c];
        gradient
    }

    fn tensor<const D: usize>(&self, values: &[f64], shape: [usize; D]) -> Tensor<D> {
        let place = (&self.like.device(), self.like.dtype());
        Tensor::from_data(TensorData::new(values.to_vec(), shape), place)
    }

    /// h of every step, `[batch, time, hidden]`.
    fn outputs(&self) -> Tensor<3> {
        let (_, units) = self.sizes;
        let after = &self.hidden[self.sequences * units..];
        self.tensor(after, [self.steps, self.sequences, units])
            .swap_dims(0, 1)
    }

    /// After the last step.
    fn state(&self) -> SnapState {
        let (_, units) = self.sizes;
        let last = |values: &[f64]| {
            let from = values.len() - self.sequences * units;
            self.tensor(&values[from..], [self.sequences, units])
        };
        let [by_h, by_c] = &self.influence;
        SnapState {
            hidden: last(&self.hidden),
            cell: last(&self.cell),
            hidden_influence: self.tensor(by_h, [self.sequences, self.weights.len()]),
            cell_influence: self.tensor(by_c, [self.sequences, self.weights.len()]),
        }
    }
}

/// Derivatives of one step of all units, each `[hidden]`.
struct Slopes {
    /// c by the c before.
    forget: Vec<f64>,
    /// c by the h before.
    through: Vec<f64>,
    /// h by the h before, other than through c.
    back: Vec<f64>,
    /// h by c.
    by_cell: Vec<f64>,
    /// c by the sum in each gate.
    cell: [Vec<f64>; 4],
    /// h by the sum in each gate, other than through c.
    hidden: [Vec<f64>; 4],
}

impl Slopes {
    /// One step on: influence on h and c of the weights from one input, which is `read`, into one gate of all units, and what they
    /// add to the gradient, `errors` being that of h.
    fn advance(
        &self,
        gate: usize,
        read: f64,
        (by_h, by_c): (&mut [f64], &mut [f64]),
        errors: &[f64],
        gradient: &mut [f64],
    ) {
        let before = self.forget.iter().zip(&self.through).zip(&self.back);
        let within = self.cell[gate].iter().zip(&self.hidden[gate]);
        let slopes = before.zip(within).zip(&self.by_cell);
        let weights = by_h.iter_mut().zip(by_c).zip(errors).zip(gradient);
        for (slopes, (((by_h, by_c), error), gradient)) in slopes.zip(weights) {
            let ((((forget, through), back), (cell, hidden)), by_cell) = slopes;
            *by_c = forget * *by_c + through * *by_h + cell * read;
            *by_h = back * *by_h + by_cell * *by_c + hidden * read;
            *gradient += error * *by_h;
        }
    }
}

/// The numbers of a tensor.
fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f64>, ModelError> {
    let data = tensor.try_into_data().map_err(|error| ModelError::Read {
        reason: error.to_string(),
    })?;
    Ok(data.iter::<f64>().collect())
}
