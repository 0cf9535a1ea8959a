//! The reduction on the device against plain loops, on every backend, in every float type it has.

// Burn deprecates its NdArray backend, which stays supported here.
#![allow(deprecated)]
// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used)]

use atbptt_core::device::{lag_norms, variance_weights};
use atbptt_core::{BiasEstimator, EstimateError, GradientSize, LagGradients, LagNorms};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Every CPU backend, and the GPU where there is one (software devices count).
fn devices() -> Vec<(&'static str, Device)> {
    #[allow(unused_mut)] // Flex may be the only one.
    let mut all = vec![("flex", Device::flex())];
    #[cfg(feature = "ndarray")]
    all.push(("ndarray", Device::ndarray()));
    #[cfg(feature = "wgpu")]
    match Device::enumerate(burn::tensor::DeviceType::Wgpu).is_empty() {
        false => all.push((
            "wgpu",
            Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        )),
        true => println!(
            "skipped on wgpu: no adapter; install a Vulkan driver, such as mesa-vulkan-drivers"
        ),
    }
    #[cfg(feature = "cuda")]
    match Device::enumerate(burn::tensor::DeviceType::Cuda).is_empty() {
        false => all.push(("cuda", Device::cuda(0))),
        true => println!("skipped on cuda: no device"),
    }
    all
}

/// Gradients `[lag][batch][features]` that shrink with the lag and change sign.
fn gradients(lags: usize, batch: usize, features: usize, seed: usize) -> Vec<Vec<Vec<f64>>> {
    let value = |k: usize, b: usize, i: usize| {
        let x =
            (((k * 31 + b * 17 + i * 7 + seed * 13) * 2_654_435_761) % 1000) as f64 / 500.0 - 1.0;
        x * 0.7f64.powi(k as i32)
    };
    (0..lags)
        .map(|k| {
            (0..batch)
                .map(|b| (0..features).map(|i| value(k, b, i)).collect())
                .collect()
        })
        .collect()
}

/// Gradients `[lag][batch][features]` as a window's tensors have them: the earliest step, and so the largest lag, first.
fn tensor(values: &[Vec<Vec<f64>>], dtype: DType, device: &Device) -> Tensor<3> {
    let shape = [values.len(), values[0].len(), values[0][0].len()];
    let steps = values.iter().rev();
    let flat: Vec<f64> = steps.flatten().flatten().copied().collect();
    Tensor::from_data(
        TensorData::new(flat, shape).convert_dtype(dtype),
        (device, dtype),
    )
}

fn vector(values: &[f64], dtype: DType, device: &Device) -> Tensor<1> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype),
        (device, dtype),
    )
}

fn read(tensor: Tensor<2>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter::<f64>().collect()
}

/// `[lag][1 + 2 · batch]` by loops.
fn by_loops(g: &[Vec<Vec<f64>>], weights: &[f64]) -> Vec<f64> {
    let norm = |x: &[f64]| {
        x.iter()
            .zip(weights)
            .map(|(x, w)| w * x * x)
            .sum::<f64>()
            .sqrt()
    };
    let batch = g[0].len();
    let mut sum = vec![0.0; weights.len()];
    let mut sums = vec![sum.clone(); batch];
    let mut out = Vec::new();
    for lag in g {
        out.extend(lag.iter().map(|row| norm(row)));
        for (row, own) in lag.iter().zip(&mut sums) {
            let terms = row.iter().zip(sum.iter_mut().zip(own));
            terms.for_each(|(x, (s, own))| {
                *s += x / batch as f64;
                *own += x;
            });
        }
        out.push(norm(&sum));
        out.extend(sums.iter().map(|own| norm(own)));
    }
    out
}

fn assert_close(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let scale = expected.abs().max(1e-300);
        assert!(
            (got - expected).abs() <= tolerance * scale,
            "{what}, {i}: got {got}, expected {expected}"
        );
    }
}

/// Tolerances: a few rounding errors of the type per sum of at most 33 · 9 terms; half types round their inputs.
const DTYPES: [(DType, f64); 3] = [(DType::F64, 1e-13), (DType::F32, 1e-5), (DType::F16, 2e-2)];

#[test]
fn norms_agree_with_loops_on_every_backend_and_type() {
    let g = gradients(9, 4, 33, 1);
    let weights: Vec<f64> = (0..33).map(|i| 0.1 + i as f64 / 8.0).collect();
    for (name, device) in devices() {
        for (dtype, tolerance) in DTYPES {
            // Burn's NdArray backend has no half type, GPUs have no f64, and not all have halves.
            let here = match name {
                "ndarray" => dtype != DType::F16,
                "wgpu" => dtype != DType::F64 && device.supports_dtype(dtype),
                _ => true,
            };
            if !here {
                println!("skipped: {name} has no {dtype:?}");
                continue;
            }
            for device in [device.clone(), device.clone().autodiff()] {
                let what = format!("{name} {dtype:?}");
                let plain = by_loops(&g, &vec![1.0; 33]);
                let got = read(lag_norms(tensor(&g, dtype, &device), None).unwrap());
                assert_close(&got, &plain, tolerance, &what);
                let w = Some(vector(&weights, dtype, &device));
                let got = read(lag_norms(tensor(&g, dtype, &device), w).unwrap());
                assert_close(
                    &got,
                    &by_loops(&g, &weights),
                    tolerance,
                    &format!("{what}, weighted"),
                );
            }
        }
    }
}

/// Squares of 1e-25 vanish in f32, squares of 1e25 overflow: scaling by row keeps both.
#[test]
fn tiny_huge_and_zero_rows_keep_their_norms_in_f32() {
    let g: Vec<Vec<Vec<f64>>> = [1e25, 1e-25, 0.0]
        .iter()
        .map(|s| vec![vec![3.0 * s, 4.0 * s]])
        .collect();
    for (name, device) in devices() {
        let g = tensor(&g, DType::F32, &device);
        let got = read(lag_norms(g, None).unwrap());
        assert_close(&[got[0], got[3], got[6]], &[5e25, 5e-25, 0.0], 1e-6, name);
    }
}

/// Two parts (hidden, cell) of different sizes and a lag-0 gradient: norms, breakdown and G(j) from loops.
#[test]
fn a_probe_is_read_back_with_parts_and_cumulative_sizes() {
    let (window, batch) = (6, 3);
    let output = gradients(1, batch, 5, 2);
    let parts = [
        gradients(window, batch, 5, 3),
        gradients(window, batch, 8, 4),
    ];
    let plain: Vec<Vec<f64>> = parts
        .iter()
        .map(|g| by_loops(g, &vec![1.0; g[0][0].len()]))
        .collect();
    let first = by_loops(&output, &[1.0; 5]);
    let columns = 1 + 2 * batch;
    for (name, device) in devices() {
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5)] {
            if dtype == DType::F64 && name == "wgpu" {
                continue;
            }
            let what = format!("{name} {dtype:?}");
            let lag0 = tensor(&output, dtype, &device).reshape([batch, 5]);
            let mut collected = LagGradients::new(lag0, None).unwrap();
            for g in &parts {
                collected = collected.part(tensor(g, dtype, &device), None).unwrap();
            }
            let norms = collected.read().unwrap();
            assert_eq!(
                (norms.lags(), norms.sequences(), norms.parts()),
                (window + 1, batch, 2)
            );
            assert_close(norms.row(0), &first[..batch], tolerance, &what);
            let sizes = norms.mean_sum_norms().unwrap();
            assert_eq!(sizes[0], 0.0);
            assert_close(&sizes[1..2], &first[batch..=batch], tolerance, &what);
            // U(j) = (B G² − q)/(B − 1), q the mean square of the sequences' own sums, over all parts and lag 0.
            let square_of = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>() / batch as f64;
            let debiased = norms.debiased_squares().unwrap();
            for lag in 1..=window {
                let own =
                    |p: usize| square_of(&plain[p][(lag - 1) * columns + batch + 1..lag * columns]);
                let q = square_of(&first[batch + 1..]) + own(0) + own(1);
                let size = sizes[lag + 1];
                let expected = (batch as f64 * size * size - q) / (batch as f64 - 1.0);
                // The difference cancels: rounding is a share of what it is made of.
                let apart = (debiased[lag + 1] - expected).abs();
                assert!(apart <= 10.0 * tolerance * q, "{what}, lag {lag}: {apart}");
            }
            for lag in 1..=window {
                let at = |p: usize, b: usize| plain[p][(lag - 1) * columns + b];
                let total: Vec<f64> = (0..batch).map(|b| at(0, b).hypot(at(1, b))).collect();
                assert_close(norms.row(lag), &total, tolerance, &what);
                let cell: Vec<f64> = (0..batch).map(|b| at(1, b)).collect();
                assert_close(norms.part(1).unwrap().row(lag), &cell, tolerance, &what);
                let size =
                    (first[batch].powi(2) + at(0, batch).powi(2) + at(1, batch).powi(2)).sqrt();
                assert_close(&sizes[lag + 1..lag + 2], &[size], tolerance, &what);
            }
            let cautious = BiasEstimator::new().with_gradient_size(GradientSize::NormOfMeanSum);
            assert!(cautious.estimate(&norms).is_ok());
        }
    }
}

/// A coordinate in another unit: the states are multiplied, the gradients divided by it. Weighted by the variance of the
/// states the norms stay what they are; weighted by its inverse they change by orders of magnitude.
#[test]
fn variance_weights_make_norms_independent_of_units() {
    let (states, grads) = (gradients(6, 4, 5, 7), gradients(6, 4, 5, 8));
    let units = [1.0, 1e-2, 1e3, 7.0, 0.5];
    let scaled = |values: &[Vec<Vec<f64>>], power: i32| -> Vec<Vec<Vec<f64>>> {
        let row = |row: &Vec<f64>| {
            row.iter()
                .zip(units)
                .map(|(x, u)| x * f64::powi(u, power))
                .collect()
        };
        values
            .iter()
            .map(|lag| lag.iter().map(row).collect())
            .collect()
    };
    let (other_states, other_grads) = (scaled(&states, 1), scaled(&grads, -1));
    for (name, device) in devices() {
        let device = device.autodiff();
        let norms = |states: &[Vec<Vec<f64>>], grads: &[Vec<Vec<f64>>], inverse: bool| {
            let weights = variance_weights(tensor(states, DType::F32, &device)).unwrap();
            let weights = if inverse { weights.recip() } else { weights };
            let grads = tensor(grads, DType::F32, &device);
            read(lag_norms(grads, Some(weights)).unwrap())
        };
        let plain = norms(&states, &grads, false);
        assert_close(
            &norms(&other_states, &other_grads, false),
            &plain,
            1e-5,
            name,
        );
        let (inverse, other) = (
            norms(&states, &grads, true),
            norms(&other_states, &other_grads, true),
        );
        assert!(other[0] / inverse[0] > 1e2, "{name}");

        // Against loops: the variance of the first coordinate.
        let first: Vec<f64> = states.iter().flatten().map(|row| row[0]).collect();
        let mean = first.iter().sum::<f64>() / first.len() as f64;
        let variance = first.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / first.len() as f64;
        let weights = variance_weights(tensor(&states, DType::F32, &device)).unwrap();
        let got = weights
            .into_data()
            .convert::<f64>()
            .iter::<f64>()
            .next()
            .unwrap();
        assert!(
            (got / variance - 1.0).abs() < 1e-5,
            "{name}: {got} {variance}"
        );
    }
    let none = Tensor::<3>::zeros([0, 2, 3], &Device::flex());
    assert!(matches!(
        variance_weights(none),
        Err(EstimateError::Empty { .. })
    ));
}

#[test]
fn what_does_not_fit_is_refused() {
    devices()
        .iter()
        .for_each(|(name, device)| refused(name, device));
}

fn refused(name: &str, device: &Device) {
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, device);
    let start = || LagGradients::new(Tensor::ones([2, 3], device), None).unwrap();
    assert!(matches!(start().read(), Err(EstimateError::Empty { .. })));
    assert!(matches!(
        start().part(zeros([4, 3, 3]), None),
        Err(EstimateError::Length { .. })
    ));
    let one = start().part(zeros([4, 2, 3]), None).unwrap();
    assert!(matches!(
        one.clone().part(zeros([5, 2, 3]), None),
        Err(EstimateError::Length { .. })
    ));
    let weights = Some(Tensor::ones([2], device));
    assert!(matches!(
        one.clone().part(zeros([4, 2, 3]), weights),
        Err(EstimateError::Length { .. })
    ));
    // A probe that diverged is a typed error, and so an unusable probe.
    for bad in [f32::NAN, f32::INFINITY] {
        let diverged: Result<LagNorms, _> =
            start().part(zeros([4, 2, 3]) + bad, None).unwrap().read();
        assert!(
            matches!(diverged, Err(EstimateError::NotANorm { .. })),
            "{name}: {bad}"
        );
    }
}

#[test]
fn gradients_without_entries_or_with_weights_that_do_not_fit_are_refused() {
    let device = Device::flex();
    for shape in [[0, 2, 3], [4, 0, 3], [4, 2, 0]] {
        let found = lag_norms(Tensor::zeros(shape, &device), None);
        assert!(
            matches!(found, Err(EstimateError::Empty { .. })),
            "{shape:?}"
        );
    }
    assert!(matches!(
        LagGradients::new(Tensor::zeros([0, 3], &device), None),
        Err(EstimateError::Empty { .. })
    ));
    let grads = || Tensor::<3>::ones([4, 2, 3], &device);
    let few = lag_norms(grads(), Some(Tensor::ones([2], &device)));
    assert_eq!(
        few.unwrap_err(),
        EstimateError::Length {
            what: "the feature weights",
            expected: 3,
            got: 2
        }
    );
    #[cfg(feature = "ndarray")]
    {
        let elsewhere = Device::ndarray();
        let weights = Some(Tensor::ones([3], &elsewhere));
        assert!(matches!(
            lag_norms(grads(), weights),
            Err(EstimateError::Device {
                what: "the feature weights",
                ..
            })
        ));
        let output = LagGradients::new(Tensor::ones([2, 3], &device), None).unwrap();
        let part = output.part(Tensor::ones([4, 2, 3], &elsewhere), None);
        assert!(matches!(
            part,
            Err(EstimateError::Device {
                what: "a state part",
                ..
            })
        ));
    }
}

/// Types and tracking may differ: norms are numbers in the end. Three ones have the norm √3.
#[test]
fn parts_of_other_types_and_tracked_weights_are_taken() {
    let device = Device::flex();
    let weights = Tensor::<1>::ones([3], &device.clone().autodiff()).require_grad();
    let single = Tensor::<2>::ones([2, 3], &device);
    let double = Tensor::<3>::ones([4, 2, 3], (&device, DType::F64));
    let norms = LagGradients::new(single, Some(weights))
        .and_then(|norms| norms.part(double, None))
        .and_then(LagGradients::read)
        .unwrap();
    for lag in 0..=4 {
        assert!((norms.row(lag)[0] - 3f64.sqrt()).abs() < 1e-6);
    }
}
