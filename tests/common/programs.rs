//! The example programs as children of a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use atbptt::models::LanguageModelConfig;
use atbptt::train::{Checkpoint, Identity};

use super::{Model, bits, device, timeless};

/// The example's executable, which `cargo test` builds beside the test's own.
pub fn example(name: &str) -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let path = test.parent()?.parent()?.join("examples").join(file);
    if !path.is_file() {
        println!(
            "skipped: {} is not built; run `cargo build --example {name}` first",
            path.display()
        );
        return None;
    }
    Some(path)
}

/// The folder of a data set, or `None` after printing why the test is skipped.
pub fn data(dataset: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("ATBPTT_DATA").map_or_else(|| "../shared/data".into(), PathBuf::from);
    let folder = root.join(dataset);
    if !folder.is_dir() {
        println!(
            "skipped: no folder {}; set ATBPTT_DATA to run this test",
            folder.display()
        );
        return None;
    }
    Some(folder)
}

/// A program that is about to run on the CPU, without input.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("BURN_DEVICE", "flex")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All that it said.
pub fn words(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// What it printed; it must have ended well.
pub fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}", words(output));
    text(&output.stdout)
}

/// Its error, of one line, with status 1.
pub fn failure(output: &Output) -> String {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}", words(output));
    let lines: Vec<&str> = error.lines().collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("error: "),
        "one line, got {lines:?}"
    );
    error
}

/// Starts a run and kills it once a checkpoint is in its folder, or it has ended.
pub fn kill_after_checkpoint(command: &mut Command, run: &Path) {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let is_checkpoint = |path: PathBuf| path.extension().is_some_and(|end| end == "ckpt");
    let has_checkpoint = || {
        let files = std::fs::read_dir(run.join("checkpoint"));
        files.is_ok_and(|mut files| files.any(|file| is_checkpoint(file.unwrap().path())))
    };
    while !has_checkpoint() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Sends a signal, such as `-INT`.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Weights, reports without times, and the policy with its history, of a run of `wiki2` of one layer.
pub fn outcome(run: &Path) -> (Vec<u32>, String, String) {
    let last = Checkpoint::newest(run).unwrap();
    let (parts, _) = last.identity().differences(&Identity::new());
    let embedding = parts
        .iter()
        .find(|part| part.name.ends_with("embedding.weight"));
    let shape = embedding.and_then(|shape| shape.saved.clone()).unwrap();
    let sizes: Vec<usize> = serde_json::from_str(&shape).unwrap();
    let template: Model = LanguageModelConfig::new(sizes[0])
        .with_hidden(sizes[1])
        .with_dropout(0.2)
        .init(&device())
        .unwrap();
    let reports = format!("{:?}", timeless(last.reports()));
    let policy = serde_json::to_string(last.policy()).unwrap();
    (bits(&last.model(template).unwrap()), reports, policy)
}

/// Small files for `book_order`: two marks and two intervals, by turns.
pub fn event_files(folder: &Path) {
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
        fs::write(folder.join(format!("event-1-{split}.txt")), marks).unwrap();
        fs::write(folder.join(format!("time-1-{split}.txt")), times).unwrap();
    }
}

/// Training and validation loss and K of every epoch of a run, as written.
pub fn epochs(run: &Path) -> Vec<(f64, f64, u64)> {
    let rows = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| row[name].as_f64().unwrap();
        (
            number("train_loss"),
            number("valid_loss"),
            row["k"].as_u64().unwrap(),
        )
    };
    rows.lines().map(row).collect()
}

/// Two runs with the same losses, to rounding, and the same K.
pub fn assert_alike(run: &Path, other: &Path) {
    let (run, other) = (epochs(run), epochs(other));
    assert_eq!(run.len(), other.len());
    for (epoch, expected) in run.iter().zip(&other) {
        assert!(
            (epoch.0 / expected.0 - 1.0).abs() < 1e-5,
            "{run:?}, {other:?}"
        );
        assert!(
            (epoch.1 / expected.1 - 1.0).abs() < 1e-5,
            "{run:?}, {other:?}"
        );
        assert_eq!(epoch.2, expected.2, "{run:?}, {other:?}");
    }
}
