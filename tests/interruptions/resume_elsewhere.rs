//! A run that goes on with another number of threads ends with the same bits; on another backend it goes on too, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::path::Path;

use atbptt::train::Checkpoint;

use crate::common::copy_folder;
use crate::common::programs::{command, example, outcome, success};

fn run(program: &Path, threads: &str, backend: &str, arguments: &[&str]) -> String {
    let output = command(program)
        .args(["--no-tui", "--epochs"])
        .args(arguments)
        .env("RAYON_NUM_THREADS", threads)
        .env("BURN_DEVICE", backend)
        .output()
        .unwrap();
    success(&output)
}

fn start(program: &Path, threads: &str, epochs: &str, out: &Path) {
    let out = out.to_str().unwrap();
    run(
        program,
        threads,
        "flex",
        &[
            epochs,
            "--builtin",
            "--max-tokens",
            "12000",
            "--hidden",
            "24",
            "--delta",
            "0.5",
            "--out",
            out,
        ],
    );
}

#[test]
fn a_run_may_go_on_with_other_threads_and_on_another_backend() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [whole, threads, backend] =
        ["whole", "threads", "backend"].map(|name| folder.path().join(name));
    start(&program, "1", "2", &whole);
    start(&program, "1", "1", &threads);
    copy_folder(&threads, &backend);

    let resume = |run: &Path| ["2".into(), "--resume".into(), run.display().to_string()];
    let [epochs, option, path]: [String; 3] = resume(&threads);
    let shown = run(&program, "3", "flex", &[&epochs, &option, &path]);
    assert!(!shown.contains("changed: device"), "{shown}");
    assert_eq!(outcome(&threads), outcome(&whole));

    if !cfg!(feature = "ndarray") {
        println!("skipped: another backend; add `--features ndarray`");
        return;
    }
    let [epochs, option, path]: [String; 3] = resume(&backend);
    let shown = run(&program, "2", "ndarray", &[&epochs, &option, &path]);
    let change = shown
        .lines()
        .find(|line| line.starts_with("changed: device is "));
    let change = change.unwrap_or_else(|| panic!("{shown}"));
    assert!(
        change.contains("Flex") && change.contains("NdArray"),
        "{change}"
    );
    // Other sums in another order, from the same weights on: the same losses to three digits.
    let losses = |run: &Path| {
        let last = Checkpoint::newest(run).unwrap();
        last.reports()
            .iter()
            .map(|r| r.valid_loss.unwrap())
            .collect::<Vec<f64>>()
    };
    let (there, here) = (losses(&backend), losses(&whole));
    assert_eq!((there.len(), there[0]), (2, here[0]));
    assert!(
        (there[1] - here[1]).abs() < 5e-3 * here[1],
        "{there:?} {here:?}"
    );
}
