//! Any policy as one value: for settings files, checkpoints and command lines.

use serde::{Deserialize, Serialize};

use super::{
    AdaptiveKConfig, ArtbpConfig, FixedKConfig, MonitorConfig, RandomLengthConfig,
    ScheduledKConfig, TruncationPolicy,
};
use crate::EstimateError;

/// Settings of any policy of this crate.
///
/// ```
/// use atbptt_core::policy::{AdaptiveKConfig, PolicyConfig};
///
/// let written = PolicyConfig::from(AdaptiveKConfig::new(0.5).with_k0(20));
/// let read: PolicyConfig = serde_json::from_str(r#"{"policy": "adaptive", "delta": 0.5, "k0": 20}"#)?;
/// assert_eq!(read, written);
/// assert_eq!(read.init()?.next_window().k, 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PolicyConfig {
    /// Holds the relative bias at a tolerance.
    Adaptive(AdaptiveKConfig),
    /// One truncation length for the whole run.
    Fixed(FixedKConfig),
    /// Lengths given in advance, window by window.
    Scheduled(ScheduledKConfig),
    /// A random length for every window, as AWD-LSTM trains.
    RandomLength(RandomLengthConfig),
    /// Unbiased random truncation.
    Artbp(ArtbpConfig),
}

impl PolicyConfig {
    /// The policy, at its start.
    ///
    /// # Errors
    /// Those of the settings' own `init`.
    pub fn init(&self) -> Result<Box<dyn TruncationPolicy>, EstimateError> {
        Ok(match self {
            Self::Adaptive(config) => Box::new(config.init()?),
            Self::Fixed(config) => Box::new(config.init()?),
            Self::Scheduled(config) => Box::new(config.init()?),
            Self::RandomLength(config) => Box::new(config.init()?),
            Self::Artbp(config) => Box::new(config.init()?),
        })
    }

    /// The same policy with its bias watched like this.
    pub fn with_monitor(self, monitor: MonitorConfig) -> Self {
        match self {
            Self::Adaptive(config) => config.with_monitor(monitor).into(),
            Self::Fixed(config) => config.with_monitor(Some(monitor)).into(),
            Self::Scheduled(config) => config.with_monitor(Some(monitor)).into(),
            Self::RandomLength(config) => config.with_monitor(Some(monitor)).into(),
            Self::Artbp(config) => config.with_monitor(Some(monitor)).into(),
        }
    }
}

macro_rules! from_config {
    ($($variant:ident($config:ident)),*) => {
        $(impl From<$config> for PolicyConfig {
            fn from(config: $config) -> Self {
                Self::$variant(config)
            }
        })*
    };
}

from_config!(
    Adaptive(AdaptiveKConfig),
    Fixed(FixedKConfig),
    Scheduled(ScheduledKConfig),
    RandomLength(RandomLengthConfig),
    Artbp(ArtbpConfig)
);
