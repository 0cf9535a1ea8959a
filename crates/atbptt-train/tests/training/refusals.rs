//! What the strategy refuses: settings out of range, streams that are too short, checkpoints of other runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use atbptt_core::BiasEstimator;
use atbptt_core::policy::{AdaptiveKConfig, Estimator, FixedKConfig, TruncationPolicy};
use atbptt_train::data::Split;
use atbptt_train::{
    AdaptiveTbptt, Checkpoint, CheckpointFault, Clip, ProbeConfig, TbpttConfig, TokenSource,
    TrainError, quiet_renderer, stream_loader,
};
use burn::train::SupervisedTraining;
use burn::train::metric::LossMetric;

use super::setup::{adam, config, launch, model, strategy};
use crate::common::{corpus, training, turn};

/// A run of another batch size, and a folder without a checkpoint, are errors with a remedy, not a silent restart.
#[test]
fn a_checkpoint_that_does_not_fit_is_a_typed_error() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let run = |batch: usize, resume: Option<Checkpoint>| {
        let stream = TokenSource::training(corpus.tokens(Split::Train), batch).unwrap();
        let valid = TokenSource::evaluation(corpus.tokens(Split::Valid), 1).unwrap();
        let training =
            SupervisedTraining::new(folder.path(), stream_loader(stream), stream_loader(valid))
                .renderer(quiet_renderer())
                .with_application_logger(None)
                .metrics((LossMetric::new(),));
        let mut strategy =
            strategy(FixedKConfig::new(5).init().unwrap(), config()).with_run_folder(folder.path());
        if let Some(checkpoint) = resume {
            strategy = strategy.resume(checkpoint);
        }
        let (result, handle) = launch(training, strategy, model(&corpus, 0.0, 1), adam(), 1e-3);
        handle.finish(&result)
    };
    let missing = Checkpoint::newest(folder.path()).unwrap_err();
    assert!(
        matches!(missing, TrainError::NoCheckpoint { .. }),
        "{missing}"
    );
    run(4, None).unwrap();
    let saved = Checkpoint::newest(folder.path()).unwrap();
    let error = run(3, Some(saved)).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            &error,
            TrainError::Checkpoint {
                fault: CheckpointFault::OtherRun { .. },
                ..
            }
        ) && text.contains("sequences is 4 in the checkpoint and 3 now"),
        "{text}"
    );
    let error = run(4, None).unwrap_err();
    assert!(matches!(error, TrainError::RunExists { .. }), "{error}");
}

#[test]
fn what_does_not_fit_the_stream_is_a_typed_error() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let run = |policy: Box<dyn TruncationPolicy>, config: TbpttConfig| {
        let folder = tempfile::tempdir().unwrap();
        let strategy = AdaptiveTbptt::new(policy, config).unwrap();
        let (result, handle) = launch(
            training(&corpus, folder.path()),
            strategy,
            model(&corpus, 0.0, 1),
            adam(),
            1e-3,
        );
        handle.finish(&result).unwrap_err()
    };
    let adaptive = |k_max| {
        let config = AdaptiveKConfig::new(0.5)
            .with_estimator(Estimator::Norms(BiasEstimator::new()))
            .with_k0(5)
            .with_k_max(k_max);
        Box::new(config.init().unwrap())
    };
    // 404 tokens in 4 sequences: 100 steps each.
    let long = TbpttConfig {
        probe: ProbeConfig::new(100),
        ..config()
    };
    let error = run(adaptive(20), long.clone());
    assert!(
        matches!(
            error,
            TrainError::ProbeTooLong {
                needed: 110,
                window: 100,
                burn_in: 10,
                steps: 100
            }
        ),
        "{error}"
    );
    let error = run(adaptive(101), config());
    assert!(
        matches!(
            error,
            TrainError::StreamTooShort {
                k_max: 101,
                steps: 100
            }
        ),
        "{error}"
    );

    let wide = config().with_losses(101);
    let error = run(Box::new(FixedKConfig::new(5).init().unwrap()), wide);
    assert!(
        matches!(
            error,
            TrainError::StrideTooLong {
                losses: 101,
                steps: 100
            }
        ),
        "{error}"
    );

    // Without probes a long one does not matter.
    let folder = tempfile::tempdir().unwrap();
    let strategy = strategy(FixedKConfig::new(100).init().unwrap(), long);
    let (result, handle) = launch(
        training(&corpus, folder.path()),
        strategy,
        model(&corpus, 0.0, 1),
        adam(),
        1e-3,
    );
    handle.finish(&result).unwrap();
    assert_eq!(handle.reports()[0].step, 1);
}

#[test]
fn settings_outside_their_range_are_refused() {
    let field = |config: TbpttConfig| match AdaptiveTbptt::new(
        FixedKConfig::new(5).init().unwrap(),
        config,
    ) {
        Err(TrainError::Config { field, .. }) => field,
        other => panic!("{:?}", other.map(|_| ())),
    };
    for clip in [Clip::Norm(f64::NAN), Clip::Norm(0.0), Clip::PerK(-1.0)] {
        assert_eq!(field(TbpttConfig { clip, ..config() }), "clip");
    }
    assert_eq!(field(config().with_losses(0)), "losses");
    let probe = ProbeConfig::new(1);
    assert_eq!(field(TbpttConfig { probe, ..config() }), "window");
    let eval_chunk = 0;
    assert_eq!(
        field(TbpttConfig {
            eval_chunk,
            ..config()
        }),
        "eval_chunk"
    );
}
