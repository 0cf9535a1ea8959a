//! Which checkpoints a run folder holds, and which of them are kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::identity::{READ_LAST, STEPS};
use super::{Checkpoint, CheckpointFault, Identity};
use crate::report::EpochReport;

/// How a run is kept: where its checkpoints go, how often, and what they say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointConfig {
    pub(crate) run: PathBuf,
    pub(crate) every: u64,
    pub(crate) share_of_time: f64,
    pub(crate) keep: usize,
    pub(crate) identity: Identity,
    pub(crate) settings: String,
}

impl CheckpointConfig {
    /// Checkpoints into `run/checkpoint`: one before the first window, one at the end of every epoch, one where a run is
    /// interrupted.
    pub fn new(run: impl Into<PathBuf>) -> Self {
        Self {
            run: run.into(),
            every: 0,
            share_of_time: 1.0,
            keep: 2,
            identity: Identity::default(),
            settings: String::new(),
        }
    }

    /// Adds one every `windows` training windows; 0 leaves it at the ends of epochs. With accumulated gradients, the first
    /// window after that many at which none are left.
    pub fn every(mut self, windows: u64) -> Self {
        self.every = windows;
        self
    }

    /// Leaves out those of them with which writing would take more than this share of the time, in (0, 1), as the last one took:
    /// on a fast device 200 windows can take less time than a checkpoint. By default none is left out. What is written then depends
    /// on the clock, what is trained does not.
    pub fn share_of_time(mut self, share: f64) -> Self {
        self.share_of_time = share;
        self
    }

    /// Whether one is due, so many windows after the last one, which was written at `then` and took `took`.
    pub(crate) fn is_due(&self, windows: u64, then: Instant, took: Duration) -> bool {
        let share = match self.share_of_time {
            share if share > 0.0 && share < 1.0 => share,
            _ => 1.0,
        };
        self.every > 0
            && windows >= self.every
            && share * (then.elapsed() + took).as_secs_f64() >= took.as_secs_f64()
    }

    /// Keeps the newest `count` checkpoints, at least two and 2 by default, beside that of the best epoch.
    pub fn keep(mut self, count: usize) -> Self {
        self.keep = count.max(2);
        self
    }

    /// Adds something without which the run would be another one: a run that goes on with another value is refused. The strategy adds
    /// what it knows: shapes of all weights, number of sequences and steps, settings of the training loop, kind of the policy,
    /// device, epochs. Add what only the program knows, above all a hash of the data:
    ///
    /// ```
    /// use atbptt_train::CheckpointConfig;
    /// use atbptt_train::data::{Corpus, SyntheticConfig};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
    /// let checkpoints = CheckpointConfig::new("runs/1")
    ///     .must_match("data", corpus.fingerprint())
    ///     .may_change("run folder", "runs/1");
    /// # let _ = checkpoints;
    /// # Ok(()) }
    /// ```
    pub fn must_match(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.identity = self.identity.must_match(name, value);
        self
    }

    /// Adds something that may differ when the run goes on, and is then listed.
    pub fn may_change(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.identity = self.identity.may_change(name, value);
        self
    }

    pub(crate) fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Any text that the program needs to set the run up again.
    pub fn with_settings(mut self, settings: impl Into<String>) -> Self {
        self.settings = settings.into();
        self
    }

    pub(crate) fn folder(&self) -> PathBuf {
        folder_of(&self.run)
    }
}

const EXTENSION: &str = "ckpt";

fn folder_of(run: &Path) -> PathBuf {
    run.join("checkpoint")
}

/// A checkpoint's file name: `epoch-3-step-1200.ckpt` at the end of an epoch, `step-1250.ckpt` within one.
pub(crate) fn name_of(epoch: usize, complete: bool, step: u64) -> String {
    match complete {
        true => format!("epoch-{epoch}-step-{step}.{EXTENSION}"),
        false => format!("step-{step}.{EXTENSION}"),
    }
}

/// The order in which the run wrote them: by number of windows, and the end of an epoch after a checkpoint within it.
type Age = (u64, usize);

fn age(path: &Path) -> Option<Age> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let number = |text: &str| text.parse::<u64>().ok();
    match stem.strip_prefix("epoch-") {
        Some(rest) => {
            let (epoch, step) = rest.split_once("-step-")?;
            Some((
                number(step)?,
                usize::try_from(number(epoch)?).ok()?.checked_add(1)?,
            ))
        }
        None => Some((number(stem.strip_prefix("step-")?)?, 0)),
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

pub(super) fn list(run: &Path) -> Vec<PathBuf> {
    sorted(&folder_of(run))
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Age, PathBuf)> = entries(folder)
        .filter_map(|path| Some((age(&path)?, path)))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

pub(super) fn end_of_epoch(run: &Path, epoch: usize) -> Option<PathBuf> {
    let end = epoch.checked_add(1)?;
    let of_epoch = |path: &PathBuf| age(path).is_some_and(|(_, found)| found == end);
    list(run).into_iter().find(of_epoch)
}

/// Epoch with the lowest validation loss.
pub(crate) fn best_epoch(reports: &[EpochReport]) -> Option<usize> {
    reports
        .iter()
        .filter_map(|report| Some((report.epoch, report.valid_loss?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(epoch, _)| epoch)
}

/// Removes what is neither among the newest nor the best; what cannot be removed stays, with a warning.
pub(crate) fn prune(config: &CheckpointConfig, newest: &Path, reports: &[EpochReport]) {
    let best = best_epoch(reports).and_then(|epoch| end_of_epoch(&config.run, epoch));
    let Some(written) = age(newest) else { return };
    // Newer ones are of a course of the run that was left: a restart from an older checkpoint.
    let all = list(&config.run);
    let (left, course): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|path| age(path).is_some_and(|age| age > written));
    let outdated = course.into_iter().skip(config.keep.max(2)).chain(left);
    for path in outdated.filter(|path| Some(path) != best.as_ref()) {
        if let Err(error) = std::fs::remove_file(&path) {
            log::warn!("the outdated {} stays: {error}", path.display());
        }
    }
}

/// Removes files that a killed run left half written.
pub(crate) fn remove_temporary(folder: &Path) {
    let half_written = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_suffix(crate::files::TEMPORARY))
            .is_some_and(|name| name.ends_with(&format!(".{EXTENSION}")))
    };
    for path in entries(folder).filter(half_written) {
        if let Err(error) = std::fs::remove_file(&path) {
            log::warn!("the unfinished {} stays: {error}", path.display());
        }
    }
}

/// What to do about a fault of the checkpoint at `path`: the newest older one that is whole is named.
pub(super) fn remedy(path: &Path, fault: &CheckpointFault) -> String {
    match fault {
        CheckpointFault::Mismatch { what, .. } => {
            return format!(
                "the file is whole: build the {what} with the kind and sizes it was written with"
            );
        }
        CheckpointFault::OtherRun { differences } => {
            let any = |names: &[&str]| differences.iter().any(|d| names.contains(&d.name.as_str()));
            let mut remedy =
                "resume with the data and settings it was written with, or start a new run"
                    .to_owned();
            if any(&["learning rate", "schedule"]) {
                remedy += "; `with_new_learning_rate` allows another learning rate";
            }
            if any(&[STEPS]) {
                remedy += "; `with_more_data` allows data that were appended to";
            }
            if any(&[READ_LAST]) {
                remedy += "; from the end of an epoch, a run goes on with data cut otherwise";
            }
            return remedy;
        }
        CheckpointFault::Version { found, supported } if found > supported => {
            return "use the version of this library that wrote it, or a newer one".into();
        }
        _ => {}
    }
    let older = path.parent().and_then(|folder| {
        let this = age(path);
        sorted(folder)
            .into_iter()
            .filter(|other| other != path && (this.is_none() || age(other) < this))
            .find(|other| Checkpoint::read(other).is_ok())
    });
    match older {
        Some(older) => format!(
            "the one before it is whole: resume from {}",
            older.display()
        ),
        None => "no older one of this run is whole: restore the file, or start a new run".into(),
    }
}
