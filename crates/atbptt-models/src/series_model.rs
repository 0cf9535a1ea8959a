//! A model of continuous series: recurrent layers and a linear head, with squared errors or a Gaussian likelihood.
//!
//! Place in the flow: a [`StackModel`] over [`SeriesBatch`]es, so that its windows run as one sequence operation per layer.
//! Symbols: y, a target; μ, its prediction; σ², its predicted variance.

use burn::config::Config;
use burn::module::{Module, Param, ParamId};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::layer::RecurrentLayer;
use crate::probe::StateGradients;
use crate::recurrent::{RecurrentModel, StepLoss, WindowLoss, WindowPlan};
use crate::series_batch::SeriesBatch;
use crate::stack::{Stack, StackConfig};
use crate::stack_model::StackModel;
use crate::state::PackedState as _;
use crate::{ModelError, WeightInit};

/// What a target costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SeriesLoss {
    /// (y − μ)²; the mean loss is the mean squared error.
    #[default]
    SquaredError,
    /// ½ ln 2πσ² + (y − μ)²/2σ², in nats; σ² is predicted too, and kept within 10⁻⁶ and 10⁶ (the lower limit is that of
    /// PyTorch's `GaussianNLLLoss`). Targets of a scale of about one suit these limits: normalise them.
    GaussianNll,
}

/// Limits of ln σ².
const LOG_VARIANCE: (f64, f64) = (-13.815_510_557_964_274, 13.815_510_557_964_274);

/// Configuration of a [`SeriesModel`].
///
/// ```
/// use atbptt_models::{GruLayer, RecurrentModel, SeriesBatch, SeriesModelConfig, SeriesShape};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// // Two inputs, one target.
/// let model = SeriesModelConfig::new(2, 1, 16).init::<GruLayer>(&device)?;
/// let shape = SeriesShape { batch: 1, time: 3, inputs: 2, targets: 1 };
/// let inputs = vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
/// let batch = SeriesBatch::from_host(inputs, vec![1.0, f32::NAN, 3.0], None, shape, &device)?;
/// let (features, _state) = model.forward(&batch, None)?;
/// // The target of the second step is missing.
/// assert_eq!(model.loss(features, &batch)?.count, 2);
/// # Ok::<(), atbptt_models::ModelError>(())
/// ```
#[derive(Config, Debug, PartialEq)]
pub struct SeriesModelConfig {
    /// Inputs per step.
    pub d_input: usize,
    /// Targets per step.
    pub d_output: usize,
    /// Hidden units of every layer.
    pub d_hidden: usize,
    /// Number of recurrent layers.
    #[config(default = 1)]
    pub layers: usize,
    /// Dropout probability between layers, in `[0, 1)`.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Initial forget-gate bias (LSTM only). One, since series tend to have long memory (Jozefowicz et al. 2015).
    #[config(default = 1.0)]
    pub forget_bias: f64,
    /// What a target costs.
    #[config(default = "SeriesLoss::SquaredError")]
    pub loss: SeriesLoss,
    /// Whether the state that sequences begin with is learned; else it is zero.
    #[config(default = false)]
    pub learned_start: bool,
    /// Initial weights of the recurrent layers.
    #[config(default = "WeightInit::InverseSqrtHidden")]
    pub weights: WeightInit,
}

impl SeriesModelConfig {
    /// Builds the model on `device`, with layers of the kind `L`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when a size is zero or too large, or another setting is outside its range.
    pub fn init<L: RecurrentLayer>(&self, device: &Device) -> Result<SeriesModel<L>, ModelError> {
        if self.d_output == 0 {
            return Err(ModelError::Config {
                field: "d_output",
                rule: "at least 1",
                got: "0".into(),
                remedy: "name a target to predict",
            });
        }
        let layers = StackConfig::<L>::new(self.d_input, self.d_hidden)
            .with_layers(self.layers)
            .with_dropout(self.dropout)
            .with_forget_bias(self.forget_bias)
            .with_weights(self.weights.clone())
            .with_batch_first(false)
            .init(device)?;
        let per_target = match self.loss {
            SeriesLoss::SquaredError => 1,
            SeriesLoss::GaussianNll => 2,
        };
        let outputs = self.d_output.saturating_mul(per_target);
        crate::stack::check_size("d_output", [self.d_hidden, outputs])?;
        let state = L::PARTS * self.d_hidden;
        let start = |_| Initializer::Zeros.init([1, state], device);
        Ok(SeriesModel {
            head: LinearConfig::new(self.d_hidden, outputs).init(device),
            start: match self.learned_start {
                true => (0..self.layers).map(start).collect(),
                false => Vec::new(),
            },
            layers,
            loss: self.loss,
        })
    }
}

/// Recurrent layers and a linear head. Built by [`SeriesModelConfig::init`].
#[derive(Module, Debug)]
pub struct SeriesModel<L: RecurrentLayer> {
    /// Bottom layer first; time-major.
    pub layers: Stack<L>,
    /// `[hidden, out]`; for a Gaussian likelihood `[hidden, 2 out]`, means before log variances.
    pub head: Linear,
    /// The state that sequences begin with, packed `[1, S]` per layer; empty: zeros.
    pub start: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    loss: SeriesLoss,
}

/// What a model says about targets: those of a window, in tensors `[batch, time, out]`, or of one series, in vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesPrediction<T = Tensor<3>> {
    /// μ.
    pub mean: T,
    /// σ; for models with a Gaussian likelihood.
    pub deviation: Option<T>,
}

impl<L: RecurrentLayer> SeriesModel<L> {
    /// Inputs per step.
    pub fn d_input(&self) -> usize {
        self.layers.d_input()
    }

    /// Targets per step.
    pub fn d_output(&self) -> usize {
        let [_, outputs] = self.head.weight.dims();
        match self.loss {
            SeriesLoss::SquaredError => outputs,
            SeriesLoss::GaussianNll => outputs / 2,
        }
    }

    /// Predicts the targets of every step of `batch`, the state carried: hand the returned state on to the next window.
    ///
    /// # Errors
    ///
    /// As [`forward`](RecurrentModel::forward).
    pub fn predict(
        &self,
        batch: &SeriesBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<(SeriesPrediction, Vec<L::State>), ModelError> {
        let (features, state) = self.forward(batch, state)?;
        let (mean, log_variance) = self.decode(features.swap_dims(0, 1));
        let prediction = SeriesPrediction {
            mean: mean.swap_dims(0, 1),
            deviation: log_variance.map(|log| (log * 0.5).exp().swap_dims(0, 1)),
        };
        Ok((prediction, state))
    }

    /// Means and log variances of time-major features.
    fn decode(&self, features: Tensor<3>) -> (Tensor<3>, Option<Tensor<3>>) {
        let out = self.d_output();
        let decoded = self.head.forward(features);
        match self.loss {
            SeriesLoss::SquaredError => (decoded, None),
            SeriesLoss::GaussianNll => {
                let log_variance = decoded.clone().narrow(2, out, out);
                let (least, greatest) = LOG_VARIANCE;
                (
                    decoded.narrow(2, 0, out),
                    Some(log_variance.clamp(least, greatest)),
                )
            }
        }
    }
}

impl<L: RecurrentLayer> StackModel for SeriesModel<L> {
    type Layer = L;

    fn stack(&self) -> &Stack<L> {
        &self.layers
    }

    fn stack_input(&self, batch: &SeriesBatch) -> Result<Tensor<3>, ModelError> {
        Ok(batch.inputs().clone().swap_dims(0, 1))
    }

    fn stack_reset(&self, batch: &SeriesBatch) -> Option<Tensor<2, Bool>> {
        batch.reset().cloned()
    }

    fn stack_reset_steps(&self, batch: &SeriesBatch) -> Result<Vec<usize>, ModelError> {
        Ok(batch.reset_steps())
    }

    fn stack_start(&self) -> Option<Vec<L::State>> {
        let states = self
            .start
            .iter()
            .map(|packed| L::State::unpack(packed.val()));
        (!self.start.is_empty()).then(|| states.collect())
    }
}

impl<L: RecurrentLayer> RecurrentModel for SeriesModel<L> {
    type Batch = SeriesBatch;
    type State = Vec<L::State>;

    fn forward(
        &self,
        batch: &SeriesBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<(Tensor<3>, Vec<L::State>), ModelError> {
        self.stack_forward(batch, state)
    }

    /// Over the targets that are there; zero, and zero terms, where none is.
    fn loss(&self, features: Tensor<3>, batch: &SeriesBatch) -> Result<StepLoss, ModelError> {
        let [sequences, time, hidden] = features.dims();
        let [batch_sequences, steps, out] = batch.targets().dims();
        if [sequences, time] != [batch_sequences, steps] {
            return Err(ModelError::shape(
                "features",
                [sequences, time, hidden],
                format!("[{batch_sequences}, {steps}, {hidden}]"),
                "decode the features of the same steps as the targets",
            ));
        }
        if out != self.d_output() {
            return Err(ModelError::shape(
                "targets",
                [sequences, time, out],
                format!("{} per step", self.d_output()),
                "build the model with as many outputs as the data have targets",
            ));
        }
        // As the layers left them in memory.
        let (mean, log_variance) = self.decode(features.swap_dims(0, 1));
        let targets = batch.targets().clone().swap_dims(0, 1);
        let squares = (mean.clone() - targets.clone()).square();
        let losses = match log_variance {
            None => squares,
            Some(log) => {
                let scaled = squares * (-log.clone()).exp();
                (scaled + log + std::f64::consts::TAU.ln()) * 0.5
            }
        };
        let (losses, targets) = match batch.present() {
            Some(present) => {
                let missing = present.clone().swap_dims(0, 1).bool_not();
                (
                    losses.mask_fill(missing.clone(), 0.0),
                    targets.mask_fill(missing, f32::NAN),
                )
            }
            None => (losses, targets),
        };
        let rows = [time * sequences, out];
        Ok(StepLoss::new(losses.sum(), batch.count())
            .with_values(mean.reshape(rows), targets.reshape(rows)))
    }

    fn window(
        &self,
        batch: &SeriesBatch,
        state: Option<Vec<L::State>>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Vec<L::State>>, ModelError> {
        self.stack_window(batch, state, plan)
    }

    fn state_gradients(
        &self,
        batch: &SeriesBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<StateGradients, ModelError> {
        self.stack_gradients(batch, state)
    }

    /// Weights and biases of the recurrent layers.
    fn counted_parameters(&self) -> Option<Vec<ParamId>> {
        Some(self.stack_parameters())
    }
}
