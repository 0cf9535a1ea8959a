//! How weight matrices start.

use burn::module::Param;
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use crate::ModelError;

/// Initial distribution of a recurrent model's weight matrices. Biases start at zero.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum WeightInit {
    /// Uniform in ±√(3 / larger dimension), as in the experiments of Aicher et al. (2019).
    #[default]
    LargerDimension,
    /// Uniform in ±1/√hidden, PyTorch's default for recurrent layers.
    InverseSqrtHidden,
    /// One of Burn's initialisers.
    Burn(Initializer),
}

impl WeightInit {
    /// Refuses distributions that do not exist: Burn would panic when the weights are first used.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let Self::Burn(initializer) = self else {
            return Ok(());
        };
        // Weights are mostly 32 bits wide, where bounds must still differ.
        let small = |value: f64| value.abs() <= 1e30;
        let fits = match *initializer {
            Initializer::Ones | Initializer::Zeros => true,
            Initializer::Constant { value } => small(value),
            Initializer::Uniform { min, max } => {
                small(min) && small(max) && (min as f32) < (max as f32)
            }
            Initializer::Normal { mean, std } => small(mean) && small(std) && std >= 0.0,
            Initializer::KaimingUniform { gain, .. }
            | Initializer::KaimingNormal { gain, .. }
            | Initializer::XavierUniform { gain }
            | Initializer::XavierNormal { gain }
            | Initializer::Orthogonal { gain } => (1e-9..=1e9).contains(&gain),
        };
        match fits {
            true => Ok(()),
            false => Err(ModelError::Config {
                field: "weights",
                rule: "a distribution of numbers of at most 1e30: min < max, std at least 0, gain in [1e-9, 1e9]",
                got: format!("{initializer:?}"),
                remedy: "leave the initial weights at their default if in doubt",
            }),
        }
    }

    /// A parameter of shape `[rows, columns]` of a layer with `hidden` units.
    pub(crate) fn init(
        &self,
        shape: [usize; 2],
        hidden: usize,
        device: &Device,
    ) -> Param<Tensor<2>> {
        let uniform = |bound: f64| Initializer::Uniform {
            min: -bound,
            max: bound,
        };
        let larger = shape[0].max(shape[1]) as f64;
        match self {
            Self::LargerDimension => uniform((3.0 / larger).sqrt()).init(shape, device),
            Self::InverseSqrtHidden => uniform(1.0 / (hidden as f64).sqrt()).init(shape, device),
            Self::Burn(initializer) => {
                initializer.init_with(shape, Some(shape[0]), Some(shape[1]), device)
            }
        }
    }
}
