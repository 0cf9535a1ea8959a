//! How weight matrices start.

use burn::module::Param;
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

/// Initial distribution of a recurrent model's weight matrices. Biases start at zero.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
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
