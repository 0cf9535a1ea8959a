//! Hand-written gradients against three witnesses: central differences in f64, Burn's autodiff of the unfused formula,
//! and Burn's own `nn::Lstm`. With taps, reset masks and every input tracked.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on should stop

use crate::common::{
    all_devices, assert_close, by_precision, devices, finest, noise, noise_tensor, values,
};
use atbptt_models::interop::TorchCompatible;
use atbptt_models::ops::backend::{Arguments, RecurrentKernels};
use atbptt_models::ops::{Cell, SequenceOptions, Weights, linear_nll, linear_nll_rows, sequence};
use atbptt_models::{
    LayerConfig, LstmLayer, LstmState, PackedState, RecurrentLayer, RecurrentState, WeightInit,
};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

const T: usize = 5;
const B: usize = 3;
const I: usize = 4;
const H: usize = 3;

const CELLS: [Cell; 4] = [Cell::Lstm, Cell::Gru, Cell::Rnn, Cell::MinGru];

/// Shapes of input, input weight, recurrent weight, bias, recurrent bias, state, taps.
fn sizes(cell: Cell) -> [Vec<usize>; 7] {
    let (g, s) = (cell.gates() * H, cell.state_parts() * H);
    [
        vec![T, B, I],
        vec![I, g],
        vec![H, cell.recurrent_gates() * H],
        vec![g],
        vec![H],
        vec![B, s],
        vec![T, B, s],
    ]
}

/// Whether the cell has the weight at this place of [`sizes`].
fn has(cell: Cell, index: usize) -> bool {
    match index {
        2 => cell.recurrent_gates() > 0,
        4 => cell.has_recurrent_bias(),
        _ => true,
    }
}

fn at<const D: usize>(data: &[f64], dims: &[usize], device: &Device) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(data.to_vec(), dims.to_vec()),
        (device, finest(device)),
    )
}

/// Every inputs of the operation as flat f64 vectors.
fn inputs(cell: Cell) -> Vec<Vec<f64>> {
    sizes(cell)
        .iter()
        .enumerate()
        .map(|(seed, dims)| {
            noise(seed as u64 + 1, dims.iter().product())
                .iter()
                .map(|x| 0.7 * x)
                .collect()
        })
        .collect()
}

fn reset_mask(device: &Device) -> Tensor<3> {
    // Sequence 1 restarts at step 2, sequence 2 at step 0 and 4.
    let mut mask = vec![1.0; T * B];
    for (step, sequence) in [(2, 1), (0, 2), (4, 2)] {
        mask[step * B + sequence] = 0.0;
    }
    at::<3>(&mask, &[T, B, 1], device)
}

struct Tracked {
    x: Tensor<3>,
    w: Tensor<2>,
    r: Tensor<2>,
    b: Tensor<1>,
    rb: Tensor<1>,
    s: Tensor<2>,
    taps: Tensor<3>,
}

impl Tracked {
    fn new(cell: Cell, data: &[Vec<f64>], device: &Device) -> Self {
        let d = sizes(cell);
        Self {
            x: at::<3>(&data[0], &d[0], device).require_grad(),
            w: at::<2>(&data[1], &d[1], device).require_grad(),
            r: at::<2>(&data[2], &d[2], device).require_grad(),
            b: at::<1>(&data[3], &d[3], device).require_grad(),
            rb: at::<1>(&data[4], &d[4], device).require_grad(),
            s: at::<2>(&data[5], &d[5], device).require_grad(),
            taps: at::<3>(&data[6], &d[6], device).require_grad(),
        }
    }

    /// The gradients of all that the cell has, in the order of [`sizes`].
    fn grads(&self, cell: Cell, loss: Tensor<1>) -> Vec<Vec<f64>> {
        let g = loss.backward();
        let all = [
            self.x.grad(&g).map(values),
            self.w.grad(&g).map(values),
            self.r.grad(&g).map(values),
            self.b.grad(&g).map(values),
            self.rb.grad(&g).map(values),
            self.s.grad(&g).map(values),
            self.taps.grad(&g).map(values),
        ];
        let all = all.into_iter().enumerate().filter_map(|(index, grad)| {
            assert_eq!(
                grad.is_some(),
                has(cell, index),
                "{cell:?}, gradient {index}"
            );
            grad
        });
        all.collect()
    }
}

fn fused(cell: Cell, t: &Tracked, reset_mask: Option<Tensor<3>>) -> Tensor<3> {
    let options = SequenceOptions {
        taps: Some(t.taps.clone()),
        reset_mask,
    };
    let weights = Weights {
        input: t.w.clone(),
        recurrent: has(cell, 2).then(|| t.r.clone()),
        bias: Some(t.b.clone()),
        recurrent_bias: has(cell, 4).then(|| t.rb.clone()),
    };
    sequence(cell, t.x.clone(), weights, t.s.clone(), options).unwrap()
}

/// The default forward bodies run through `Dispatch` on an autodiff device: Burn differentiates every primitive.
fn unfused(cell: Cell, t: &Tracked, reset_mask: Option<Tensor<3>>) -> Tensor<3> {
    let args = Arguments::<Dispatch> {
        input: t.x.clone().into_dispatch(),
        input_weight: t.w.clone().into_dispatch(),
        recurrent_weight: has(cell, 2).then(|| t.r.clone().into_dispatch()).into(),
        bias: t.b.clone().into_dispatch(),
        recurrent_bias: has(cell, 4).then(|| t.rb.clone().into_dispatch()).into(),
        state: t.s.clone().into_dispatch(),
        taps: Some(t.taps.clone().into_dispatch()).into(),
        reset_mask: reset_mask.map(Tensor::into_dispatch).into(),
    };
    Tensor::from_dispatch(Dispatch::sequence_forward(cell, args).states)
}

/// A loss that touches every output with another weight.
fn loss(states: Tensor<3>) -> Tensor<1> {
    let dims = states.dims();
    let weights = noise_tensor::<3>(99, dims, 1.0, &states.device(), states.dtype());
    (states * weights).sum()
}

fn each(
    devices: Vec<(&'static str, Device)>,
    mut check: impl FnMut(Cell, &'static str, Device, bool),
) {
    for cell in CELLS {
        for (backend, device) in devices.clone() {
            for reset in [false, true] {
                check(cell, backend, device.clone().autodiff(), reset);
            }
        }
    }
}

/// Same formula, other order of sums: 1e-11 in f64, and as many roundings, 1e-5, in f32 on a GPU.
#[test]
fn fused_gradients_equal_autodiff_of_the_unfused_formula() {
    each(all_devices(), |cell, backend, device, reset| {
        let data = inputs(cell);
        let mask = reset.then(|| reset_mask(&device));
        let (a, b) = (
            Tracked::new(cell, &data, &device),
            Tracked::new(cell, &data, &device),
        );
        let (out_a, out_b) = (fused(cell, &a, mask.clone()), unfused(cell, &b, mask));
        let label = format!("{cell:?} on {backend}, reset {reset}");
        assert_close(
            &label,
            &values(out_a.clone()),
            &values(out_b.clone()),
            by_precision(&device, 1e-12, 1e-6),
        );
        let (grads_a, grads_b) = (a.grads(cell, loss(out_a)), b.grads(cell, loss(out_b)));
        for (which, (a, b)) in grads_a.iter().zip(&grads_b).enumerate() {
            assert_close(
                &format!("{label}, gradient {which}"),
                a,
                b,
                by_precision(&device, 1e-11, 1e-5),
            );
        }
    });
}

/// Step 1e-5: the truncation error of a central difference is about 1e-10, its rounding error about 1e-10.
#[test]
fn fused_gradients_equal_central_differences() {
    each(devices(), |cell, backend, device, reset| {
        let data = inputs(cell);
        let mask = reset.then(|| reset_mask(&device));
        let tracked = Tracked::new(cell, &data, &device);
        let grads = tracked.grads(cell, loss(fused(cell, &tracked, mask.clone())));
        let value = |data: &[Vec<f64>]| {
            let tracked = Tracked::new(cell, data, &device);
            values(loss(fused(cell, &tracked, mask.clone())))[0]
        };
        let which: Vec<usize> = (0..7).filter(|&index| has(cell, index)).collect();
        for (grad, index) in grads.iter().zip(which) {
            for at in 0..data[index].len() {
                let h = 1e-5;
                let (mut up, mut down) = (data.clone(), data.clone());
                up[index][at] += h;
                down[index][at] -= h;
                let difference = (value(&up) - value(&down)) / (2.0 * h);
                let label = format!("{cell:?} on {backend}, reset {reset}, input {index}[{at}]");
                assert_close(&label, &[grad[at]], &[difference], 1e-8);
            }
        }
    });
}

#[test]
fn only_tracked_parents_get_gradients() {
    each(all_devices(), |cell, _, device, _| {
        let data = inputs(cell);
        let mut t = Tracked::new(cell, &data, &device);
        t.w = t.w.set_require_grad(false);
        t.r = t.r.set_require_grad(false);
        t.b = t.b.set_require_grad(false);
        t.rb = t.rb.set_require_grad(false);
        t.x = t.x.set_require_grad(false);
        let grads = loss(fused(cell, &t, None)).backward();
        assert!(t.taps.grad(&grads).is_some() && t.s.grad(&grads).is_some());
        assert!(t.w.grad(&grads).is_none() && t.r.grad(&grads).is_none());
        assert!(t.b.grad(&grads).is_none() && t.x.grad(&grads).is_none());
    });
}

/// The layer, Burn's `nn::Lstm` with the same weights, and back: outputs and states agree, weights survive.
#[test]
fn lstm_layer_and_burns_lstm_convert_both_ways() {
    for (backend, device) in all_devices() {
        let config = LayerConfig {
            d_input: I,
            d_hidden: H,
            bias: true,
            forget_bias: 1.0,
            weights: WeightInit::InverseSqrtHidden,
        };
        let layer = LstmLayer::init(&config, &device);
        let burn = layer.to_burn();
        let x = noise_tensor::<3>(5, [B, T, I], 1.0, &device, DType::F32);
        let (expected, state) = burn.forward(x.clone(), None);
        let zeros = Tensor::zeros([B, 2 * H], &device);
        let packed = layer
            .sequence(x.swap_dims(0, 1), zeros, SequenceOptions::default())
            .unwrap();
        let output = packed.clone().narrow(2, 0, H).swap_dims(0, 1);
        assert_close(backend, &values(output), &values(expected), 1e-6);
        let last = LstmState::unpack(packed.narrow(0, T - 1, 1).reshape([B, 2 * H]));
        // Burn's order of parts is cell, hidden; ours hidden, cell.
        let (ours, theirs) = (last.parts(), state.parts());
        assert_close(
            backend,
            &values(ours[0].clone()),
            &values(theirs[1].clone()),
            1e-6,
        );
        assert_close(
            backend,
            &values(ours[1].clone()),
            &values(theirs[0].clone()),
            1e-6,
        );

        let back = LstmLayer::from_burn(&burn).unwrap().to_torch();
        let original = layer.to_torch();
        assert_eq!(values(back.weight_ih), values(original.weight_ih));
        assert_eq!(values(back.weight_hh), values(original.weight_hh));
        assert_eq!(
            values(back.biases.unwrap().0),
            values(original.biases.unwrap().0)
        );
    }
}

/// Summed softmax loss against log-softmax on all logits, by autodiff.
#[test]
fn softmax_loss_equals_the_plain_formula() {
    let (rows, features, classes) = (40, 6, 17);
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        for has_bias in [false, true] {
            let new = |seed, dims| {
                noise_tensor::<2>(seed, dims, 2.0, &device, finest(&device)).require_grad()
            };
            let (h, w) = (new(1, [rows, features]), new(2, [classes, features]));
            let b = noise_tensor::<1>(3, [classes], 1.0, &device, finest(&device)).require_grad();
            let targets: Vec<i64> = (0..rows as i64).map(|i| (i * 7) % classes as i64).collect();
            let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &device);

            let bias = has_bias.then(|| b.clone());
            let fused = linear_nll(h.clone(), w.clone(), bias, targets.clone()).unwrap();
            let mut logits = h.clone().matmul(w.clone().transpose());
            if has_bias {
                logits = logits + b.clone().unsqueeze::<2>();
            }
            let log_p = burn::tensor::activation::log_softmax(logits, 1);
            let plain = -log_p.gather(1, targets.reshape([rows, 1])).sum();
            assert_close(
                backend,
                &values(fused.clone()),
                &values(plain.clone()),
                by_precision(&device, 1e-12, 1e-5),
            );
            // A factor checks that the upstream gradient is used.
            let (fused, plain) = ((fused * 0.25).backward(), (plain * 0.25).backward());
            assert_close(
                backend,
                &values(h.grad(&fused).unwrap()),
                &values(h.grad(&plain).unwrap()),
                by_precision(&device, 1e-12, 1e-5),
            );
            assert_close(
                backend,
                &values(w.grad(&fused).unwrap()),
                &values(w.grad(&plain).unwrap()),
                by_precision(&device, 1e-12, 1e-5),
            );
            if has_bias {
                assert_close(
                    backend,
                    &values(b.grad(&fused).unwrap()),
                    &values(b.grad(&plain).unwrap()),
                    by_precision(&device, 1e-12, 1e-5),
                );
            }
        }
    }
}

/// Losses per row are the plain formula's, and each row's gradient comes with its own factor, here the step's.
#[test]
fn softmax_loss_per_row_equals_the_plain_formula() {
    let (time, batch, features, classes) = (4, 3, 5, 7);
    let rows = time * batch;
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        for has_bias in [true, false] {
            let h = at::<2>(&noise(1, rows * features), &[rows, features], &device).require_grad();
            let w = at::<2>(&noise(2, classes * features), &[classes, features], &device)
                .require_grad();
            let b = at::<1>(&noise(3, classes), &[classes], &device).require_grad();
            let targets: Vec<i64> = (0..rows as i64).map(|row| row * 5 % 7).collect();
            let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &device);
            let factors = at::<2>(&noise(4, time), &[time, 1], &device);

            let bias = has_bias.then(|| b.clone());
            let fused = linear_nll_rows(h.clone(), w.clone(), bias, targets.clone()).unwrap();
            let mut logits = h.clone().matmul(w.clone().transpose());
            if has_bias {
                logits = logits + b.clone().unsqueeze::<2>();
            }
            let log_p = burn::tensor::activation::log_softmax(logits, 1);
            let plain = -log_p.gather(1, targets.reshape([rows, 1])).reshape([rows]);
            assert_close(
                backend,
                &values(fused.clone()),
                &values(plain.clone()),
                by_precision(&device, 1e-12, 1e-5),
            );

            let per_step = |losses: Tensor<1>| losses.reshape([time, batch]).sum_dim(1);
            let backward = |losses| (per_step(losses) * factors.clone()).sum().backward();
            let (fused, plain) = (backward(fused), backward(plain));
            let mut pairs = vec![
                (h.grad(&fused).unwrap(), h.grad(&plain).unwrap()),
                (w.grad(&fused).unwrap(), w.grad(&plain).unwrap()),
            ];
            if has_bias {
                let row = |grads| b.grad(grads).unwrap().unsqueeze::<2>();
                pairs.push((row(&fused), row(&plain)));
            }
            for (fused, plain) in pairs {
                assert_close(
                    backend,
                    &values(fused),
                    &values(plain),
                    by_precision(&device, 1e-12, 1e-5),
                );
            }
        }
    }
}

/// Logits of ±400 overflow exp in f32; the loss must not.
#[test]
fn softmax_loss_is_stable_for_large_logits() {
    for (backend, device) in all_devices() {
        let h = Tensor::<2>::from_data([[400.0f32], [-400.0]], &device);
        let w = Tensor::<2>::from_data([[1.0f32], [-1.0]], &device);
        let targets = Tensor::<1, Int>::from_data([0, 0], &device);
        // Row 0: logits 400, −400, target 0: loss 0. Row 1: logits −400, 400, target 0: loss 800.
        assert_close(
            backend,
            &values(linear_nll(h, w, None, targets).unwrap()),
            &[800.0],
            1e-6,
        );
    }
}
