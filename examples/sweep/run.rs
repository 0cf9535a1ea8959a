//! One training run of a sweep: its options, its folder and its process.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use atbptt::train::Checkpoint;

use super::policy::Policy;
use super::spec::Spec;

/// Where a process learns how many threads it may use.
const THREADS: &str = "RAYON_NUM_THREADS";

/// One training run.
#[derive(Clone, Debug)]
pub struct Run {
    pub policy: Policy,
    pub seed: u64,
    /// Options of the program that are this run's own, but for seed and folder.
    pub arguments: Vec<String>,
    pub folder: PathBuf,
}

impl Run {
    /// A run writes `result.json` last.
    pub fn is_done(&self) -> bool {
        self.folder.join("result.json").is_file()
    }

    /// As messages call it.
    pub fn name(&self) -> String {
        format!("{}, seed {}", self.policy, self.seed)
    }

    pub fn log(&self) -> PathBuf {
        beside(&self.folder, ".log")
    }

    /// Notes that the run failed, and why.
    pub fn mark_failed(&self, why: &str) {
        // A mark that cannot be written is only missed: the run then counts as one that is left.
        let _ = fs::write(beside(&self.folder, FAILED), why);
    }

    /// Starts the run, or goes on with it where it was interrupted.
    pub fn start(&self, program: &Path, spec: &Spec, threads: usize) -> io::Result<Child> {
        let _ = fs::remove_file(beside(&self.folder, FAILED));
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(program);
        match Checkpoint::list(&self.folder).is_empty() {
            false => command.arg("--resume").arg(&self.folder),
            true => command
                .args(&spec.arguments)
                .args(&self.arguments)
                .args(["--seed", &self.seed.to_string()])
                .arg("--out")
                .arg(&self.folder),
        };
        if std::env::var_os(THREADS).is_none() {
            command.env(THREADS, threads.to_string());
        }
        // Away from the terminal's signals: the sweep passes on what it gets, from whom ever.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }

    /// Epochs finished, as the run's metrics tell.
    pub fn epochs(&self) -> usize {
        fs::read_to_string(self.folder.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
    }
}

const FAILED: &str = ".failed";

/// Whether the last try of the run in `folder` failed.
pub fn has_failed(folder: &Path) -> bool {
    beside(folder, FAILED).is_file()
}

/// (`with_extension` would take the `.9-seed1` of `adaptive-0.9-seed1` for one.)
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut path = folder.to_owned().into_os_string();
    path.push(ending);
    path.into()
}
