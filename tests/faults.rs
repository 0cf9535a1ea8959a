//! The `wiki2` example under what happens to long runs: kills, signals, full disks, folders that cannot be written, lost files.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use atbptt::models::LanguageModelConfig;
use atbptt::train::Checkpoint;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use common::{Model, bits, device, example, timeless};

const TINY: [&str; 13] = [
    "--builtin",
    "--no-tui",
    "--max-tokens",
    "12000",
    "--hidden",
    "16",
    "--epochs",
    "2",
    "--delta",
    "0.5",
    "--checkpoint-every",
    "3",
    "--out",
];

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("BURN_DEVICE", "flex")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command
}

/// A new run, or what is left of one. A run killed before its first checkpoint starts again.
fn go_on(program: &Path, run: &Path) -> Command {
    let mut command = command(program);
    match Checkpoint::list(run).is_empty() {
        true => command.args(TINY).arg(run),
        false => command.args(["--no-tui", "--resume"]).arg(run),
    };
    command
}

fn silent(mut command: Command) -> Child {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn whole_run(program: &Path, run: &Path) -> Duration {
    let started = Instant::now();
    let output = go_on(program, run).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    // On a machine that is busy just now, kills shall not come ever later.
    started.elapsed().min(Duration::from_secs(2))
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Weights, reports without times, and the policy with its history, of a finished run.
fn outcome(run: &Path) -> (Vec<u32>, String, String) {
    let last = Checkpoint::newest(run).unwrap();
    let words = last
        .identity()
        .differences(&atbptt::train::Identity::new())
        .0
        .into_iter()
        .find(|difference| difference.name.ends_with("embedding.weight"))
        .and_then(|shape| shape.saved)
        .unwrap();
    let words: usize = words
        .trim_start_matches('[')
        .split(',')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let template: Model = LanguageModelConfig::new(words)
        .with_hidden(16)
        .with_dropout(0.2)
        .init(&device())
        .unwrap();
    (
        bits(&last.model(template).unwrap()),
        format!("{:?}", timeless(last.reports())),
        serde_json::to_string(last.policy()).unwrap(),
    )
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Number of kills; `ATBPTT_KILLS` asks for more.
fn kills() -> usize {
    let asked = std::env::var("ATBPTT_KILLS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(30)
}

/// SIGKILL at random moments, several times in each run: weights, reports and K history end up the same to the last bit.
#[test]
fn runs_killed_by_sigkill_end_with_the_bits_of_one_that_was_not() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let length = whole_run(&program, &whole);
    let expected = outcome(&whole);
    let mut rng = Pcg64::seed_from_u64(9);
    let (mut killed, mut runs) = (0, 0);
    while killed < kills() {
        runs += 1;
        let run = folder.path().join(format!("killed-{runs}"));
        for _ in 0..6 {
            let mut child = silent(go_on(&program, &run));
            std::thread::sleep(length.mul_f64(rng.random_range(0.0..0.9)));
            let _ = child.kill(); // SIGKILL; an error says that it is over already
            killed += usize::from(child.wait().unwrap().code().is_none());
        }
        whole_run(&program, &run);
        assert_eq!(outcome(&run), expected, "run {runs}");
        fs::remove_dir_all(&run).unwrap();
    }
    println!("{killed} kills in {runs} runs");
}

/// SIGINT and SIGTERM at 20 moments: status 130 or 143, a checkpoint, and the same bits after resuming.
#[test]
fn signals_end_a_run_with_a_checkpoint_and_their_status() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let length = whole_run(&program, &whole);
    let expected = outcome(&whole);
    let mut rng = Pcg64::seed_from_u64(10);
    let mut stopped = 0;
    let mut run = folder.path().join("signalled-0");
    for moment in 0..20 {
        let (name, status) = [("-INT", 130), ("-TERM", 143)][moment % 2];
        let mut child = silent(go_on(&program, &run));
        // The program listens once it trains.
        let started = Instant::now();
        let before = Checkpoint::list(&run);
        while Checkpoint::list(&run) == before
            && child.try_wait().unwrap().is_none()
            && started.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(length.mul_f64(rng.random_range(0.0..0.2)));
        if child.try_wait().unwrap().is_none() {
            signal(&child, name);
        }
        let code = child.wait().unwrap().code();
        assert!(code == Some(status) || code == Some(0), "{name}: {code:?}");
        stopped += usize::from(code == Some(status));
        if code == Some(0) {
            assert_eq!(outcome(&run), expected);
            run = folder.path().join(format!("signalled-{}", moment + 1));
        }
    }
    if !Checkpoint::list(&run).is_empty() {
        whole_run(&program, &run);
        assert_eq!(outcome(&run), expected);
    }
    println!("{stopped} of 20 signals stopped a run, the others came after its end");
    assert!(stopped > 0);
}

/// A file system of its own, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn new(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder.to_owned())),
            _ => {
                println!("skipped: mounting a tmpfs is not permitted here");
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A run that ended because it could not write: an error that says so in one line, and a last checkpoint that is whole.
fn ended_for_want_of_a_disk(output: &Output, run: &Path) {
    let shown = words(output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(!shown.contains("panicked"), "{shown}");
    let last = Checkpoint::newest(run).unwrap();
    assert!(
        shown.contains("the last good one") && shown.contains(&last.path().display().to_string()),
        "{shown}"
    );
}

#[test]
fn a_full_disk_ends_the_run_with_its_last_checkpoint_whole() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    whole_run(&program, &plain);
    let expected = outcome(&plain);
    let size = fs::metadata(Checkpoint::newest(&plain).unwrap().path())
        .unwrap()
        .len();
    let Some(mount) = Mount::new(
        &folder.path().join("disk"),
        &format!("{}k", size * 3 / 1024),
    ) else {
        return;
    };
    let run = mount.0.join("run");
    let mut child = go_on(&program, &run);
    let output = child.output().unwrap();
    ended_for_want_of_a_disk(&output, &run);
    assert!(
        words(&output).contains("No space left"),
        "{}",
        words(&output)
    );
    // With space again, the run goes on to the same bits.
    mount.remount("size=64m");
    whole_run(&program, &run);
    assert_eq!(outcome(&run), expected);
}

#[test]
fn a_folder_that_becomes_read_only_ends_the_run_with_its_last_checkpoint_whole() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(&folder.path().join("disk"), "64m") else {
        return;
    };
    let run = mount.0.join("run");
    let child = go_on(&program, &run)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while Checkpoint::list(&run).len() < 2 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Mounted over itself, so that files open elsewhere in the run folder do not keep it writable.
    let checkpoints = Mount(run.join("checkpoint"));
    for options in [&["--bind"][..], &["-o", "remount,ro,bind"]] {
        let mut mount = Command::new("mount");
        mount.args(options);
        if options.len() == 1 {
            mount.arg(&checkpoints.0);
        }
        assert!(mount.arg(&checkpoints.0).status().unwrap().success());
    }
    let output = child.wait_with_output().unwrap();
    ended_for_want_of_a_disk(&output, &run);
    assert!(words(&output).contains("Read-only"), "{}", words(&output));
    drop(checkpoints);
    whole_run(&program, &run);

    // A folder that was read-only from the start: nothing is trained.
    mount.remount("ro");
    let other = command(&program)
        .args(TINY)
        .arg(mount.0.join("other"))
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(1), "{}", words(&other));
    assert!(
        words(&other).contains("name a writable folder"),
        "{}",
        words(&other)
    );
}

/// Files that vanish while the run goes on: metrics, old checkpoints, the folder of checkpoints itself.
#[test]
fn lost_files_cost_no_more_than_themselves() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (lost, ends_well) in [("train", true), ("checkpoint", false)] {
        let run = folder.path().join(lost);
        let child = go_on(&program, &run)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while Checkpoint::list(&run).len() < 2 && started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = fs::remove_dir_all(run.join(lost));
        let output = child.wait_with_output().unwrap();
        let shown = words(&output);
        assert!(!shown.contains("panicked"), "{shown}");
        assert!(output.status.success() || !ends_well, "{shown}");
        if !ends_well && !output.status.success() {
            assert!(shown.contains("checkpoint"), "{shown}");
        }
    }
}
