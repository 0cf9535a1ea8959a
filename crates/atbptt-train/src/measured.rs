//! The truth that the bias estimate bounds: the relative bias of the truncated *parameter* gradient, by full
//! backpropagation.
//!
//! Symbols: as in `probe`, windows of W steps with the loss of their last step alone; g = E ∂L/∂θ by backpropagation through
//! all W steps, ĝ_K by backpropagation through the last K, E over windows; δ_true(K) = ‖E ĝ_K − g‖/‖g‖. Costs a backward pass
//! per K, so this is a check for small models, not a part of training.

use atbptt_models::{RecurrentModel, RecurrentState, SequenceBatch, WindowPlan};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

use crate::TrainError;
use crate::probe::{ProbeConfig, starts};
use crate::source::SequenceSource;

/// Measures δ_true(K), the relative bias of the parameter gradient, for every K of `ks`.
///
/// The windows are those that [`probe`](crate::probe()) draws for the same seeds, one per sequence and seed: a mean over
/// more of them is closer to the expectation. All parameters count, the decoder's too, whose gradient no truncation
/// touches. K above W counts as W. NaN where the full gradient vanishes.
///
/// # Errors
///
/// [`TrainError::ProbeTooLong`] when the source is too short, [`TrainError::Config`] without a seed or for K = 0,
/// [`TrainError::Model`] when the model fails.
///
/// ```
/// # use atbptt_models::{LanguageModelConfig, LstmLayer};
/// # use atbptt_train::data::{Corpus, Split, SyntheticConfig, TokenStream};
/// use atbptt_train::{ProbeConfig, TokenSource, measured_bias};
/// # use burn::tensor::Device;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
/// # let source = TokenSource::new(TokenStream::for_training(corpus.tokens(Split::Train), 8)?);
/// # let device = Device::default().autodiff();
/// # let words = corpus.vocabulary().len();
/// # let model = LanguageModelConfig::new(words).with_hidden(8).with_dropout(0.0).init::<LstmLayer>(&device)?;
/// let bias = measured_bias(&model, &source, ProbeConfig::new(20), &[1, 5, 20], &[1, 2], &device)?;
/// assert!(bias[0] > bias[1]);
/// assert_eq!(bias[2], 0.0); // nothing is cut off
/// # Ok(()) }
/// ```
pub fn measured_bias<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: ProbeConfig,
    ks: &[usize],
    seeds: &[u64],
    device: &Device,
) -> Result<Vec<f64>, TrainError> {
    let refused = |field, got: usize| TrainError::Config {
        field,
        rule: "at least 1",
        got: got.to_string(),
        remedy: "give truncation lengths in steps, and a seed per probe window",
    };
    if seeds.is_empty() {
        return Err(refused("number of seeds", 0));
    }
    if ks.contains(&0) {
        return Err(refused("truncation length", 0));
    }
    config.check(source.common_steps())?;
    let mut full: Vec<f64> = Vec::new();
    let mut truncated: Vec<Vec<f64>> = vec![Vec::new(); ks.len()];
    for &seed in seeds {
        let starts = starts(source, config, seed);
        let batch = source.gather(&starts, config.steps(), device)?;
        let state = match config.burn_in {
            0 => None,
            burn_in => {
                let warm = model.clone().no_grad();
                let (_, state) = warm.forward(&batch.slice(0..burn_in), None)?;
                Some(state.detach())
            }
        };
        let window = batch.slice(config.burn_in..config.steps());
        let gradient = |kept: usize, sum: &mut Vec<f64>| -> Result<(), TrainError> {
            // Dropout must drop the same units for every K.
            device.seed(seed);
            let plan = WindowPlan {
                warm_up: config.window - kept.min(config.window),
                loss_from: config.window - 1,
                carry: config.window,
            };
            let loss = model.window(&window, state.clone(), plan)?.loss;
            loss.check_tracked("a measured bias")?;
            let grads = GradientsParams::from_grads(loss.sum.backward(), model);
            add_gradients(model, &grads, sum)
        };
        gradient(config.window, &mut full)?;
        for (&k, sum) in ks.iter().zip(&mut truncated) {
            gradient(k, sum)?;
        }
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let size = norm(&mut full.iter().copied());
    let bias = |cut: &Vec<f64>| norm(&mut cut.iter().zip(&full).map(|(a, b)| a - b)) / size;
    Ok(truncated.iter().map(bias).collect())
}

/// Adds all parameters' gradients to `sum`, in visiting order; a parameter without one counts as zeros.
fn add_gradients<M: Module>(
    model: &M,
    grads: &GradientsParams,
    sum: &mut Vec<f64>,
) -> Result<(), TrainError> {
    struct Add<'a> {
        grads: &'a GradientsParams,
        sum: &'a mut Vec<f64>,
        at: usize,
        failed: Option<String>,
    }
    impl ModuleVisitor for Add<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let count = param.val().dims().iter().product::<usize>();
            let end = self.at + count;
            if self.sum.len() < end {
                self.sum.resize(end, 0.0);
            }
            if let Some(grad) = self.grads.get::<D>(param.id) {
                match grad.try_into_data() {
                    Ok(data) => {
                        let into = self.sum.iter_mut().skip(self.at);
                        into.zip(data.iter::<f64>()).for_each(|(s, g)| *s += g);
                    }
                    Err(error) => self.failed = Some(format!("{error:?}")),
                }
            }
            self.at = end;
        }
    }
    let mut add = Add {
        grads,
        sum,
        at: 0,
        failed: None,
    };
    model.visit(&mut add);
    match add.failed {
        Some(reason) => Err(TrainError::Read { reason }),
        None => Ok(()),
    }
}
