//! How well does an LSTM learn a text when the bias of its gradient, and not a guess, decides how far back it looks?
//!
//! ```text
//! cargo run --release --example wiki2                    # WikiText-2, scaled to about two minutes on two cores
//! cargo run --release --example wiki2 -- --paper         # the paper's settings (hours on a CPU)
//! cargo run --release --example wiki2 -- --data DIR      # a text of your own
//! cargo run --release --example wiki2 -- --fixed-k 10    # the usual fixed truncation, to compare
//! ```
//!
//! Expected: one line per epoch with falling perplexity, K moving from 100 to what the tolerated bias δ = 0.5 asks for, the
//! reason for it, and a run folder with metrics, checkpoints and `report.png`.

mod folder;
mod options;
mod progress;
mod text;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use atbptt::models::{LanguageModel, LstmLayer};
use atbptt::prelude::*;
use atbptt::train::data::{Corpus, Split, TokenStream};
use atbptt::train::metrics::{
    DecayRateMetric, PerplexityMetric, RelativeBiasMetric, TokensPerSecondMetric, TruncationMetric,
};
use atbptt::train::{
    Checkpoint, CheckpointConfig, FusedSgd, MetricFiles, NamedDevice, QuietRenderer, StopSignals,
    device_from_env, evaluate,
};
use burn::module::Module;
use burn::tensor::Device;
use burn::train::{Interrupter, Learner, SupervisedTraining};
use clap::Parser;

use self::folder::RunFolder;
use self::options::outcome::Result;
use self::options::{Cli, Settings, Text};
use self::progress::{HEADER, Progress, epoch_line, resumed_lines};

type Model = LanguageModel<LstmLayer>;

/// The program; `ptb` is the same one with another preset.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Trains and tests; the exit status, 128 + its number after a signal.
fn run(cli: Cli) -> Result<u8> {
    let (folder, mut settings, resumed) = match &cli.resume {
        Some(path) => {
            let (folder, checkpoint, mut settings) = RunFolder::open(path)?;
            cli.change(&mut settings);
            (
                cli.out.is_none().then_some(folder),
                settings,
                Some(checkpoint),
            )
        }
        None => (None, cli.settings(), None),
    };
    // What can be wrong with the options is found before any work or folder is made.
    settings.check()?;
    settings.policy()?;
    let corpus = text::load(&mut settings)?;
    if resumed.is_none() && settings.text == Text::BuiltIn {
        cli.fit_to_built_in(&mut settings);
    }
    let policy = settings.policy()?;
    let found = device_from_env()?;
    let device = found.device.clone().autodiff();
    device.seed(settings.training.seed);
    let model: Model = settings.model(corpus.vocabulary().len()).init(&device)?;
    let train = TokenStream::for_training(corpus.tokens(Split::Train), settings.batch)?;
    let valid = TokenStream::exact(corpus.evaluation_tokens(Split::Valid), settings.batch)?;
    let test = TokenStream::exact(corpus.evaluation_tokens(Split::Test), settings.batch)?;
    let strategy = AdaptiveTbptt::with_boxed_policy(policy, settings.training.clone())?;
    strategy.check_stream(train.steps())?;
    let folder = match folder {
        Some(folder) => folder,
        None => RunFolder::create(cli.out.as_deref())?,
    };

    introduce(&settings, &corpus, &model, &found, &folder);
    let dashboard = !cli.no_tui && std::io::stdout().is_terminal() && cfg!(feature = "tui");
    let interrupter = Interrupter::new();
    let signals = StopSignals::listen(&interrupter)?;
    let progress = Arc::new(Progress::new(!dashboard, settings.epochs, signals.clone()));
    let checkpoints = CheckpointConfig::new(folder.path())
        .every(settings.checkpoint_every)
        .with_identity(settings.identity(&corpus, folder.path())?)
        .with_settings(serde_json::to_string(&settings)?);
    let mut strategy = strategy
        .with_checkpoints(checkpoints)
        .on_non_finite(settings.on_non_finite)
        .with_measures(test_perplexity(&test, &settings, &device))
        .with_observer(progress.clone());
    let handle = strategy.handle();
    let mut training = SupervisedTraining::new(
        folder.path(),
        StreamLoader::tokens(train).into_loader::<Model>(),
        StreamLoader::tokens(valid).into_loader::<Model>(),
    )
    .with_metric_logger(MetricFiles::new(folder.path()))
    .metric_train_numeric(PerplexityMetric::new())
    .metric_valid_numeric(PerplexityMetric::new())
    .metric_train_numeric(TruncationMetric::new())
    .metric_train_numeric(RelativeBiasMetric::new())
    .metric_train_numeric(DecayRateMetric::new())
    .metric_train_numeric(TokensPerSecondMetric::new())
    .with_interrupter(interrupter)
    .num_epochs(settings.epochs);
    if let Some(checkpoint) = resumed {
        if checkpoint.epochs() > 0 {
            training = training.checkpoint(checkpoint.epochs());
        }
        strategy = strategy.resume(checkpoint);
    }
    if !dashboard {
        training = training.renderer(Box::new(QuietRenderer));
    }
    let optimizer = FusedSgd::new()
        .with_weight_decay(settings.weight_decay)?
        .init();
    let result = training
        .with_training_strategy(strategy.into_strategy())
        .launch(Learner::new(
            Tbptt::new(model.clone()),
            optimizer,
            settings.lr,
        ));
    let outcome = handle.finish(&result);
    drop(result);
    progress.clear();
    signals.restore_terminal();

    let reports = handle.reports();
    // A checkpoint that does not belong to this run leaves its folder as it was.
    if !matches!(&outcome, Err(TrainError::Checkpoint { .. })) || !reports.is_empty() {
        folder.write_settings(&settings)?;
    }
    let estimate = handle.last_estimate();
    let figure = folder.write_results(
        &reports,
        &handle.history(),
        estimate.as_ref(),
        settings.delta(),
    );
    // The error that ended the run says more than one of its figure.
    outcome?;
    let figure = figure?;
    if dashboard {
        if let Some(resumed) = handle.resumed() {
            println!("{}", resumed_lines(&resumed));
        }
        println!("{HEADER}");
        reports
            .iter()
            .for_each(|report| println!("{}", epoch_line(report)));
    }
    if handle.interrupted() {
        println!(
            "interrupted; go on with:  --resume {}",
            folder.path().display()
        );
        return Ok(signals.exit_status().unwrap_or(0));
    }
    test_best_epoch(&model, test, &corpus, &folder, &settings, &device)?;
    if let Some(figure) = figure {
        println!("figure: {}", figure.display());
    }
    Ok(0)
}

/// Says what is about to happen.
fn introduce(
    settings: &Settings,
    corpus: &Corpus,
    model: &Model,
    device: &NamedDevice,
    folder: &RunFolder,
) {
    println!("text:    {}", corpus.description());
    println!(
        "         {} training, {} validation, {} test tokens; {} words",
        corpus.len(Split::Train),
        corpus.len(Split::Valid),
        corpus.len(Split::Test),
        corpus.vocabulary().len(),
    );
    println!(
        "model:   LSTM, {} layer(s) of {} units, {} parameters, {}; batch {}",
        settings.layers,
        settings.hidden,
        model.num_params(),
        settings.precision.name(),
        settings.batch,
    );
    println!("device:  {device}");
    println!("K:       {}", settings.policy_in_words());
    println!("run:     {}", folder.path().display());
    if !settings.scaled.is_empty() {
        println!(
            "scaled:  {}; --paper gives the full settings",
            settings.scaled.join(", ")
        );
    }
    if let Some(entropy) = corpus.source_entropy(Split::Valid) {
        println!(
            "floor:   no model can reach a validation perplexity below {:.1} on this text",
            entropy.perplexity()
        );
    }
    println!();
}

/// The test perplexity after every epoch: for curves and sweeps.
fn test_perplexity(
    test: &TokenStream,
    settings: &Settings,
    device: &Device,
) -> impl Fn(&Model) -> std::result::Result<BTreeMap<String, f64>, TrainError> + Send + Sync + 'static
{
    let (source, chunk) = (TokenSource::new(test.clone()), settings.training.eval_chunk);
    let device = device.clone().inner();
    move |model| {
        let loss = evaluate(model, &source, chunk, &device)?;
        let perplexity = (loss.sum / loss.count as f64).min(700.0).exp();
        Ok(BTreeMap::from([("test_perplexity".into(), perplexity)]))
    }
}

/// Test perplexity with the weights of the best validation epoch.
fn test_best_epoch(
    model: &Model,
    test: TokenStream,
    corpus: &Corpus,
    folder: &RunFolder,
    settings: &Settings,
    device: &Device,
) -> Result<()> {
    let newest = Checkpoint::newest(folder.path())?;
    let Some(epoch) = newest.best_epoch() else {
        return Ok(());
    };
    if let Some(best) = newest.reports().iter().find(|report| report.epoch == epoch) {
        folder.write_result(newest.reports(), best)?;
    }
    let best = Checkpoint::end_of_epoch(folder.path(), epoch).ok_or_else(|| {
        format!(
            "the checkpoint of epoch {epoch}, the best one, is gone from {}; restore it and use --resume",
            folder.path().display()
        )
    })?;
    let trained = Checkpoint::open(best)?.model(model.clone())?;
    let loss = evaluate(
        &trained.valid(),
        &TokenSource::new(test),
        settings.training.eval_chunk,
        &device.clone().inner(),
    )?;
    println!();
    println!(
        "test perplexity {:.2} over {} tokens, weights of epoch {epoch} (best on validation)",
        (loss.sum / loss.count as f64).exp(),
        loss.count,
    );
    println!("text: {}", corpus.description());
    Ok(())
}
