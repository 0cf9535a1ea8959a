//! One optimiser step around K: how long it is and how hard the gradient is clipped (METHOD §3).

use atbptt_models::ops;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How the step size grows with the truncation length.
///
/// A window of K losses gives a mean over K times as many terms as a window of one: its noise is smaller, so that a longer
/// step is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepScaling {
    /// The scheduler's learning rate as it is.
    #[default]
    None,
    /// Times √K: copy, PTB and book order in the paper.
    SqrtK,
    /// Times K: WikiText-2 in the paper.
    LinearK,
}

impl StepScaling {
    /// Factor on the learning rate at truncation length `k`.
    pub fn factor(self, k: usize) -> f64 {
        match self {
            Self::None => 1.0,
            Self::SqrtK => (k as f64).sqrt(),
            Self::LinearK => k as f64,
        }
    }
}

/// Clipping of the gradient's global L2 norm, before the optimiser sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Clip {
    /// No clipping.
    #[default]
    None,
    /// To this norm.
    Norm(f64),
    /// To this norm divided by K; `PerK(1.0)` in the paper.
    PerK(f64),
}

impl Clip {
    /// Largest norm at truncation length `k`.
    pub fn limit(self, k: usize) -> f64 {
        match self {
            Self::None => f64::INFINITY,
            Self::Norm(norm) => norm,
            Self::PerK(norm) => norm / k as f64,
        }
    }

    pub(crate) fn validate(self) -> Result<(), TrainError> {
        match self {
            Self::None => Ok(()),
            Self::Norm(norm) | Self::PerK(norm) if norm > 0.0 => Ok(()),
            Self::Norm(norm) | Self::PerK(norm) => Err(TrainError::Config {
                field: "clip",
                rule: "above zero",
                got: norm.to_string(),
                remedy: "use `Clip::None` to turn clipping off",
            }),
        }
    }
}

/// Reads the summed loss and the gradient's global norm back from the device, in one transfer.
pub(crate) fn read_loss_and_norm<M: Module>(
    module: &M,
    loss: Tensor<1>,
    grads: &GradientsParams,
) -> Result<(f64, f64), TrainError> {
    struct Squares<'a> {
        grads: &'a GradientsParams,
        sums: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.sums.push(ops::step::sum_of_squares(grad));
            }
        }
    }
    let device = loss.device();
    let mut squares = Squares {
        grads,
        sums: vec![loss],
    };
    module.visit(&mut squares);
    // Parameters may live in another type than the loss; the sums are small.
    let all = squares.sums.into_iter().map(|sum| sum.to_device(&device));
    let all = Tensor::cat(all.collect(), 0)
        .try_into_data()
        .map_err(|error| TrainError::Read {
            reason: format!("{error:?}"),
        })?;
    let mut all = all.iter::<f64>();
    let loss = all.next().unwrap_or(f64::NAN);
    Ok((loss, all.sum::<f64>().sqrt()))
}

/// Scales all gradients so that a global norm of `norm` becomes at most `limit`.
pub(crate) fn clip<M: Module>(module: &M, grads: &mut GradientsParams, norm: f64, limit: f64) {
    struct Scale<'a> {
        grads: &'a mut GradientsParams,
        factor: f64,
    }
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                self.grads
                    .register(param.id, ops::step::scale(grad, self.factor));
            }
        }
    }
    if norm > limit {
        let factor = limit / norm;
        module.visit(&mut Scale { grads, factor });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    #[test]
    fn scaling_and_clipping_follow_the_method() {
        assert_eq!(StepScaling::None.factor(100), 1.0);
        assert_eq!(StepScaling::SqrtK.factor(100), 10.0);
        assert_eq!(StepScaling::LinearK.factor(100), 100.0);
        assert_eq!(Clip::PerK(1.0).limit(4), 0.25);
        assert_eq!(Clip::Norm(3.0).limit(4), 3.0);
        assert!(Clip::PerK(f64::NAN).validate().is_err() && Clip::Norm(0.0).validate().is_err());
    }

    /// Gradient of sum(x W + b) for x = [3, 4]: ∂W = [3; 4], ∂b = 1, norm √26.
    #[test]
    fn clipping_keeps_the_direction_and_limits_the_norm() {
        let device = Device::flex().autodiff();
        let module = LinearConfig::new(2, 1).init(&device);
        let x = Tensor::<2>::from_data([[3.0, 4.0]], &device);
        let loss = module.forward(x).sum();
        let mut grads = GradientsParams::from_grads(loss.backward(), &module);
        let (read, norm) = read_loss_and_norm(&module, loss.clone().inner(), &grads).unwrap();
        assert!((norm - 26f64.sqrt()).abs() < 1e-6);
        assert_eq!(read as f32, loss.into_scalar::<f32>());
        clip(&module, &mut grads, norm, 1.0);
        let weight: Vec<f64> = grads
            .get::<2>(module.weight.id)
            .unwrap()
            .into_data()
            .iter::<f64>()
            .collect();
        for (got, expected) in weight.iter().zip([3.0 / norm, 4.0 / norm]) {
            assert!((got - expected).abs() < 1e-6);
        }
    }
}
