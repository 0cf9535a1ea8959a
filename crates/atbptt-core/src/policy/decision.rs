//! What a policy decided, why, and what it knew.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Position;
use crate::DirectOutcome;
use crate::direct::MANY_UPDATES;

/// Why K is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The shortest K that meets the tolerance.
    ToleranceMet,
    /// The tolerance would allow a shorter K than `k_min`.
    ClampedToMin,
    /// The tolerance asks for a longer K than `k_max`; the bias exceeds it.
    ClampedToMax,
    /// Saturated: no decay was seen (β ≥ 1), so the bias has no bound.
    NoDecay,
    /// Saturated: no K in the probe window reaches the tolerance.
    OutOfReach,
    /// Another K would meet the tolerance too, but the present one lies within the estimate's own uncertainty.
    KeptByHysteresis,
    /// The whole gradient cannot be told from noise; K went back to K₀.
    NoiseLimitedBackToK0,
    /// The whole gradient cannot be told from noise; K is kept.
    NoiseLimitedKept,
    /// Much of the bias lies beyond the probe window, where it is extrapolated.
    WindowTooShort,
    /// No probe was usable; K is kept.
    Unusable,
    /// The policy does not go by the estimate: K is fixed, or given in advance.
    Fixed,
    /// Every window's K is drawn at random around this one.
    Random,
}

impl Reason {
    /// Whether noise hid the gradient.
    pub fn is_noise_limited(self) -> bool {
        matches!(self, Self::NoiseLimitedBackToK0 | Self::NoiseLimitedKept)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToleranceMet => "shortest length that meets the bias tolerance",
            Self::ClampedToMin => "the tolerance allows less, the configured minimum does not",
            Self::ClampedToMax => "the tolerance asks for more than the configured maximum",
            Self::NoDecay => {
                "saturated: the gradient does not decay over the probe window, so its bias has no bound"
            }
            Self::OutOfReach => "saturated: no length in the probe window meets the bias tolerance",
            Self::KeptByHysteresis => {
                "kept: the estimate cannot tell this length from the one that meets the tolerance"
            }
            Self::NoiseLimitedBackToK0 => "back to the first length",
            Self::NoiseLimitedKept => "kept",
            Self::WindowTooShort => "extrapolated beyond the probe window",
            Self::Unusable => "kept: no probe was usable",
            Self::Fixed => "fixed by the configuration",
            Self::Random => "the mean of lengths drawn at random",
        })
    }
}

/// One update of a policy. Every number is finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decision {
    /// Truncation length from here on, in steps.
    pub k: usize,
    /// Why.
    pub reason: Reason,
    /// When.
    pub position: Position,
    /// Tolerated relative bias; `None` for a policy without one.
    pub delta: Option<f64>,
    /// Estimated relative bias at `k` under the scheme of windows in use, from all usable probes together; `None` when it has no
    /// bound or no probe was usable.
    pub relative_bias: Option<f64>,
    /// Whether a direct estimate can be acted upon, and why not.
    pub outcome: Option<DirectOutcome>,
    /// Standard error of [`relative_bias`](Self::relative_bias), where the estimate has one.
    pub standard_error: Option<f64>,
    /// Upper limit of the relative bias, where the estimate has one. Also where no bias was seen.
    pub upper_limit: Option<f64>,
    /// Updates of the weights over which the gradient's noise outweighs this bias, where the estimate knows the noise
    /// and the bias is not 0.
    pub noisy_updates: Option<f64>,
    /// The tolerance below which δ chases noise: δ itself, or what an epoch of updates can resolve. Where the estimate knows
    /// the noise.
    pub effective_tolerance: Option<f64>,
    /// Log decay per step of a norm estimate.
    pub log_beta: Option<f64>,
    /// Onset of the geometric tail of a norm estimate, in steps.
    pub tau: Option<usize>,
    /// K of each usable probe of a norm estimate, in steps, at most `k_max`; a saturated probe gives `k_max`. Empty without
    /// a tolerance.
    pub probe_ks: Vec<usize>,
    /// How many of the usable probes were saturated.
    pub saturated: usize,
    /// How many probes were run.
    #[serde(default)]
    pub probes: usize,
    /// How many of them were not usable.
    pub unusable: usize,
}

impl Decision {
    /// A decision that knows nothing but K.
    pub(super) fn new(k: usize, reason: Reason, position: Position) -> Self {
        Self {
            k,
            reason,
            position,
            delta: None,
            relative_bias: None,
            outcome: None,
            standard_error: None,
            upper_limit: None,
            noisy_updates: None,
            effective_tolerance: None,
            log_beta: None,
            tau: None,
            probe_ks: Vec::new(),
            saturated: 0,
            probes: 0,
            unusable: 0,
        }
    }
}

/// Shares of the gradient below this are shown as such.
const SMALLEST_SHOWN: f64 = 1e-4;

/// Two significant digits at least, as far as the smallest share that is shown has them.
fn decimals(value: f64) -> usize {
    match value > 0.0 && value.is_finite() {
        true => (1.0 - value.log10().floor()).clamp(0.0, 5.0) as usize,
        false => 2,
    }
}

impl Decision {
    /// What is known of K, and why it is what it is, clause by clause; `brief`: why only where it does not go without saying.
    fn clauses(&self, brief: bool) -> Vec<String> {
        let mut clauses = Vec::new();
        let noise_limited = matches!(self.outcome, Some(DirectOutcome::NoiseLimited { .. }));
        let known = |value: Option<f64>| value.filter(|_| !noise_limited);
        match (known(self.relative_bias), known(self.upper_limit)) {
            (Some(bias), _) if bias > 0.0 && bias < SMALLEST_SHOWN => {
                clauses.push(format!("bias below {SMALLEST_SHOWN} of the gradient"));
            }
            (Some(bias), _) if bias > 0.0 => {
                let digits = decimals(bias);
                let error = self.standard_error.map(|e| format!(" ± {e:.digits$}"));
                let error = error.unwrap_or_default();
                clauses.push(format!("bias {bias:.digits$}{error} of the gradient"));
            }
            // No bias was seen.
            (Some(_), Some(limit)) => {
                let limit = limit.max(SMALLEST_SHOWN);
                let digits = decimals(limit);
                clauses.push(format!("bias at most {limit:.digits$} of the gradient"));
            }
            _ => {}
        }
        match known(self.noisy_updates) {
            Some(updates) if updates > MANY_UPDATES => {
                clauses.push("noise outweighs it for over a million updates".into());
            }
            Some(updates) if updates >= 1.0 => {
                // One digit says all there is to say.
                let unit = 10f64.powf(updates.log10().floor());
                let updates = (updates / unit).round() * unit;
                clauses.push(format!(
                    "noise outweighs it for the next {updates:.0} updates"
                ));
            }
            Some(_) => clauses.push("it outweighs the noise of a single update".into()),
            None => {}
        }
        let expected = matches!(self.reason, Reason::ToleranceMet | Reason::Fixed);
        if !(brief && expected && !clauses.is_empty()) {
            clauses.push(self.reason.to_string());
        }
        match self.outcome {
            None | Some(DirectOutcome::Usable) => {}
            Some(outcome) => clauses.push(outcome.to_string()),
        }
        clauses
    }

    /// What is known of the bias at K, for a line that names K already: `bias 0.48 ± 0.06 of the gradient; noise outweighs it for
    /// the next 900 updates`. Why K is what it is, too, unless it is simply fixed or the shortest length that meets the tolerance.
    pub fn explanation(&self) -> String {
        self.clauses(true).join("; ")
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clauses = self.clauses(false).join("; ");
        write!(f, "K = {}: {clauses} ({}", self.k, self.position)?;
        match self.unusable {
            0 => f.write_str(")"),
            1 => f.write_str("; 1 probe unusable)"),
            n => write!(f, "; {n} probes unusable)"),
        }
    }
}
