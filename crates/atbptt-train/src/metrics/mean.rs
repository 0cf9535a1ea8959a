//! A ratio of two sums over an epoch, as Burn's metrics show and keep it: what all metrics here are.

use std::sync::Arc;

use burn::train::metric::{
    MetricAttributes, MetricName, NumericAttributes, NumericEntry, SerializedEntry, format_float,
};

/// A mean over an epoch, mapped to the value shown.
#[derive(Clone, Debug)]
pub(super) struct Mean {
    pub(super) name: MetricName,
    unit: Option<&'static str>,
    pub(super) higher_is_better: bool,
    map: fn(f64) -> f64,
    /// Numerator and denominator of the last window.
    current: Option<(f64, f64)>,
    /// Of the epoch so far.
    total: (f64, f64),
}

impl Mean {
    pub(super) fn new(
        name: impl Into<String>,
        unit: Option<&'static str>,
        higher_is_better: bool,
        map: fn(f64) -> f64,
    ) -> Self {
        Self {
            name: Arc::new(name.into()),
            unit,
            higher_is_better,
            map,
            current: None,
            total: (0.0, 0.0),
        }
    }

    pub(super) fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: self.unit.map(String::from),
            higher_is_better: self.higher_is_better,
        }
        .into()
    }

    /// Adds a window's numerator and denominator; `None` where it has nothing to say.
    pub(super) fn add(&mut self, parts: Option<(f64, f64)>) -> SerializedEntry {
        self.current = parts;
        if let Some((numerator, denominator)) = parts {
            self.total.0 += numerator;
            self.total.1 += denominator;
        }
        self.shown(self.value())
    }

    /// What the whole epoch comes to.
    pub(super) fn compute(&self) -> SerializedEntry {
        self.shown(self.running().map(NumericEntry::Final))
    }

    pub(super) fn clear(&mut self) {
        (self.current, self.total) = (None, (0.0, 0.0));
    }

    pub(super) fn value(&self) -> Option<NumericEntry> {
        let (_, denominator) = self.current?;
        Some(NumericEntry::Aggregated {
            aggregated_value: self.last()?,
            count: denominator.max(1.0) as usize,
        })
    }

    pub(super) fn running_value(&self) -> Option<NumericEntry> {
        self.running().map(NumericEntry::Value)
    }

    pub(super) fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.running().unwrap_or(f64::NAN))
    }

    fn last(&self) -> Option<f64> {
        self.current.map(|(a, b)| (self.map)(a / b))
    }

    fn running(&self) -> Option<f64> {
        let (a, b) = self.total;
        (b > 0.0).then(|| (self.map)(a / b))
    }

    /// As a dashboard shows it, with `entry` for files.
    fn shown(&self, entry: Option<NumericEntry>) -> SerializedEntry {
        let Some(entry) = entry else {
            return SerializedEntry::not_available(self.unit);
        };
        let suffix = self.unit.map(|unit| format!(" {unit}")).unwrap_or_default();
        let text = |value: Option<f64>| match value {
            Some(value) => format!("{}{suffix}", format_float(value, 3)),
            None => "N/A".to_string(),
        };
        let (running, last) = (text(self.running()), text(self.last()));
        SerializedEntry::new(format!("epoch {running} - batch {last}"), entry.serialize())
    }
}

/// Burn's two traits for a metric that holds a [`Mean`] in its field `mean`, and says in `measure` what a window adds to it.
macro_rules! mean_metric {
    ($metric:ty, $input:ty) => {
        impl Metric for $metric {
            type Input = $input;

            fn name(&self) -> MetricName {
                self.mean.name.clone()
            }

            fn attributes(&self) -> MetricAttributes {
                self.mean.attributes()
            }

            fn update(
                &mut self,
                item: &$input,
                _metadata: &MetricMetadata,
            ) -> Result<SerializedEntry, TensorReadError> {
                let parts = self.measure(item)?;
                Ok(self.mean.add(parts))
            }

            fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
                Ok(self.mean.compute())
            }

            fn clear(&mut self) {
                self.mean.clear();
            }
        }

        impl Numeric for $metric {
            fn value(&self) -> Option<NumericEntry> {
                self.mean.value()
            }

            fn running_value(&self) -> Option<NumericEntry> {
                self.mean.running_value()
            }

            fn final_value(&self) -> NumericEntry {
                self.mean.final_value()
            }
        }
    };
}

pub(super) use mean_metric;
