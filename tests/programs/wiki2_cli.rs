//! The `wiki2` example as a user meets it: what it writes, wrong options, Ctrl-C and resuming.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on should stop

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atbptt::train::Checkpoint;

use crate::common::programs::{command, epochs, example, failure, signal, success};

/// A tiny run on the built-in corpus.
fn tiny(program: &Path) -> Command {
    let mut command = command(program);
    command.args([
        "--builtin",
        "--no-tui",
        "--max-tokens",
        "12000",
        "--hidden",
        "16",
    ]);
    command
}

/// Goes on with a run.
fn resume(program: &Path, run: &Path, options: &[&str]) -> Command {
    let mut command = command(program);
    command
        .args(["--no-tui", "--resume"])
        .arg(run)
        .args(options);
    command
}

#[test]
fn a_run_writes_its_settings_metrics_decisions_checkpoints_and_figure() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = tiny(&program)
        .args(["--epochs", "2", "--out"])
        .arg(&run)
        .output()
        .unwrap();
    let shown = success(&output);
    for part in [
        "NOT real text",
        "test perplexity",
        "over 1200 tokens",
        "report.png",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert_eq!(epochs(&run).len(), 2);
    let png = fs::read(run.join("report.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000);
    let decisions: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.join("controller.json")).unwrap()).unwrap();
    assert_eq!(
        decisions.as_array().unwrap().len(),
        1,
        "one decision, before the second epoch"
    );
    assert!(run.join("config.json").is_file());
    // A damaged checkpoint is refused before training starts, and the one before it is offered.
    let newest = Checkpoint::newest(&run).unwrap();
    assert_eq!(newest.epochs(), 2);
    let older = Checkpoint::list(&run)[1].display().to_string();
    let whole = fs::read(newest.path()).unwrap();
    for damaged in [
        &whole[..whole.len() / 2],
        &b"not a checkpoint"[..],
        &b""[..],
    ] {
        fs::write(newest.path(), damaged).unwrap();
        let error = failure(&resume(&program, &run, &["--epochs", "3"]).output().unwrap());
        assert!(error.contains(&older), "{error}");
    }
    fs::write(newest.path(), whole).unwrap();
    // What makes it another run is named.
    for (options, difference) in [
        (
            &["--hidden", "17"][..],
            "hidden is 16 in the checkpoint and 17 now",
        ),
        (
            &["--delta", "0.7"],
            "delta is 0.1 in the checkpoint and 0.7 now",
        ),
        (&["--max-tokens", "11000"], "data is "),
        (
            &["--batch", "8"],
            "sequences is 16 in the checkpoint and 8 now",
        ),
    ] {
        let error = failure(&resume(&program, &run, options).output().unwrap());
        assert!(
            error.contains("another run") && error.contains(difference),
            "{error}"
        );
    }
    // A second run into the same folder loses nothing.
    let again = tiny(&program).args(["--out"]).arg(&run).output().unwrap();
    assert!(failure(&again).contains("already holds a run"));
    assert_eq!(epochs(&run).len(), 2);
}

#[test]
fn wrong_options_and_texts_are_one_line_errors() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let corpus = |name: &str, train: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("train.txt"), train).unwrap();
        fs::write(path.join("valid.txt"), "a b c d\n".repeat(10)).unwrap();
        fs::write(path.join("test.txt"), "a b c d\n".repeat(10)).unwrap();
        path.display().to_string()
    };
    let empty = corpus("empty", b"");
    let bytes = corpus("bytes", b"fine\nnot \xff fine\n");
    let short = corpus("short", "a b c d\n".repeat(100).as_bytes());
    let out = folder.path().join("out").display().to_string();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["--data", "/no/such/folder"], "not a folder"),
        (vec!["--data", &empty], "empty"),
        (vec!["--data", &bytes], "line 2"),
        (
            vec!["--data", &short, "--batch", "4"],
            "may reach 200 steps",
        ),
        (
            vec!["--data", &short, "--batch", "900"],
            "use a smaller batch",
        ),
        (vec!["--builtin", "--delta", "0"], "(0, 1]"),
        (vec!["--builtin", "--delta", "NaN"], "(0, 1]"),
        (
            vec!["--builtin", "--k-min", "50", "--k-max", "20"],
            "k_min <= k0 <= k_max",
        ),
        (vec!["--builtin", "--window", "1"], "at least 2"),
        (vec!["--builtin", "--window", "99999"], "shorter window"),
        (vec!["--builtin", "--layers", "0"], "at least 1"),
        (vec!["--builtin", "--dropout", "1"], "[0, 1)"),
        (vec!["--builtin", "--lr", "0"], "above zero"),
        (vec!["--builtin", "--epochs", "0"], "at least 1"),
        (vec!["--builtin", "--fixed-k", "0"], "at least 1"),
        (vec!["--resume", "/no/such/run"], "earlier run"),
    ];
    for (arguments, expected) in cases {
        let mut command = command(&program);
        command.arg("--no-tui").args(&arguments);
        if arguments[0] != "--resume" {
            command.args(["--out", &out]);
        }
        let error = failure(&command.output().unwrap());
        assert!(
            error.contains(expected),
            "{arguments:?}: {expected:?} in {error}"
        );
        assert!(!Path::new(&out).exists(), "{arguments:?} left a run folder");
    }
    let unknown = tiny(&program)
        .env("BURN_DEVICE", "abacus")
        .output()
        .unwrap();
    let error = failure(&unknown);
    assert!(
        error.contains("abacus") && error.contains("flex"),
        "{error}"
    );
    // No test is built with CUDA.
    let missing = tiny(&program).env("BURN_DEVICE", "cuda").output().unwrap();
    let error = failure(&missing);
    assert!(
        cfg!(feature = "cuda") || error.contains("--features cuda"),
        "{error}"
    );
}

/// A text of ten lines whose words repeat, and a rare one.
#[test]
fn a_text_is_read_as_words_characters_or_bytes_by_the_rules_asked_for() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, train: &str, valid: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("train.txt"), train).unwrap();
        for split in ["valid.txt", "test.txt"] {
            fs::write(path.join(split), valid).unwrap();
        }
        path
    };
    let train = "ab ba ab ba\n".repeat(400) + "once\n";
    let text = write("text", &train, &"ab ba new\n".repeat(40));
    let vocabulary = |data: &Path, name: &str, options: &[&str]| {
        let run = folder.path().join(name);
        let mut command = command(&program);
        command
            .args([
                "--no-tui", "--hidden", "4", "--batch", "4", "--window", "30", "--epochs", "1",
            ])
            .args(["--fixed-k", "5", "--data"])
            .arg(data)
            .args(options)
            .arg("--out")
            .arg(&run);
        let shown = success(&command.output().unwrap());
        let words = fs::read_to_string(run.join("model/vocabulary.json")).unwrap();
        (shown, serde_json::from_str::<Vec<String>>(&words).unwrap())
    };
    let (shown, words) = vocabulary(&text, "words", &[]);
    assert_eq!(words, ["ab", "ba", "<eos>", "once", "new"]);
    assert!(shown.contains("5 different words"), "{shown}");
    let (_, words) = vocabulary(&text, "training", &["--vocabulary", "training"]);
    assert!(words.contains(&"once".into()) && !words.contains(&"new".into()));
    assert!(words.contains(&"<unk>".into()));
    let (_, words) = vocabulary(&text, "frequent", &["--min-count", "2"]);
    assert!(words.contains(&"new".into()) && !words.contains(&"once".into()));
    let (shown, letters) = vocabulary(&text, "letters", &["--unit", "char"]);
    assert!(letters.contains(&"a".into()) && letters.contains(&"\n".into()));
    assert!(shown.contains("different characters"), "{shown}");
    let (_, bytes) = vocabulary(&text, "bytes", &["--unit", "byte"]);
    assert_eq!(bytes.len(), 256);
    // Lines without blanks: said, with the remedy.
    let lines = write("lines", &"没有空格\n".repeat(800), &"没有空格\n".repeat(40));
    let (shown, _) = vocabulary(&lines, "lines-words", &[]);
    assert!(
        shown.contains("warning: ") && shown.contains("--unit char"),
        "{shown}"
    );
    let (shown, _) = vocabulary(&lines, "lines-letters", &["--unit", "char"]);
    assert!(!shown.contains("warning: "), "{shown}");
    // Generated words have no other unit.
    let refused = tiny(&program).args(["--unit", "char"]).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && error.contains("--builtin"),
        "{error}"
    );
}

/// As with `… | head`: whoever reads has enough after a line, and the run goes on to its end.
#[test]
fn a_closed_pipe_ends_no_run() {
    let (Some(program), Some(generate)) = (example("wiki2"), example("generate")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let closed_after_a_line = |mut command: Command| {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut line).unwrap();
        drop(reader);
        let output = child.wait_with_output().unwrap();
        assert!(!line.is_empty());
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    };
    let mut train = tiny(&program);
    train.args(["--epochs", "3", "--out"]).arg(&run);
    closed_after_a_line(train);
    assert_eq!(epochs(&run).len(), 3);
    assert!(run.join("result.json").is_file() && run.join("report.png").is_file());
    let mut write = command(&generate);
    // More than a pipe holds.
    write.arg(&run).args(["--tokens", "15000"]);
    closed_after_a_line(write);
}

/// Interrupted wherever SIGINT happens to land, then resumed: the same losses to the last bit as one run through.
#[cfg(unix)]
#[test]
fn an_interrupted_run_resumes_exactly() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let options = ["--epochs", "3", "--delta", "0.5", "--out"];
    let output = tiny(&program).args(options).arg(&whole).output().unwrap();
    success(&output);

    let mut child = tiny(&program)
        .args(options)
        .arg(&parts)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !parts.join("train/epoch-1").exists() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(60));
    signal(&child, "-INT");
    let code = child.wait().unwrap().code();
    if code == Some(0) {
        println!("the run was over before the signal; nothing to resume");
        return;
    }
    assert_eq!(code, Some(130));

    success(&resume(&program, &parts, &[]).output().unwrap());
    assert_eq!(epochs(&whole), epochs(&parts));
}
