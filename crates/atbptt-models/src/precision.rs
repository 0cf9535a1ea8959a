//! Mixed precision: which type a training window computes in, beside f32 weights.
//!
//! Place in the flow: a model that offers it casts weights and features on the way into a window ([`recast`](crate::ops::recast)),
//! so that products and what the window keeps take half the memory; weights, gradients of weights, losses and the optimiser stay
//! in f32, and so do probes: state gradients of distant lags are smaller than a half type can hold.

use burn::tensor::{DType, Device, FloatDType};

use crate::ModelError;

/// Type of a training window's arithmetic and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 32 bits everywhere.
    #[default]
    F32,
    /// 16 bits, 11 of them precision; small gradients vanish, so the loss is scaled up on the way back.
    F16,
    /// 16 bits with the range of f32 and 8 bits of precision; needs no scaling.
    Bf16,
}

impl Precision {
    /// Name, as an option of a program spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The type of a window; `None`: that of the weights.
    pub(crate) fn dtype(self) -> Option<FloatDType> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(FloatDType::F16),
            Self::Bf16 => Some(FloatDType::BF16),
        }
    }

    /// Factor on the loss on the way back, taken out again at the weights: a power of two, so that nothing is rounded.
    ///
    /// A mean over thousands of losses has gradients near 1e-5 per feature; f16 is exact down to 6e-5 and ends at 6e-8.
    pub(crate) fn loss_scale(self) -> f64 {
        match self {
            Self::F16 => 1024.0,
            _ => 1.0,
        }
    }

    /// Refuses a precision that the device does not compute in.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] with the device.
    pub fn check(self, device: &Device) -> Result<(), ModelError> {
        let Some(dtype) = self.dtype() else {
            return Ok(());
        };
        let dtype = DType::from(dtype);
        if device.supports_dtype(dtype) {
            return Ok(());
        }
        Err(ModelError::Config {
            field: "precision",
            rule: "a type that the device computes in",
            got: format!("{} on {:?}", self.name(), device.clone().inner()),
            remedy: "use f32, or a device and backend with 16-bit arithmetic",
        })
    }
}
