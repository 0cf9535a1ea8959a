//! Mixed precision: what a training window in a half type may change, and what it must not.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use crate::common::{
    all_devices, state_values, values, weight_gradients, with_each_time_loop, with_noise,
};
use atbptt_models::{
    LanguageModel, LanguageModelConfig, LstmLayer, Precision, RecurrentModel, RecurrentState,
    TokenBatch, WindowPlan,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor};

const WORDS: usize = 40;
const HIDDEN: usize = 24;

/// Devices that compute in this precision, and a word on those that do not.
fn devices_with(precision: Precision) -> Vec<(&'static str, Device)> {
    let capable = |(name, device): &(&'static str, Device)| {
        let capable = precision.check(device).is_ok();
        if !capable {
            println!("skipped: {name} does not compute in {}", precision.name());
        }
        capable
    };
    all_devices().into_iter().filter(capable).collect()
}

fn model(precision: Precision, device: &Device) -> LanguageModel<LstmLayer> {
    let config = LanguageModelConfig::new(WORDS)
        .with_hidden(HIDDEN)
        .with_dropout(0.0)
        .with_precision(precision);
    with_noise(config.init(device).unwrap(), 3, 0.3, DType::F32)
}

fn batch(steps: usize, device: &Device) -> TokenBatch {
    let ids = |offset: usize| -> Vec<i64> {
        let id = |i: usize| ((i * 7 + offset * 3 + i * i) % WORDS) as i64;
        (0..4 * steps).map(id).collect()
    };
    TokenBatch::from_host(&ids(0), &ids(1), 4, steps, device).unwrap()
}

fn plan(steps: usize) -> WindowPlan {
    WindowPlan {
        warm_up: 0,
        loss_from: steps / 2,
        carry: steps / 2,
    }
}

/// Mean loss per token of a window after another one, all weight gradients, and the state handed on.
fn two_windows(
    model: &LanguageModel<LstmLayer>,
    device: &Device,
) -> (f64, Vec<f64>, Gradients, Vec<f64>) {
    let first = model.window(&batch(12, device), None, plan(12)).unwrap();
    let second = model
        .window(&batch(12, device), first.state, plan(12))
        .unwrap();
    let mean = second.loss.sum / second.loss.count as f64;
    let loss = values(mean.clone())[0];
    let grads = mean.backward();
    let all = weight_gradients(model, &grads);
    (loss, all, grads, state_values(&second.state.unwrap()))
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Relative rounding is 2^−11 in f16 and 2^−8 in bf16; some ten roundings in a row per value.
#[test]
fn losses_and_gradients_are_those_of_f32_within_the_types_rounding() {
    with_each_time_loop(losses_and_gradients_are_near_those_of_f32);
}

fn losses_and_gradients_are_near_those_of_f32() {
    for (precision, tolerance) in [(Precision::F16, 5e-3), (Precision::Bf16, 4e-2)] {
        for (backend, device) in devices_with(precision) {
            let device = device.autodiff();
            let (expected, exact, _, state) = two_windows(&model(Precision::F32, &device), &device);
            let (loss, rounded, _, rounded_state) =
                two_windows(&model(precision, &device), &device);
            let off = (loss - expected).abs() / expected;
            let difference: Vec<f64> = exact.iter().zip(&rounded).map(|(a, b)| a - b).collect();
            let gradient = norm(&difference) / norm(&exact);
            let states: Vec<f64> = state
                .iter()
                .zip(&rounded_state)
                .map(|(a, b)| a - b)
                .collect();
            let states = norm(&states) / norm(&state);
            println!(
                "{backend}, {}: loss off by {off:.1e}, gradient by {gradient:.1e}, state by {states:.1e}",
                precision.name()
            );
            assert!(off < tolerance && gradient < tolerance && states < tolerance);
            assert_ne!(loss, expected, "{backend}: something was rounded");
        }
    }
}

/// Weights and their gradients stay f32, the carried state is of the window's type.
#[test]
fn weights_and_their_gradients_stay_f32() {
    struct Types<'a>(&'a Gradients);
    impl ModuleVisitor for Types<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let weight = param.val();
            assert_eq!(weight.dtype(), DType::F32);
            assert_eq!(weight.grad(self.0).unwrap().dtype(), DType::F32);
        }
    }
    for (precision, dtype) in [(Precision::F16, DType::F16), (Precision::Bf16, DType::BF16)] {
        for (_, device) in devices_with(precision) {
            let device = device.autodiff();
            let model = model(precision, &device);
            let (_, _, grads, _) = two_windows(&model, &device);
            model.visit(&mut Types(&grads));
            let window = model.window(&batch(6, &device), None, plan(6)).unwrap();
            assert_eq!(window.loss.sum.dtype(), DType::F32);
            for part in window.state.unwrap().parts() {
                assert_eq!(part.dtype(), dtype);
            }
        }
    }
}

/// The gradient of a mean over many losses is as small as f16 can hold; scaled up on the way it survives.
#[test]
fn small_gradients_survive_in_f16() {
    for (backend, device) in devices_with(Precision::F16) {
        let device = device.autodiff();
        let gradient = |precision| {
            let model = model(precision, &device);
            let window = model.window(&batch(12, &device), None, plan(12)).unwrap();
            weight_gradients(&model, &(window.loss.sum * 1e-6).backward())
        };
        let (exact, rounded) = (gradient(Precision::F32), gradient(Precision::F16));
        let difference: Vec<f64> = exact.iter().zip(&rounded).map(|(a, b)| a - b).collect();
        let off = norm(&difference) / norm(&exact);
        println!("{backend}: gradients of 1e-6 times the loss off by {off:.1e}");
        assert!(off < 0.1, "{backend}: {off}");
    }
}

/// Probes see f32 alone, and evaluation too: the same bits as without mixed precision.
#[test]
fn probes_and_evaluation_are_exact() {
    for precision in [Precision::F16, Precision::Bf16] {
        for (backend, device) in devices_with(precision) {
            let tracked = device.clone().autodiff();
            let norms = |precision| {
                let model = model(precision, &tracked);
                let gradients = model.state_gradients(&batch(9, &tracked), None).unwrap();
                assert!(
                    gradients
                        .parts
                        .iter()
                        .all(|part| part.dtype() == DType::F32)
                );
                let norms = gradients.lag_norms().unwrap();
                (0..=9)
                    .flat_map(|lag| norms.row(lag).to_vec())
                    .collect::<Vec<f64>>()
            };
            assert_eq!(norms(precision), norms(Precision::F32), "{backend}");
            let loss = |precision| {
                let model = model(precision, &tracked).valid();
                let window = model.window(&batch(8, &device), None, plan(8)).unwrap();
                values(window.loss.sum)
            };
            assert_eq!(loss(precision), loss(Precision::F32), "{backend}");
        }
    }
}

/// Burn's NdArray backend has no half types.
#[test]
#[cfg(feature = "ndarray")]
#[allow(deprecated)]
fn a_device_that_does_not_compute_in_it_is_refused() {
    let config = LanguageModelConfig::new(WORDS).with_precision(Precision::Bf16);
    let error = config.init::<LstmLayer>(&Device::ndarray()).unwrap_err();
    assert!(
        matches!(
            error,
            atbptt_models::ModelError::Config {
                field: "precision",
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("bf16") && text.contains("use f32"), "{text}");
}
