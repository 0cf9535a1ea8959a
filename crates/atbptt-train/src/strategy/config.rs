//! Settings of the training loop.

use atbptt_core::Scheme;
use atbptt_core::policy::{Position, ProbeRequest, TruncationPolicy};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::probe::ProbeConfig;
use crate::schedule::RateSchedule;
use crate::step::{Clip, StepScaling};

/// Settings of the training loop, apart from the policy for K.
///
/// By default K is the reach of the gradient and nothing else: windows with a fixed number of losses, a step size and a clip
/// that do not depend on K. [`TbpttConfig::paper`] has the settings of Aicher et al. 2019, where all of these move with K.
///
/// The mean over the losses of a window is what an update descends. The last window of an epoch, where it has fewer losses than
/// the others, takes its share of a step. With Burn's `grads_accumulation` the gradients of several windows make one update:
/// their sum, each with its own factor on the step size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TbpttConfig {
    /// How windows follow each other, and with that how many losses an update has.
    pub scheme: Scheme,
    /// How the step size grows with K; for strided windows, not at all.
    pub step_scaling: StepScaling,
    /// Clipping of the global gradient norm.
    pub clip: Clip,
    /// How the step size changes with the position in the data and with the validation loss; not at all by default.
    #[serde(default)]
    pub schedule: RateSchedule,
    /// Length of a probe.
    pub probe: ProbeConfig,
    /// Seed of probe windows and dropout. Together with the number of windows before it fixes every draw of the run.
    pub seed: u64,
    /// Steps of a validation chunk: memory and speed, not the result.
    pub eval_chunk: usize,
}

impl Default for TbpttConfig {
    /// Strided windows of [`Scheme::DEFAULT_LOSSES`] losses, the scheduler's step size as it is, clip 1, W = 400 with a burn-in
    /// of 40.
    fn default() -> Self {
        Self {
            scheme: Scheme::default(),
            step_scaling: StepScaling::None,
            clip: Clip::Norm(1.0),
            schedule: RateSchedule::default(),
            probe: ProbeConfig::new(400),
            seed: 0,
            eval_chunk: 100,
        }
    }
}

impl TbpttConfig {
    /// The settings of Aicher et al. 2019 for Penn Treebank: BPTT(2K−1; K), step size times √K, clip 1/K, W = 400 with a burn-in
    /// of 40. The other tasks differ in W and, WikiText-2, in [`StepScaling::LinearK`].
    pub fn paper() -> Self {
        Self {
            scheme: Scheme::Overlapping,
            step_scaling: StepScaling::SqrtK,
            clip: Clip::PerK(1.0),
            ..Self::default()
        }
    }

    /// Strided windows of `losses` losses per update, in steps.
    pub fn with_losses(mut self, losses: usize) -> Self {
        self.scheme = Scheme::Strided { losses };
        self
    }

    /// Refuses settings outside their range, and those that do not go with `policy`. A strategy checks the same.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`].
    pub fn check(&self, policy: &dyn TruncationPolicy) -> Result<(), TrainError> {
        self.clip.validate()?;
        self.schedule.validate()?;
        if self.scheme == (Scheme::Strided { losses: 0 }) {
            return Err(TrainError::Config {
                field: "losses",
                rule: "at least 1 step per update",
                got: "0".into(),
                remedy: "20 is a good choice; few losses make noisy updates that look less far",
            });
        }
        self.probe.check(usize::MAX)?;
        if self.eval_chunk == 0 {
            return Err(TrainError::Config {
                field: "eval_chunk",
                rule: "at least 1 step",
                got: "0".into(),
                remedy: "100 is a good choice",
            });
        }
        if policy.needs_chunks() && self.scheme != Scheme::Chunked {
            return Err(TrainError::Config {
                field: "scheme",
                rule: "`Scheme::Chunked` for this policy, whose windows lie end to end",
                got: format!("{:?}", self.scheme),
                remedy: "choose that scheme or another policy",
            });
        }
        Ok(())
    }

    /// Refuses a training source of `steps` steps per sequence that is too short for the policy's longest K, for the losses of
    /// one strided window or for a probe. Training checks the same before it starts.
    ///
    /// # Errors
    ///
    /// [`TrainError::StreamTooShort`], [`TrainError::StrideTooLong`], [`TrainError::ProbeTooLong`].
    pub fn check_stream(
        &self,
        policy: &dyn TruncationPolicy,
        steps: usize,
    ) -> Result<(), TrainError> {
        let k_max = policy.k_max();
        if k_max > steps {
            return Err(TrainError::StreamTooShort { k_max, steps });
        }
        let losses = self.scheme.losses(k_max);
        if losses > steps {
            return Err(TrainError::StrideTooLong { losses, steps });
        }
        let at_the_end = Position {
            epoch: usize::MAX,
            update: u64::MAX,
        };
        match policy.monitor().probes_due(at_the_end) {
            None => Ok(()),
            Some(ProbeRequest::Direct { .. }) => self.probe.check_direct(self.scheme, steps),
            Some(_) => self.probe.check(steps),
        }
    }
}

/// What a run does about a loss, a gradient or a weight that is not finite. None of them ever reaches the weights: the window's
/// step is not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OnNonFinite {
    /// Stop with [`TrainError::NonFinite`].
    #[default]
    Stop,
    /// Leave the window out, count it ([`EpochReport::skipped`](crate::EpochReport::skipped)) and go on. Right when single windows are to blame.
    Skip,
    /// Go back to the last checkpoint and go on with half the step size, ten times at most from one checkpoint
    /// ([`EpochReport::restored`](crate::EpochReport::restored)). Right when the step size is to blame. Without checkpoints, stop.
    Restore,
}
