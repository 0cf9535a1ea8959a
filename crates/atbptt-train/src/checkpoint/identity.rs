//! What a run is made of, and whether a checkpoint belongs to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// What the length of the training data is called.
pub(crate) const STEPS: &str = "steps per sequence";
/// What the steps before a place within an epoch are called.
pub(crate) const READ_LAST: &str = "what was read before its place in the epoch";

/// What a run is made of, as names and values in words: what the strategy knows, and what
/// [`CheckpointConfig::must_match`](super::CheckpointConfig::must_match) and
/// [`CheckpointConfig::may_change`](super::CheckpointConfig::may_change) add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    fixed: BTreeMap<String, String>,
    free: BTreeMap<String, String>,
}

/// A value that differs between a checkpoint and the run that resumes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// What differs.
    pub name: String,
    /// Its value in the checkpoint, if it has one.
    pub saved: Option<String>,
    /// Its value now, if it has one.
    pub now: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        let (saved, now) = (value(&self.saved), value(&self.now));
        write!(
            f,
            "{} is {saved} in the checkpoint and {now} now",
            self.name
        )
    }
}

impl Identity {
    /// An empty identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something without which the run would be another one: a checkpoint with another value is refused. What was said of the
    /// same name before no longer counts.
    pub fn must_match(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        let name = name.into();
        self.free.remove(&name);
        self.fixed.insert(name, value.to_string());
        self
    }

    /// Adds something that may change between runs, and is then listed.
    pub fn may_change(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        let name = name.into();
        self.fixed.remove(&name);
        self.free.insert(name, value.to_string());
        self
    }

    /// What differs in `now`, a run that resumes the one this belongs to: first what may not, then what may.
    ///
    /// `now` decides which is which: a user who asks for another learning rate lets that change, whatever the checkpoint says.
    pub fn differences(&self, now: &Self) -> (Vec<Difference>, Vec<Difference>) {
        let names: BTreeSet<&String> = [&self.fixed, &self.free, &now.fixed, &now.free]
            .into_iter()
            .flat_map(BTreeMap::keys)
            .collect();
        names
            .into_iter()
            .map(|name| Difference {
                name: name.clone(),
                saved: self.get(name).cloned(),
                now: now.get(name).cloned(),
            })
            .filter(|difference| difference.saved != difference.now)
            .partition(|Difference { name, .. }| {
                let free = now.free.contains_key(name);
                let gone = !now.fixed.contains_key(name) && self.free.contains_key(name);
                !(free || gone)
            })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&String> {
        self.fixed.get(name).or_else(|| self.free.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_match_and_what_may_change_are_told_apart() {
        let saved = Identity::new()
            .must_match("data", "abc")
            .must_match("vocabulary", "def")
            .may_change("run folder", "runs/1");
        let now = saved
            .clone()
            .must_match("data", "other")
            .may_change("run folder", "runs/2");
        let (refused, changed) = saved.differences(&now);
        let names = |all: &[Difference]| all.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&refused), names(&changed)),
            (vec!["data".into()], vec!["run folder".into()])
        );
    }
}
