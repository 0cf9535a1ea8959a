//! The gradient of a softmax's weight that is kept as its factors until somebody reads it: norm, clip and step without
//! writing it out, beside the same passes over one that is written.

use super::*;
use atbptt_models::ops::backend::RecurrentOps as _;
use burn::tensor::Slice;

/// Rows, features, classes, and the classes that an embedding adds to.
struct Size(usize, usize, usize, &'static [i64]);

/// Around whole registers, groups of twelve lines and pieces of 1,024 classes; with up to 64 rows a gradient is kept.
const SIZES: [Size; 6] = [
    Size(1, 1, 1, &[0]),
    Size(3, 5, 40, &[39, 0, 39]),
    Size(10, 33, 1500, &[7, 1024, 7, 7, 1499]),
    Size(13, 200, 2049, &[]),
    Size(64, 16, 65, &[1, 2, 3, 64]),
    Size(20, 1030, 30, &[29; 5]),
];

fn int(values: &[i64]) -> burn::backend::tensor::IntTensor<Flex> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Flex::int_from_data(data, &Default::default())
}

/// Gradient at the logits and hidden rows, as of a training step.
fn factors(size: &Size, dtype: DType) -> [FloatTensor<Flex>; 2] {
    let &Size(rows, features, classes, _) = size;
    [
        float::<Flex>(noise(1, rows * classes), &[rows, classes], dtype),
        float::<Flex>(noise(2, rows * features), &[rows, features], dtype),
    ]
}

/// The gradient, with what an embedding adds.
fn gradient(size: &Size, dtype: DType) -> FloatTensor<Flex> {
    let &Size(_, features, classes, added) = size;
    let [logits, hidden] = factors(size, dtype);
    let factor = float::<Flex>(vec![0.125], &[1], dtype);
    let gradient = Flex::linear_nll_weight_gradient(logits, hidden, factor);
    if added.is_empty() {
        return gradient;
    }
    let rows = float::<Flex>(
        noise(3, added.len() * features),
        &[added.len(), features],
        dtype,
    );
    Flex::embedding_rows_backward(Some(gradient), classes, int(added), rows)
}

/// The same numbers in memory of their own.
fn written(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    let (shape, dtype) = (tensor.layout().shape().to_vec(), tensor.dtype());
    float::<Flex>(values::<Flex>(tensor), &shape, dtype)
}

fn is_written(tensor: &FloatTensor<Flex>) -> bool {
    let read = burn_std::Reader::new().no_copy();
    tensor.data_arc().read(read).is_ok()
}

#[test]
fn a_gradient_kept_as_factors_reads_as_the_reference() {
    for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::F64, 1e-12)] {
        for size in &SIZES {
            let &Size(_, features, classes, added) = size;
            let [logits, hidden] = factors(size, dtype);
            let factor = float::<Flex>(vec![0.125], &[1], dtype);
            let mut expected = values::<Flex>(reference::nll::weight_gradient::<Flex>(
                logits, hidden, factor,
            ));
            let rows = noise(3, added.len() * features);
            for (&class, row) in added.iter().zip(rows.chunks(features)) {
                let sum = &mut expected[class as usize * features..][..features];
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            let kept = gradient(size, dtype);
            assert!(!is_written(&kept), "{classes} classes");
            let held = kept.clone();
            for scale in [1.0, -0.3] {
                let scaled = Flex::scale(kept.clone(), scale);
                assert!(!is_written(&scaled));
                let got = values::<Flex>(scaled);
                assert_eq!(got.len(), expected.len());
                for (got, expected) in got.iter().zip(&expected) {
                    assert!(
                        (got - scale * expected).abs() <= tolerance,
                        "{classes} classes"
                    );
                }
            }
            // Whoever holds the gradient keeps it as it was, through a step and after it.
            assert!(!is_written(&held));
            let before = values::<Flex>(held.clone());
            assert!(is_written(&held));
            Flex::sgd_step(held.clone(), held.clone(), 0.1, 0.0);
            assert_eq!(values::<Flex>(held), before);
        }
    }
}

/// A step has the same bits as the step of a gradient that is written out, clipped or not.
#[test]
fn norm_clip_and_step_are_those_of_the_written_gradient() {
    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-13)] {
        for size in &SIZES {
            let &Size(_, features, classes, _) = size;
            let weight =
                || float::<Flex>(noise(4, classes * features), &[classes, features], dtype);
            for scale in [None, Some(0.7)] {
                let scaled = |gradient| match scale {
                    Some(scale) => Flex::scale(gradient, scale),
                    None => gradient,
                };
                let kept = scaled(gradient(size, dtype));
                let plain = scaled(written(gradient(size, dtype)));
                assert!(!is_written(&kept) && is_written(&plain));
                assert_eq!(
                    values::<Flex>(kept.clone()),
                    values::<Flex>(plain.clone()),
                    "{classes} classes"
                );
                let kept = scaled(gradient(size, dtype));
                let [got, expected] = [kept.clone(), plain.clone()]
                    .map(|gradient| values::<Flex>(Flex::sum_of_squares(gradient))[0]);
                assert!(
                    (got - expected).abs() <= tolerance * expected,
                    "{classes} classes: {got} and {expected}"
                );
                for decay in [0.0, 1e-3] {
                    let [got, expected] = [kept.clone(), plain.clone()].map(|gradient| {
                        values::<Flex>(Flex::sgd_step(weight(), gradient, 0.5, decay))
                    });
                    assert!(got == expected, "{classes} classes, decay {decay}");
                }
                assert!(!is_written(&kept), "nobody read it");
            }
        }
    }
}

/// Rows of opposite sign: the products of rows with rows cancel each other, and the norm is that of the elements.
#[test]
fn a_norm_that_loses_its_digits_is_taken_of_the_elements() {
    let (features, classes) = (40, 300);
    let mut hidden = noise(1, features);
    hidden.extend(hidden.clone());
    let mut logits = noise(2, classes);
    // The second row takes back all but a ten-thousandth.
    logits.extend(logits.clone().iter().map(|d| -0.9999 * d));
    let [logits, hidden] = [(logits, classes), (hidden, features)]
        .map(|(data, width)| float::<Flex>(data, &[2, width], DType::F32));
    let factor = float::<Flex>(vec![1.0], &[1], DType::F32);
    let kept = Flex::linear_nll_weight_gradient(logits, hidden, factor);
    assert!(!is_written(&kept));
    let got = values::<Flex>(Flex::sum_of_squares(kept.clone()))[0];
    let expected: f64 = values::<Flex>(kept).iter().map(|x| x * x).sum();
    assert!(expected > 0.0);
    assert!(
        (got - expected).abs() <= 1e-5 * expected,
        "{got} and {expected}"
    );
    // Of zeros it is zero.
    let zero = |width| float::<Flex>(vec![0.0; 2 * width], &[2, width], DType::F32);
    let factor = float::<Flex>(vec![1.0], &[1], DType::F32);
    let kept = Flex::linear_nll_weight_gradient(zero(classes), zero(features), factor);
    assert_eq!(values::<Flex>(Flex::sum_of_squares(kept)), [0.0]);
}

#[test]
fn norm_and_step_of_factors_have_the_same_bits_on_any_number_of_threads() {
    let size = Size(30, 64, 5000, &[3, 4999, 3]);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().expect("a thread pool");
        pool.install(|| {
            let kept = gradient(&size, DType::F32);
            let weight = float::<Flex>(noise(4, 5000 * 64), &[5000, 64], DType::F32);
            let norm = values::<Flex>(Flex::sum_of_squares(kept.clone()));
            let moved = values::<Flex>(Flex::sgd_step(weight, kept.clone(), 0.5, 1e-3));
            assert!(!is_written(&kept));
            (norm, moved, values::<Flex>(kept))
        })
    };
    let one = run(1);
    for threads in [2, 3] {
        assert!(one == run(threads), "{threads} threads");
    }
}

/// Operations that know nothing of factors read numbers: sums, views, changes in place.
#[test]
fn everybody_else_reads_and_changes_numbers() {
    let size = &SIZES[2];
    let plain = || written(gradient(size, DType::F32));
    let kept = || {
        let kept = gradient(size, DType::F32);
        assert!(!is_written(&kept));
        kept
    };
    type Act = fn(FloatTensor<Flex>) -> FloatTensor<Flex>;
    let part: Act = |x| Flex::float_slice(x, &[2..9, 3..30].map(Slice::from));
    let acts: [Act; 7] = [
        |x| Flex::float_add(x.clone(), x),
        |x| Flex::float_mul_scalar(x, 3.0.into()),
        Flex::float_transpose,
        part,
        |x| {
            Flex::sgd_step(
                Flex::float_transpose(x.clone()),
                Flex::float_transpose(x),
                0.1,
                0.1,
            )
        },
        |x| Flex::scale(Flex::scale(x, 0.3), 0.7),
        |x| {
            let rows = float::<Flex>(noise(9, 33), &[1, 33], DType::F32);
            Flex::embedding_rows_backward(Some(x), 1500, int(&[7]), rows)
        },
    ];
    for (index, act) in acts.into_iter().enumerate() {
        let (got, expected) = (values::<Flex>(act(kept())), values::<Flex>(act(plain())));
        assert!(got == expected, "operation {index}");
    }
    let [got, expected] =
        [kept(), plain()].map(|x| values::<Flex>(Flex::sum_of_squares(part(x)))[0]);
    assert_eq!(got, expected);
}

/// A value that is not finite in a factor shows in the norm and after the step.
#[test]
fn factors_that_are_not_finite_stay_visible() {
    for spoil in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for which in [0, 1] {
            let mut data = [noise(1, 3 * 40), noise(2, 3 * 5)];
            data[which][4] = spoil;
            let [logits, hidden] = data;
            let kept = Flex::linear_nll_weight_gradient(
                float::<Flex>(logits, &[3, 40], DType::F32),
                float::<Flex>(hidden, &[3, 5], DType::F32),
                float::<Flex>(vec![1.0], &[1], DType::F32),
            );
            assert!(!is_written(&kept));
            assert!(!values::<Flex>(Flex::sum_of_squares(kept.clone()))[0].is_finite());
            let weight = float::<Flex>(noise(4, 200), &[40, 5], DType::F32);
            let moved = values::<Flex>(Flex::sgd_step(weight, kept, 0.1, 0.0));
            assert!(moved.iter().any(|value| !value.is_finite()));
        }
    }
}
