//! Bringing series to mean zero and standard deviation one: [`Normalisation`].

use serde::{Deserialize, Serialize};

use super::DataError;
use super::series::{Series, SeriesSet};

/// Means and scales that bring inputs and targets to mean zero and standard deviation one.
///
/// A value that belongs to a trained model: keep it beside the weights (it is serialisable), and bring predictions back
/// into the data's units with [`restore_targets`](Self::restore_targets).
///
/// ```
/// use atbptt_train::data::{Normalisation, Series, SeriesSet};
///
/// let training = SeriesSet::new(vec![Series::new(vec![1.0, 3.0], 1, vec![10.0, 30.0], 1)?])?;
/// let normalisation = Normalisation::fit(&training)?;
/// let normalised = normalisation.apply(&training)?;
/// assert_eq!(normalised.series()[0].targets(), [-1.0, 1.0]);
/// let mut prediction = vec![0.5];
/// normalisation.restore_targets(&mut prediction);
/// assert_eq!(prediction, [25.0]);
/// # Ok::<(), atbptt_train::data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// One per input.
    pub inputs: Vec<Scale>,
    /// One per target.
    pub targets: Vec<Scale>,
}

/// Mean and scale of one column: normalised = (value − mean)/scale.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Mean, in the data's units.
    pub mean: f64,
    /// Standard deviation, in the data's units; one where the column does not vary.
    pub scale: f64,
}

impl Scale {
    /// Of the values of a column, missing ones (NaN) left out; `None` when there is none.
    fn of(values: impl Iterator<Item = f32> + Clone) -> Option<Self> {
        let present = || {
            values
                .clone()
                .filter(|value| !value.is_nan())
                .map(f64::from)
        };
        let count = present().count();
        if count == 0 {
            return None;
        }
        let mean = present().sum::<f64>() / count as f64;
        let variance = present().map(|value| (value - mean).powi(2)).sum::<f64>() / count as f64;
        let deviation = variance.sqrt();
        // What only varies by rounding does not vary.
        let varies = deviation > mean.abs() * 1e-9;
        Some(Self {
            mean,
            scale: if varies { deviation } else { 1.0 },
        })
    }

    /// Into normalised units.
    pub fn apply(&self, value: f32) -> f32 {
        ((f64::from(value) - self.mean) / self.scale) as f32
    }

    /// Back into the data's units.
    pub fn restore(&self, value: f32) -> f32 {
        (f64::from(value) * self.scale + self.mean) as f32
    }
}

impl Normalisation {
    /// Fits to all steps of `set`: the training part.
    ///
    /// # Errors
    ///
    /// [`DataError::NoTarget`] when a target is missing at every step.
    pub fn fit(set: &SeriesSet) -> Result<Self, DataError> {
        let column = |at: usize, width: usize, values: fn(&Series) -> &[f32]| {
            let series = set.series().iter();
            series.flat_map(move |series| values(series).iter().copied().skip(at).step_by(width))
        };
        let scales = |width: usize, values: fn(&Series) -> &[f32]| {
            (0..width)
                .map(|at| {
                    Scale::of(column(at, width, values)).ok_or(DataError::NoTarget { column: at })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            inputs: scales(set.d_input(), |series| series.inputs())?,
            targets: scales(set.d_target(), |series| series.targets())?,
        })
    }

    /// `set` in normalised units.
    ///
    /// # Errors
    ///
    /// [`DataError::SeriesWidths`] when it has other inputs or targets than what was fitted to;
    /// [`DataError::SeriesValue`] when a value overflows.
    pub fn apply(&self, set: &SeriesSet) -> Result<SeriesSet, DataError> {
        let expected = [self.inputs.len(), self.targets.len()];
        if [set.d_input(), set.d_target()] != expected {
            return Err(DataError::SeriesWidths {
                nth: 0,
                got: [set.d_input(), set.d_target()],
                expected,
            });
        }
        let scaled = |values: &[f32], scales: &[Scale]| -> Vec<f32> {
            let scales = scales.iter().cycle();
            values
                .iter()
                .zip(scales)
                .map(|(v, s)| s.apply(*v))
                .collect()
        };
        let series = set.series().iter().map(|series| {
            Series::new(
                scaled(series.inputs(), &self.inputs),
                set.d_input(),
                scaled(series.targets(), &self.targets),
                set.d_target(),
            )
        });
        SeriesSet::new(series.collect::<Result<_, _>>()?)
    }

    /// Brings predictions, row-major with one value per target, back into the data's units.
    pub fn restore_targets(&self, predictions: &mut [f32]) {
        for (value, scale) in predictions.iter_mut().zip(self.targets.iter().cycle()) {
            *value = scale.restore(*value);
        }
    }
}
