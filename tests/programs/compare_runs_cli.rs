//! The example `compare_runs`, with reports of the test's own.

use std::fs;
use std::path::Path;

use atbptt::train::EpochReport;

use crate::common::programs::{command, example, failure, success};

/// A run's folder with an epoch per test perplexity, of ten seconds each.
fn run(folder: &Path, k: usize, perplexities: &[f64]) {
    fs::create_dir(folder).unwrap();
    let lines = perplexities.iter().zip(1..).map(|(perplexity, epoch)| {
        let report = EpochReport {
            epoch,
            k,
            mean_k: k as f64,
            valid_loss: Some(perplexity.ln()),
            elapsed_seconds: 10.0 * epoch as f64,
            measures: [("test_perplexity".to_owned(), *perplexity)].into(),
            ..EpochReport::default()
        };
        serde_json::to_string(&report).unwrap() + "\n"
    });
    fs::write(folder.join("metrics.jsonl"), lines.collect::<String>()).unwrap();
}

#[test]
fn runs_stand_side_by_side_in_a_table_and_a_figure() {
    let Some(program) = example("compare_runs") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    run(&folder.path().join("short"), 10, &[812.26, 97.5]);
    run(&folder.path().join("long"), 35, &[150.0, 98.0, 1.0]);
    let mut compare = command(&program);
    compare.current_dir(folder.path()).args(["short", "long"]);
    let measures = [
        "--measures",
        "valid_loss,test_perplexity",
        "--highest",
        "200",
    ];
    let printed = success(&compare.args(measures).output().unwrap());
    let measured = "valid_loss, test_perplexity | K | s |";
    let table = [
        format!("| epoch | short: {measured} long: {measured}"),
        "|---|---|---|---|---|---|---|".to_owned(),
        "| 1 | 6.700, 812.3 | 10.0 | 10 | 5.011, 150.0 | 35.0 | 10 |".to_owned(),
        "| 2 | 4.580, 97.50 | 10.0 | 20 | 4.585, 98.00 | 35.0 | 20 |".to_owned(),
        "| 3 | – | – | – | 0, 1.000 | 35.0 | 30 |".to_owned(),
    ];
    assert!(printed.starts_with(&table.join("\n")), "{printed}");
    let figure = fs::read(folder.path().join("compare_runs.png")).unwrap();
    assert!(figure.starts_with(b"\x89PNG"));
}

#[test]
fn what_cannot_be_compared_is_named() {
    let Some(program) = example("compare_runs") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    run(&folder.path().join("one"), 10, &[200.0]);
    run(&folder.path().join("none"), 10, &[]);
    fs::create_dir(folder.path().join("broken")).unwrap();
    fs::write(folder.path().join("broken/metrics.jsonl"), "{}\n").unwrap();
    let refused = |arguments: &[&str]| {
        let mut compare = command(&program);
        compare.current_dir(folder.path()).args(arguments);
        failure(&compare.output().unwrap())
    };
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["absent"],
            &["absent has no metrics.jsonl", "folder of a run"],
        ),
        (&["none"], &["none has no metrics.jsonl with an epoch"]),
        (&["broken"], &["line 1"]),
        (
            &["one", "--measures", "nse"],
            &["\"nse\"", "test_perplexity"],
        ),
        (&["one", "--names", "a;b"], &["2 names for 1 runs"]),
        (&["one", "--out", "figure.jpg"], &[".png"]),
    ];
    for (arguments, words) in cases {
        let error = refused(arguments);
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}
