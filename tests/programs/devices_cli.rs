//! `--devices` of the experiment programs, as a user meets it.

use std::path::Path;

use crate::common::programs::{assert_alike, command, event_files, example, failure, success};

/// Seven sequences of the copy task, and six streams of events: neither number is a multiple of that of the devices.
#[test]
fn several_devices_train_as_one_does_in_every_program() {
    let folder = tempfile::tempdir().unwrap();
    event_files(folder.path());
    let events = folder.path().display().to_string();
    let programs = [
        (
            "copy",
            vec![
                "--memory", "3", "--steps", "200", "--hidden", "5", "--batch", "7", "--window",
                "30",
            ],
        ),
        (
            "book_order",
            vec![
                "--hidden", "8", "--batch", "5", "--window", "20", "--losses", "10", "--k-max",
                "20", "--data", &events,
            ],
        ),
        (
            "wiki2",
            vec![
                "--builtin",
                "--no-tui",
                "--max-tokens",
                "12000",
                "--hidden",
                "8",
                "--batch",
                "7",
            ],
        ),
    ];
    for (name, options) in programs {
        let Some(program) = example(name) else {
            continue;
        };
        let run = |devices: &str| {
            let run = folder.path().join(format!("{name}-{devices}"));
            let output = command(&program)
                .args(&options)
                .args(["--epochs", "2", "--devices", devices, "--out"])
                .arg(&run)
                .output()
                .unwrap();
            (success(&output), run)
        };
        let (_, one) = run("flex");
        let (said, two) = run("flex,flex");
        assert_alike(&two, &one);
        // At the start which sequences each has, at the end for how long each has worked.
        for part in ["devices: 2 share", "each worked for: flex"] {
            assert!(said.contains(part), "{name}: {part:?} in {said}");
        }
    }
}

#[test]
fn names_of_devices_are_checked_before_any_data_are_read() {
    for name in ["wiki2", "ptb", "copy", "book_order", "series"] {
        let Some(program) = example(name) else {
            continue;
        };
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let mut start = command(&program);
        start
            .args(["--devices", "flex,abacus", "--data", "/no/such", "--out"])
            .arg(&run);
        if name == "series" {
            start.args(["--input", "a", "--target", "b"]);
        }
        let output = start.output().unwrap();
        let error = failure(&output);
        assert!(
            error.contains("no backend is called `abacus`"),
            "{name}: {error}"
        );
        assert!(!Path::new(&run).exists(), "{name}");
    }
}
