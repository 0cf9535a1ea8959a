//! Where a policy stands, as a value.

use serde::{Deserialize, Serialize};

use super::monitor::MonitorState;
use crate::EstimateError;

/// State of a policy, for checkpoints. Survives JSON exactly: no field is ever infinite or NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PolicyState {
    /// Of the policy of an [`AdaptiveKConfig`](super::AdaptiveKConfig).
    Adaptive {
        /// Truncation length in use, in steps.
        k: usize,
        /// What was seen of the bias.
        monitor: MonitorState,
    },
    /// Of the policy of a [`FixedKConfig`](super::FixedKConfig).
    Fixed {
        /// What was seen of the bias.
        monitor: MonitorState,
    },
    /// Of the policy of a [`ScheduledKConfig`](super::ScheduledKConfig).
    Scheduled {
        /// Windows so far.
        windows: u64,
        /// What was seen of the bias.
        monitor: MonitorState,
    },
    /// Of the policy of a [`RandomLengthConfig`](super::RandomLengthConfig).
    RandomLength {
        /// Lengths drawn so far.
        draws: u64,
        /// What was seen of the bias at the base length.
        monitor: MonitorState,
    },
    /// Of the policy of an [`ArtbpConfig`](super::ArtbpConfig).
    Artbp {
        /// Lengths drawn so far.
        draws: u64,
        /// What was seen of the bias that plain truncation at the mean length would have.
        monitor: MonitorState,
    },
    /// Of a policy defined elsewhere.
    Custom {
        /// The policy's name.
        name: String,
        /// Its state in a format of its own, such as JSON.
        data: String,
        /// What was seen of the bias.
        monitor: MonitorState,
    },
}

impl PolicyState {
    /// Name of the policy that saved it.
    pub fn policy(&self) -> &str {
        match self {
            Self::Adaptive { .. } => "adaptive",
            Self::Fixed { .. } => "fixed",
            Self::Scheduled { .. } => "scheduled",
            Self::RandomLength { .. } => "random_length",
            Self::Artbp { .. } => "artbp",
            Self::Custom { name, .. } => name,
        }
    }

    /// The error of a policy named `expected` that was given this state.
    pub fn foreign(&self, expected: &'static str) -> EstimateError {
        EstimateError::ForeignState {
            expected,
            got: self.policy().to_owned(),
        }
    }
}
