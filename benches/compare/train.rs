//! `train/*`: updates of the real loop, on random tokens: `AdaptiveTbptt` inside Burn's `SupervisedTraining`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atbptt::core::{FixedKConfig, TruncationPolicy};
use atbptt::models::{LanguageModel, LanguageModelConfig, LstmLayer};
use atbptt::train::{
    AdaptiveTbptt, EpochReport, FusedSgd, NamedDevice, Tbptt, TbpttConfig, TokenSource,
    TrainingObserver, device_from_env, quiet_renderer, stream_loader,
};
use burn::train::{Learner, SupervisedTraining};
use rand::{RngExt, SeedableRng};

use crate::Result;
use crate::cases::{Measured, TrainCase};

pub type Model = LanguageModel<LstmLayer>;

pub fn measure(case: TrainCase, repeat: usize) -> Result<Measured> {
    // At the stream's beginning windows have less context than they want; the first that has all of it warms up.
    let losses = case.scheme.losses(case.k).max(1);
    let short = case.scheme.context(case.k).div_ceil(losses);
    let run = run(
        case,
        FixedKConfig::new(case.k).init()?,
        short + 1 + repeat,
        1,
    )?;
    Measured::new(
        case.name(),
        case.tokens(),
        run.steps.into_iter().skip(short).collect(),
        &device_from_env()?,
    )
}

/// What a run gave.
pub struct Run {
    /// Time from window to window.
    pub steps: Vec<Duration>,
    pub reports: Vec<EpochReport>,
}

/// `epochs` times `windows` updates, with the peer's settings: dropout 0.2, SGD at 1, weight decay 1e-7, clip 1.
pub fn run(
    case: TrainCase,
    policy: impl TruncationPolicy + 'static,
    windows: usize,
    epochs: usize,
) -> Result<Run> {
    run_watched(case, policy, windows, epochs, |_| ())
}

/// The same; `watch` is told how many windows are done, after each.
pub fn run_watched(
    case: TrainCase,
    policy: impl TruncationPolicy + 'static,
    windows: usize,
    epochs: usize,
    watch: impl Fn(usize) + Send + Sync + 'static,
) -> Result<Run> {
    run_on(case, policy, windows, epochs, &[], watch)
}

/// The same on several devices; on none, on that of `BURN_DEVICE`.
pub fn run_on(
    case: TrainCase,
    policy: impl TruncationPolicy + 'static,
    windows: usize,
    epochs: usize,
    devices: &[NamedDevice],
    watch: impl Fn(usize) + Send + Sync + 'static,
) -> Result<Run> {
    let device = device_from_env()?.device.autodiff();
    let model: Model = LanguageModelConfig::new(case.vocabulary)
        .with_hidden(case.hidden)
        .init(&device)?;
    let clock = Arc::new(Clock {
        ends: Mutex::default(),
        watch: Box::new(watch),
    });
    let config = TbpttConfig {
        scheme: case.scheme,
        ..TbpttConfig::default()
    };
    let strategy = AdaptiveTbptt::new(policy, config)?
        .with_observer(clock.clone())
        .on_devices(devices.to_vec())?;
    let handle = strategy.handle();
    let sgd = FusedSgd::new().with_weight_decay(1e-7)?;
    let folder = tempfile::tempdir()?;
    let result = SupervisedTraining::new(
        folder.path(),
        stream_loader(tokens(case, windows * case.scheme.losses(case.k))?),
        stream_loader(tokens(TrainCase { batch: 1, ..case }, 2)?),
    )
    .renderer(quiet_renderer())
    .with_application_logger(None)
    .num_epochs(epochs)
    .with_training_strategy(strategy.into_strategy())
    .launch(Learner::new(Tbptt::new(model), sgd.init(), 1.0));
    handle.finish(&result)?;
    let ends = clock.ends.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Run {
        steps: ends.windows(2).map(|pair| pair[1] - pair[0]).collect(),
        reports: handle.reports(),
    })
}

/// Random tokens: `steps` steps of every sequence.
pub fn tokens(case: TrainCase, steps: usize) -> Result<TokenSource> {
    let mut random = rand_pcg::Pcg64::seed_from_u64(1);
    let count = case.batch * (steps + 1);
    let most = u32::try_from(case.vocabulary)?;
    let tokens: Vec<u32> = (0..count).map(|_| random.random_range(0..most)).collect();
    Ok(TokenSource::training(tokens, case.batch)?)
}

/// When each window ended.
struct Clock {
    ends: Mutex<Vec<Instant>>,
    watch: Box<dyn Fn(usize) + Send + Sync>,
}

impl TrainingObserver for Clock {
    fn on_window(&self, _epoch: usize, _paid: usize, _total: usize, _running_loss: f64) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.push(Instant::now());
        (self.watch)(ends.len());
    }
}
