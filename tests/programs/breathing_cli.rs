//! The `breathing` example as a user meets it, with a small recording of the test's own and with a real one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::programs::{command, data, example, failure, kill_after_checkpoint, success};

/// A small run.
fn breathing(program: &Path, data: &Path, out: &Path) -> Command {
    let mut command = command(program);
    command.args([
        "--hidden", "4", "--losses", "10", "--window", "20", "--k0", "6", "--k-max", "15",
        "--probes", "3", "--quiet", "--data",
    ]);
    command.arg(data).arg("--out").arg(out);
    command
}

/// Three markers that breathe for 76 seconds, and otherwise from `changed` on.
fn small_recording(folder: &Path, changed: usize) {
    for (marker, phase) in [("LAC", 0.0), ("UAC", 0.4), ("UCC", 0.9)] {
        let mut text = String::from("\"Frame\";\"Timestamp\";\"x\";\"y\";\"z\"\n");
        for step in 0..760 {
            let breath = (f64::from(step) * 0.15 + phase).sin();
            let breath = if (step as usize) < changed {
                breath
            } else {
                -3.0 * breath
            };
            let row = format!(
                "{step};{};{:.2};{:.2};{:.2}\n",
                100 * step,
                breath,
                2.0 * breath,
                5.0 - breath
            );
            text += &row.replace('.', ",");
        }
        fs::write(folder.join(format!("r-{marker}.csv")), text + "0;0;0;0;0\n").unwrap();
    }
}

/// Steps and bytes of the forecasts in a run folder.
fn forecasts(run: &Path) -> Vec<(u32, Vec<u8>)> {
    let bytes = fs::read(run.join("forecasts.bin")).unwrap();
    let record = |record: &[u8]| {
        let step = u32::from_le_bytes(record[..4].try_into().unwrap());
        (step, record[4..].to_vec())
    };
    bytes.chunks(4 * (1 + 21 * 9)).map(record).collect()
}

#[test]
fn forecasts_know_nothing_of_what_comes_after_them() {
    let Some(program) = example("breathing") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = |changed| {
        small_recording(folder.path(), changed);
        let out = folder.path().join(format!("run-{changed}"));
        let mut command = breathing(&program, folder.path(), &out);
        success(&command.args(["--recording", "r"]).output().unwrap());
        forecasts(&out)
    };
    let (same, other) = (run(760), run(680));
    // From the first window's last target on, one step after the other to the end.
    let steps: Vec<u32> = same.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (30..760).collect::<Vec<u32>>());
    for (one, another) in same.iter().zip(&other) {
        assert_eq!(one == another, one.0 < 680, "forecast from step {}", one.0);
    }
}

#[test]
fn a_stream_that_was_cut_off_goes_on_to_the_same_forecasts() {
    let Some(program) = example("breathing") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    small_recording(folder.path(), 760);
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let said = success(&breathing(&program, folder.path(), &whole).output().unwrap());
    assert!(said.contains("recording r: test nRMSE "), "{said}");
    assert!(said.contains("mean of 1 recordings"), "{said}");
    let whole = whole.join("r");
    assert!(
        fs::read(whole.join("breathing.png"))
            .unwrap()
            .starts_with(b"\x89PNG")
    );
    let mut killed = breathing(&program, folder.path(), &parts);
    let parts = parts.join("r");
    kill_after_checkpoint(killed.args(["--checkpoint-every", "5"]), &parts);
    let mut resumed = command(&program);
    success(
        &resumed
            .arg("--quiet")
            .arg("--resume")
            .arg(&parts)
            .output()
            .unwrap(),
    );
    let result = |run: &Path| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(run.join("result.json")).unwrap()).unwrap()
    };
    assert_eq!(result(&whole)["measures"], result(&parts)["measures"]);
    assert!(result(&whole)["measures"]["test_nrmse"].is_f64());
}

#[test]
fn streams_are_read_once_and_missing_recordings_are_named() {
    let Some(program) = example("breathing") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let with = |options: &[&str]| {
        let mut command = breathing(&program, folder.path(), &out);
        failure(&command.args(options).output().unwrap())
    };
    let found = with(&[]);
    assert!(
        found.contains("no file *-LAC.csv") && found.contains("UORO"),
        "{found}"
    );
    small_recording(folder.path(), 760);
    let found = with(&["--epochs", "2"]);
    assert!(found.contains("read once"), "{found}");
    let found = with(&["--recording", "s"]);
    assert!(
        found.contains("no recording `s`") && found.contains("there are r"),
        "{found}"
    );
    assert!(!out.exists(), "a folder of no run");
}

#[test]
fn a_real_recording_is_forecast() {
    let (Some(program), Some(folder)) = (example("breathing"), data("breathing")) else {
        return;
    };
    let run = tempfile::tempdir().unwrap();
    let out = run.path().join("run");
    let mut command = breathing(&program, &folder, &out);
    let said = success(
        &command
            .args(["--recording", "201205101541"])
            .output()
            .unwrap(),
    );
    assert!(
        said.contains("recording 201205101541: test nRMSE "),
        "{said}"
    );
    // 1,307 rows; the first forecast is made where the first window's targets end.
    assert_eq!(forecasts(&out).len(), 1307 - 30);
}
