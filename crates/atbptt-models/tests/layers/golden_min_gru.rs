//! Every value and gradient of `golden/min_gru.json` (NumPy, float64; the script lies beside it), on every backend.
//!
//! f64 (CPU backends): 1e-12, a few roundings of values of order one. f32 (these and wgpu): 1e-5.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on should stop

use crate::common::{assert_close, devices_for, numbers, tensor, values};
use atbptt_models::{MinGruLayer, Stack, StackConfig, UnrollOptions};
use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use serde_json::Value;

/// A stack with the file's weights, each a leaf.
fn stack(case: &Value, device: &Device, dtype: DType) -> Stack<MinGruLayer> {
    let layers = case["layers"].as_u64().unwrap() as usize;
    let mut stack = StackConfig::<MinGruLayer>::new(1, 1).init(device).unwrap();
    stack.layers = (0..layers)
        .map(|k| MinGruLayer {
            input_weight: Param::from_tensor(tensor(
                &case[format!("input_weight_{k}")],
                device,
                dtype,
            )),
            bias: Some(Param::from_tensor(tensor(
                &case[format!("bias_{k}")],
                device,
                dtype,
            ))),
        })
        .collect();
    stack
}

fn check(case: &Value, label: &str, device: &Device, dtype: DType, tolerance: f64) {
    let close = |what: &str, got: Vec<f64>, expected: &Value| {
        let expected = numbers(expected).0;
        assert_close(&format!("{label}: {what}"), &got, &expected, tolerance);
    };
    let model = stack(case, device, dtype);
    let x = tensor::<3>(&case["x"], device, dtype).require_grad();
    let per_layer = |name: &str| case[name].as_array().unwrap().clone();
    let start: Vec<Tensor<2>> = per_layer("h0")
        .iter()
        .map(|part| tensor::<2>(part, device, dtype).require_grad())
        .collect();
    let taps: Vec<Tensor<3>> = per_layer("taps")
        .iter()
        .map(|taps| tensor::<3>(taps, device, dtype).require_grad())
        .collect();
    let options = UnrollOptions {
        taps: Some(taps.clone()),
        reset: None,
    };
    let run = model
        .unroll(x.clone(), Some(start.clone()), options)
        .unwrap();
    let last = Tensor::stack::<3>(run.last_state(), 0);
    close("y", values(run.output.clone()), &case["y"]);
    close("last state", values(last.clone()), &case["last"]);

    let weighted =
        |values: Tensor<3>, name: &str| (values * tensor::<3>(&case[name], device, dtype)).sum();
    let loss = weighted(run.output, "weights_y") + weighted(last, "weights_last");
    let grads = loss.backward();
    let expected = &case["grads"];
    close("grad x", values(x.grad(&grads).unwrap()), &expected["x"]);
    for (k, layer) in model.layers.iter().enumerate() {
        let weight = layer.input_weight.val().grad(&grads).unwrap();
        let name = format!("input_weight_{k}");
        close(&name, values(weight), &expected[&name]);
        let bias = layer.bias.as_ref().unwrap().val().grad(&grads).unwrap();
        let name = format!("bias_{k}");
        close(&name, values(bias), &expected[&name]);
        let start = start[k].grad(&grads).unwrap();
        close(
            "grad of the initial state",
            values(start),
            &expected["h0"][k],
        );
        let taps = taps[k].grad(&grads).unwrap();
        close("grad of the taps", values(taps), &expected["taps"][k]);
    }
}

fn check_all(dtype: DType, tolerance: f64) {
    let golden: Value = serde_json::from_str(include_str!("golden/min_gru.json")).unwrap();
    for (index, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        for (backend, device) in devices_for(dtype) {
            let label = format!("case {index} on {backend}, {dtype:?}");
            check(case, &label, &device.autodiff(), dtype, tolerance);
        }
    }
}

#[test]
fn golden_min_gru_is_reproduced_in_f64() {
    check_all(DType::F64, 1e-12);
}

#[test]
fn golden_min_gru_is_reproduced_in_f32() {
    check_all(DType::F32, 1e-5);
}
