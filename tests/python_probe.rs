//! `python/atbptt_probe.py` against this library: the same weights, the same windows, the same numbers.
//!
//! `python/example.json` is what the script's example wrote (PyTorch, f64), with the weights and windows it measured. Where a
//! Python with torch is found (`TORCH_PYTHON`, else `python3`), the script runs here as well, and its fresh output is held to
//! the same comparison; where not, the test says so and passes.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/window.rs"]
mod window;

use std::path::Path;
use std::process::Command;

use atbptt::core::{BiasEstimator, GradientSize, LagNorms, Scheme};
use atbptt::models::interop::TorchLayer;
use atbptt::models::{
    DirectPlan, LstmLayer, LstmState, ModelError, RecurrentModel, SequenceBatch, Stack, StackModel,
    StepLoss, direct_statistics, piece_gradients,
};
use atbptt::train::probe_file;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;
use window::Window;

/// Two LSTM layers and a linear decoder: the example's `Echo`.
#[derive(Module, Debug)]
struct Echo {
    lstm: Stack<LstmLayer>,
    /// `[hidden, outputs]`
    weight: Param<Tensor<2>>,
    /// `[outputs]`
    bias: Param<Tensor<1>>,
}

impl StackModel for Echo {
    type Layer = LstmLayer;

    fn stack(&self) -> &Stack<LstmLayer> {
        &self.lstm
    }

    fn stack_input(&self, batch: &Window) -> Result<Tensor<3>, ModelError> {
        Ok(batch.inputs.clone())
    }
}

impl RecurrentModel for Echo {
    type Batch = Window;
    type State = Vec<LstmState>;

    fn forward(
        &self,
        batch: &Window,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        self.stack_forward(batch, state)
    }

    /// Half the squared error. `features`: `[batch, time, hidden]`.
    fn loss(&self, features: Tensor<3>, batch: &Window) -> Result<StepLoss, ModelError> {
        let [sequences, time, hidden] = features.dims();
        let count = time * sequences;
        let outputs = features.reshape([count, hidden]).matmul(self.weight.val())
            + self.bias.val().unsqueeze();
        let targets = batch.targets.clone().swap_dims(0, 1).reshape([count, 2]);
        let error = outputs - targets;
        Ok(StepLoss::new(error.square().sum() * 0.5, count))
    }
}

fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn tensor<const D: usize>(value: &Value, device: &Device) -> Tensor<D> {
    let mut shape = [0; D];
    let mut inner = value;
    for size in &mut shape {
        *size = inner.as_array().unwrap().len();
        inner = &inner[0];
    }
    Tensor::from_data(TensorData::new(flat(value), shape), (device, DType::F64))
}

/// Largest difference as a share of the largest value.
fn apart(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let difference = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    difference.fold(0.0, f64::max) / largest
}

/// Everything that the file says, measured again here.
fn compare(bytes: &[u8], device: &Device) {
    const TOLERANCE: f64 = 1e-10;
    let case = probe_file::from_slice(bytes).unwrap().remove(0);
    let (norms, direct) = (case.norms.unwrap(), case.direct.unwrap());
    let file: Value = serde_json::from_slice(bytes).unwrap();

    let weights = |name: &str| &file["weights"][name];
    let layer = |index| {
        let name = |name: &str| format!("lstm.{name}");
        TorchLayer::by_name(
            index,
            |parameter| Some(tensor::<2>(weights(&name(parameter)), device)),
            |parameter| Some(tensor::<1>(weights(&name(parameter)), device)),
        )
    };
    let model = Echo {
        lstm: Stack::from_torch(vec![layer(0).unwrap(), layer(1).unwrap()], 0.0).unwrap(),
        weight: Param::from_tensor(tensor::<2>(weights("decoder.weight"), device).transpose()),
        bias: Param::from_tensor(tensor(weights("decoder.bias"), device)),
    };
    let burn_in = file["burn_in"].as_u64().unwrap() as usize;
    let windows = file["windows"].as_array().unwrap().iter().map(|window| {
        let whole = Window {
            inputs: tensor(&window["inputs"], device),
            targets: tensor(&window["targets"], device),
        };
        let frozen = model.clone().no_grad();
        let (_, state) = frozen.forward(&whole.slice(0..burn_in), None).unwrap();
        (whole.slice(burn_in..whole.steps()), state)
    });
    let windows: Vec<_> = windows.collect();
    let probes = windows.len() / 2;

    // The first half are windows of W steps for the norms: with all lags at once, and step by step as any model has it.
    let of = |gradients: &dyn Fn(&Window, Vec<LstmState>) -> LagNorms| {
        let probes: Vec<_> = windows[..probes]
            .iter()
            .map(|(window, state)| gradients(window, state.clone()))
            .collect();
        LagNorms::pool(&probes.iter().collect::<Vec<_>>()).unwrap()
    };
    let at_once = of(&|window, state| {
        let gradients = model.stack_gradients(window, Some(state)).unwrap();
        gradients.lag_norms().unwrap()
    });
    let stepwise = of(&|window, state| {
        let gradients = model.state_gradients(window, Some(state)).unwrap();
        gradients.lag_norms().unwrap()
    });
    for ours in [at_once, stepwise] {
        assert_eq!(
            (ours.lags(), ours.sequences()),
            (norms.lags(), norms.sequences())
        );
        for lag in 0..norms.lags() {
            let apart = apart(ours.row(lag), norms.row(lag));
            assert!(apart < TOLERANCE, "lag {lag}: {apart}");
        }
    }

    // The second half, of W + m − 1 steps, for the direct statistics.
    let plan = DirectPlan::new(direct.losses(), direct.contexts().to_vec());
    let pieces: Vec<_> = windows[probes..]
        .iter()
        .map(|(window, state)| piece_gradients(&model, window, Some(state.clone()), &plan))
        .map(Result::unwrap)
        .collect();
    let ours = direct_statistics(&pieces).unwrap();
    assert_eq!(
        (ours.window(), ours.probes()),
        (direct.window(), direct.probes())
    );
    let gram = |statistics| flat(&serde_json::to_value(statistics).unwrap()["gram"]);
    let apart = apart(&gram(&ours), &gram(&direct));
    assert!(apart < TOLERANCE, "inner products: {apart}");

    // So that whoever stays in Python gets the K that we would choose.
    let scheme = Scheme::Strided {
        losses: direct.losses(),
    };
    let (ours, theirs) = (ours.estimate(scheme), direct.estimate(scheme));
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    for delta in [0.9, 0.5, 0.1] {
        assert_eq!(ours.smallest_k(delta), theirs.smallest_k(delta));
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

#[test]
fn committed_example_of_the_python_script_agrees_with_this_library() {
    let bytes = std::fs::read("python/example.json").unwrap();
    compare(&bytes, &device());
}

/// The cumulative sizes of one probe, whose batch is the file's: all six sequences at once.
#[test]
fn example_of_the_python_script_carries_sizes_that_estimates_read() {
    let cases = probe_file::open("python/example.json").unwrap();
    let norms = cases[0].norms.as_ref().unwrap();
    let sizes = norms.mean_sum_norms().unwrap();
    let phi = |lag: usize| norms.row(lag).iter().sum::<f64>() / norms.sequences() as f64;
    // A mean is no longer than the mean length; its square is no smaller than what is left of it without noise.
    assert!(sizes[1] <= phi(0) && sizes[2] <= phi(0) + phi(1));
    let debiased = norms.debiased_squares().unwrap();
    assert!(debiased.iter().zip(sizes).all(|(u, g)| *u <= g * g));
    for size in [
        GradientSize::NormOfMeanSum,
        GradientSize::DebiasedNormOfMeanSum,
    ] {
        let estimator = BiasEstimator::new().with_gradient_size(size);
        assert!(estimator.estimate(norms).is_ok());
    }
}

#[test]
fn python_script_runs_and_agrees_where_torch_is_there() {
    let python = std::env::var_os("TORCH_PYTHON").unwrap_or_else(|| "python3".into());
    let found = Command::new(&python).args(["-c", "import torch"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: {} has no torch; set TORCH_PYTHON to a Python that has",
            Path::new(&python).display()
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe.json");
    let output = Command::new(&python)
        .args(["-B", "python/atbptt_probe.py"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    compare(&std::fs::read(&path).unwrap(), &device());

    let usage = Command::new(&python)
        .args(["-B", "python/atbptt_probe.py"])
        .output();
    let usage = usage.unwrap();
    assert!(!usage.status.success());
    assert!(String::from_utf8_lossy(&usage.stderr).contains("usage: python atbptt_probe.py FILE"));
}
