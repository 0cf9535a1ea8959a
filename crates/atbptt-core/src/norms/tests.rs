use super::*;

#[test]
fn rejects_what_is_no_set_of_norms() {
    #[rustfmt::skip]
    let rows = [
        (vec![], EstimateError::Empty { lags: 0, sequences: 0 }),
        (vec![vec![]], EstimateError::Empty { lags: 1, sequences: 0 }),
        (vec![vec![1.0], vec![1.0, 2.0]], EstimateError::Ragged { lag: 1, expected: 1, got: 2 }),
        (vec![vec![1.0, -1.0]], EstimateError::NotANorm { lag: 0, sequence: 1, value: -1.0 }),
        (vec![vec![f64::INFINITY]], EstimateError::NotANorm { lag: 0, sequence: 0, value: f64::INFINITY }),
    ];
    for (norms, error) in rows {
        assert_eq!(LagNorms::new(norms).unwrap_err(), error);
    }
    let nan = LagNorms::new(vec![vec![f64::NAN]]);
    assert!(matches!(nan, Err(EstimateError::NotANorm { .. })));
    let short = LagNorms::from_flat(2, 2, &[1.0f32; 3]);
    assert!(matches!(
        short,
        Err(EstimateError::Length {
            expected: 4,
            got: 3,
            ..
        })
    ));
}

/// Lag 0: parts (3, 4) and (0, 5) for two sequences: 3² + 0² and 4² + 5²; lag 1: (6, 8) → 10 and (0, 0) → 0.
#[test]
fn parts_add_up_as_squares_and_can_be_taken_out() {
    let values = [3.0, 4.0, 0.0, 5.0, 6.0, 0.0, 8.0, 0.0];
    let norms = LagNorms::from_parts(2, 2, 2, &values).unwrap();
    assert_eq!(norms.row(0), [3.0, 4f64.hypot(5.0)]);
    assert_eq!(norms.row(1), [10.0, 0.0]);
    assert_eq!(norms.part(1).unwrap().row(1), [8.0, 0.0]);
    assert_eq!(
        norms.part(2).unwrap_err(),
        EstimateError::NoSuchPart { part: 2, parts: 2 }
    );
    let back: LagNorms = serde_json::from_str(&serde_json::to_string(&norms).unwrap()).unwrap();
    assert_eq!(back, norms);
}

#[test]
fn deserialisation_checks_again() {
    let bad = r#"{"lags":1,"sequences":1,"norms":[-1.0]}"#;
    assert!(serde_json::from_str::<LagNorms>(bad).is_err());
    assert!(serde_json::from_str::<LagNorms>(r#"{"lags":0,"sequences":0,"norms":[]}"#).is_err());
}

/// Two sequences with gradients (3, 0) and (1, 0): mean 2, mean square 5; their scalar product is 3 = (2·4 − 5)/1.
/// Two with (1, 0) and (−1, 0): the mean vanishes, and the estimate of its square is −1.
#[test]
fn debiased_square_is_the_product_between_sequences() {
    let norms = |rows, size| {
        let norms = LagNorms::new(vec![rows]).unwrap();
        norms.with_mean_sum_norms(vec![0.0, size]).unwrap()
    };
    let with = |norms: LagNorms, q| norms.with_sum_squares(vec![0.0, q]);
    let same = with(norms(vec![3.0, 1.0], 2.0), 5.0).unwrap();
    assert_eq!(same.debiased_squares(), Some([0.0, 3.0].as_slice()));
    let opposite = with(norms(vec![1.0, 1.0], 0.0), 1.0).unwrap();
    assert_eq!(opposite.debiased_squares(), Some([0.0, -1.0].as_slice()));
    let pooled = LagNorms::pool(&[&same, &opposite]).unwrap();
    assert_eq!(pooled.debiased_squares(), Some([0.0, 1.0].as_slice()));
    let back: LagNorms = serde_json::from_str(&serde_json::to_string(&pooled).unwrap()).unwrap();
    assert_eq!(back, pooled);

    let bare = LagNorms::new(vec![vec![1.0, 1.0]]).unwrap();
    assert_eq!(with(bare, 1.0), Err(EstimateError::MeanSumsMissing));
    let one = with(norms(vec![1.0], 1.0), 1.0);
    assert_eq!(
        one,
        Err(EstimateError::TooFewSequences { needed: 2, got: 1 })
    );
    for square in [-1.0, f64::NAN, f64::INFINITY] {
        let refused = with(norms(vec![1.0, 1.0], 1.0), square);
        assert!(matches!(
            refused,
            Err(EstimateError::NotASize { kept: 1, .. })
        ));
    }
    let huge = with(norms(vec![1.0, 1.0], 1e300), 1.0);
    assert!(matches!(huge, Err(EstimateError::NotASize { kept: 1, .. })));
}

#[test]
fn pooling_joins_sequences_and_averages_sizes() {
    let a = LagNorms::new(vec![vec![1.0], vec![2.0]])
        .unwrap()
        .with_mean_sum_norms(vec![0.0, 1.0, 3.0])
        .unwrap();
    let b = LagNorms::new(vec![vec![5.0], vec![6.0]])
        .unwrap()
        .with_mean_sum_norms(vec![0.0, 3.0, 5.0])
        .unwrap();
    let pooled = LagNorms::pool(&[&a, &b]).unwrap();
    assert_eq!(pooled.row(1), [2.0, 6.0]);
    assert_eq!(pooled.mean_sum_norms(), Some([0.0, 2.0, 4.0].as_slice()));
    let c = LagNorms::new(vec![vec![1.0]]).unwrap();
    assert_eq!(
        LagNorms::pool(&[&a, &c]).unwrap_err(),
        EstimateError::UnequalWindows { first: 2, other: 1 }
    );
}
