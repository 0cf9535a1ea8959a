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

use atbptt::models::{ModelError, RecurrentModel, RecurrentState, StepLoss};
use burn::module::Module;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};

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

/// A model whose LSTM layer learns by SnAp-1, the rest of it by backpropagation within a step. Values are those of the model.
#[derive(Module, Debug)]
pub struct Snap<M: OneLstm> {
    pub model: M,
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
        let (rows, recurrent) = (self.model.input_rows(), self.model.recurrent_rows());
        let (features, state) = snap_lstm(inputs, rows, recurrent, state);
        Ok((features.swap_dims(0, 1), state))
    }

    fn loss(&self, features: Tensor<3>, batch: &M::Batch) -> Result<StepLoss, ModelError> {
        self.model.loss(features, batch)
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

impl SnapState {
    fn zero(batch: usize, weights: &Tensor<2>) -> Self {
        let [rows, gates] = weights.dims();
        let zeros = |size: usize| {
            let device: Device = weights.device();
            Tensor::zeros([batch, size], (&device, weights.dtype()))
        };
        Self {
            hidden: zeros(gates / 4),
            cell: zeros(gates / 4),
            hidden_influence: zeros(rows * gates),
            cell_influence: zeros(rows * gates),
        }
    }
}

/// Runs steps of an LSTM: `inputs` `[time, batch, inputs]` without a gradient, `rows` `[inputs, 4·hidden]` and `recurrent`
/// `[hidden, 4·hidden]`, gates i, f, g, o.
///
/// Returns the hidden state of every step, `[time, batch, hidden]`, whose gradient by the weights is that of SnAp-1 and by all else
/// zero, and the state to go on from. Without weights that need a gradient the influence stays as it is.
pub fn snap_lstm(
    inputs: Tensor<3>,
    rows: Tensor<2>,
    recurrent: Tensor<2>,
    state: Option<SnapState>,
) -> (Tensor<3>, SnapState) {
    let [time, batch, size] = inputs.dims();
    let [hidden, gates] = recurrent.dims();
    let all = size + hidden;
    // What is detached is made of the weights: a weight itself, detached, would need a gradient still.
    let weights = Tensor::cat(vec![rows, recurrent], 0);
    let learns = weights.is_tracked();
    let values = weights.clone().detach();
    // Zero, with the gradient of the weights.
    let change = (weights - values.clone()).reshape([1, all, gates]);
    // What each unit adds to its own gates.
    let itself = Tensor::<2>::eye(hidden, &values.device()).cast(values.dtype());
    let own = values.clone().narrow(0, size, hidden);
    let own = own.reshape([hidden, 4, hidden]) * itself.reshape([hidden, 1, hidden]);
    let own: Tensor<2> = own.sum_dim(0).reshape([1, gates]);
    let own = quarters(&own);

    let state = state.unwrap_or_else(|| SnapState::zero(batch, &values));
    let SnapState {
        mut hidden_influence,
        mut cell_influence,
        hidden: mut h,
        cell: mut c,
    } = state;
    let mut influences = learns.then(|| {
        let as_weights = |part: &Tensor<2>| part.clone().reshape([batch, all, gates]);
        (as_weights(&hidden_influence), as_weights(&cell_influence))
    });
    let mut outputs = Vec::with_capacity(time);
    for step in 0..time {
        let input = inputs.clone().narrow(0, step, 1).reshape([batch, size]);
        let read = Tensor::cat(vec![input, h], 1);
        let [i, f, g, o] = quarters(&read.clone().matmul(values.clone()));
        let (i, f, g, o) = (sigmoid(i), sigmoid(f), g.tanh(), sigmoid(o));
        // By the sums that the gates are made of.
        let [by_i, by_f, by_g] = [
            g.clone() * slope(&i),
            c.clone() * slope(&f),
            i.clone() * (-g.clone().square() + 1.0),
        ];
        c = f.clone() * c + i * g;
        let squashed = c.clone().tanh();
        let by_o = squashed.clone() * slope(&o);
        let by_cell = o.clone() * (-squashed.clone().square() + 1.0);
        h = o * squashed;
        let mut output = h.clone();
        if let Some((by_h, by_c)) = influences.take() {
            let [own_i, own_f, own_g, own_o] = own.clone();
            let through = by_i.clone() * own_i + by_f.clone() * own_f + by_g.clone() * own_g;
            let back = by_o.clone() * own_o;
            let none = Tensor::zeros_like(&back);
            let gate = |parts: [&Tensor<2>; 4]| -> Tensor<3> {
                let parts = parts.into_iter().cloned().collect();
                Tensor::cat(parts, 1).reshape([batch, 1, gates])
            };
            let every = |part: &Tensor<2>| gate([part; 4]);
            let read = read.reshape([batch, all, 1]);
            let by_c = by_c * every(&f)
                + by_h.clone() * every(&through)
                + read.clone() * gate([&by_i, &by_f, &by_g, &none]);
            let by_h = by_h * every(&back)
                + by_c.clone() * every(&by_cell)
                + read * gate([&none, &none, &none, &by_o]);
            let effect = (by_h.clone() * change.clone()).sum_dim(1);
            let effect = effect.reshape([batch, 4, hidden]).sum_dim(1);
            output = output + effect.reshape([batch, hidden]);
            influences = Some((by_h, by_c));
        }
        outputs.push(output.reshape([1, batch, hidden]));
    }
    if let Some((by_h, by_c)) = influences {
        hidden_influence = by_h.reshape([batch, all * gates]);
        cell_influence = by_c.reshape([batch, all * gates]);
    }
    let state = SnapState {
        hidden: h,
        cell: c,
        hidden_influence,
        cell_influence,
    };
    (Tensor::cat(outputs, 0), state)
}

/// One part per gate.
fn quarters(gates: &Tensor<2>) -> [Tensor<2>; 4] {
    let hidden = gates.dims()[1] / 4;
    [0, 1, 2, 3].map(|gate| gates.clone().narrow(1, gate * hidden, hidden))
}

/// Derivative of the logistic function where its value is `value`.
fn slope(value: &Tensor<2>) -> Tensor<2> {
    value.clone() * (-value.clone() + 1.0)
}
