//! A language model put to use: logits, and text step by step with the carried state.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::ModelError;
use crate::batch::TokenBatch;
use crate::language_model::LanguageModel;
use crate::layer::RecurrentLayer;
use crate::sampling::Sampling;
use crate::stack_model::StackModel;
use crate::state::RecurrentState;

impl<L: RecurrentLayer> LanguageModel<L> {
    /// Logits of the token after every step, `[batch, time, vocabulary]`, and the state after the last one. The targets
    /// of `batch` are not looked at.
    ///
    /// Use `model.valid()`: on a device with autodiff, dropout is on.
    ///
    /// # Errors
    ///
    /// [`ModelError::Token`] for a token outside the vocabulary; [`ModelError::Shape`] when the state does not fit.
    pub fn logits(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<(Tensor<3>, Vec<L::State>), ModelError> {
        let unrolled = self.stack_unroll(batch, state)?;
        let state = unrolled.last_state();
        Ok((self.decode(unrolled.output).swap_dims(0, 1), state))
    }

    /// Logits of features `[time, batch, hidden]`: `[time, batch, vocabulary]`.
    fn decode(&self, features: Tensor<3>) -> Tensor<3> {
        let [time, sequences, hidden] = features.dims();
        let weight = match &self.softmax {
            Some(weight) => weight.val(),
            None => self.embedding.weight.val(),
        };
        let rows = features.reshape([time * sequences, hidden]);
        let logits = rows.matmul(weight.transpose()) + self.softmax_bias.val().unsqueeze();
        logits.reshape([time, sequences, self.vocabulary()])
    }
}

/// One text being read and written by a language model, the state carried from token to token.
///
/// ```
/// use atbptt_models::{LanguageModelConfig, LstmLayer, Sampling, TextState};
/// use burn::tensor::Device;
///
/// let model = LanguageModelConfig::new(10).with_hidden(8).init::<LstmLayer>(&Device::default())?;
/// let mut text = TextState::new(model);
/// text.read(&[3, 1, 4])?;
/// let sampling = Sampling::new().with_top_k(5);
/// let tokens = (0..20).map(|_| text.write(&sampling)).collect::<Result<Vec<u32>, _>>()?;
/// assert!(tokens.iter().all(|token| *token < 10));
/// # Ok::<(), atbptt_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextState<L: RecurrentLayer> {
    model: LanguageModel<L>,
    state: Option<Vec<L::State>>,
    /// Of the next token; `None` before the first was read.
    logits: Option<Vec<f32>>,
    written: u64,
}

impl<L: RecurrentLayer> TextState<L> {
    /// Tokens that are read in one go.
    const CHUNK: usize = 256;

    /// A text that begins. The model is taken in evaluation mode.
    pub fn new(model: LanguageModel<L>) -> Self {
        Self {
            model: model.valid(),
            state: None,
            logits: None,
            written: 0,
        }
    }

    /// Reads tokens; they need not come at once.
    ///
    /// # Errors
    ///
    /// [`ModelError::Token`] for a token outside the vocabulary; [`ModelError::Read`] when the device fails.
    pub fn read(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        let device = self.model.embedding.weight.val().device();
        for chunk in tokens.chunks(Self::CHUNK) {
            let ids: Vec<i64> = chunk.iter().map(|&token| i64::from(token)).collect();
            let batch = TokenBatch::from_host(&ids, &ids, 1, ids.len(), &device)?;
            let unrolled = self.model.stack_unroll(&batch, self.state.take())?;
            self.state = Some(unrolled.last_state().detach());
            let last = unrolled.output.narrow(0, chunk.len() - 1, 1);
            let data = self.model.decode(last).try_into_data();
            let data = data.map_err(|error| ModelError::Read {
                reason: format!("{error:?}"),
            })?;
            self.logits = Some(data.iter::<f32>().collect());
        }
        Ok(())
    }

    /// Logits of the next token, one per word of the vocabulary; `None` before the first token was read.
    pub fn logits(&self) -> Option<&[f32]> {
        self.logits.as_deref()
    }

    /// Draws the next token and reads it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Empty`] before the first token was read; else as [`Sampling::draw`] and [`read`](Self::read).
    pub fn write(&mut self, sampling: &Sampling) -> Result<u32, ModelError> {
        let Some(logits) = &self.logits else {
            return Err(ModelError::Empty {
                what: "text to go on with",
                missing: "token",
            });
        };
        let token = sampling.draw(logits, self.written)? as u32;
        self.written += 1;
        self.read(&[token])?;
        Ok(token)
    }
}
