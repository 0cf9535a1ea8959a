//! Nobody reads what a program prints, from its first line on, as with `… | true`: it ends as it would have, and says nothing of it.

#![allow(clippy::unwrap_used)] // A failure here is a failed test.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::common::programs::{command, example};

/// Runs an example whose standard output is a pipe that nobody holds the other end of.
fn ends_quietly(name: &str, arguments: &[&str]) {
    let Some(program) = example(name) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // What `estimate` reads.
    let norms: Vec<[f64; 1]> = (0..40).map(|lag| [0.8_f64.powi(lag)]).collect();
    fs::write(folder.path().join("norms.json"), format!("{norms:?}")).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut start = command(&program);
    start.current_dir(folder.path()).args(arguments);
    let output = start
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    assert!(output.stderr.is_empty(), "{name}: {output:?}");
}

/// Those that take a second. `first`, `own_metric` and `plug_in` end with the same line, after ten.
#[test]
fn examples_end_quietly_where_nobody_reads() {
    for name in ["own_data", "episodes", "torch_weights"] {
        ends_quietly(name, &[]);
    }
    ends_quietly("estimate", &["norms.json"]);
    let sizes = [
        "--memory", "5", "--batch", "4", "--hidden", "4", "--layers", "1",
    ];
    ends_quietly("copy", &[&sizes[..], &["--epochs", "1"]].concat());
}

#[test]
fn the_help_of_a_program_may_have_no_reader() {
    for name in [
        "book_order",
        "breathing",
        "compare_runs",
        "copy",
        "estimate",
        "generate",
        "ptb",
        "rainfall",
        "series",
        "sweep",
        "sysid",
        "true_bias",
        "wiki2",
    ] {
        ends_quietly(name, &["--help"]);
    }
}

/// It panics where the pipe is closed.
#[test]
fn no_example_uses_println() {
    fn look(folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let source = fs::read_to_string(&path).unwrap();
                let prints = source
                    .lines()
                    .any(|line| line.trim_start().starts_with("println!("));
                assert!(!prints, "{} prints by println!", path.display());
            }
        }
    }
    look(Path::new("examples"));
}
