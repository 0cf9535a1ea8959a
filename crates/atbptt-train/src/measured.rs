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
use atbptt_models::{
    CountedWeights, DirectPlan, PieceGradients, RecurrentModel, SequenceBatch, direct_statistics,
};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::probe::{ProbeConfig, direct_probe};
use crate::source::SequenceSource;

/// Means of windows that are held at once: their products are taken between one another.
const MAX_GROUPS: usize = 16;

/// The measured bias at one K.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MeasuredBias {
    /// K, in steps.
    pub k: usize,
    /// Of the recurrent weights ([`RecurrentModel::counted_parameters`]), which truncation is about.
    pub recurrent: BiasReading,
    /// Of all parameters, the decoder's too, whose gradient no truncation touches.
    pub all: BiasReading,
}

/// A relative bias with its error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BiasReading {
    /// √(Â/Ĉ), 0 where Â ≤ 0; NaN where Ĉ ≤ 0: a gradient that does not stand out of the noise.
    pub bias: f64,
    /// Standard error; infinite below three seeds.
    pub standard_error: f64,
}

/// Measures the relative bias of the parameter gradient of windows by `scheme`, for every K of `ks`.
///
/// The windows are one per sequence and seed; the more, the smaller the error. The losses of a window are those of `config`, or
/// else as many as a strided window has, and 1 for the other schemes: `Scheme::Strided { losses: 1 }` is the bias at exactly K
/// kept lags. Truncated and whole gradient are parts of one backward pass, so that dropout drops the same units in both. K above
/// W counts as W.
///
/// # Errors
///
/// [`TrainError::ProbeTooLong`] when the source is too short, [`TrainError::Config`] for K = 0 or fewer than two seeds,
/// [`TrainError::Estimate`] for a window too short for its losses, [`TrainError::Model`] when the model fails.
///
/// ```
/// # use atbptt_models::{LanguageModelConfig, LstmLayer};
/// # use atbptt_train::data::{Corpus, Split, SyntheticConfig, TokenStream};
/// use atbptt_core::Scheme;
/// use atbptt_train::{ProbeConfig, TokenSource, measured_bias};
/// # use burn::tensor::Device;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
/// # let source = TokenSource::new(TokenStream::for_training(corpus.tokens(Split::Train), 8)?);
/// # let device = Device::default().autodiff();
/// # let words = corpus.vocabulary().len();
/// # let model = LanguageModelConfig::new(words).with_hidden(8).with_dropout(0.0).init::<LstmLayer>(&device)?;
/// let (scheme, seeds) = (Scheme::Strided { losses: 4 }, [1, 2, 3, 4, 5, 6]);
/// let bias = measured_bias(&model, &source, ProbeConfig::new(20), scheme, &[1, 5, 20], &seeds, &device)?;
/// println!("K = 5: {:.3} ± {:.3}", bias[1].recurrent.bias, bias[1].recurrent.standard_error);
/// assert!(bias[0].recurrent.bias > bias[0].all.bias); // the decoder's gradient is whole
/// assert_eq!(bias[2].recurrent.bias, 0.0); // nothing is cut off
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
) -> Result<Vec<MeasuredBias>, TrainError> {
    let truth = Truth::new(source, config, scheme, ks, seeds)?;
    let of_all = truth.means(model, source, CountedWeights::All, seeds, device)?;
    let recurrent = match model.counted_parameters() {
        Some(ids) => of_all.iter().map(|mean| mean.clone().only(&ids)).collect(),
        // All that `forward` uses: a run tells which those are.
        None => truth.means(model, source, CountedWeights::Recurrent, seeds, device)?,
    };
    let (recurrent, all) = (truth.estimate(&recurrent)?, truth.estimate(&of_all)?);
    let reading = |estimate: &DirectEstimate, k: usize| {
        let measured = estimate.as_measured(k.min(truth.config.window));
        let (bias, standard_error) = measured.unwrap_or((f64::NAN, f64::INFINITY));
        BiasReading {
            bias,
            standard_error,
        }
    };
    let readings = ks.iter().map(|&k| MeasuredBias {
        k,
        recurrent: reading(&recurrent, k),
        all: reading(&all, k),
    });
    Ok(readings.collect())
}

/// What [`measured_bias`] says of the recurrent weights, as a curve: exact at every K of `ks` and joined in between, for K(δ), noise
/// and errors at any K. Takes no gradient of embeddings and decoders, and so much less time and memory.
///
/// # Errors
///
/// As [`measured_bias`].
pub fn measured_curve<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: ProbeConfig,
    scheme: Scheme,
    ks: &[usize],
    seeds: &[u64],
    device: &Device,
) -> Result<DirectEstimate, TrainError> {
    let truth = Truth::new(source, config, scheme, ks, seeds)?;
    truth.estimate(&truth.means(model, source, CountedWeights::Recurrent, seeds, device)?)
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

    /// Means of about equally many windows each.
    fn means<M: RecurrentModel>(
        &self,
        model: &M,
        source: &dyn SequenceSource<Batch = M::Batch>,
        weights: CountedWeights,
        seeds: &[u64],
        device: &Device,
    ) -> Result<Vec<PieceGradients>, TrainError> {
        let plan = self.plan.clone().with_weights(weights);
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
