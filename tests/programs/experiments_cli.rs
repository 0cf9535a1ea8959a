//! The experiment programs as a user meets them: what `copy` writes, an interrupted run that goes on exactly, a sweep that
//! repeats nothing, and wrong options.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use crate::common::programs::{command, example, failure, signal, success};
use atbptt::train::Checkpoint;

/// A tiny copy task: memory 3, five units, 200 steps.
const TINY: [&str; 10] = [
    "--memory", "3", "--steps", "200", "--hidden", "5", "--batch", "4", "--window", "30",
];

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Losses, K and measures per epoch, as written.
fn epochs(run: &Path) -> Vec<[String; 4]> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        ["train_loss", "valid_loss", "k", "measures"].map(|name| row[name].to_string())
    };
    text.lines().map(row).collect()
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

/// A sweep file of tiny copy runs, and its program.
fn tiny_sweep(folder: &Path, epochs: &str, policies: &str, metric: &str) -> PathBuf {
    let arguments: Vec<String> = TINY
        .iter()
        .chain(&["--epochs", epochs])
        .map(|argument| format!("{argument:?}"))
        .collect();
    let file = folder.join("tiny.toml");
    let text = format!(
        "title = \"tiny\"\nprogram = \"copy\"\narguments = [{}]\npolicies = [{policies}]\nseeds = [1]\n[[metrics]]\nname = {metric:?}\ntitle = \"ppl\"\n",
        arguments.join(", ")
    );
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_sweep_tells_failed_runs_and_mixes_no_settings() {
    let (Some(sweep), Some(_)) = (example("sweep"), example("copy")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let document = folder.path().join("results.md");
    let text = "<!-- sweep tiny -->\nwhole table\n<!-- end tiny -->\n";
    fs::write(&document, text).unwrap();
    let run = |file: &Path| {
        let mut run = command(&sweep);
        run.arg(file).arg("--out").arg(&out);
        run.arg("--into").arg(&document).output().unwrap()
    };
    // Of 200 steps no window of 400 can be cut.
    let policies = "\"fixed 4\", \"fixed 400\"";
    let output = run(&tiny_sweep(folder.path(), "1", policies, "test_perplexity"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("failed: K = 400, seed 1 ended with exit status: 1: error: "),
        "{error}"
    );
    assert!(error.contains("error: 1 of 2 runs failed"), "{error}");
    let table = fs::read_to_string(out.join("table.md")).unwrap();
    assert!(table.contains("| K = 4 | 1 | ") && table.contains("| K = 400 | 0 of 1 | – |"));
    assert_eq!(fs::read_to_string(&document).unwrap(), text);

    let error = failure(&run(&tiny_sweep(
        folder.path(),
        "2",
        policies,
        "test_perplexity",
    )));
    assert!(error.contains("holds runs of `copy "), "{error}");
    let error = failure(&run(&tiny_sweep(
        folder.path(),
        "1",
        "\"fixed 4\"",
        "perplexty",
    )));
    assert!(
        error.contains("no run measures \"perplexty\"") && error.contains("test_perplexity"),
        "{error}"
    );
}

/// A sweep that is asked to end passes that on: its runs write a checkpoint, and none is left behind.
#[cfg(unix)]
#[test]
fn a_sweep_ends_with_its_runs() {
    let (Some(sweep), Some(_)) = (example("sweep"), example("copy")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = tiny_sweep(folder.path(), "1000000", "\"fixed 4\"", "test_perplexity");
    let out = folder.path().join("out");
    let run = out.join("fixed-4-seed1");
    for ending in ["-TERM", "-INT"] {
        let before = fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len());
        let mut child = command(&sweep)
            .arg(&file)
            .arg("--out")
            .arg(&out)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len()) <= before {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&child, ending);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        // Nobody holds it any more.
        fs::File::open(run.join("run.lock"))
            .unwrap()
            .try_lock()
            .unwrap();
        let log = fs::read_to_string(out.join("fixed-4-seed1.log")).unwrap();
        assert!(log.contains("interrupted; go on with:"), "{log}");
        assert!(Checkpoint::newest(&run).unwrap().step() > 0);
        assert!(!run.join("result.json").exists());
    }
}

#[test]
fn a_sweep_compares_policies_and_repeats_nothing() {
    let (Some(sweep), Some(_)) = (example("sweep"), example("copy")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = folder.path().join("tiny.toml");
    let arguments: Vec<String> = TINY
        .iter()
        .map(|argument| format!("{argument:?}"))
        .collect();
    fs::write(
        &file,
        format!(
            r#"
title = "A tiny copy task"
program = "copy"
arguments = [{}, "--epochs", "2", "--quiet"]
policies = ["fixed 4", "adaptive 0.9", "chunked 4"]
seeds = [1, 2]
[[metrics]]
name = "test_perplexity"
title = "test perplexity"
paper = {{ "fixed 4" = [1.25, 0.5], "adaptive 0.9" = [1.5] }}
"#,
            arguments.join(", ")
        ),
    )
    .unwrap();
    let run = |extra: &[&str]| {
        let mut run = command(&sweep);
        run.arg(&file).arg("--out").arg(&out).args(extra);
        run.output().unwrap()
    };
    assert!(failure(&run(&["--report"])).contains("no results yet"));
    let shown = success(&run(&[]));
    for part in [
        "| policy | runs | test perplexity | paper |",
        "| K = 4 | 2 | ",
        " | 1.250 (0.500) | ",
        "| δ = 0.9 | 2 | ",
        "| chunks of 4 | 2 | ",
        " | – | ",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert_eq!(
        fs::read_to_string(out.join("table.md"))
            .unwrap()
            .lines()
            .count(),
        5
    );
    assert!(fs::read(out.join("figure.png")).unwrap().len() > 5_000);
    for policy in ["fixed-4", "adaptive-0.9", "chunked-4"] {
        for seed in [1, 2] {
            let run = out.join(format!("{policy}-seed{seed}"));
            assert!(Path::new(&format!("{}.log", run.display())).is_file());
        }
    }
    // The same into a document, twice: what stood between the marks goes.
    let document = folder.path().join("results.md");
    fs::write(
        &document,
        "before\n<!-- sweep tiny -->\nold\n<!-- end tiny -->\nafter\n",
    )
    .unwrap();
    for _ in 0..2 {
        success(&run(&["--report", "--into", document.to_str().unwrap()]));
        let text = fs::read_to_string(&document).unwrap();
        assert!(
            text.starts_with("before\n<!-- sweep tiny -->\n\n| policy |"),
            "{text}"
        );
        assert!(
            text.ends_with("(img/tiny.png)\n\n<!-- end tiny -->\nafter\n"),
            "{text}"
        );
        assert_eq!(text.matches("| K = 4 |").count(), 1);
        assert!(folder.path().join("img/tiny.png").is_file());
    }
    // The number in the table is the mean of the runs' results.
    let perplexity = |seed: u64| {
        let result = json(out.join(format!("fixed-4-seed{seed}/result.json")));
        result["measures"]["test_perplexity"].as_f64().unwrap()
    };
    let mean = (perplexity(1) + perplexity(2)) / 2.0;
    let sd = (perplexity(1) - perplexity(2)).abs() / 2f64.sqrt();
    assert!(
        shown.contains(&format!("| {mean:.3} ({sd:.3}) |")),
        "{mean} {sd} in {shown}"
    );

    let written = |seed: u64| -> SystemTime {
        let path = out.join(format!("adaptive-0.9-seed{seed}/result.json"));
        fs::metadata(path).unwrap().modified().unwrap()
    };
    let before = [written(1), written(2)];
    fs::remove_dir_all(out.join("fixed-4-seed2")).unwrap();
    success(&run(&["--jobs", "1"]));
    assert_eq!(
        [written(1), written(2)],
        before,
        "finished runs are not repeated"
    );
    assert_eq!(
        (perplexity(1) + perplexity(2)) / 2.0,
        mean,
        "the removed run came out the same"
    );
}

/// A step size of its own for every policy, the controls that go by the adaptive runs, and every policy beside the adaptive one.
#[test]
fn a_sweep_tunes_and_compares_policies() {
    let (Some(sweep), Some(_)) = (example("sweep"), example("copy")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("tiny.toml"), folder.path().join("out"));
    let arguments: Vec<String> = TINY
        .iter()
        .map(|argument| format!("{argument:?}"))
        .collect();
    let text = format!(
        r#"
title = "tiny"
program = "copy"
arguments = [{}, "--k0", "4", "--k-max", "20", "--epochs", "2", "--quiet"]
policies = ["context 1", "adaptive 0.5", "replay 0.5", "median 0.5"]
seeds = [1, 2]
validation_steps = 50
[tuning]
option = "--lr"
values = [0.001, 0.5, 1e30]
seed = 9
[comparison]
baseline = "adaptive 0.5"
margin = 0.001
[[metrics]]
name = "test_perplexity"
title = "test perplexity"
"#,
        arguments.join(", ")
    );
    fs::write(&file, text).unwrap();
    let run = |extra: &[&str]| {
        let mut run = command(&sweep);
        run.arg(&file).arg("--out").arg(&out).args(extra);
        success(&run.output().unwrap())
    };
    let shown = run(&[]);
    let row = |name: &str| {
        let start = format!("| {name} | 2 | 0.5 | ");
        let line = shown.lines().find(|line| line.starts_with(&start));
        line.unwrap_or_else(|| panic!("{name} in {shown}"))
            .to_owned()
    };
    assert!(row("K = 2 (context 1)").contains(" | 2.0 | "), "{shown}");
    for part in [
        "test perplexity less that of δ = 0.5, paired by seed",
        "| policy | pairs | difference | p | than δ = 0.5 |",
        "validation on seed 9 chooses K = 2 (context 1) with lr 0.5: 3 runs",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    // The replay has the K of the other seed's run, window by window, and the median is that run's.
    let of = |name: &str| out.join(name);
    let adaptive = json(of("adaptive-0.5-lr0.5-seed2").join("controller.json"));
    let replay = json(of("replay-0.5-lr0.5-seed1").join("config.json"));
    let mut changes = vec![(0, 4)];
    for decision in adaptive.as_array().unwrap() {
        let at = decision["position"]["update"].as_u64().unwrap();
        let k = decision["k"].as_u64().unwrap();
        match changes.last() {
            Some(&(_, before)) if before == k => {}
            _ => changes.push((at, k)),
        }
    }
    let replayed = &replay["plan"]["policy"];
    assert_eq!(replayed["policy"], "scheduled");
    assert_eq!(replayed["changes"], serde_json::to_value(&changes).unwrap());
    let metrics = fs::read_to_string(of("replay-0.5-lr0.5-seed1").join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert_eq!(last["k"].as_u64(), changes.last().map(|&(_, k)| k));
    let median = json(of("median-0.5-lr0.5-seed1").join("config.json"));
    assert_eq!(median["plan"]["policy"]["policy"], "fixed");
    // Nothing is run again, and steps that were too large are no choice.
    assert_eq!(run(&["--report"]), shown);
    // Fewer steps than the shortest windows need: 2 epochs of 10 windows of 21 steps, and 50 of validation.
    let context: Vec<String> = row("K = 2 (context 1)")
        .split(" | ")
        .map(str::to_owned)
        .collect();
    let thousands: f64 = context[7].parse().unwrap();
    assert!((1.0..10.0).contains(&thousands), "{context:?}");
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
}

/// Events whose intervals alternate between 1 and 3 hundredths, the mark following the interval.
#[test]
fn an_order_book_run_reports_likelihood_error_and_interval() {
    let Some(book_order) = example("book_order") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (split, sequences) in [("train", 6), ("test", 4)] {
        let (mut marks, mut times) = (String::new(), String::new());
        for sequence in 0..sequences {
            let mut time = 0.01 * f64::from(sequence);
            for event in 0..80 {
                let slow = (event + sequence) % 2 == 0;
                marks += if slow { "1 " } else { "2 " };
                times += &format!("{time:.4} ");
                time += if slow { 0.03 } else { 0.01 };
            }
            marks.push('\n');
            times.push('\n');
        }
        fs::write(folder.path().join(format!("event-1-{split}.txt")), marks).unwrap();
        fs::write(folder.path().join(format!("time-1-{split}.txt")), times).unwrap();
    }
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
    // A row per reading of the bias, and for each of two tolerances one more for the controller.
    assert_eq!(
        table.matches("| direct, averaged over updates |").count(),
        3,
        "{table}"
    );
    assert_eq!(table.matches("| controller |").count(), 2, "{table}");
    assert_eq!(
        table.matches("| norm of the mean sum |").count(),
        3,
        "{table}"
    );
}
