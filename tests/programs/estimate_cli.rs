//! The example `estimate`, run as its users run it.
//!
//! `cargo test` builds the examples beside the tests; where that did not happen, each test says so and passes. Reference
//! values come from the folder `ATBPTT_GOLDEN`, by default `../shared/golden` beside the workspace.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::Value;

use crate::common::programs::example;

fn estimate() -> Option<Command> {
    Some(Command::new(example("estimate")?))
}

fn golden() -> Option<PathBuf> {
    let folder = std::env::var_os("ATBPTT_GOLDEN")
        .map_or_else(|| PathBuf::from("../shared/golden"), PathBuf::from);
    let path = folder.join("bias_estimator.json");
    if !path.is_file() {
        println!("skipped: no {}; set ATBPTT_GOLDEN", path.display());
        return None;
    }
    Some(path)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Writes `content` to a file in a folder of its own.
fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("norms.json");
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

/// φ_k = 0.8^k, k = 0..=40, two sequences.
fn geometric() -> String {
    let rows: Vec<_> = (0..=40).map(|k| [0.8f64.powi(k); 2]).collect();
    serde_json::to_string(&rows).unwrap()
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    tau: usize,
    lags: usize,
    methods: BTreeMap<String, Method>,
}

#[derive(Deserialize)]
struct Method {
    smallest_k: BTreeMap<String, Option<usize>>,
}

#[test]
fn golden_lengths_come_out_for_every_case_fit_and_tolerance() {
    let (Some(_), Some(path)) = (estimate(), golden()) else {
        return;
    };
    let golden: Golden = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let fits = [("ols", "ols_all"), ("ols-tail", "ols_tail"), ("max", "max")];
    for (index, case) in golden.cases.iter().enumerate() {
        for (fit, name) in fits {
            // A reference set may lack a method, or ask nothing of it.
            let Some(expected) = case.methods.get(name).map(|method| &method.smallest_k) else {
                continue;
            };
            if expected.is_empty() {
                continue;
            }
            let mut command = estimate().unwrap();
            command
                .arg(&path)
                .args(["--json", "--paper", "--fit", fit])
                .args(["--case", &index.to_string()]);
            for delta in expected.keys() {
                command.args(["--delta", delta]);
            }
            let got = json(&command.output().unwrap());
            assert_eq!(got["tau"], case.tau, "case {index}");
            let answers = got["answers"].as_array().unwrap();
            assert_eq!(answers.len(), expected.len());
            for (answer, (delta, k)) in answers.iter().zip(expected) {
                let what = format!("case {index}, {fit}, delta {delta}");
                assert_eq!(
                    answer["smallest_k"],
                    serde_json::to_value(k).unwrap(),
                    "{what}"
                );
                assert_eq!(answer["k"], k.unwrap_or(case.lags), "{what}");
            }
        }
    }
}

#[test]
fn golden_cases_are_listed_when_none_is_chosen() {
    let (Some(mut command), Some(path)) = (estimate(), golden()) else {
        return;
    };
    let listed = json(&command.arg(&path).arg("--json").output().unwrap());
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = listed["cases"].as_array().unwrap();
    assert_eq!(cases.len(), golden.cases.len());
    for (got, case) in cases.iter().zip(&golden.cases) {
        assert_eq!(
            (&got["tau"], &got["lags"]),
            (&case.tau.into(), &case.lags.into())
        );
    }
}

/// 0.8^K ≤ δ over a long window: 4 and 11, as in the example's header.
#[test]
fn tables_figure_and_csv_come_from_a_bare_array() {
    let Some(mut command) = estimate() else {
        return;
    };
    let (folder, path) = file(&geometric());
    let (png, csv) = (folder.path().join("a.png"), folder.path().join("a.csv"));
    command.arg(path).args(["--delta", "0.5", "--delta", "0.1"]);
    let output = command
        .arg("--png")
        .arg(&png)
        .arg("--csv")
        .arg(&csv)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for line in [
        "norms   41 lags (W = 40 steps), 2 sequences",
        "β = 0.8000 per step, half-life 3.1 steps; least squares over the lags from τ on, τ = 1 steps",
        "at the longest: τ is moot",
        "0.5   4  4 to 4         shortest length that meets the bias tolerance",
        "11  0.0859         <- δ = 0.1",
    ] {
        assert!(printed.contains(line), "{line} in:\n{printed}");
    }
    assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
    let csv = std::fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), 1 + 41);
    assert!(
        csv.starts_with("lag,phi,absolute_bias,relative_bias\n0,1e0,"),
        "{csv}"
    );
}

/// Three probes whose pieces have gradients of 4, 2 and 1 times one vector, W = 6, m = 2, cuts at c = 0, 2 and 5: keeping one
/// step leaves 3/7 of the gradient, three steps 1/7.
const DIRECT: &str = r#"{"direct": {"window": 6, "losses": 2, "contexts": [0, 2, 5], "probes": 3, "gram": [
    16, 8, 4, 16, 8, 4, 16, 8, 4, 8, 4, 2, 8, 4, 2, 8, 4, 2, 4, 2, 1, 4, 2, 1, 4, 2, 1,
    16, 8, 4, 16, 8, 4, 16, 8, 4, 8, 4, 2, 8, 4, 2, 8, 4, 2, 4, 2, 1, 4, 2, 1, 4, 2, 1,
    16, 8, 4, 16, 8, 4, 16, 8, 4, 8, 4, 2, 8, 4, 2, 8, 4, 2, 4, 2, 1, 4, 2, 1, 4, 2, 1]}}"#;

#[test]
fn direct_statistics_give_a_length_of_their_own() {
    let Some(mut command) = estimate() else {
        return;
    };
    let (_folder, path) = file(DIRECT);
    command
        .arg(&path)
        .args(["--json", "--delta", "0.3", "--delta", "0.5"]);
    let direct = json(&command.output().unwrap())["direct"].clone();
    assert_eq!(
        (&direct["window"], &direct["probes"]),
        (&6.into(), &3.into())
    );
    assert!((direct["relative_bias"][1].as_f64().unwrap() - 3.0 / 7.0).abs() < 1e-12);
    assert!((direct["relative_bias"][3].as_f64().unwrap() - 1.0 / 7.0).abs() < 1e-12);
    assert_eq!(direct["answers"][0]["smallest_k"], 2);
    assert_eq!(direct["answers"][1]["smallest_k"], 1);

    let mut command = estimate().unwrap();
    let printed = command
        .arg(&path)
        .args(["--delta", "0.3"])
        .output()
        .unwrap();
    let printed = text(&printed.stdout);
    assert!(
        printed
            .contains("direct  W = 6 steps, 2 losses, 3 probes; for strided windows of 2 losses"),
        "{printed}"
    );
    assert!(!printed.contains("norms"), "{printed}");

    // Both in one file: both are answered. Chunks drop more than strided windows do.
    let both = DIRECT.replacen('{', &format!(r#"{{"gradient_norms": {}, "#, geometric()), 1);
    let (_folder, path) = file(&both);
    let mut command = estimate().unwrap();
    command
        .arg(&path)
        .args(["--json", "--delta", "0.1", "--scheme", "chunked"]);
    let got = json(&command.output().unwrap());
    assert_eq!(got["answers"][0]["smallest_k"], 11);
    let chunked = got["direct"]["relative_bias"][3].as_f64().unwrap();
    assert!(chunked > 1.0 / 7.0, "{chunked}");
    let printed = estimate().unwrap().arg(&path).output().unwrap();
    let printed = text(&printed.stdout);
    assert!(
        printed.contains("norms   41 lags") && printed.contains("direct  W = 6"),
        "{printed}"
    );
}

#[test]
fn saturated_and_capped_lengths_say_why() {
    let Some(mut command) = estimate() else {
        return;
    };
    let (_folder, path) = file("[[1, 1], [1, 1.1], [1.2, 1.2], [1.3, 1.3]]");
    let answer = json(&command.arg(path).arg("--json").output().unwrap())["answers"][0].clone();
    assert_eq!(
        (&answer["reason"], &answer["k"]),
        (&"NoDecay".into(), &4.into())
    );

    let (_folder, path) = file(&geometric());
    let mut command = estimate().unwrap();
    command
        .arg(path)
        .args(["--json", "--k-max", "5", "--delta", "0.1"]);
    let answer = json(&command.output().unwrap())["answers"][0].clone();
    assert_eq!(
        (&answer["reason"], &answer["k"]),
        (&"ClampedToMax".into(), &5.into())
    );
    assert_eq!(answer["smallest_k"], 11);
}

#[test]
fn every_mistake_ends_in_one_line_and_exit_code_1() {
    if estimate().is_none() {
        return;
    }
    let good = geometric();
    let two =
        format!(r#"{{"cases": [{{"gradient_norms": {good}}}, {{"gradient_norms": {good}}}]}}"#);
    // (content, arguments, what the message says)
    #[rustfmt::skip]
    let rows: [(&str, &[&str], &str); 23] = [
        ("[[1, 2],", &[], "not JSON at line 1, column 8"),
        ("", &[], "not JSON at line 1"),
        ("[[1], [2, 3]]", &[], "lag row 1"),
        ("[[1], [NaN]]", &[], "got NaN at lag 1, sequence 0"),
        ("[[1], [-3]]", &[], "got -3 at lag 1, sequence 0"),
        ("[]", &[], "is empty"),
        ("{}", &[], "neither `gradient_norms` nor `cases`"),
        ("[[1]]", &[], "at least 3 lags"),
        (r#"{"direct": {"window": 6}}"#, &[], "missing field `losses` at `direct`"),
        (DIRECT, &["--csv", "a.csv"], "the file has none"),
        (DIRECT, &["--scheme", "chunked", "--losses", "3"], "--losses belongs to --scheme strided"),
        ("[[0], [0], [0]]", &[], "no lag norm exceeds"),
        (&good, &["--delta", "0"], "must lie in (0, 1]"),
        (&good, &["--delta", "-1"], "must lie in (0, 1]"),
        (&good, &["--delta", "nan"], "must lie in (0, 1]"),
        (&good, &["--delta", "much"], "invalid value 'much'"),
        (&good, &["--tau", "40"], "tau must lie below the window length 40"),
        (&good, &["--gradient-size", "mean-sum"], "`mean_sum_norms`"),
        (&good, &["--gradient-size", "debiased"], "`sum_squares`"),
        (&good, &["--quantile", "0.5"], "--fit quantile"),
        (&good, &["--k-max", "0"], "--k-max must be at least 1"),
        (&good, &["--png", "figure.svg"], "does not end in .png"),
        (&two, &["--case", "2"], "--case must be at most 1, got 2"),
    ];
    for (content, arguments, said) in rows {
        let (_folder, path) = file(content);
        let output = estimate()
            .unwrap()
            .arg(path)
            .args(arguments)
            .output()
            .unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(
            message.starts_with("error: ") && message.contains(said),
            "{said} in: {message}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let output = estimate().unwrap().arg("no such file").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no such file: cannot read the norms"));
}

#[test]
fn help_names_units_and_defaults() {
    let Some(mut command) = estimate() else {
        return;
    };
    let output = command.arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = text(&output.stdout);
    for part in [
        "in steps",
        "[default: 0.9 0.5 0.1]",
        "[default: ols-tail, with",
        "sum, mean-sum",
    ] {
        assert!(help.contains(part), "{part} in:\n{help}");
    }
}
