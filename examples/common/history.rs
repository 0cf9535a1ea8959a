//! What a finished run did about K: its settings and its decisions, as its folder holds them.

use std::fs;
use std::path::Path;

use atbptt::core::policy::{Decision, PolicyConfig, ScheduledKConfig};
use atbptt::train::TbpttConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Rule, training settings and decisions of a run.
pub struct History {
    pub policy: PolicyConfig,
    pub training: TbpttConfig,
    /// Oldest first.
    pub decisions: Vec<Decision>,
}

/// What there is of a program's settings for every program.
#[derive(Deserialize)]
struct Settings {
    plan: Plan,
}

#[derive(Deserialize)]
struct Plan {
    policy: PolicyConfig,
    training: TbpttConfig,
}

impl History {
    /// Reads the folder of a complete run.
    ///
    /// # Errors
    ///
    /// In words: which file cannot be read, and that a run writes its decisions when it is complete.
    pub fn read(run: &Path) -> Result<Self, String> {
        let Settings { plan } = read(&run.join("config.json"))?;
        Ok(Self {
            policy: plan.policy,
            training: plan.training,
            decisions: read(&run.join("controller.json"))?,
        })
    }

    /// The K of every window.
    ///
    /// # Errors
    ///
    /// In words, where K was not the controller's.
    pub fn schedule(&self) -> Result<ScheduledKConfig, String> {
        match &self.policy {
            PolicyConfig::Adaptive(rule) => Ok(ScheduledKConfig::replay(rule.k0, &self.decisions)),
            _ => Err("K of this run did not adapt; name a run with --delta".into()),
        }
    }

    /// The K that at least half of the run's `windows` had at most.
    ///
    /// # Errors
    ///
    /// Those of [`schedule`](Self::schedule).
    pub fn median_k(&self, windows: u64) -> Result<usize, String> {
        let changes = self.schedule()?.changes;
        let ends = changes.iter().skip(1).map(|&(from, _)| from);
        let mut spans: Vec<(usize, u64)> = changes
            .iter()
            .zip(ends.chain([u64::MAX]))
            .map(|(&(from, k), to)| (k, to.min(windows).saturating_sub(from)))
            .collect();
        spans.sort_unstable();
        let mut seen = 0;
        let half = spans.iter().find(|&&(_, span)| {
            seen += span;
            2 * seen >= windows
        });
        half.map(|&(k, _)| k).ok_or("the run has no windows".into())
    }
}

/// The K that a finished run took, window by window.
///
/// # Errors
///
/// Those of [`History::read`] and [`History::schedule`].
pub fn replay(run: &Path) -> Result<ScheduledKConfig, String> {
    let history = History::read(run)?;
    let named = |error| format!("{}: {error}", run.display());
    history.schedule().map_err(named)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        format!("cannot read {shown}: {error}; name the folder of a finished run")
    })?;
    serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atbptt::core::policy::{
        AdaptiveKConfig, FixedKConfig, Measurement, Position, TruncationPolicy,
    };
    use atbptt::train::Scheme;

    /// 20 steps for 10 windows, 7 for 30, 3 for 20 and 4 for what is left.
    #[test]
    fn the_median_is_that_of_windows_and_not_of_decisions() {
        let decision = |update: u64, k: usize| {
            let mut fixed = FixedKConfig::new(k).init().unwrap();
            let scheme = Scheme::Strided { losses: 1 };
            let probes = Vec::new();
            fixed.update(
                Position { epoch: 0, update },
                Measurement::Norms { probes, scheme },
            )
        };
        let history = |policy: PolicyConfig| History {
            policy,
            training: TbpttConfig::default(),
            decisions: vec![decision(10, 7), decision(40, 3), decision(60, 4)],
        };
        let adaptive = history(AdaptiveKConfig::new(0.5).with_k0(20).into());
        // (windows, median)
        for (windows, expected) in [(10, 20), (30, 7), (60, 7), (62, 7), (100, 4), (200, 4)] {
            assert_eq!(adaptive.median_k(windows), Ok(expected), "{windows}");
        }
        let fixed = history(FixedKConfig::new(5).into());
        assert!(fixed.median_k(10).unwrap_err().contains("did not adapt"));
    }
}
