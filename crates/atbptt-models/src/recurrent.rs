//! What a user implements to train a model of their own: [`RecurrentModel`].
//!
//! Place in the flow: training asks a model for the loss of a window ([`RecurrentModel::window`]) and for the gradient
//! of the last step's loss at every earlier state ([`RecurrentModel::state_gradients`]). Both have default bodies made
//! of the two methods a user writes; models of this crate override them with faster ones.

mod bodies;

use burn::module::{Module, ModuleDisplay, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Int, Tensor};

use self::bodies::compensated_window_stepwise;
pub(crate) use self::bodies::{state_gradients_stepwise, window_in_pieces};
use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::probe::StateGradients;
use crate::state::RecurrentState;

/// A model that reads a window step after step and has a loss.
///
/// Implement [`forward`](Self::forward) and [`loss`](Self::loss); the law they must keep is that running a window in
/// pieces, the state handed on, gives the features of one run. `examples/plug_in.rs` shows it for Burn's `nn::Lstm`.
pub trait RecurrentModel: Module + ModuleDisplay + Sync + 'static {
    /// A window of inputs and targets.
    type Batch: SequenceBatch;
    /// What is carried from window to window.
    type State: RecurrentState + Sync;

    /// Runs all steps of `batch` from `state` (`None`: the start of a sequence).
    ///
    /// Returns what the loss reads, one feature vector per sequence and step, `[batch, time, features]`, and the state after
    /// the last step. Another layout is refused wherever features are read ([`check_layout`](crate::check_layout)).
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the input does not fit the model.
    fn forward(
        &self,
        batch: &Self::Batch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError>;

    /// Loss of `features`, `[batch, time, features]`, summed over all steps and sequences of `batch` that have a target.
    ///
    /// A batch without any target is no error: its sum is zero, and so is its count.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the features do not fit the batch.
    fn loss(&self, features: Tensor<3>, batch: &Self::Batch) -> Result<StepLoss, ModelError>;

    /// Runs a training window: the loss of the steps that carry one, and the state to go on from.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward) and [`loss`](Self::loss).
    fn window(
        &self,
        batch: &Self::Batch,
        state: Option<Self::State>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Self::State>, ModelError> {
        window_in_pieces(self, batch, state, plan)
    }

    /// Runs a training window with a loss at every step, with the state gradient multiplied on its way back: over
    /// the boundary after step i (from zero) by `factors[i]`, where there is one. Values do not change.
    ///
    /// What unbiased random truncation asks for (Tallec & Ollivier 2017). The default runs step by step, so that it costs
    /// more than [`window`](Self::window).
    ///
    /// # Errors
    ///
    /// As [`window`](Self::window).
    fn compensated_window(
        &self,
        batch: &Self::Batch,
        state: Option<Self::State>,
        factors: &[f64],
    ) -> Result<WindowLoss<Self::State>, ModelError> {
        compensated_window_stepwise(self, batch, state, factors)
    }

    /// Gradients of the last step's summed loss at every earlier state of the window, and at the features of the last
    /// step. No weight gradient is computed. Dropout stays on, as in training.
    ///
    /// The default runs step by step and adds a zero perturbation to every part of the state handed on, whose gradient
    /// autodiff yields.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward) and [`loss`](Self::loss); [`ModelError::NoAutodiff`] on a device without autodiff.
    fn state_gradients(
        &self,
        batch: &Self::Batch,
        state: Option<Self::State>,
    ) -> Result<StateGradients, ModelError> {
        state_gradients_stepwise(self, batch, state)
    }

    /// The parameters whose gradient's bias is measured: those of the recurrence. Name what truncation can bias and a probe can
    /// keep a few copies of, and leave out embeddings and decoders.
    ///
    /// `None`, the default: all that [`forward`](Self::forward) uses, of at most 4,194,304 values each.
    fn counted_parameters(&self) -> Option<Vec<ParamId>> {
        None
    }
}

/// A summed loss and the number of terms in it.
#[derive(Clone, Debug)]
pub struct StepLoss {
    /// Sum over steps and sequences, `[1]`, in nats.
    pub sum: Tensor<1>,
    /// Number of terms: of the steps and sequences that have a target.
    pub count: usize,
    /// What the loss compared, for metrics; `None`: the model does not say.
    pub predictions: Option<Predictions>,
}

/// What a loss compared, one row per term, detached: for metrics, such as an accuracy.
///
/// Rows are in any order, the same for predictions and targets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Predictions {
    /// Of one class per row.
    Classes {
        /// Logits or probabilities, `[rows, classes]`.
        scores: Tensor<2>,
        /// The right class of every row, `[rows]`.
        targets: Tensor<1, Int>,
    },
    /// Of numbers.
    Values {
        /// Predicted, `[rows, values]`.
        values: Tensor<2>,
        /// What they should have been, `[rows, values]`; NaN where that is not known.
        targets: Tensor<2>,
    },
}

impl Predictions {
    /// Both, one after the other, on one device; of different kinds, the first alone.
    pub fn followed_by(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Classes { scores, targets },
                Self::Classes {
                    scores: more_scores,
                    targets: more_targets,
                },
            ) => Self::Classes {
                scores: Tensor::cat(vec![scores, more_scores], 0),
                targets: Tensor::cat(vec![targets, more_targets], 0),
            },
            (
                Self::Values { values, targets },
                Self::Values {
                    values: more_values,
                    targets: more_targets,
                },
            ) => Self::Values {
                values: Tensor::cat(vec![values, more_values], 0),
                targets: Tensor::cat(vec![targets, more_targets], 0),
            },
            (first, _) => first,
        }
    }

    /// Moves both to `device`.
    pub fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Classes { scores, targets } => Self::Classes {
                scores: scores.to_device(device),
                targets: targets.to_device(device),
            },
            Self::Values { values, targets } => Self::Values {
                values: values.to_device(device),
                targets: targets.to_device(device),
            },
        }
    }

    /// Off the graph and the autodiff backend, so that metrics keep no graph alive.
    pub fn without_autodiff(self) -> Self {
        match self {
            Self::Classes { scores, targets } => Self::Classes {
                scores: scores.without_autodiff(),
                targets: targets.without_autodiff(),
            },
            Self::Values { values, targets } => Self::Values {
                values: values.without_autodiff(),
                targets: targets.without_autodiff(),
            },
        }
    }
}

impl StepLoss {
    /// `sum`, `[1]`, in nats, over `count` terms.
    pub fn new(sum: Tensor<1>, count: usize) -> Self {
        Self {
            sum,
            count,
            predictions: None,
        }
    }

    /// Says which classes the loss compared, for metrics: `scores`, logits or probabilities, `[rows, classes]`, and `targets`,
    /// `[rows]`.
    pub fn with_classes(mut self, scores: Tensor<2>, targets: Tensor<1, Int>) -> Self {
        let scores = scores.detach();
        self.predictions = Some(Predictions::Classes { scores, targets });
        self
    }

    /// Says which numbers the loss compared, for metrics, both `[rows, values]`; a target that is NaN is missing.
    pub fn with_values(mut self, values: Tensor<2>, targets: Tensor<2>) -> Self {
        let (values, targets) = (values.detach(), targets.detach());
        self.predictions = Some(Predictions::Values { values, targets });
        self
    }

    /// The loss of more steps added to this one.
    pub(crate) fn plus(self, more: Self) -> Self {
        let predictions = match (self.predictions, more.predictions) {
            (Some(first), Some(second)) => Some(first.followed_by(second)),
            (first, second) => first.or(second),
        };
        Self {
            sum: self.sum + more.sum,
            count: self.count + more.count,
            predictions,
        }
    }

    /// Refuses a sum that Burn cannot backpropagate from: `backward` panics on one.
    ///
    /// # Errors
    ///
    /// [`ModelError::Untracked`], for `what`.
    pub fn check_tracked(&self, what: &'static str) -> Result<(), ModelError> {
        match self.sum.is_tracked() {
            true => Ok(()),
            false => Err(ModelError::Untracked { what }),
        }
    }
}

/// Which steps of a window carry a loss, and where the next window begins. Steps count from the window's start.
///
/// | windows | steps | `loss_from` | `carry` |
/// |---|---|---|---|
/// | strided, BPTT(K−1+m; m): m losses per update, each with at least K steps of gradient | K − 1 + m | K − 1 | m |
/// | overlapping, BPTT(2K−1; K): the same with m = K | 2K − 1 | K − 1 | K |
/// | chunked, BPTT(K; K): windows end to end | K | 0 | K |
///
/// Where K has just grown or shrunk, and at the start of a stream, a window has the context that the last one left: a part of
/// it that is longer than K − 1 is `warm_up`. In the first strided windows `carry` may be 0: the next window begins at the
/// start of the stream too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WindowPlan {
    /// Steps run first without gradient: they only bring the state up to where backpropagation begins.
    pub warm_up: usize,
    /// First step that carries a loss.
    pub loss_from: usize,
    /// The state handed to the next window is the one after this many steps.
    pub carry: usize,
}

/// Loss of a window and the state to go on from.
#[derive(Clone, Debug)]
pub struct WindowLoss<S> {
    /// Over the steps that carry a loss.
    pub loss: StepLoss,
    /// After [`WindowPlan::carry`] steps, detached; `None` when that is the very start of a sequence.
    pub state: Option<S>,
}

/// A copy of `model` whose weights need no gradient; the model keeps its own.
///
/// Burn makes weights when they are first used, and copies share them until then: `model.clone().no_grad()` of a model that was
/// never used freezes the model too. So they are made first.
pub fn frozen<M: Module>(model: &M) -> M {
    struct Make;
    impl ModuleVisitor for Make {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }
    model.visit(&mut Make);
    model.clone().no_grad()
}

/// Refuses a plan that does not lie within the window.
pub(crate) fn check_plan(plan: WindowPlan, steps: usize) -> Result<(), ModelError> {
    if plan.warm_up <= plan.loss_from && plan.loss_from < steps && plan.carry <= steps {
        return Ok(());
    }
    Err(ModelError::Config {
        field: "plan",
        rule: "warm_up <= loss_from < steps and carry <= steps",
        got: format!("{plan:?} for {steps} steps"),
        remedy: "let the window contain a step with a loss, and hand on a state from within it",
    })
}
