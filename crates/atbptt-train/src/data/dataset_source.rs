//! Burn's own `Dataset` and a user's `Batcher` as sequences: [`DatasetSequences`].

use std::error::Error;
use std::fmt;
use std::ops::Range;

use atbptt_models::{ModelError, SequenceBatch};
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::Dataset;
use burn::tensor::Device;

use super::DataError;
use super::packed::SequenceSet;
use super::window_layout::WindowLayout;
use crate::TrainError;

/// Sequences whose steps are items of a Burn `Dataset`: step t of sequence s is the item after those of the sequences
/// before s and of the t steps before t. A `Batcher` makes tensors of the items, and a closure gives these the shape of a window;
/// [`PackedSource`](super::PackedSource) reads them in parallel.
///
/// - `I`: an item, one step of one sequence
/// - `F`: what the batcher makes of items in a row
/// - `W`: a window
pub struct DatasetSequences<I, F, W> {
    dataset: Box<dyn Items<I>>,
    batcher: Box<dyn Batcher<I, F>>,
    #[allow(clippy::type_complexity)] // The closure of `new`.
    window: Box<dyn Fn(F, &WindowLayout, &Device) -> Result<W, ModelError> + Send + Sync>,
    /// Items of every sequence.
    sequences: Vec<Range<usize>>,
}

/// A `Dataset` with whatever errors.
trait Items<I>: Send + Sync {
    fn read(&self, indices: Vec<usize>) -> Result<Vec<I>, String>;
}

struct OfDataset<D, E> {
    dataset: D,
    error: std::marker::PhantomData<fn() -> E>,
}

impl<I, E: Error + Send + Sync + 'static, D: Dataset<I, E>> Items<I> for OfDataset<D, E> {
    fn read(&self, indices: Vec<usize>) -> Result<Vec<I>, String> {
        self.dataset
            .get_many(indices)
            .map_err(|error| error.to_string())
    }
}

impl<I, F, W> fmt::Debug for DatasetSequences<I, F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasetSequences")
            .field("sequences", &self.sequences)
            .finish_non_exhaustive()
    }
}

impl<I: 'static, F: 'static, W: SequenceBatch> DatasetSequences<I, F, W> {
    /// Sequences of `lengths` steps each, one after the other in `dataset`; `batcher` gets `batch · time` items,
    /// row-major `[batch, time]`, and `window` makes `[batch, time, …]` of what it gives.
    ///
    /// The layout that `window` is told says where a sequence begins and which steps count (where there are not enough of
    /// them, the last step of a stream stands in).
    ///
    /// ```
    /// use atbptt_models::SequenceBatch;
    /// use atbptt_train::SequenceSource;
    /// use atbptt_train::data::{DatasetSequences, PackedSource};
    /// use burn::data::{dataloader::batcher::Batcher, dataset::InMemDataset};
    /// use burn::tensor::{Device, Tensor};
    ///
    /// #[derive(Clone, Debug)]
    /// struct Reading { level: f32, flow: f32 }
    ///
    /// /// Knows nothing of sequences: `[items, 1]` each.
    /// struct Readings;
    /// impl Batcher<Reading, (Tensor<2>, Tensor<2>)> for Readings {
    ///     fn batch(&self, items: Vec<Reading>, device: &Device) -> (Tensor<2>, Tensor<2>) {
    ///         let column = |of: fn(&Reading) -> f32| {
    ///             let values: Vec<f32> = items.iter().map(of).collect();
    ///             Tensor::<1>::from_floats(values.as_slice(), device).unsqueeze_dim(1)
    ///         };
    ///         (column(|item| item.level), column(|item| item.flow))
    ///     }
    /// }
    ///
    /// let items = (0..10).map(|i| Reading { level: i as f32, flow: 0.5 }).collect();
    /// // Two sequences, of 6 and of 4 steps.
    /// let sequences = DatasetSequences::new(InMemDataset::new(items), Readings, &[6, 4], |(x, y), layout, _device| {
    ///     layout.series_batch(x, y)
    /// })?;
    /// let source = PackedSource::new(sequences, 2)?;
    /// let window = source.window(2, 4, &Device::default())?;
    /// assert_eq!((window.sequences(), window.steps()), (2, 4));
    /// assert_eq!(window.count(), 4 + 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DataError::Lengths`] unless `lengths` add up to the items of `dataset`.
    pub fn new<E: Error + Send + Sync + 'static>(
        dataset: impl Dataset<I, E> + 'static,
        batcher: impl Batcher<I, F> + 'static,
        lengths: &[usize],
        window: impl Fn(F, &WindowLayout, &Device) -> Result<W, ModelError> + Send + Sync + 'static,
    ) -> Result<Self, DataError> {
        let mut sequences = Vec::with_capacity(lengths.len());
        let mut from = 0usize;
        for &length in lengths {
            let to = from.saturating_add(length);
            sequences.push(from..to);
            from = to;
        }
        let items = dataset.len();
        if from != items {
            return Err(DataError::Lengths { sum: from, items });
        }
        Ok(Self {
            dataset: Box::new(OfDataset {
                dataset,
                error: std::marker::PhantomData,
            }),
            batcher: Box::new(batcher),
            window: Box::new(window),
            sequences,
        })
    }
}

impl<I: 'static, F: 'static, W: SequenceBatch> SequenceSet for DatasetSequences<I, F, W> {
    type Batch = W;

    fn len(&self) -> usize {
        self.sequences.len()
    }

    fn steps(&self, sequence: usize) -> usize {
        self.sequences.get(sequence).map_or(0, Range::len)
    }

    fn batch(&self, layout: &WindowLayout, device: &Device) -> Result<W, TrainError> {
        let index = |(sequence, step): (usize, usize)| {
            let items = self.sequences.get(sequence);
            items.map_or(0, |items| items.start) + step
        };
        let items = self.dataset.read(layout.places().map(index).collect());
        let items = items.map_err(|reason| DataError::Dataset { reason })?;
        let flat = self.batcher.batch(items, device);
        let window = (self.window)(flat, layout, device)?;
        let expected = [layout.batch(), layout.time()];
        let got = [window.sequences(), window.steps()];
        match got == expected {
            true => Ok(window),
            false => Err(DataError::WindowShape { got, expected }.into()),
        }
    }
}

#[cfg(test)]
#[path = "dataset_source_tests.rs"]
mod tests;
