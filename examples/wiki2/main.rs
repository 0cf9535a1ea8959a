//! How well does an LSTM learn a text when the bias of its gradient, and not a guess, decides how far back it looks?
//!
//! ```text
//! cargo run --release --example wiki2                    # WikiText-2, scaled to a minute and a half on two cores
//! cargo run --release --example wiki2 -- --paper         # the paper's settings (hours on a CPU)
//! cargo run --release --example wiki2 -- --data DIR      # a text of your own
//! cargo run --release --example wiki2 -- --fixed-k 10    # the usual fixed truncation, to compare
//! cargo run --release --example wiki2 -- --devices cuda:0,cuda:1   # on two cards; with `--features cuda`
//! cargo run --release --features remote --example wiki2 -- --devices ws://gpu:3000   # on another machine, where `serve` runs
//! ```
//!
//! Expected: one line per epoch with falling perplexity, K moving from 20 to what the tolerated bias δ = 0.5 asks for, the
//! estimated bias with its error, and a run folder with metrics, checkpoints and `report.png`.

#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod options;
mod text;

use std::process::ExitCode;

use atbptt::models::{LanguageModel, LstmLayer};
use atbptt::train::data::{Corpus, Split};
use atbptt::train::run::{Display, RunFolder, number};
use atbptt::train::{EpochReport, NamedDevice};
use burn::module::Module;

use self::common::diagnostics::lstm_parts;
use self::common::options::{in_words, parse};
use self::common::start::{Settings, Start, announce, finish};
use self::common::{Result, exit_code, say};
use self::options::{Cli, Language, PROGRAM};

type Model = LanguageModel<LstmLayer>;

/// The program; `ptb` is the same one with another preset.
pub fn main() -> ExitCode {
    exit_code(run(parse(&options::defaults())))
}

/// Trains and tests.
fn run(cli: Cli) -> Result<ExitCode> {
    let mut start = Start::new(&cli.run, || cli.preset(), |settings| cli.apply(settings))?;
    let devices = cli.run.devices()?;
    let corpus = text::load(&mut start.settings.task, cli.paper)?;
    if !start.is_resumed() {
        cli.fit_to_built_in(&mut start.settings);
    }
    let Settings { task, plan } = start.settings.clone();
    let training = corpus.training(plan.batch)?;
    let valid = corpus.evaluation(Split::Valid, plan.batch)?;
    let run = start
        .settings
        .run()
        .with_devices(devices.clone())
        .with_display(match cli.no_tui || !cfg!(feature = "tui") {
            _ if cli.run.quiet => Display::Silent,
            true => Display::Lines,
            false => Display::Dashboard,
        })
        .with_epoch_lines(Some(HEADER), epoch_line)
        .with_test(corpus.evaluation(Split::Test, plan.batch)?);
    let config = task.model(corpus.vocabulary().len());
    let run = task
        .identify(run, &corpus)
        .with_language_model(&config, &corpus);
    run.check(&training)?;
    let model: Model = config.init(&run.device()?)?;
    let folder = start.folder(&cli.run, PROGRAM)?;
    if !cli.run.quiet {
        introduce(&start.settings, &corpus, &model, &devices, &folder);
    }
    let result = run.train(
        &folder,
        model,
        training.clone(),
        valid,
        plan.optimizer()?,
        plan.lr,
    )?;
    let parts = lstm_parts(task.layers);
    finish(result, &training, &plan, &parts, |summary| {
        format!(
            "\ntest perplexity {} over {} tokens, weights of epoch {} (best on validation, of {})\ntext: {}\nfigure: {}",
            summary.measure("test_perplexity", 2),
            corpus.len(Split::Test),
            summary.best_epoch,
            summary.epochs,
            corpus.description(),
            folder.path().join("report.png").display(),
        )
    })
}

/// Says what is about to happen.
fn introduce(
    settings: &Settings<Language>,
    corpus: &Corpus,
    model: &Model,
    devices: &[NamedDevice],
    folder: &RunFolder,
) {
    let Settings { task, plan } = settings;
    say(format_args!("text:    {}", corpus.description()));
    say(format_args!(
        "         {} training, {} validation, {} test tokens; {} different {}",
        corpus.len(Split::Train),
        corpus.len(Split::Valid),
        corpus.len(Split::Test),
        corpus.vocabulary().len(),
        task.reading.unit_name(),
    ));
    say(format_args!(
        "model:   LSTM, {} layer(s) of {} units, {} parameters, {}; batch {}",
        task.layers,
        task.hidden,
        model.num_params(),
        task.precision.name(),
        plan.batch,
    ));
    if !task.scaled.is_empty() {
        say(format_args!(
            "scaled:  {}; --paper gives the full settings",
            task.scaled.join(", ")
        ));
    }
    if let Some(floor) = corpus.perplexity_floor(Split::Valid) {
        say(format_args!(
            "floor:   no model can reach a validation perplexity below {floor:.1} on this text"
        ));
    }
    announce(&in_words(devices), plan, folder);
}

/// Column heads of [`epoch_line`].
const HEADER: &str = "epoch   train ppl   valid ppl    tokens/s   probes   seconds      K  what is known of its bias";

/// One line per epoch.
fn epoch_line(report: &EpochReport) -> String {
    let line = format!(
        "{:>5}  {:>10.1}  {:>10}  {:>10.0}  {:>6.1}%  {:>8.1}  {:>5}  {}",
        report.epoch,
        report.train_perplexity,
        number(report.valid_perplexity, 1),
        report.tokens_per_second(),
        100.0 * report.probe_share(),
        report.elapsed_seconds,
        report.k,
        report.reason.as_deref().unwrap_or("as configured"),
    );
    line + &report.left_out()
}
