//! Does the estimate really bound the bias of truncation? Trains a small model and, as it learns, measures the true relative
//! bias of the parameter gradient, by backpropagation through a whole window, beside what a probe of the same windows
//! estimates.
//!
//! ```text
//! cargo run --release --example true_bias -- --data ../shared/data/copy_fixed --epochs 40
//! cargo run --release --example true_bias -- --text ../shared/data/ptb --epochs 6 --hidden 64
//! ```
//!
//! Expected: a table of how many points (epoch, K) each reading of the estimate bounds, and by how much it overstates; the
//! points as CSV and figures in the run folder.

#[allow(dead_code)] // Not all programs use all of it.
mod common;
#[allow(dead_code)]
#[path = "copy/data.rs"]
mod copy_data;
#[path = "copy/model.rs"]
mod copy_model;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atbptt::core::{BiasEstimator, FixedK, GradientSize, LagNorms, Tau};
use atbptt::models::{LanguageModel, LanguageModelConfig, LstmLayer, RecurrentModel};
use atbptt::prelude::*;
use atbptt::train::data::{Corpus, CorpusOptions, Split};
use atbptt::train::plot::{Line, LinesPanel, lines_figure};
use atbptt::train::run::RunFolder;
use atbptt::train::{FusedSgd, QuietRenderer, device_from_env, measured_bias, probe};
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::{Learner, SupervisedTraining};
use clap::Parser;

use crate::common::diagnostics::SIZES;
use crate::common::{Result, exit_code};
use crate::copy_data::{CopyTask, SymbolSequences};
use crate::copy_model::CopyModel;

/// Measure the true relative bias of truncated gradients beside its estimate while a small model learns.
#[derive(Parser, Debug)]
#[command(name = "true_bias", version)]
struct Cli {
    /// Folder of the copy task's digit files; without --data and --text the task is generated
    #[arg(long, value_name = "DIR", conflicts_with = "text")]
    data: Option<PathBuf>,

    /// Folder with train.txt, valid.txt and test.txt: a small word-level language model instead of the copy task
    #[arg(long, value_name = "DIR")]
    text: Option<PathBuf>,

    /// Fixed K to train with, in steps: the bias is measured, not acted upon
    #[arg(long, value_name = "STEPS", default_value_t = 15)]
    train_k: usize,

    /// Truncation lengths to measure the bias of, in steps
    #[arg(
        long,
        value_name = "STEPS",
        value_delimiter = ',',
        default_value = "1,2,5,10,15,20,30"
    )]
    k: Vec<usize>,

    /// Passes over the training data; every one is measured
    #[arg(long, value_name = "N", default_value_t = 40)]
    epochs: usize,

    /// Window of full backpropagation, in steps; its burn-in is a fifth of it
    #[arg(long, value_name = "STEPS", default_value_t = 100)]
    window: usize,

    /// Batches of windows that the expectation is taken over
    #[arg(long, value_name = "N", default_value_t = 20)]
    batches: u64,

    /// Hidden units per layer
    #[arg(long, value_name = "UNITS", default_value_t = 50)]
    hidden: usize,

    /// Seed of initial weights and windows
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Base step size on the mean loss, times √K [default: 1; text: 10]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,

    /// Use only this many tokens of the text
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_tokens: usize,

    /// Folder for checkpoints, points and figures
    #[arg(long, value_name = "DIR", default_value = "runs/true_bias")]
    out: PathBuf,
}

fn main() -> ExitCode {
    exit_code(run(&Cli::parse()))
}

/// What can be wrong with the options is found before any work is done.
fn check(cli: &Cli) -> Result<()> {
    let repeated = (1..cli.k.len()).find(|&i| cli.k[..i].contains(&cli.k[i]));
    let wrong = match repeated {
        _ if cli.epochs == 0 => "--epochs must be at least 1".into(),
        _ if cli.batches == 0 => "--batches must be at least 1".into(),
        Some(i) => format!("--k names {} twice", cli.k[i]),
        None => match cli.k.iter().find(|k| !(1..=cli.window).contains(*k)) {
            Some(k) => format!(
                "--k {k} does not lie between 1 and the window of {} steps; see --window",
                cli.window
            ),
            None => return Ok(()),
        },
    };
    Err(wrong.into())
}

fn run(cli: &Cli) -> Result<ExitCode> {
    check(cli)?;
    let device = device_from_env()?.device.autodiff();
    device.seed(cli.seed);
    match &cli.text {
        None => {
            let [train, valid] = match &cli.data {
                Some(folder) => {
                    ["train", "valid"].map(|split| SymbolSequences::from_folder(folder, split, 6))
                }
                None => {
                    let task = CopyTask {
                        memory: (10, 10),
                        symbols: 6,
                        sequences: 64,
                    };
                    [(4000, 1), (1000, 2)].map(|(steps, seed)| task.generate(steps, seed))
                }
            };
            let model = CopyModel::new(6, cli.hidden, 2, &device)?;
            let lr = cli.lr.unwrap_or(1.0);
            measure(
                cli,
                "copy task",
                model,
                (train?, valid?),
                (lr, 1e-5),
                &device,
            )
        }
        Some(folder) => {
            let options = CorpusOptions {
                max_tokens: Some(cli.max_tokens),
                max_eval_tokens: Some((cli.max_tokens / 10).max(1)),
                ..CorpusOptions::default()
            };
            let corpus = Corpus::from_folder(folder, &options)?;
            let model: LanguageModel<LstmLayer> =
                LanguageModelConfig::new(corpus.vocabulary().len())
                    .with_hidden(cli.hidden)
                    .with_dropout(0.0)
                    .init(&device)?;
            let sources = (corpus.training(32)?, corpus.evaluation(Split::Valid, 32)?);
            let lr = cli.lr.unwrap_or(10.0);
            measure(cli, "language model", model, sources, (lr, 1e-7), &device)
        }
    }
}

/// One point: an epoch and a K.
struct Point {
    epoch: usize,
    k: usize,
    measured: f64,
    /// By reading of the gradient's size.
    estimated: Vec<f64>,
}

/// Trains with a fixed K, then goes through the checkpoints.
fn measure<M, S>(
    cli: &Cli,
    name: &str,
    model: M,
    (train, valid): (S, S),
    (lr, weight_decay): (f64, f64),
    device: &Device,
) -> Result<ExitCode>
where
    M: RecurrentModel,
    S: SequenceSource<Batch = M::Batch> + Clone,
{
    let probe_config = ProbeConfig::new(cli.window).with_burn_in(cli.window / 5);
    let config = TbpttConfig {
        probe: probe_config,
        seed: cli.seed,
        ..TbpttConfig::paper()
    };
    let strategy = AdaptiveTbptt::new(FixedK::new(cli.train_k)?, config)?;
    let handle = strategy.handle();
    if cli.out.join("checkpoint").exists() {
        return Err(format!(
            "{} already holds a run; name another folder with --out",
            cli.out.display()
        )
        .into());
    }
    let _folder = RunFolder::create(&cli.out)?;
    println!(
        "training: {name}, K = {} for {} epochs",
        cli.train_k, cli.epochs
    );
    let training = SupervisedTraining::new(
        &cli.out,
        StreamLoader::new(train.clone()).into_loader::<M>(),
        StreamLoader::new(valid).into_loader::<M>(),
    )
    .renderer(Box::new(QuietRenderer))
    .with_default_checkpointers()
    .with_checkpointing_strategy(KeepLastNCheckpoints::new(cli.epochs))
    .num_epochs(cli.epochs)
    .with_training_strategy(strategy.into_strategy());
    let optimizer = FusedSgd::new().with_weight_decay(weight_decay)?.init();
    let result = training.launch(Learner::new(Tbptt::new(model), optimizer, lr));
    handle.finish(&result)?;
    let trained = result.model;

    let seeds: Vec<u64> = (0..cli.batches).map(|n| cli.seed * 1000 + n).collect();
    let mut points = Vec::new();
    for report in handle.reports() {
        let epoch = report.epoch;
        let path = cli
            .out
            .join("checkpoint")
            .join(format!("model-{epoch}.bpk"));
        let record = ModuleRecord::load(path.clone())
            .map_err(|error| format!("cannot load {}: {error}", path.display()))?;
        let model = trained.clone().try_load_record(record)?.into_inner();
        let model = model.train();
        let measured = measured_bias(&model, &train, probe_config, &cli.k, &seeds, device)?;
        let probes: Vec<LagNorms> = seeds
            .iter()
            .map(|seed| probe(&model, &train, probe_config, *seed, device))
            .collect::<std::result::Result<_, _>>()?;
        let pooled = LagNorms::pool(&probes.iter().collect::<Vec<_>>())?;
        for (&k, &measured) in cli.k.iter().zip(&measured) {
            let estimated = SIZES.map(|(size, _)| estimate(&pooled, size, k));
            points.push(Point {
                epoch,
                k,
                measured,
                estimated: estimated.to_vec(),
            });
        }
        println!(
            "epoch {epoch}: loss {:.4}; true bias {}",
            report.train_loss,
            cli.k
                .iter()
                .zip(&measured)
                .map(|(k, bias)| format!("K {k}: {bias:.3}"))
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    write_points(&cli.out, &points)?;
    let table = table(&points);
    fs::write(cli.out.join("table.md"), &table)?;
    figure(cli, name, &points)?;
    println!(
        "\n{table}\nfigure: {}",
        cli.out.join("true_bias.png").display()
    );
    Ok(ExitCode::SUCCESS)
}

/// δ̂(k) with τ = 0.8 W and least squares, as the copy experiment has it; infinite where there is no bound.
fn estimate(norms: &LagNorms, size: GradientSize, k: usize) -> f64 {
    let estimator = BiasEstimator::new()
        .with_tau(Tau::Fraction(0.8))
        .with_gradient_size(size);
    let estimate = estimator.estimate(norms);
    estimate.map_or(f64::INFINITY, |estimate| estimate.relative_bias(k))
}

fn write_points(out: &Path, points: &[Point]) -> Result<()> {
    let mut table = csv::Writer::from_path(out.join("points.csv"))?;
    let head = ["epoch", "k", "measured"].into_iter();
    table.write_record(head.chain(SIZES.map(|(_, name)| name)))?;
    for point in points {
        let numbers = [
            point.epoch.to_string(),
            point.k.to_string(),
            point.measured.to_string(),
        ];
        let estimates = point.estimated.iter().map(f64::to_string);
        table.write_record(numbers.into_iter().chain(estimates))?;
    }
    Ok(table.flush()?)
}

/// Share of points bounded, and how loose the bound is where it holds and is finite.
fn table(points: &[Point]) -> String {
    // Where all of the window is kept there is no bias, and nothing to bound.
    let points: Vec<&Point> = points.iter().filter(|point| point.measured > 0.0).collect();
    let mut text = String::from(
        "| gradient size | points bounded | of those with a finite estimate | median looseness (estimate/true) |\n| --- | --- | --- | --- |\n",
    );
    for (nth, (_, name)) in SIZES.iter().enumerate() {
        let all = points.len();
        let bounded = points
            .iter()
            .filter(|point| point.estimated[nth] >= point.measured)
            .count();
        let finite: Vec<&&Point> = points
            .iter()
            .filter(|point| point.estimated[nth].is_finite())
            .collect();
        let finite_bounded = finite
            .iter()
            .filter(|point| point.estimated[nth] >= point.measured)
            .count();
        let mut ratios: Vec<f64> = finite
            .iter()
            .filter(|point| point.measured > 0.0)
            .map(|point| point.estimated[nth] / point.measured)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let median = match ratios.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => ratios[n / 2],
            n => (ratios[n / 2 - 1] + ratios[n / 2]) / 2.0,
        };
        text += &format!(
            "| {name} | {bounded} of {all} ({:.0} %) | {finite_bounded} of {} | {median:.2} |\n",
            100.0 * bounded as f64 / all.max(1) as f64,
            finite.len(),
        );
    }
    text
}

/// A panel per K: the truth solid, the readings of the estimate dashed.
fn figure(cli: &Cli, name: &str, points: &[Point]) -> Result<()> {
    let panels: Vec<LinesPanel> = cli
        .k
        .iter()
        .map(|&k| {
            let of_k = || points.iter().filter(move |point| point.k == k);
            let positive = |bias: f64| match bias > 0.0 && bias < 1e4 {
                true => bias,
                false => f64::NAN,
            };
            let measured = of_k().map(|p| (p.epoch as f64, positive(p.measured)));
            let mut lines = vec![Line::new(
                "true bias of the parameter gradient",
                measured.collect(),
            )];
            for (nth, (_, name)) in SIZES.iter().enumerate() {
                let estimated = of_k().map(|p| (p.epoch as f64, positive(p.estimated[nth])));
                let line = Line::new(format!("estimate, {name}"), estimated.collect());
                lines.push(line.dashed());
            }
            LinesPanel {
                title: format!("Relative bias at K = {k}"),
                x: "epoch".into(),
                lines,
            }
        })
        .collect();
    let title = format!(
        "True and estimated bias: {name}, trained with K = {}",
        cli.train_k
    );
    Ok(lines_figure(
        cli.out.join("true_bias.png"),
        &title,
        &panels,
    )?)
}
