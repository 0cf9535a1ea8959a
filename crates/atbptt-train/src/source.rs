//! Where windows come from: a [`SequenceSource`], and the loader that hands it to Burn's training.
//!
//! Place in the flow: Burn's `SupervisedTraining` wants a data loader, but only the training strategy knows how long the
//! next window is. So a loader yields one item, the whole source, and the strategy cuts windows from it: by the current
//! K for training, at random places for probes, in equal pieces for evaluation.

use std::sync::Arc;

use atbptt_models::{RecurrentModel, SequenceBatch, TokenBatch};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use crate::TrainError;
use crate::data::{DataError, TokenStream};
use crate::learner::TbpttInput;

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

/// A text as a source of [`TokenBatch`]es.
#[derive(Clone, Debug)]
pub struct TokenSource {
    stream: TokenStream,
    common: usize,
}

impl TokenSource {
    /// Wraps a batchified stream.
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

impl From<TokenStream> for TokenSource {
    fn from(stream: TokenStream) -> Self {
        Self::new(stream)
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

/// Burn data loader that yields one item, a whole source: only the training strategy knows how long the next window is.
#[derive(Clone)]
pub struct StreamLoader<B> {
    source: Arc<dyn SequenceSource<Batch = B>>,
}

impl<B: SequenceBatch> StreamLoader<B> {
    /// A loader of `source`, for models that read its batches.
    pub fn new(source: impl SequenceSource<Batch = B>) -> Self {
        Self {
            source: Arc::new(source),
        }
    }

    /// What is loaded, for probes of one's own.
    pub fn source(&self) -> &dyn SequenceSource<Batch = B> {
        self.source.as_ref()
    }

    /// The loader as Burn's `SupervisedTraining` takes it.
    pub fn into_loader<M>(self) -> Arc<dyn DataLoader<TbpttInput<M>>>
    where
        M: RecurrentModel<Batch = B>,
    {
        Arc::new(self)
    }
}

impl StreamLoader<TokenBatch> {
    /// A loader of a batchified text.
    pub fn tokens(stream: TokenStream) -> Self {
        Self::new(TokenSource::new(stream))
    }
}

/// Yields one stream.
struct OneStream<M: RecurrentModel> {
    stream: Option<Arc<dyn SequenceSource<Batch = M::Batch>>>,
    steps: usize,
}

impl<M: RecurrentModel> Iterator for OneStream<M> {
    type Item = Result<TbpttInput<M>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.stream
            .take()
            .map(|stream| Ok(TbpttInput::Stream(stream)))
    }
}

impl<M: RecurrentModel> DataLoaderIterator<TbpttInput<M>> for OneStream<M> {
    fn progress(&self) -> Progress {
        let done = if self.stream.is_none() { self.steps } else { 0 };
        Progress::new(done, self.steps, Some("steps".into()))
    }
}

impl<M: RecurrentModel> DataLoader<TbpttInput<M>> for StreamLoader<M::Batch> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TbpttInput<M>> + 'a> {
        Box::new(OneStream::<M> {
            stream: Some(self.source.clone()),
            steps: self.source.common_steps(),
        })
    }

    /// Time steps per sequence.
    fn num_items(&self) -> usize {
        self.source.common_steps()
    }

    /// Windows are put on the strategy's device as they are read; there is nothing to move.
    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<TbpttInput<M>>> {
        Arc::new(Self {
            source: self.source.clone(),
        })
    }

    /// Steps `start..end` of the source.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<TbpttInput<M>>> {
        let end = end.min(self.source.common_steps());
        Arc::new(StreamLoader {
            source: Arc::new(Section {
                source: self.source.clone(),
                start: start.min(end),
                end,
            }),
        })
    }
}

fn too_long(start: usize, len: usize, steps: usize) -> TrainError {
    TrainError::Data(DataError::WindowTooLong { start, len, steps })
}

/// Refuses a window that leaves the first `steps` steps.
fn check_inside(start: usize, len: usize, steps: usize) -> Result<(), TrainError> {
    match start.checked_add(len) {
        Some(end) if end <= steps => Ok(()),
        _ => Err(too_long(start, len, steps)),
    }
}

/// Some steps of a source.
struct Section<B> {
    source: Arc<dyn SequenceSource<Batch = B>>,
    start: usize,
    end: usize,
}

impl<B: SequenceBatch> SequenceSource for Section<B> {
    type Batch = B;

    fn sequences(&self) -> usize {
        self.source.sequences()
    }

    fn common_steps(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    fn active(&self, step: usize) -> usize {
        match step < self.common_steps() {
            true => self.source.active(self.start.saturating_add(step)),
            false => 0,
        }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<B, TrainError> {
        check_inside(start, len, self.common_steps())?;
        // Inside the section, so that no sum overflows.
        self.source.window(self.start + start, len, device)
    }

    fn gather(&self, starts: &[usize], len: usize, device: &Device) -> Result<B, TrainError> {
        let last = starts.iter().copied().max().unwrap_or(0);
        check_inside(last, len, self.common_steps())?;
        let starts: Vec<usize> = starts.iter().map(|start| self.start + start).collect();
        self.source.gather(&starts, len, device)
    }

    fn in_epoch(&self, epoch: usize) -> Option<Arc<dyn SequenceSource<Batch = B>>> {
        let source = self.source.in_epoch(epoch)?;
        let (start, end) = (self.start, self.end);
        Some(Arc::new(Section { source, start, end }))
    }
}
