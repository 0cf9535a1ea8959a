//! Every value and gradient of `recurrent_layers.json` (PyTorch, float64), on every backend.
//!
//! f64 (CPU backends): 1e-9, the rounding of another order of sums. f32 (these and wgpu): 1e-4.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on should stop

use crate::common::{
    assert_close, devices_for, golden, numbers, take_largest, tensor, values, with_each_time_loop,
};
use atbptt_models::interop::{TorchCompatible, TorchLayer};
use atbptt_models::{GruLayer, LstmLayer, RecurrentState, RnnLayer, Stack, UnrollOptions};
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use serde_json::Value;

fn layers(case: &Value, device: &Device, dtype: DType) -> Vec<TorchLayer> {
    let params = &case["params"];
    (0..case["layers"].as_u64().unwrap() as usize)
        .map(|index| {
            TorchLayer::by_name(
                index,
                |name| params.get(name).map(|v| tensor::<2>(v, device, dtype)),
                |name| params.get(name).map(|v| tensor::<1>(v, device, dtype)),
            )
            .unwrap()
        })
        .collect()
}

/// `[layer, batch, hidden]` parts of the golden file in the order of `RecurrentState::parts`.
fn golden_parts(case: &Value, names: &[&str], device: &Device, dtype: DType) -> Vec<Tensor<2>> {
    let layers = case["layers"].as_u64().unwrap() as usize;
    (0..layers)
        .flat_map(|layer| names.iter().map(move |name| (layer, *name)))
        .map(|(layer, name)| tensor::<2>(&case[name][layer], device, dtype))
        .collect()
}

fn check<L: TorchCompatible>(
    case: &Value,
    label: &str,
    device: &Device,
    dtype: DType,
    tolerance: f64,
) where
    L::State: RecurrentState,
{
    let lstm = L::PARTS == 2;
    let names: &[&str] = if lstm { &["h0", "c0"] } else { &["h0"] };
    let model = Stack::<L>::from_torch(layers(case, device, dtype), 0.0).unwrap();
    let x = tensor::<3>(&case["x"], device, dtype).require_grad();
    let start: Vec<_> = golden_parts(case, names, device, dtype)
        .into_iter()
        .map(Tensor::require_grad)
        .collect();
    let batch = case["batch"].as_u64().unwrap() as usize;
    let state = |parts: Vec<Tensor<2>>| model.zero_state(batch, device).with_parts(parts);
    let what = |name: &str| format!("{label}: {name}");

    let run = model
        .unroll(
            x.clone(),
            Some(state(start.clone())),
            UnrollOptions::default(),
        )
        .unwrap();
    let last = run.last_state().parts();
    assert_close(
        &what("y"),
        &values(run.output.clone()),
        &numbers(&case["y"]).0,
        tolerance,
    );
    let ends: &[&str] = if lstm {
        &["h_last", "c_last"]
    } else {
        &["h_last"]
    };
    for (part, expected) in last.iter().zip(golden_parts(case, ends, device, dtype)) {
        assert_close(
            &what("last state"),
            &values(part.clone()),
            &values(expected),
            tolerance,
        );
    }

    let weights_y = tensor::<3>(&case["loss_weights_y"], device, dtype);
    let mut loss = (run.output * weights_y.clone()).sum();
    for (i, part) in last.into_iter().enumerate() {
        let (layer, which) = (i / L::PARTS, i % L::PARTS);
        let weight = tensor::<2>(&case["loss_weights_state"][which][layer], device, dtype);
        loss = loss + (part * weight).sum();
    }
    let grads = loss.backward();
    let expected = numbers(&case["grad_x"]).0;
    assert_close(
        &what("grad x"),
        &values(x.grad(&grads).unwrap()),
        &expected,
        tolerance,
    );
    let start_grads: &[&str] = if lstm {
        &["grad_h0", "grad_c0"]
    } else {
        &["grad_h0"]
    };
    for (part, expected) in start
        .iter()
        .zip(golden_parts(case, start_grads, device, dtype))
    {
        let got = values(part.grad(&grads).unwrap());
        assert_close(
            &what("grad of the initial state"),
            &got,
            &values(expected),
            tolerance,
        );
    }
    // A layer that holds gradients in place of weights, so that the export turns them into PyTorch's layout.
    struct Grads<'a>(&'a burn::tensor::Gradients);
    impl burn::module::ModuleMapper for Grads<'_> {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<D>>,
        ) -> burn::module::Param<Tensor<D>> {
            let grad = param
                .val()
                .grad(self.0)
                .expect("every weight has a gradient");
            burn::module::Param::from_tensor(grad)
        }
    }
    for (index, layer) in model.layers.iter().enumerate() {
        let grad = layer.clone().map(&mut Grads(&grads)).to_torch();
        let expected = |name: &str| numbers(&case["grads"][format!("{name}_l{index}")]).0;
        assert_close(
            &what("grad weight_ih"),
            &values(grad.weight_ih),
            &expected("weight_ih"),
            tolerance,
        );
        assert_close(
            &what("grad weight_hh"),
            &values(grad.weight_hh),
            &expected("weight_hh"),
            tolerance,
        );
        let (ih, hh) = grad.biases.unwrap();
        assert_close(
            &what("grad bias_ih"),
            &values(ih),
            &expected("bias_ih"),
            tolerance,
        );
        let expected_hh = expected("bias_hh");
        match L::NAME {
            // Only the new gate's recurrent bias is a parameter of its own; the others are one with bias_ih.
            "GRU" => {
                let hidden = layer.d_hidden();
                let new = values(hh.narrow(0, 2 * hidden, hidden));
                assert_close(
                    &what("grad bias_hh"),
                    &new,
                    &expected_hh[2 * hidden..],
                    tolerance,
                );
                assert_close(
                    &what("grad bias_hh"),
                    &expected_hh[..2 * hidden],
                    &expected("bias_ih")[..2 * hidden],
                    tolerance,
                );
            }
            _ => assert_close(
                &what("grad bias_hh"),
                &expected("bias_ih"),
                &expected_hh,
                tolerance,
            ),
        }
    }

    lag_norms(case, label, &model, &x, &start, tolerance);
}

/// Taps alone give the norm at every lag of the last step's loss.
fn lag_norms<L: TorchCompatible>(
    case: &Value,
    label: &str,
    model: &Stack<L>,
    x: &Tensor<3>,
    start: &[Tensor<2>],
    tolerance: f64,
) {
    let model = model.clone().no_grad();
    let (device, dtype) = (x.device(), x.dtype());
    let [time, batch, _] = x.dims();
    let hidden = model.d_hidden();
    let size = L::PARTS * hidden;
    let start: Vec<_> = start
        .iter()
        .map(|part| part.clone().detach().require_grad())
        .collect();
    let taps: Vec<_> = model
        .layers
        .iter()
        .map(|_| Tensor::<3>::zeros([time, batch, size], (&device, dtype)).require_grad())
        .collect();
    let options = UnrollOptions {
        taps: Some(taps.clone()),
        reset: None,
    };
    let state = model.zero_state(batch, &device).with_parts(start.clone());
    let run = model
        .unroll(x.clone().detach(), Some(state), options)
        .unwrap();
    let weights = tensor::<2>(&case["loss_weights_y"][time - 1], &device, dtype);
    let last = run.output.narrow(0, time - 1, 1).reshape([batch, hidden]);
    let grads = (last * weights).sum().backward();

    let (expected, dims) = numbers(&case["lag_norms_of_last_step_loss"]);
    assert_eq!(dims, [time, batch]);
    let taps: Vec<Vec<f64>> = taps
        .iter()
        .map(|tap| values(tap.grad(&grads).unwrap()))
        .collect();
    let start: Vec<Vec<f64>> = start
        .iter()
        .map(|part| values(part.grad(&grads).unwrap()))
        .collect();
    let mut got = Vec::new();
    for lag in 0..time {
        for b in 0..batch {
            // Entry `lag` is the state entering step `time − 1 − lag`: tap of the step before, or the initial state.
            let squares: f64 = match (time - 1 - lag).checked_sub(1) {
                Some(step) => taps
                    .iter()
                    .flat_map(|tap| &tap[(step * batch + b) * size..(step * batch + b + 1) * size])
                    .map(|g| g * g)
                    .sum(),
                None => start
                    .iter()
                    .flat_map(|part| &part[b * hidden..(b + 1) * hidden])
                    .map(|g| g * g)
                    .sum(),
            };
            got.push(squares.sqrt());
        }
    }
    assert_close(&format!("{label}: lag norms"), &got, &expected, tolerance);
}

fn check_all(dtype: DType, tolerance: f64) {
    let Some(golden) = golden("recurrent_layers.json") else {
        return;
    };
    for (index, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        for (backend, device) in devices_for(dtype) {
            let device = device.autodiff();
            let kind = case["kind"].as_str().unwrap();
            let label = format!(
                "case {index} ({kind}, {} layers) on {backend}, {dtype:?}",
                case["layers"]
            );
            match kind {
                "lstm" => check::<LstmLayer>(case, &label, &device, dtype, tolerance),
                "gru" => check::<GruLayer>(case, &label, &device, dtype, tolerance),
                "rnn" | "rnn_tanh" => check::<RnnLayer>(case, &label, &device, dtype, tolerance),
                other => panic!("unknown kind {other}"),
            }
            let off = take_largest();
            println!(
                "{label}: all values and gradients off by {off:.1e} at most, tolerance {tolerance:e}"
            );
        }
    }
}

#[test]
fn golden_layers_are_reproduced_in_f64() {
    check_all(DType::F64, 1e-9);
}

#[test]
fn golden_layers_are_reproduced_in_f32() {
    with_each_time_loop(|| check_all(DType::F32, 1e-4));
}
