//! How often checkpoints are written between the ends of epochs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use atbptt_core::FixedKConfig;
use atbptt_models::LanguageModelConfig;
use atbptt_train::{
    AdaptiveTbptt, CheckpointConfig, ProbeConfig, Tbptt, TbpttConfig, TokenSource, quiet_renderer,
    stream_loader,
};
use burn::optim::AdamConfig;
use burn::train::{Learner, SupervisedTraining};
use tempfile::tempdir;

use crate::common::{Model, bits, device, turn};

/// The checkpoints within the epoch, by the steps they stand at, and the trained weights.
fn run(checkpoints: impl FnOnce(CheckpointConfig) -> CheckpointConfig) -> (Vec<u64>, Vec<u32>) {
    let folder = tempdir().unwrap();
    let text = |count: u32| (0..count).map(|t| (t * t + t / 7) % 20).collect::<Vec<_>>();
    let train = TokenSource::training(text(1_202), 2).unwrap();
    let valid = TokenSource::evaluation(text(60), 1).unwrap();
    let config = TbpttConfig {
        probe: ProbeConfig::new(20),
        ..TbpttConfig::default().with_losses(6)
    };
    let checkpoints = checkpoints(CheckpointConfig::new(folder.path()).keep(1_000));
    let strategy = AdaptiveTbptt::new(FixedKConfig::new(4).init().unwrap(), config)
        .unwrap()
        .with_checkpoints(checkpoints);
    let handle = strategy.handle();
    device().seed(5);
    let model: Model = LanguageModelConfig::new(20)
        .with_hidden(8)
        .init(&device())
        .unwrap();
    let result = SupervisedTraining::new(folder.path(), stream_loader(train), stream_loader(valid))
        .renderer(quiet_renderer())
        .with_application_logger(None)
        .num_epochs(1)
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(model),
            AdamConfig::new().init(),
            1e-2,
        ));
    handle.finish(&result).unwrap();
    let within = |name: String| {
        name.strip_prefix("step-")?
            .strip_suffix(".ckpt")?
            .parse()
            .ok()
    };
    let mut steps: Vec<u64> = std::fs::read_dir(folder.path().join("checkpoint"))
        .unwrap()
        .filter_map(|file| within(file.unwrap().file_name().into_string().unwrap()))
        .collect();
    steps.sort_unstable();
    (steps, bits(&result.model))
}

#[test]
fn a_share_of_the_time_leaves_out_checkpoints_and_changes_nothing_else() {
    let _turn = turn();
    let (all, weights) = run(|config| config.every(20));
    assert_eq!(all, [20, 40, 60, 80, 100]);
    // Writing never takes so little.
    let (few, same) = run(|config| config.every(20).share_of_time(1e-12));
    assert_eq!(few, [0u64; 0]);
    assert!(weights == same);
    // What is no share leaves none out.
    for share in [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(run(|config| config.every(20).share_of_time(share)).0, all);
    }
}
