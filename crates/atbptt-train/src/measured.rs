//! The truth that estimates are held against: the relative bias of the truncated *parameter* gradient, over as many windows as one
//! can afford.
//!
//! Symbols: as in `probe`, windows of W + m − 1 steps with the mean loss of their last m; d(c) the part of the gradient that
//! truncation after c steps of context drops, g the whole, E over windows; δ(K) = ‖E d‖/‖E g‖ for the cuts that windows by a
//! scheme have at K. Norms of means of noisy gradients are too large; the squares here are means of products between
//! independent windows ([`atbptt_core::direct`]). One backward pass per window gives all cuts, but keeps a copy of all
//! parameters for each, so this is a check for small models, not a part of training.

use atbptt_core::direct::contexts_for;
use atbptt_core::{DirectEstimate, Scheme};
use atbptt_models::{DirectPlan, PieceGradients, RecurrentModel, SequenceBatch, direct_statistics};
use burn::tensor::Device;

use crate::TrainError;
use crate::probe::{ProbeConfig, direct_probe};
use crate::source::SequenceSource;

/// Means of windows that are held at once: their products are taken between one another.
const MAX_GROUPS: usize = 16;

/// Measures the relative bias of the gradient of the recurrent weights ([`RecurrentModel::counted_parameters`]), which truncation is
/// about, in windows by `scheme`: a curve, exact at every K of `ks` ([`DirectEstimate::as_measured`]) and joined in between.
///
/// The windows are one per sequence and seed; the more, the smaller the error. The losses of a window are those of `config`, or
/// else as many as a strided window has, and 1 for the other schemes: `Scheme::Strided { losses: 1 }` is the bias at exactly K
/// kept lags. Truncated and whole gradient are parts of one backward pass, so that dropout drops the same units in both. K above
/// W counts as W. No gradient of embeddings and decoders is taken, which saves much time and memory.
///
/// # Errors
///
/// [`TrainError::ProbeTooLong`] when the source is too short, [`TrainError::Config`] for K = 0 or fewer than two seeds,
/// [`TrainError::Estimate`] for a window too short for its losses, [`TrainError::Model`] when the model fails.
///
/// ```
/// # use atbptt_models::{LanguageModelConfig, LstmLayer};
/// # use atbptt_train::data::{Corpus, SyntheticConfig};
/// use atbptt_core::Scheme;
/// use atbptt_train::{ProbeConfig, TokenSource, measured_bias};
/// # use burn::tensor::Device;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
/// # let source = corpus.training(8)?;
/// # let device = Device::default().autodiff();
/// # let words = corpus.vocabulary().len();
/// # let model = LanguageModelConfig::new(words).with_hidden(8).with_dropout(0.0).init::<LstmLayer>(&device)?;
/// let (scheme, seeds) = (Scheme::Strided { losses: 4 }, [1, 2, 3, 4, 5, 6]);
/// let bias = measured_bias(&model, &source, ProbeConfig::new(20), scheme, &[1, 5, 20], &seeds, &device)?;
/// if let Some((bias, error)) = bias.as_measured(5) {
///     println!("K = 5: {bias:.3} ± {error:.3}");
/// }
/// assert_eq!(bias.as_measured(20).map(|(bias, _)| bias), Some(0.0)); // nothing is cut off
/// # Ok(()) }
/// ```
pub fn measured_bias<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: ProbeConfig,
    scheme: Scheme,
    ks: &[usize],
    seeds: &[u64],
    device: &Device,
) -> Result<DirectEstimate, TrainError> {
    let truth = Truth::new(source, config, scheme, ks, seeds)?;
    truth.estimate(&truth.means(model, source, false, seeds, device)?)
}

/// As [`measured_bias`], of all weights that are trained, the decoder's too, whose gradient no truncation touches: the bias is smaller
/// relative to that. Keeps a copy of all parameters for every cut.
///
/// # Errors
///
/// As [`measured_bias`].
pub fn measured_bias_of_all_weights<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: ProbeConfig,
    scheme: Scheme,
    ks: &[usize],
    seeds: &[u64],
    device: &Device,
) -> Result<DirectEstimate, TrainError> {
    let truth = Truth::new(source, config, scheme, ks, seeds)?;
    truth.estimate(&truth.means(model, source, true, seeds, device)?)
}

/// What is measured of each window.
struct Truth {
    config: ProbeConfig,
    plan: DirectPlan,
    scheme: Scheme,
}

impl Truth {
    fn new<B: SequenceBatch>(
        source: &dyn SequenceSource<Batch = B>,
        config: ProbeConfig,
        scheme: Scheme,
        ks: &[usize],
        seeds: &[u64],
    ) -> Result<Self, TrainError> {
        let refused = |field, rule, got: usize| TrainError::Config {
            field,
            rule,
            got: got.to_string(),
            remedy: "give truncation lengths in steps, and a seed per probe window",
        };
        if seeds.len() < 2 {
            return Err(refused("number of seeds", "at least 2", seeds.len()));
        }
        if ks.contains(&0) {
            return Err(refused("truncation length", "at least 1", 0));
        }
        let losses = config.losses.unwrap_or(match scheme {
            Scheme::Strided { losses } => losses,
            Scheme::Overlapping | Scheme::Chunked => 1,
        });
        let config = config.with_losses(losses);
        config.check_direct(scheme, source.common_steps())?;
        let within: Vec<usize> = ks.iter().map(|k| (*k).min(config.window)).collect();
        let contexts = contexts_for(scheme, &within, losses, config.window);
        let plan = DirectPlan::new(losses, contexts).with_max_rows(usize::MAX);
        Ok(Self {
            config,
            plan,
            scheme,
        })
    }

    /// Means of about equally many windows each, of all weights or of those that the model counts.
    fn means<M: RecurrentModel>(
        &self,
        model: &M,
        source: &dyn SequenceSource<Batch = M::Batch>,
        all_weights: bool,
        seeds: &[u64],
        device: &Device,
    ) -> Result<Vec<PieceGradients>, TrainError> {
        let plan = self.plan.clone().with_all_weights(all_weights);
        let groups = seeds.len().min(MAX_GROUPS);
        let mean = |group: usize| -> Result<PieceGradients, TrainError> {
            let of_group = seeds.iter().skip(group).step_by(groups);
            let probes = of_group
                .map(|&seed| direct_probe(model, source, &self.config, &plan, seed, device));
            Ok(PieceGradients::mean(probes.collect::<Result<_, _>>()?)?)
        };
        (0..groups).map(mean).collect()
    }

    fn estimate(&self, means: &[PieceGradients]) -> Result<DirectEstimate, TrainError> {
        Ok(direct_statistics(means)?.estimate(self.scheme)?)
    }
}
