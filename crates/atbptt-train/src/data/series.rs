//! Continuous series: inputs and targets per step, missing targets, normalisation.
//!
//! ```text
//! CSV ──► Table ──► Series ──► SeriesSet ──► split, cut ──► Normalisation (training part) ──► PackedSource ──► windows
//! ```
//!
//! Flat vectors are row-major `[time, in]` and `[time, out]`.

use std::ops::Range;

use atbptt_models::{SeriesBatch, SeriesShape};
use burn::tensor::Device;
use sha2::{Digest, Sha256};

use super::DataError;
use super::packed::SequenceSet;
use super::vocabulary::hex;
use super::window_layout::WindowLayout;
use crate::TrainError;

/// One series: inputs and targets at every step.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    inputs: Vec<f32>,
    targets: Vec<f32>,
    d_input: usize,
    d_target: usize,
}

/// Series of any lengths, all with the same inputs and targets.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesSet {
    series: Vec<Series>,
    d_input: usize,
    d_target: usize,
}

impl Series {
    /// A series of `d_input` inputs and `d_target` targets per step.
    ///
    /// - `inputs`: row-major `[time, in]`, all finite
    /// - `targets`: row-major `[time, out]`, finite, or NaN where there is no target
    ///
    /// # Errors
    ///
    /// [`DataError::SeriesShape`] when the lengths do not fit, [`DataError::SeriesValue`] for a value that is not finite.
    pub fn new(
        inputs: Vec<f32>,
        d_input: usize,
        targets: Vec<f32>,
        d_target: usize,
    ) -> Result<Self, DataError> {
        let steps = inputs.len().checked_div(d_input);
        let fits = steps.is_some_and(|steps| {
            steps.checked_mul(d_input) == Some(inputs.len())
                && d_target > 0
                && steps.checked_mul(d_target) == Some(targets.len())
        });
        if !fits {
            return Err(DataError::SeriesShape {
                inputs: inputs.len(),
                d_input,
                targets: targets.len(),
                d_target,
            });
        }
        let refused = |what, width: usize, at: Option<usize>, values: &[f32]| match at {
            Some(at) => Err(DataError::SeriesValue {
                what,
                step: at / width,
                column: at % width,
                got: values.get(at).copied().unwrap_or(f32::NAN),
            }),
            None => Ok(()),
        };
        let bad = inputs.iter().position(|value| !value.is_finite());
        refused("input", d_input, bad, &inputs)?;
        let bad = targets.iter().position(|value| value.is_infinite());
        refused("target", d_target, bad, &targets)?;
        Ok(Self {
            inputs,
            targets,
            d_input,
            d_target,
        })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.inputs.len() / self.d_input
    }

    /// Inputs, row-major `[time, in]`.
    pub fn inputs(&self) -> &[f32] {
        &self.inputs
    }

    /// Targets, row-major `[time, out]`; NaN where there is none.
    pub fn targets(&self) -> &[f32] {
        &self.targets
    }

    /// The steps of `range` that there are, after `context` steps before them whose targets do not count: a state that
    /// starts from zero there has settled when the part begins.
    pub fn part(&self, range: Range<usize>, context: usize) -> Self {
        let end = range.end.min(self.steps());
        let start = range.start.min(end);
        let from = start.saturating_sub(context);
        let rows = |values: &[f32], width: usize| {
            values
                .get(from * width..end * width)
                .unwrap_or_default()
                .to_vec()
        };
        let mut targets = rows(&self.targets, self.d_target);
        targets
            .iter_mut()
            .take((start - from) * self.d_target)
            .for_each(|target| *target = f32::NAN);
        Self {
            inputs: rows(&self.inputs, self.d_input),
            targets,
            ..*self
        }
    }
}

impl SeriesSet {
    /// Series that belong together.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSeries`] without a step; [`DataError::SeriesWidths`] when inputs or targets are not as many in all of
    /// them.
    pub fn new(series: Vec<Series>) -> Result<Self, DataError> {
        let Some(first) = series.iter().find(|series| series.steps() > 0) else {
            return Err(DataError::NoSeries);
        };
        let (d_input, d_target) = (first.d_input, first.d_target);
        let odd = series
            .iter()
            .position(|other| (other.d_input, other.d_target) != (d_input, d_target));
        if let Some((nth, other)) = odd.and_then(|nth| Some((nth, series.get(nth)?))) {
            return Err(DataError::SeriesWidths {
                nth,
                got: [other.d_input, other.d_target],
                expected: [d_input, d_target],
            });
        }
        Ok(Self {
            series,
            d_input,
            d_target,
        })
    }

    /// The series.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// Inputs per step.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Targets per step.
    pub fn d_target(&self) -> usize {
        self.d_target
    }

    /// Steps of all series.
    pub fn total_steps(&self) -> usize {
        self.series.iter().map(Series::steps).sum()
    }

    /// Training, validation and test part: of every series the first share of `train`, the next of `valid`, and the rest.
    /// The later parts are preceded by up to `context` steps whose targets do not count.
    ///
    /// # Errors
    ///
    /// [`DataError::Shares`] unless both are above zero and leave something; [`DataError::NoSeries`] when a part is empty.
    pub fn split(&self, train: f64, valid: f64, context: usize) -> Result<[Self; 3], DataError> {
        if !(train > 0.0 && valid > 0.0 && train + valid < 1.0) {
            return Err(DataError::Shares { train, valid });
        }
        let part = |from: f64, to: f64, context: usize| {
            let of = |series: &Series| {
                let steps = series.steps() as f64;
                let at = |share: f64| (share * steps).round() as usize;
                let end = if to < 1.0 { at(to) } else { series.steps() };
                series.part(at(from)..end, context)
            };
            Self::new(self.series.iter().map(of).collect())
        };
        Ok([
            part(0.0, train, 0)?,
            part(train, train + valid, context)?,
            part(train + valid, 1.0, context)?,
        ])
    }

    /// The same steps as at least `pieces` series of nearly the same length, where there are as many steps: long series are
    /// cut, so that they can be read in parallel. The state starts afresh at every cut.
    ///
    /// # Errors
    ///
    /// [`DataError::EmptyBatch`] for zero pieces.
    pub fn cut(&self, pieces: usize) -> Result<Self, DataError> {
        self.cut_with_context(pieces, 0)
    }

    /// As [`cut`](Self::cut), and every piece is preceded by up to `context` steps whose targets do not count: the state, which
    /// starts afresh there, has settled when the piece begins.
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub fn cut_with_context(&self, pieces: usize, context: usize) -> Result<Self, DataError> {
        if pieces == 0 {
            return Err(DataError::EmptyBatch);
        }
        let longest = self.total_steps().div_ceil(pieces).max(1);
        let mut cut = Vec::with_capacity(pieces);
        for series in &self.series {
            let steps = series.steps();
            let parts = steps.div_ceil(longest);
            for part in 0..parts {
                // Lengths differ by one at most.
                let at = |part: usize| part * (steps / parts) + part.min(steps % parts);
                cut.push(series.part(at(part)..at(part + 1), context));
            }
        }
        Self::new(cut)
    }

    /// SHA-256, in hexadecimal, of all values: a run goes on with the data it began with.
    pub fn content_hash(&self) -> String {
        let mut hasher = Sha256::new();
        for series in &self.series {
            for (width, values) in [
                (self.d_input, &series.inputs),
                (self.d_target, &series.targets),
            ] {
                hasher.update((width as u64).to_le_bytes());
                hasher.update((values.len() as u64).to_le_bytes());
                values
                    .iter()
                    .for_each(|value| hasher.update(value.to_le_bytes()));
            }
        }
        hex(&hasher.finalize())
    }
}

impl SequenceSet for SeriesSet {
    type Batch = SeriesBatch;

    fn len(&self) -> usize {
        self.series.len()
    }

    fn steps(&self, sequence: usize) -> usize {
        self.series.get(sequence).map_or(0, Series::steps)
    }

    fn batch(&self, window: &WindowLayout, device: &Device) -> Result<SeriesBatch, TrainError> {
        let (batch, time) = (window.batch(), window.time());
        let (inputs, targets) = self.values(window);
        let shape = SeriesShape {
            batch,
            time,
            inputs: self.d_input,
            targets: self.d_target,
        };
        let begins = Some(window.begins());
        Ok(SeriesBatch::from_host(
            inputs, targets, begins, shape, device,
        )?)
    }

    fn fingerprint(&self, window: &WindowLayout) -> Option<String> {
        let (inputs, targets) = self.values(window);
        let mut hasher = Sha256::new();
        window
            .begins()
            .iter()
            .for_each(|begins| hasher.update([u8::from(*begins)]));
        for value in inputs.iter().chain(&targets) {
            hasher.update(value.to_le_bytes());
        }
        Some(hex(&hasher.finalize()))
    }
}

impl SeriesSet {
    /// Inputs, row-major `[batch, time, in]`, and targets, `[batch, time, out]`, of a window. Where a step does not count, its
    /// stream's last inputs again, and no target.
    fn values(&self, window: &WindowLayout) -> (Vec<f32>, Vec<f32>) {
        let places = window.batch() * window.time();
        let mut inputs = Vec::with_capacity(places * self.d_input);
        let mut targets = Vec::with_capacity(places * self.d_target);
        for (row, end) in window.rows.iter().zip(1..) {
            for (series, steps) in &row.segments {
                if let Some(series) = self.series.get(*series) {
                    inputs.extend_from_slice(part(&series.inputs, steps.clone(), self.d_input));
                    targets.extend_from_slice(part(&series.targets, steps.clone(), self.d_target));
                }
            }
            let (last, step) = row.filler;
            let last = self.series.get(last).map(|series| series.inputs.as_slice());
            let last = part(last.unwrap_or_default(), step..step + 1, self.d_input);
            let end = end * window.time();
            while inputs.len() < end * self.d_input && !last.is_empty() {
                inputs.extend_from_slice(last);
            }
            targets.resize(end * self.d_target, f32::NAN);
        }
        (inputs, targets)
    }
}

/// Rows `steps` of `values`, `width` each.
fn part(values: &[f32], steps: Range<usize>, width: usize) -> &[f32] {
    let range = steps.start * width..steps.end * width;
    values.get(range).unwrap_or_default()
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
