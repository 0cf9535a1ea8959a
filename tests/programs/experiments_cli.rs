//! The experiment programs: presets, help, wrong options, and a short run of each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::fs;
use std::path::Path;

use super::runs_cli::{TINY, json};
use crate::common::programs::{command, event_files, example, failure, success};

/// What the paper's experiments were run with stands behind one option, exactly.
#[test]
fn paper_presets_are_the_papers_settings() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, options: &[&str]| {
        let program = example(name)?;
        let run = folder.path().join(name);
        let mut command = command(&program);
        command.args(options).arg("--out").arg(&run);
        success(&command.output().unwrap());
        Some(json(run.join("config.json"))["plan"].clone())
    };
    let Some(copy) = run(
        "copy",
        &[
            &TINY[..8],
            &["--paper", "--epochs", "1", "--k-max", "50", "--quiet"],
        ]
        .concat(),
    ) else {
        return;
    };
    let (training, rule) = (&copy["training"], &copy["policy"]);
    assert_eq!(training["scheme"], "Overlapping");
    assert_eq!(training["step_scaling"], "SqrtK");
    assert_eq!(training["clip"]["PerK"], 1.0);
    assert_eq!(
        (&copy["lr"], &copy["weight_decay"]),
        (&1.0.into(), &1e-5.into())
    );
    assert_eq!(training["probe"]["window"], 100);
    let monitor = &rule["monitor"];
    assert_eq!(monitor["probes"], 1);
    assert_eq!(monitor["schedule"]["first"], serde_json::Value::Null);
    let estimator = &monitor["estimator"]["paper"];
    assert_eq!(estimator["gradient_size"], "NormOfMeanStateSum");
    assert_eq!(estimator["fit_lag_zero"], false);
    assert_eq!(estimator["tau"]["Fraction"], 0.8);
    let small = [
        "--builtin",
        "--no-tui",
        "--paper",
        "--max-tokens",
        "20000",
        "--hidden",
        "8",
        "--epochs",
        "1",
    ];
    for (name, scaling, batch) in [("wiki2", "LinearK", 16), ("ptb", "SqrtK", 32)] {
        let Some(plan) = run(name, &small) else {
            return;
        };
        let (training, rule) = (&plan["training"], &plan["policy"]);
        assert_eq!(training["scheme"], "Overlapping");
        assert_eq!(training["step_scaling"], scaling);
        assert_eq!(training["clip"]["PerK"], 1.0);
        assert_eq!((&plan["lr"], &plan["batch"]), (&10.0.into(), &batch.into()));
        let lengths = [&rule["k0"], &rule["k_min"], &rule["k_max"]];
        assert_eq!(lengths.map(|k| k.as_u64().unwrap()), [100, 10, 300]);
        let estimator = &rule["monitor"]["estimator"]["paper"];
        assert_eq!(estimator["gradient_size"], "SumOfStateNorms");
    }
}

#[test]
fn the_help_tells_the_defaults_of_each_program() {
    let told: [(&str, &[&str]); 5] = [
        (
            "copy",
            &[
                "[default: strided; --paper: overlapping]",
                "[default: 20; --paper: K]",
                "[default: direct; --paper: norms]",
                "[default: sum; --paper: mean-states]",
                "[default: 1; --paper: 1/K]",
                "[default: 15]",
            ],
        ),
        (
            "book_order",
            &[
                "[default: none; --paper: sqrt]",
                "[default: 5; --paper: 1; ",
            ],
        ),
        (
            "wiki2",
            &[
                "[default: 6; --paper: 50]",
                "[default: none; --paper: linear]",
            ],
        ),
        (
            "ptb",
            &[
                "[default: 0.5; built-in corpus: 0.1]",
                "[default: none; --paper: sqrt]",
            ],
        ),
        ("series", &["[default: strided]", "[default: 20]"]),
    ];
    for (name, defaults) in told {
        let Some(program) = example(name) else {
            continue;
        };
        let help = success(&command(&program).arg("--help").output().unwrap());
        for default in defaults {
            assert!(help.contains(default), "{name}, {default}: {help}");
        }
    }
}

#[test]
fn wrong_options_and_files_are_one_line_errors() {
    let (Some(copy), Some(sweep), Some(book_order)) =
        (example("copy"), example("sweep"), example("book_order"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let open = file("open.toml", "title = \"x\"\nprogram = \n");
    let unknown = file(
        "unknown.toml",
        "title = \"x\"\nprogram = \"copy\"\npolicies = [\"fixed 5\",\n  \"fixd 6\"]\nseeds = [1]\nmetrics = []\n",
    );
    let absent = file(
        "absent.toml",
        "title = \"x\"\nprogram = \"no-such\"\npolicies = [\"fixed 5\"]\nseeds = [1]\n[[metrics]]\nname = \"m\"\ntitle = \"m\"\n",
    );
    let events = folder.path().join("events");
    fs::create_dir(&events).unwrap();
    for (split, times) in [("train", "0 1 0.5\n"), ("test", "0 1 2\n")] {
        fs::write(events.join(format!("event-1-{split}.txt")), "1 2 1\n").unwrap();
        fs::write(events.join(format!("time-1-{split}.txt")), times).unwrap();
    }
    let events = events.display().to_string();
    let cases: Vec<(&Path, Vec<&str>, &str)> = vec![
        (&copy, vec!["--epochs", "0"], "--epochs must be at least 1"),
        (&copy, vec!["--lr", "0"], "--lr must be above zero"),
        (&copy, vec!["--delta", "1.5"], "(0, 1]"),
        (&copy, vec!["--fixed-k", "0"], "at least 1"),
        (&copy, vec!["--artbp-k", "0"], "k_min"),
        (&copy, vec!["--snap", "5"], "add --layers 1"),
        (
            &copy,
            vec!["--layers", "1", "--snap", "0"],
            "--snap must be at least 1",
        ),
        (&copy, vec!["--symbols", "2"], "--symbols"),
        (
            &copy,
            vec!["--memory", "4", "--min-memory", "5"],
            "--min-memory",
        ),
        (
            &copy,
            vec!["--k-min", "9", "--k-max", "5"],
            "k_min <= k0 <= k_max",
        ),
        (&copy, vec!["--steps", "50"], "may reach 100 steps"),
        (&copy, vec!["--data", "/no/such"], "train_input.txt"),
        (&copy, vec!["--resume", "/no/such"], "earlier run"),
        (&copy, vec!["--losses", "0"], "at least 1 step per update"),
        (
            &copy,
            vec!["--losses", "5", "--style", "chunked"],
            "--losses belongs to strided windows",
        ),
        (&copy, vec!["--clip=-1"], "above zero"),
        (
            &copy,
            vec!["--gradient-size", "sum"],
            "add --estimate norms, or leave it out",
        ),
        (&copy, vec!["--window", "10"], "10 steps"),
        (&copy, vec!["--probes", "1"], "2"),
        (
            &copy,
            vec!["--fixed-k", "9", "--k-max", "5"],
            "--k-max 5 is below the 9 steps asked for",
        ),
        (
            &book_order,
            vec!["--data", &events],
            "must not run backwards, got 0.5 after 1",
        ),
        (&book_order, vec!["--data", "/no/such"], "event-1-train.txt"),
        (&sweep, vec!["/no/such.toml"], "cannot read"),
        (&sweep, vec![&open], "line 2, `program`"),
        (
            &sweep,
            vec![&unknown],
            "line 3, `policies`: unknown policy \"fixd 6\"",
        ),
        (
            &sweep,
            vec![&absent],
            "cargo build --release --example no-such",
        ),
    ];
    for (program, arguments, expected) in cases {
        let mut run = command(program);
        run.args(&arguments);
        if arguments[0] != "--resume" {
            run.args(["--out", &out]);
        }
        let error = failure(&run.output().unwrap());
        assert!(
            error.contains(expected),
            "{arguments:?}: {expected:?} in {error}"
        );
        assert!(!Path::new(&out).exists(), "{arguments:?} left a run folder");
    }
    // Two rules at once are wrong usage, which has a status of its own.
    let mut run = command(&copy);
    run.args(["--snap", "5", "--delta", "0.5", "--out", &out]);
    let output = run.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("'--snap <STEPS>' cannot be used with"),
        "{error}"
    );
}

/// Events whose intervals alternate between 1 and 3 hundredths, the mark following the interval.
#[test]
fn an_order_book_run_reports_likelihood_error_and_interval() {
    let Some(book_order) = example("book_order") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    event_files(folder.path());
    let run = folder.path().join("run");
    let output = command(&book_order)
        .args([
            "--hidden", "8", "--batch", "4", "--window", "20", "--losses", "10", "--k-max", "20",
            "--epochs", "12", "--data",
        ])
        .arg(folder.path())
        .arg("--out")
        .arg(&run)
        .output()
        .unwrap();
    assert!(success(&output).contains("test NLL"));
    let result = json(run.join("result.json"));
    let measure = |name: &str| result["measures"][name].as_f64().unwrap();
    // Intervals of 1 to 3 hundredths of a second: the density is far above one.
    assert!(measure("test_nll") < 0.0, "{}", measure("test_nll"));
    assert!((0.0..=1.0).contains(&measure("test_error")));
    assert!(
        measure("test_rmse") > 0.0 && measure("test_rmse") < 0.2,
        "{}",
        measure("test_rmse")
    );
    assert!((measure("test_nll") - result["valid_loss"].as_f64().unwrap()).abs() < 0.5);
}

/// The order book's preset: the norm of the mean over the states, and a step size that grows with √K only where K adapts.
#[test]
fn the_order_books_paper_preset_is_the_papers_settings() {
    let Some(book_order) = example("book_order") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    event_files(folder.path());
    let plan = |name: &str, policy: &[&str]| {
        let run = folder.path().join(name);
        let mut command = command(&book_order);
        command.args([
            "--paper", "--hidden", "4", "--batch", "4", "--window", "20", "--k-max", "20",
            "--epochs", "1", "--quiet", "--data",
        ]);
        command.arg(folder.path()).args(policy);
        success(&command.arg("--out").arg(&run).output().unwrap());
        json(run.join("config.json"))["plan"].clone()
    };
    let adaptive = plan("adaptive", &[]);
    let (training, rule) = (&adaptive["training"], &adaptive["policy"]);
    assert_eq!(training["scheme"], "Overlapping");
    assert_eq!(training["step_scaling"], "SqrtK");
    assert_eq!(training["clip"]["PerK"], 1.0);
    assert_eq!(
        (&adaptive["lr"], &adaptive["weight_decay"]),
        (&0.1.into(), &1e-3.into())
    );
    let lengths = [&rule["k0"], &rule["k_min"]];
    assert_eq!(lengths.map(|k| k.as_u64().unwrap()), [6, 1]);
    let monitor = &rule["monitor"];
    assert_eq!(monitor["probes"], 1);
    assert_eq!(monitor["schedule"]["first"], serde_json::Value::Null);
    let estimator = &monitor["estimator"]["paper"];
    assert_eq!(estimator["gradient_size"], "NormOfMeanStateSum");
    assert_eq!(estimator["fit_lag_zero"], false);
    let fixed = plan("fixed", &["--fixed-k", "9"]);
    assert_eq!(fixed["training"]["step_scaling"], "None");
    assert_eq!(fixed["lr"], 0.1);
}

#[test]
fn ptb_is_wiki2_with_another_preset_and_has_the_baselines() {
    let Some(ptb) = example("ptb") else { return };
    let folder = tempfile::tempdir().unwrap();
    for (policy, name) in [
        (&[][..], "adaptive"),
        (&["--random-k", "10"], "random_length"),
    ] {
        let run = folder.path().join(name);
        let output = command(&ptb)
            .args([
                "--builtin",
                "--no-tui",
                "--max-tokens",
                "20000",
                "--hidden",
                "16",
                "--epochs",
                "1",
                "--out",
            ])
            .arg(&run)
            .args(policy)
            .output()
            .unwrap();
        success(&output);
        let plan = &json(run.join("config.json"))["plan"];
        assert_eq!(plan["batch"], 32);
        assert_eq!(plan["policy"]["policy"], name, "{plan}");
        let result = json(run.join("result.json"));
        assert!(result["measures"]["test_perplexity"].as_f64().unwrap() > 1.0);
        for file in ["metrics.csv", "profiles.png", "lag_profile.png"] {
            assert!(run.join(file).is_file(), "{file}");
        }
    }
}

#[test]
fn true_bias_sets_the_estimate_beside_the_truth() {
    let Some(true_bias) = example("true_bias") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = command(&true_bias)
        .args([
            "--epochs",
            "2",
            "--batches",
            "4",
            "--probes",
            "3",
            "--repeats",
            "1",
            "--hidden",
            "5",
            "--losses",
            "15",
            "--window",
            "20",
            "--k",
            "2,20",
            "--out",
        ])
        .arg(&run)
        .output()
        .unwrap();
    let shown = success(&output);
    assert!(shown.contains("direct, 3 probes: K = 15"), "{shown}");
    // Of K = 2 and 20 in two epochs, only those of K = 2 may have a bias.
    assert!(shown.contains(" of 4 points"), "{shown}");
    assert!(shown.contains("within a factor 1.5"), "{shown}");
    let points = fs::read_to_string(run.join("points.csv")).unwrap();
    let rows: Vec<Vec<f64>> = points
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect())
        .collect();
    assert_eq!(rows.len(), 4, "two epochs, two lengths");
    for row in rows {
        assert_eq!(row.len(), 16);
        // All of the window kept: no bias. Some at K = 2, unless the noise has it.
        let (k, truth) = (row[3], row[4]);
        assert!(k == 2.0 || truth == 0.0, "{row:?}");
    }
    assert!(fs::read(run.join("true_bias.png")).unwrap().len() > 5_000);
    let table = fs::read_to_string(run.join("table.md")).unwrap();
    // A row per reading of the bias, and for each of three tolerances one more for the controller.
    assert_eq!(
        table.matches("| direct, averaged over updates |").count(),
        4,
        "{table}"
    );
    assert_eq!(table.matches("| controller |").count(), 3, "{table}");
    assert_eq!(
        table.matches("| norm of the mean sum |").count(),
        4,
        "{table}"
    );
    // What was recorded says the same again, and other things with other settings.
    let replay = |name: &str, settings: &[&str]| {
        let again = folder.path().join(name);
        let output = command(&true_bias)
            .args(["--window", "20", "--k", "2,20", "--replay"])
            .arg(run.join("measurements.jsonl"))
            .args(settings)
            .arg("--out")
            .arg(&again)
            .output()
            .unwrap();
        success(&output);
        fs::read_to_string(again.join("points.csv")).unwrap()
    };
    assert_eq!(replay("same", &["--probes", "3"]), points);
    assert_ne!(replay("fewer", &["--probes", "2"]), points);
    assert_ne!(replay("sparse", &["--probes", "3", "--cuts", "sparse"]), "");
    let output = command(&true_bias)
        .args(["--window", "20", "--k", "2", "--probes", "4", "--replay"])
        .arg(run.join("measurements.jsonl"))
        .output()
        .unwrap();
    assert!(failure(&output).contains("fewer probes"));
}
