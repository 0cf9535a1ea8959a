//! The runs of a sweep: which are done, which are left, and their processes.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atbptt::train::Checkpoint;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::spec::{Policy, Spec};

/// One training run.
#[derive(Clone, Debug)]
pub struct Run {
    pub policy: Policy,
    pub seed: u64,
    pub folder: PathBuf,
}

/// All runs, the first seed of every policy before the second of any.
pub fn runs(spec: &Spec, out: &Path) -> Vec<Run> {
    let of_seed = |&seed: &u64| {
        spec.policies.iter().map(move |&policy| Run {
            policy,
            seed,
            folder: out.join(format!("{}-seed{seed}", policy.key().replace(' ', "-"))),
        })
    };
    spec.seeds.iter().flat_map(of_seed).collect()
}

impl Run {
    /// A run writes `result.json` last.
    pub fn is_done(&self) -> bool {
        self.folder.join("result.json").is_file()
    }

    fn name(&self) -> String {
        format!("{}, seed {}", self.policy, self.seed)
    }

    /// Beside the folder. (`with_extension` would take the `.9-seed1` of `adaptive-0.9-seed1` for one.)
    fn log(&self) -> PathBuf {
        let mut path = self.folder.clone().into_os_string();
        path.push(".log");
        path.into()
    }

    /// Starts the run, or goes on with it where it was interrupted.
    fn start(&self, program: &Path, spec: &Spec, threads: usize) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(program);
        match Checkpoint::list(&self.folder).is_empty() {
            false => command.arg("--resume").arg(&self.folder),
            true => command
                .args(&spec.arguments)
                .args(self.policy.arguments())
                .args(["--seed", &self.seed.to_string()])
                .arg("--out")
                .arg(&self.folder),
        };
        command
            .env("RAYON_NUM_THREADS", threads.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }

    /// Epochs finished, as the run's metrics tell.
    fn epochs(&self) -> usize {
        fs::read_to_string(self.folder.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
    }
}

/// How a sweep's processes ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Names and logs of the runs that failed.
    pub failed: Vec<String>,
    pub interrupted: bool,
}

/// Runs what is not done yet, `jobs` processes at a time.
pub fn execute(
    spec: &Spec,
    program: &Path,
    runs: &[Run],
    jobs: usize,
    stop: &AtomicBool,
) -> io::Result<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / jobs).max(1);
    let bars = MultiProgress::new();
    let style = |template: &str| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    let total = bars.add(ProgressBar::new(runs.len() as u64));
    total.set_style(style("{msg} [{bar:30}] {pos}/{len} runs, {elapsed}").progress_chars("=> "));
    total.set_message(spec.title.clone());
    let done = runs.iter().filter(|run| run.is_done()).count();
    total.set_position(done as u64);

    let mut left: VecDeque<&Run> = runs.iter().filter(|run| !run.is_done()).collect();
    let mut active: Vec<(&Run, Child, ProgressBar)> = Vec::new();
    let mut outcome = Outcome::default();
    let mut stopping: Option<Instant> = None;
    while !(left.is_empty() && active.is_empty()) {
        if stop.load(Ordering::Relaxed) && stopping.is_none() {
            stopping = Some(Instant::now());
            outcome.interrupted = true;
            left.clear();
        }
        while active.len() < jobs {
            let Some(run) = left.pop_front() else { break };
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style("  {spinner} {msg}"));
            active.push((run, run.start(program, spec, threads)?, bar));
        }
        let mut still = Vec::new();
        for (run, mut child, bar) in active {
            match child.try_wait()? {
                Some(status) => {
                    bar.finish_and_clear();
                    total.inc(1);
                    if !run.is_done() && !outcome.interrupted {
                        let log = run.log();
                        let why = last_line(&log);
                        outcome.failed.push(format!(
                            "{} ended with {status}: {why} ({})",
                            run.name(),
                            log.display()
                        ));
                    }
                }
                None => {
                    bar.set_message(format!("{}, epoch {}", run.name(), run.epochs() + 1));
                    bar.tick();
                    // Asked to stop by the terminal, a run writes a checkpoint and ends; without that it loses the epoch
                    // it is in.
                    if stopping.is_some_and(|since| since.elapsed() > Duration::from_secs(20)) {
                        child.kill()?;
                    }
                    still.push((run, child, bar));
                }
            }
        }
        active = still;
        std::thread::sleep(Duration::from_millis(200));
    }
    total.finish_and_clear();
    Ok(outcome)
}

fn last_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().last().unwrap_or("no output").to_owned()
}
