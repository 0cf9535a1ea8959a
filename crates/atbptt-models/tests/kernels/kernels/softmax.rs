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
    for (rows, features, classes) in [(1, 1, 1), (5, 3, 2), (67, 20, 101), (130, 9, 1000)] {
        check::<Flex>(rows, features, classes, DType::F32, 1e-5);
        check::<Flex>(rows, features, classes, DType::F64, 1e-12);
        #[cfg(feature = "ndarray")]
        check::<NdArray>(rows, features, classes, DType::F64, 1e-12);
    }
}

/// Blocks, large products and sums over rows alike.
#[test]
fn softmax_loss_bits_do_not_depend_on_the_number_of_threads() {
    let (rows, features, classes) = (300, 64, 3001);
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
        assert!(one == run(threads), "{threads} threads");
    }
}
