//! The model as Burn's learner sees it: [`Tbptt`], its inputs and outputs.
//!
//! Place in the flow: `Tbptt` wraps a [`RecurrentModel`] and implements Burn's `TrainStep` and `InferenceStep`. The carried
//! state travels in with the window and comes back with the output; the training strategy takes it out.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atbptt_models::{Predictions, RecurrentModel, RecurrentState, WindowLoss, WindowPlan};
use burn::backend::ExecutionError;
use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param, ParamGroup, ParamId,
};
use burn::optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor};
use burn::train::metric::{AccuracyInput, Adaptor, LossInput, TopKAccuracyInput};
use burn::train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};

use crate::TrainError;
use crate::metrics::{
    ClipInput, ErrorInput, EstimateInput, PredictionsInput, SummedLoss, ThroughputInput,
    TruncationInput,
};
use crate::source::SequenceSource;
use crate::workers::{Done, Task};

/// A [`RecurrentModel`] that Burn's `Learner` can train.
///
/// Wrap the model before it goes into the learner; [`inner`](Self::inner) gives it back.
///
/// Burn's records hold the weights by the model's own paths, as if it were not wrapped: they load into the plain model.
#[derive(Clone, Debug)]
pub struct Tbptt<M: Module> {
    model: M,
    step_scale: StepScale,
}

/// Hands everything on to the model; derived, it would put `model.` before every path.
impl<M: Module> Module for Tbptt<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.model.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.with(|model| model.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.with(|model| model.to_device(device))
    }

    fn train(self) -> Self {
        self.with(M::train)
    }

    fn valid(&self) -> Self {
        Self {
            model: self.model.valid(),
            step_scale: self.step_scale.clone(),
        }
    }

    fn materialize(self) -> Self {
        self.with(M::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.model.visit(visitor);
    }

    fn map<N: ModuleMapper>(self, mapper: &mut N) -> Self {
        self.with(|model| model.map(mapper))
    }
}

impl<M: Module + ModuleDisplay> ModuleDisplayDefault for Tbptt<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("model", &self.model).optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(&self.model)
    }
}

impl<M: Module + ModuleDisplay> fmt::Display for Tbptt<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ModuleDisplay::format(self, DisplaySettings::new()))
    }
}

impl<M: Module + ModuleDisplay> ModuleDisplay for Tbptt<M> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(true)
            .optional()
    }
}

/// Factor on the learning rate, set by the strategy before each update and shared by all copies of a model.
///
/// Scaling the gradient instead would leave weight decay unscaled, and do nothing under Adam.
#[derive(Clone)]
pub(crate) struct StepScale(Arc<AtomicU64>);

impl StepScale {
    fn one() -> Self {
        Self(Arc::new(AtomicU64::new(1f64.to_bits())))
    }

    pub(crate) fn set(&self, factor: f64) {
        self.0.store(factor.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl Debug for StepScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl<M: Module> Tbptt<M> {
    /// Wraps `model`.
    pub fn new(model: M) -> Self {
        Self {
            model,
            step_scale: StepScale::one(),
        }
    }

    /// The wrapped model.
    pub fn inner(&self) -> &M {
        &self.model
    }

    /// Takes the model out again.
    pub fn into_inner(self) -> M {
        self.model
    }

    fn with(self, act: impl FnOnce(M) -> M) -> Self {
        Self {
            model: act(self.model),
            step_scale: self.step_scale,
        }
    }

    pub(crate) fn step_scale(&self) -> &StepScale {
        &self.step_scale
    }
}

/// What a data loader yields, and what the strategy makes of it.
pub enum TbpttInput<M: RecurrentModel> {
    /// From a loader: sequences to cut windows from.
    Stream(Arc<dyn SequenceSource<Batch = M::Batch>>),
    /// From the strategy: one window.
    Window {
        /// Inputs and targets.
        batch: M::Batch,
        /// The state carried into the window; `None` at the start of the stream.
        state: Option<M::State>,
        /// Which steps carry a loss, and which state is handed on.
        plan: WindowPlan,
        /// Factors on the state gradient between steps, as
        /// [`compensated_window`](RecurrentModel::compensated_window) takes them; empty: none, and the plan holds.
        compensation: Vec<f64>,
    },
    /// From the strategy to a worker, where several devices share a run.
    Task(Box<Task<M>>),
}

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
    done: Option<Done<M>>,
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
    fn new(window: Result<WindowLoss<M::State>, TrainError>) -> Self {
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
    pub(crate) fn done(done: Done<M>, window: Option<Self>) -> Self {
        Self {
            window: None,
            report: StepReport::default(),
            predictions: window.and_then(|window| window.predictions),
            done: Some(done),
        }
    }

    /// What a worker did, taken once.
    pub(crate) fn take_done(&mut self) -> Option<Done<M>> {
        self.done.take()
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

impl<M: RecurrentModel> TrainStep for Tbptt<M> {
    type Input = TbpttInput<M>;
    type Output = TbpttOutput<M>;

    /// Loss and gradients of one window; the gradient is that of the mean loss.
    ///
    /// The state that goes on is detached, whatever the model gave. A window without any target has no gradients.
    ///
    /// Given a whole stream (by a strategy other than [`AdaptiveTbptt`](crate::AdaptiveTbptt)), nothing is trained, and the
    /// output carries an error that ends the training.
    fn step(&self, input: TbpttInput<M>) -> TrainOutput<TbpttOutput<M>> {
        let window = match input {
            TbpttInput::Task(task) => return task.run(self),
            TbpttInput::Window {
                batch,
                state,
                plan,
                compensation,
            } => match compensation.is_empty() {
                true => self.model.window(&batch, state, plan),
                false => self.model.compensated_window(&batch, state, &compensation),
            }
            .map_err(TrainError::from),
            TbpttInput::Stream(_) => Err(TrainError::NoStream { split: "training" }),
        };
        let window = window.and_then(|mut window| {
            if window.loss.count > 0 {
                window.loss.check_tracked("training")?;
            }
            // Backpropagation through the next window must end where that begins.
            window.state = window.state.map(M::State::detach);
            Ok(window)
        });
        let grads = match &window {
            Ok(window) if window.loss.count == 0 => GradientsParams::new(),
            Ok(window) => {
                let mean = window.loss.sum.clone() / window.loss.count as f64;
                GradientsParams::from_grads(mean.backward(), self)
            }
            Err(error) => {
                log::error!("{error}");
                GradientsParams::new()
            }
        };
        TrainOutput {
            grads,
            item: TbpttOutput::new(window.map(|mut window| {
                window.loss.sum = window.loss.sum.without_autodiff();
                window
            })),
        }
    }

    fn optimize(
        self,
        optim: &mut ModuleOptimizer,
        lr: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        let lr = scaled(&self, &lr, self.step_scale.get());
        optim.step(lr, self, grads)
    }
}

impl<M: RecurrentModel> InferenceStep for Tbptt<M> {
    type Input = TbpttInput<M>;
    type Output = TbpttOutput<M>;

    fn step(&self, input: TbpttInput<M>) -> TbpttOutput<M> {
        TbpttOutput::new(match input {
            TbpttInput::Window {
                batch, state, plan, ..
            } => self
                .model
                .window(&batch, state, plan)
                .map_err(TrainError::from),
            TbpttInput::Stream(_) | TbpttInput::Task(_) => Err(TrainError::NoStream {
                split: "validation",
            }),
        })
    }
}

/// `lr` times `factor`, parameter group by parameter group.
fn scaled<M: Module>(module: &M, lr: &ModuleLearningRate, factor: f64) -> ModuleLearningRate {
    if factor == 1.0 {
        return lr.clone();
    }
    struct Rates<'a> {
        lr: &'a ModuleLearningRate,
        path: Vec<String>,
        found: Vec<(ParamId, f64)>,
    }
    impl ModuleVisitor for Rates<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let rate = self.lr.lr_from_param(param.id, Some(&self.path.join(".")));
            self.found.push((param.id, rate));
        }
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    }
    let mut rates = Rates {
        lr,
        path: Vec::new(),
        found: Vec::new(),
    };
    module.visit(&mut rates);
    let base = lr.base();
    let mut scheduler = ModuleLrScheduler::new(base * factor);
    for (id, rate) in rates.found.into_iter().filter(|&(_, rate)| rate != base) {
        scheduler = scheduler.with_group(ParamGroup::from_ids(vec![id]), rate * factor);
    }
    scheduler.step()
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

/// For [`PredictionMetric`](crate::metrics::PredictionMetric), and metrics of your own.
impl<M: RecurrentModel> Adaptor<PredictionsInput> for TbpttOutput<M> {
    fn adapt(&self) -> PredictionsInput {
        PredictionsInput {
            predictions: self.predictions.clone(),
        }
    }
}

/// For [`RmseMetric`](crate::metrics::RmseMetric) and [`MaeMetric`](crate::metrics::MaeMetric).
impl<M: RecurrentModel> Adaptor<ErrorInput> for TbpttOutput<M> {
    fn adapt(&self) -> ErrorInput {
        match &self.predictions {
            Some(Predictions::Values { values, targets }) => {
                ErrorInput::new(values.clone(), targets.clone())
            }
            _ => ErrorInput::none(),
        }
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

impl<M: RecurrentModel> Adaptor<SummedLoss> for TbpttOutput<M> {
    fn adapt(&self) -> SummedLoss {
        SummedLoss {
            sum: self.report.loss_sum,
            count: self.report.count,
        }
    }
}

impl<M: RecurrentModel> Adaptor<TruncationInput> for TbpttOutput<M> {
    fn adapt(&self) -> TruncationInput {
        TruncationInput { k: self.report.k }
    }
}

impl<M: RecurrentModel> Adaptor<ClipInput> for TbpttOutput<M> {
    fn adapt(&self) -> ClipInput {
        ClipInput {
            clipped: self.report.clipped,
        }
    }
}

impl<M: RecurrentModel> Adaptor<EstimateInput> for TbpttOutput<M> {
    fn adapt(&self) -> EstimateInput {
        EstimateInput {
            relative_bias: self.report.relative_bias,
            decay: self.report.decay,
        }
    }
}

impl<M: RecurrentModel> Adaptor<ThroughputInput> for TbpttOutput<M> {
    fn adapt(&self) -> ThroughputInput {
        ThroughputInput {
            tokens: self.report.count,
            seconds: self.report.seconds,
        }
    }
}
