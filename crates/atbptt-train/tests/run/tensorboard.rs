//! Event files, read by TensorBoard itself.

use super::*;

/// Reads the scalars of a folder with TensorBoard's own reader: a line `tag step value` each.
const READ_EVENTS: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
for tag in sorted(events.Tags()['scalars']):
    for event in events.Scalars(tag):
        print(tag.replace(' ', '_'), event.step, event.value)
";

/// Two epochs, then a third in another process's place: one value per window and per epoch, at the windows' numbers.
#[test]
fn tensorboard_reads_what_a_run_and_its_continuation_wrote() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let folder = RunFolder::numbered(parent.path(), "board").unwrap();
    let path = folder.path().to_owned();
    drop(train(run(2, &corpus).with_tensorboard(), &folder, 1.0).unwrap());
    drop(folder);
    let folder = RunFolder::resume(&path).unwrap();
    let result = train(run(3, &corpus).with_tensorboard(), &folder, 1.0).unwrap();
    for split in ["train", "valid"] {
        let files = std::fs::read_dir(path.join("tensorboard").join(split)).unwrap();
        assert_eq!(files.count(), 2, "one of each process");
    }
    let python = std::env::var("TORCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let read = |split: &str| {
        let folder = path.join("tensorboard").join(split);
        let mut python = std::process::Command::new(&python);
        python.args(["-c", READ_EVENTS]).arg(folder).output().ok()
    };
    let Some(output) = read("valid").filter(|output| output.status.success()) else {
        println!(
            "skipped: no Python with tensorboard; set TORCH_PYTHON to one that has it, for TensorBoard's own reader"
        );
        return;
    };
    let scalars = |output: std::process::Output, tag: &str| -> Vec<(u64, f64)> {
        let text = String::from_utf8(output.stdout).unwrap();
        let of_tag = text
            .lines()
            .filter_map(|line| line.strip_prefix(tag)?.strip_prefix(' '));
        of_tag
            .map(|line| {
                let (step, value) = line.split_once(' ').unwrap();
                (step.parse().unwrap(), value.parse().unwrap())
            })
            .collect()
    };
    let valid = scalars(output, "Perplexity");
    assert_eq!(valid.len(), 3);
    for ((step, perplexity), report) in valid.iter().zip(&result.reports) {
        assert_eq!(*step, report.step);
        let expected = report.valid_perplexity.unwrap();
        assert!((perplexity - expected).abs() < 1e-5 * expected);
    }
    let k = scalars(read("train").unwrap(), "Truncation_length");
    let steps: Vec<u64> = k.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=result.reports[2].step).collect::<Vec<_>>());
    let clipped = scalars(read("train").unwrap(), "Clipped_windows");
    let sum: f64 = clipped.iter().map(|(_, value)| value).sum();
    let expected: usize = result.reports.iter().map(|report| report.clipped).sum();
    assert_eq!(sum, expected as f64);
}
