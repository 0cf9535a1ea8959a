//! What happened per epoch: for progress lines, files and plots.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One epoch of training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Counted from one.
    pub epoch: usize,
    /// Windows since the start of the run: updates, unless gradients are accumulated or windows were left out.
    pub step: u64,
    /// Mean training loss per token, in nats, while the weights moved.
    pub train_loss: f64,
    /// exp of [`train_loss`](Self::train_loss).
    pub train_perplexity: f64,
    /// Mean validation loss per token, in nats; `None` when the epoch was interrupted.
    pub valid_loss: Option<f64>,
    /// exp of [`valid_loss`](Self::valid_loss).
    pub valid_perplexity: Option<f64>,
    /// Truncation length at the end of the epoch, in steps.
    pub k: usize,
    /// Mean truncation length over the epoch's windows, in steps.
    pub mean_k: f64,
    /// Relative bias estimated at `k`; `None` while unknown or unbounded.
    pub relative_bias: Option<f64>,
    /// Decay β of the lag profile per step; `None` while unknown.
    pub decay: Option<f64>,
    /// What the last decision knew of the bias at K, and why K is what it is
    /// ([`Decision::explanation`](atbptt_core::policy::Decision::explanation)); `None` before the first.
    pub reason: Option<String>,
    /// Losses counted in training.
    pub tokens: usize,
    /// Windows trained on.
    #[serde(default)]
    pub windows: usize,
    /// Of these, windows whose gradient was longer than [`Clip`](crate::Clip) allows.
    #[serde(default)]
    pub clipped: usize,
    /// Windows without any target, which carried the state on and nothing else.
    #[serde(default)]
    pub without_target: usize,
    /// Windows left out because they were not finite ([`OnNonFinite::Skip`](crate::OnNonFinite::Skip)).
    #[serde(default)]
    pub skipped: usize,
    /// Times the epoch went back to a checkpoint with a smaller step
    /// ([`OnNonFinite::Restore`](crate::OnNonFinite::Restore)).
    #[serde(default)]
    pub restored: usize,
    /// Time spent on training windows, in seconds.
    pub train_seconds: f64,
    /// Time spent on probes, in seconds.
    pub probe_seconds: f64,
    /// Time spent on validation, in seconds.
    pub valid_seconds: f64,
    /// Seconds since the run began; interruptions and [`measures`](Self::measures) not counted.
    pub elapsed_seconds: f64,
    /// What [`AdaptiveTbptt::with_measures`](crate::AdaptiveTbptt::with_measures) measured after the epoch, by name; all
    /// finite.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, f64>,
}

impl EpochReport {
    /// Loss tokens per second of training, probes and validation not counted.
    pub fn tokens_per_second(&self) -> f64 {
        match self.train_seconds > 0.0 {
            true => self.tokens as f64 / self.train_seconds,
            false => 0.0,
        }
    }

    /// Share of windows whose gradient was clipped, in `[0, 1]`. Near one, the length of an update is set by clip and step size
    /// alone, and a step size that grows with K makes every update longer.
    pub fn clipped_share(&self) -> f64 {
        self.clipped as f64 / self.windows.max(1) as f64
    }

    /// Share of the epoch's training time that went into probes, in `[0, 1]`.
    pub fn probe_share(&self) -> f64 {
        let total = self.train_seconds + self.probe_seconds;
        match total > 0.0 {
            true => self.probe_seconds / total,
            false => 0.0,
        }
    }

    /// In how many windows the clip bound, and what the epoch did about values that were not finite, as a clause; empty
    /// without any.
    pub fn left_out(&self) -> String {
        let mut text = String::new();
        if self.clipped > 0 {
            let share = match 100.0 * self.clipped_share() {
                share if share < 1.0 => "under 1".into(),
                share => format!("{share:.0}"),
            };
            text += &format!("; gradient clipped in {share} % of windows");
        }
        if self.skipped > 0 {
            text += &format!("; {} windows skipped", self.skipped);
        }
        if self.restored > 0 {
            text += &format!("; {} times back to a checkpoint", self.restored);
        }
        text
    }
}

/// One line: perplexities, K and why.
impl fmt::Display for EpochReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "epoch {}: perplexity {:.2}",
            self.epoch, self.train_perplexity
        )?;
        if let Some(valid) = self.valid_perplexity {
            write!(f, " (validation {valid:.2})")?;
        }
        let reason = self.reason.as_deref().unwrap_or("as configured");
        write!(f, ", K = {}: {reason}", self.k)?;
        f.write_str(&self.left_out())
    }
}
