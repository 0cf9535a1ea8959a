//! Training on a GPU backend against the same training on the CPU, and checkpoints that change backends.
//!
//! On the best GPU backend that is compiled in, CUDA before wgpu; for wgpu a software device counts (Debian:
//! `mesa-vulkan-drivers`). Without any, every test says so and passes. The random generator is one per process, so tests that train take turns.

#![cfg(feature = "cube")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use atbptt::core::FixedKConfig;
use atbptt::train::{
    AdaptiveTbptt, Checkpoint, CheckpointConfig, FusedSgd, NamedDevice, ProbeConfig, TbpttConfig,
    TrainError, TrainingObserver, device_by_name,
};
use burn::module::Module;
use burn::tensor::Device;
use burn::train::Learner;
use common::programs::example;
use common::{Model, corpus, model, training, turn, weights};

const BACKEND: &str = if cfg!(feature = "cuda") {
    "cuda"
} else {
    "wgpu"
};

/// Its device, or `None` after saying why the test is skipped.
fn gpu() -> Option<NamedDevice> {
    match device_by_name(BACKEND) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn config() -> TbpttConfig {
    TbpttConfig {
        probe: ProbeConfig::new(20),
        eval_chunk: 20,
        seed: 7,
        ..TbpttConfig::paper()
    }
}

/// The running mean loss after every window.
#[derive(Default)]
struct Losses(Mutex<Vec<f64>>);

impl TrainingObserver for Losses {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, running_loss: f64) {
        self.0.lock().unwrap().push(running_loss);
    }
}

/// 50 updates per epoch (4 sequences of 250 steps, K = 5), without dropout, from the weights that seed 3 gives on the
/// CPU: the running losses, and the mean validation loss of every epoch.
fn run(
    device: &Device,
    folder: &Path,
    epochs: usize,
    resume: Option<Checkpoint>,
) -> (Vec<f64>, Vec<f64>) {
    let corpus = corpus(1_004, 101);
    let losses = Arc::new(Losses::default());
    let mut strategy = AdaptiveTbptt::new(FixedKConfig::new(5).init().unwrap(), config())
        .unwrap()
        .with_checkpoints(CheckpointConfig::new(folder))
        .with_observer(losses.clone());
    let mut training = training(&corpus, folder).num_epochs(epochs);
    if let Some(checkpoint) = resume {
        training = training.checkpoint(checkpoint.epochs());
        strategy = strategy.resume(checkpoint);
    }
    let handle = strategy.handle();
    let start = model(&corpus, 16, 0.0, 3);
    // Weights are drawn when they are first read: here, on the CPU.
    weights(&start);
    let start: Model = start.fork(&device.clone().autodiff());
    let optimizer = FusedSgd::new().with_weight_decay(1e-5).unwrap().init();
    let result = training
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            atbptt::train::Tbptt::new(start),
            optimizer,
            2.0,
        ));
    handle.finish(&result).unwrap();
    assert!(
        result.model.devices().iter().all(|used| used == device),
        "trained where it was asked to"
    );
    let valid = handle.reports().into_iter();
    let valid = valid.map(|report| report.valid_perplexity.unwrap().ln());
    let losses = losses.0.lock().unwrap().clone();
    (losses, valid.collect())
}

/// Largest relative difference.
fn worst(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / b.abs())
        .fold(0.0, f64::max)
}

/// Both compute in f32 and round differently; 50 steps of descent must not let that grow beyond 1e-3 of the loss.
#[test]
fn fifty_optimiser_steps_equal_those_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let _turn = turn();
    let [here, there] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (expected, expected_valid) = run(&Device::flex(), here.path(), 1, None);
    let (got, valid) = run(&gpu.device, there.path(), 1, None);
    assert_eq!(expected.len(), 50);
    assert!(
        expected[49] < expected[0] - 0.1,
        "something was learned: {} to {}",
        expected[0],
        expected[49]
    );
    let (off, off_valid) = (worst(&got, &expected), worst(&valid, &expected_valid));
    let first = worst(&got[..1], &expected[..1]);
    println!(
        "{gpu}: losses off by {first:.1e} in the first step, {off:.1e} in the worst of 50, validation by {off_valid:.1e}"
    );
    assert!(
        off <= 1e-3 && off_valid <= 1e-3,
        "off by {off:e} and {off_valid:e}"
    );
}

/// A run's second epoch on the other backend ends where one on the CPU alone ends.
#[test]
fn a_checkpoint_of_one_backend_resumes_on_another() {
    let Some(gpu) = gpu() else { return };
    let _turn = turn();
    let whole = tempfile::tempdir().unwrap();
    let (_, expected) = run(&Device::flex(), whole.path(), 2, None);
    for (first, second) in [
        (Device::flex(), gpu.device.clone()),
        (gpu.device.clone(), Device::flex()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        run(&first, folder.path(), 1, None);
        let checkpoint = Checkpoint::newest(folder.path()).unwrap();
        assert_eq!(checkpoint.epochs(), 1);
        let (_, got) = run(&second, folder.path(), 2, Some(checkpoint));
        let off = worst(&got, &expected);
        println!("{first:?} to {second:?}: off by {off:.1e}");
        assert!(off <= 1e-3, "{first:?} to {second:?}: off by {off:e}");
    }
}

/// A window whose gates alone are larger than any buffer of the device, where it says how large one may be.
#[test]
fn too_little_memory_names_batch_k_and_window() {
    let Some(gpu) = gpu() else { return };
    let _turn = turn();
    if !gpu.software {
        println!("skipped: filling the memory of a real GPU is left to its owner");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(80_004, 101);
    // 2 · 20,000 steps · 4 sequences · 4 gates · 512 units · 4 bytes: beyond 1 GiB.
    let policy = FixedKConfig::new(20_000).init().unwrap();
    let strategy = AdaptiveTbptt::new(policy, config()).unwrap();
    let handle = strategy.handle();
    let start: Model = model(&corpus, 512, 0.0, 3).to_device(&gpu.device.clone().autodiff());
    let result = training(&corpus, folder.path())
        .num_epochs(1)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            atbptt::train::Tbptt::new(start),
            FusedSgd::new().init(),
            1.0,
        ));
    let error = handle.finish(&result).unwrap_err();
    let TrainError::Window {
        batch, k, steps, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*batch, *k), (4, 20_000));
    assert!(*steps >= 20_000);
    let text = error.to_string();
    assert!(
        text.contains("batch 4 (K = 20000)") && text.contains("allocate") && !text.contains('\n'),
        "{text}"
    );
    println!("{text}");
}

/// The program runs on the device that `BURN_DEVICE` names, says which it is, and goes on there.
#[test]
fn the_language_model_example_runs_on_the_gpu_and_names_it() {
    let (Some(gpu), Some(program)) = (gpu(), example("wiki2")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = Command::new(&program)
        .args([
            "--builtin",
            "--no-tui",
            "--max-tokens",
            "3000",
            "--hidden",
            "16",
        ])
        .args(["--epochs", "1", "--fixed-k", "10", "--out"])
        .arg(&run)
        .env("BURN_DEVICE", BACKEND)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line = format!("device:  {gpu}");
    assert!(text.contains(&line), "{line:?} in {text}");
    assert!(run.join("result.json").is_file(), "the run came to its end");
}

/// With no driver to be found the program ends with one line that says what to install and what to run on instead.
#[test]
#[cfg(all(target_os = "linux", feature = "wgpu"))]
fn without_an_adapter_the_error_names_the_remedy() {
    let Some(program) = example("wiki2") else {
        return;
    };
    let output = Command::new(program)
        .args(["--builtin", "--no-tui", "--max-tokens", "3000"])
        // Vulkan finds no driver there, and EGL no vendor.
        .env("VK_ICD_FILENAMES", "/nonexistent.json")
        .env("VK_DRIVER_FILES", "/nonexistent.json")
        .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent.json")
        .env("BURN_DEVICE", "wgpu")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in [
        "`wgpu` found no device",
        "Vulkan driver",
        "BURN_DEVICE=flex",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}
