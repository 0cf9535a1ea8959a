//! The loader that hands a [`SequenceSource`] to Burn's training.
//!
//! Burn's `SupervisedTraining` wants a data loader, but only the training strategy knows how long the next window is. So the
//! loader yields one item, the whole source.

use std::ops::Range;
use std::sync::Arc;

use atbptt_models::{RecurrentModel, SequenceBatch};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use crate::TrainError;
use crate::learner::TbpttInput;
use crate::source::{SequenceSource, check_inside};

/// A source as a data loader for Burn's `SupervisedTraining`. It yields one item, the whole source: only the training strategy knows
/// how long the next window is.
pub fn stream_loader<M: RecurrentModel>(
    source: impl SequenceSource<Batch = M::Batch>,
) -> Arc<dyn DataLoader<TbpttInput<M>>> {
    Arc::new(StreamLoader {
        source: Arc::new(source),
    })
}

/// Yields one item, a whole source.
struct StreamLoader<B> {
    source: Arc<dyn SequenceSource<Batch = B>>,
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

/// Some steps of a source.
struct Section<B> {
    source: Arc<dyn SequenceSource<Batch = B>>,
    start: usize,
    end: usize,
}

impl<B: SequenceBatch> Section<B> {
    /// The same steps of another source.
    fn over(
        &self,
        source: Arc<dyn SequenceSource<Batch = B>>,
    ) -> Option<Arc<dyn SequenceSource<Batch = B>>> {
        let (start, end) = (self.start, self.end);
        Some(Arc::new(Section { source, start, end }))
    }
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
        self.over(self.source.in_epoch(epoch)?)
    }

    fn shard(&self, sequences: Range<usize>) -> Option<Arc<dyn SequenceSource<Batch = B>>> {
        self.over(self.source.shard(sequences)?)
    }

    fn fingerprint(&self, steps: Range<usize>) -> Option<String> {
        check_inside(steps.start, steps.len(), self.common_steps()).ok()?;
        let (from, to) = (self.start + steps.start, self.start + steps.end);
        self.source.fingerprint(from..to)
    }
}
