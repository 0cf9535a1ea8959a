//! Random probe windows: their piece gradients for the direct estimate (METHOD §8), their lag norms (METHOD §3).
//!
//! Symbols: `W` window, in steps; `m` losses of a direct probe, so that its window has W + m − 1 steps; `burn_in` steps before it
//! that warm the state up from zero, without gradient.

use atbptt_core::direct::{check_cuts, default_contexts};
use atbptt_core::seed::mix;
use atbptt_core::{DirectStatistics, LagNorms, Scheme};
use atbptt_models::ops::seed_device;
use atbptt_models::{
    DirectPlan, PieceGradients, RecurrentModel, RecurrentState, SequenceBatch, direct_statistics,
    frozen, piece_gradients,
};
use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::distinct::DistinctWindows;
use crate::source::SequenceSource;

/// Length of a probe, and how a direct one cuts its window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeConfig {
    /// W, in steps: the largest lag that is measured. Several times the K you expect. 400 for language in the paper.
    pub window: usize,
    /// Steps that warm the state up before it, from zero. W/10 in the paper.
    pub burn_in: usize,
    /// m, the losses of a direct probe per sequence, in steps. `None`: as the scheme has it ([`losses_for`](Self::losses_for)).
    #[serde(default)]
    pub losses: Option<usize>,
    /// The cuts of a direct probe, ascending from 0, below W, in steps before the first loss. `None`: about a dozen
    /// ([`default_contexts`]).
    #[serde(default)]
    pub contexts: Option<Vec<usize>>,
    /// Whether the probes of a run's first epoch read only what it has trained on so far, as where a stream is learnt while it
    /// comes in. They wait until that is long enough.
    #[serde(default)]
    pub past_only: bool,
}

/// Losses of a direct probe where the scheme does not fix their number.
const DEFAULT_LOSSES: usize = 8;

impl ProbeConfig {
    /// A window of `window` steps with the paper's burn-in of a tenth of it.
    pub fn new(window: usize) -> Self {
        Self {
            window,
            burn_in: window / 10,
            losses: None,
            contexts: None,
            past_only: false,
        }
    }

    /// Steps that warm the state up before the window.
    pub fn with_burn_in(mut self, burn_in: usize) -> Self {
        self.burn_in = burn_in;
        self
    }

    /// Losses of a direct probe, in steps.
    pub fn with_losses(mut self, losses: usize) -> Self {
        self.losses = Some(losses);
        self
    }

    /// Cuts of a direct probe, in steps before its first loss.
    pub fn with_contexts(mut self, contexts: Vec<usize>) -> Self {
        self.contexts = Some(contexts);
        self
    }

    /// Probes of a run's first epoch read only what it has trained on so far.
    pub fn with_past_only(mut self) -> Self {
        self.past_only = true;
        self
    }

    /// Steps a probe of lag norms reads.
    pub fn steps(&self) -> usize {
        self.window.saturating_add(self.burn_in)
    }

    /// Steps a direct probe reads, W + m − 1 and the burn-in.
    pub fn direct_steps(&self, scheme: Scheme) -> usize {
        let losses = self.losses_for(scheme);
        self.steps().saturating_add(losses.saturating_sub(1))
    }

    /// Losses of a direct probe for windows by `scheme`: as many as asked for; else as many as a strided window has, which
    /// makes the estimate that of its gradient exactly; else 8, or as many as W has room for.
    pub fn losses_for(&self, scheme: Scheme) -> usize {
        match (self.losses, scheme) {
            (Some(losses), _) | (None, Scheme::Strided { losses }) => losses,
            (None, _) => DEFAULT_LOSSES.min(self.window.saturating_sub(2)).max(1),
        }
    }

    /// What a direct probe measures for windows by `scheme`.
    pub fn direct_plan(&self, scheme: Scheme) -> DirectPlan {
        let contexts = self.contexts.clone();
        DirectPlan::new(
            self.losses_for(scheme),
            contexts.unwrap_or_else(|| default_contexts(self.window)),
        )
    }

    /// Refuses a direct probe that cannot be: losses or cuts that do not fit the window, or more steps than the stream has.
    ///
    /// # Errors
    ///
    /// [`TrainError::Estimate`], [`TrainError::ProbeTooLong`].
    pub fn check_direct(&self, scheme: Scheme, stream_steps: usize) -> Result<(), TrainError> {
        let losses = self.losses_for(scheme);
        let needed = self.direct_steps(scheme);
        if needed > stream_steps {
            return Err(TrainError::ProbeTooLong {
                needed,
                window: self.window.saturating_add(losses.saturating_sub(1)),
                burn_in: self.burn_in,
                steps: stream_steps,
            });
        }
        let contexts = self.contexts.as_deref().unwrap_or(&[0]);
        Ok(check_cuts(self.window, losses, contexts)?)
    }

    /// Refuses a window too short to fit a decay, or longer than the stream.
    pub(crate) fn check(&self, stream_steps: usize) -> Result<(), TrainError> {
        if self.window < 2 {
            return Err(TrainError::Config {
                field: "window",
                rule: "at least 2 steps",
                got: self.window.to_string(),
                remedy: "a decay needs two lags; take several times the K you expect",
            });
        }
        if self.steps() > stream_steps {
            return Err(TrainError::ProbeTooLong {
                needed: self.steps(),
                window: self.window,
                burn_in: self.burn_in,
                steps: stream_steps,
            });
        }
        Ok(())
    }
}

/// Where the probe of `seed` begins to read `steps` steps in every sequence. The source is long enough for it.
fn starts<B: SequenceBatch>(
    source: &dyn SequenceSource<Batch = B>,
    steps: usize,
    seed: u64,
) -> Vec<usize> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let last = source.common_steps() - steps;
    (0..source.sequences())
        .map(|_| rng.random_range(0..=last))
        .collect()
}

/// A window per sequence, of `steps` steps after a burn-in, and the state before it.
///
/// - `starts`: where the burn-in begins, in every sequence
fn window<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    (burn_in, steps): (usize, usize),
    starts: &[usize],
    device: &Device,
) -> Result<(M::Batch, Option<M::State>), TrainError> {
    let batch = source.gather(starts, burn_in + steps, device)?;
    if burn_in == 0 {
        return Ok((batch, None));
    }
    let frozen = frozen(model);
    let (_, state) = frozen.forward(&batch.slice(0..burn_in), None)?;
    Ok((batch.slice(burn_in..burn_in + steps), Some(state.detach())))
}

/// Measures the norm of the last step's loss gradient at every lag, for one random window per sequence.
///
/// The windows are a function of `seed` alone. Dropout stays on, as in training; no weight gradient is computed.
///
/// # Errors
///
/// [`TrainError::ProbeTooLong`] when the source is too short, [`TrainError::Model`] when the model fails or a gradient
/// is not finite.
pub fn probe<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: ProbeConfig,
    seed: u64,
    device: &Device,
) -> Result<LagNorms, TrainError> {
    config.check(source.common_steps())?;
    let lengths = (config.burn_in, config.window);
    let starts = starts(source, config.steps(), seed);
    let (window, state) = window(model, source, lengths, &starts, device)?;
    let frozen = frozen(model);
    Ok(frozen.state_gradients(&window, state)?.lag_norms()?)
}

/// Weight gradients of the pieces of one random window per sequence: one probe of the direct estimate, for windows by `scheme`.
///
/// The windows and what dropout drops are functions of `seed` alone, so that workers may run a probe each and bring their
/// results together in order ([`direct_statistics`]). Leaves the device's generator seeded.
///
/// # Errors
///
/// [`TrainError::Estimate`] for a window too short for its losses, [`TrainError::ProbeTooLong`] when the source is too short,
/// [`TrainError::Model`] when the model fails, or has no gradient to measure.
pub fn direct_probe<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: &ProbeConfig,
    plan: &DirectPlan,
    seed: u64,
    device: &Device,
) -> Result<PieceGradients, TrainError> {
    direct_probe_at(model, source, config, plan, (seed, None), device)
}

/// The same, where `place` is given at one of the windows that no other probe reads, by the index of the probe.
pub(crate) fn direct_probe_at<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: &ProbeConfig,
    plan: &DirectPlan,
    (seed, place): (u64, Option<(DistinctWindows, usize)>),
    device: &Device,
) -> Result<PieceGradients, TrainError> {
    let exact = ProbeConfig {
        losses: Some(plan.losses),
        contexts: Some(plan.contexts.clone()),
        ..config.clone()
    };
    // The plan names its losses, whatever the scheme.
    let scheme = Scheme::Overlapping;
    exact.check_direct(scheme, source.common_steps())?;
    seed_device(device, seed);
    let steps = exact.direct_steps(scheme);
    let starts = match place {
        Some((windows, index)) => {
            windows.starts(index, source.sequences(), source.common_steps() - steps)
        }
        None => starts(source, steps, seed),
    };
    let lengths = (exact.burn_in, steps - exact.burn_in);
    let (window, state) = window(model, source, lengths, &starts, device)?;
    Ok(piece_gradients(model, &window, state, plan)?)
}

/// Measures what the direct estimate of windows by `scheme` is made of, from one probe per seed: two at least, three for a
/// standard error.
///
/// ```
/// # use atbptt_models::{LanguageModelConfig, LstmLayer};
/// # use atbptt_train::data::{Corpus, SyntheticConfig};
/// use atbptt_core::Scheme;
/// use atbptt_train::{ProbeConfig, TokenSource, probe_direct};
/// # use burn::tensor::Device;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
/// # let source = corpus.training(8)?;
/// # let device = Device::default().autodiff();
/// # let words = corpus.vocabulary().len();
/// # let model = LanguageModelConfig::new(words).with_hidden(8).init::<LstmLayer>(&device)?;
/// let scheme = Scheme::Strided { losses: 8 };
/// let statistics = probe_direct(&model, &source, ProbeConfig::new(40), scheme, &[1, 2, 3, 4, 5], &device)?;
/// let estimate = statistics.estimate(scheme)?;
/// println!("{}", estimate.describe(10)); // K = 10: bias …
/// assert_eq!((estimate.window(), estimate.losses(), estimate.probes()), (40, 8, 5));
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// As [`direct_probe`]; [`TrainError::Model`] with an [`EstimateError`](atbptt_core::EstimateError) for fewer than two seeds
/// and for gradients that are not finite.
pub fn probe_direct<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: ProbeConfig,
    scheme: Scheme,
    seeds: &[u64],
    device: &Device,
) -> Result<DirectStatistics, TrainError> {
    let plan = config.direct_plan(scheme);
    let probes = seeds
        .iter()
        .map(|&seed| direct_probe(model, source, &config, &plan, seed, device))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(direct_statistics(&probes)?)
}

/// What [`probe_direct`] measures, by up to `probes` probes as a training run draws them: of a short stream, which has few windows, no
/// two are the same ([`DirectStatistics::population`]), and there are no more than it has.
///
/// Independent ones where the stream is long, or the model draws at random itself, as dropout does. A function of `seed` alone.
///
/// # Errors
///
/// As [`probe_direct`].
pub fn probe_direct_distinct<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    config: ProbeConfig,
    scheme: Scheme,
    (probes, seed): (usize, u64),
    device: &Device,
) -> Result<DirectStatistics, TrainError> {
    config.check_direct(scheme, source.common_steps())?;
    let plan = config.direct_plan(scheme);
    let lengths = (config.direct_steps(scheme), plan.losses);
    let windows = DistinctWindows::of(model, source, lengths, seed, device)?;
    let probes = windows.map_or(probes, |windows| probes.min(windows.count()));
    let probed = (0..probes).map(|index| {
        let place = windows.map(|windows| (windows, index));
        let draw = (mix(seed, [index as u64]), place);
        direct_probe_at(model, source, &config, &plan, draw, device)
    });
    let statistics = direct_statistics(&probed.collect::<Result<Vec<_>, _>>()?)?;
    Ok(match windows {
        Some(windows) => statistics.out_of(windows.count())?,
        None => statistics,
    })
}
