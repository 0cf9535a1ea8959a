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

#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod options;
mod text;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;

use atbptt::models::{LanguageModel, LstmLayer};
use atbptt::prelude::*;
use atbptt::train::data::{Corpus, Split, TokenStream};
use atbptt::train::{EpochReport, NamedDevice, device_from_env, evaluate};
use burn::module::Module;

use self::common::diagnostics::lstm_parts;
use self::common::figures::Figure;
use self::common::folder::{RunFolder, Settings};
use self::common::options::parse;
use self::common::progress::{Style, left_out, number};
use self::common::train::{Start, Task, train};
use self::common::{Ended, Result, Show, exit_code};
use self::options::{Cli, Language, PROGRAM};

type Model = LanguageModel<LstmLayer>;

/// The program; `ptb` is the same one with another preset.
pub fn main() -> ExitCode {
    exit_code(run(parse(&options::defaults())))
}

/// Trains and tests.
fn run(cli: Cli) -> Result<Ended> {
    let mut start = Start::new(&cli.run, || cli.preset(), |settings| cli.apply(settings))?;
    let corpus = text::load(&mut start.settings.task, cli.paper)?;
    if !start.is_resumed() {
        cli.fit_to_built_in(&mut start.settings);
    }
    let Settings { task, plan } = start.settings.clone();
    let found = device_from_env()?;
    let device = found.device.clone().autodiff();
    device.seed(plan.training.seed);
    let model: Model = task.model(corpus.vocabulary().len()).init(&device)?;
    let training = TokenStream::for_training(corpus.tokens(Split::Train), plan.batch)?;
    let valid = TokenStream::exact(corpus.evaluation_tokens(Split::Valid), plan.batch)?;
    let test = TokenStream::exact(corpus.evaluation_tokens(Split::Test), plan.batch)?;
    AdaptiveTbptt::new(plan.rule()?, plan.training.clone())?.check_stream(training.steps())?;
    let folder = start.folder(&cli.run, PROGRAM)?;
    let dashboard = !cli.no_tui && std::io::stdout().is_terminal() && cfg!(feature = "tui");
    let show = match (cli.run.quiet, dashboard) {
        (true, _) => Show::Nothing,
        (false, true) => Show::Dashboard,
        (false, false) => Show::Lines,
    };
    if show != Show::Nothing {
        introduce(&start.settings, &corpus, &model, &found, &folder);
    }
    let (test, chunk) = (TokenSource::new(test), plan.training.eval_chunk);
    let tokens = corpus.len(Split::Test);
    let device = device.inner();
    let experiment = Task {
        title: format!("{}; {}", corpus.description(), plan.policy),
        figure: Figure::Perplexity,
        style: Style {
            header: Some(HEADER),
            line: epoch_line,
            running: |loss| format!("perplexity {:.1}", loss.exp()),
        },
        model,
        identity: task.identify(plan.identity()?, &corpus),
        parts: lstm_parts(task.layers),
        train: StreamLoader::tokens(training),
        valid: StreamLoader::tokens(valid),
        measures: Box::new(move |model: &Model| {
            let loss = evaluate(model, &test, chunk, &device)?;
            let perplexity = (loss.sum / loss.count as f64).min(700.0).exp();
            Ok(BTreeMap::from([("test_perplexity".into(), perplexity)]))
        }),
    };
    let (ended, result) = train(experiment, start, &folder, show)?;
    if let Some(result) = result {
        println!();
        println!(
            "test perplexity {} over {tokens} tokens, weights of epoch {} (best on validation, of {})",
            result.measure("test_perplexity", 2),
            result.best_epoch,
            result.epochs,
        );
        println!("text: {}", corpus.description());
        println!("figure: {}", folder.path().join("report.png").display());
    }
    Ok(ended)
}

/// Says what is about to happen.
fn introduce(
    settings: &Settings<Language>,
    corpus: &Corpus,
    model: &Model,
    device: &NamedDevice,
    folder: &RunFolder,
) {
    let Settings { task, plan } = settings;
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
        task.layers,
        task.hidden,
        model.num_params(),
        task.precision.name(),
        plan.batch,
    );
    println!("device:  {device}");
    println!("K:       {}", plan.in_words());
    println!("run:     {}", folder.path().display());
    if !task.scaled.is_empty() {
        println!(
            "scaled:  {}; --paper gives the full settings",
            task.scaled.join(", ")
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

/// Column heads of [`epoch_line`].
const HEADER: &str = "epoch   train ppl   valid ppl      K   rel. bias   decay    tokens/s   probes   seconds  why this K";

/// One line per epoch.
fn epoch_line(report: &EpochReport) -> String {
    let line = format!(
        "{:>5}  {:>10.1}  {:>10}  {:>5}  {:>10}  {:>6}  {:>10.0}  {:>6.1}%  {:>8.1}  {}",
        report.epoch,
        report.train_perplexity,
        number(report.valid_perplexity, 1),
        report.k,
        number(report.relative_bias, 3),
        number(report.decay, 4),
        report.tokens_per_second(),
        100.0 * report.probe_share(),
        report.elapsed_seconds,
        report.reason.as_deref().unwrap_or("start value"),
    );
    line + &left_out(report)
}
