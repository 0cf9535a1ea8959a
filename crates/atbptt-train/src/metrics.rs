//! Metrics for Burn's event processor: [`StepMetric`], of what every window reports, and [`PredictionMetric`], of what a model
//! predicts, such as one of your own.
//!
//! Register them with `SupervisedTraining::metric_train_numeric` and `metric_valid_numeric`:
//!
//! ```
//! # use atbptt_models::{LanguageModel, LstmLayer};
//! # use atbptt_train::run::Run;
//! use atbptt_core::FixedKConfig;
//! use atbptt_train::metrics::{PredictionMetric, StepMetric};
//!
//! # let run = Run::<LanguageModel<LstmLayer>>::new(FixedKConfig::new(20));
//! let run = run.with_supervised(|training| {
//!     training
//!         .metric_train_numeric(StepMetric::relative_bias())
//!         .metric_valid_numeric(PredictionMetric::mean_absolute_error())
//! });
//! ```

mod mean;
mod predictions;

use burn::tensor::TensorReadError;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericEntry, SerializedEntry,
};

pub use predictions::PredictionMetric;

use self::mean::{Mean, mean_metric};
use crate::output::StepReport;

/// What a window adds to the numerator and to the denominator of a mean.
type Parts = fn(&StepReport) -> Option<(f64, f64)>;

/// A mean over an epoch of what every window reports ([`StepReport`]).
///
/// For another one, implement Burn's `Metric` with `StepReport` as its input.
#[derive(Clone, Debug)]
pub struct StepMetric {
    mean: Mean,
    parts: Parts,
}

impl StepMetric {
    fn new(name: &str, unit: Option<&'static str>, higher_is_better: bool, parts: Parts) -> Self {
        Self::mapped(name, unit, higher_is_better, parts, |mean| mean)
    }

    fn mapped(
        name: &str,
        unit: Option<&'static str>,
        higher_is_better: bool,
        parts: Parts,
        map: fn(f64) -> f64,
    ) -> Self {
        let mean = Mean::new(name, unit, higher_is_better, map);
        Self { mean, parts }
    }

    /// Perplexity, exp(Σ loss / Σ tokens): exact over an epoch, however the windows were cut.
    pub fn perplexity() -> Self {
        let parts: Parts = |report| Some((report.loss_sum, report.count as f64));
        Self::mapped("Perplexity", None, false, parts, f64::exp)
    }

    /// Truncation length K in use, in steps.
    pub fn truncation_length() -> Self {
        Self::new("Truncation length", Some("steps"), true, |report| {
            Some((report.k as f64, 1.0))
        })
    }

    /// Share of windows whose gradient was longer than the clip allows, in `[0, 1]`. Near one, clip and step size alone set the
    /// length of an update.
    pub fn clipped_share() -> Self {
        Self::new("Clipped windows", None, false, |report| {
            Some((f64::from(u8::from(report.clipped)), 1.0))
        })
    }

    /// Relative gradient bias δ̂(K) estimated at the K in use.
    pub fn relative_bias() -> Self {
        Self::new("Relative bias", None, false, |report| {
            report.relative_bias.map(|bias| (bias, 1.0))
        })
    }

    /// Decay β of the lag profile per step: below one, gradients fade.
    pub fn decay_rate() -> Self {
        Self::new("Decay rate", Some("per step"), false, |report| {
            report.decay.map(|decay| (decay, 1.0))
        })
    }

    /// Loss tokens per second; time spent in probes does not count.
    pub fn tokens_per_second() -> Self {
        Self::new("Tokens per second", Some("tokens/s"), true, |report| {
            (report.seconds > 0.0).then_some((report.count as f64, report.seconds))
        })
    }

    fn measure(&self, report: &StepReport) -> Result<Option<(f64, f64)>, TensorReadError> {
        Ok((self.parts)(report))
    }
}

mean_metric!(StepMetric, StepReport);

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
        let mut metric = StepMetric::perplexity();
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
        let mut metric = StepMetric::relative_bias();
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
        let mut metric = StepMetric::tokens_per_second();
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
