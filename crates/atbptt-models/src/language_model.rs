//! A word- or character-level language model: embedding, recurrent layers, softmax.
//!
//! Place in the flow: a [`RecurrentModel`] whose windows run as one sequence operation per layer, and whose loss decodes
//! only the steps that carry one, without ever holding all their logits.

use burn::module::{Module, Param};
use burn::nn::{Dropout, Embedding, Initializer};
use burn::tensor::{Device, Tensor};

use crate::batch::{SequenceBatch, TokenBatch};
use crate::layer::RecurrentLayer;
use crate::ops;
use crate::probe::{StateGradients, autodiff_device};
use crate::recurrent::{self, RecurrentModel, StepLoss, WindowLoss, WindowPlan};
use crate::stack::{Stack, StackConfig, UnrollOptions, Unrolled, dropout};
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
        }
    }

    /// Features of a word's embedding.
    pub fn with_embedding(mut self, embedding: usize) -> Self {
        self.embedding = Some(embedding);
        self
    }

    /// Hidden units of every layer.
    pub fn with_hidden(mut self, hidden: usize) -> Self {
        self.hidden = hidden;
        self
    }

    /// Number of recurrent layers.
    pub fn with_layers(mut self, layers: usize) -> Self {
        self.layers = layers;
        self
    }

    /// Dropout probability, in `[0, 1)`.
    pub fn with_dropout(mut self, dropout: f64) -> Self {
        self.dropout = dropout;
        self
    }

    /// Whether the softmax shares the embedding's weights.
    pub fn with_tied(mut self, tied: bool) -> Self {
        self.tied = tied;
        self
    }

    /// Initial weights.
    pub fn with_weights(mut self, weights: WeightInit) -> Self {
        self.weights = weights;
        self
    }

    /// Builds the model on `device`; its layers are of kind `L`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when a size is zero, the dropout outside `[0, 1)`, or a tied softmax has an embedding of
    /// another size than the hidden state.
    pub fn init<L: RecurrentLayer>(&self, device: &Device) -> Result<LanguageModel<L>, ModelError> {
        let features = self.embedding.unwrap_or(self.hidden);
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
}

impl<L: RecurrentLayer> LanguageModel<L> {
    /// Number of words.
    pub fn vocabulary(&self) -> usize {
        self.embedding.weight.dims()[0]
    }

    /// Embedded inputs `[time, batch, embedding]`, dropout applied.
    fn embed(&self, batch: &TokenBatch) -> Result<Tensor<3>, ModelError> {
        batch.check(self.vocabulary())?;
        let tokens = batch.inputs().clone().transpose();
        let embedded = ops::step::embedding(self.embedding.weight.val(), tokens);
        Ok(ops::step::dropout(&self.dropout, embedded))
    }

    fn unroll(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<Unrolled<L>, ModelError> {
        let options = UnrollOptions {
            taps: None,
            reset: batch.reset().cloned(),
        };
        self.layers.unroll(self.embed(batch)?, state, options)
    }
}

impl<L: RecurrentLayer> RecurrentModel for LanguageModel<L> {
    type Batch = TokenBatch;
    type State = Vec<L::State>;

    /// Features are time-major, `[time, batch, hidden]`.
    fn forward(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<(Tensor<3>, Vec<L::State>), ModelError> {
        let unrolled = self.unroll(batch, state)?;
        let state = unrolled.last_state();
        Ok((unrolled.output, state))
    }

    fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
        let [time, sequences, hidden] = features.dims();
        if [sequences, time] != batch.targets().dims() {
            return Err(ModelError::shape(
                "features",
                [time, sequences, hidden],
                format!("[{}, {}, {hidden}]", batch.steps(), batch.sequences()),
                "decode the features of the same steps as the targets",
            ));
        }
        batch.check(self.vocabulary())?;
        let rows = ops::step::dropout(&self.dropout, features).reshape([time * sequences, hidden]);
        let targets = batch
            .targets()
            .clone()
            .transpose()
            .reshape([time * sequences]);
        let weight = match &self.softmax {
            Some(weight) => weight.val(),
            None => self.embedding.weight.val(),
        };
        let sum = ops::linear_nll(rows, weight, Some(self.softmax_bias.val()), targets)?;
        Ok(StepLoss {
            sum,
            count: time * sequences,
        })
    }

    /// One unroll over the whole window; the state to carry is a slice of it.
    fn window(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Vec<L::State>>, ModelError> {
        recurrent::check_plan(plan, batch.steps())?;
        if plan.warm_up > 0 || plan.carry == 0 {
            return recurrent::window_in_pieces(self, batch, state, plan);
        }
        let unrolled = self.unroll(batch, state)?;
        let carried = unrolled.state_after(plan.carry - 1).detach();
        let with_loss = plan.loss_from..batch.steps();
        let features = unrolled.output.narrow(0, with_loss.start, with_loss.len());
        Ok(WindowLoss {
            loss: self.loss(features, &batch.slice(with_loss))?,
            state: Some(carried),
        })
    }

    /// State taps of the sequence operations: one backward pass over the window yields all lags.
    fn state_gradients(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<StateGradients, ModelError> {
        let steps = batch.steps();
        let device = autodiff_device(self)?;
        let model = self.clone().no_grad();
        let input = model.embed(batch)?;
        let sequences = batch.sequences();
        let dtype = input.dtype();

        let start = match state {
            Some(state) => model.layers.pack(state.to_device(&device), sequences)?,
            None => vec![model.layers.zero_packed(sequences, &input); model.layers.layers.len()],
        };
        // Each a leaf of its own, zeros too.
        let start: Vec<Tensor<2>> = start
            .into_iter()
            .map(|state| state.detach().require_grad())
            .collect();
        let size = L::PARTS * model.layers.d_hidden();
        let taps: Vec<Tensor<3>> = start
            .iter()
            .map(|_| Tensor::zeros([steps, sequences, size], (&device, dtype)).require_grad())
            .collect();
        let options = UnrollOptions {
            taps: Some(taps.clone()),
            reset: batch.reset().cloned(),
        };
        let unrolled = model
            .layers
            .unroll_packed(input, Some(start.clone()), options)?;
        let features = unrolled.output.narrow(0, steps - 1, 1);
        let feature_tap = Tensor::zeros(features.shape(), (&device, dtype)).require_grad();
        let loss = model.loss(
            features + feature_tap.clone(),
            &batch.slice(steps - 1..steps),
        )?;
        let grads = loss.sum.backward();

        let mut parts = Vec::with_capacity(start.len() * L::PARTS);
        for (start, taps) in start.iter().zip(&taps) {
            let at_start = start
                .grad(&grads)
                .unwrap_or_else(|| start.clone().inner().zeros_like());
            let at_taps = taps
                .grad(&grads)
                .unwrap_or_else(|| taps.clone().inner().zeros_like());
            // The state entering step 0, then those entering steps 1..W; the last tap hands over to no step.
            let mut entering = vec![at_start.reshape([1, sequences, size])];
            if steps > 1 {
                entering.push(at_taps.narrow(0, 0, steps - 1));
            }
            let entering = Tensor::cat(entering, 0);
            let width = model.layers.d_hidden();
            parts.extend((0..L::PARTS).map(|p| entering.clone().narrow(2, p * width, width)));
        }
        let features = feature_tap
            .grad(&grads)
            .unwrap_or_else(|| feature_tap.clone().inner().zeros_like());
        Ok(StateGradients {
            features: features.reshape([sequences, model.layers.d_hidden()]),
            parts,
        })
    }
}
