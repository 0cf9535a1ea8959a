//! Sequences of unequal length, used whole: [`PackedSource`].
//!
//! B streams run in parallel; in each, one sequence follows the other, with a reset where the next begins. Every step of
//! every sequence stands in one place, so that a pass over the streams counts each once. Streams that end earlier are
//! filled up with steps that do not count.
//!
//! What a sequence holds, and how steps become a batch, is the business of a [`SequenceSet`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use atbptt_models::SequenceBatch;
use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::DataError;
use super::window_layout::{Row, WindowLayout};
use crate::TrainError;
use crate::source::SequenceSource;

/// Sequences of any lengths, and how steps of them become a batch.
pub trait SequenceSet: Send + Sync + 'static {
    /// A window of inputs and targets.
    type Batch: SequenceBatch;

    /// Number of sequences.
    fn len(&self) -> usize;

    /// Whether there is no sequence.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of steps of a sequence; zero for one that does not exist.
    fn steps(&self, sequence: usize) -> usize;

    /// Makes a batch of the steps that `window` names, on `device`.
    ///
    /// Steps that do not [count](WindowLayout::counted) must carry no loss, and the state must be reset where a sequence
    /// [begins](WindowLayout::begins).
    ///
    /// # Errors
    ///
    /// [`TrainError`] when a step cannot be had.
    fn batch(&self, window: &WindowLayout, device: &Device) -> Result<Self::Batch, TrainError>;

    /// What tells the steps that `window` names from others, such as a hash of them; see
    /// [`SequenceSource::fingerprint`]. Default: `None`.
    fn fingerprint(&self, _window: &WindowLayout) -> Option<String> {
        None
    }
}

/// Sequences of unequal length in B parallel streams, each used whole.
///
/// Longest first, each sequence goes to the stream that is shortest so far (Graham's rule: the longest stream is at most
/// 4/3 of the best possible). A [shuffled](Self::with_shuffle) source orders the sequences anew in every epoch; streams have
/// the same lengths in all of them.
///
/// ```
/// use atbptt_train::data::{PackedSource, Series, SeriesSet};
/// use atbptt_train::SequenceSource;
///
/// // Four series of one input and one target.
/// let series = [2000, 1500, 900, 250].map(|steps| Series::new(vec![0.5; steps], 1, vec![1.0; steps], 1));
/// let set = SeriesSet::new(series.into_iter().collect::<Result<_, _>>()?)?;
/// let source = PackedSource::new(set, 2)?.with_shuffle(7);
/// // 2000 + 250 steps beside 1500 + 900.
/// assert_eq!((source.common_steps(), source.steps_counted()), (2400, 4650));
/// # Ok::<(), atbptt_train::data::DataError>(())
/// ```
#[derive(Debug)]
pub struct PackedSource<S> {
    set: Arc<S>,
    streams: Vec<Stream>,
    steps: usize,
    shuffle: Option<u64>,
}

impl<S> Clone for PackedSource<S> {
    fn clone(&self) -> Self {
        Self {
            set: self.set.clone(),
            streams: self.streams.clone(),
            ..*self
        }
    }
}

/// Sequences one after the other.
#[derive(Clone, Debug, Default)]
struct Stream {
    sequences: Vec<usize>,
    /// First step of each in the stream.
    starts: Vec<usize>,
    steps: usize,
}

impl Stream {
    fn push(&mut self, sequence: usize, steps: usize) {
        self.sequences.push(sequence);
        self.starts.push(self.steps);
        self.steps += steps;
    }
}

impl<S: SequenceSet> PackedSource<S> {
    /// `set` in `batch` parallel streams, in the order given.
    ///
    /// # Errors
    ///
    /// [`DataError::EmptyBatch`]; [`DataError::TooFewSequences`] unless every stream gets a sequence.
    pub fn new(set: impl Into<Arc<S>>, batch: usize) -> Result<Self, DataError> {
        let set = set.into();
        if batch == 0 {
            return Err(DataError::EmptyBatch);
        }
        let order: Vec<usize> = (0..set.len()).collect();
        let (streams, steps) = pack(set.as_ref(), &order, batch)?;
        Ok(Self {
            set,
            streams,
            steps,
            shuffle: None,
        })
    }

    /// Orders the sequences anew in every epoch of training, by `seed` and the number of the epoch alone: a run that is
    /// resumed meets the order that it would have met.
    pub fn with_shuffle(mut self, seed: u64) -> Self {
        self.shuffle = Some(seed);
        self
    }

    /// What is packed.
    pub fn set(&self) -> &S {
        &self.set
    }

    /// Steps that count, over all streams: those of all sequences.
    pub fn steps_counted(&self) -> usize {
        self.streams.iter().map(|stream| stream.steps).sum()
    }

    /// The sequences of every stream, in the order in which they are read.
    pub fn order(&self) -> Vec<Vec<usize>> {
        let order = |stream: &Stream| stream.sequences.clone();
        self.streams.iter().map(order).collect()
    }

    /// Sequences as epoch `epoch` of training, counted from one, reads them.
    pub fn epoch(&self, epoch: usize) -> Self {
        let Some(seed) = self.shuffle else {
            return self.clone();
        };
        let mut rng =
            Pcg64::seed_from_u64(seed ^ (epoch as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut order: Vec<usize> = (0..self.set.len()).collect();
        shuffle(&mut order, &mut rng);
        let Ok((mut streams, steps)) = pack(self.set.as_ref(), &order, self.streams.len()) else {
            // As many sequences as before fill as many streams.
            return self.clone();
        };
        // Longest first is an order too.
        for stream in &mut streams {
            let mut sequences = std::mem::take(stream).sequences;
            shuffle(&mut sequences, &mut rng);
            for sequence in sequences {
                stream.push(sequence, self.set.steps(sequence));
            }
        }
        Self {
            set: self.set.clone(),
            streams,
            steps,
            shuffle: self.shuffle,
        }
    }

    /// Steps `starts[b]..starts[b] + len` of every stream b.
    fn layout(&self, starts: &[usize], len: usize) -> Result<WindowLayout, DataError> {
        if starts.len() != self.streams.len() {
            return Err(DataError::StartCount {
                batch: self.streams.len(),
                got: starts.len(),
            });
        }
        if len == 0 {
            return Err(DataError::EmptyWindow);
        }
        let row = |(stream, &start): (&Stream, &usize)| {
            let end = start.checked_add(len).filter(|end| *end <= self.steps);
            let end = end.ok_or(DataError::WindowTooLong {
                start,
                len,
                steps: self.steps,
            })?;
            // The sequence that step `start` lies in, and those after it.
            let first = stream
                .starts
                .partition_point(|at| *at <= start)
                .saturating_sub(1);
            let all = stream.sequences.iter().zip(&stream.starts).skip(first);
            let mut segments = Vec::new();
            for (&sequence, &at) in all.take_while(|(_, at)| **at < end) {
                let from = start.saturating_sub(at);
                let to = (end - at).min(self.set.steps(sequence));
                if from < to {
                    segments.push((sequence, from..to));
                }
            }
            let last = stream.sequences.last().copied().unwrap_or(0);
            Ok(Row {
                segments,
                filler: (last, self.set.steps(last).saturating_sub(1)),
            })
        };
        let rows = self.streams.iter().zip(starts).map(row);
        Ok(WindowLayout {
            time: len,
            rows: rows.collect::<Result<_, DataError>>()?,
        })
    }
}

/// Shares the sequences out over `batch` streams, longest first; equals in the order given. Also the steps of the longest
/// stream.
fn pack<S: SequenceSet>(
    set: &S,
    order: &[usize],
    batch: usize,
) -> Result<(Vec<Stream>, usize), DataError> {
    let mut order: Vec<usize> = order
        .iter()
        .copied()
        .filter(|&s| set.steps(s) > 0)
        .collect();
    if order.len() < batch {
        return Err(DataError::TooFewSequences {
            batch,
            sequences: order.len(),
        });
    }
    order.sort_by_key(|&sequence| Reverse(set.steps(sequence)));
    let mut streams = vec![Stream::default(); batch];
    let mut shortest: BinaryHeap<Reverse<(usize, usize)>> =
        (0..batch).map(|stream| Reverse((0, stream))).collect();
    for sequence in order {
        let Some(Reverse((steps, stream))) = shortest.pop() else {
            break;
        };
        let more = set.steps(sequence);
        if let Some(stream) = streams.get_mut(stream) {
            stream.push(sequence, more);
        }
        shortest.push(Reverse((steps + more, stream)));
    }
    let steps = streams.iter().map(|stream| stream.steps).max().unwrap_or(0);
    Ok((streams, steps))
}

/// Fisher and Yates' shuffle.
fn shuffle(order: &mut [usize], rng: &mut Pcg64) {
    for i in (1..order.len()).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
}

impl<S: SequenceSet> SequenceSource for PackedSource<S> {
    type Batch = S::Batch;

    fn sequences(&self) -> usize {
        self.streams.len()
    }

    fn common_steps(&self) -> usize {
        self.steps
    }

    fn active(&self, step: usize) -> usize {
        match step < self.steps {
            true => self.streams.len(),
            false => 0,
        }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<S::Batch, TrainError> {
        let layout = self.layout(&vec![start; self.streams.len()], len)?;
        self.set.batch(&layout, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<S::Batch, TrainError> {
        self.set.batch(&self.layout(starts, len)?, device)
    }

    fn in_epoch(&self, epoch: usize) -> Option<Arc<dyn SequenceSource<Batch = S::Batch>>> {
        self.shuffle.map(|_| Arc::new(self.epoch(epoch)) as _)
    }

    fn shard(&self, streams: Range<usize>) -> Option<Arc<dyn SequenceSource<Batch = S::Batch>>> {
        let part = self.streams.get(streams)?;
        (!part.is_empty()).then(|| {
            Arc::new(Self {
                set: self.set.clone(),
                streams: part.to_vec(),
                // Shorter streams are filled up as before.
                steps: self.steps,
                shuffle: None,
            }) as _
        })
    }

    fn fingerprint(&self, steps: Range<usize>) -> Option<String> {
        let starts = vec![steps.start; self.streams.len()];
        let layout = self.layout(&starts, steps.len()).ok()?;
        self.set.fingerprint(&layout)
    }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
