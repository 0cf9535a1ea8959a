//! What a window gives back to the learner, and what Burn's metrics read of it.
//!
//! Place in the flow: [`Tbptt`](crate::Tbptt) makes an output per window; the strategy takes loss and state out of it, fills in
//! the [`StepReport`], and hands it to the learner's metrics.

use std::any::Any;

use atbptt_models::{Predictions, RecurrentModel, WindowLoss};
use burn::backend::ExecutionError;
use burn::tensor::{Device, Int, Tensor};
use burn::train::ItemLazy;
use burn::train::metric::{AccuracyInput, Adaptor, LossInput, TopKAccuracyInput};

use crate::TrainError;

/// What a training or evaluation window gave.
///
/// Metrics of one's own read it through an adaptor from the output of one's own model:
///
/// ```
/// use atbptt_models::Predictions;
/// use atbptt_train::TbpttOutput;
/// # use atbptt_models::{LanguageModel, LstmLayer};
/// use burn::train::metric::Adaptor;
/// # type MyModel = LanguageModel<LstmLayer>;
///
/// struct Largest(f64); // what the metric reads
///
/// impl Adaptor<Largest> for TbpttOutput<MyModel> {
///     fn adapt(&self) -> Largest {
///         match self.predictions() {
///             Some(Predictions::Values { values, .. }) => Largest(values.clone().max().into_scalar::<f64>()),
///             _ => Largest(f64::NAN),
///         }
///     }
/// }
/// ```
pub struct TbpttOutput<M: RecurrentModel> {
    /// Loss and carried state, or why there is none. The strategy takes it.
    pub(crate) window: Option<Result<WindowLoss<M::State>, TrainError>>,
    /// What Burn's metrics read, filled in by the strategy.
    pub report: StepReport,
    /// What the loss compared.
    predictions: Option<Predictions>,
    /// What a worker did. The strategy takes it.
    done: Option<Box<dyn Any + Send>>,
}

/// Numbers of one window, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Summed loss, in nats.
    pub loss_sum: f64,
    /// Number of losses in it.
    pub count: usize,
    /// Truncation length in use, in steps; zero in evaluation.
    pub k: usize,
    /// Relative bias estimated at that length; `None` while unknown or unbounded.
    pub relative_bias: Option<f64>,
    /// Decay β of the lag profile per step; `None` while unknown.
    pub decay: Option<f64>,
    /// Whether the gradient was longer than [`Clip`](crate::Clip) allows; never in evaluation.
    pub clipped: bool,
    /// Time the window took, in seconds.
    pub seconds: f64,
}

impl StepReport {
    /// Mean loss, in nats.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.count as f64
    }
}

impl<M: RecurrentModel> TbpttOutput<M> {
    pub(crate) fn new(window: Result<WindowLoss<M::State>, TrainError>) -> Self {
        Self {
            window: Some(window),
            report: StepReport {
                loss_sum: f64::NAN,
                ..StepReport::default()
            },
            predictions: None,
            done: None,
        }
    }

    /// What a worker did, with the predictions of the window, if it was one.
    pub(crate) fn done(done: impl Any + Send, window: Option<Self>) -> Self {
        Self {
            window: None,
            report: StepReport::default(),
            predictions: window.and_then(|window| window.predictions),
            done: Some(Box::new(done)),
        }
    }

    /// What a worker did, taken once.
    pub(crate) fn take_done<D: Any>(&mut self) -> Option<D> {
        self.done.take()?.downcast().ok().map(|done| *done)
    }

    /// With the predictions on `device`.
    pub(crate) fn on_device(mut self, device: &Device) -> Self {
        self.predictions = self
            .predictions
            .map(|predictions| predictions.to_device(device));
        self
    }

    /// With the predictions of both.
    pub(crate) fn followed_by(mut self, other: Self) -> Self {
        self.predictions = match (self.predictions, other.predictions) {
            (Some(first), Some(second)) => Some(first.followed_by(second)),
            (first, second) => first.or(second),
        };
        self
    }

    /// Numbers of a window that an earlier process trained; its tensors are gone.
    pub(crate) fn replayed(report: StepReport) -> Self {
        Self {
            window: None,
            report,
            predictions: None,
            done: None,
        }
    }

    /// What the loss compared, without autodiff, where the model says so ([`StepLoss::with_classes`],
    /// [`StepLoss::with_values`]); `None` too for windows that a resumed run trained before it was interrupted.
    ///
    /// [`StepLoss::with_classes`]: atbptt_models::StepLoss::with_classes
    /// [`StepLoss::with_values`]: atbptt_models::StepLoss::with_values
    pub fn predictions(&self) -> Option<&Predictions> {
        self.predictions.as_ref()
    }

    /// The window's loss and state, taken once.
    pub(crate) fn take(&mut self) -> Result<WindowLoss<M::State>, TrainError> {
        let window = self.window.take();
        let mut window = window.unwrap_or(Err(TrainError::NoStream { split: "training" }))?;
        let predictions = window.loss.predictions.take();
        self.predictions = predictions.map(Predictions::without_autodiff);
        Ok(window)
    }
}

impl<M: RecurrentModel> ItemLazy for TbpttOutput<M> {
    /// # Errors
    ///
    /// Of a window that failed: a strategy that does not look at it, as Burn's own do not, ends with this error instead of
    /// training on.
    fn sync(self) -> Result<Self, ExecutionError> {
        match self.window {
            Some(Err(error)) => Err(ExecutionError::WithContext {
                reason: error.to_string(),
            }),
            _ => Ok(self),
        }
    }
}

impl<M: RecurrentModel> Adaptor<LossInput> for TbpttOutput<M> {
    /// The mean, as many times as it has terms: Burn weights windows by the number of values.
    fn adapt(&self) -> LossInput {
        let (device, dtype) = metric_numbers();
        // No window has as many; a forged checkpoint may say so.
        const MOST: usize = 1 << 22;
        let (count, mean) = (self.report.count.clamp(1, MOST), self.report.mean_loss());
        LossInput::new(Tensor::full([count], mean, (&device, dtype)))
    }
}

/// Host-side numbers go through the cheapest device that is compiled in; where doubles are sure to exist, as doubles.
fn metric_numbers() -> (burn::tensor::Device, burn::tensor::DType) {
    use burn::tensor::{DType, Device};
    #[cfg(feature = "flex")]
    return (Device::flex(), DType::F64);
    #[cfg(not(feature = "flex"))]
    (Device::default(), DType::F32)
}

/// For Burn's `AccuracyMetric`: of predicted classes; where the model gives none, of no rows, which the metric passes over.
impl<M: RecurrentModel> Adaptor<AccuracyInput> for TbpttOutput<M> {
    fn adapt(&self) -> AccuracyInput {
        let (scores, targets) = self.classes();
        AccuracyInput::new(scores, targets)
    }
}

/// For Burn's `TopKAccuracyMetric`, as for its `AccuracyMetric`.
impl<M: RecurrentModel> Adaptor<TopKAccuracyInput> for TbpttOutput<M> {
    fn adapt(&self) -> TopKAccuracyInput {
        let (scores, targets) = self.classes();
        TopKAccuracyInput::new(scores, targets)
    }
}

/// For [`PredictionMetric`](crate::metrics::PredictionMetric) and metrics of your own: what the loss compared, where the model
/// says so.
impl<M: RecurrentModel> Adaptor<Option<Predictions>> for TbpttOutput<M> {
    fn adapt(&self) -> Option<Predictions> {
        self.predictions.clone()
    }
}

/// For the other [metrics](crate::metrics) of this crate, and metrics of your own.
impl<M: RecurrentModel> Adaptor<StepReport> for TbpttOutput<M> {
    fn adapt(&self) -> StepReport {
        self.report
    }
}

impl<M: RecurrentModel> TbpttOutput<M> {
    /// Scores and targets of predicted classes; of no rows where there are none.
    fn classes(&self) -> (Tensor<2>, Tensor<1, Int>) {
        match &self.predictions {
            Some(Predictions::Classes { scores, targets }) => (scores.clone(), targets.clone()),
            _ => {
                let (device, _) = metric_numbers();
                (Tensor::zeros([0, 1], &device), Tensor::zeros([0], &device))
            }
        }
    }
}
