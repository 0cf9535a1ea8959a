//! What a newcomer meets first: the README's program, and a model of one's own.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::fs;
use std::path::Path;

use atbptt::train::Checkpoint;

use crate::common::programs::{command, example, failure, success};

#[test]
fn the_readme_shows_the_example_first() {
    let program = fs::read_to_string("examples/first.rs").unwrap();
    let (_, code) = program.split_once("\n\n").unwrap();
    let readme = fs::read_to_string("README.md").unwrap();
    assert!(readme.contains(code), "README.md does not show\n{code}");
}

/// The loss of a run's epochs with all digits.
fn losses(run: &Path) -> Vec<[String; 2]> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        ["train_loss", "valid_loss"].map(|name| row[name].to_string())
    };
    text.lines().map(row).collect()
}

/// Without a terminal: one line per epoch and one at the end. Initial weights are drawn from the seed, too.
#[test]
fn the_first_program_prints_a_line_per_epoch_and_gives_the_same_numbers_twice() {
    let Some(first) = example("first") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    for n in [1, 2] {
        let output = command(&first).current_dir(folder.path()).output().unwrap();
        let shown = success(&output);
        assert_eq!(shown.lines().count(), 6, "{shown}");
        assert!(output.stderr.is_empty(), "{output:?}");
        runs.push(losses(&folder.path().join(format!("runs/first-{n}"))));
    }
    assert_eq!(runs[0].len(), 5);
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn a_model_of_ones_own_gets_checkpoints_a_figure_and_goes_on() {
    let Some(plug_in) = example("plug_in") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let start = |arguments: &[&str]| {
        let mut start = command(&plug_in);
        start.current_dir(folder.path()).args(arguments);
        start.output().unwrap()
    };
    assert!(success(&start(&[])).contains("validation loss"));
    let run = folder.path().join("runs/plug_in-1");
    let png = fs::read(run.join("report.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000);
    assert_eq!(losses(&run).len(), 6);
    let before = losses(&run);
    let shown = success(&start(&["--resume", "runs/plug_in-1"]));
    assert!(
        shown.contains("changed: epochs is 6 in the checkpoint and 12 now"),
        "{shown}"
    );
    assert_eq!((losses(&run).len(), &losses(&run)[..6]), (12, &before[..]));
    assert_eq!(Checkpoint::newest(&run).unwrap().epochs(), 12);
    let error = command(&plug_in).arg("--what").output().unwrap();
    assert!(!error.status.success());
}

/// Trained, then moved away from everything: it goes on with a text, and measures the perplexity of one.
#[test]
fn generate_works_in_a_folder_without_the_text() {
    let (Some(wiki2), Some(generate)) = (example("wiki2"), example("generate")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut train = command(&wiki2);
    train
        .args([
            "--builtin",
            "--no-tui",
            "--max-tokens",
            "12000",
            "--hidden",
            "16",
        ])
        .args(["--epochs", "1", "--quiet", "--out"])
        .arg(&run);
    success(&train.output().unwrap());
    let alone = tempfile::tempdir().unwrap();
    fs::rename(run.join("model"), alone.path().join("model")).unwrap();
    drop(folder);
    let words: Vec<String> = {
        let text = fs::read_to_string(alone.path().join("model/vocabulary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let write = |arguments: &[&str]| {
        let mut write = command(&generate);
        write.current_dir(alone.path()).arg("model").args(arguments);
        write.output().unwrap()
    };
    let word = words.iter().find(|word| *word != "<eos>").unwrap();
    let options = [
        "--prompt", word, "--tokens", "30", "--top-k", "20", "--top-p", "0.9",
    ];
    let text = success(&write(&options));
    assert!(text.starts_with(word.as_str()), "{text}");
    assert!(
        text.split_whitespace()
            .all(|w| words.iter().any(|known| known == w)),
        "{text}"
    );
    assert!(text.split_whitespace().count() >= 10, "{text}");
    assert_eq!(
        text,
        success(&write(&options)),
        "the same seed, the same text"
    );
    let other = success(&write(&[&options[..], &["--seed", "2"]].concat()));
    assert_ne!(text, other);
    fs::write(
        alone.path().join("some.txt"),
        format!("{word} {word}\n{word}\n"),
    )
    .unwrap();
    let shown = success(&write(&["--perplexity", "some.txt"]));
    assert!(
        shown.starts_with("perplexity ") && shown.contains("over 5 tokens"),
        "{shown}"
    );
    // The same text as another program writes it.
    let other = format!("\u{feff}{word} {word}\r\n{word}");
    fs::write(alone.path().join("other.txt"), other).unwrap();
    assert_eq!(success(&write(&["--perplexity", "other.txt"])), shown);
    fs::write(alone.path().join("empty.txt"), "\n").unwrap();
    for (arguments, expected) in [
        (
            &["--temperature", "-1"][..],
            "temperature must be zero or more",
        ),
        (&["--top-p", "2"], "(0, 1]"),
        (&["--prompt", "no-such-word"], "no-such-word"),
        (&["--perplexity", "absent.txt"], "absent.txt"),
        (&["--perplexity", "empty.txt"], "holds no text"),
        (&["--series", "rows.csv"], "model is of another kind"),
    ] {
        let error = failure(&write(arguments));
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
    let nowhere = command(&generate).arg("/no/such/run").output().unwrap();
    assert!(failure(&nowhere).contains("holds no trained model"));
}

/// Accuracy of Burn's and a metric of one's own are there after every epoch, in files that a resumed run and TensorBoard read.
#[test]
fn a_metric_of_ones_own_is_shown_and_kept() {
    let Some(own_metric) = example("own_metric") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut start = command(&own_metric);
    success(&start.current_dir(folder.path()).output().unwrap());
    let run = folder.path().join("runs/own_metric-1");
    let last = |name: &str| -> f64 {
        let path = run.join(format!("valid/epoch-4/{name}.log"));
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().last().unwrap();
        line.split(',').next().unwrap().parse().unwrap()
    };
    let (accuracy, confidence) = (last("Accuracy"), last("Confidence"));
    // Guessing among a thousand words: 0.1 % and 0.001.
    assert!((5.0..100.0).contains(&accuracy), "{accuracy}");
    assert!((0.01..1.0).contains(&confidence), "{confidence}");
    assert!(run.join("tensorboard/valid").is_dir());
}

/// With a Python that has PyTorch, its outputs are ours; without one, the program says why there is no comparison.
#[test]
fn weights_go_to_pytorch_and_back_or_the_program_says_why_not() {
    let Some(program) = example("torch_weights") else {
        return;
    };
    let mut without = command(&program);
    let said = success(
        &without
            .env("TORCH_PYTHON", "/no/such/python")
            .output()
            .unwrap(),
    );
    for kind in ["LSTM", "GRU", "RNN"] {
        let skipped = format!("{kind}: skipped: /no/such/python cannot be started");
        assert!(said.contains(&skipped), "{said}");
    }
    let said = success(&command(&program).output().unwrap());
    for kind in ["LSTM", "GRU", "RNN"] {
        let compared = said.contains(&format!("{kind}: PyTorch: equal to 1e-5"));
        let skipped = said.contains(&format!("{kind}: skipped: "));
        assert!(compared != skipped, "{said}");
        let back = said.contains(&format!(
            "{kind}: the file that PyTorch saved: equal to 1e-5"
        ));
        assert_eq!(back, compared && cfg!(feature = "pytorch"), "{said}");
    }
}
