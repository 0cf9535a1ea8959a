//! The softmax loss.

use super::*;

/// Loss and gradients of the softmax, several blocks of rows: relative to the largest value of each tensor.
#[test]
fn softmax_loss_equals_the_reference() {
    fn check<B: RecurrentKernels>(
        rows: usize,
        features: usize,
        classes: usize,
        dtype: DType,
        tolerance: f64,
    ) {
        let device = Default::default();
        for flags in 0..32u8 {
            let flag = |bit: u8| flags >> bit & 1 == 1;
            let needs = NllNeedsGrad {
                hidden: flag(0),
                weight: flag(1),
                bias: flag(2) && flag(3),
            };
            let targets: Vec<i64> = (0..rows as i64)
                .map(|r| (r * 7 + 3) % classes as i64)
                .collect();
            let args = || NllArguments::<B> {
                hidden: float::<B>(noise(1, rows * features), &[rows, features], dtype),
                weight: float::<B>(noise(2, classes * features), &[classes, features], dtype),
                bias: flag(3)
                    .then(|| float::<B>(noise(3, classes), &[classes], dtype))
                    .into(),
                targets: B::int_from_data(TensorData::new(targets.clone(), [rows]), &device),
                row_weights: flag(4)
                    .then(|| float::<B>(noise(4, rows), &[rows], dtype))
                    .into(),
            };
            let got = B::linear_nll_forward(args(), needs);
            let expected =
                reference::nll::linear_nll::<B>(args(), needs, reference::nll::softmax_block);
            let pairs = [
                (Some(got.loss), Some(expected.loss)),
                (Some(got.rows), Some(expected.rows)),
                (got.hidden, expected.hidden),
                (got.weight, expected.weight),
                (got.bias, expected.bias),
            ];
            for (got, expected) in pairs {
                assert_eq!(got.is_some(), expected.is_some());
                let (Some(got), Some(expected)) = (got, expected) else {
                    continue;
                };
                let (got, expected) = (values::<B>(got), values::<B>(expected));
                assert_eq!(got.len(), expected.len());
                let size = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
                for (a, b) in got.iter().zip(&expected) {
                    assert!(
                        (a - b).abs() <= tolerance * size,
                        "{a:e}, reference {b:e}, of {size:e}"
                    );
                }
            }
        }
    }
    // Few rows have a kernel of their own: up to 512, in blocks of 128 and groups of at most 12, over pieces of 1,024 classes.
    let few = [
        (1, 1, 1),
        (5, 3, 2),
        (12, 33, 70),
        (13, 200, 1025),
        (64, 17, 2050),
        (129, 40, 1030),
        (512, 3, 40),
    ];
    for (rows, features, classes) in few.into_iter().chain([(513, 20, 101), (530, 9, 1000)]) {
        check::<Flex>(rows, features, classes, DType::F32, 1e-5);
        check::<Flex>(rows, features, classes, DType::F64, 1e-12);
        #[cfg(feature = "ndarray")]
        check::<NdArray>(rows, features, classes, DType::F64, 1e-12);
    }
}

/// What the backward pass makes of the gradient at the logits, a factor on it, is the weight's gradient of the reference.
#[test]
fn the_weight_gradient_of_few_rows_follows_from_that_at_the_logits() {
    fn check<B: RecurrentKernels>(dtype: DType, tolerance: f64) {
        let device = Default::default();
        for (rows, features, classes) in [(1, 5, 40), (10, 33, 1500), (130, 16, 65), (513, 16, 70)]
        {
            let targets: Vec<i64> = (0..rows as i64).map(|r| r * 7 % classes as i64).collect();
            let hidden = || float::<B>(noise(1, rows * features), &[rows, features], dtype);
            let args = || NllArguments::<B> {
                hidden: hidden(),
                weight: float::<B>(noise(2, classes * features), &[classes, features], dtype),
                bias: Optional::Absent,
                targets: B::int_from_data(TensorData::new(targets.clone(), [rows]), &device),
                row_weights: Optional::Absent,
            };
            let needs = NllNeedsGrad {
                weight: true,
                ..NllNeedsGrad::default()
            };
            let (got, logits) = B::linear_nll_tracked(args(), needs);
            let expected =
                reference::nll::linear_nll::<B>(args(), needs, reference::nll::softmax_block);
            let expected = values::<B>(expected.weight.expect("asked for"));
            let factor = 0.125;
            let got = match logits {
                None => values::<B>(got.weight.expect("no gradient at the logits"))
                    .iter()
                    .map(|value| factor * value)
                    .collect(),
                Some(logits) => {
                    assert!(rows <= 512 && got.weight.is_none());
                    let factor = float::<B>(vec![factor], &[1], dtype);
                    let by_kernel =
                        B::linear_nll_weight_gradient(logits.clone(), hidden(), factor.clone());
                    let plain = reference::nll::weight_gradient::<B>(logits, hidden(), factor);
                    let (by_kernel, plain) = (values::<B>(by_kernel), values::<B>(plain));
                    for (a, b) in by_kernel.iter().zip(&plain) {
                        assert!((a - b).abs() <= tolerance, "{a:e}, reference {b:e}");
                    }
                    by_kernel
                }
            };
            assert_eq!(got.len(), expected.len());
            for (a, b) in got.iter().zip(&expected) {
                let b = factor * b;
                assert!((a - b).abs() <= tolerance, "{a:e}, reference {b:e}");
            }
        }
    }
    check::<Flex>(DType::F32, 1e-5);
    check::<Flex>(DType::F64, 1e-12);
    #[cfg(feature = "ndarray")]
    check::<NdArray>(DType::F64, 1e-12);
}

/// Logits that are not finite are seen in the loss and in the gradient of their row, and in no other row. Classes ruled out
/// by a bias of −∞ are no such thing, even a whole block of them.
#[test]
fn few_rows_tell_of_values_that_are_not_finite() {
    let (rows, features, classes) = (3, 4, 100);
    let run = |spoil: f32, bias: f32| {
        let mut hidden: Vec<f32> = (0..rows * features).map(|i| (i as f32).sin()).collect();
        hidden[features] = spoil;
        let weight: Vec<f32> = (0..classes * features).map(|i| (i as f32).cos()).collect();
        let bias: Vec<f32> = (0..classes)
            .map(|c| if c < 64 { bias } else { 0.1 })
            .collect();
        let device = Default::default();
        let args = NllArguments::<Flex> {
            hidden: Flex::float_from_data(TensorData::new(hidden, [rows, features]), &device),
            weight: Flex::float_from_data(TensorData::new(weight, [classes, features]), &device),
            bias: Optional::Given(Flex::float_from_data(
                TensorData::new(bias, [classes]),
                &device,
            )),
            targets: Flex::int_from_data(TensorData::new(vec![70i64, 80, 99], [rows]), &device),
            row_weights: Optional::Absent,
        };
        let needs = NllNeedsGrad {
            hidden: true,
            ..NllNeedsGrad::default()
        };
        let out = Flex::linear_nll_forward(args, needs);
        let hidden = values::<Flex>(out.hidden.expect("asked for"));
        let finite = |row: &[f64]| row.iter().all(|value| value.is_finite());
        let losses = values::<Flex>(out.rows);
        let rows: Vec<bool> = hidden.chunks(features).map(finite).collect();
        (
            losses
                .iter()
                .map(|loss| loss.is_finite())
                .collect::<Vec<_>>(),
            rows,
        )
    };
    for spoil in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let seen = vec![true, false, true];
        assert_eq!(run(spoil, 0.0), (seen.clone(), seen), "{spoil}");
    }
    assert_eq!(run(0.5, f32::NEG_INFINITY), (vec![true; 3], vec![true; 3]));
}

/// Blocks, large products and sums over rows alike, and few rows.
#[test]
fn softmax_loss_bits_do_not_depend_on_the_number_of_threads() {
    for rows in [600, 300, 17] {
        same_bits_on_all_threads(rows);
    }
}

fn same_bits_on_all_threads(rows: usize) {
    let (features, classes) = (64, 3001);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().expect("a thread pool");
        pool.install(|| {
            let targets: Vec<i64> = (0..rows as i64).map(|row| row * 7 % 3001).collect();
            let targets = TensorData::new(targets, [rows]);
            let args = NllArguments::<Flex> {
                hidden: float::<Flex>(noise(1, rows * features), &[rows, features], DType::F32),
                weight: float::<Flex>(
                    noise(2, classes * features),
                    &[classes, features],
                    DType::F32,
                ),
                bias: Optional::Given(float::<Flex>(noise(3, classes), &[classes], DType::F32)),
                targets: Flex::int_from_data(targets, &Default::default()),
                row_weights: Optional::Absent,
            };
            let needs = NllNeedsGrad {
                hidden: true,
                weight: true,
                bias: true,
            };
            let out = Flex::linear_nll_forward(args, needs);
            [Some(out.loss), out.hidden, out.weight, out.bias].map(|part| part.map(values::<Flex>))
        })
    };
    let one = run(1);
    for threads in [2, 3] {
        assert!(one == run(threads), "{threads} threads, {rows} rows");
    }
}
