//! What the tests of the strategy share: a model, settings, an optimiser, and a run with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::sync::{Arc, Mutex};

use atbptt_core::policy::TruncationPolicy;
use atbptt_models::LanguageModelConfig;
use atbptt_train::data::Corpus;
use atbptt_train::{AdaptiveTbptt, ProbeConfig, Scheme, Tbptt, TbpttConfig, TbpttHandle};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::{AdamConfig, ModuleOptimizer};
use burn::train::metric::MetricName;
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};
use burn::train::{EarlyStoppingStrategy, Learner, LearningResult, SupervisedTraining};

use crate::common::{Model, device};

pub fn model(corpus: &Corpus, dropout: f64, seed: u64) -> Model {
    device().seed(seed);
    LanguageModelConfig::new(corpus.vocabulary().len())
        .with_hidden(12)
        .with_dropout(dropout)
        .init(&device())
        .unwrap()
}

pub fn config() -> TbpttConfig {
    TbpttConfig {
        scheme: Scheme::Overlapping,
        probe: ProbeConfig::new(20),
        eval_chunk: 20,
        ..TbpttConfig::default()
    }
}

pub fn strategy(policy: impl TruncationPolicy + 'static, config: TbpttConfig) -> AdaptiveTbptt {
    AdaptiveTbptt::new(policy, config).unwrap()
}

pub fn adam() -> ModuleOptimizer {
    AdamConfig::new().init()
}

pub fn launch(
    training: SupervisedTraining<Tbptt<Model>>,
    strategy: AdaptiveTbptt,
    model: Model,
    optimizer: ModuleOptimizer,
    lr: impl Into<ModuleLrScheduler>,
) -> (LearningResult<Tbptt<Model>>, TbpttHandle) {
    let handle = strategy.handle();
    let result = training
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(Tbptt::new(model), optimizer, lr));
    (result, handle)
}

/// Burn's epoch values of some metrics, by name and split.
#[derive(Clone)]
pub struct Spy {
    names: Vec<(MetricName, Split)>,
    pub seen: Arc<Mutex<Vec<Vec<Option<f64>>>>>,
}

impl Spy {
    pub fn new(names: &[(MetricName, Split)]) -> Self {
        Self {
            names: names.to_vec(),
            seen: Arc::default(),
        }
    }
}

impl EarlyStoppingStrategy for Spy {
    fn should_stop(&mut self, epoch: usize, store: &EventStoreClient) -> bool {
        let read = |(name, split): &(MetricName, Split)| {
            store.find_metric(name, epoch, Aggregate::Mean, split)
        };
        self.seen
            .lock()
            .unwrap()
            .push(self.names.iter().map(read).collect());
        false
    }
}
