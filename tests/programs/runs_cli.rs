//! A run of a program as a user meets it: what it leaves in its folder, how it goes on, and what it refuses to go on with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::fs;
use std::path::{Path, PathBuf};

use atbptt::train::Checkpoint;

use crate::common::programs::{command, example, failure, success};

/// A tiny copy task: memory 3, five units, 200 steps.
pub const TINY: [&str; 10] = [
    "--memory", "3", "--steps", "200", "--hidden", "5", "--batch", "4", "--window", "30",
];

/// Losses, K and measures per epoch, as written.
pub fn epochs(run: &Path) -> Vec<[String; 4]> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        ["train_loss", "valid_loss", "k", "measures"].map(|name| row[name].to_string())
    };
    text.lines().map(row).collect()
}

pub fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_copy_run_writes_metrics_checkpoints_figures_and_its_result() {
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = command(&copy)
        .args(TINY)
        .args([
            "--epochs", "3", "--delta", "0.9", "--k0", "4", "--k-max", "20", "--out",
        ])
        .arg(&run)
        .output()
        .unwrap();
    let shown = success(&output);
    assert!(shown.contains("test perplexity"), "{shown}");
    for figure in ["report.png", "profiles.png", "lag_profile.png"] {
        let png = fs::read(run.join(figure)).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000, "{figure}");
    }
    assert_eq!(epochs(&run).len(), 3);
    let table = fs::read_to_string(run.join("metrics.csv")).unwrap();
    let head = table.lines().next().unwrap();
    assert!(
        head.starts_with("epoch,step,train_loss") && head.ends_with("test_perplexity"),
        "{head}"
    );
    assert_eq!(table.lines().count(), 4);
    let profiles = fs::read_to_string(run.join("profiles.csv")).unwrap();
    assert_eq!(profiles.lines().count(), 32, "a head and lags 0 to 30");
    assert!(profiles.contains("layer 2, cell"));
    // The result is the best validation epoch's.
    let result = json(run.join("result.json"));
    let best = epochs(&run)
        .iter()
        .map(|row| row[1].parse::<f64>().unwrap())
        .fold(f64::INFINITY, f64::min);
    assert_eq!(result["valid_loss"].as_f64(), Some(best));
    assert!(result["measures"]["test_perplexity"].as_f64().unwrap() > 1.0);
    // A second run into the same folder loses nothing.
    let again = command(&copy)
        .args(TINY)
        .arg("--out")
        .arg(&run)
        .output()
        .unwrap();
    assert!(failure(&again).contains("already holds a run"));
}

/// Two epochs, then resumed to four: what four at a stretch give, to the last bit. For every policy.
#[test]
fn a_resumed_copy_run_goes_on_exactly() {
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    for policy in [
        ["--delta", "0.5"],
        ["--fixed-k", "5"],
        ["--chunked-k", "5"],
        ["--random-k", "6"],
        ["--artbp-k", "4"],
    ] {
        let (whole, parts) = (
            folder.path().join(format!("{}-whole", policy[0])),
            folder.path().join(format!("{}-parts", policy[0])),
        );
        let start = |epochs: &str, out: &Path| {
            let mut run = command(&copy);
            run.args(TINY)
                .args(policy)
                .args(["--quiet", "--k0", "4", "--k-max", "20"]);
            success(
                &run.args(["--epochs", epochs, "--out"])
                    .arg(out)
                    .output()
                    .unwrap(),
            );
        };
        start("4", &whole);
        start("2", &parts);
        let mut resumed = command(&copy);
        resumed
            .args(["--quiet", "--epochs", "4", "--resume"])
            .arg(&parts);
        success(&resumed.output().unwrap());
        assert_eq!(epochs(&whole), epochs(&parts), "{policy:?}");
    }
}

/// Nothing is probed; two epochs, then resumed to three, are three at a stretch: the influence that is carried is in the checkpoint.
#[test]
fn a_snap1_run_says_what_it_is_and_goes_on_exactly() {
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let start = |epochs: &str, name: &str| {
        let run = folder.path().join(name);
        let mut start = command(&copy);
        start.args([
            "--memory", "2", "--steps", "200", "--hidden", "5", "--batch", "4", "--layers", "1",
            "--snap", "4", "--epochs", epochs, "--out",
        ]);
        (success(&start.arg(&run).output().unwrap()), run)
    };
    let (said, whole) = start("3", "whole");
    for expected in [
        "SnAp-1, an update every 4 steps",
        "the bias is not measured",
        "test perplexity",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    assert!(!whole.join("profiles.png").exists());
    let decisions = fs::read_to_string(whole.join("controller.json")).unwrap();
    assert_eq!(decisions.trim(), "[]");
    let (_, parts) = start("2", "parts");
    let resume = |extra: &[&str]| {
        let mut resumed = command(&copy);
        resumed.args(["--quiet", "--epochs", "3", "--resume"]);
        resumed.arg(&parts).args(extra).output().unwrap()
    };
    assert!(failure(&resume(&["--fixed-k", "5"])).contains("policy"));
    success(&resume(&[]));
    assert_eq!(epochs(&whole), epochs(&parts));
}

/// Options that make it another run: refused, the difference named, and nothing in the folder touched.
#[test]
fn a_run_is_not_resumed_as_another_one() {
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut start = command(&copy);
    start.args(TINY).args([
        "--quiet", "--delta", "0.5", "--k0", "4", "--k-max", "20", "--epochs", "1", "--lr", "1",
        "--out",
    ]);
    success(&start.arg(&run).output().unwrap());
    let resume = |run: &Path, extra: &[&str]| {
        let mut resume = command(&copy);
        resume
            .arg("--resume")
            .arg(run)
            .args(extra)
            .output()
            .unwrap()
    };
    let settings = fs::read_to_string(run.join("config.json")).unwrap();
    // (options, what the refusal says)
    let changes = [
        (
            ["--delta", "0.1"],
            "delta is 0.5 in the checkpoint and 0.1 now",
        ),
        (
            ["--fixed-k", "4"],
            "policy is adaptive in the checkpoint and fixed now",
        ),
        (["--k0", "5"], "k0 is 4 in the checkpoint and 5 now"),
        (
            ["--lr", "0.5"],
            "learning rate is 1 in the checkpoint and 0.5 now",
        ),
        (
            ["--batch", "5"],
            "sequences is 4 in the checkpoint and 5 now",
        ),
        (["--seed", "9"], "seed is 1 in the checkpoint and 9 now"),
        (["--hidden", "6"], "hidden is 5 in the checkpoint and 6 now"),
        (["--memory", "2"], "data is "),
        (["--style", "chunked"], "scheme is "),
        (["--losses", "10"], "scheme is "),
        (["--clip", "2"], "clip is "),
        (["--estimate", "norms"], "estimator"),
        (["--window", "29"], "probe"),
    ];
    for (options, expected) in changes {
        let error = failure(&resume(&run, &[&["--epochs", "2"], &options[..]].concat()));
        assert!(
            error.contains("belongs to another run") && error.contains(expected),
            "{options:?}: {error}"
        );
        assert_eq!(
            fs::read_to_string(run.join("config.json")).unwrap(),
            settings,
            "{options:?}"
        );
        assert_eq!(epochs(&run).len(), 1);
    }
    // More epochs in another place are the same run, whose settings are in its checkpoint.
    fs::write(run.join("config.json"), "lost").unwrap();
    let moved = folder.path().join("moved");
    fs::rename(&run, &moved).unwrap();
    let shown = success(&resume(&moved, &["--epochs", "2"]));
    assert!(
        shown.contains("changed: epochs is 1 in the checkpoint and 2 now"),
        "{shown}"
    );
    assert!(shown.contains("changed: run folder is "), "{shown}");
    assert_eq!(epochs(&moved).len(), 2);
    assert_eq!(json(moved.join("config.json"))["plan"]["epochs"], 2);
}

/// What a folder held before is never written over, and two processes never share one.
#[test]
fn a_run_keeps_to_a_folder_of_its_own() {
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let start = |out: &Path| {
        let mut start = command(&copy);
        start.args(TINY).args([
            "--quiet", "--k0", "4", "--k-max", "20", "--epochs", "3", "--out",
        ]);
        start.arg(out).output().unwrap()
    };
    let resume = |from: &Path, extra: &[&str]| {
        let mut resume = command(&copy);
        resume
            .arg("--resume")
            .arg(from)
            .args(extra)
            .output()
            .unwrap()
    };
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("config.json"), "precious").unwrap();
    assert!(failure(&start(&foreign)).contains("files that are no run's"));
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    assert_eq!(
        fs::read_to_string(foreign.join("config.json")).unwrap(),
        "precious"
    );

    let run = folder.path().join("run");
    success(&start(&run));
    let held = fs::File::open(run.join("run.lock")).unwrap();
    held.lock().unwrap();
    assert!(failure(&resume(&run, &["--epochs", "4"])).contains("another process is at work"));
    drop(held);

    // An older checkpoint goes on elsewhere only, and a copy in a place that is no run's folder as well.
    let older = Checkpoint::end_of_epoch(&run, 2).unwrap();
    let error = failure(&resume(&older, &["--epochs", "4"]));
    assert!(error.contains("not the newest checkpoint"), "{error}");
    let lone = foreign.join("lone.ckpt");
    fs::copy(&older, &lone).unwrap();
    let error = failure(&resume(&lone, &["--epochs", "4"]));
    assert!(error.contains("lies in no run's folder"), "{error}");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 2);
    let error = failure(&resume(&run, &["--epochs", "2"]));
    assert!(error.contains("below the 3 epochs"), "{error}");
    let before = epochs(&run);
    let other = folder.path().join("other");
    success(&resume(
        &lone,
        &["--epochs", "4", "--out", other.to_str().unwrap()],
    ));
    success(&resume(&run, &["--epochs", "4"]));
    assert_eq!(before, epochs(&run)[..3]);
    assert_eq!(epochs(&other), epochs(&run));
}

/// A relative `--data` is resolved where it was given, whatever its bytes are.
#[cfg(unix)]
#[test]
fn a_run_goes_on_from_another_working_directory_with_data_of_any_name() {
    use std::os::unix::ffi::OsStrExt;
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in [&b"digits"[..], b"caf\xe9"] {
        let name = std::ffi::OsStr::from_bytes(name);
        let data = folder.path().join(name);
        if fs::create_dir(&data).is_err() {
            println!("skipped: the file system takes UTF-8 names only");
            continue;
        }
        for (split, steps) in [("train", 120), ("valid", 40), ("test", 40)] {
            let line = |step: usize| format!("{}{}\n", step % 3, step % 2);
            let text: String = (0..steps).map(line).collect();
            for part in ["input", "target"] {
                fs::write(data.join(format!("{split}_{part}.txt")), &text).unwrap();
            }
        }
        let run = folder.path().join("runs").join(name);
        let mut start = command(&copy);
        start
            .current_dir(folder.path())
            .arg("--data")
            .arg(name)
            .args([
                "--symbols",
                "3",
                "--hidden",
                "4",
                "--fixed-k",
                "3",
                "--losses",
                "5",
            ])
            .args(["--window", "20", "--epochs", "1", "--quiet", "--out"])
            .arg(Path::new("runs").join(name));
        success(&start.output().unwrap());
        let elsewhere = tempfile::tempdir().unwrap();
        let mut resume = command(&copy);
        resume
            .current_dir(elsewhere.path())
            .args(["--quiet", "--epochs", "2", "--resume"])
            .arg(&run);
        success(&resume.output().unwrap());
        assert_eq!(epochs(&run).len(), 2, "{name:?}");
    }
}

/// Perplexities beyond all numbers are left out; the run goes to its end and can be read.
#[test]
fn a_run_that_diverges_is_told_as_it_is() {
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut start = command(&copy);
    start
        .args(TINY)
        .args(["--fixed-k", "4", "--lr", "30000", "--epochs", "2", "--out"]);
    let shown = success(&start.arg(&run).output().unwrap());
    assert!(shown.contains("test perplexity – at epoch"), "{shown}");
    let result = json(run.join("result.json"));
    assert!(result["measures"].as_object().unwrap().is_empty());
    assert!(result["valid_loss"].as_f64().unwrap() > 700.0, "{result}");
}

#[test]
fn a_run_without_a_controller_cannot_be_replayed() {
    let Some(copy) = example("copy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = |options: &[&str], out: &Path| {
        let mut start = command(&copy);
        start.args(TINY).args(["--quiet", "--epochs", "1"]);
        start.args(options).arg("--out").arg(out).output().unwrap()
    };
    success(&start(&["--fixed-k", "4"], &run));
    let (other, missing) = (folder.path().join("other"), folder.path().join("missing"));
    let error = failure(&start(&["--replay-k", run.to_str().unwrap()], &other));
    assert!(
        error.contains("did not adapt; name a run with --delta"),
        "{error}"
    );
    let error = failure(&start(&["--replay-k", missing.to_str().unwrap()], &other));
    assert!(
        error.contains("name the folder of a finished run"),
        "{error}"
    );
    assert!(!other.exists());
}
