//! The copy task's data, and the sweep files of the project.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.
#![allow(dead_code)] // The programs use more of the modules than the tests do.

#[path = "../../examples/copy/data.rs"]
mod copy_data;
#[path = "../../examples/common/history.rs"]
pub mod history;
mod common {
    pub use super::history;
}
#[path = "../../examples/sweep/comparison.rs"]
mod comparison;
#[path = "../../examples/sweep/cost.rs"]
mod cost;
#[path = "../../examples/sweep/figure.rs"]
mod figure;
#[path = "../../examples/sweep/plan.rs"]
mod plan;
#[path = "../../examples/sweep/policy.rs"]
mod policy;
#[path = "../../examples/sweep/report.rs"]
mod report;
#[path = "../../examples/common/reports.rs"]
mod reports;
#[path = "../../examples/sweep/run.rs"]
mod run;
#[path = "../../examples/sweep/spec.rs"]
mod spec;
#[path = "../../examples/sweep/statistics.rs"]
mod statistics;
#[path = "../../examples/common/trained_bias.rs"]
mod trained_bias;

use std::fs;
use std::path::{Path, PathBuf};

use atbptt::train::SequenceSource;
use burn::tensor::{Device, Int, Tensor};
use copy_data::{CopyTask, SymbolError, SymbolSequences};
use proptest::prelude::*;

/// As in the programs.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Folder of real data, or why the test has nothing to check.
fn real_data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ATBPTT_DATA").unwrap_or_else(|| "../shared/data".into());
    let folder = Path::new(&root).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!(
        "skipped: no folder {}; set ATBPTT_DATA to run this test",
        folder.display()
    );
    None
}

/// Every target was the input m steps before.
fn repeats(data: &SymbolSequences, memory: usize, sequences: usize) {
    for sequence in 0..sequences {
        for step in memory..data.steps() {
            let (_, target) = data.at(sequence, step);
            let (input, _) = data.at(sequence, step - memory);
            assert_eq!(target, input, "sequence {sequence}, step {step}");
        }
    }
}

/// Towards the end of the released sequences blocks are cut short, so that what was seen is not always asked for; what is
/// asked for was always seen ten steps before.
#[test]
fn the_released_copy_data_ask_for_what_was_seen_ten_steps_before() {
    let Some(folder) = real_data("copy_fixed") else {
        return;
    };
    for (split, steps, whole) in [
        ("train", 4000, 3400),
        ("valid", 1000, 400),
        ("test", 1000, 400),
    ] {
        let data = SymbolSequences::from_folder(&folder, split, 6).unwrap();
        assert_eq!((data.steps(), data.sequences()), (steps, 64));
        for sequence in 0..64 {
            for step in 10..steps {
                let (_, target) = data.at(sequence, step);
                let (input, _) = data.at(sequence, step - 10);
                let asked = target != 0 || step < whole;
                assert!(
                    !asked || target == input,
                    "{split}, sequence {sequence}, step {step}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn prop_generated_copy_data_repeat(memory in 1usize..20, symbols in 3usize..12, seed in any::<u64>()) {
        let task = CopyTask { memory: (memory, memory), symbols, sequences: 3 };
        let data = task.generate(100, seed).unwrap();
        repeats(&data, memory, 3);
        for step in 0..100 {
            prop_assert!((data.at(0, step).0 as usize) < symbols);
        }
        prop_assert_eq!(&data, &task.generate(100, seed).unwrap());
        // With one symbol beside blank and marker, or none, only the places differ, which can meet.
        let nothing_drawn = memory == 1 || symbols == 3;
        prop_assert!(nothing_drawn || data != task.generate(100, seed ^ 1).unwrap());
    }

    /// With a variable memory every block repeats itself with its own m, and m keeps to its bounds.
    #[test]
    fn prop_variable_memory_keeps_to_its_bounds(seed in any::<u64>()) {
        let task = CopyTask { memory: (5, 10), symbols: 6, sequences: 2 };
        let data = task.generate(400, seed).unwrap();
        let inputs: Vec<u8> = (0..400).map(|step| data.at(1, step).0).collect();
        let starts: Vec<usize> = (0..400).filter(|&step| inputs[step] == 1).collect();
        prop_assert!(starts.len() > 15);
        for pair in starts.windows(2) {
            let length = pair[1] - pair[0];
            prop_assert!(length % 2 == 0 && (10..=20).contains(&length));
            for i in 0..length / 2 {
                let (seen, asked) = (data.at(1, pair[0] + i), data.at(1, pair[0] + length / 2 + i));
                prop_assert_eq!(seen.0, asked.1);
                prop_assert_eq!((seen.1, asked.0), (0, 0));
            }
        }
    }
}

#[test]
fn copy_windows_are_the_files_steps() {
    let task = CopyTask {
        memory: (4, 4),
        symbols: 6,
        sequences: 3,
    };
    let data = task.generate(30, 1).unwrap();
    let numbers = |tensor: &Tensor<2, Int>| tensor.to_data().iter::<i64>().collect::<Vec<_>>();
    let window = data.window(5, 7, &Device::flex()).unwrap();
    let expected: Vec<i64> = (0..3)
        .flat_map(|b| (5..12).map(move |t| (b, t)))
        .map(|(b, t)| i64::from(data.at(b, t).0))
        .collect();
    assert_eq!(numbers(window.inputs()), expected);
    let gathered = data.gather(&[0, 9, 23], 7, &Device::flex()).unwrap();
    let expected: Vec<i64> = [(0, 0), (1, 9), (2, 23)]
        .iter()
        .flat_map(|&(b, start)| (start..start + 7).map(move |t| (b, t)))
        .map(|(b, t)| i64::from(data.at(b, t).1))
        .collect();
    assert_eq!(numbers(gathered.targets()), expected);
    assert!(data.window(25, 6, &Device::flex()).is_err());
    assert!(data.gather(&[0, 1], 3, &Device::flex()).is_err());
}

#[test]
fn wrong_copy_files_and_settings_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let read = |inputs: &str, targets: &str, symbols: usize| {
        fs::write(folder.path().join("train_input.txt"), inputs).unwrap();
        fs::write(folder.path().join("train_target.txt"), targets).unwrap();
        SymbolSequences::from_folder(folder.path(), "train", symbols)
    };
    assert_eq!(read("012\n345\n", "000\n012\n", 6).unwrap().steps(), 2);
    let cases: [(&str, &str, usize, &str); 8] = [
        (
            "012\n365\n",
            "000\n012\n",
            6,
            "line 2, column 2: symbols are the digits 0 to 5, got '6'",
        ),
        ("012\n3x5\n", "000\n012\n", 6, "got 'x'"),
        (
            "012\n345\n",
            "000\n007\n",
            6,
            "train_target.txt line 2, column 3",
        ),
        (
            "012\n34\n",
            "000\n012\n",
            6,
            "line 2 has 2 sequences, line 1 has 3",
        ),
        ("012\n345\n", "000\n", 6, "2 steps of 3 sequences"),
        ("", "000\n", 6, "is empty"),
        ("013\n", "000\n", 3, "digits 0 to 2"),
        ("012\n", "000\n", 2, "(--symbols) must be between 3 and 255"),
    ];
    for (inputs, targets, symbols, expected) in cases {
        let error = read(inputs, targets, symbols).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
    let error = SymbolSequences::from_folder(Path::new("/no/such"), "train", 6).unwrap_err();
    assert!(matches!(error, SymbolError::Read { .. }));
    for (memory, symbols, sequences, expected) in [
        ((0, 10), 6, 4, "--min-memory"),
        ((11, 10), 6, 4, "--min-memory"),
        ((0, 0), 6, 4, "--memory"),
        ((5, usize::MAX), 6, 4, "--memory"),
        ((5, 10), 2, 4, "--symbols"),
        ((5, 10), 256, 4, "--symbols"),
        ((5, 10), 6, 0, "--batch"),
    ] {
        let task = CopyTask {
            memory,
            symbols,
            sequences,
        };
        let error = task.generate(10, 1).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
}

/// Every file of the project is valid. One that repeats an experiment of the paper's holds its number for every policy and metric that
/// the paper has: its policies are fixed and adaptive windows. One of our own tunes every policy and compares them over five seeds.
#[test]
fn the_projects_sweep_files_are_valid() {
    let mut seen = 0;
    for entry in fs::read_dir("experiments").unwrap() {
        let path = entry.unwrap().path();
        let spec = spec::Spec::read(&path).unwrap();
        let of_our_own = ["test_rmse_unbounded"];
        let repeats = spec.metrics.iter().any(|metric| !metric.paper.is_empty());
        if !repeats {
            assert!(spec.tuning.is_some() && spec.comparison.is_some());
            assert_eq!(spec.seeds.len(), 5, "{}", path.display());
        }
        for metric in &spec.metrics {
            for policy in &spec.policies {
                let key = policy.key();
                let of_the_paper = key.starts_with("fixed") || key.starts_with("adaptive");
                assert!(
                    !(repeats && of_the_paper)
                        || of_our_own.contains(&metric.name.as_str())
                        || metric.paper.contains_key(&key),
                    "{}: {policy}",
                    path.display()
                );
            }
        }
        seen += 1;
    }
    assert!(seen >= 17);
}
