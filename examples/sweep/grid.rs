//! The runs of a sweep: which are done, which are left, and their processes.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::run::Run;
use super::spec::Spec;

/// What the runs of a folder were started with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Started {
    program: String,
    arguments: Vec<String>,
}

impl Started {
    fn in_words(&self) -> String {
        format!("{} {}", self.program, self.arguments.join(" "))
    }
}

/// Refuses a folder whose runs were started with another program or other arguments: they would stand in one table.
pub fn check_started(spec: &Spec, out: &Path) -> Result<(), String> {
    let path = out.join(STARTED);
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(());
    };
    let before: Started = serde_json::from_str(&text).map_err(|error| {
        format!(
            "{}: {error}; name another folder with --out",
            path.display()
        )
    })?;
    let now = started(spec);
    match before == now {
        true => Ok(()),
        false => Err(format!(
            "{} holds runs of `{}`, and the file now asks for `{}`; name another folder with --out",
            out.display(),
            before.in_words(),
            now.in_words()
        )),
    }
}

/// Notes what the runs of a folder are started with.
pub fn note_started(spec: &Spec, out: &Path) -> Result<(), String> {
    let path = out.join(STARTED);
    let text = serde_json::to_string_pretty(&started(spec)).map_err(|error| error.to_string())?;
    fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

const STARTED: &str = "sweep.json";

fn started(spec: &Spec) -> Started {
    Started {
        program: spec.program.clone(),
        arguments: spec.arguments.clone(),
    }
}

/// How a sweep's processes ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Names and logs of the runs that failed.
    pub failed: Vec<String>,
    /// Their folders.
    pub failed_folders: Vec<PathBuf>,
    pub interrupted: bool,
}

/// Runs what is not done yet, `jobs` processes at a time. `signals` counts those that asked for an end: each is passed on to
/// the runs, which write a checkpoint and end on the first and end at once on the second. `what` is said of the runs.
pub fn execute(
    spec: &Spec,
    what: &str,
    program: &Path,
    runs: &[Run],
    jobs: usize,
    signals: &AtomicUsize,
) -> Outcome {
    let mut left: VecDeque<&Run> = runs.iter().filter(|run| !run.is_done()).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / jobs.min(left.len()).max(1)).max(1);
    let bars = MultiProgress::new();
    let style = |template: &str| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    let total = bars.add(ProgressBar::new(runs.len() as u64));
    total.set_style(style("{msg} [{bar:30}] {pos}/{len} runs, {elapsed}").progress_chars("=> "));
    total.set_message(format!("{}, {what}", spec.title));
    total.set_position((runs.len() - left.len()) as u64);

    let mut active: Vec<(&Run, Child, ProgressBar)> = Vec::new();
    let mut outcome = Outcome::default();
    let mut passed_on = 0;
    while !(left.is_empty() && active.is_empty()) {
        if signals.load(Ordering::Relaxed) > passed_on {
            passed_on += 1;
            outcome.interrupted = true;
            left.clear();
            for (_, child, _) in &mut active {
                interrupt(child);
            }
        }
        while active.len() < jobs {
            let Some(run) = left.pop_front() else { break };
            match run.start(program, spec, threads) {
                Ok(child) => {
                    let bar = bars.add(ProgressBar::new_spinner());
                    bar.set_style(style("  {spinner} {msg}"));
                    active.push((run, child, bar));
                }
                Err(error) => {
                    outcome.failed.push(format!(
                        "{} cannot be started: {error} ({}, {})",
                        run.name(),
                        program.display(),
                        run.log().display()
                    ));
                    run.mark_failed(&error.to_string());
                    outcome.failed_folders.push(run.folder.clone());
                }
            }
        }
        let mut still = Vec::new();
        for (run, mut child, bar) in active {
            let ended = match child.try_wait() {
                Ok(None) => {
                    bar.set_message(format!("{}, epoch {}", run.name(), run.epochs() + 1));
                    bar.tick();
                    still.push((run, child, bar));
                    continue;
                }
                Ok(Some(status)) => format!("ended with {status}"),
                Err(error) => format!("is lost: {error}"),
            };
            bar.finish_and_clear();
            total.inc(1);
            if !run.is_done() && !outcome.interrupted {
                let log = run.log();
                let why = reason(&log);
                outcome
                    .failed
                    .push(format!("{} {ended}: {why} ({})", run.name(), log.display()));
                run.mark_failed(&why);
                outcome.failed_folders.push(run.folder.clone());
            }
        }
        active = still;
        std::thread::sleep(Duration::from_millis(200));
    }
    total.finish_and_clear();
    outcome
}

/// Asks a run to end.
fn interrupt(child: &mut Child) {
    #[cfg(unix)]
    {
        use nix::sys::signal::{Signal, kill};
        let process = i32::try_from(child.id()).map(nix::unistd::Pid::from_raw);
        // It may have ended meanwhile.
        let _ = process.map(|process| kill(process, Signal::SIGINT));
    }
    #[cfg(not(unix))]
    let _ = child.kill();
}

/// What a run's log says last about an error, or at all.
fn reason(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let error = text.lines().rev().find(|line| line.starts_with("error: "));
    error
        .or(text.lines().last())
        .unwrap_or("no output")
        .to_owned()
}
