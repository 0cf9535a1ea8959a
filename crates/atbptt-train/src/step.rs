//! One update: how long it is, how hard its gradient is clipped, and how the gradients of several windows make one.
//!
//! By default neither depends on K. The paper's experiments scale both with it, [`StepScaling::SqrtK`] and [`Clip::PerK`]
//! (Aicher et al. 2019, section 5 and released scripts).

use atbptt_models::ops;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How the step size grows with the truncation length.
///
/// For schemes whose windows have K losses: their mean has K times as many terms as that of one loss, so that its noise is
/// smaller and a longer step is safe. Strided windows have as many losses whatever K is, and want [`StepScaling::None`].
/// Where a random policy draws K, its typical length counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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

/// Clipping of the gradient's global L2 norm, window by window, before the optimiser sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Clip {
    /// No clipping.
    #[default]
    None,
    /// To this norm.
    Norm(f64),
    /// To this norm divided by K; `PerK(1.0)` in the paper. Where a random policy draws K, its typical length counts: a clip
    /// by the drawn length would undo the policy's weights.
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
                self.sums.push(ops::sum_of_squares(grad));
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

/// Multiplies all gradients by `factor`.
pub(crate) fn scale<M: Module>(module: &M, grads: &mut GradientsParams, factor: f64) {
    struct Scale<'a> {
        grads: &'a mut GradientsParams,
        factor: f64,
    }
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                self.grads.register(param.id, ops::scale(grad, self.factor));
            }
        }
    }
    if factor != 1.0 {
        module.visit(&mut Scale { grads, factor });
    }
}

/// Scales all gradients so that a global norm of `norm` becomes at most `limit`; whether that was needed.
pub(crate) fn clip<M: Module>(
    module: &M,
    grads: &mut GradientsParams,
    norm: f64,
    limit: f64,
) -> bool {
    let binds = norm > limit;
    if binds {
        scale(module, grads, limit / norm);
    }
    binds
}

/// The gradients of the windows of one update, summed, each with its own factor on the step size.
///
/// The factors go where they belong: their mean scales the step size, and with it the optimiser's weight decay and the step
/// of an optimiser that does not look at the gradient's size; what a window's own differs from that scales its gradient.
pub(crate) struct Accumulation<M> {
    sum: GradientsAccumulator<M>,
    windows: usize,
    /// Factor of the first window that has one above zero, to which the others are relative.
    first: Option<f64>,
    /// Sum of the relative factors.
    factors: f64,
    /// Sum of the norms of what was added: no less than the norm of the sum.
    norm: f64,
}

/// A gradient ready for the optimiser.
pub(crate) struct Update {
    pub grads: GradientsParams,
    /// Factor on the scheduler's learning rate.
    pub factor: f64,
    /// A bound of the gradient's global norm.
    pub norm: f64,
}

impl<M: Module> Accumulation<M> {
    pub(crate) fn new() -> Self {
        Self {
            sum: GradientsAccumulator::new(),
            windows: 0,
            first: None,
            factors: 0.0,
            norm: 0.0,
        }
    }

    /// Windows added since the last update.
    pub(crate) fn windows(&self) -> usize {
        self.windows
    }

    /// Adds a window's gradient, of at most `norm`, whose step is to be `factor` times the scheduler's.
    pub(crate) fn add(&mut self, module: &M, mut grads: GradientsParams, norm: f64, factor: f64) {
        self.windows += 1;
        // A schedule may have come down to zero.
        if factor <= 0.0 {
            return;
        }
        let relative = factor / *self.first.get_or_insert(factor);
        scale(module, &mut grads, relative);
        self.sum.accumulate(module, grads);
        self.factors += relative;
        self.norm += norm * relative;
    }

    /// What was added, as one update; starts afresh.
    pub(crate) fn take(&mut self, module: &M) -> Update {
        let Self {
            mut sum,
            windows,
            first,
            factors,
            norm,
        } = std::mem::replace(self, Self::new());
        let mut grads = sum.grads();
        let Some(first) = first else {
            return Update {
                grads,
                factor: 0.0,
                norm: 0.0,
            };
        };
        let mean = factors / windows as f64;
        scale(module, &mut grads, 1.0 / mean);
        Update {
            grads,
            factor: first * mean,
            norm: norm / mean,
        }
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

    fn gradient(module: &burn::nn::Linear, input: [f32; 2]) -> GradientsParams {
        let x = Tensor::<2>::from_data([input], &Device::flex().autodiff());
        GradientsParams::from_grads(module.forward(x).sum().backward(), module)
    }

    /// Windows with factors 2 and 0.5 and gradients [1, 0] and [0, 1]: lr (2 [1, 0] + 0.5 [0, 1]), whatever the order; the
    /// step size itself takes the mean factor, 1.25, which is what weight decay sees.
    #[test]
    fn accumulated_windows_keep_their_own_factors() {
        let module = LinearConfig::new(2, 1).init(&Device::flex().autodiff());
        for flipped in [false, true] {
            let mut windows = vec![([1.0, 0.0], 2.0), ([0.0, 1.0], 0.5)];
            if flipped {
                windows.reverse();
            }
            let mut sum = Accumulation::new();
            for &(input, factor) in &windows {
                sum.add(&module, gradient(&module, input), 2f64.sqrt(), factor);
            }
            assert_eq!(sum.windows(), 2);
            let update = sum.take(&module);
            assert_eq!((update.factor, sum.windows()), (1.25, 0));
            let weight = update.grads.get::<2>(module.weight.id).unwrap();
            let step: Vec<f64> = weight.into_data().iter::<f64>().collect();
            for (got, expected) in step.iter().zip([2.0, 0.5]) {
                assert!((got * update.factor - expected).abs() < 1e-6, "{step:?}");
            }
            assert!((update.norm * update.factor - 2.5 * 2f64.sqrt()).abs() < 1e-9);
        }
    }

    /// Equal factors leave the gradient as it is, to the bit.
    #[test]
    fn windows_of_equal_factors_are_summed_as_they_are() {
        let module = LinearConfig::new(2, 1).init(&Device::flex().autodiff());
        let mut sum = Accumulation::new();
        for input in [[0.1, 0.7], [0.3, 0.9]] {
            sum.add(&module, gradient(&module, input), 1.0, 0.3);
        }
        let update = sum.take(&module);
        let weight = update.grads.get::<2>(module.weight.id).unwrap();
        let got: Vec<f32> = weight.into_data().iter::<f32>().collect();
        assert_eq!(got, [0.1f32 + 0.3, 0.7f32 + 0.9]);
        assert_eq!(update.factor, 0.3);
    }
}
