//! A terminal that is closed during a run: checkpoint, status 129, and nothing lost.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atbptt::train::Checkpoint;
use nix::pty::openpty;

use crate::common::programs::{command, example, outcome, signal, success};

fn arguments(run: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = [
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
        "--out",
    ]
    .map(String::from)
    .to_vec();
    arguments.push(run.display().to_string());
    arguments
}

/// The program on a terminal of its own; the terminal's other end.
fn on_terminal(mut command: Command) -> (Child, OwnedFd) {
    let terminal = openpty(None, None).unwrap();
    let end = || Stdio::from(terminal.slave.try_clone().unwrap());
    let child = command
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(command); // it holds ends of its own
    // Somebody must read, or the program waits for room.
    let mut reader = File::from(terminal.master.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    (child, terminal.master)
}

/// Waits until the run has its first checkpoint, and with it its handlers.
fn wait_for_start(run: &Path) {
    let started = Instant::now();
    while Checkpoint::list(run).is_empty() {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "no checkpoint"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this process was started under `nohup`, and with it every program it starts.
fn under_nohup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

/// Kernel and shell both say that a terminal is gone, so the signal comes twice.
#[test]
fn a_closed_terminal_ends_a_run_with_a_checkpoint_and_status_129() {
    if under_nohup() {
        return println!("skipped: under nohup, programs go on when their terminal is closed");
    }
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [whole, closed] = ["whole", "closed"].map(|name| folder.path().join(name));
    success(&command(&program).args(arguments(&whole)).output().unwrap());

    let mut on = command(&program);
    on.args(arguments(&closed));
    let (mut child, _terminal) = on_terminal(on);
    wait_for_start(&closed);
    signal(&child, "-HUP");
    signal(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(129));
    let stopped = Checkpoint::newest(&closed).unwrap();
    assert!(stopped.epochs() < 2, "ended before the signal came");

    let resumed = command(&program)
        .args(["--no-tui", "--resume"])
        .arg(&closed)
        .output();
    success(&resumed.unwrap());
    assert_eq!(outcome(&closed), outcome(&whole));
}

#[test]
fn a_run_under_nohup_goes_on() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(&program)
        .args(arguments(&run))
        .env("BURN_DEVICE", "flex")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_start(&run);
    signal(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(Checkpoint::newest(&run).unwrap().epochs(), 2);
}
