//! The beginning and the end of a run of an experiment program.

use std::fmt::Display;
use std::process::ExitCode;

use atbptt::models::RecurrentModel;
use atbptt::prelude::*;
use atbptt::train::Checkpoint;
use atbptt::train::run::{Run, RunFolder, RunResult, RunSummary};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::diagnostics::diagnose;
use super::options::{Plan, RunArgs};
use super::rule::watched;
use super::{Result, say};

/// Settings of a run as its folder holds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings<T> {
    /// Data and model.
    pub task: T,
    pub plan: Plan,
}

impl<T: Serialize> Settings<T> {
    /// The run that these settings stand for.
    pub fn run<M: RecurrentModel>(&self) -> Run<M> {
        let plan = &self.plan;
        let run = Run::new(plan.policy.clone())
            .with_training(plan.training.clone())
            .with_epochs(plan.epochs);
        let run = match plan.checkpoint_every {
            Some(windows) => run.with_checkpoint_every(windows),
            None => run,
        };
        run.on_non_finite(plan.on_non_finite)
            .must_match("weight decay", plan.weight_decay)
            .with_settings(self)
            .stop_on_signals()
    }
}

/// A run about to begin: a new one, or an earlier one to go on with.
pub struct Start<T> {
    pub settings: Settings<T>,
    /// What it goes on from in another folder than the earlier run's.
    elsewhere: Option<Checkpoint>,
    /// The earlier run's own folder.
    folder: Option<RunFolder>,
}

impl<T: DeserializeOwned> Start<T> {
    /// `options` puts what the user asked for into the settings: those of `new`, or those of the run to go on with. Whether
    /// that can go on with them is checked later.
    pub fn new(
        run: &RunArgs,
        new: impl FnOnce() -> Settings<T>,
        options: impl FnOnce(Settings<T>) -> Result<Settings<T>>,
    ) -> Result<Self> {
        let earlier = run.resume.as_ref().map(Checkpoint::find).transpose()?;
        let settings = options(match &earlier {
            Some(earlier) => earlier.settings_as()?,
            None => new(),
        })?;
        settings.plan.check()?;
        // A run that goes on in its own folder holds it from now on.
        let (elsewhere, folder) = match (earlier, &run.out) {
            (Some(earlier), None) => (None, Some(RunFolder::go_on(earlier)?)),
            (earlier, _) => (earlier, None),
        };
        Ok(Self {
            settings,
            elsewhere,
            folder,
        })
    }

    /// Whether it goes on with an earlier run.
    pub fn is_resumed(&self) -> bool {
        self.elsewhere.is_some() || self.folder.is_some()
    }

    /// The folder of the run: made where it is a new one, once there is nothing left that could be wrong with the options.
    pub fn folder(&mut self, run: &RunArgs, program: &str) -> Result<RunFolder> {
        Ok(
            match (self.folder.take(), self.elsewhere.take(), &run.out) {
                (Some(folder), _, _) => folder,
                (None, Some(earlier), Some(out)) => RunFolder::go_on_in(out, earlier)?,
                (None, Some(earlier), None) => RunFolder::go_on(earlier)?,
                (None, None, Some(out)) => RunFolder::create(out)?,
                (None, None, None) => RunFolder::numbered("runs", program)?,
            },
        )
    }
}

/// The last lines of what a run says before it trains, on which devices, by which rule for K, and where it writes.
pub fn announce(devices: &impl Display, plan: &Plan, folder: &RunFolder) {
    say(format_args!("device:  {devices}"));
    say(format_args!("K:       {}", plan.in_words()));
    say(format_args!("run:     {}\n", folder.path().display()));
}

/// Looks closer at the model of a complete run, if its bias was measured at all, and tells its outcome in the program's words.
///
/// `parts` names the parts of the model's state, such as `layer 1, hidden`.
pub fn finish<M: RecurrentModel>(
    result: RunResult<M>,
    train: &dyn SequenceSource<Batch = M::Batch>,
    plan: &Plan,
    parts: &[String],
    outcome: impl FnOnce(&RunSummary) -> String,
) -> Result<ExitCode> {
    if result.interrupted {
        say(&result);
        return Ok(result.exit_code());
    }
    let (code, folder) = (result.exit_code(), result.folder);
    if let (Some(device), Some(_)) = (
        result.model.devices().into_iter().next(),
        watched(&plan.policy)?,
    ) {
        // Burn gives the model back in evaluation mode.
        let device = match device.is_autodiff() {
            true => device,
            false => device.autodiff(),
        };
        diagnose(&result.model.train(), train, plan, &folder, parts, &device)?;
    }
    if let Some(summary) = &result.summary {
        // Of a run that goes on in another folder, or somebody may have removed it.
        if Checkpoint::end_of_epoch(folder.path(), summary.best_epoch).is_none() {
            eprintln!(
                "warning: the checkpoint of epoch {}, the best one, is not in {}",
                summary.best_epoch,
                folder.path().display()
            );
        }
        say(outcome(summary));
    }
    Ok(code)
}
