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
use std::panic;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atbptt::models::{LanguageModel, LstmLayer};
use atbptt::prelude::*;
use atbptt::train::data::{Corpus, Split, TokenStream};
use atbptt::train::metrics::{
    DecayRateMetric, PerplexityMetric, RelativeBiasMetric, TokensPerSecondMetric, TruncationMetric,
};
use atbptt::train::{QuietRenderer, evaluate};
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::optim::decay::WeightDecayConfig;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use burn::train::checkpoint::{
    ComposedCheckpointingStrategy, KeepLastNCheckpoints, MetricCheckpointingStrategy,
};
use burn::train::metric::store::{Aggregate, Direction, Split as MetricSplit};
use burn::train::{Interrupter, Learner, SupervisedTraining};
use clap::Parser;

use self::folder::RunFolder;
use self::options::outcome::Result;
use self::options::{Cli, Settings, Text};
use self::progress::{HEADER, Progress, epoch_line};

type Model = LanguageModel<LstmLayer>;

/// Exit code of a run ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// The program; `ptb` is the same one with another preset.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Trains and tests; `false` when the user interrupted.
fn run(cli: Cli) -> Result<bool> {
    let (folder, mut settings, resumed) = match &cli.resume {
        Some(path) => {
            let (folder, mut settings) = RunFolder::open(path)?;
            let epoch = folder.newest_checkpoint()?;
            settings.epochs = cli.epochs().unwrap_or(settings.epochs);
            (Some(folder), settings, Some(epoch))
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
    let device = default_device()?.autodiff();
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
    folder.write_settings(&settings)?;

    introduce(&settings, &corpus, &model, &device, &folder, resumed);
    let dashboard = !cli.no_tui && std::io::stdout().is_terminal() && cfg!(feature = "tui");
    let interrupter = Interrupter::new();
    let interrupted = stop_on_ctrl_c(&interrupter)?;
    let progress = Arc::new(Progress::new(!dashboard, settings.epochs));
    let strategy = strategy
        .with_run_folder(folder.path())
        .with_measures(test_perplexity(&test, &settings, &device))
        .with_observer(progress.clone());
    let handle = strategy.handle();
    let perplexity = PerplexityMetric::new();
    let mut training = SupervisedTraining::new(
        folder.path(),
        StreamLoader::tokens(train).into_loader::<Model>(),
        StreamLoader::tokens(valid).into_loader::<Model>(),
    )
    .metric_train_numeric(perplexity.clone())
    .metric_valid_numeric(perplexity.clone())
    .metric_train_numeric(TruncationMetric::new())
    .metric_train_numeric(RelativeBiasMetric::new())
    .metric_train_numeric(DecayRateMetric::new())
    .metric_train_numeric(TokensPerSecondMetric::new())
    .with_default_checkpointers()
    .with_checkpointing_strategy(
        ComposedCheckpointingStrategy::builder()
            .add(KeepLastNCheckpoints::new(2))
            .add(MetricCheckpointingStrategy::new(
                &perplexity,
                Aggregate::Mean,
                Direction::Lowest,
                MetricSplit::Valid,
            ))
            .build(),
    )
    .with_interrupter(interrupter)
    .num_epochs(settings.epochs)
    .with_training_strategy(strategy.into_strategy());
    if let Some(epoch) = resumed {
        training = training.checkpoint(epoch);
    }
    if !dashboard {
        training = training.renderer(Box::new(QuietRenderer));
    }
    let optimizer = SgdConfig::new()
        .with_weight_decay(Some(WeightDecayConfig::new(settings.weight_decay as f32)))
        .init();
    let result = training.launch(Learner::new(
        Tbptt::new(model.clone()),
        optimizer,
        settings.lr,
    ));
    let model_template = model;
    let outcome = handle.finish(&result);
    drop(result);
    progress.clear();

    let reports = handle.reports();
    let estimate = handle.last_estimate();
    let figure = folder.write_results(
        &reports,
        &handle.history(),
        estimate.as_ref(),
        settings.delta(),
    )?;
    outcome?;
    if dashboard {
        println!("{HEADER}");
        reports
            .iter()
            .for_each(|report| println!("{}", epoch_line(report)));
    }
    if interrupted.load(Ordering::Relaxed) {
        println!(
            "interrupted; go on with:  --resume {}",
            folder.path().display()
        );
        return Ok(false);
    }
    test_best_epoch(
        &model_template,
        &reports,
        test,
        &corpus,
        &folder,
        &settings,
        &device,
    )?;
    if let Some(figure) = figure {
        println!("figure: {}", figure.display());
    }
    Ok(true)
}

/// Says what is about to happen.
fn introduce(
    settings: &Settings,
    corpus: &Corpus,
    model: &Model,
    device: &Device,
    folder: &RunFolder,
    resumed: Option<usize>,
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
        "model:   LSTM, {} layer(s) of {} units, {} parameters; batch {}",
        settings.layers,
        settings.hidden,
        model.num_params(),
        settings.batch,
    );
    println!("device:  {:?}", device.clone().inner());
    println!("K:       {}", settings.policy_in_words());
    println!("run:     {}", folder.path().display());
    if let Some(epoch) = resumed {
        println!("resumed: from the checkpoint of epoch {epoch}");
    }
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
    reports: &[EpochReport],
    test: TokenStream,
    corpus: &Corpus,
    folder: &RunFolder,
    settings: &Settings,
    device: &Device,
) -> Result<()> {
    let best = reports
        .iter()
        .filter_map(|report| Some((report.epoch, report.valid_loss?)))
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let Some((epoch, _)) = best else {
        return Ok(());
    };
    if let Some(best) = reports.iter().find(|report| report.epoch == epoch) {
        folder.write_result(reports, best)?;
    }
    let path = folder
        .path()
        .join("checkpoint")
        .join(format!("model-{epoch}.bpk"));
    let record = ModuleRecord::load(path.clone())
        .map_err(|error| format!("cannot load {}: {error}", path.display()))?;
    let trained = Tbptt::new(model.clone())
        .try_load_record(record)
        .map_err(|error| format!("{} does not fit the model: {error}", path.display()))?;
    let loss = evaluate(
        &trained.into_inner().valid(),
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

/// First Ctrl-C ends the run after the current step, with a checkpoint; the second one at once.
fn stop_on_ctrl_c(interrupter: &Interrupter) -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let (flag, interrupter) = (interrupted.clone(), interrupter.clone());
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
        interrupter.stop(Some("Ctrl-C"));
    })?;
    Ok(interrupted)
}

/// Burn's default device; an unusable `BURN_DEVICE` is an error and not a panic.
fn default_device() -> Result<Device> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let device = panic::catch_unwind(Device::default);
    panic::set_hook(hook);
    device.map_err(|cause| {
        let reason = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "no device".into());
        format!("{reason} Unset BURN_DEVICE, or build with `--features` for the device it names")
            .into()
    })
}
