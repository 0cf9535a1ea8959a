//! Stochastic gradient descent in one pass over the weights.
//!
//! Place in the flow: an optimiser as Burn's are, for the learner. With a large vocabulary, weights and gradient are tens
//! of megabytes each, and every pass over them costs a measurable part of an update.

use atbptt_models::ops;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer, SgdState};
use burn::tensor::{Device, Tensor};

use crate::TrainError;

/// w ← w − rate (g + decay w), in one pass where the backend has a kernel for it (CPU), and into the gradient's memory.
///
/// The same numbers and the same checkpoint as Burn's `Sgd` without momentum.
///
/// ```
/// use atbptt_train::FusedSgd;
///
/// let optimizer = FusedSgd::new().with_weight_decay(1e-7)?.init();
/// # Ok::<(), atbptt_train::TrainError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FusedSgd {
    decay: f64,
}

impl FusedSgd {
    /// Without weight decay.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `decay` times the weights to the gradient. 1e-7 for language and 1e-5 for copy in the paper.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] when it is negative or not finite.
    pub fn with_weight_decay(mut self, decay: f64) -> Result<Self, TrainError> {
        if !(decay.is_finite() && decay >= 0.0) {
            return Err(TrainError::Config {
                field: "weight decay",
                rule: "zero or more",
                got: decay.to_string(),
                remedy: "0 turns it off",
            });
        }
        self.decay = decay;
        Ok(self)
    }

    /// The optimiser of a whole module.
    pub fn init(self) -> ModuleOptimizer {
        ModuleOptimizer::from(self)
    }
}

impl Optimizer for FusedSgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        _: Option<SgdState<D>>,
    ) -> (Tensor<D>, Option<SgdState<D>>) {
        // A gradient has its weight's shape; if ever not, the weight stays.
        let moved = ops::sgd_step(tensor.clone(), grad, lr, self.decay).unwrap_or(tensor);
        (moved, Some(SgdState::new(None)))
    }

    fn to_device<const D: usize>(state: SgdState<D>, _: &Device) -> SgdState<D> {
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::decay::WeightDecayConfig;
    use burn::optim::{GradientsParams, SgdConfig};
    use burn::tensor::Distribution;

    /// Steps of both optimisers from the same weights are the same bits, over several tasks' worth of elements.
    #[test]
    fn the_numbers_are_those_of_burns_sgd() {
        let device = Device::flex().autodiff();
        let (inputs, outputs) = (700, 301);
        let start = LinearConfig::new(inputs, outputs).init(&device);
        let input = Tensor::<2>::random([3, inputs], Distribution::Normal(0.0, 1.0), &device);
        let decay = 1e-3;
        let steps = |mut optimizer: ModuleOptimizer| {
            let mut module: Linear = start.clone();
            for _ in 0..3 {
                let loss = module.forward(input.clone()).powf_scalar(2.0).sum();
                let grads = GradientsParams::from_grads(loss.backward(), &module);
                module = optimizer.step(0.01, module, grads);
            }
            let record = optimizer.to_record();
            let weights = module.weight.val().into_data().try_to_vec::<f32>().unwrap();
            (weights, record.is_empty(), module.num_params())
        };
        let burns = SgdConfig::new().with_weight_decay(Some(WeightDecayConfig::new(decay as f32)));
        let (expected, ours) = (
            steps(burns.init()),
            steps(FusedSgd::new().with_weight_decay(decay).unwrap().init()),
        );
        assert_eq!(ours, expected);
    }

    #[test]
    fn a_weight_decay_that_is_no_number_is_refused() {
        for decay in [-1.0, f64::NAN, f64::INFINITY] {
            let error = FusedSgd::new().with_weight_decay(decay).unwrap_err();
            assert!(error.to_string().contains("weight decay"), "{error}");
        }
    }
}
