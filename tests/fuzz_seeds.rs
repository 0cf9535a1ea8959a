//! The fuzz targets' laws on the seeds, and on every input that once broke one. The targets themselves live in `fuzz/`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::fs;
use std::path::{Path, PathBuf};

use atbptt::core::{AdaptiveKConfig, BiasEstimator, Estimator};
use atbptt::models::NamedTensors;
use atbptt::train::data::{
    Corpus, CorpusOptions, FileTokens, Split, Table, TableOptions, Vocabulary,
};
use atbptt::train::{
    AdaptiveTbptt, Checkpoint, CheckpointConfig, FusedSgd, ProbeConfig, Tbptt, TbpttConfig,
    TokenSource, quiet_renderer, stream_loader,
};
use burn::tensor::Device;
use burn::train::{Learner, SupervisedTraining};

#[path = "../fuzz/src/lib.rs"]
mod targets;

fn folder(kind: &str, target: &str) -> PathBuf {
    // From the package's root, where cargo runs tests: a path known at compile time goes stale in a target directory that
    // several clones share.
    Path::new("fuzz").join(kind).join(target)
}

fn files(kind: &str, target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(kind, target)).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The panic of a broken law names the file.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("broken by {}", self.0.display());
        }
    }
}

#[test]
fn every_seed_and_every_former_finding_keeps_the_laws() {
    for &(name, target) in targets::TARGETS {
        let seeds = files("seeds", name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for path in seeds.into_iter().chain(files("regressions", name)) {
            let bytes = fs::read(&path).unwrap();
            let named = Named(&path);
            target(&bytes);
            drop(named);
        }
    }
}

/// The seeds lead behind the checks: a target that refuses all of its seeds would test little.
#[test]
fn seeds_of_files_are_accepted() {
    let accepted = |target: &str, accepts: fn(&[u8]) -> bool| {
        let files = files("seeds", target);
        let read = |path: &PathBuf| fs::read(path).unwrap();
        files
            .iter()
            .map(read)
            .filter(|bytes| accepts(bytes))
            .count()
    };
    let checkpoint = |bytes: &[u8]| {
        let template = targets::checkpoint::model(&Device::flex());
        Checkpoint::from_bytes(bytes).is_ok_and(|read| read.model(template).is_ok())
    };
    assert!(accepted("checkpoint", checkpoint) >= 2);
    let parts = |bytes: &[u8]| {
        let file = targets::checkpoint::signed(&targets::checkpoint::sections(bytes));
        Checkpoint::from_bytes(&file).is_ok()
    };
    assert!(accepted("checkpoint_parts", parts) >= 2);
    let tokens = |bytes: &[u8]| FileTokens::decode(bytes).is_ok();
    assert!(accepted("tokens", tokens) >= 1);
    let norms = |bytes: &[u8]| atbptt::train::probe_file::from_slice(bytes).is_ok();
    assert!(accepted("norms", norms) >= 5);
    let table = |bytes: &[u8]| {
        let options = TableOptions::default()
            .with_delimiter(char::from(bytes[0]))
            .with_decimal_comma(bytes[1] & 1 != 0);
        Table::from_reader(&bytes[2..], "a seed", &["a", "b"], &options).is_ok()
    };
    assert!(accepted("table", table) >= 2);
    #[cfg(feature = "tokenizers")]
    {
        use atbptt::train::data::HuggingFaceTokenizer;
        let file = |bytes: &[u8]| {
            let file = bytes.split(|byte| *byte == 0x1C).next().unwrap_or_default();
            HuggingFaceTokenizer::from_bytes(file).is_ok()
        };
        assert!(accepted("tokenizer", file) >= 4);
    }
    let weights = |bytes: &[u8]| NamedTensors::from_safetensors(bytes).is_ok();
    assert!(accepted("weights", weights) >= 4);
    #[cfg(feature = "pytorch")]
    {
        let folder = tempfile::tempdir().unwrap();
        let read = |path: &PathBuf| {
            let copy = folder.path().join("seed.pt");
            fs::copy(path, &copy).unwrap();
            NamedTensors::open(copy).is_ok()
        };
        let files = files("seeds", "torch");
        assert!(files.iter().filter(|path| read(path)).count() >= 5);
    }
}

/// Makes those seeds anew that are not written by hand, after a change of a format:
/// `cargo test --release --test fuzz_seeds -- --ignored`.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder("seeds", target)).unwrap();
        fs::write(folder("seeds", target).join(name), bytes).unwrap();
    };
    let tokens = FileTokens::encode(&[0, 1, 2, 1, u32::MAX]);
    put("tokens", "whole", &tokens);
    put("tokens", "unsigned", &tokens[..tokens.len() - 32]);
    let vocabulary = Vocabulary::try_from(vec!["a".to_string(), "<eos>".into()]).unwrap();
    put(
        "tokens",
        "vocabulary",
        &serde_json::to_vec(&vocabulary).unwrap(),
    );

    for (name, epochs) in [("start", 0), ("trained", 2)] {
        let bytes = checkpoint(epochs);
        put("checkpoint", name, &bytes);
        let read = sections(&bytes);
        put(
            "checkpoint_parts",
            name,
            &read.join(targets::checkpoint::SEPARATOR),
        );
    }
}

/// The contents of a file that is known to be sound.
fn sections(bytes: &[u8]) -> Vec<&[u8]> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let mut start = 24 + 16 * 7;
    (0..7)
        .map(|index| {
            let section = &bytes[start..start + number(24 + 16 * index + 8)];
            start += section.len();
            section
        })
        .collect()
}

/// A checkpoint of the targets' small model, after so many epochs.
fn checkpoint(epochs: usize) -> Vec<u8> {
    let run = tempfile::tempdir().unwrap();
    let text = "a b ".repeat(60);
    let options = CorpusOptions::default().with_max_eval_tokens(20);
    let corpus = Corpus::from_readers([text.as_bytes(); 3], &options).unwrap();
    let stream = |split| TokenSource::training(corpus.tokens(split), 2).unwrap();
    let policy = AdaptiveKConfig::new(0.5)
        .with_estimator(Estimator::Norms(BiasEstimator::new()))
        .with_k0(5)
        .with_k_max(8)
        .with_probes(1);
    let config = TbpttConfig {
        probe: ProbeConfig::new(6).with_burn_in(0),
        ..TbpttConfig::default()
    };
    let checkpoints = CheckpointConfig::new(run.path())
        .must_match("data", corpus.fingerprint())
        .with_settings("any text");
    let strategy = AdaptiveTbptt::new(policy.init().unwrap(), config)
        .unwrap()
        .with_checkpoints(checkpoints);
    let handle = strategy.handle();
    let model = targets::checkpoint::model(&Device::flex().autodiff());
    let result = SupervisedTraining::new(
        run.path(),
        stream_loader(stream(Split::Train)),
        stream_loader(stream(Split::Valid)),
    )
    .num_epochs(epochs)
    .renderer(quiet_renderer())
    .with_application_logger(None)
    .with_training_strategy(strategy.into_strategy())
    .launch(Learner::new(Tbptt::new(model), FusedSgd::new().init(), 0.1));
    handle.finish(&result).unwrap();
    Checkpoint::newest(run.path()).unwrap().to_bytes().unwrap()
}
