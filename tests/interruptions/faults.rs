//! The `wiki2` example under what happens to long runs: kills, signals, full disks, folders that cannot be written, lost files.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use atbptt::train::Checkpoint;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::common::programs::{command, example, outcome, signal, words};

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

/// A new run, or what is left of one. A run killed before its first checkpoint starts again.
fn go_on(program: &Path, run: &Path) -> Command {
    let mut command = command(program);
    match Checkpoint::list(run).is_empty() {
        true => command.args(TINY).arg(run),
        false => command.args(["--no-tui", "--resume"]).arg(run),
    };
    command
}

/// Until a run that is under way has written so many checkpoints, or a minute at most.
fn wait_for_checkpoints(run: &Path, count: usize) {
    let started = Instant::now();
    let written = |run: &Path| {
        let newest = Checkpoint::list(run).into_iter().next();
        let step = newest
            .and_then(|path| Checkpoint::open(path).ok())
            .map(|last| last.step());
        step.map_or(0, |step| 1 + step as usize / 3)
    };
    while written(run) < count && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
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
    wait_for_checkpoints(&run, 2);
    // Mounted over itself, so that files open elsewhere in the run folder do not keep it writable.
    let checkpoints = Mount(run.join("checkpoint"));
    let mounted = |options: &[&str]| {
        let mut mount = Command::new("mount");
        mount.args(options).arg(&checkpoints.0);
        mount.stderr(Stdio::null()).status().unwrap().success()
    };
    let itself = checkpoints.0.to_str().unwrap();
    assert!(mounted(&["--bind", itself]));
    // Busy while a checkpoint is being written.
    let read_only = (0..500).any(|_| mounted(&["-o", "remount,ro,bind"]));
    assert!(read_only, "still busy after 500 attempts");
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
        words(&other).contains("choose a folder that can be written to"),
        "{}",
        words(&other)
    );
}

/// The same by permissions alone, as most users meet it. Root may write anywhere, so root's child runs as another user.
#[test]
fn a_folder_that_may_not_be_written_to_any_more_ends_the_run_with_its_last_checkpoint_whole() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(folder.path(), 0o777);
    // Where that user can read it.
    let copy = folder.path().join("wiki2");
    fs::copy(&program, &copy).unwrap();
    allow(&copy, 0o755);
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let run = folder.path().join("run");
    let go_on = || {
        let mut command = go_on(&copy, &run);
        command
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if is_root {
            command.uid(NOBODY);
        }
        command
    };
    let child = go_on().spawn().unwrap();
    wait_for_checkpoints(&run, 2);
    let checkpoints = run.join("checkpoint");
    allow(&checkpoints, 0o555);
    let output = child.wait_with_output().unwrap();
    ended_for_want_of_a_disk(&output, &run);
    assert!(words(&output).contains("ermission"), "{}", words(&output));
    allow(&checkpoints, 0o755);
    let output = go_on().output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    let whole = folder.path().join("whole");
    whole_run(&program, &whole);
    assert_eq!(outcome(&run), outcome(&whole));
}

/// Files that vanish while the run goes on: metrics, or all checkpoints with their folder. The run goes on and ends with the
/// bits of any other.
#[test]
fn lost_files_cost_no_more_than_themselves() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    whole_run(&program, &whole);
    let expected = outcome(&whole);
    for lost in ["train", "checkpoint"] {
        let run = folder.path().join(lost);
        let child = go_on(&program, &run)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_checkpoints(&run, 2);
        // Files written meanwhile can keep the folder; then it is tried again.
        let removed = (0..100).any(|_| fs::remove_dir_all(run.join(lost)).is_ok());
        assert!(removed, "{lost} stayed");
        let output = child.wait_with_output().unwrap();
        let shown = words(&output);
        assert!(!shown.contains("panicked"), "{shown}");
        // The best epoch's weights may have been among what was lost: said so, and all there is to it.
        let best_lost = shown.contains("the best one, is gone");
        assert!(output.status.success() || best_lost, "{shown}");
        assert!(lost == "checkpoint" || !best_lost, "{shown}");
        assert_eq!(outcome(&run), expected, "{lost}");
    }
}

/// The clock jumps back by 40 days and forth by a year while a run goes on, and is wrong by ten years when it is resumed.
#[test]
fn clocks_that_jump_change_nothing() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let places = ["/usr/lib", "/usr/local/lib", "/usr/lib64"];
    let library = places.iter().flat_map(|place| {
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        [
            format!("{place}/{triple}/faketime"),
            format!("{place}/faketime"),
        ]
    });
    let library = library
        .map(|folder| PathBuf::from(folder).join("libfaketimeMT.so.1"))
        .find(|file| file.is_file());
    let Some(library) = library else {
        println!("skipped: libfaketime is not installed (Debian: faketime)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    whole_run(&program, &whole);
    let expected = outcome(&whole);
    let time = folder.path().join("time");
    let run = folder.path().join("run");
    let clock = |shift: &str| {
        // Renamed into place: never read half written.
        let next = folder.path().join("next");
        fs::write(&next, shift).unwrap();
        fs::rename(next, &time).unwrap();
    };
    let faked = || {
        let mut command = go_on(&program, &run);
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", &time)
            .env("FAKETIME_NO_CACHE", "1")
            // The clock that is set, not the one that counts from the start of the machine.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    };
    clock("+0");
    let child = faked().spawn().unwrap();
    for (checkpoints, shift) in [(1, "-40d"), (2, "+365d")] {
        wait_for_checkpoints(&run, checkpoints);
        clock(shift);
    }
    wait_for_checkpoints(&run, 3);
    signal(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    let code = output.status.code();
    assert!(code == Some(143) || code == Some(0), "{}", words(&output));
    clock("-3650d");
    let output = faked().output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(outcome(&run), expected);
    let epochs = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    for line in epochs.lines() {
        let epoch: serde_json::Value = serde_json::from_str(line).unwrap();
        let seconds = epoch["train_seconds"].as_f64().unwrap();
        assert!((0.0..600.0).contains(&seconds), "{line}");
    }
}
