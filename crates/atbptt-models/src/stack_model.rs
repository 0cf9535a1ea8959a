//! Models around a [`Stack`]: windows as one unroll, and all lags of a probe in one backward pass.
//!
//! Place in the flow: the default bodies of [`RecurrentModel`] run any model, step by step where they must. A model whose
//! recurrence is a [`Stack`] says what the layers read ([`StackModel`]) and gets the fast bodies to call.

use burn::module::{ParamId, list_param_ids};
use burn::tensor::{Bool, Tensor};

use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::layer::RecurrentLayer;
use crate::probe::{StateGradients, autodiff_device};
use crate::recurrent::{self, RecurrentModel, WindowLoss, WindowPlan};
use crate::stack::{Stack, UnrollOptions, Unrolled};
use crate::state::RecurrentState;

/// State of one layer of `M`.
type LayerState<M> = <<M as StackModel>::Layer as RecurrentLayer>::State;

/// A [`RecurrentModel`] whose only memory is a [`Stack`], and whose loss reads the top layer's output.
///
/// The layers run time-major; features are `[batch, time, hidden]` all the same, as a view. A loss that needs rows as a matrix
/// saves a copy when it puts time first again (`features.swap_dims(0, 1)`) and takes its targets in that order.
///
/// Say what the layers read, and let the methods of [`RecurrentModel`] call those provided here:
///
/// ```
/// use atbptt_models::{
///     LstmLayer, LstmState, ModelError, RecurrentModel, Stack, StackModel, StateGradients, StepLoss, TokenBatch,
///     WindowLoss, WindowPlan, ops,
/// };
/// use burn::{module::{Module, ParamId}, nn, tensor::Tensor};
///
/// #[derive(Module, Debug)]
/// struct Tagger { embedding: nn::Embedding, layers: Stack<LstmLayer>, decoder: nn::Embedding }
///
/// impl StackModel for Tagger {
///     type Layer = LstmLayer;
///     fn stack(&self) -> &Stack<LstmLayer> { &self.layers }
///     fn stack_input(&self, batch: &TokenBatch) -> Result<Tensor<3>, ModelError> {
///         ops::embedding(self.embedding.weight.val(), batch.inputs().clone().transpose())
///     }
/// }
///
/// impl RecurrentModel for Tagger {
///     type Batch = TokenBatch;
///     type State = Vec<LstmState>;
///     fn forward(&self, batch: &TokenBatch, state: Option<Self::State>) -> Result<(Tensor<3>, Self::State), ModelError> {
///         self.stack_forward(batch, state)
///     }
///     fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
///         let [sequences, time, hidden] = features.dims();
///         let count = sequences * time;
///         let targets = batch.targets().clone().reshape([count]);
///         let rows = features.reshape([count, hidden]);
///         Ok(StepLoss::new(ops::linear_nll(rows, self.decoder.weight.val(), None, targets)?, count))
///     }
///     fn window(
///         &self, batch: &TokenBatch, state: Option<Self::State>, plan: WindowPlan,
///     ) -> Result<WindowLoss<Self::State>, ModelError> {
///         self.stack_window(batch, state, plan)
///     }
///     fn state_gradients(&self, batch: &TokenBatch, state: Option<Self::State>) -> Result<StateGradients, ModelError> {
///         self.stack_gradients(batch, state)
///     }
///     fn counted_parameters(&self) -> Option<Vec<ParamId>> { Some(self.stack_parameters()) }
/// }
/// ```
pub trait StackModel: RecurrentModel<State = Vec<LayerState<Self>>> {
    /// Kind of the layers.
    type Layer: RecurrentLayer;

    /// The layers.
    fn stack(&self) -> &Stack<Self::Layer>;

    /// What the layers read, `[time, batch, input]`.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the batch does not fit the model.
    fn stack_input(&self, batch: &Self::Batch) -> Result<Tensor<3>, ModelError>;

    /// Where new sequences begin, `[batch, time]`: the state is zeroed and the gradient cut before these steps. Default:
    /// nowhere.
    fn stack_reset(&self, _batch: &Self::Batch) -> Option<Tensor<2, Bool>> {
        None
    }

    /// For [`RecurrentModel::counted_parameters`]: weights and biases of the layers.
    fn stack_parameters(&self) -> Vec<ParamId> {
        list_param_ids(self.stack())
    }

    /// The state that every sequence begins with, at the beginning of a stream as after a reset: one per layer, parts
    /// `[1, hidden]`. Default: zeros.
    fn stack_start(&self) -> Option<Vec<LayerState<Self>>> {
        None
    }

    /// Steps of the window at which some sequence begins, ascending; asked only of models with a
    /// [start](Self::stack_start). The default reads the mask back from the device; a batch may know it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Read`] when that fails.
    fn stack_reset_steps(&self, batch: &Self::Batch) -> Result<Vec<usize>, ModelError> {
        let Some(reset) = self.stack_reset(batch) else {
            return Ok(Vec::new());
        };
        let any = reset.int().sum_dim(0).try_into_data();
        let any = any.map_err(|error| ModelError::Read {
            reason: error.to_string(),
        })?;
        let steps = any.iter::<i64>().enumerate();
        Ok(steps
            .filter_map(|(step, sequences)| (sequences > 0).then_some(step))
            .collect())
    }

    /// All steps of a window through the layers. With a [start](Self::stack_start), a window in which sequences begin runs
    /// in pieces between these steps.
    ///
    /// # Errors
    ///
    /// [`ModelError`] as [`stack_input`](Self::stack_input) and [`Stack::unroll`] raise it.
    fn stack_unroll(
        &self,
        batch: &Self::Batch,
        state: Option<Vec<LayerState<Self>>>,
    ) -> Result<Unrolled<Self::Layer>, ModelError> {
        let input = self.stack_input(batch)?;
        let reset = self.stack_reset(batch);
        match self.stack_start() {
            None => {
                let options = UnrollOptions { taps: None, reset };
                self.stack().unroll(input, state, options)
            }
            Some(start) => {
                let steps = match &reset {
                    Some(_) => self.stack_reset_steps(batch)?,
                    None => Vec::new(),
                };
                unroll_from(self.stack(), start, input, state, reset, &steps)
            }
        }
    }

    /// For [`RecurrentModel::forward`]: features are the top layer's output, `[batch, time, hidden]`.
    ///
    /// # Errors
    ///
    /// As [`stack_unroll`](Self::stack_unroll).
    #[allow(clippy::type_complexity)] // The type is the one of `forward`.
    fn stack_forward(
        &self,
        batch: &Self::Batch,
        state: Option<Vec<LayerState<Self>>>,
    ) -> Result<(Tensor<3>, Vec<LayerState<Self>>), ModelError> {
        let unrolled = self.stack_unroll(batch, state)?;
        let state = unrolled.last_state();
        Ok((unrolled.output.swap_dims(0, 1), state))
    }

    /// For [`RecurrentModel::window`]: one unroll over the whole window; the state to carry is a slice of it.
    ///
    /// # Errors
    ///
    /// As [`RecurrentModel::window`].
    fn stack_window(
        &self,
        batch: &Self::Batch,
        state: Option<Vec<LayerState<Self>>>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Vec<LayerState<Self>>>, ModelError> {
        recurrent::check_plan(plan, batch.steps())?;
        if plan.warm_up > 0 || plan.carry == 0 {
            return recurrent::window_in_pieces(self, batch, state, plan);
        }
        let unrolled = self.stack_unroll(batch, state)?;
        let carried = unrolled.state_after(plan.carry - 1).detach();
        let with_loss = plan.loss_from..batch.steps();
        let features = unrolled.output.narrow(0, with_loss.start, with_loss.len());
        Ok(WindowLoss {
            loss: self.loss(features.swap_dims(0, 1), &batch.slice(with_loss))?,
            state: Some(carried),
        })
    }

    /// For [`RecurrentModel::state_gradients`]: one backward pass over the state taps of the sequence operations yields
    /// all lags.
    ///
    /// # Errors
    ///
    /// As [`RecurrentModel::state_gradients`].
    fn stack_gradients(
        &self,
        batch: &Self::Batch,
        state: Option<Vec<LayerState<Self>>>,
    ) -> Result<StateGradients, ModelError> {
        let steps = batch.steps();
        if let Some(start) = self.stack_start() {
            // Where a sequence begins within the window, the layers do not run as one operation.
            let state = state.unwrap_or_else(|| repeated(start, batch.sequences()));
            return recurrent::state_gradients_stepwise(self, batch, Some(state));
        }
        let Some(last) = steps.checked_sub(1) else {
            return Err(ModelError::Empty {
                what: "probe window",
                missing: "time steps",
            });
        };
        let device = autodiff_device(self, "the lag profile")?;
        let model = recurrent::frozen(self);
        let layers = model.stack();
        let input = model.stack_input(batch)?;
        let sequences = batch.sequences();
        let dtype = input.dtype();

        let start = match state {
            Some(state) => layers.pack(state.to_device(&device), &input)?,
            None => vec![layers.zero_packed(sequences, &input); layers.layers.len()],
        };
        // Each a leaf of its own, zeros too.
        let start: Vec<Tensor<2>> = start
            .into_iter()
            .map(|state| state.detach().require_grad())
            .collect();
        let size = Self::Layer::PARTS * layers.d_hidden();
        let taps: Vec<Tensor<3>> = start
            .iter()
            .map(|_| Tensor::zeros([steps, sequences, size], (&device, dtype)).require_grad())
            .collect();
        let options = UnrollOptions {
            taps: Some(taps.clone()),
            reset: model.stack_reset(batch),
        };
        let unrolled = layers.unroll_packed(input, Some(start.clone()), options)?;
        let features = unrolled.output.narrow(0, last, 1).swap_dims(0, 1);
        let feature_tap = Tensor::zeros(features.shape(), (&device, dtype)).require_grad();
        let loss = model.loss(features + feature_tap.clone(), &batch.slice(last..steps))?;
        loss.check_tracked("the lag profile")?;
        let grads = loss.sum.backward();

        let parts_per_layer = Self::Layer::PARTS;
        let mut parts = Vec::with_capacity(start.len() * parts_per_layer);
        for (start, taps) in start.iter().zip(&taps) {
            let at_start = start
                .grad(&grads)
                .unwrap_or_else(|| start.clone().inner().zeros_like());
            let at_taps = taps
                .grad(&grads)
                .unwrap_or_else(|| taps.clone().inner().zeros_like());
            // The state entering step 0, then those entering steps 1..W; the last tap hands over to no step.
            let mut entering = vec![at_start.reshape([1, sequences, size])];
            if last > 0 {
                entering.push(at_taps.narrow(0, 0, last));
            }
            let entering = Tensor::cat(entering, 0);
            let width = layers.d_hidden();
            parts
                .extend((0..parts_per_layer).map(|p| entering.clone().narrow(2, p * width, width)));
        }
        let features = feature_tap
            .grad(&grads)
            .unwrap_or_else(|| feature_tap.clone().inner().zeros_like());
        Ok(StateGradients {
            features: features.reshape([sequences, layers.d_hidden()]),
            parts,
        })
    }
}

/// A state of one sequence, parts `[1, part]`, for `sequences` of them.
fn repeated<S: RecurrentState>(state: S, sequences: usize) -> S {
    state.map_parts(&mut |part| part.repeat_dim(0, sequences))
}

/// Runs the layers where sequences begin with `start`, parts `[1, hidden]`, and some begin at `steps` of the window, as
/// `reset` `[batch, time]` says.
fn unroll_from<L: RecurrentLayer>(
    layers: &Stack<L>,
    start: Vec<L::State>,
    input: Tensor<3>,
    state: Option<Vec<L::State>>,
    reset: Option<Tensor<2, Bool>>,
    steps: &[usize],
) -> Result<Unrolled<L>, ModelError> {
    let [time, sequences, _] = input.dims();
    let start = repeated(start, sequences);
    let mut state = state.unwrap_or_else(|| start.clone());
    let Some(reset) = reset else {
        return layers.unroll(input, Some(state), UnrollOptions::default());
    };
    if reset.dims() != [sequences, time] {
        return Err(ModelError::shape(
            "reset mask",
            reset.dims(),
            format!("[{sequences}, {time}]"),
            "mark, per sequence and step, where a new sequence begins",
        ));
    }
    // Refuses a state of other sizes, before it meets the start.
    layers.pack(state.clone(), &input)?;
    let mut ends: Vec<usize> = steps
        .iter()
        .copied()
        .filter(|&t| t > 0 && t < time)
        .collect();
    ends.push(time);
    let mut pieces = Vec::with_capacity(ends.len());
    let mut from = 0;
    for to in ends {
        if steps.contains(&from) {
            let begins = reset.clone().narrow(1, from, 1);
            let parts = state.parts().into_iter().zip(start.parts());
            let parts = parts.map(|(carried, start)| {
                let [_, width] = carried.dims();
                carried.mask_where(begins.clone().repeat_dim(1, width), start)
            });
            let parts = parts.collect();
            state = state.with_parts(parts);
        }
        let piece = input.clone().narrow(0, from, to - from);
        let piece = layers.unroll(piece, Some(state), UnrollOptions::default())?;
        state = piece.last_state();
        pieces.push(piece);
        from = to;
    }
    Ok(Unrolled::join(pieces))
}
