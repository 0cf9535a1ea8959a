//! Metrics for Burn's event processor: perplexity, truncation length, share of clipped windows, relative bias, decay, tokens
//! per second; errors of predicted numbers; [`PredictionMetric`] for one of your own.
//!
//! All read the output of [`Tbptt`](crate::Tbptt): its [`StepReport`], or, those of predictions, its `Option<Predictions>`.
//! Register them with `SupervisedTraining::metric_train_numeric` and `metric_valid_numeric`.

mod own;

use std::sync::Arc;

use atbptt_models::Predictions;
use burn::tensor::{Tensor, TensorReadError};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry, format_float,
};

pub use own::PredictionMetric;

use crate::output::StepReport;

/// The sum of `term` over the errors of predicted numbers, and how many there are; a target that is NaN is missing.
fn errors(
    predictions: &Option<Predictions>,
    term: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Result<Option<(f64, f64)>, TensorReadError> {
    let Some(Predictions::Values { values, targets }) = predictions else {
        return Ok(None);
    };
    let errors = values.clone() - targets.clone();
    let missing = errors.clone().is_nan();
    let [rows, width] = errors.dims();
    let unknown = missing.clone().int().sum().try_into_scalar::<i64>()?;
    let sum = term(errors.mask_fill(missing, 0.0)).sum();
    let known = (rows * width) as f64 - unknown as f64;
    let sum = sum.try_into_scalar::<f64>()?;
    Ok((known > 0.0).then_some((sum, known)))
}

/// A ratio of two sums over an epoch, mapped to the value shown: one mechanism for all metrics here.
#[derive(Clone, Debug, Default)]
struct Ratio {
    current: Option<(f64, f64)>,
    total: (f64, f64),
}

impl Ratio {
    fn add(&mut self, numerator: f64, denominator: f64) {
        self.current = Some((numerator, denominator));
        self.total.0 += numerator;
        self.total.1 += denominator;
    }

    fn skip(&mut self) {
        self.current = None;
    }

    fn running(&self) -> Option<f64> {
        (self.total.1 > 0.0).then(|| self.total.0 / self.total.1)
    }

    fn current(&self) -> Option<f64> {
        self.current.map(|(a, b)| a / b)
    }
}

macro_rules! ratio_metric {
    (
        $(#[$doc:meta])*
        $name:ident, $title:literal, $unit:expr, $higher:literal, $input:ty,
        |$item:ident| $parts:expr, |$value:ident| $map:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            name: MetricName,
            ratio: Ratio,
        }

        impl Default for $name {
            fn default() -> Self {
                Self { name: Arc::new($title.to_string()), ratio: Ratio::default() }
            }
        }

        impl $name {
            /// A new metric.
            pub fn new() -> Self {
                Self::default()
            }

            fn map($value: f64) -> f64 {
                $map
            }

            fn entry(&self) -> SerializedEntry {
                let unit: Option<&str> = $unit;
                let suffix = unit.map(|unit| format!(" {unit}")).unwrap_or_default();
                let text = |value: Option<f64>| match value {
                    Some(value) => format!("{}{suffix}", format_float(Self::map(value), 3)),
                    None => "N/A".to_string(),
                };
                let formatted = format!(
                    "epoch {} - batch {}",
                    text(self.ratio.running()),
                    text(self.ratio.current()),
                );
                match self.ratio.current {
                    Some((a, b)) => SerializedEntry::new(
                        formatted,
                        NumericEntry::Aggregated {
                            aggregated_value: Self::map(a / b),
                            count: (b.max(1.0)) as usize,
                        }
                        .serialize(),
                    ),
                    None => SerializedEntry::not_available(unit),
                }
            }
        }

        impl Metric for $name {
            type Input = $input;

            fn name(&self) -> MetricName {
                self.name.clone()
            }

            fn attributes(&self) -> MetricAttributes {
                let unit: Option<&str> = $unit;
                NumericAttributes { unit: unit.map(String::from), higher_is_better: $higher }.into()
            }

            fn update(
                &mut self,
                $item: &$input,
                _metadata: &MetricMetadata,
            ) -> Result<SerializedEntry, TensorReadError> {
                let parts: Option<(f64, f64)> = $parts;
                match parts {
                    Some((numerator, denominator)) => self.ratio.add(numerator, denominator),
                    None => self.ratio.skip(),
                }
                Ok(self.entry())
            }

            fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
                let value = self.ratio.running().map(Self::map);
                Ok(match value {
                    Some(value) => SerializedEntry::new(
                        self.entry().formatted,
                        NumericEntry::Final(value).serialize(),
                    ),
                    None => SerializedEntry::not_available($unit),
                })
            }

            fn clear(&mut self) {
                self.ratio = Ratio::default();
            }
        }

        impl Numeric for $name {
            fn value(&self) -> Option<NumericEntry> {
                self.ratio.current.map(|(a, b)| NumericEntry::Aggregated {
                    aggregated_value: Self::map(a / b),
                    count: (b.max(1.0)) as usize,
                })
            }

            fn running_value(&self) -> Option<NumericEntry> {
                self.ratio.running().map(|value| NumericEntry::Value(Self::map(value)))
            }

            fn final_value(&self) -> NumericEntry {
                NumericEntry::Final(self.ratio.running().map_or(f64::NAN, Self::map))
            }
        }
    };
}

ratio_metric! {
    /// Perplexity, exp(Σ loss / Σ tokens): exact over an epoch, however the windows were cut.
    PerplexityMetric, "Perplexity", None, false, StepReport,
    |report| Some((report.loss_sum, report.count as f64)), |mean| mean.exp()
}

ratio_metric! {
    /// Truncation length K in use, in steps.
    TruncationMetric, "Truncation length", Some("steps"), true, StepReport,
    |report| Some((report.k as f64, 1.0)), |mean| mean
}

ratio_metric! {
    /// Share of windows whose gradient was longer than the clip allows, in `[0, 1]`. Near one, the length of an update is set by
    /// clip and step size alone.
    ClippedShareMetric, "Clipped windows", None, false, StepReport,
    |report| Some((f64::from(u8::from(report.clipped)), 1.0)), |mean| mean
}

ratio_metric! {
    /// Relative gradient bias δ̂(K) estimated at the K in use.
    RelativeBiasMetric, "Relative bias", None, false, StepReport,
    |report| report.relative_bias.map(|bias| (bias, 1.0)), |mean| mean
}

ratio_metric! {
    /// Decay β of the lag profile per step: below one, gradients fade.
    DecayRateMetric, "Decay rate", Some("per step"), false, StepReport,
    |report| report.decay.map(|decay| (decay, 1.0)), |mean| mean
}

ratio_metric! {
    /// Loss tokens per second, probes not counted.
    TokensPerSecondMetric, "Tokens per second", Some("tokens/s"), true, StepReport,
    |report| (report.seconds > 0.0).then_some((report.count as f64, report.seconds)), |mean| mean
}

ratio_metric! {
    /// Root mean squared error of predicted numbers, in their units, over all values of an epoch together.
    RmseMetric, "RMSE", None, false, Option<Predictions>,
    |predictions| errors(predictions, |errors| errors.square())?, |mean| mean.sqrt()
}

ratio_metric! {
    /// Mean absolute error of predicted numbers, in their units, over all values of an epoch together.
    MaeMetric, "MAE", None, false, Option<Predictions>,
    |predictions| errors(predictions, |errors| errors.abs())?, |mean| mean
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::data::dataloader::Progress;

    fn metadata() -> MetricMetadata {
        MetricMetadata {
            progress: Progress::new(1, 1, None),
            iteration: None,
            lr: None,
        }
    }

    /// 10 tokens of loss ln 2 and 30 of ln 8: exp((10 ln 2 + 30 ln 8) / 40) = 2^2.5, not the mean of 2 and 8.
    #[test]
    fn perplexity_is_that_of_all_tokens_together() {
        let mut metric = PerplexityMetric::new();
        let ln2 = std::f64::consts::LN_2;
        for (count, loss) in [(10, ln2), (30, 3.0 * ln2)] {
            let item = StepReport {
                loss_sum: loss * count as f64,
                count,
                ..StepReport::default()
            };
            metric.update(&item, &metadata()).unwrap();
        }
        assert!((metric.final_value().current() - 2f64.powf(2.5)).abs() < 1e-12);
        assert!((metric.value().unwrap().current() - 8.0).abs() < 1e-12);
        metric.clear();
        assert!(metric.running_value().is_none());
    }

    #[test]
    fn an_unknown_bias_is_not_available_and_not_zero() {
        let mut metric = RelativeBiasMetric::new();
        let unknown = StepReport::default();
        let entry = metric.update(&unknown, &metadata()).unwrap();
        assert!(entry.is_not_available() && metric.value().is_none());
        let known = StepReport {
            relative_bias: Some(0.25),
            ..StepReport::default()
        };
        metric.update(&known, &metadata()).unwrap();
        assert_eq!(metric.final_value().current(), 0.25);
    }

    /// 100 tokens in 1 s and 100 in 3 s are 50 tokens per second, not the mean of 100 and 33.
    #[test]
    fn throughput_is_tokens_over_seconds() {
        let mut metric = TokensPerSecondMetric::new();
        for seconds in [1.0, 3.0] {
            let item = StepReport {
                count: 100,
                seconds,
                ..StepReport::default()
            };
            metric.update(&item, &metadata()).unwrap();
        }
        assert_eq!(metric.final_value().current(), 50.0);
    }
}
