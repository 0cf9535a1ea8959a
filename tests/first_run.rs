//! What a newcomer meets first: the README's program, and a model of one's own.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod common;

use std::fs;
use std::path::Path;

use atbptt::train::Checkpoint;

use common::programs::{command, example, success};

#[test]
fn the_readme_shows_the_example_first() {
    let program = fs::read_to_string("examples/first.rs").unwrap();
    let (_, code) = program.split_once("\n\n").unwrap();
    let readme = fs::read_to_string("README.md").unwrap();
    assert!(readme.contains(code), "README.md does not show\n{code}");
}

/// The loss of a run's epochs with all digits.
fn losses(run: &Path) -> Vec<[String; 2]> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        ["train_loss", "valid_loss"].map(|name| row[name].to_string())
    };
    text.lines().map(row).collect()
}

/// Without a terminal: one line per epoch and one at the end. Initial weights are drawn from the seed, too.
#[test]
fn the_first_program_prints_a_line_per_epoch_and_gives_the_same_numbers_twice() {
    let Some(first) = example("first") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    for n in [1, 2] {
        let output = command(&first).current_dir(folder.path()).output().unwrap();
        let shown = success(&output);
        assert_eq!(shown.lines().count(), 6, "{shown}");
        assert!(output.stderr.is_empty(), "{output:?}");
        runs.push(losses(&folder.path().join(format!("runs/first-{n}"))));
    }
    assert_eq!(runs[0].len(), 5);
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn a_model_of_ones_own_gets_checkpoints_a_figure_and_goes_on() {
    let Some(plug_in) = example("plug_in") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let start = |arguments: &[&str]| {
        let mut start = command(&plug_in);
        start.current_dir(folder.path()).args(arguments);
        start.output().unwrap()
    };
    assert!(success(&start(&[])).contains("validation loss"));
    let run = folder.path().join("runs/plug_in-1");
    let png = fs::read(run.join("report.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000);
    assert_eq!(losses(&run).len(), 6);
    let before = losses(&run);
    let shown = success(&start(&["--resume", "runs/plug_in-1"]));
    assert!(
        shown.contains("changed: epochs is 6 in the checkpoint and 12 now"),
        "{shown}"
    );
    assert_eq!((losses(&run).len(), &losses(&run)[..6]), (12, &before[..]));
    assert_eq!(Checkpoint::newest(&run).unwrap().epochs(), 12);
    let error = command(&plug_in).arg("--what").output().unwrap();
    assert!(!error.status.success());
}
