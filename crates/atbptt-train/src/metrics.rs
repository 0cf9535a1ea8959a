//! Metrics for Burn's event processor: perplexity, truncation length, share of clipped windows, relative bias, decay, tokens
//! per second; errors of predicted numbers; [`PredictionMetric`] for one of your own.
//!
//! All read the output of [`Tbptt`](crate::Tbptt); register them with `SupervisedTraining::metric_train_numeric` and
//! `metric_valid_numeric`.

mod own;

use std::sync::Arc;

use burn::tensor::{Tensor, TensorReadError};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry, format_float,
};

pub use own::{PredictionMetric, PredictionsInput};

/// A summed loss and the number of terms in it.
#[derive(Clone, Copy, Debug)]
pub struct SummedLoss {
    /// Sum, in nats.
    pub sum: f64,
    /// Number of terms.
    pub count: usize,
}

/// The truncation length in use.
#[derive(Clone, Copy, Debug)]
pub struct TruncationInput {
    /// In steps.
    pub k: usize,
}

/// The last bias estimate.
#[derive(Clone, Copy, Debug)]
pub struct EstimateInput {
    /// At the K in use; `None` while unknown or unbounded.
    pub relative_bias: Option<f64>,
    /// β per step; `None` while unknown.
    pub decay: Option<f64>,
}

/// Whether a window's gradient was clipped.
#[derive(Clone, Copy, Debug)]
pub struct ClipInput {
    /// Whether it was longer than allowed.
    pub clipped: bool,
}

/// Tokens and the time they took.
#[derive(Clone, Copy, Debug)]
pub struct ThroughputInput {
    /// Losses counted.
    pub tokens: usize,
    /// In seconds.
    pub seconds: f64,
}

/// Errors of predicted numbers: what [`RmseMetric`] and [`MaeMetric`] read.
#[derive(Clone, Debug)]
pub struct ErrorInput {
    errors: Option<Tensor<2>>,
}

impl ErrorInput {
    /// Of `values` that should have been `targets`, both `[rows, values]`; a target that is NaN is missing.
    pub fn new(values: Tensor<2>, targets: Tensor<2>) -> Self {
        Self {
            errors: Some(values - targets),
        }
    }

    /// Of nothing: the metrics pass over it.
    pub fn none() -> Self {
        Self { errors: None }
    }

    /// The sum of `term` over all errors, and their number.
    fn sum(
        &self,
        term: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Result<Option<(f64, f64)>, TensorReadError> {
        let Some(errors) = &self.errors else {
            return Ok(None);
        };
        let missing = errors.clone().is_nan();
        let [rows, width] = errors.dims();
        let unknown = missing.clone().int().sum().try_into_scalar::<i64>()?;
        let errors = errors.clone().mask_fill(missing, 0.0);
        let sum = term(errors).sum().try_into_scalar::<f64>()?;
        let known = (rows * width) as f64 - unknown as f64;
        Ok((known > 0.0).then_some((sum, known)))
    }
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
    PerplexityMetric, "Perplexity", None, false, SummedLoss,
    |loss| Some((loss.sum, loss.count as f64)), |mean| mean.exp()
}

ratio_metric! {
    /// Truncation length K in use, in steps.
    TruncationMetric, "Truncation length", Some("steps"), true, TruncationInput,
    |input| Some((input.k as f64, 1.0)), |mean| mean
}

ratio_metric! {
    /// Share of windows whose gradient was longer than the clip allows, in `[0, 1]`. Near one, the length of an update is set by
    /// clip and step size alone.
    ClippedShareMetric, "Clipped windows", None, false, ClipInput,
    |input| Some((f64::from(u8::from(input.clipped)), 1.0)), |mean| mean
}

ratio_metric! {
    /// Relative gradient bias δ̂(K) estimated at the K in use.
    RelativeBiasMetric, "Relative bias", None, false, EstimateInput,
    |input| input.relative_bias.map(|bias| (bias, 1.0)), |mean| mean
}

ratio_metric! {
    /// Decay β of the lag profile per step: below one, gradients fade.
    DecayRateMetric, "Decay rate", Some("per step"), false, EstimateInput,
    |input| input.decay.map(|decay| (decay, 1.0)), |mean| mean
}

ratio_metric! {
    /// Loss tokens per second, probes not counted.
    TokensPerSecondMetric, "Tokens per second", Some("tokens/s"), true, ThroughputInput,
    |input| (input.seconds > 0.0).then_some((input.tokens as f64, input.seconds)), |mean| mean
}

ratio_metric! {
    /// Root mean squared error of predicted numbers, in their units, over all values of an epoch together.
    RmseMetric, "RMSE", None, false, ErrorInput,
    |input| input.sum(|errors| errors.square())?, |mean| mean.sqrt()
}

ratio_metric! {
    /// Mean absolute error of predicted numbers, in their units, over all values of an epoch together.
    MaeMetric, "MAE", None, false, ErrorInput,
    |input| input.sum(|errors| errors.abs())?, |mean| mean
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
            let item = SummedLoss {
                sum: loss * count as f64,
                count,
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
        let unknown = EstimateInput {
            relative_bias: None,
            decay: None,
        };
        let entry = metric.update(&unknown, &metadata()).unwrap();
        assert!(entry.is_not_available() && metric.value().is_none());
        let known = EstimateInput {
            relative_bias: Some(0.25),
            decay: None,
        };
        metric.update(&known, &metadata()).unwrap();
        assert_eq!(metric.final_value().current(), 0.25);
    }

    /// 100 tokens in 1 s and 100 in 3 s are 50 tokens per second, not the mean of 100 and 33.
    #[test]
    fn throughput_is_tokens_over_seconds() {
        let mut metric = TokensPerSecondMetric::new();
        for seconds in [1.0, 3.0] {
            let item = ThroughputInput {
                tokens: 100,
                seconds,
            };
            metric.update(&item, &metadata()).unwrap();
        }
        assert_eq!(metric.final_value().current(), 50.0);
    }
}
