//! The `sysid` example as a user meets it, with small recordings of the test's own and with the real ones.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::programs::{command, data, example, failure, kill_after_checkpoint, success};

/// A small run.
fn sysid(program: &Path, data: &Path, out: &Path) -> Command {
    let mut command = command(program);
    command.args([
        "--hidden",
        "4",
        "--window",
        "30",
        "--k0",
        "6",
        "--k-max",
        "20",
        "--probes",
        "3",
        "--warm-up",
        "20",
        "--losses",
        "8",
        "--data",
    ]);
    command.arg(data).arg("--out").arg(out);
    command
}

/// A file like that of the tanks: a leaky tank under two inputs.
fn small_tanks(folder: &Path) {
    let mut text = String::from("\"uEst\",\"uVal\",\"yEst\",\"yVal\",\"Ts\",\n");
    let (mut first, mut second) = (1.0, 1.2);
    for step in 0..1024u32 {
        let input = |seed: u32| f64::from((step / 40 * seed) % 7) - 3.0;
        first += 0.05 * (input(3) - first);
        second += 0.05 * (input(5) - second);
        text += &format!("{},{},{first},{second},4,\n", input(3), input(5));
    }
    fs::write(folder.join("dataBenchmark.csv"), text).unwrap();
}

#[test]
fn a_small_system_is_identified_and_resumed() {
    let Some(program) = example("sysid") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    small_tanks(folder.path());
    let run = |out: &str| {
        let out = folder.path().join(out);
        let mut command = sysid(&program, folder.path(), &out);
        command.args(["--system", "tanks", "--epochs", "2", "--fixed-k", "5"]);
        (success(&command.output().unwrap()), out)
    };
    let (said, whole) = run("whole");
    let last = said.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("tanks: test RMSE 0.") || last.starts_with("tanks: test RMSE 1."),
        "{last}"
    );
    assert!(last.contains("published: 0.34 to 0.76"), "{last}");
    assert!(said.contains("a tolerance of 0.5 asks for K = "), "{said}");
    let png = fs::read(whole.join("simulation.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    let read = |run: &Path| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(run.join("result.json")).unwrap()).unwrap()
    };
    let result = read(&whole);
    assert!(result["measures"]["test_rmse"].is_f64(), "{result}");

    // Killed within the run and gone on with: the same to the last digit.
    let parts = folder.path().join("parts");
    let mut killed = sysid(&program, folder.path(), &parts);
    killed.args(["--system", "tanks", "--epochs", "2", "--fixed-k", "5"]);
    kill_after_checkpoint(killed.args(["--checkpoint-every", "3"]), &parts);
    let mut resumed = command(&program);
    success(&resumed.arg("--resume").arg(&parts).output().unwrap());
    let again = read(&parts);
    assert_eq!(
        (&again["measures"], &again["valid_loss"]),
        (&result["measures"], &result["valid_loss"])
    );
}

#[test]
fn a_missing_recording_is_named_with_where_to_get_it() {
    let Some(program) = example("sysid") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let found = failure(&sysid(&program, folder.path(), &out).output().unwrap());
    assert!(
        found.contains("SNLS80mV.csv") && found.contains("nonlinearbenchmark.org"),
        "{found}"
    );
    let mut command = sysid(&program, folder.path(), &out);
    small_tanks(folder.path());
    let text = fs::read_to_string(folder.path().join("dataBenchmark.csv")).unwrap();
    fs::write(
        folder.path().join("dataBenchmark.csv"),
        text.replace("yEst", "level"),
    )
    .unwrap();
    let found = failure(&command.args(["--system", "tanks"]).output().unwrap());
    assert!(found.contains("no column \"yEst\""), "{found}");
    assert!(!out.exists(), "a folder of no run");
}

#[test]
fn both_real_systems_run_under_one_tolerance() {
    let (Some(program), Some(folder)) = (example("sysid"), data("silverbox")) else {
        return;
    };
    let root = folder.parent().unwrap();
    if !root.join("tanks").is_dir() {
        println!("skipped: no folder {}", root.join("tanks").display());
        return;
    }
    let run = tempfile::tempdir().unwrap();
    let mut command = sysid(&program, root, &run.path().join("both"));
    let said = success(
        &command
            .args(["--epochs", "1", "--batch", "32"])
            .output()
            .unwrap(),
    );
    let last: Vec<&str> = said.trim_end().lines().rev().take(2).collect();
    assert!(last[0].starts_with("tanks: test RMSE "), "{said}");
    assert!(last[1].starts_with("silverbox: test RMSE "), "{said}");
    for system in ["silverbox", "tanks"] {
        assert!(
            run.path()
                .join("both")
                .join(system)
                .join("result.json")
                .is_file(),
            "{system}"
        );
    }
}
