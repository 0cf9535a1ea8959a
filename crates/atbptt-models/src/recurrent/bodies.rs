//! What a [`RecurrentModel`] does without bodies of its own: windows in pieces or by steps, and the gradient at every lag by
//! autodiff.

use burn::tensor::Tensor;

use super::{RecurrentModel, StepLoss, WindowLoss, WindowPlan, check_plan, frozen};
use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::check::check_layout;
use crate::probe::{StateGradients, autodiff_device};
use crate::state::RecurrentState;

/// The default window: pieces between the plan's marks, each run by [`RecurrentModel::forward`].
pub(crate) fn window_in_pieces<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
    state: Option<M::State>,
    plan: WindowPlan,
) -> Result<WindowLoss<M::State>, ModelError> {
    let steps = batch.steps();
    check_plan(plan, steps)?;
    let mut marks = vec![plan.warm_up, plan.loss_from, plan.carry, steps];
    marks.sort_unstable();
    marks.dedup();

    let mut carried = (plan.carry == 0).then(|| state.clone().map(M::State::detach));
    let mut state = state;
    let mut loss: Option<StepLoss> = None;
    let mut from = 0;
    for to in marks.into_iter().filter(|&mark| mark > 0) {
        let piece = batch.slice(from..to);
        let (features, after) = match to <= plan.warm_up {
            true => frozen(model).forward(&piece, state)?,
            false => model.forward(&piece, state)?,
        };
        check_layout(&features, &piece)?;
        if from >= plan.loss_from {
            let part = model.loss(features, &piece)?;
            loss = Some(match loss {
                Some(sum) => sum.plus(part),
                None => part,
            });
        }
        let after = match to <= plan.warm_up {
            true => after.detach(),
            false => after,
        };
        if to == plan.carry {
            carried = Some(Some(after.clone().detach()));
        }
        state = Some(after);
        from = to;
    }
    match (loss, carried) {
        (Some(loss), Some(state)) => Ok(WindowLoss { loss, state }),
        _ => Err(ModelError::Empty {
            what: "window",
            missing: "steps that carry a loss",
        }),
    }
}

/// The default window with compensation: steps, and between them a factor on the gradient alone.
pub(super) fn compensated_window_stepwise<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
    mut state: Option<M::State>,
    factors: &[f64],
) -> Result<WindowLoss<M::State>, ModelError> {
    let mut loss: Option<StepLoss> = None;
    for step in 0..batch.steps() {
        let piece = batch.slice(step..step + 1);
        let (features, after) = model.forward(&piece, state)?;
        check_layout(&features, &piece)?;
        let part = model.loss(features, &piece)?;
        loss = Some(match loss {
            Some(sum) => sum.plus(part),
            None => part,
        });
        state = Some(match factors.get(step) {
            Some(&factor) if step + 1 < batch.steps() => {
                after.map_parts(&mut |part| scale_gradient(part, factor))
            }
            _ => after,
        });
    }
    match (loss, state) {
        (Some(loss), Some(state)) => Ok(WindowLoss {
            loss,
            state: Some(state.detach()),
        }),
        _ => Err(ModelError::Empty {
            what: "window",
            missing: "time steps",
        }),
    }
}

/// The same values, to the bit; their gradient times `factor`.
fn scale_gradient(values: Tensor<2>, factor: f64) -> Tensor<2> {
    let fixed = values.clone().detach();
    fixed.clone() + (values - fixed) * factor
}

/// Gradients by stepping: any model, through autodiff.
pub(crate) fn state_gradients_stepwise<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
    state: Option<M::State>,
) -> Result<StateGradients, ModelError> {
    let steps = batch.steps();
    if steps == 0 {
        return Err(ModelError::Empty {
            what: "probe window",
            missing: "time steps",
        });
    }
    let device = autodiff_device(model, "the lag profile")?;
    let model = frozen(model);

    // The state before the window: without one, run nothing and let the model start from its own; its gradient is then
    // not defined, so a zero state is made from the one after the first step.
    let start = match state {
        Some(state) => state,
        None => {
            let (_, after) = model.forward(&batch.slice(0..1), None)?;
            after.map_parts(&mut |part| part.detach().zeros_like())
        }
    };
    let mut taps: Vec<Vec<Tensor<2>>> = Vec::with_capacity(steps);
    let mut tap = |state: M::State| {
        let mut step = Vec::new();
        let tapped = state.map_parts(&mut |part| {
            let zeros = Tensor::zeros(part.shape(), (&device, part.dtype())).require_grad();
            step.push(zeros.clone());
            part + zeros
        });
        taps.push(step);
        tapped
    };
    let mut state = tap(start.to_device(&device).detach());
    for t in 0..steps - 1 {
        let (_, after) = model.forward(&batch.slice(t..t + 1), Some(state))?;
        state = tap(after);
    }
    let last = batch.slice(steps - 1..steps);
    let (features, _) = model.forward(&last, Some(state))?;
    check_layout(&features, &last)?;
    let feature_tap = Tensor::zeros(features.shape(), (&device, features.dtype())).require_grad();
    let loss = model.loss(features + feature_tap.clone(), &last)?;
    loss.check_tracked("the lag profile")?;
    let grads = loss.sum.backward();

    let grad_or_zeros = |tap: &Tensor<2>| {
        tap.grad(&grads)
            .unwrap_or_else(|| tap.clone().inner().zeros_like())
    };
    let parts = taps.first().map_or(0, Vec::len);
    let parts = (0..parts)
        .map(|part| {
            let steps = taps
                .iter()
                .filter_map(|step| step.get(part))
                .map(grad_or_zeros);
            Tensor::stack::<3>(steps.collect(), 0)
        })
        .collect();
    let [a, b, width] = feature_tap.dims();
    let features = feature_tap
        .grad(&grads)
        .unwrap_or_else(|| feature_tap.clone().inner().zeros_like());
    Ok(StateGradients {
        features: features.reshape([a * b, width]),
        parts,
    })
}
