//! Which steps stand in a window: [`WindowLayout`].

use std::ops::Range;

use atbptt_models::{ModelError, SeriesBatch, TokenBatch};
use burn::tensor::{Bool, Device, Tensor, TensorData};

/// Which steps of which sequences stand in a window of parallel streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowLayout {
    pub(super) time: usize,
    pub(super) rows: Vec<Row>,
}

/// One stream's part of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Sequences and steps of them, in the order in which they stand.
    pub(super) segments: Vec<(usize, Range<usize>)>,
    /// What fills the row up: a step that exists.
    pub(super) filler: (usize, usize),
}

impl WindowLayout {
    /// Number of streams.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// Steps of the window.
    pub fn time(&self) -> usize {
        self.time
    }

    /// Sequence and step at every place, row-major `[batch, time]`. Behind the end of a stream, its last step again.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.rows.iter().flat_map(|row| {
            let steps = row
                .segments
                .iter()
                .flat_map(|(sequence, steps)| steps.clone().map(|step| (*sequence, step)));
            steps.chain(std::iter::repeat(row.filler)).take(self.time)
        })
    }

    /// Whether the step at every place counts, row-major `[batch, time]`: false behind the end of a stream.
    pub fn counted(&self) -> Vec<bool> {
        let row = |row: &Row| {
            let real: usize = row.segments.iter().map(|(_, steps)| steps.len()).sum();
            (0..self.time).map(move |t| t < real)
        };
        self.rows.iter().flat_map(row).collect()
    }

    /// Whether every step counts.
    pub(super) fn is_full(&self) -> bool {
        let real = |row: &Row| -> usize { row.segments.iter().map(|(_, steps)| steps.len()).sum() };
        self.rows.iter().all(|row| self.time == real(row))
    }

    /// Whether a sequence begins at every place, row-major `[batch, time]`.
    pub fn begins(&self) -> Vec<bool> {
        let mut begins = vec![false; self.rows.len() * self.time];
        for (row, marks) in self.rows.iter().zip(begins.chunks_mut(self.time.max(1))) {
            let mut at = 0;
            for (_, steps) in &row.segments {
                if let (0, Some(mark)) = (steps.start, marks.get_mut(at)) {
                    *mark = true;
                }
                at += steps.len();
            }
        }
        begins
    }

    /// [`begins`](Self::begins) as a mask `[batch, time]` on `device`; `None` where no sequence begins.
    pub fn reset(&self, device: &Device) -> Option<Tensor<2, Bool>> {
        let begins = self.begins();
        begins
            .contains(&true)
            .then(|| Tensor::from_data(TensorData::new(begins, [self.batch(), self.time]), device))
    }

    /// Rows of inputs `[batch · time, in]` and targets `[batch · time, out]`, one per [place](Self::places), as a window of
    /// series: with the resets, and without a loss where a step does not count.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] unless there is a row per place.
    pub fn series_batch(
        &self,
        inputs: Tensor<2>,
        targets: Tensor<2>,
    ) -> Result<SeriesBatch, ModelError> {
        let device = inputs.device();
        let shaped = |what, rows: Tensor<2>| {
            let [places, width] = rows.dims();
            match places == self.batch() * self.time {
                true => Ok(rows.reshape([self.batch(), self.time, width])),
                false => Err(ModelError::Shape {
                    what,
                    got: vec![places, width],
                    expected: format!(
                        "{} rows, one per sequence and step",
                        self.batch() * self.time
                    ),
                    remedy: "give a row per item",
                }),
            }
        };
        let targets = shaped("targets", targets)?;
        let mut batch = SeriesBatch::from_tensors(shaped("inputs", inputs)?, targets)?;
        if let Some(reset) = self.reset(&device) {
            batch = batch.with_reset(reset)?;
        }
        match self.counted_mask(&device) {
            Some(counted) => {
                let [_, _, out] = batch.targets().dims();
                batch.with_present(counted.unsqueeze_dim::<3>(2).repeat_dim(2, out))
            }
            None => Ok(batch),
        }
    }

    /// Ids of inputs and targets, row-major `[batch, time]`, one per [place](Self::places), as a window of tokens on `device`:
    /// with the resets, and without a loss where a step does not count.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] unless there is an id per place; [`ModelError::Token`] for one that does not fit 32 bits.
    pub fn token_batch(
        &self,
        inputs: &[i64],
        targets: &[i64],
        device: &Device,
    ) -> Result<TokenBatch, ModelError> {
        let batch = TokenBatch::from_host(inputs, targets, self.batch(), self.time, device)?;
        let batch = match self.reset(device) {
            Some(reset) => batch.with_reset(reset)?,
            None => batch,
        };
        match self.is_full() {
            true => Ok(batch),
            false => batch.with_present(self.counted()),
        }
    }

    /// [`counted`](Self::counted) as a mask `[batch, time]` on `device`; `None` where every step counts.
    pub fn counted_mask(&self, device: &Device) -> Option<Tensor<2, Bool>> {
        (!self.is_full()).then(|| {
            let counted = TensorData::new(self.counted(), [self.batch(), self.time]);
            Tensor::from_data(counted, device)
        })
    }
}
