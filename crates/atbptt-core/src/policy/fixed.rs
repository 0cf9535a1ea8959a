//! The baseline: one truncation length for the whole run, optionally watched.

use serde::{Deserialize, Serialize};

use super::{
    Decision, Measurement, Monitor, MonitorConfig, NextWindow, PolicyState, Position, Reason,
    TruncationPolicy,
};
use crate::EstimateError;

/// Settings of a policy with one truncation length for the whole run.
///
/// ```
/// use atbptt_core::policy::{FixedKConfig, TruncationPolicy};
///
/// assert_eq!(FixedKConfig::new(20).init()?.next_window().k, 20);
/// # Ok::<(), atbptt_core::EstimateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FixedKConfig {
    /// Truncation length, in steps, at least 1.
    pub k: usize,
    /// How its bias is watched. Default not at all.
    #[serde(default)]
    pub monitor: Option<MonitorConfig>,
}

impl FixedKConfig {
    /// Keeps `k` steps and never probes.
    pub fn new(k: usize) -> Self {
        Self { k, monitor: None }
    }

    setters! {
        with_monitor => monitor: Option<MonitorConfig>;
    }

    /// The policy.
    ///
    /// # Errors
    /// [`EstimateError::Zero`], or a setting of the monitor out of range.
    pub fn init(&self) -> Result<impl TruncationPolicy + Clone + PartialEq + use<>, EstimateError> {
        if self.k == 0 {
            return Err(EstimateError::Zero {
                what: "the truncation length",
            });
        }
        Ok(FixedK {
            k: self.k,
            monitor: Monitor::new(self.monitor)?,
        })
    }
}

/// The policy of a [`FixedKConfig`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FixedK {
    k: usize,
    monitor: Monitor,
}

impl TruncationPolicy for FixedK {
    fn next_window(&mut self) -> NextWindow {
        NextWindow::new(self.k)
    }

    fn k(&self) -> usize {
        self.k
    }

    fn k_max(&self) -> usize {
        self.k
    }

    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn update(&mut self, at: Position, measured: Measurement) -> Decision {
        self.monitor.record(self.k, Reason::Fixed, at, measured)
    }

    fn save(&self) -> PolicyState {
        PolicyState::Fixed {
            monitor: self.monitor.save(),
        }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        match state {
            PolicyState::Fixed { monitor } => self.monitor.restore(monitor),
            other => return Err(other.foreign("fixed")),
        }
        Ok(())
    }
}
