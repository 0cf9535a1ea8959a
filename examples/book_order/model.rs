//! The recurrent marked temporal point process of Du et al. (2016): an LSTM over events, a softmax for the next mark, a
//! conditional intensity for the next interval.
//!
//! Symbols: a = log λ₀, the log intensity right after an event, linear in the LSTM's output; w, a learned scalar, its slope
//! in time; d, the interval to the next event. λ(d) = exp(a + w d), and the density is
//!
//! ```text
//! log f(d) = a + w d − Λ(d),   Λ(d) = ∫₀^d λ = exp(a) (exp(w d) − 1)/w = exp(a) d φ(w d),   φ(x) = (exp(x) − 1)/x
//! ```

use atbptt::models::{
    LstmLayer, LstmState, ModelError, RecurrentModel, Stack, StackConfig, StackModel,
    StateGradients, StepLoss, WindowLoss, WindowPlan, ops,
};
use burn::module::{Module, Param, ParamId};
use burn::nn::Initializer;
use burn::tensor::{Bool, Device, Tensor};

use super::data::EventBatch;

/// Below this |x|, φ(x) is summed as a series: the quotient loses digits there.
const SERIES_BELOW: f64 = 0.3;

/// Marks through a linear layer beside the timing, LSTM, heads for mark and interval.
#[derive(Module, Debug)]
pub struct EventModel {
    /// `[marks, hidden]`
    encoder: Param<Tensor<2>>,
    /// `[hidden]`
    encoder_bias: Param<Tensor<1>>,
    layers: Stack<LstmLayer>,
    /// `[marks, hidden]`
    mark_head: Param<Tensor<2>>,
    /// `[marks]`
    mark_bias: Param<Tensor<1>>,
    /// `[hidden, 1]`
    intensity_head: Param<Tensor<2>>,
    /// `[1]`
    intensity_bias: Param<Tensor<1>>,
    /// w, `[1]`
    slope: Param<Tensor<1>>,
}

impl EventModel {
    /// Weight matrices uniform in ±√(3/larger dimension), biases and w zero.
    pub fn new(
        marks: usize,
        hidden: usize,
        layers: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let uniform = |shape: [usize; 2]| {
            let bound = (3.0 / shape[0].max(shape[1]).max(1) as f64).sqrt();
            let uniform = Initializer::Uniform {
                min: -bound,
                max: bound,
            };
            uniform.init::<2, _>(shape, device)
        };
        let zeros = |size: usize| Initializer::Zeros.init::<1, _>([size], device);
        Ok(Self {
            layers: StackConfig::<LstmLayer>::new(hidden + 2, hidden)
                .with_layers(layers)
                .init(device)?,
            encoder: uniform([marks, hidden]),
            encoder_bias: zeros(hidden),
            mark_head: uniform([marks, hidden]),
            mark_bias: zeros(marks),
            intensity_head: uniform([hidden, 1]),
            intensity_bias: zeros(1),
            slope: zeros(1),
        })
    }

    /// a for every row of `features` `[rows, hidden]`: `[rows]`.
    pub fn log_intensity(&self, features: Tensor<2>) -> Tensor<1> {
        let rows = features.dims()[0];
        let a = features.matmul(self.intensity_head.val()) + self.intensity_bias.val().unsqueeze();
        a.reshape([rows])
    }

    /// Logits of the next mark: `[rows, hidden]` → `[rows, marks]`.
    pub fn mark_logits(&self, features: Tensor<2>) -> Tensor<2> {
        features.matmul(self.mark_head.val().transpose()) + self.mark_bias.val().unsqueeze()
    }

    /// w, `[1]`.
    pub fn slope(&self) -> Tensor<1> {
        self.slope.val()
    }
}

/// log f(d) for a `[rows]`, w `[1]` and d `[rows]`, also at w = 0, where it is that of an exponential distribution.
pub fn log_density(a: Tensor<1>, w: Tensor<1>, d: Tensor<1>) -> Tensor<1> {
    let x = w * d.clone();
    let hazard = a.clone().exp() * d * exponential_quotient(x.clone());
    a + x - hazard
}

/// φ(x) = (exp(x) − 1)/x, to the rounding of the tensor's type, with its gradient.
fn exponential_quotient(x: Tensor<1>) -> Tensor<1> {
    let small = x.clone().abs().lower_elem(SERIES_BELOW);
    // Horner's rule for Σ x^k/(k+1)!, k up to 9: the rest is below 0.3^10/11! = 1.5e-13.
    let mut series = x.clone() / 10.0 + 1.0;
    for k in (2..=9).rev() {
        series = series * x.clone() / f64::from(k) + 1.0;
    }
    // No division by zero on the way back either.
    let large = x.mask_fill(small.clone(), 1.0);
    let quotient = (large.clone().exp() - 1.0) / large;
    quotient.mask_where(small, series)
}

impl StackModel for EventModel {
    type Layer = LstmLayer;

    fn stack(&self) -> &Stack<LstmLayer> {
        &self.layers
    }

    fn stack_input(&self, batch: &EventBatch) -> Result<Tensor<3>, ModelError> {
        let rows = self.encoder.val() + self.encoder_bias.val().unsqueeze();
        let marks = ops::embedding(rows, batch.marks.clone())?;
        Ok(Tensor::cat(vec![marks, batch.timing.clone()], 2))
    }

    fn stack_reset(&self, batch: &EventBatch) -> Option<Tensor<2, Bool>> {
        batch.reset.clone()
    }
}

impl RecurrentModel for EventModel {
    type Batch = EventBatch;
    type State = Vec<LstmState>;

    fn forward(
        &self,
        batch: &EventBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        self.stack_forward(batch, state)
    }

    /// Cross-entropy of the mark plus negative log-likelihood of the interval.
    fn loss(&self, features: Tensor<3>, batch: &EventBatch) -> Result<StepLoss, ModelError> {
        batch.check(&features)?;
        let [sequences, time, hidden] = features.dims();
        let count = time * sequences;
        let rows = features.swap_dims(0, 1).reshape([count, hidden]);
        let a = self.log_intensity(rows.clone());
        let intervals = batch.next_intervals.clone().reshape([count]);
        let timing = log_density(a, self.slope.val(), intervals).sum();
        let marks = ops::linear_nll(
            rows,
            self.mark_head.val(),
            Some(self.mark_bias.val()),
            batch.next_marks.clone().reshape([count]),
        )?;
        Ok(StepLoss::new(marks - timing, count))
    }

    fn window(
        &self,
        batch: &EventBatch,
        state: Option<Self::State>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Self::State>, ModelError> {
        self.stack_window(batch, state, plan)
    }

    fn state_gradients(
        &self,
        batch: &EventBatch,
        state: Option<Self::State>,
    ) -> Result<StateGradients, ModelError> {
        self.stack_gradients(batch, state)
    }

    fn counted_parameters(&self) -> Option<Vec<ParamId>> {
        Some(self.stack_parameters())
    }
}
