//! A metric of the user's own from a closure over a model's predictions.

use std::fmt;
use std::sync::Arc;

use atbptt_models::Predictions;
use burn::tensor::TensorReadError;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry, format_float,
};

use super::Ratio;

type Measure = dyn Fn(&Predictions) -> Result<Option<(f64, usize)>, TensorReadError> + Send + Sync;

/// The mean over an epoch of something that a closure measures of a model's predictions.
///
/// The closure gives the sum over a window's rows and their number, or `None` where there is nothing to measure. For a metric that
/// is no mean, implement Burn's `Metric` with `Option<Predictions>` as its input: what
/// the loss of a window compared, `None` where the model does not say.
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
    name: MetricName,
    higher_is_better: bool,
    measure: Arc<Measure>,
    ratio: Ratio,
}

impl fmt::Debug for PredictionMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PredictionMetric({}, {:?})", self.name, self.ratio)
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
            name: Arc::new(name.into()),
            higher_is_better: true,
            measure: Arc::new(measure),
            ratio: Ratio::default(),
        }
    }

    /// Less is better.
    pub fn lower_is_better(mut self) -> Self {
        self.higher_is_better = false;
        self
    }

    /// As a dashboard shows it, with `entry` for files.
    fn shown(&self, entry: Option<NumericEntry>) -> SerializedEntry {
        let text = |value: Option<f64>| {
            value.map_or_else(|| "N/A".to_string(), |value| format_float(value, 3))
        };
        let (running, current) = (text(self.ratio.running()), text(self.ratio.current()));
        match entry {
            Some(entry) => SerializedEntry::new(
                format!("epoch {running} - batch {current}"),
                entry.serialize(),
            ),
            None => SerializedEntry::not_available(None),
        }
    }
}

impl Metric for PredictionMetric {
    type Input = Option<Predictions>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: self.higher_is_better,
        }
        .into()
    }

    fn update(
        &mut self,
        predictions: &Option<Predictions>,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let measured = predictions.as_ref().map(|all| (self.measure)(all));
        match measured.transpose()?.flatten() {
            Some((sum, rows)) if rows > 0 => self.ratio.add(sum, rows as f64),
            _ => self.ratio.skip(),
        }
        Ok(self.shown(self.value()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.shown(self.ratio.running().map(NumericEntry::Final)))
    }

    fn clear(&mut self) {
        self.ratio = Ratio::default();
    }
}

impl Numeric for PredictionMetric {
    fn value(&self) -> Option<NumericEntry> {
        let (sum, rows) = self.ratio.current?;
        Some(NumericEntry::Aggregated {
            aggregated_value: sum / rows,
            count: rows as usize,
        })
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.ratio.running().map(NumericEntry::Value)
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.ratio.running().unwrap_or(f64::NAN))
    }
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
