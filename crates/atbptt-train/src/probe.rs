//! Random probe windows and their lag norms (METHOD §3).
//!
//! Symbols: `W` window, in steps; `burn_in` steps before it that warm the state up from zero, without gradient.

use atbptt_core::LagNorms;
use atbptt_models::{RecurrentModel, RecurrentState, SequenceBatch};
use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::source::SequenceSource;

/// Length of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeConfig {
    /// W, in steps: the largest lag that is measured. Several times the K you expect. 400 for language in the paper.
    pub window: usize,
    /// Steps that warm the state up before it, from zero. W/10 in the paper.
    pub burn_in: usize,
}

impl ProbeConfig {
    /// A window of `window` steps with the paper's burn-in of a tenth of it.
    pub fn new(window: usize) -> Self {
        Self {
            window,
            burn_in: window / 10,
        }
    }

    /// Steps that warm the state up before the window.
    pub fn with_burn_in(mut self, burn_in: usize) -> Self {
        self.burn_in = burn_in;
        self
    }

    /// Steps a probe reads.
    pub fn steps(&self) -> usize {
        self.window.saturating_add(self.burn_in)
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

/// Where the probe of `seed` begins to read in every sequence. The source is long enough for it.
pub(crate) fn starts<B: SequenceBatch>(
    source: &dyn SequenceSource<Batch = B>,
    config: ProbeConfig,
    seed: u64,
) -> Vec<usize> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let last = source.common_steps() - config.steps();
    (0..source.sequences())
        .map(|_| rng.random_range(0..=last))
        .collect()
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
    let starts = starts(source, config, seed);
    let batch = source.gather(&starts, config.steps(), device)?;
    let frozen = model.clone().no_grad();
    let state = match config.burn_in {
        0 => None,
        burn_in => {
            let (_, state) = frozen.forward(&batch.slice(0..burn_in), None)?;
            Some(state.detach())
        }
    };
    let window = batch.slice(config.burn_in..config.steps());
    let gradients = frozen.state_gradients(&window, state)?;
    Ok(gradients.lag_norms()?)
}
