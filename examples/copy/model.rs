//! The model of the copy task: symbols through a linear layer, a two-layer LSTM, a softmax over symbols.

use atbptt::models::{
    LstmLayer, LstmState, ModelError, RecurrentModel, Stack, StackConfig, StackModel,
    StateGradients, StepLoss, TokenBatch, WindowLoss, WindowPlan, ops,
};
use burn::module::{Module, Param, ParamId};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use super::common::snap::OneLstm;

/// One-hot symbols through a linear layer (a row of its weight per symbol, and a bias), LSTM, softmax.
#[derive(Module, Debug)]
pub struct CopyModel {
    /// `[symbols, hidden]`
    encoder: Param<Tensor<2>>,
    /// `[hidden]`
    encoder_bias: Param<Tensor<1>>,
    layers: Stack<LstmLayer>,
    /// `[symbols, hidden]`
    decoder: Param<Tensor<2>>,
    /// `[symbols]`
    decoder_bias: Param<Tensor<1>>,
}

impl CopyModel {
    /// Weight matrices uniform in ±√(3/larger dimension), biases zero, as in Aicher et al. (2019).
    pub fn new(
        symbols: usize,
        hidden: usize,
        layers: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let bound = (3.0 / symbols.max(hidden).max(1) as f64).sqrt();
        let uniform = Initializer::Uniform {
            min: -bound,
            max: bound,
        };
        Ok(Self {
            layers: StackConfig::<LstmLayer>::new(hidden, hidden)
                .with_layers(layers)
                .init(device)?,
            encoder: uniform.init([symbols, hidden], device),
            encoder_bias: Initializer::Zeros.init([hidden], device),
            decoder: uniform.init([symbols, hidden], device),
            decoder_bias: Initializer::Zeros.init([symbols], device),
        })
    }
}

impl StackModel for CopyModel {
    type Layer = LstmLayer;

    fn stack(&self) -> &Stack<LstmLayer> {
        &self.layers
    }

    fn stack_input(&self, batch: &TokenBatch) -> Result<Tensor<3>, ModelError> {
        batch.check(self.encoder.dims()[0])?;
        let symbols = batch.inputs().clone().transpose();
        // The bias goes into every row of the weight first: symbols are fewer than steps.
        let rows = self.encoder.val() + self.encoder_bias.val().unsqueeze();
        ops::embedding(rows, symbols)
    }
}

impl RecurrentModel for CopyModel {
    type Batch = TokenBatch;
    type State = Vec<LstmState>;

    fn forward(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        self.stack_forward(batch, state)
    }

    fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
        let [sequences, time, hidden] = features.dims();
        let count = time * sequences;
        let rows = features.swap_dims(0, 1).reshape([count, hidden]);
        let targets = batch.targets().clone().transpose().reshape([count]);
        let (weight, bias) = (self.decoder.val(), self.decoder_bias.val());
        let sum = ops::linear_nll(rows, weight, Some(bias), targets)?;
        Ok(StepLoss::new(sum, count))
    }

    fn window(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Self::State>, ModelError> {
        self.stack_window(batch, state, plan)
    }

    fn state_gradients(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
    ) -> Result<StateGradients, ModelError> {
        self.stack_gradients(batch, state)
    }

    fn counted_parameters(&self) -> Option<Vec<ParamId>> {
        Some(self.stack_parameters())
    }
}

/// The linear layer and the weights that read its outputs are one matrix of a row per symbol.
impl OneLstm for CopyModel {
    fn lstm_inputs(&self, batch: &TokenBatch) -> Result<Tensor<3>, ModelError> {
        let [symbols, _] = self.encoder.dims();
        batch.check(symbols)?;
        let encoder = self.encoder.val();
        let rows = Tensor::<2>::eye(symbols, &encoder.device()).cast(encoder.dtype());
        ops::embedding(rows, batch.inputs().clone().transpose())
    }

    fn input_rows(&self) -> Tensor<2> {
        let layer = &self.layers.layers[0];
        let encoded = self.encoder.val() + self.encoder_bias.val().unsqueeze();
        let rows = encoded.matmul(layer.input_weight.val());
        match &layer.bias {
            Some(bias) => rows + bias.val().unsqueeze(),
            None => rows,
        }
    }

    fn recurrent_rows(&self) -> Tensor<2> {
        self.layers.layers[0].recurrent_weight.val()
    }
}
