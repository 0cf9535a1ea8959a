//! What surrounds the recurrent layers in a step: the CPU kernels against Burn's compositions, their gradients, and the
//! statistics of dropout. The generator is one per process, so tests that draw take turns.

#![allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use atbptt_models::ops;
use atbptt_models::ops::backend::{DropoutMask, RecurrentKernels as _, RecurrentOps};
use atbptt_models::ops::internals::reference::step as reference;
#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::ops::{FloatTensorOps as _, IntTensorOps as _};
use burn::backend::{Backend, Flex, tensor::FloatTensor};
use burn::nn::DropoutConfig;
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use common::{assert_close, devices, noise, values as numbers};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn float<B: Backend>(seed: u64, dims: &[usize], dtype: DType) -> FloatTensor<B> {
    let data = TensorData::new(noise(seed, dims.iter().product()), dims.to_vec());
    B::float_from_data(data.convert_dtype(dtype), &Default::default())
}

fn values<B: Backend>(tensor: FloatTensor<B>) -> Vec<f64> {
    let data = burn::tensor::read_sync(B::float_into_data(tensor)).expect("CPU tensors are read");
    data.iter::<f64>().collect()
}

/// Sizes below and above those from which several threads work; tolerances: one rounding, and for sums √n of them.
fn equal_the_compositions<B: RecurrentOps>(dtype: DType, int: DType, exact: f64) {
    let int = |values: Vec<i64>| {
        let count = values.len();
        let values = TensorData::new(values, [count]).convert_dtype(int);
        B::int_from_data(values, &Default::default())
    };
    for (rows, features) in [(1, 1), (7, 5), (700, 301)] {
        let x = || float::<B>(1, &[rows, features], dtype);
        let y = || float::<B>(2, &[rows, features], dtype);
        let close = |what: &str, got: FloatTensor<B>, expected: FloatTensor<B>| {
            assert_close(what, &values::<B>(got), &values::<B>(expected), exact);
        };
        close(
            "scale",
            B::scale(x(), -0.3),
            reference::scale::<B>(x(), -0.3),
        );
        let factor = || float::<B>(3, &[1], dtype);
        close(
            "scale by",
            B::scale_by(x(), factor()),
            reference::scale_by::<B>(x(), factor()),
        );
        for decay in [0.0, 1e-3] {
            close(
                "update",
                B::sgd_step(x(), y(), 0.5, decay),
                reference::sgd_step::<B>(x(), y(), 0.5, decay),
            );
        }
        let [got, expected] =
            [B::sum_of_squares(x()), reference::sum_of_squares::<B>(x())].map(values::<B>);
        let relative = (got[0] - expected[0]).abs() / expected[0];
        assert!(
            relative <= 100.0 * exact,
            "sum of squares: off by {relative:e}"
        );

        let tokens: Vec<i64> = (0..2 * rows as i64).map(|n| n * n % rows as i64).collect();
        let count = tokens.len();
        close(
            "embedding",
            B::embedding_rows_forward(x(), int(tokens.clone())),
            reference::embedding_rows_forward::<B>(x(), int(tokens.clone())),
        );
        for into in [false, true] {
            let into = || into.then(y);
            let grad = || float::<B>(4, &[count, features], dtype);
            close(
                "embedding gradient",
                B::embedding_rows_backward(into(), rows, int(tokens.clone()), grad()),
                reference::embedding_rows_backward::<B>(into(), rows, int(tokens.clone()), grad()),
            );
        }

        let states = || float::<B>(5, &[rows, 2, 2 * features], dtype);
        close(
            "first features",
            B::first_features_forward(states(), features),
            reference::first_features_forward::<B>(states(), features),
        );
        let grad = || float::<B>(6, &[rows, 2, features], dtype);
        close(
            "their gradient",
            B::first_features_backward(grad(), 2 * features),
            reference::first_features_backward::<B>(grad(), 2 * features),
        );
    }
}

#[test]
fn kernels_equal_the_compositions() {
    equal_the_compositions::<Flex>(DType::F32, DType::I64, 1e-6);
    equal_the_compositions::<Flex>(DType::F64, DType::I64, 1e-14);
    #[cfg(feature = "ndarray")]
    {
        equal_the_compositions::<NdArray>(DType::F32, DType::I64, 1e-6);
        equal_the_compositions::<NdArray>(DType::F64, DType::I64, 1e-14);
    }
}

/// As on the CPU, in f32: one rounding, and for sums √n of them.
#[test]
#[cfg(feature = "cube")]
fn gpu_kernels_equal_the_compositions() {
    if common::gpu().is_some() {
        equal_the_compositions::<burn::backend::Cube>(DType::F32, DType::I32, 1e-6);
    }
}

/// Somebody else who holds a tensor keeps its values, although the kernels write into memory that is theirs alone.
#[test]
fn shared_tensors_are_not_changed() {
    let held = float::<Flex>(1, &[40, 30], DType::F32);
    let before = values::<Flex>(held.clone());
    let tokens = Flex::int_from_data(TensorData::new(vec![1i64], [1]), &Default::default());
    Flex::scale(held.clone(), 3.0);
    Flex::sgd_step(held.clone(), held.clone(), 0.1, 0.0);
    Flex::embedding_rows_backward(
        Some(held.clone()),
        40,
        tokens,
        float::<Flex>(2, &[1, 30], DType::F32),
    );
    assert_eq!(values::<Flex>(held), before);
}

/// Views: a transposed matrix, a part of one, and a row broadcast over all.
#[test]
fn views_are_read_right() {
    let x = || float::<Flex>(1, &[30, 40], DType::F32);
    let transposed = || Flex::float_transpose(x());
    let part = || {
        let ranges = [3..20, 5..38].map(burn::tensor::Slice::from);
        Flex::float_slice(x(), &ranges)
    };
    let broadcast = || Flex::float_expand(float::<Flex>(2, &[1, 40], DType::F32), [30, 40].into());
    let views: [&dyn Fn() -> FloatTensor<Flex>; 3] = [&transposed, &part, &broadcast];
    for view in views {
        let got = [
            Flex::scale(view(), 0.7),
            Flex::sum_of_squares(view()),
            Flex::sgd_step(view(), view(), 0.1, 0.01),
        ];
        let expected = [
            reference::scale::<Flex>(view(), 0.7),
            reference::sum_of_squares::<Flex>(view()),
            reference::sgd_step::<Flex>(view(), view(), 0.1, 0.01),
        ];
        for (got, expected) in got.into_iter().zip(expected) {
            let (got, expected) = (values::<Flex>(got), values::<Flex>(expected));
            let size = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
            assert_close("a view", &got, &expected, 1e-6 * size);
        }
    }
}

/// A model with a non-finite weight must say so: NaN and infinity pass through every pass over it.
#[test]
fn special_values_stay_visible() {
    let with = |value: f32| {
        let data = TensorData::new(vec![1.0, value, -2.0], [3]);
        Flex::float_from_data(data, &Default::default())
    };
    let ones = || Flex::float_from_data(TensorData::new(vec![1f32; 3], [3]), &Default::default());
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(!values::<Flex>(Flex::sum_of_squares(with(value)))[0].is_finite());
        assert!(!values::<Flex>(Flex::scale(with(value), 0.5))[1].is_finite());
        for moved in [
            Flex::sgd_step(with(value), ones(), 0.1, 0.0),
            Flex::sgd_step(ones(), with(value), 0.1, 0.0),
        ] {
            let moved = values::<Flex>(moved);
            assert!(!moved[1].is_finite() && moved[0].is_finite() && moved[2].is_finite());
        }
        let (dropped, _) = Flex::dropout_forward(with(value), 0.999);
        assert!(!values::<Flex>(dropped)[1].is_finite());
    }
}

/// Kept with probability 1 − p, scaled so that the mean stays, and the same elements backward. 600,000 draws: within five
/// standard errors.
#[test]
fn dropout_keeps_the_promised_share() {
    let _turn = turn();
    fn check<B: RecurrentOps>(dtype: DType) {
        let count = 600_000;
        for prob in [0.1, 0.5, 0.8] {
            B::seed(&Default::default(), 5);
            let data = TensorData::new(vec![1f64; count], [3, count / 3]).convert_dtype(dtype);
            let ones = B::float_from_data(data, &Default::default());
            let (out, mask) = B::dropout_forward(ones.clone(), prob);
            let out = values::<B>(out);
            let kept = 1.0 / (1.0 - prob);
            assert!(out.iter().all(|&x| x == 0.0 || (x - kept).abs() < 1e-6));
            let share = out.iter().filter(|&&x| x > 0.0).count() as f64 / count as f64;
            let error = 5.0 * (prob * (1.0 - prob) / count as f64).sqrt();
            assert!(
                (share - (1.0 - prob)).abs() < error,
                "{share} kept of {prob}"
            );
            // Neighbours are independent: so many pairs are both kept.
            let pairs = out.windows(2).filter(|pair| pair[0] > 0.0 && pair[1] > 0.0);
            let pairs = pairs.count() as f64 / (count - 1) as f64;
            assert!((pairs - (1.0 - prob).powi(2)).abs() < 2.0 * error);
            assert_eq!(values::<B>(B::dropout_backward(ones, mask, prob)), out);
        }
    }
    check::<Flex>(DType::F32);
    check::<Flex>(DType::F64);
    #[cfg(feature = "ndarray")]
    check::<NdArray>(DType::F32);
}

/// A mask is fixed by the device's seed, whatever the number of threads; every call draws a new one.
#[test]
fn dropout_is_fixed_by_the_seed_alone() {
    let _turn = turn();
    let draw = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| {
            Flex::seed(&Default::default(), 11);
            let x = || float::<Flex>(1, &[500, 400], DType::F32);
            [(); 2].map(|()| values::<Flex>(Flex::dropout_forward(x(), 0.3).0))
        })
    };
    let [first, second] = draw(1);
    assert_ne!(first, second);
    for threads in [2, 3, 8] {
        assert_eq!(draw(threads), [first.clone(), second.clone()]);
    }
}

/// A mask made of a tensor, as on other backends, works with the CPU kernels as well.
#[test]
fn a_mask_tensor_is_applied_backward() {
    let grad = float::<Flex>(1, &[4], DType::F32);
    let mask = TensorData::new(vec![1f32, 0.0, 0.0, 1.0], [4]);
    let mask = DropoutMask::Tensor(Flex::float_from_data(mask, &Default::default()));
    let g = values::<Flex>(grad.clone());
    let got = values::<Flex>(Flex::dropout_backward(grad, mask, 0.5));
    assert_close("masked", &got, &[2.0 * g[0], 0.0, 0.0, 2.0 * g[3]], 1e-6);
}

/// A tied weight gets the gradients of both of its uses, in whatever order they come.
#[test]
fn the_embedding_adds_to_the_gradient_of_a_tied_weight() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        let tensor = |seed, dims: [usize; 2]| {
            let data = TensorData::new(noise(seed, dims[0] * dims[1]), dims);
            Tensor::<2>::from_data(data, (&device, DType::F64))
        };
        let weight = tensor(1, [6, 4]).require_grad();
        let tokens = Tensor::<2, Int>::from_data([[0, 5, 3], [3, 3, 1]], &device);
        let other = tensor(2, [4, 3]);
        let loss = |rows: Tensor<3>| {
            let tied = weight.clone().matmul(other.clone()).powi_scalar(2).sum();
            rows.powi_scalar(3).sum() + tied
        };
        let ours = loss(ops::embedding(weight.clone(), tokens.clone()).unwrap());
        let burns = weight.clone().select(0, tokens.reshape([6]));
        let burns = loss(burns.reshape([2, 3, 4]));
        assert_close(
            backend,
            &numbers(ours.clone()),
            &numbers(burns.clone()),
            1e-14,
        );
        let grads = [ours, burns].map(|loss| numbers(weight.grad(&loss.backward()).unwrap()));
        assert_close(backend, &grads[0], &grads[1], 1e-13);
    }
}

/// As Burn's own module: on an autodiff device only, and not at probability zero.
#[test]
fn dropout_is_for_training_only() {
    let _turn = turn();
    let device = Device::flex();
    let x = Tensor::<2>::random([20, 30], Distribution::Normal(0.0, 1.0), &device);
    let half = DropoutConfig::new(0.5).init();
    assert_eq!(numbers(ops::dropout(&half, x.clone())), numbers(x.clone()));
    let tracked = Tensor::<2>::from_data(x.clone().into_data(), &device.autodiff()).require_grad();
    let never = DropoutConfig::new(0.0).init();
    assert_eq!(numbers(ops::dropout(&never, tracked.clone())), numbers(x));
    let dropped = ops::dropout(&half, tracked.clone());
    let grad = numbers(tracked.grad(&dropped.clone().sum().backward()).unwrap());
    for (out, grad) in numbers(dropped).into_iter().zip(grad) {
        assert_eq!(grad, if out == 0.0 { 0.0 } else { 2.0 });
    }
}
