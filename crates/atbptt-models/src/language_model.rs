//! A word- or character-level language model: embedding, recurrent layers, softmax.
//!
//! Place in the flow: a [`RecurrentModel`] whose windows run as one sequence operation per layer, and whose loss decodes
//! only the steps that carry one, without ever holding all their logits.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::nn::{Dropout, Embedding, Initializer};
use burn::tensor::{Bool, Device, FloatDType, Int, Tensor, TensorData};

use crate::batch::{SequenceBatch, TokenBatch};
use crate::layer::RecurrentLayer;
use crate::ops;
use crate::precision::Precision;
use crate::probe::StateGradients;
use crate::recurrent::{RecurrentModel, StepLoss, WindowLoss, WindowPlan};
use crate::setters::setters;
use crate::stack::{Stack, StackConfig, check_size, dropout};
use crate::stack_model::StackModel;
use crate::state::RecurrentState;
use crate::{ModelError, WeightInit};

/// Configuration of a [`LanguageModel`].
///
/// ```
/// use atbptt_models::{LanguageModelConfig, LstmLayer, RecurrentModel, TokenBatch};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let model = LanguageModelConfig::new(10).with_hidden(16).init::<LstmLayer>(&device)?;
/// let batch = TokenBatch::from_host(&[1, 2, 3, 4], &[2, 3, 4, 5], 1, 4, &device)?;
/// let (features, _state) = model.forward(&batch, None)?;
/// let loss = model.loss(features, &batch)?;
/// assert_eq!(loss.count, 4);
/// # Ok::<(), atbptt_models::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LanguageModelConfig {
    /// Number of words (or characters).
    pub vocabulary: usize,
    /// Features of a word's embedding; `None`: as many as hidden units, which a tied softmax needs.
    pub embedding: Option<usize>,
    /// Hidden units of every layer. 512 and 900 in the paper.
    pub hidden: usize,
    /// Number of recurrent layers.
    pub layers: usize,
    /// Dropout probability, in `[0, 1)`: after the embedding, between layers and before the softmax. 0.2 in the paper.
    pub dropout: f64,
    /// Whether the softmax shares the embedding's weights (Press & Wolf 2017). True in the paper.
    pub tied: bool,
    /// Initial weights.
    pub weights: WeightInit,
    /// Type of training windows; weights, probes and evaluation are f32 anyway. F32 unless asked otherwise.
    #[serde(default)]
    pub precision: Precision,
}

impl LanguageModelConfig {
    /// One layer of 512 units, tied softmax, dropout 0.2: the paper's WikiText-2 model.
    pub fn new(vocabulary: usize) -> Self {
        Self {
            vocabulary,
            embedding: None,
            hidden: 512,
            layers: 1,
            dropout: 0.2,
            tied: true,
            weights: WeightInit::default(),
            precision: Precision::default(),
        }
    }

    setters! {
        /// Features of a word's embedding.
        with_embedding(embedding: usize);
        /// Hidden units of every layer.
        with_hidden(hidden: usize);
        /// Number of recurrent layers.
        with_layers(layers: usize);
        /// Dropout probability, in `[0, 1)`.
        with_dropout(dropout: f64);
        /// Whether the softmax shares the embedding's weights.
        with_tied(tied: bool);
        /// Initial weights.
        with_weights(weights: WeightInit);
        /// Type of training windows.
        with_precision(precision: Precision);
    }

    /// Builds the model on `device`; its layers are of kind `L`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when a size is zero or beyond any device, the initial weights are no numbers, the dropout
    /// outside `[0, 1)`, a tied softmax has an embedding of another size than the hidden state, or the device does not
    /// compute in the precision.
    pub fn init<L: RecurrentLayer>(&self, device: &Device) -> Result<LanguageModel<L>, ModelError> {
        let features = self.embedding.unwrap_or(self.hidden);
        check_size("vocabulary", [self.vocabulary, features.max(self.hidden)])?;
        for (field, value) in [("vocabulary", self.vocabulary), ("embedding", features)] {
            if value == 0 {
                return Err(ModelError::Config {
                    field,
                    rule: "at least 1",
                    got: "0".into(),
                    remedy: "take the size of the corpus' vocabulary, and at least one feature",
                });
            }
        }
        if self.tied && features != self.hidden {
            return Err(ModelError::Config {
                field: "embedding",
                rule: "as many features as hidden units when the softmax is tied",
                got: format!("{features} features, {} hidden units", self.hidden),
                remedy: "untie the softmax or leave the embedding's size out",
            });
        }
        self.precision.check(device)?;
        let layers = StackConfig::<L>::new(features, self.hidden)
            .with_layers(self.layers)
            .with_dropout(self.dropout)
            .with_weights(self.weights.clone())
            .with_batch_first(false)
            .init(device)?;
        let matrix = |columns| {
            self.weights
                .init([self.vocabulary, columns], self.hidden, device)
        };
        Ok(LanguageModel {
            embedding: Embedding {
                weight: matrix(features),
            },
            layers,
            dropout: dropout(self.dropout)?,
            softmax: (!self.tied).then(|| matrix(self.hidden)),
            softmax_bias: Initializer::Zeros.init([self.vocabulary], device),
            precision: self.precision,
            narrow: None,
        })
    }
}

/// Embedding, recurrent layers, softmax. Built by [`LanguageModelConfig::init`].
#[derive(Module, Debug)]
pub struct LanguageModel<L: RecurrentLayer> {
    /// `[vocabulary, embedding]`
    pub embedding: Embedding,
    /// Bottom layer first; time-major.
    pub layers: Stack<L>,
    /// After the embedding and before the softmax.
    pub dropout: Dropout,
    /// `[vocabulary, hidden]`; `None`: tied to the embedding.
    pub softmax: Option<Param<Tensor<2>>>,
    /// `[vocabulary]`
    pub softmax_bias: Param<Tensor<1>>,
    #[module(skip)]
    precision: Precision,
    /// Inside a window of mixed precision: its type. The layers' weights are then of this type already.
    #[module(skip)]
    narrow: Option<FloatDType>,
}

impl<L: RecurrentLayer> LanguageModel<L> {
    /// Number of words.
    pub fn vocabulary(&self) -> usize {
        self.embedding.weight.dims()[0]
    }

    /// The model as it computes inside a training window of mixed precision; `None` where that is f32.
    fn narrowed(&self) -> Option<Self> {
        struct Narrow(FloatDType, f64);
        impl ModuleMapper for Narrow {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let (id, weight) = (param.id, param.val());
                Param::initialized(id, ops::recast(weight, self.0, self.1))
            }
        }
        let dtype = self.precision.dtype()?;
        // Evaluation is exact.
        let training = self.embedding.weight.val().device().is_autodiff();
        training.then(|| {
            let mut model = self.clone();
            let unscaled = 1.0 / self.precision.loss_scale();
            model.layers = model.layers.map(&mut Narrow(dtype, unscaled));
            model.narrow = Some(dtype);
            model
        })
    }

    /// A tensor on its way into the window; its gradient leaves it without the loss scale.
    fn enter<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        match self.narrow {
            Some(dtype) => ops::recast(tensor, dtype, 1.0 / self.precision.loss_scale()),
            None => tensor,
        }
    }
}

/// Time-major rows that `present`, `[batch, time]`, marks.
fn rows_that_count(
    present: &[bool],
    sequences: usize,
    time: usize,
    device: &Device,
) -> Tensor<1, Int> {
    let there = |row: &usize| {
        let at = (row % sequences) * time + row / sequences;
        present.get(at).is_some_and(|there| *there)
    };
    let rows: Vec<i64> = (0..sequences * time)
        .filter(there)
        .map(|row| row as i64)
        .collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

impl<L: RecurrentLayer> StackModel for LanguageModel<L> {
    type Layer = L;

    fn stack(&self) -> &Stack<L> {
        &self.layers
    }

    /// Embedded inputs `[time, batch, embedding]`, dropout applied.
    fn stack_input(&self, batch: &TokenBatch) -> Result<Tensor<3>, ModelError> {
        batch.check(self.vocabulary())?;
        let device = self.embedding.weight.val().device();
        ops::checks::same_device("tokens", &batch.inputs().device(), &device)?;
        let tokens = batch.inputs().clone().transpose();
        let embedded = ops::embedding(self.embedding.weight.val(), tokens)?;
        Ok(self.enter(ops::dropout(&self.dropout, embedded)))
    }

    fn stack_reset(&self, batch: &TokenBatch) -> Option<Tensor<2, Bool>> {
        batch.reset().cloned()
    }
}

impl<L: RecurrentLayer> RecurrentModel for LanguageModel<L> {
    type Batch = TokenBatch;
    type State = Vec<L::State>;

    fn forward(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<(Tensor<3>, Vec<L::State>), ModelError> {
        self.stack_forward(batch, state)
    }

    fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
        let [sequences, time, hidden] = features.dims();
        if [sequences, time] != batch.targets().dims() {
            return Err(ModelError::shape(
                "features",
                [sequences, time, hidden],
                format!("[{}, {}, {hidden}]", batch.sequences(), batch.steps()),
                "decode the features of the same steps as the targets",
            ));
        }
        batch.check(self.vocabulary())?;
        // As the layers left them in memory: rows without a copy.
        let features = features.swap_dims(0, 1);
        let rows = ops::dropout(&self.dropout, features).reshape([time * sequences, hidden]);
        let targets = batch
            .targets()
            .clone()
            .transpose()
            .reshape([time * sequences]);
        let weight = match &self.softmax {
            Some(weight) => weight.val(),
            None => self.embedding.weight.val(),
        };
        let (weight, bias) = (self.enter(weight), self.enter(self.softmax_bias.val()));
        let count = batch.count();
        let sum = match batch.present() {
            // Zero, and of the graph of the features.
            Some(_) if count == 0 => rows.narrow(0, 0, 1).mul_scalar(0.0).sum(),
            Some(present) => {
                let there = rows_that_count(present, sequences, time, &rows.device());
                let (rows, targets) = (rows.select(0, there.clone()), targets.select(0, there));
                ops::linear_nll(rows, weight, Some(bias), targets)?
            }
            None => ops::linear_nll(rows, weight, Some(bias), targets)?,
        };
        let sum = match self.narrow {
            Some(_) => ops::recast(sum, FloatDType::F32, self.precision.loss_scale()),
            None => sum,
        };
        Ok(StepLoss::new(sum, count))
    }

    fn window(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Vec<L::State>>, ModelError> {
        let Some(narrow) = self.narrowed() else {
            return self.stack_window(batch, state, plan);
        };
        let state = state.zip(narrow.narrow).map(|(state, dtype)| {
            let cast = |layer: L::State| layer.map_parts(&mut |part| part.cast(dtype));
            state.into_iter().map(cast).collect()
        });
        narrow.stack_window(batch, state, plan)
    }

    fn state_gradients(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<StateGradients, ModelError> {
        self.stack_gradients(batch, state)
    }

    /// Weights and biases of the recurrent layers.
    fn counted_parameters(&self) -> Option<Vec<ParamId>> {
        Some(self.stack_parameters())
    }
}
