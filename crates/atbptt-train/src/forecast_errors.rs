//! How far predictions of series lie from what was measured: [`ForecastErrors`].

use crate::data::DataError;

/// Errors of predictions in the units of the data, over all steps that were measured.
///
/// ```
/// use atbptt_train::ForecastErrors;
///
/// // The third step was not measured.
/// let errors = ForecastErrors::of(&[1.0, 2.0, 9.0, 4.0], &[1.0, 3.0, f32::NAN, 5.0], 1)?;
/// assert_eq!(errors.count(), 3);
/// assert!((errors.root_mean_square() - (2.0_f64 / 3.0).sqrt()).abs() < 1e-12);
/// // The mean, 3, as the prediction would leave 4 + 0 + 4.
/// assert_eq!(errors.nash_sutcliffe(), 1.0 - 2.0 / 8.0);
/// # Ok::<(), atbptt_train::data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForecastErrors {
    squares: f64,
    variation: f64,
    count: usize,
}

impl ForecastErrors {
    /// Of predictions and measurements, row-major `[time, columns]`; a measurement that is NaN was not made.
    ///
    /// # Errors
    ///
    /// [`DataError::NotComparable`] unless both have the same whole rows.
    pub fn of(predicted: &[f32], measured: &[f32], columns: usize) -> Result<Self, DataError> {
        if predicted.len() != measured.len()
            || columns == 0
            || !predicted.len().is_multiple_of(columns)
        {
            return Err(DataError::NotComparable {
                predicted: predicted.len(),
                measured: measured.len(),
                columns,
            });
        }
        let (mut squares, mut variation, mut count) = (0.0, 0.0, 0);
        for column in 0..columns {
            let pairs = || {
                let both = predicted.iter().zip(measured);
                both.skip(column)
                    .step_by(columns)
                    .filter(|(_, measured)| !measured.is_nan())
                    .map(|(p, m)| (f64::from(*p), f64::from(*m)))
            };
            let number = pairs().count();
            let mean = pairs().map(|(_, m)| m).sum::<f64>() / number as f64;
            squares += pairs().map(|(p, m)| (p - m).powi(2)).sum::<f64>();
            variation += pairs().map(|(_, m)| (m - mean).powi(2)).sum::<f64>();
            count += number;
        }
        Ok(Self {
            squares,
            variation,
            count,
        })
    }

    /// Measurements compared.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Root of the mean squared error, over all columns together; NaN where nothing was measured.
    pub fn root_mean_square(&self) -> f64 {
        (self.squares / self.count as f64).sqrt()
    }

    /// 1 − Σ(prediction − measurement)²/Σ(measurement − mean)², with the mean of each column: 1 is perfect, 0 as good as the mean
    /// (Nash and Sutcliffe 1970; elsewhere called R²). NaN or −∞ where the measurements do not vary.
    pub fn nash_sutcliffe(&self) -> f64 {
        1.0 - self.squares / self.variation
    }

    /// √(Σ(prediction − measurement)²/Σ(measurement − mean)²), with the mean of each column: 0 is perfect, 1 as good as the mean.
    pub fn normalised(&self) -> f64 {
        (self.squares / self.variation).sqrt()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn columns_vary_around_means_of_their_own() {
        // Columns 1, 3 and 100, 104; predictions off by 1 once in each.
        let measured = [1.0, 100.0, 3.0, 104.0];
        let errors = ForecastErrors::of(&[2.0, 100.0, 3.0, 103.0], &measured, 2).unwrap();
        // Around the means 2 and 102: 1 + 1 + 4 + 4.
        assert!((errors.nash_sutcliffe() - 0.8).abs() < 1e-12);
        assert!((errors.normalised() - 0.2_f64.sqrt()).abs() < 1e-12);
        assert!((errors.root_mean_square() - 0.5_f64.sqrt()).abs() < 1e-12);
        let perfect = ForecastErrors::of(&measured, &measured, 2).unwrap();
        assert_eq!(
            (perfect.nash_sutcliffe(), perfect.root_mean_square()),
            (1.0, 0.0)
        );
    }

    #[test]
    fn what_cannot_be_compared_is_refused_and_nothing_measured_has_no_error() {
        for (predicted, measured, columns) in [(2, 3, 1), (3, 3, 2), (2, 2, 0)] {
            let found = ForecastErrors::of(&vec![0.0; predicted], &vec![0.0; measured], columns);
            let found = found.unwrap_err().to_string();
            assert!(found.contains(&format!("rows of {columns}")), "{found}");
        }
        let none = ForecastErrors::of(&[1.0], &[f32::NAN], 1).unwrap();
        assert!(
            none.count() == 0 && none.root_mean_square().is_nan() && none.nash_sutcliffe().is_nan()
        );
    }
}
