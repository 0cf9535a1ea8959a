//! What tests that train share: a small language, a small model, and a way to compare runs bit by bit.

#![allow(dead_code)] // not every test uses everything

#[cfg(feature = "remote")]
pub mod servers;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use atbptt_models::{LanguageModel, LanguageModelConfig, LstmLayer};
use atbptt_train::data::{Corpus, Split, SyntheticConfig};
use atbptt_train::{EpochReport, Tbptt, TokenSource, quiet_renderer, stream_loader};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use burn::train::SupervisedTraining;

pub type Model = LanguageModel<LstmLayer>;

static TURN: Mutex<()> = Mutex::new(());

/// The random generator is one per process, so tests that train take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A language of 36 words whose closers stand 3 steps after their openers.
pub fn corpus(train: usize, valid: usize) -> Corpus {
    let language = SyntheticConfig::default()
        .with_tokens(train, valid, 2)
        .with_vocabulary(36)
        .with_distances([3])
        .with_classes(2);
    Corpus::synthetic(&language).unwrap()
}

pub fn device() -> Device {
    Device::flex().autodiff()
}

pub fn model(corpus: &Corpus, hidden: usize, dropout: f64, seed: u64) -> Model {
    device().seed(seed);
    LanguageModelConfig::new(corpus.vocabulary().len())
        .with_hidden(hidden)
        .with_dropout(dropout)
        .init(&device())
        .unwrap()
}

/// Four training sequences, one validation sequence, no checkpoints.
pub fn training(corpus: &Corpus, folder: &Path) -> SupervisedTraining<Tbptt<Model>> {
    let train = TokenSource::training(corpus.tokens(Split::Train), 4).unwrap();
    let valid = TokenSource::evaluation(corpus.tokens(Split::Valid), 1).unwrap();
    SupervisedTraining::new(folder, stream_loader(train), stream_loader(valid))
        .renderer(quiet_renderer())
        .with_application_logger(None)
}

/// Bits of all weights in visiting order.
pub fn bits<M: Module>(module: &M) -> Vec<u32> {
    weights(module).into_iter().map(f32::to_bits).collect()
}

pub fn weights<M: Module>(module: &M) -> Vec<f32> {
    struct Collect(Vec<f32>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut collect = Collect(Vec::new());
    module.visit(&mut collect);
    collect.0
}

/// Reports without their times.
pub fn timeless(reports: &[EpochReport]) -> Vec<EpochReport> {
    let timeless = |report: &EpochReport| {
        let mut report = report.clone();
        report.train_seconds = 0.0;
        report.probe_seconds = 0.0;
        report.valid_seconds = 0.0;
        report.elapsed_seconds = 0.0;
        report
    };
    reports.iter().map(timeless).collect()
}

/// Copies a folder with everything in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            // A file may be renamed while we look.
            false => {
                let _ = std::fs::copy(entry.path(), target);
            }
        }
    }
}
