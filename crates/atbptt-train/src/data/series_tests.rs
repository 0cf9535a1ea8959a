use super::*;
use crate::data::{Normalisation, PackedSource, Scale};
use crate::source::SequenceSource;
use atbptt_models::SequenceBatch;
use burn::tensor::Tensor;

const NAN: f32 = f32::NAN;

fn values(tensor: &Tensor<3>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

/// Inputs 10 s + t, targets their negatives.
fn numbered(lengths: &[usize]) -> SeriesSet {
    let series = lengths.iter().enumerate().map(|(s, &steps)| {
        let inputs: Vec<f32> = (0..steps).map(|t| (10 * s + t) as f32).collect();
        let targets = inputs.iter().map(|x| -x).collect();
        Series::new(inputs, 1, targets, 1).unwrap()
    });
    SeriesSet::new(series.collect()).unwrap()
}

#[test]
fn a_window_holds_the_values_of_its_steps_and_counts_targets_that_are_there() {
    let source = PackedSource::new(numbered(&[4, 2, 1]), 2).unwrap();
    // 0 0 0 0 beside 1 1 2.
    let batch = source.window(1, 3, &Device::default()).unwrap();
    assert_eq!(values(batch.inputs()), [1.0, 2.0, 3.0, 11.0, 20.0, 20.0]);
    assert_eq!(
        values(batch.targets()),
        [-1.0, -2.0, -3.0, -11.0, -20.0, 0.0]
    );
    assert_eq!((batch.count(), batch.reset_steps()), (5, vec![1]));
    let tail = batch.slice(1..3);
    assert_eq!(
        (tail.count(), tail.reset_steps(), tail.steps()),
        (3, vec![0], 2)
    );
    assert!(batch.slice(2..3).reset().is_none());
}

#[test]
fn a_missing_target_is_no_target() {
    let series = Series::new(vec![1.0, 2.0, 3.0], 1, vec![NAN, 5.0, NAN], 1).unwrap();
    let source = PackedSource::new(SeriesSet::new(vec![series]).unwrap(), 1).unwrap();
    let batch = source.window(0, 3, &Device::default()).unwrap();
    assert_eq!(
        (batch.count(), values(batch.targets())),
        (1, vec![0.0, 5.0, 0.0])
    );
    let present: Vec<bool> = batch
        .present()
        .unwrap()
        .clone()
        .into_data()
        .iter()
        .collect();
    assert_eq!(present, [false, true, false]);
    assert_eq!(batch.slice(0..1).count(), 0);
}

/// Mean 2 and deviation 1 over both series; the missing target does not take part.
#[test]
fn normalisation_is_fitted_on_the_training_part_and_undone_for_predictions() {
    let training = SeriesSet::new(vec![
        Series::new(vec![1.0, 7.0], 2, vec![4.0], 1).unwrap(),
        Series::new(
            vec![3.0, 7.0, 3.0, 7.0, 1.0, 7.0],
            2,
            vec![8.0, NAN, 6.0],
            1,
        )
        .unwrap(),
    ])
    .unwrap();
    let normalisation = Normalisation::fit(&training).unwrap();
    let expected = [
        Scale {
            mean: 2.0,
            scale: 1.0,
        },
        Scale {
            mean: 7.0,
            scale: 1.0,
        },
    ];
    assert_eq!(normalisation.inputs, expected);
    assert_eq!(normalisation.targets[0].mean, 6.0);
    let deviation = (8.0f64 / 3.0).sqrt();
    assert!((normalisation.targets[0].scale - deviation).abs() < 1e-12);
    let test = SeriesSet::new(vec![Series::new(vec![4.0, 8.0], 2, vec![6.0], 1).unwrap()]).unwrap();
    let normalised = normalisation.apply(&test).unwrap();
    assert_eq!(normalised.series()[0].inputs(), [2.0, 1.0]);
    assert_eq!(normalised.series()[0].targets(), [0.0]);
    let mut predicted = vec![0.0, deviation as f32];
    normalisation.restore_targets(&mut predicted);
    assert!((predicted[0] - 6.0).abs() < 1e-6 && (predicted[1] - (6.0 + 8.0 / 3.0)).abs() < 1e-5);
    let json = serde_json::to_string(&normalisation).unwrap();
    assert_eq!(
        serde_json::from_str::<Normalisation>(&json).unwrap(),
        normalisation
    );
    let other = numbered(&[3]);
    assert!(matches!(
        normalisation.apply(&other),
        Err(DataError::SeriesWidths { .. })
    ));
}

#[test]
fn a_target_that_is_never_there_is_refused() {
    let series = Series::new(vec![1.0, 2.0], 1, vec![1.0, NAN, 2.0, NAN], 2).unwrap();
    let found = Normalisation::fit(&SeriesSet::new(vec![series]).unwrap());
    assert!(matches!(found, Err(DataError::NoTarget { column: 1 })));
}

#[test]
fn parts_follow_each_other_and_context_does_not_count() {
    let set = numbered(&[10, 20]);
    let [train, valid, test] = set.split(0.5, 0.2, 3).unwrap();
    let steps = |set: &SeriesSet| set.series().iter().map(Series::steps).collect::<Vec<_>>();
    assert_eq!(
        (steps(&train), steps(&valid), steps(&test)),
        (vec![5, 10], vec![5, 7], vec![6, 9])
    );
    assert_eq!(valid.series()[0].inputs(), [2.0, 3.0, 4.0, 5.0, 6.0]);
    let counted = |set: &SeriesSet| {
        let targets = set.series().iter().flat_map(Series::targets);
        targets.filter(|target| !target.is_nan()).count()
    };
    assert_eq!(
        (counted(&train), counted(&valid), counted(&test)),
        (15, 6, 9)
    );
    for (train, valid) in [(0.0, 0.5), (0.5, 0.5), (f64::NAN, 0.1), (0.9, 0.2)] {
        assert!(matches!(
            set.split(train, valid, 0),
            Err(DataError::Shares { .. })
        ));
    }
}

#[test]
fn long_series_are_cut_into_pieces_of_nearly_the_same_length() {
    let set = numbered(&[10, 3]);
    let cut = set.cut(4).unwrap();
    let steps: Vec<usize> = cut.series().iter().map(Series::steps).collect();
    assert_eq!(steps, [4, 3, 3, 3]);
    let all: Vec<f32> = cut
        .series()
        .iter()
        .flat_map(Series::inputs)
        .copied()
        .collect();
    let before: Vec<f32> = set
        .series()
        .iter()
        .flat_map(Series::inputs)
        .copied()
        .collect();
    assert_eq!(all, before);
    assert!(cut.content_hash() != set.content_hash());
    assert_eq!(cut.content_hash(), set.cut(4).unwrap().content_hash());
    assert!(set.cut(0).is_err());
}

#[test]
fn pieces_may_begin_with_steps_that_only_warm_the_state_up() {
    let set = numbered(&[10, 3]);
    let cut = set.cut_with_context(4, 2).unwrap();
    let steps: Vec<usize> = cut.series().iter().map(Series::steps).collect();
    // There is nothing before the first pieces.
    assert_eq!(steps, [4, 5, 5, 3]);
    assert_eq!(cut.series()[1].inputs(), [2.0, 3.0, 4.0, 5.0, 6.0]);
    let counted = |set: &SeriesSet| -> Vec<f32> {
        let targets = set.series().iter().flat_map(Series::targets).copied();
        targets.filter(|target| !target.is_nan()).collect()
    };
    assert_eq!(counted(&cut), counted(&set));
}

#[test]
fn series_that_do_not_fit_are_refused() {
    let shape = |inputs: usize, d_input, targets: usize, d_target| {
        Series::new(vec![0.0; inputs], d_input, vec![0.0; targets], d_target)
    };
    for (inputs, d_input, targets, d_target) in
        [(4, 2, 3, 1), (3, 2, 1, 1), (2, 0, 2, 1), (2, 1, 0, 0)]
    {
        let found = shape(inputs, d_input, targets, d_target);
        assert!(
            matches!(found, Err(DataError::SeriesShape { .. })),
            "{inputs} {d_input}"
        );
    }
    let found = Series::new(vec![0.0, 0.0, 0.0, f32::INFINITY], 2, vec![0.0; 2], 1);
    let place = matches!(
        found,
        Err(DataError::SeriesValue {
            what: "input",
            step: 1,
            column: 1,
            ..
        })
    );
    assert!(place, "{found:?}");
    let found = Series::new(vec![0.0; 2], 1, vec![0.0, f32::INFINITY], 1);
    assert!(matches!(
        found,
        Err(DataError::SeriesValue { what: "target", .. })
    ));
    assert!(matches!(
        SeriesSet::new(Vec::new()),
        Err(DataError::NoSeries)
    ));
    let two = vec![shape(2, 1, 2, 1).unwrap(), shape(2, 2, 1, 1).unwrap()];
    assert!(matches!(
        SeriesSet::new(two),
        Err(DataError::SeriesWidths { nth: 1, .. })
    ));
}
