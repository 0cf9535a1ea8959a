//! How often training waits for the GPU to hand something back, counted where wgpu maps a buffer for the host to read.
//!
//! A test of its own: the logger that counts is one per process.

#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use atbptt_core::FixedKConfig;
use atbptt_train::{
    AdaptiveTbptt, FusedSgd, ProbeConfig, TbpttConfig, TrainingObserver, device_by_name,
};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn::train::Learner;
use common::{Model, corpus, model, training, turn, weights};

/// Counts the buffers mapped for reading, which wgpu-core logs.
struct Reads(AtomicUsize);

static READS: Reads = Reads(AtomicUsize::new(0));

impl Reads {
    fn so_far(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl log::Log for Reads {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("wgpu_core")
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = format!("{}", record.args());
        if text.contains("map_async") && text.contains("host: Read") {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

/// Reads so far, after every window.
#[derive(Default)]
struct AfterWindows(Mutex<Vec<usize>>);

impl TrainingObserver for AfterWindows {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _running_loss: f64) {
        self.0.lock().unwrap().push(READS.so_far());
    }
}

/// Training reads once per update, the loss with the squared norms of the gradients, whatever the length of the
/// windows.
#[test]
fn an_optimiser_step_reads_once() {
    let gpu = match device_by_name("wgpu") {
        Ok(gpu) => gpu,
        Err(error) => return println!("skipped: {error}"),
    };
    let _turn = turn();
    log::set_logger(&READS).unwrap();
    log::set_max_level(log::LevelFilter::Trace);

    // The counter counts.
    let before = READS.so_far();
    for _ in 0..3 {
        let data = Tensor::<1>::ones([4], &gpu.device).into_data();
        assert_eq!(data.iter::<f32>().sum::<f32>(), 4.0);
    }
    assert_eq!(READS.so_far() - before, 3, "reads of a tensor each");

    for k in [3, 10] {
        let per_window = reads_per_window(&gpu.device, k);
        println!(
            "K = {k}: {} windows, at most {} reads in one",
            per_window.len(),
            per_window.iter().max().unwrap()
        );
        assert!(per_window.len() >= 20);
        assert!(per_window.iter().all(|reads| *reads == 1), "{per_window:?}");
    }
}

/// One epoch of 250 steps, the first window left out.
fn reads_per_window(device: &Device, k: usize) -> Vec<usize> {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(1_004, 101);
    let reads = Arc::new(AfterWindows::default());
    let config = TbpttConfig {
        probe: ProbeConfig::new(20),
        eval_chunk: 20,
        ..TbpttConfig::paper()
    };
    let strategy = AdaptiveTbptt::new(FixedKConfig::new(k).init().unwrap(), config)
        .unwrap()
        .with_observer(reads.clone());
    let handle = strategy.handle();
    let start = model(&corpus, 16, 0.2, 3);
    weights(&start);
    let start: Model = start.fork(&device.clone().autodiff());
    let result = training(&corpus, folder.path())
        .num_epochs(1)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            atbptt_train::Tbptt::new(start),
            FusedSgd::new().with_weight_decay(1e-5).unwrap().init(),
            2.0,
        ));
    handle.finish(&result).unwrap();
    let reads = reads.0.lock().unwrap();
    reads.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
