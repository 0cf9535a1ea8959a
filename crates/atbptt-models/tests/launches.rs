//! How many kernels a time step launches on a CubeCL backend: what a GPU waits for when steps are small.
//!
//! `cargo test --release --features wgpu --test launches -- --nocapture` prints the table of docs/RESULTS.md.

#![cfg(feature = "cube")]
#![allow(clippy::unwrap_used)] // A failure here is a failed test.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use atbptt_models::ops::Cell;
use atbptt_models::ops::backend::{Arguments, NeedsGrad, Optional};
use atbptt_models::ops::internals::{TimeLoop, reference, set_time_loop};
use atbptt_models::{
    GruLayer, LanguageModelConfig, LstmLayer, MinGruLayer, RecurrentLayer, RecurrentModel,
    RnnLayer, Stack, StackConfig, TokenBatch, UnrollOptions, WindowPlan,
};
use burn::backend::ops::FloatTensorOps as _;
use burn::backend::{Cube, tensor::FloatTensor};
use burn::nn::LstmConfig;
use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{gpu, noise, noise_tensor};
use cubecl::logging::{LaunchObservation, LaunchObserver};

/// The observer is one per process.
static TURN: Mutex<()> = Mutex::new(());

const BATCH: usize = 4;
const HIDDEN: usize = 64;

#[derive(Default)]
struct Counts(Mutex<BTreeMap<&'static str, usize>>);

impl LaunchObserver for Counts {
    fn launched(&self, kernel: &'static str) {
        *self.0.lock().unwrap().entry(kernel).or_default() += 1;
    }
}

/// Launches of `f`, which hands back what it made so that nothing is dropped early.
fn launches<T>(device: &Device, f: impl FnOnce() -> T) -> (usize, T) {
    let counts = Arc::new(Counts::default());
    let watching = LaunchObservation::new(counts.clone());
    let made = f();
    // Fusion, where it is on, launches when it is asked to.
    device.clone().inner().sync().unwrap();
    drop(watching);
    let counts = counts.0.lock().unwrap();
    (counts.values().sum(), made)
}

/// Launches per step: those that 16 more steps add.
fn per_step(mut forward_backward: impl FnMut(usize) -> [usize; 2]) -> [f64; 2] {
    let (short, long) = (forward_backward(8), forward_backward(24));
    [0, 1].map(|way| (long[way] as f64 - short[way] as f64) / 16.0)
}

/// A layer of ours, every weight tracked.
fn layer<L: RecurrentLayer>(device: &Device, hidden: usize, time: usize) -> [usize; 2] {
    let device = device.clone().autodiff();
    let stack: Stack<L> = StackConfig::new(hidden, hidden).init(&device).unwrap();
    let x = noise_tensor::<3>(1, [time, BATCH, hidden], 1.0, &device, DType::F32);
    let x = x.require_grad();
    let (forward, run) = launches(&device, || {
        stack
            .unroll(x.clone(), None, UnrollOptions::default())
            .unwrap()
    });
    let loss = run.output.sum();
    device.clone().inner().sync().unwrap();
    let (backward, _) = launches(&device, || loss.backward());
    [forward, backward]
}

fn float(seed: u64, dims: &[usize]) -> FloatTensor<Cube> {
    let data: Vec<f32> = noise(seed, dims.iter().product())
        .into_iter()
        .map(|x| x as f32 * 0.1)
        .collect();
    Cube::float_from_data(TensorData::new(data, dims.to_vec()), &Default::default())
}

/// The same by the default bodies, made of Burn's operations.
fn composed(cell: Cell, device: &Device, time: usize) -> [usize; 2] {
    let needs = NeedsGrad {
        input: true,
        input_weight: true,
        recurrent_weight: true,
        bias: true,
        taps: false,
    };
    let (gates, size) = (cell.gates() * HIDDEN, cell.state_parts() * HIDDEN);
    let recurrent = [HIDDEN, cell.recurrent_gates() * HIDDEN];
    let given = |given: bool, seed: u64, dims: &[usize]| given.then(|| float(seed, dims)).into();
    let args = Arguments::<Cube> {
        input: float(1, &[time, BATCH, HIDDEN]),
        input_weight: float(2, &[HIDDEN, gates]),
        recurrent_weight: given(recurrent[1] > 0, 3, &recurrent),
        bias: float(4, &[gates]),
        recurrent_bias: given(cell.has_recurrent_bias(), 7, &[HIDDEN]),
        state: float(5, &[BATCH, size]),
        taps: Optional::Absent,
        reset_mask: Optional::Absent,
    };
    let grad = float(6, &[time, BATCH, size]);
    let (there, saved) = launches(device, || reference::forward(cell, args.clone()));
    let (back, _) = launches(device, || {
        reference::backward(cell, args, saved, grad, needs)
    });
    [there, back]
}

/// Burn's own layer, differentiated operation by operation.
fn burns(device: &Device, time: usize) -> [usize; 2] {
    let device = device.clone().autodiff();
    let lstm = LstmConfig::new(HIDDEN, HIDDEN, true).init(&device);
    let x = noise_tensor::<3>(1, [BATCH, time, HIDDEN], 1.0, &device, DType::F32).require_grad();
    let (forward, (output, _)) = launches(&device, || lstm.forward(x.clone(), None));
    let loss = output.sum();
    device.clone().inner().sync().unwrap();
    let (backward, _) = launches(&device, || loss.backward());
    [forward, backward]
}

/// Launches per step of every cell.
fn cells(device: &Device, hidden: usize) -> [(Cell, [f64; 2]); 4] {
    [
        (
            Cell::Lstm,
            per_step(|time| layer::<LstmLayer>(device, hidden, time)),
        ),
        (
            Cell::Gru,
            per_step(|time| layer::<GruLayer>(device, hidden, time)),
        ),
        (
            Cell::Rnn,
            per_step(|time| layer::<RnnLayer>(device, hidden, time)),
        ),
        (
            Cell::MinGru,
            per_step(|time| layer::<MinGruLayer>(device, hidden, time)),
        ),
    ]
}

/// As many launches per step, forward and backward; without recurrent product one kernel takes all steps.
fn each_or_none(cell: Cell, each: f64) -> [f64; 2] {
    [if cell.recurrent_gates() > 0 {
        each
    } else {
        0.0
    }; 2]
}

/// One kernel, forward and backward; or one product and one kernel.
#[test]
fn a_step_is_one_kernel_or_one_product_and_one_kernel() {
    let Some(device) = gpu() else { return };
    let _turn = TURN.lock();
    println!("launches per time step: forward, backward");
    set_time_loop(TimeLoop::OnHost);
    for (cell, kernels) in cells(&device, HIDDEN) {
        assert_eq!(kernels, each_or_none(cell, 2.0), "{cell:?}");
    }
    set_time_loop(TimeLoop::Fused);
    for (cell, kernels) in cells(&device, HIDDEN) {
        let bodies = per_step(|time| composed(cell, &device, time));
        println!(
            "{}: kernels {kernels:?}, operations of Burn {bodies:?}",
            cell.name()
        );
        assert_eq!(kernels, each_or_none(cell, 1.0), "{cell:?}");
        if cfg!(not(feature = "fusion")) {
            assert!(bodies[0] > 2.0 && bodies[1] > 2.0, "{cell:?}: {bodies:?}");
        }
    }
    set_time_loop(TimeLoop::Auto);
    println!(
        "Burn's nn::Lstm: {:?}",
        per_step(|time| burns(&device, time))
    );
}

/// Where the weights are few, a window takes as many launches however long it is; where they are many, one per step.
#[test]
fn the_time_loop_runs_on_the_device_where_the_weights_are_few() {
    let Some(device) = gpu() else { return };
    let _turn = TURN.lock();
    for (cell, kernels) in cells(&device, HIDDEN) {
        assert_eq!(kernels, [0.0, 0.0], "{cell:?}");
    }
    let whole = layer::<LstmLayer>(&device, HIDDEN, 8);
    println!("LSTM of {HIDDEN} units: {whole:?} launches per window");
    for (cell, kernels) in cells(&device, 600) {
        assert_eq!(kernels, each_or_none(cell, 1.0), "{cell:?}");
    }
}

/// A training window of the language model: what does not grow with its length is small beside what does.
#[test]
fn a_window_adds_few_launches_to_its_steps() {
    let Some(device) = gpu() else { return };
    let _turn = TURN.lock();
    let device = device.autodiff();
    let model = LanguageModelConfig::new(50)
        .with_hidden(HIDDEN)
        .with_dropout(0.0)
        .init::<LstmLayer>(&device)
        .unwrap();
    let window = |time: usize| {
        let ids: Vec<i64> = (0..(BATCH * time) as i64).map(|i| i * 7 % 50).collect();
        let batch = TokenBatch::from_host(&ids, &ids, BATCH, time, &device).unwrap();
        let plan = WindowPlan {
            warm_up: 0,
            loss_from: 0,
            carry: time,
        };
        device.clone().inner().sync().unwrap();
        let (forward, out) = launches(&device, || model.window(&batch, None, plan).unwrap());
        let (backward, _) = launches(&device, || out.loss.sum.backward());
        [forward, backward]
    };
    let ways = [
        (TimeLoop::OnHost, 2.0),
        (TimeLoop::Fused, 1.0),
        (TimeLoop::OnDevice, 0.0),
    ];
    for (time_loop, expected) in ways {
        set_time_loop(time_loop);
        let (short, steps) = (window(8), per_step(window));
        let fixed = [0, 1].map(|way| short[way] as f64 - 8.0 * steps[way]);
        println!("language model, {time_loop:?}: {steps:?} per step, {fixed:?} per window");
        assert_eq!(steps, [expected; 2]);
        assert!(fixed.iter().all(|launches| *launches <= 40.0), "{fixed:?}");
    }
    set_time_loop(TimeLoop::Auto);
}

/// All lags of a state part are reduced by one launch.
#[test]
fn lag_norms_are_one_launch() {
    let Some(device) = gpu() else { return };
    let _turn = TURN.lock();
    let grads = noise_tensor::<3>(1, [20, BATCH, HIDDEN], 1.0, &device, DType::F32);
    device.sync().unwrap();
    let (count, norms): (usize, Tensor<2>) = launches(&device, || {
        atbptt_core::device::lag_norms(grads, None).unwrap()
    });
    assert_eq!(norms.dims(), [20, 1 + 2 * BATCH]);
    assert_eq!(count, 1);
}
