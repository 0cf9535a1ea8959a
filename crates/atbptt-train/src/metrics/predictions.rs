//! Means of what a model predicts: errors of predicted numbers, and whatever a closure of the user's own measures.

use std::fmt;
use std::sync::Arc;

use atbptt_models::Predictions;
use burn::tensor::{Tensor, TensorReadError};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericEntry, SerializedEntry,
};

use super::mean::{Mean, mean_metric};

type Measure = dyn Fn(&Predictions) -> Result<Option<(f64, usize)>, TensorReadError> + Send + Sync;

/// The mean over an epoch of something that a closure measures of a model's predictions.
///
/// The closure gives the sum over a window's rows and their number, or `None` where there is nothing to measure. For a metric that
/// is no mean, implement Burn's `Metric` with `Option<Predictions>` as its input: what the loss of a window compared, `None` where
/// the model does not say.
///
/// ```
/// use atbptt_models::Predictions;
/// use atbptt_train::metrics::PredictionMetric;
///
/// // The share of predicted numbers that lie within a tenth of the right one.
/// let close = PredictionMetric::new("Close", |predictions| match predictions {
///     Predictions::Values { values, targets } => {
///         let close = (values.clone() - targets.clone()).abs().lower_elem(0.1);
///         let rows = values.dims().iter().product();
///         Ok(Some((close.int().sum().try_into_scalar::<i64>()? as f64, rows)))
///     }
///     _ => Ok(None),
/// });
/// # let _ = close;
/// ```
#[derive(Clone)]
pub struct PredictionMetric {
    mean: Mean,
    measure: Arc<Measure>,
}

impl fmt::Debug for PredictionMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PredictionMetric({:?})", self.mean)
    }
}

impl PredictionMetric {
    /// A metric of which more is better, unless [`lower_is_better`](Self::lower_is_better) says otherwise.
    pub fn new(
        name: impl Into<String>,
        measure: impl Fn(&Predictions) -> Result<Option<(f64, usize)>, TensorReadError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            mean: Mean::new(name, None, true, |mean| mean),
            measure: Arc::new(measure),
        }
    }

    /// Root mean squared error of predicted numbers, in their units, over all values of an epoch together. A target that is NaN is
    /// missing.
    pub fn root_mean_squared_error() -> Self {
        Self {
            mean: Mean::new("RMSE", None, false, f64::sqrt),
            measure: Arc::new(|predictions| errors(predictions, |errors| errors.square())),
        }
    }

    /// Mean absolute error of predicted numbers, in their units, over all values of an epoch together. A target that is NaN is
    /// missing.
    pub fn mean_absolute_error() -> Self {
        Self {
            mean: Mean::new("MAE", None, false, |mean| mean),
            measure: Arc::new(|predictions| errors(predictions, |errors| errors.abs())),
        }
    }

    /// Less is better.
    pub fn lower_is_better(mut self) -> Self {
        self.mean.higher_is_better = false;
        self
    }

    fn measure(
        &self,
        predictions: &Option<Predictions>,
    ) -> Result<Option<(f64, f64)>, TensorReadError> {
        let measured = predictions.as_ref().map(|all| (self.measure)(all));
        let measured = measured.transpose()?.flatten();
        Ok(measured.and_then(|(sum, rows)| (rows > 0).then_some((sum, rows as f64))))
    }
}

mean_metric!(PredictionMetric, Option<Predictions>);

/// The sum of `term` over the errors of predicted numbers, and how many there are; a target that is NaN is missing.
fn errors(
    predictions: &Predictions,
    term: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Result<Option<(f64, usize)>, TensorReadError> {
    let Predictions::Values { values, targets } = predictions else {
        return Ok(None);
    };
    let errors = values.clone() - targets.clone();
    let missing = errors.clone().is_nan();
    let [rows, width] = errors.dims();
    let unknown = missing.clone().int().sum().try_into_scalar::<i64>()?;
    let sum = term(errors.mask_fill(missing, 0.0)).sum();
    let known = rows * width - usize::try_from(unknown).unwrap_or(0);
    Ok(Some((sum.try_into_scalar::<f64>()?, known)))
}

#[cfg(test)]
mod tests {
    use burn::data::dataloader::Progress;
    use burn::tensor::{Device, Tensor};

    use super::*;

    /// Rows of 2 and of 6 values: the mean over all 8, not that of the two means; a window without predictions does not count.
    #[test]
    fn a_metric_of_ones_own_is_the_mean_over_all_rows() {
        let mut metric = PredictionMetric::new("Mean", |predictions| match predictions {
            Predictions::Values { values, .. } => Ok(Some((
                values.clone().sum().try_into_scalar::<f64>()?,
                values.dims()[0],
            ))),
            _ => Ok(None),
        });
        let metadata = MetricMetadata {
            progress: Progress::new(1, 1, None),
            iteration: None,
            lr: None,
        };
        let device = Device::flex();
        let window = |rows: usize, value: f32| {
            let values = Tensor::<2>::full([rows, 1], value, &device);
            Some(Predictions::Values {
                targets: values.clone(),
                values,
            })
        };
        assert!(metric.update(&None, &metadata).unwrap().is_not_available());
        metric.update(&window(2, 1.0), &metadata).unwrap();
        metric.update(&window(6, 3.0), &metadata).unwrap();
        assert_eq!(metric.value().unwrap().current(), 3.0);
        assert_eq!(metric.final_value().current(), 2.5);
        metric.clear();
        assert!(metric.running_value().is_none());
    }
}
