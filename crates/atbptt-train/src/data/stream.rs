//! One long text as `batch` parallel sequences, read in windows.
//!
//! Sequence b is the b-th contiguous part of the text, so that state carried from window to window meets the words
//! that really follow. At step t of a sequence the input is its token t and the target its token t + 1.
//!
//! Two layouts:
//!
//! - [`TokenStream::for_training`] drops the remainder: all sequences have the same length;
//! - [`TokenStream::exact`] keeps every target once, for evaluation: lengths differ by at most one step.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::vocabulary::hex;
use super::{DataError, TokenStore};

/// A text laid out as `batch` parallel sequences.
///
/// Cloning shares the tokens.
#[derive(Clone, Debug)]
pub struct TokenStream {
    store: Arc<dyn TokenStore>,
    sequences: Vec<Sequence>,
}

/// `steps` (input, target) pairs; the first input is token `start` of the store, the last target `start + steps`.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    start: usize,
    steps: usize,
}

/// Inputs and targets of one window, row-major `[batch, time]`.
///
/// Ids are `i64`, what integer tensors are made from. Sequence b holds [`valid`](Self::valid)`[b]` real steps; the
/// steps after them (only ever in [`TokenStream::exact`]) hold id 0 and must not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Input ids, `[batch, time]`.
    pub inputs: Vec<i64>,
    /// Target ids, `[batch, time]`: the inputs one step later.
    pub targets: Vec<i64>,
    /// Number of real steps of every sequence, `[batch]`, each at most `time`.
    pub valid: Vec<usize>,
    /// Steps of the window.
    pub time: usize,
}

impl Window {
    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.valid.len()
    }

    /// Number of targets that count: the divisor of a summed loss.
    pub fn count(&self) -> usize {
        self.valid.iter().sum()
    }

    /// A hash of all that is in it.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        let valid = self.valid.iter().map(|&valid| valid as i64);
        for id in valid.chain(self.inputs.iter().chain(&self.targets).copied()) {
            hasher.update(id.to_le_bytes());
        }
        hex(&hasher.finalize())
    }
}

impl TokenStream {
    /// Equal sequences of `tokens / batch` tokens; the remainder at the end of the text is dropped.
    ///
    /// The layout of the code released with Aicher et al. 2019 and of PyTorch's word language model. Each sequence
    /// has one step less than tokens: its last token is only a target.
    ///
    /// # Errors
    ///
    /// [`DataError::EmptyBatch`]; [`DataError::BatchTooLarge`] unless every sequence gets two tokens.
    pub fn for_training(store: Arc<dyn TokenStore>, batch: usize) -> Result<Self, DataError> {
        let tokens = store.len();
        let per_sequence = tokens.checked_div(batch).ok_or(DataError::EmptyBatch)?;
        if per_sequence < 2 {
            return Err(DataError::BatchTooLarge {
                batch,
                needed: batch.saturating_mul(2),
                tokens,
            });
        }
        let steps = per_sequence - 1;
        let sequences = (0..batch)
            .map(|b| Sequence {
                start: b * per_sequence,
                steps,
            })
            .collect();
        Ok(Self { store, sequences })
    }

    /// Sequences that predict every token of the text exactly once, except its first, which follows nothing.
    ///
    /// The `tokens − 1` targets are shared out evenly; when they do not divide, the first sequences have one step
    /// more, and the last window holds fewer real steps in the others ([`Window::valid`]). A sequence's first input is
    /// the target before its first target, so no target is lost at a seam; its state starts fresh, though, hence
    /// `batch = 1` is the evaluation with carried state throughout, and a larger one costs accuracy at `batch − 1` seams.
    ///
    /// # Errors
    ///
    /// [`DataError::EmptyBatch`]; [`DataError::BatchTooLarge`] unless every sequence gets one target.
    pub fn exact(store: Arc<dyn TokenStore>, batch: usize) -> Result<Self, DataError> {
        let tokens = store.len();
        let targets = tokens.saturating_sub(1);
        let steps = targets.checked_div(batch).ok_or(DataError::EmptyBatch)?;
        if steps == 0 {
            return Err(DataError::BatchTooLarge {
                batch,
                needed: batch.saturating_add(1),
                tokens,
            });
        }
        let longer = targets % batch;
        let sequences = (0..batch)
            .map(|b| Sequence {
                start: b * steps + b.min(longer),
                steps: steps + usize::from(b < longer),
            })
            .collect();
        Ok(Self { store, sequences })
    }

    /// The sequences `sequences` alone; `None` unless they are there and at least one.
    pub(crate) fn part(&self, sequences: Range<usize>) -> Option<Self> {
        let part = self.sequences.get(sequences)?;
        (!part.is_empty()).then(|| Self {
            store: self.store.clone(),
            sequences: part.to_vec(),
        })
    }

    /// Number of parallel sequences.
    pub fn batch_size(&self) -> usize {
        self.sequences.len()
    }

    /// Steps (input, target pairs) of the longest sequence.
    pub fn steps(&self) -> usize {
        self.sequences.first().map_or(0, |first| first.steps)
    }

    /// Number of targets over all sequences.
    pub fn targets(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.steps).sum()
    }

    /// Window of `len` steps that starts at step `start` of every sequence.
    ///
    /// # Errors
    ///
    /// [`DataError::EmptyWindow`]; [`DataError::WindowTooLong`] when `start + len > steps()`.
    pub fn window(&self, start: usize, len: usize) -> Result<Window, DataError> {
        self.read(std::iter::repeat_n(start, self.batch_size()), len)
    }

    /// Window of `len` steps that starts at step `starts[b]` of sequence b: how a probe draws its windows.
    ///
    /// # Errors
    ///
    /// [`DataError::StartCount`] unless there is one start per sequence; otherwise as [`window`](Self::window).
    pub fn gather(&self, starts: &[usize], len: usize) -> Result<Window, DataError> {
        if starts.len() == self.batch_size() {
            self.read(starts.iter().copied(), len)
        } else {
            Err(DataError::StartCount {
                batch: self.batch_size(),
                got: starts.len(),
            })
        }
    }

    /// Starts at which a window of `len` steps is full in every sequence: where a probe may draw from.
    ///
    /// # Errors
    ///
    /// As [`window`](Self::window), when there is no such start.
    pub fn full_starts(&self, len: usize) -> Result<Range<usize>, DataError> {
        let shortest = self.sequences.last().map_or(0, |last| last.steps);
        match shortest.checked_sub(len) {
            _ if len == 0 => Err(DataError::EmptyWindow),
            Some(last) => Ok(0..last + 1),
            None => Err(DataError::WindowTooLong {
                start: 0,
                len,
                steps: shortest,
            }),
        }
    }

    fn read(&self, starts: impl Iterator<Item = usize>, time: usize) -> Result<Window, DataError> {
        if time == 0 {
            return Err(DataError::EmptyWindow);
        }
        let (steps, batch) = (self.steps(), self.batch_size());
        // Before any allocation: an absurd length is an error, not an exhausted memory.
        if time > steps {
            return Err(DataError::WindowTooLong {
                start: 0,
                len: time,
                steps,
            });
        }
        let mut inputs = Vec::with_capacity(batch * time);
        let mut targets = Vec::with_capacity(batch * time);
        let mut valid = Vec::with_capacity(batch);
        let mut row = vec![0; time + 1];
        for (sequence, start) in self.sequences.iter().zip(starts) {
            if start > steps - time {
                return Err(DataError::WindowTooLong {
                    start,
                    len: time,
                    steps,
                });
            }
            let real = sequence.steps.saturating_sub(start).min(time);
            row.fill(0);
            if let Some(read) = row.get_mut(..=real).filter(|_| real > 0) {
                self.store.read(sequence.start + start, read)?;
            }
            inputs.extend(
                row.iter()
                    .take(time)
                    .enumerate()
                    .map(|(t, &id)| if t < real { i64::from(id) } else { 0 }),
            );
            targets.extend(row.iter().skip(1).map(|&id| i64::from(id)));
            valid.push(real);
        }
        Ok(Window {
            inputs,
            targets,
            valid,
            time,
        })
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
