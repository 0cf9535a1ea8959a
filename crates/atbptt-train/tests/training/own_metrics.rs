//! What metrics read of a model of one's own: Burn's accuracies, errors in the units of the data, and metrics of the user's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::sync::{Arc, Mutex};

use atbptt_models::Predictions;
use atbptt_train::metrics::PredictionMetric;
use atbptt_train::{TbpttOutput, evaluate_with};
use burn::tensor::{Device, Tensor, TensorReadError};
use burn::train::metric::store::Split;
use burn::train::metric::{
    AccuracyMetric, Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric,
    NumericAttributes, NumericEntry, SerializedEntry, TopKAccuracyMetric,
};

use super::setup::Spy;
use super::waves::{Habits, SEQUENCES, STEPS, WaveModel, Waves, launch, strategy, training};
use crate::common::turn;

/// A metric of one's own: the largest predicted score of this epoch and, for the test, of the last one.
#[derive(Clone, Default)]
struct LargestScore(Arc<Mutex<[Option<f64>; 2]>>);

impl LargestScore {
    fn get(&self) -> f64 {
        self.0.lock().unwrap()[0].unwrap_or(f64::NAN)
    }
}

struct Scores(Option<Tensor<2>>);

impl Adaptor<Scores> for TbpttOutput<WaveModel> {
    fn adapt(&self) -> Scores {
        match self.predictions() {
            Some(Predictions::Classes { scores, .. }) => Scores(Some(scores.clone())),
            _ => Scores(None),
        }
    }
}

impl Metric for LargestScore {
    type Input = Scores;

    fn name(&self) -> MetricName {
        MetricName::new("Largest score".into())
    }

    fn attributes(&self) -> MetricAttributes {
        let unit = None;
        NumericAttributes {
            unit,
            higher_is_better: true,
        }
        .into()
    }

    fn update(
        &mut self,
        scores: &Scores,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        if let Some(scores) = &scores.0 {
            let largest = scores.clone().max().try_into_scalar::<f64>()?;
            let so_far = &mut self.0.lock().unwrap()[0];
            *so_far = Some(so_far.map_or(largest, |so_far| so_far.max(largest)));
        }
        self.compute()
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let entry = NumericEntry::Value(self.get());
        Ok(SerializedEntry::new(
            self.get().to_string(),
            entry.serialize(),
        ))
    }

    fn clear(&mut self) {
        let mut epochs = self.0.lock().unwrap();
        if let Some(done) = epochs[0].take() {
            epochs[1] = Some(done);
        }
    }
}

impl Numeric for LargestScore {
    fn value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.get()))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.value()
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.get())
    }
}

/// Burn's accuracies of the validation stream, and a metric of one's own, are those counted by hand over the trained model, the
/// steps without a target left out.
#[test]
fn burns_accuracies_and_a_metric_of_ones_own_read_the_predictions() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let valid = Waves {
        unknown: 33..57,
        ..Waves::default()
    };
    let habits = Habits {
        classes: true,
        ..Habits::default()
    };
    let (first, second) = (AccuracyMetric::new(), TopKAccuracyMetric::new(2));
    let own = LargestScore::default();
    let spy = Spy::new(&[
        (first.name(), Split::Valid),
        (second.name(), Split::Valid),
        (first.name(), Split::Train),
    ]);
    let training = training(Waves::default(), valid.clone(), folder.path())
        .metrics((first, second))
        .metric_valid_numeric(own.clone())
        .early_stopping(spy.clone())
        .num_epochs(4);
    let (result, handle) = launch(training, strategy(5), habits);
    handle.finish(&result).unwrap();

    let (mut rows, mut right, mut second, mut largest) = (0, 0, 0, f32::MIN);
    let device = Device::flex();
    let model = result.model.inner();
    evaluate_with(model, &valid, 7, &device, |chunk| {
        let Some(Predictions::Classes { scores, targets }) = &chunk.loss.predictions else {
            assert_eq!(chunk.loss.count, 0, "steps without a target");
            return Ok(());
        };
        let scores: Vec<f32> = scores.clone().into_data().iter::<f32>().collect();
        let targets: Vec<i64> = targets.clone().into_data().iter::<i64>().collect();
        for (scores, target) in scores.chunks(3).zip(targets) {
            let own = scores[target as usize];
            let above = scores.iter().filter(|score| **score > own).count();
            rows += 1;
            right += usize::from(above == 0);
            second += usize::from(above < 2);
            largest = scores.iter().copied().fold(largest, f32::max);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(rows, (STEPS - 24) * SEQUENCES);
    let seen = spy.seen.lock().unwrap().last().unwrap().clone();
    let share = |count: usize| 100.0 * count as f64 / rows as f64;
    let own = own.0.lock().unwrap()[1];
    for (got, expected) in [
        (seen[0], share(right)),
        (seen[1], share(second)),
        (own, largest.into()),
    ] {
        let got = got.unwrap();
        assert!((got - expected).abs() < 1e-4, "{got}, expected {expected}");
    }
    assert!(right > rows / 3, "better than a guess");
    assert!(seen[2].unwrap() > 0.0, "training accuracy");
}

/// RMSE and MAE over all values of an epoch together, whatever the chunks.
#[test]
fn errors_of_predicted_numbers_are_those_of_all_values_together() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let valid = Waves {
        unknown: 33..57,
        ..Waves::default()
    };
    let spy = Spy::new(&[
        (
            PredictionMetric::root_mean_squared_error().name(),
            Split::Valid,
        ),
        (PredictionMetric::mean_absolute_error().name(), Split::Valid),
        // Predicts no classes.
        (AccuracyMetric::new().name(), Split::Valid),
    ]);
    let training = training(Waves::default(), valid.clone(), folder.path())
        .metrics((
            PredictionMetric::root_mean_squared_error(),
            PredictionMetric::mean_absolute_error(),
            AccuracyMetric::new(),
        ))
        .early_stopping(spy.clone());
    let (result, handle) = launch(training, strategy(5), Habits::default());
    handle.finish(&result).unwrap();
    let (mut squares, mut absolutes, mut count) = (0.0, 0.0, 0.0);
    let model = result.model.inner();
    let loss = evaluate_with(model, &valid, 100, &Device::flex(), |chunk| {
        if let Some(Predictions::Values { values, targets }) = &chunk.loss.predictions {
            let errors = (values.clone() - targets.clone()).into_data();
            for error in errors.iter::<f64>() {
                squares += error * error;
                absolutes += error.abs();
                count += 1.0;
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(loss.count as f64, count);
    let seen = spy.seen.lock().unwrap()[0].clone();
    let expected = [f64::sqrt(squares / count), absolutes / count];
    for (got, expected) in seen[..2].iter().zip(expected) {
        assert!(
            (got.unwrap() - expected).abs() < 1e-6,
            "{got:?}, {expected}"
        );
    }
    assert!(seen[2].is_none_or(f64::is_nan), "{:?}", seen[2]);
}
