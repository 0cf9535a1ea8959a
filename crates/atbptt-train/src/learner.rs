//! The model as Burn's learner sees it: [`Tbptt`], and its input.
//!
//! Place in the flow: `Tbptt` wraps a [`RecurrentModel`] and implements Burn's `TrainStep` and `InferenceStep`. The carried
//! state travels in with the window and comes back with the output; the training strategy takes it out.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atbptt_models::ops::flushed;
use atbptt_models::{RecurrentModel, RecurrentState, WindowPlan};
use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param, ParamGroup, ParamId,
};
use burn::optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};

use crate::TrainError;
use crate::output::TbpttOutput;
use crate::source::SequenceSource;

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
    #[doc(hidden)]
    Task(Task<M>),
}

/// What a worker is asked to do, by the strategy, with a copy of the model on the worker's device.
#[allow(clippy::type_complexity)] // A function.
pub struct Task<M: RecurrentModel>(
    Box<dyn FnOnce(&Tbptt<M>) -> TrainOutput<TbpttOutput<M>> + Send>,
);

impl<M: RecurrentModel> Task<M> {
    pub(crate) fn new(
        work: impl FnOnce(&Tbptt<M>) -> TrainOutput<TbpttOutput<M>> + Send + 'static,
    ) -> Self {
        Self(Box::new(work))
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
            TbpttInput::Task(Task(work)) => return work(self),
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
        // Averages that an optimiser keeps of a gradient fade to subnormal numbers, and stay there, where a weight has none for some
        // hundred updates, as the words of an embedding that do not occur.
        flushed(|| optim.step(lr, self, grads))
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
