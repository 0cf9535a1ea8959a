//! The gradient of one loss at every earlier state: the raw material of the lag profile.
//!
//! Symbols (METHOD §1, §3): the window has W steps; L is the loss of its last step alone, s; lag k is the state that
//! enters step s − k + 1, so lag 1 enters the last step and lag W is the state the window started from. Lag 0 is the
//! feature vector that the loss of step s reads.

use atbptt_core::{LagGradients, LagNorms, RowOrder};
use burn::tensor::{Device, Tensor};

use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::recurrent::{RecurrentModel, frozen};
use crate::state::RecurrentState;

/// ∂L/∂(state) of the last step's summed loss, per lag and sequence.
///
/// The sum over sequences does not mix them: a sequence's states touch only its own loss.
#[derive(Clone, Debug)]
pub struct StateGradients {
    /// Lag 0: at the features of the last step, `[batch, features]`.
    pub features: Tensor<2>,
    /// At the states entering steps 0..W, in time order (lags W..=1), per part of the state (hidden and cell of every
    /// layer), each `[W, batch, part]`.
    pub parts: Vec<Tensor<3>>,
}

impl StateGradients {
    /// Norms per lag and sequence, reduced on the device and read back at once.
    ///
    /// # Errors
    ///
    /// [`ModelError::Estimate`] when a gradient is not finite or the read-back fails.
    pub fn lag_norms(self) -> Result<LagNorms, ModelError> {
        let mut norms = LagGradients::new(self.features, None)?;
        for part in self.parts {
            norms = norms.part(part, None, RowOrder::Time)?;
        }
        Ok(norms.read()?)
    }
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

/// The device of a model, which must track gradients.
pub(crate) fn autodiff_device<M: burn::module::Module>(
    model: &M,
    what: &'static str,
) -> Result<Device, ModelError> {
    match model.devices().into_iter().next() {
        Some(device) if device.is_autodiff() => Ok(device),
        _ => Err(ModelError::NoAutodiff { what }),
    }
}
