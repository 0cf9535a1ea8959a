//! The gradient of one loss at every earlier state: the raw material of the lag profile.
//!
//! Symbols (METHOD §1, §3): the window has W steps; L is the loss of its last step alone, s; lag k is the state that
//! enters step s − k + 1, so lag 1 enters the last step and lag W is the state the window started from. Lag 0 is the
//! feature vector that the loss of step s reads.

use atbptt_core::{LagGradients, LagNorms};
use burn::tensor::{Device, Tensor};

use crate::ModelError;

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
            norms = norms.part(part, None)?;
        }
        Ok(norms.read()?)
    }
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
