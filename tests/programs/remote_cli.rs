//! Training on the devices of other processes, as a user starts it: `serve` here, `wiki2 --devices ws://…` there.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atbptt::train::Checkpoint;

use crate::common::programs::{assert_alike, command, example, failure, success};
use crate::common::servers::Server;

/// A run of 19 windows an epoch on the built-in corpus.
fn tiny(program: &Path, devices: &str, run: &Path) -> Command {
    let mut command = command(program);
    command
        .args([
            "--builtin",
            "--no-tui",
            "--max-tokens",
            "6000",
            "--hidden",
            "16",
        ])
        .args([
            "--window",
            "50",
            "--epochs",
            "2",
            "--checkpoint-every",
            "5",
            "--devices",
            devices,
            "--out",
        ])
        .arg(run);
    command
}

#[test]
fn wiki2_trains_on_two_servers_and_goes_on_after_one_of_them_has_died() {
    let program = example("wiki2").expect("build the examples first");
    let folder = tempfile::tempdir().unwrap();
    let [local, remote, broken] =
        ["local", "remote", "broken"].map(|name| folder.path().join(name));
    success(&tiny(&program, "flex", &local).output().unwrap());

    let servers = [Server::start("flex"), Server::start("flex")];
    let names = servers.each_ref().map(Server::address).join(",");
    let started = Instant::now();
    let said = success(&tiny(&program, &names, &remote).output().unwrap());
    println!(
        "trained on two servers in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    for server in &servers {
        // Where it trained, on which sequences, and for which share of the time.
        assert!(said.matches(server.address()).count() >= 2, "{said}");
    }
    assert_alike(&remote, &local);

    let [first, mut second] = servers;
    let child = tiny(&program, &names, &broken)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Burn's client waits in a loop for its own threads: where all cores are at work, a window may take seconds.
    let saved = || Checkpoint::newest(&broken).map_or(0, |newest| newest.step());
    let (mut at, mut since) = (0, Instant::now());
    while at < 10 {
        let now = saved();
        if now > at {
            (at, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < Duration::from_secs(120),
            "no checkpoint after that of window {at}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    second.kill();
    let killed = Instant::now();
    let error = failure(&child.wait_with_output().unwrap());
    println!(
        "{error}{:.1} s after it died",
        killed.elapsed().as_secs_f64()
    );
    let checkpoint = Checkpoint::newest(&broken).unwrap();
    for part in [
        second.address(),
        "no longer answers",
        &checkpoint.path().display().to_string(),
        "resume",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    assert!(checkpoint.step() < 38);

    // On the server that is left, and a local copy of the work.
    let resumed = command(&program)
        .args(["--no-tui", "--devices", first.address(), "--resume"])
        .arg(&broken)
        .output()
        .unwrap();
    success(&resumed);
    assert_alike(&broken, &local);
}

/// Before any data are read: there is no folder at all.
#[test]
fn a_server_that_is_not_there_is_named_before_the_corpus_is_read() {
    let program = example("wiki2").expect("build the examples first");
    for (name, part) in [
        ("ws://127.0.0.1:1", "no server answers at ws://127.0.0.1:1"),
        ("http://127.0.0.1:1", "must begin with `ws://`"),
        ("ws://127.0.0.1", "it has no port"),
    ] {
        let started = Instant::now();
        let output = command(&program)
            .args(["--no-tui", "--data", "no-such-folder", "--devices", name])
            .output()
            .unwrap();
        let error = failure(&output);
        assert!(error.contains(part), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5), "{error}");
    }
}
