//! What an update does to the weights: windows, carried state, clip and step against SGD by hand, and what accumulation, random
//! lengths and the last, shorter window make of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::sync::{Arc, Mutex};

use atbptt_core::policy::{
    FixedKConfig, MonitorConfig, RandomLengthConfig, Schedule, TruncationPolicy,
};
use atbptt_models::{RecurrentModel, RecurrentState, SequenceBatch};
use atbptt_train::data::Split;
use atbptt_train::metrics::StepMetric;
use atbptt_train::{
    AdaptiveTbptt, Clip, EpochReport, ProbeConfig, Scheme, SequenceSource, StepScaling,
    TbpttConfig, TokenSource,
};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::SgdConfig;
use burn::optim::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::tensor::{Gradients, Tensor};
use burn::train::EarlyStoppingStrategy;
use burn::train::metric::Metric;
use burn::train::metric::store::{Aggregate, EventStoreClient, Split as Part};

use super::setup::{adam, config, launch, model, strategy};
use crate::common::{Model, corpus, device, training, turn, weights};

/// 400 steps of every sequence: 50 windows of eight losses an epoch, and an update for every three of them, 17 in all. Probes after 2,
/// 4, 8 and 16 updates and with the second epoch.
#[test]
fn accumulated_windows_count_as_one_update() {
    let _turn = turn();
    let corpus = corpus(1604, 101);
    let schedule = Schedule::every_epochs(1).with_first(Some(2));
    let monitor = MonitorConfig::default().with_schedule(schedule);
    let policy = FixedKConfig::new(6).with_monitor(Some(monitor));
    let folder = tempfile::tempdir().unwrap();
    let scheme = Scheme::Strided { losses: 8 };
    let strategy = strategy(policy.init().unwrap(), TbpttConfig { scheme, ..config() });
    let training = training(&corpus, folder.path())
        .grads_accumulation(3)
        .num_epochs(2);
    let (result, handle) = launch(training, strategy, model(&corpus, 0.0, 1), adam(), 1e-2);
    handle.finish(&result).unwrap();
    let history = handle.history();
    let updates: Vec<u64> = history.iter().map(|d| d.position.update).collect();
    assert_eq!(updates, [2, 4, 8, 16, 17]);
    assert_eq!(history[4].position.epoch, 1);
}

/// A window: first step, length, first step with a loss, and steps until the carried state; and the factor on its step.
type Span = (usize, usize, usize, usize, f64);

/// Plain SGD over 7 steps, written out: mean loss of the window, its global norm clipped to `limit`, step size of the scheduler
/// times the window's own factor; the gradients of `every` windows, at the same weights, make one update.
fn sgd_by_hand(
    mut model: Model,
    windows: &[Span],
    source: &TokenSource,
    mut lr: ModuleLrScheduler,
    limit: f64,
    every: usize,
) -> Model {
    struct Norm<'a>(&'a Gradients, f64);
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = param.val().grad(self.0).unwrap();
            self.1 += grad.square().sum().into_scalar::<f64>();
        }
    }
    /// The step that a gradient asks for, by parameter.
    struct Steps<'a>(&'a Gradients, f64, &'a mut Vec<(Vec<f64>, f64)>);
    impl ModuleVisitor for Steps<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = param.val().grad(self.0).unwrap().into_data();
            self.2.push((grad.iter::<f64>().collect(), self.1));
        }
    }
    struct Descend(std::collections::VecDeque<(Vec<f64>, f64)>);
    impl ModuleMapper for Descend {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (grad, rate) = self.0.pop_front().unwrap();
            param.map(|w| {
                let shape = w.dims();
                let values = w.clone().into_data();
                let moved: Vec<f64> = values
                    .iter::<f64>()
                    .zip(grad)
                    .map(|(w, g)| w - g * rate)
                    .collect();
                let moved = burn::tensor::TensorData::new(moved, shape);
                Tensor::from_data(moved, (&device(), w.dtype())).require_grad()
            })
        }
    }
    let mut state = None;
    for group in windows.chunks(every) {
        let rate = lr.step().base();
        let mut steps = Vec::new();
        for &(start, len, loss_from, carry, factor) in group {
            let batch = source.window(start, len, &device()).unwrap();
            let (features, _) = model.forward(&batch, state.clone()).unwrap();
            let tail = features.narrow(1, loss_from, len - loss_from);
            let loss = model.loss(tail, &batch.slice(loss_from..len)).unwrap();
            let grads = (loss.sum / loss.count as f64).backward();
            if carry > 0 {
                let (_, carried) = model.forward(&batch.slice(0..carry), state).unwrap();
                state = Some(carried.detach());
            }
            let mut norm = Norm(&grads, 0.0);
            model.visit(&mut norm);
            let clip = (limit / norm.1.sqrt()).min(1.0);
            assert!(clip < 1.0 || limit.is_infinite(), "the test clips");
            let mut of_window = Vec::new();
            model.visit(&mut Steps(&grads, rate * factor * clip, &mut of_window));
            steps.push(of_window);
        }
        for of_window in steps {
            model = model.map(&mut Descend(of_window.into()));
        }
    }
    model
}

/// One epoch of SGD over 7 steps with `policy` against the windows by hand. f32 weights of order 0.3 after a few steps: 1e-6.
fn assert_sgd(
    what: &str,
    policy: Box<dyn TruncationPolicy>,
    settings: TbpttConfig,
    windows: &[Span],
    limit: f64,
    every: Option<usize>,
) -> EpochReport {
    let corpus = corpus(32, 11);
    let schedule = || LinearLrSchedulerConfig::new(1.0, 0.25, 3).init().unwrap();
    let start = model(&corpus, 0.0, 4);
    let source = TokenSource::training(corpus.tokens(Split::Train), 4).unwrap();
    assert_eq!(source.common_steps(), 7);
    let every_window = every.unwrap_or(1);
    let expected = sgd_by_hand(
        start.clone(),
        windows,
        &source,
        schedule(),
        limit,
        every_window,
    );
    let folder = tempfile::tempdir().unwrap();
    let mut training = training(&corpus, folder.path());
    if let Some(every) = every {
        training = training.grads_accumulation(every);
    }
    let strategy = AdaptiveTbptt::new(policy, settings).unwrap();
    let sgd = SgdConfig::new().init();
    let (result, handle) = launch(training, strategy, start.clone(), sgd, schedule());
    handle.finish(&result).unwrap();
    let (got, expected, start) = (weights(&result.model), weights(&expected), weights(&start));
    let largest = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(largest(&got, &start) > 1e-3, "{what}: nothing was learned");
    let off = largest(&got, &expected);
    assert!(off < 1e-6, "{what}: off by {off:e}");
    handle.reports().remove(0)
}

/// K = 3 over 7 steps, by scheme; the factor is the share of losses of the last, shorter window.
fn spans_of_three(scheme: Scheme) -> Vec<Span> {
    match scheme {
        // m = 2: K − 1 + m = 4 steps, the last two with a loss.
        Scheme::Strided { .. } => vec![
            (0, 2, 0, 0, 1.0),
            (0, 4, 2, 2, 1.0),
            (2, 4, 2, 2, 1.0),
            (4, 3, 2, 1, 0.5),
        ],
        Scheme::Overlapping => {
            vec![
                (0, 3, 0, 1, 1.0),
                (1, 5, 2, 3, 1.0),
                (4, 3, 2, 1, 1.0 / 3.0),
            ]
        }
        Scheme::Chunked => vec![
            (0, 3, 0, 3, 1.0),
            (3, 3, 0, 3, 1.0),
            (6, 1, 0, 1, 1.0 / 3.0),
        ],
    }
}

fn fixed(k: usize) -> Box<dyn TruncationPolicy> {
    Box::new(FixedKConfig::new(k).init().unwrap())
}

/// One epoch against SGD by hand: scheme, carried state, mean loss, clipping, step scaling, the last window's share of a step
/// and the scheduler.
#[test]
fn an_epoch_is_sgd_by_hand() {
    let _turn = turn();
    let limit = 0.05;
    for scheme in [
        Scheme::Strided { losses: 2 },
        Scheme::Overlapping,
        Scheme::Chunked,
    ] {
        for (step_scaling, factor) in [
            (StepScaling::None, 1.0),
            (StepScaling::SqrtK, 3f64.sqrt()),
            (StepScaling::LinearK, 3.0),
        ] {
            for (clip, limit) in [
                (Clip::None, f64::INFINITY),
                (Clip::Norm(limit), limit),
                (Clip::PerK(limit), limit / 3.0),
            ] {
                let what = format!("{scheme:?}, {step_scaling:?}, {clip:?}");
                let settings = TbpttConfig {
                    scheme,
                    step_scaling,
                    clip,
                    ..config()
                };
                let windows: Vec<Span> = spans_of_three(scheme)
                    .into_iter()
                    .map(|(a, b, c, d, share)| (a, b, c, d, share * factor))
                    .collect();
                let report = assert_sgd(&what, fixed(3), settings, &windows, limit, None);
                let clipped = if limit.is_finite() { windows.len() } else { 0 };
                assert_eq!((report.windows, report.clipped), (windows.len(), clipped));
            }
        }
    }
}

/// Two windows to an update. Every window keeps its own share: stepped with the last one's factor, the third window, as long as
/// the others, would lose half its weight.
#[test]
fn accumulated_windows_keep_their_own_share_of_the_step() {
    let _turn = turn();
    let scheme = Scheme::Strided { losses: 2 };
    for (clip, limit) in [(Clip::None, f64::INFINITY), (Clip::Norm(0.05), 0.05)] {
        let settings = TbpttConfig {
            scheme,
            clip,
            ..config()
        };
        let what = format!("{clip:?}");
        assert_sgd(
            &what,
            fixed(3),
            settings,
            &spans_of_three(scheme),
            limit,
            Some(2),
        );
    }
}

/// The windows of random lengths as the policy draws them, one after the other; factor: the policy's, and the share of the last
/// window. A clip by the drawn length would make all updates equally long, and undo the policy's weights.
#[test]
fn a_clip_by_k_takes_the_typical_length_of_a_random_policy() {
    let _turn = turn();
    let policy = || {
        let lengths = RandomLengthConfig::new(3).with_spread(1.0).with_seed(5);
        lengths.init().unwrap()
    };
    let (mut draws, mut at, mut windows) = (policy(), 0, Vec::new());
    while at < 7 {
        let k = draws.next_window().k;
        let len = k.min(7 - at);
        windows.push((at, len, 0, len, len as f64 / 3.0));
        at += len;
    }
    let lengths: Vec<usize> = windows.iter().map(|window| window.1).collect();
    assert!(lengths.iter().any(|len| *len != lengths[0]), "{lengths:?}");
    for every in [None, Some(2)] {
        let settings = TbpttConfig {
            scheme: Scheme::Chunked,
            clip: Clip::PerK(0.05),
            ..config()
        };
        let what = format!("{every:?}");
        let limit = 0.05 / 3.0;
        assert_sgd(&what, Box::new(policy()), settings, &windows, limit, every);
    }
}

/// 400 steps in windows of 20 losses: as many updates for any K, and every loss counts once.
#[test]
fn by_default_k_changes_the_reach_of_the_gradient_alone() {
    let _turn = turn();
    let corpus = corpus(1604, 101);
    for k in [2, 20, 60] {
        let folder = tempfile::tempdir().unwrap();
        let settings = TbpttConfig {
            probe: ProbeConfig::new(20),
            ..TbpttConfig::default()
        };
        let (result, handle) = launch(
            training(&corpus, folder.path()),
            strategy(FixedKConfig::new(k).init().unwrap(), settings),
            model(&corpus, 0.0, 1),
            adam(),
            1e-2,
        );
        handle.finish(&result).unwrap();
        let report = &handle.reports()[0];
        let counts = (report.step, report.windows, report.tokens);
        assert_eq!(counts, (20, 20, 1600), "K = {k}");
    }
}

/// A clip that binds everywhere, and none: both are told.
#[test]
fn the_share_of_windows_in_which_the_clip_bound_is_reported() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let run = |clip| {
        let folder = tempfile::tempdir().unwrap();
        let share = Share::default();
        let training = training(&corpus, folder.path())
            .metric_train_numeric(StepMetric::clipped_share())
            .early_stopping(share.clone());
        let settings = TbpttConfig { clip, ..config() };
        let (result, handle) = launch(
            training,
            strategy(FixedKConfig::new(10).init().unwrap(), settings),
            model(&corpus, 0.0, 1),
            adam(),
            1e-3,
        );
        handle.finish(&result).unwrap();
        let report = handle.reports().remove(0);
        assert_eq!(*share.0.lock().unwrap(), Some(report.clipped_share()));
        report
    };
    let bound = run(Clip::Norm(1e-6));
    assert_eq!((bound.windows, bound.clipped_share()), (10, 1.0));
    let text = bound.to_string();
    assert!(
        text.contains("gradient clipped in 100 % of windows"),
        "{text}"
    );
    let free = run(Clip::None);
    assert_eq!((free.windows, free.clipped_share()), (10, 0.0));
    assert!(!free.to_string().contains("clipped"), "{free}");
}

/// What Burn's metric says of the share of clipped windows.
#[derive(Clone, Default)]
struct Share(Arc<Mutex<Option<f64>>>);

impl EarlyStoppingStrategy for Share {
    fn should_stop(&mut self, epoch: usize, store: &EventStoreClient) -> bool {
        let name = StepMetric::clipped_share().name();
        *self.0.lock().unwrap() = store.find_metric(&name, epoch, Aggregate::Mean, &Part::Train);
        false
    }
}
