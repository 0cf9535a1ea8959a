//! A sweep of runs: it compares policies, repeats nothing, and ends with its runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use atbptt::train::Checkpoint;

use super::runs_cli::{TINY, json};
use crate::common::programs::{command, example, failure, signal, success};

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
        "| test perplexity less that of δ = 0.5 | p | than δ = 0.5 |",
        "paired by seed",
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
