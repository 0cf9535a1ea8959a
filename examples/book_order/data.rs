//! Events with marks and times, and windows of them.
//!
//! Two files, a sequence per line: marks (whole numbers from 1) and times (seconds, never backwards), separated by blanks.
//! What the model reads at an event is its mark and the interval since the one before; what it predicts are the next
//! event's mark and interval. The last event of a sequence predicts nothing and is left out.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use atbptt::models::{ModelError, SequenceBatch};
use atbptt::train::data::DataError;
use atbptt::train::{SequenceSource, TrainError};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use sha2::{Digest, Sha256};

/// What can be wrong with events.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("cannot read {}: {cause}; an event folder holds event-1-train.txt, time-1-train.txt and the same for test", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{} line {line}, event {event}: {rule}, got {found:?}", path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        event: usize,
        rule: &'static str,
        found: String,
    },
    #[error("{} has {marks} lines and {} has {times}; both need one line per sequence", mark_path.display(), time_path.display())]
    Sequences {
        mark_path: PathBuf,
        time_path: PathBuf,
        marks: usize,
        times: usize,
    },
    #[error("line {line}: {marks} marks in {} and {times} times in {}; every event has one of each", mark_path.display(), time_path.display())]
    Events {
        mark_path: PathBuf,
        time_path: PathBuf,
        line: usize,
        marks: usize,
        times: usize,
    },
    #[error("{} line {line}, event {event}: times must not run backwards, got {time} after {before}; sort the events", path.display())]
    Backwards {
        path: PathBuf,
        line: usize,
        event: usize,
        before: f64,
        time: f64,
    },
    #[error("{} has no sequence of two events or more; there is nothing to predict", path.display())]
    Empty { path: PathBuf },
    #[error("{} has one sequence of two events or more; validation and test need one each", path.display())]
    OneSequence { path: PathBuf },
    #[error("mark {mark} of {} does not occur among the {classes} marks of the training data; train on data that have it", path.display())]
    UnknownMark {
        path: PathBuf,
        mark: usize,
        classes: usize,
    },
}

/// One prediction: an event and the one after it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    /// From zero.
    mark: usize,
    /// Whether the event is the first of its sequence.
    first: bool,
    /// Since the event before, in seconds; zero at the first.
    interval: f32,
    next_mark: usize,
    next_interval: f32,
}

/// Sequences of events, each as its predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    sequences: Vec<Vec<Step>>,
    path: PathBuf,
}

/// SHA-256, in hexadecimal, of the events of all `splits`: a run goes on with the data it began with.
pub fn content_hash(splits: [&Events; 3]) -> String {
    let mut hasher = Sha256::new();
    for sequence in splits.iter().flat_map(|split| &split.sequences) {
        hasher.update((sequence.len() as u64).to_le_bytes());
        for step in sequence {
            for mark in [step.mark, step.next_mark] {
                hasher.update((mark as u64).to_le_bytes());
            }
            for interval in [step.interval, step.next_interval] {
                hasher.update(interval.to_le_bytes());
            }
        }
    }
    format!("{:x}", hasher.finalize())
}

/// Marks are numbered without large gaps: each has a row in the embedding.
const MAX_MARKS: usize = 1_000_000;

impl Events {
    /// Reads `event-1-{split}.txt` and `time-1-{split}.txt`.
    pub fn from_folder(folder: &Path, split: &str) -> Result<Self, EventError> {
        let mark_path = folder.join(format!("event-1-{split}.txt"));
        let time_path = folder.join(format!("time-1-{split}.txt"));
        let marks: Vec<Vec<usize>> = read(
            &mark_path,
            "a mark is a whole number from 1 to 1000000",
            |mark| (1..=MAX_MARKS).contains(mark),
        )?;
        let times: Vec<Vec<f64>> = read(
            &time_path,
            "a time is a finite number of seconds",
            |time: &f64| time.is_finite(),
        )?;
        if marks.len() != times.len() {
            return Err(EventError::Sequences {
                mark_path,
                time_path,
                marks: marks.len(),
                times: times.len(),
            });
        }
        let mut sequences = Vec::new();
        for (nth, (marks, times)) in marks.iter().zip(&times).enumerate() {
            let line = nth + 1;
            if marks.len() != times.len() {
                return Err(EventError::Events {
                    mark_path,
                    time_path,
                    line,
                    marks: marks.len(),
                    times: times.len(),
                });
            }
            // Intervals are f32.
            if let Some(event) =
                (1..times.len()).find(|&i| !((times[i] - times[i - 1]) as f32).is_finite())
            {
                return Err(EventError::Malformed {
                    path: time_path,
                    line,
                    event: event + 1,
                    rule: "the interval since the event before must be at most 3.4e38 s",
                    found: times[event].to_string(),
                });
            }
            if let Some(event) = (1..times.len()).find(|&i| times[i] < times[i - 1]) {
                return Err(EventError::Backwards {
                    path: time_path,
                    line,
                    event: event + 1,
                    before: times[event - 1],
                    time: times[event],
                });
            }
            let interval = |i: usize| (times[i] - times[i - 1]) as f32;
            let step = |i: usize| Step {
                mark: marks[i] - 1,
                first: i == 0,
                interval: if i == 0 { 0.0 } else { interval(i) },
                next_mark: marks[i + 1] - 1,
                next_interval: interval(i + 1),
            };
            if marks.len() > 1 {
                sequences.push((0..marks.len() - 1).map(step).collect());
            }
        }
        match sequences.is_empty() {
            true => Err(EventError::Empty { path: mark_path }),
            false => Ok(Self {
                sequences,
                path: mark_path,
            }),
        }
    }

    /// The first half of the sequences, and the rest.
    pub fn halves(mut self) -> Result<(Self, Self), EventError> {
        if self.sequences.len() < 2 {
            return Err(EventError::OneSequence { path: self.path });
        }
        let rest = self.sequences.split_off(self.sequences.len() / 2);
        let second = Self {
            sequences: rest,
            path: self.path.clone(),
        };
        Ok((self, second))
    }

    /// Number of different marks: the largest one.
    pub fn classes(&self) -> usize {
        let marks = self.sequences.iter().flatten();
        marks
            .map(|step| step.mark.max(step.next_mark) + 1)
            .max()
            .unwrap_or(1)
    }

    /// Refuses marks that a model of `classes` marks does not know.
    pub fn check(&self, classes: usize) -> Result<(), EventError> {
        match self.classes() {
            mark if mark > classes => Err(EventError::UnknownMark {
                path: self.path.clone(),
                mark,
                classes,
            }),
            _ => Ok(()),
        }
    }

    /// Number of predictions.
    pub fn len(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// All sequences one after the other, cut into `streams` parallel parts of equal length; the remainder is left out.
    /// Where a sequence begins, the state is reset.
    pub fn streams(&self, streams: usize) -> EventStreams {
        let all = self.sequences.concat();
        let length = all.len() / streams.max(1);
        EventStreams {
            streams: (0..streams)
                .map(|s| all[s * length..(s + 1) * length].to_vec())
                .collect(),
        }
    }

    /// One stream per sequence, longest first, for evaluation: every prediction once.
    pub fn parallel(&self) -> EventStreams {
        let mut streams = self.sequences.clone();
        streams.sort_by_key(|stream| std::cmp::Reverse(stream.len()));
        EventStreams { streams }
    }
}

/// All numbers of a file, line by line.
fn read<T: FromStr>(
    path: &Path,
    rule: &'static str,
    fits: impl Fn(&T) -> bool,
) -> Result<Vec<Vec<T>>, EventError> {
    let text = fs::read_to_string(path).map_err(|cause| EventError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let number = |line: usize, event: usize, found: &str| {
        let value = found.parse().ok().filter(|value| fits(value));
        value.ok_or_else(|| EventError::Malformed {
            path: path.to_owned(),
            line: line + 1,
            event: event + 1,
            rule,
            found: found.into(),
        })
    };
    let mut lines = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let numbers = text.split_whitespace().enumerate();
        let numbers: Result<Vec<T>, _> = numbers
            .map(|(event, found)| number(line, event, found))
            .collect();
        lines.push(numbers?);
    }
    Ok(lines)
}

/// Parallel streams of events, longest first.
#[derive(Clone, Debug, PartialEq)]
pub struct EventStreams {
    streams: Vec<Vec<Step>>,
}

impl EventStreams {
    /// The longest interval to be predicted, in seconds.
    pub fn longest_interval(&self) -> f32 {
        let steps = self.streams.iter().flatten();
        steps.map(|step| step.next_interval).fold(0.0, f32::max)
    }

    fn batch(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<EventBatch, TrainError> {
        let sequences = starts.len();
        let mut rows: Vec<&[Step]> = Vec::with_capacity(sequences);
        for (stream, &start) in self.streams.iter().zip(starts) {
            let steps = stream.len();
            let row = start
                .checked_add(len)
                .and_then(|end| stream.get(start..end));
            rows.push(row.ok_or(DataError::WindowTooLong { start, len, steps })?);
        }
        let steps = || (0..len).flat_map(|t| rows.iter().map(move |row| &row[t]));
        let shape = [len, sequences];
        let marks = |mark: fn(&Step) -> usize| {
            let marks: Vec<i64> = steps().map(|step| mark(step) as i64).collect();
            Tensor::<2, Int>::from_data(TensorData::new(marks, shape), device)
        };
        let timing: Vec<f32> = steps()
            .flat_map(|step| [f32::from(u8::from(step.first)), step.interval])
            .collect();
        let next: Vec<f32> = steps().map(|step| step.next_interval).collect();
        let resets = rows.iter().any(|row| row.iter().any(|step| step.first));
        let reset = resets.then(|| {
            let first: Vec<bool> = rows
                .iter()
                .flat_map(|row| row.iter().map(|step| step.first))
                .collect();
            Tensor::<2, Bool>::from_data(TensorData::new(first, [sequences, len]), device)
        });
        Ok(EventBatch {
            marks: marks(|step| step.mark),
            timing: Tensor::from_data(TensorData::new(timing, [len, sequences, 2]), device),
            next_marks: marks(|step| step.next_mark),
            next_intervals: Tensor::from_data(TensorData::new(next, shape), device),
            reset,
        })
    }
}

impl SequenceSource for EventStreams {
    type Batch = EventBatch;

    fn sequences(&self) -> usize {
        self.streams.len()
    }

    fn common_steps(&self) -> usize {
        self.streams.last().map_or(0, Vec::len)
    }

    fn shard(&self, streams: Range<usize>) -> Option<Arc<dyn SequenceSource<Batch = EventBatch>>> {
        let streams = self.streams.get(streams)?.to_vec();
        Some(Arc::new(Self { streams }))
    }

    fn active(&self, step: usize) -> usize {
        self.streams.partition_point(|stream| stream.len() > step)
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<EventBatch, TrainError> {
        let sequences = self.active(start.saturating_add(len.saturating_sub(1)));
        self.batch(&vec![start; sequences], len, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<EventBatch, TrainError> {
        match starts.len() == self.streams.len() {
            true => self.batch(starts, len, device),
            false => Err(DataError::StartCount {
                batch: self.streams.len(),
                got: starts.len(),
            }
            .into()),
        }
    }
}

/// A window of events and of what follows each.
#[derive(Clone, Debug)]
pub struct EventBatch {
    /// `[time, batch]`
    pub marks: Tensor<2, Int>,
    /// First-event flag and interval since the event before, `[time, batch, 2]`.
    pub timing: Tensor<3>,
    /// `[time, batch]`
    pub next_marks: Tensor<2, Int>,
    /// In seconds, `[time, batch]`.
    pub next_intervals: Tensor<2>,
    /// Where sequences begin, `[batch, time]`.
    pub reset: Option<Tensor<2, Bool>>,
}

impl EventBatch {
    /// Refuses features of another shape.
    pub fn check(&self, features: &Tensor<3>) -> Result<(), ModelError> {
        let [sequences, time, _] = features.dims();
        match [time, sequences] == self.marks.dims() {
            true => Ok(()),
            false => Err(ModelError::custom(format!(
                "features of {time} steps and {sequences} sequences do not belong to a batch of {:?}",
                self.marks.dims()
            ))),
        }
    }
}

impl SequenceBatch for EventBatch {
    fn steps(&self) -> usize {
        self.marks.dims()[0]
    }

    fn sequences(&self) -> usize {
        self.marks.dims()[1]
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let (start, length) = (range.start, range.len());
        Self {
            marks: self.marks.clone().narrow(0, start, length),
            timing: self.timing.clone().narrow(0, start, length),
            next_marks: self.next_marks.clone().narrow(0, start, length),
            next_intervals: self.next_intervals.clone().narrow(0, start, length),
            reset: self
                .reset
                .as_ref()
                .map(|reset| reset.clone().narrow(1, start, length)),
        }
    }
}
