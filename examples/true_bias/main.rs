//! Do the estimates say what truncation really costs? Trains a small model and, as it learns, measures the true relative bias of
//! the truncated parameter gradient over many windows, beside the direct estimate of a few probes and the readings of lag norms.
//!
//! ```text
//! cargo run --release --example true_bias -- --copy ../shared/data/copy_fixed --epochs 40
//! cargo run --release --example true_bias -- --built-in --epochs 8
//! cargo run --release --example true_bias -- --text ../shared/data/ptb --epochs 8 --hidden 64
//! cargo run --release --example true_bias -- --rivers ../shared/data/camels --epochs 40
//! ```
//!
//! The model itself trains with a fixed K. Controllers as an adaptive run has them watch it, one update per measured epoch.
//!
//! Expected: three lines per epoch, then for every reading the quantiles of estimate/truth and how often its K lies within a factor
//! 1.5 of the true K(δ); the points as CSV and a figure in the run folder.

#[allow(dead_code)] // Not all programs use all of it.
#[path = "../rainfall/basin.rs"]
mod basin;
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../copy/data.rs"]
mod copy_data;
#[path = "../copy/model.rs"]
mod copy_model;
mod options;
mod record;
mod report;
mod rivers;

use std::fs;
use std::process::ExitCode;

use atbptt::core::direct::DirectOutcome;
use atbptt::core::policy::{Estimate, Measurement, Position, TruncationPolicy};
use atbptt::core::{BiasEstimator, DirectEstimate, FixedKConfig, LagNorms, Tau};
use atbptt::models::{
    LanguageModel, LanguageModelConfig, LstmLayer, RecurrentModel, SeriesModelConfig,
};
use atbptt::prelude::*;
use atbptt::train::data::{Corpus, CorpusOptions, Split, SyntheticConfig};
use atbptt::train::run::RunFolder;
use atbptt::train::{
    FusedSgd, device_from_env, measured_bias, probe, probe_direct_distinct, quiet_renderer,
};
use burn::module::Module;
use burn::optim::{AdamConfig, ModuleOptimizer};
use burn::store::ModuleRecord;
use burn::tensor::Device;
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::{Learner, SupervisedTraining};
use clap::Parser;

use crate::common::diagnostics::SIZES;
use crate::common::{Result, exit_code, say};
use crate::copy_data::{CopyTask, SymbolSequences};
use crate::copy_model::CopyModel;
use crate::options::Cli;
use crate::record::{Record, Recorder};
use crate::report::{Chosen, Measured, Readings};

fn main() -> ExitCode {
    exit_code(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<ExitCode> {
    cli.check()?;
    let mut readings = Readings::default();
    let mut name = String::new();
    for file in &cli.replay {
        let mut watch = Watch::default();
        for record in record::read(file, cli)? {
            watch.add(cli, &record, &mut readings)?;
            name = record.task;
        }
    }
    if !cli.replay.is_empty() {
        fs::create_dir_all(&cli.out)?;
        report::write(cli, &name, &readings)?;
        return Ok(ExitCode::SUCCESS);
    }
    for seed in cli.seed..cli.seed.saturating_add(cli.seeds) {
        let out = match cli.seeds {
            1 => cli.out.clone(),
            _ => cli.out.join(format!("seed-{seed}")),
        };
        let one = Cli {
            seed,
            out,
            ..cli.clone()
        };
        name = run_seed(&one, &mut readings)?.into();
    }
    report::write(cli, &name, &readings)?;
    Ok(ExitCode::SUCCESS)
}

/// One run; the name of its task.
fn run_seed(cli: &Cli, readings: &mut Readings) -> Result<&'static str> {
    let device = device_from_env()?.device.autodiff();
    device.seed(cli.seed);
    if let Some(folder) = &cli.rivers {
        let [train, valid] = rivers::load(folder)?;
        // A forget bias of 3, so that weeks are remembered from the start (Kratzert et al. 2019).
        let model = SeriesModelConfig::new(rivers::INPUTS, 1, cli.hidden.unwrap_or(32))
            .with_forget_bias(3.0)
            .init::<LstmLayer>(&device)?;
        let adam = (AdamConfig::new().init(), 5e-3, Clip::Norm(1.0));
        return measure(cli, "river flow", model, (train, valid), adam, readings);
    }
    // The paper's step and clip at K = m, whatever K is.
    let losses = cli.scheme().losses(cli.train_k) as f64;
    let sgd = |lr: f64, decay: f64| -> Result<Recipe> {
        let optimizer = FusedSgd::new().with_weight_decay(decay)?.init();
        let lr = cli.lr.unwrap_or(lr) * losses.sqrt();
        Ok((optimizer, lr, Clip::Norm(1.0 / losses)))
    };
    let corpus = match (&cli.text, cli.built_in) {
        (Some(folder), _) => {
            let options = CorpusOptions {
                max_tokens: Some(cli.max_tokens),
                max_eval_tokens: Some((cli.max_tokens / 10).max(1)),
                ..CorpusOptions::default()
            };
            Corpus::from_folder(folder, &options)?
        }
        (None, true) => Corpus::synthetic(
            &SyntheticConfig::default()
                .with_tokens(cli.max_tokens, (cli.max_tokens / 10).max(200), 200)
                .with_vocabulary(60)
                .with_distances([4, 12])
                .with_classes(4),
        )?,
        (None, false) => {
            let [train, valid] = match &cli.copy {
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
            let model = CopyModel::new(6, cli.hidden.unwrap_or(50), 2, &device)?;
            let sources = (train?, valid?);
            return measure(cli, "copy task", model, sources, sgd(1.0, 1e-5)?, readings);
        }
    };
    let model: LanguageModel<LstmLayer> = LanguageModelConfig::new(corpus.vocabulary().len())
        .with_hidden(cli.hidden.unwrap_or(64))
        .with_dropout(cli.dropout)
        .init(&device)?;
    let sources = (corpus.training(32)?, corpus.evaluation(Split::Valid, 32)?);
    measure(
        cli,
        "language model",
        model,
        sources,
        sgd(10.0, 1e-7)?,
        readings,
    )
}

/// Optimiser, step size, clip.
type Recipe = (ModuleOptimizer, f64, Clip);

/// Trains with a fixed K, then goes through the checkpoints.
fn measure<M, S>(
    cli: &Cli,
    name: &'static str,
    model: M,
    (train, valid): (S, S),
    (optimizer, lr, clip): Recipe,
    readings: &mut Readings,
) -> Result<&'static str>
where
    M: RecurrentModel,
    S: SequenceSource<Batch = M::Batch> + Clone,
{
    let scheme = cli.scheme();
    let probe_config = ProbeConfig::new(cli.window).with_burn_in(cli.window / 5);
    probe_config.check_direct(scheme, train.common_steps())?;
    let config = TbpttConfig {
        scheme,
        step_scaling: StepScaling::None,
        clip,
        probe: probe_config.clone(),
        seed: cli.seed,
        ..TbpttConfig::default()
    };
    let updates_per_epoch =
        (train.common_steps() as f64 / scheme.losses(cli.train_k) as f64).max(1.0);
    let strategy = AdaptiveTbptt::new(FixedKConfig::new(cli.train_k).init()?, config)?;
    let handle = strategy.handle();
    if cli.out.join("checkpoint").exists() {
        return Err(format!(
            "{} already holds a run; name another folder with --out",
            cli.out.display()
        )
        .into());
    }
    let _folder = RunFolder::create(&cli.out)?;
    say(format_args!(
        "training: {name}, {scheme:?}, K = {} for {} epochs",
        cli.train_k, cli.epochs
    ));
    let training = SupervisedTraining::new(
        &cli.out,
        stream_loader::<M>(train.clone()),
        stream_loader::<M>(valid),
    )
    .renderer(quiet_renderer())
    .with_default_checkpointers()
    .with_checkpointing_strategy(KeepLastNCheckpoints::new(cli.epochs))
    .num_epochs(cli.epochs)
    .with_training_strategy(strategy.into_strategy());
    let result = training.launch(Learner::new(Tbptt::new(model), optimizer, lr));
    handle.finish(&result)?;
    let trained = result.model;

    let device = &device_from_env()?.device.autodiff();
    let mut watch = Watch::default();
    let mut recorder = Recorder::create(&cli.out.join("measurements.jsonl"))?;
    for report in handle.reports() {
        let epoch = report.epoch;
        if epoch % cli.every != 0 {
            continue;
        }
        let path = cli
            .out
            .join("checkpoint")
            .join(format!("model-{epoch}.bpk"));
        let record = ModuleRecord::load(path.clone())
            .map_err(|error| format!("cannot load {}: {error}", path.display()))?;
        let model = trained.clone().try_load_record(record)?.into_inner();
        let model = model.train();
        let truth = truth(cli, &model, &train, &probe_config, device)?;
        let (mut statistics, mut readings_of_norms) = (Vec::new(), Vec::new());
        for repeat in 0..cli.repeats {
            let seeds: Vec<u64> = (0..cli.pool())
                .map(|n| cli.seed * 1_000_000 + (repeat * cli.pool() + n + 1) * 1000 + epoch as u64)
                .collect();
            let cut = (probe_config.clone()).with_contexts(cli.cuts.contexts(cli.window));
            let drawn = (seeds.len(), seeds.first().copied().unwrap_or_default());
            let probed = probe_direct_distinct(&model, &train, cut, scheme, drawn, device)?;
            statistics.push(probed);
            if !cli.no_norms {
                readings_of_norms.push(norms(&model, &train, &probe_config, &seeds, device)?);
            }
        }
        let record = Record {
            task: name.into(),
            seed: cli.seed,
            at: Position {
                epoch,
                update: epoch as u64 * updates_per_epoch as u64,
            },
            updates_per_epoch,
            scheme,
            train_loss: report.train_loss,
            truth,
            statistics,
            norms: readings_of_norms,
        };
        recorder.add(&record)?;
        watch.add(cli, &record, readings)?;
    }
    Ok(name)
}

/// Controllers that watch one run, one per repeat and tolerance.
#[derive(Default)]
struct Watch {
    controllers: Vec<Vec<Box<dyn TruncationPolicy>>>,
}

impl Watch {
    /// What they make of one epoch.
    fn add(&mut self, cli: &Cli, record: &Record, readings: &mut Readings) -> Result<()> {
        let (truth, at, scheme) = (&record.truth, record.at, record.scheme);
        let tolerated = |delta: &f64| {
            let k = truth.smallest_k(*delta);
            format!(
                "K({delta}) = {}",
                k.map_or("none".into(), |k| k.to_string())
            )
        };
        let bias = |k: &usize| {
            let (bias, error) = report::measured(truth, *k);
            format!("K {k}: {bias:.3} ± {error:.3}")
        };
        say(format_args!(
            "epoch {}: loss {:.4}; true bias {}; {}",
            at.epoch,
            record.train_loss,
            words(&cli.k, bias),
            words(&cli.delta, tolerated),
        ));
        for (repeat, statistics) in record.statistics.iter().enumerate() {
            if self.controllers.len() <= repeat {
                self.controllers.push(cli.controllers()?);
            }
            let mut single = statistics.estimate(scheme)?;
            let mut chosen = Vec::new();
            let mut averaged = single.clone();
            for controller in self.controllers.get_mut(repeat).into_iter().flatten() {
                let mut probes = 0;
                if let Some(request) = controller.monitor().probes_due(at) {
                    let windows = statistics.population().unwrap_or(usize::MAX);
                    let mut asked = request.probes().min(windows);
                    let measured = loop {
                        let set = statistics.in_sets_of(asked)?.into_iter().next();
                        let Some(statistics) = set else {
                            return Err(
                                "a controller asks for more probes than were measured".into()
                            );
                        };
                        single = statistics.estimate(scheme)?;
                        let measured = Measurement::Direct {
                            statistics: Ok(statistics),
                            scheme,
                            updates_per_epoch: record.updates_per_epoch,
                        };
                        match controller.more_probes(&measured) {
                            0 => break measured,
                            more => asked += more,
                        }
                    };
                    probes = asked;
                    controller.update(at, measured);
                }
                let monitor = controller.monitor();
                if let Some(estimate) = monitor.last_estimate().and_then(Estimate::direct) {
                    averaged = estimate.clone();
                }
                chosen.push(Chosen {
                    k: controller.k(),
                    probes,
                    noise_limited: matches!(averaged.outcome(), DirectOutcome::NoiseLimited { .. }),
                });
            }
            if repeat == 0 {
                say(format_args!(
                    "  direct, {} probes: {}\n  averaged over updates: {}; K chosen: {}",
                    single.probes(),
                    single.describe(cli.train_k),
                    averaged.describe(cli.train_k),
                    words(&chosen, |of| of.k.to_string()),
                ));
            }
            readings.add(
                cli,
                Measured {
                    seed: record.seed,
                    epoch: at.epoch,
                    repeat,
                    truth,
                    single: &single,
                    averaged: &averaged,
                    chosen: &chosen,
                    norms: record.norms.get(repeat).map_or(&[], Vec::as_slice),
                },
            );
        }
        Ok(())
    }
}

/// One after the other.
fn words<T>(all: &[T], word: impl Fn(&T) -> String) -> String {
    all.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// The bias over as many windows as asked for, at the lengths asked for and enough others to find K(δ) between.
fn truth<M, S>(
    cli: &Cli,
    model: &M,
    source: &S,
    config: &ProbeConfig,
    device: &Device,
) -> Result<DirectEstimate>
where
    M: RecurrentModel,
    S: SequenceSource<Batch = M::Batch>,
{
    let mut ks = cli.k.clone();
    ks.extend(record::dense_contexts(cli.window).iter().map(|c| c + 1));
    let seeds: Vec<u64> = (0..cli.batches).map(|n| cli.seed * 1_000_000 + n).collect();
    let (config, scheme) = (config.clone(), cli.scheme());
    Ok(measured_bias(
        model, source, config, scheme, &ks, &seeds, device,
    )?)
}

/// Lag norms of all sequences of the probes together, read in every way.
fn norms<M, S>(
    model: &M,
    source: &S,
    config: &ProbeConfig,
    seeds: &[u64],
    device: &Device,
) -> Result<Vec<Option<atbptt::core::BiasEstimate>>>
where
    M: RecurrentModel,
    S: SequenceSource<Batch = M::Batch>,
{
    let mut probes: Vec<LagNorms> = Vec::new();
    for seed in seeds {
        device.seed(*seed);
        probes.push(probe(model, source, config.clone(), *seed, device)?);
    }
    let pooled = LagNorms::pool(&probes.iter().collect::<Vec<_>>())?;
    // τ = 0.8 W and least squares, as the copy experiment has it.
    let estimator = BiasEstimator::paper()
        .with_tau(Tau::Fraction(0.8))
        .with_fit_lag_zero(false);
    let read = |(size, _)| estimator.with_gradient_size(size).estimate(&pooled).ok();
    Ok(SIZES.into_iter().map(read).collect())
}
