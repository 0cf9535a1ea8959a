//! Where windows come from.
//!
//! The training strategy cuts windows from a [`SequenceSource`]: by the current K for training, at random places for probes,
//! in equal pieces for evaluation.

use std::ops::Range;
use std::sync::Arc;

use atbptt_models::{SequenceBatch, TokenBatch};
use burn::tensor::Device;

use crate::TrainError;
use crate::data::{DataError, TokenStream};

/// Parallel sequences that can be read anywhere.
///
/// Sequences may differ in length: those that still run at a step come first, so that a window over the rest is a batch
/// of fewer sequences.
pub trait SequenceSource: Send + Sync + 'static {
    /// A window of inputs and targets.
    type Batch: SequenceBatch;

    /// Number of sequences.
    fn sequences(&self) -> usize;

    /// Steps that all sequences have: what training reads. [`PackedSource`](crate::data::PackedSource) lays sequences of
    /// unequal length out so that training reads all of them.
    fn common_steps(&self) -> usize;

    /// What epoch `epoch` of training, counted from one, reads, where that is not the same in all of them: the same
    /// sequences in another order. It has as many sequences and steps, and is a function of the number alone, so that a run
    /// that is resumed reads what it would have read. Default: `None`, the source itself.
    fn in_epoch(&self, _epoch: usize) -> Option<Arc<dyn SequenceSource<Batch = Self::Batch>>> {
        None
    }

    /// The sequences `sequences` alone, for a device that trains on them: with as many steps, and reading at each what the
    /// whole reads there. Asked of what an epoch reads, so that it need not be ordered anew.
    ///
    /// Default: `None`, a source that several devices cannot share.
    fn shard(
        &self,
        _sequences: Range<usize>,
    ) -> Option<Arc<dyn SequenceSource<Batch = Self::Batch>>> {
        None
    }

    /// What tells the inputs and targets of `steps` from others, such as a hash of them: a run that is resumed within an epoch makes
    /// sure that the steps before its place are those that it has read. Default: `None`, and nothing is compared.
    fn fingerprint(&self, _steps: Range<usize>) -> Option<String> {
        None
    }

    /// Number of sequences, counted from the first, that have a step `step`. Never grows with `step`; zero past the end.
    fn active(&self, step: usize) -> usize;

    /// Steps `start..start + len` of the [`active`](Self::active) sequences, on `device`. As many must be active at the
    /// last step as at the first.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] when the window does not lie in the data.
    fn window(&self, start: usize, len: usize, device: &Device) -> Result<Self::Batch, TrainError>;

    /// Steps `starts[b]..starts[b] + len` of every sequence b, on `device`: what a probe reads.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] when a window does not lie in the data.
    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<Self::Batch, TrainError>;
}

/// Shares a source.
impl<S: SequenceSource + ?Sized> SequenceSource for Arc<S> {
    type Batch = S::Batch;

    fn sequences(&self) -> usize {
        self.as_ref().sequences()
    }

    fn common_steps(&self) -> usize {
        self.as_ref().common_steps()
    }

    fn in_epoch(&self, epoch: usize) -> Option<Arc<dyn SequenceSource<Batch = S::Batch>>> {
        self.as_ref().in_epoch(epoch)
    }

    fn shard(&self, sequences: Range<usize>) -> Option<Arc<dyn SequenceSource<Batch = S::Batch>>> {
        self.as_ref().shard(sequences)
    }

    fn fingerprint(&self, steps: Range<usize>) -> Option<String> {
        self.as_ref().fingerprint(steps)
    }

    fn active(&self, step: usize) -> usize {
        self.as_ref().active(step)
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<S::Batch, TrainError> {
        self.as_ref().window(start, len, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<S::Batch, TrainError> {
        self.as_ref().gather(starts, len, device)
    }
}

/// The first steps of a source: what a run has seen of it so far.
pub(crate) struct Past<B> {
    source: Arc<dyn SequenceSource<Batch = B>>,
    steps: usize,
}

impl<B: SequenceBatch> Past<B> {
    pub(crate) fn new(source: Arc<dyn SequenceSource<Batch = B>>, steps: usize) -> Self {
        let steps = steps.min(source.common_steps());
        Self { source, steps }
    }
}

impl<B: SequenceBatch> SequenceSource for Past<B> {
    type Batch = B;

    fn sequences(&self) -> usize {
        self.source.sequences()
    }

    fn common_steps(&self) -> usize {
        self.steps
    }

    fn active(&self, step: usize) -> usize {
        match step < self.steps {
            true => self.source.active(step),
            false => 0,
        }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<B, TrainError> {
        check_inside(start, len, self.steps)?;
        self.source.window(start, len, device)
    }

    fn gather(&self, starts: &[usize], len: usize, device: &Device) -> Result<B, TrainError> {
        let last = starts.iter().copied().max().unwrap_or(0);
        check_inside(last, len, self.steps)?;
        self.source.gather(starts, len, device)
    }
}

/// A text as a source of [`TokenBatch`]es: of a corpus ([`Corpus::training`](crate::data::Corpus::training),
/// [`Corpus::evaluation`](crate::data::Corpus::evaluation)) or of any token ids.
#[derive(Clone, Debug)]
pub struct TokenSource {
    stream: TokenStream,
    common: usize,
}

impl TokenSource {
    #[doc(hidden)]
    pub fn new(stream: TokenStream) -> Self {
        let common = stream.full_starts(1).map_or(0, |starts| starts.end);
        Self { stream, common }
    }

    pub(crate) fn stream(&self) -> &TokenStream {
        &self.stream
    }

    fn batch(
        window: crate::data::Window,
        sequences: usize,
        device: &Device,
    ) -> Result<TokenBatch, TrainError> {
        let ids = sequences.saturating_mul(window.time);
        // Rows of sequences that have ended come last.
        let first = |rows: Vec<i64>| rows.into_iter().take(ids).collect::<Vec<i64>>();
        let (inputs, targets) = (first(window.inputs), first(window.targets));
        let batch = TokenBatch::from_host(&inputs, &targets, sequences, window.time, device)?;
        Ok(batch)
    }
}

impl SequenceSource for TokenSource {
    type Batch = TokenBatch;

    fn sequences(&self) -> usize {
        self.stream.batch_size()
    }

    fn common_steps(&self) -> usize {
        self.common
    }

    fn shard(
        &self,
        sequences: Range<usize>,
    ) -> Option<Arc<dyn SequenceSource<Batch = TokenBatch>>> {
        let stream = self.stream.part(sequences)?;
        let common = self.common;
        Some(Arc::new(Self { stream, common }))
    }

    fn fingerprint(&self, steps: Range<usize>) -> Option<String> {
        let window = self.stream.window(steps.start, steps.len()).ok()?;
        Some(window.fingerprint())
    }

    fn active(&self, step: usize) -> usize {
        if step < self.common {
            self.stream.batch_size()
        } else if step < self.stream.steps() {
            // An exact stream's first sequences have one step more than the others.
            self.stream.targets() - self.common * self.stream.batch_size()
        } else {
            0
        }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<TokenBatch, TrainError> {
        let window = self.stream.window(start, len)?;
        let sequences = self.active(start.saturating_add(len.saturating_sub(1)));
        if sequences < self.active(start) {
            // Some sequences end within it.
            return Err(too_long(start, len, self.common));
        }
        Self::batch(window, sequences, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<TokenBatch, TrainError> {
        let last = starts.iter().copied().max().unwrap_or(0);
        check_inside(last, len, self.common)?;
        Self::batch(self.stream.gather(starts, len)?, starts.len(), device)
    }
}

fn too_long(start: usize, len: usize, steps: usize) -> TrainError {
    TrainError::Data(DataError::WindowTooLong { start, len, steps })
}

/// Refuses a window that leaves the first `steps` steps.
pub(crate) fn check_inside(start: usize, len: usize, steps: usize) -> Result<(), TrainError> {
    match start.checked_add(len) {
        Some(end) if end <= steps => Ok(()),
        _ => Err(too_long(start, len, steps)),
    }
}
