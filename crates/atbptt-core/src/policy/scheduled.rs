//! A control: K given in advance, window by window, such as the lengths that an adaptive run took from another seed.

use serde::{Deserialize, Serialize};

use super::{
    Decision, Measurement, Monitor, MonitorConfig, NextWindow, PolicyState, Position, Reason,
    TruncationPolicy,
};
use crate::EstimateError;

/// Settings of a policy whose lengths are given in advance, window by window.
///
/// ```
/// use atbptt_core::policy::{ScheduledKConfig, TruncationPolicy};
///
/// // 20 steps for two windows, then 5.
/// let mut policy = ScheduledKConfig::new(vec![(0, 20), (2, 5)]).init()?;
/// let lengths: Vec<usize> = (0..4).map(|_| policy.next_window().k).collect();
/// assert_eq!(lengths, [20, 20, 5, 5]);
/// # Ok::<(), atbptt_core::EstimateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ScheduledKConfig {
    /// Changes of K: the window, counted from 0 since the start of the run, and K in steps from then on. The first is at window
    /// 0, windows rise.
    pub changes: Vec<(u64, usize)>,
    /// How the bias is watched. Default not at all.
    #[serde(default)]
    pub monitor: Option<MonitorConfig>,
}

impl ScheduledKConfig {
    /// These changes of K, never probed.
    pub fn new(changes: Vec<(u64, usize)>) -> Self {
        Self {
            changes,
            monitor: None,
        }
    }

    /// The lengths that another policy took: `first` until its first decision, then that of each decision from its update on.
    /// Windows are counted as updates, so the run must not have accumulated gradients.
    pub fn replay(first: usize, decisions: &[Decision]) -> Self {
        let mut changes = vec![(0, first)];
        for decision in decisions {
            let (at, k) = (decision.position.update, decision.k);
            match changes.last_mut() {
                Some(last) if last.0 >= at => last.1 = k,
                Some(last) if last.1 == k => {}
                _ => changes.push((at, k)),
            }
        }
        Self::new(changes)
    }

    setters! {
        with_monitor => monitor: Option<MonitorConfig>;
    }

    /// The policy, before its first window.
    ///
    /// # Errors
    /// [`EstimateError::Zero`] for a K of 0, [`EstimateError::OutOfRange`] where the changes do not begin at window 0 and rise from
    /// there, or a setting of the monitor out of range.
    pub fn init(&self) -> Result<impl TruncationPolicy + Clone + PartialEq + use<>, EstimateError> {
        let wrong = |value: u64| EstimateError::OutOfRange {
            what: "the window of a change of K",
            rule: "0 for the first change, and later than the one before for all others",
            value: value as f64,
        };
        let mut next = 0;
        for (nth, &(window, k)) in self.changes.iter().enumerate() {
            if k == 0 {
                return Err(EstimateError::Zero {
                    what: "the truncation length",
                });
            }
            if window < next || (nth == 0 && window > 0) {
                return Err(wrong(window));
            }
            next = window.saturating_add(1);
        }
        let Some(k_max) = self.changes.iter().map(|&(_, k)| k).max() else {
            return Err(EstimateError::Zero {
                what: "the number of truncation lengths given in advance",
            });
        };
        Ok(ScheduledK {
            changes: self.changes.clone(),
            k_max,
            monitor: Monitor::new(self.monitor)?,
            windows: 0,
        })
    }
}

/// K given in advance, window by window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScheduledK {
    changes: Vec<(u64, usize)>,
    k_max: usize,
    monitor: Monitor,
    /// Windows so far.
    windows: u64,
}

impl ScheduledK {
    /// K of window `window`: that of the last change that is not after it.
    fn at(&self, window: u64) -> usize {
        let after = self.changes.partition_point(|&(from, _)| from <= window);
        let change = self.changes.get(after.saturating_sub(1));
        // There is one at window 0.
        change.map_or(1, |&(_, k)| k)
    }
}

impl TruncationPolicy for ScheduledK {
    fn next_window(&mut self) -> NextWindow {
        let k = self.at(self.windows);
        self.windows = self.windows.saturating_add(1);
        NextWindow::new(k)
    }

    /// Of the last window; of the first one where there was none yet.
    fn k(&self) -> usize {
        self.at(self.windows.saturating_sub(1))
    }

    fn k_max(&self) -> usize {
        self.k_max
    }

    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The decision is about the window to come.
    fn update(&mut self, at: Position, measured: Measurement) -> Decision {
        let k = self.at(self.windows);
        self.monitor.record(k, Reason::Fixed, at, measured)
    }

    fn save(&self) -> PolicyState {
        PolicyState::Scheduled {
            windows: self.windows,
            monitor: self.monitor.save(),
        }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        match state {
            PolicyState::Scheduled { windows, monitor } => {
                self.windows = windows;
                self.monitor.restore(monitor);
            }
            other => return Err(other.foreign("scheduled")),
        }
        Ok(())
    }
}
