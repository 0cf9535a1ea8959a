//! Can an LSTM learn to repeat what it saw m steps ago, and which truncation length does it need for that?
//!
//! ```text
//! cargo run --release --example copy                                     # generated data, memory 10, δ = 0.5
//! cargo run --release --example copy -- --min-memory 5                   # memory between 5 and 10
//! cargo run --release --example copy -- --fixed-k 1                      # the shortest windows
//! cargo run --release --example copy -- --data DIR --paper --epochs 200  # digit files, the paper's settings
//! ```
//!
//! Expected: a perplexity that falls towards 1 once K reaches the memory length; a run folder with metrics, checkpoints
//! and figures.

#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod data;
mod model;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use atbptt::core::policy::MonitorConfig;
use atbptt::core::{BiasEstimator, GradientSize, Tau};
use atbptt::prelude::*;
use atbptt::train::run::DataPath;
use atbptt::train::{NamedDevice, evaluate};
use burn::module::Module;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::common::diagnostics::lstm_parts;
use crate::common::options::{Plan, RunArgs, in_words, parse};
use crate::common::rule::PolicyArgs;
use crate::common::snap::Snap;
use crate::common::start::{Settings, Start, announce, finish};
use crate::common::{Result, exit_code, say};
use crate::data::{CopyTask, SymbolSequences, content_hash};
use crate::model::CopyModel;

/// Train an LSTM on the copy task of Aicher et al. (2019) with adaptively truncated backpropagation through time.
///
/// Every symbol has to be repeated m steps after it was seen. Without --data the task is generated.
#[derive(Parser, Debug)]
#[command(name = "copy", version)]
struct Cli {
    /// Folder with train_input.txt, train_target.txt and the same for valid and test: one line per step, one digit per
    /// sequence
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Memory length m of generated data, in steps [default: 10]
    #[arg(long, value_name = "STEPS", conflicts_with = "data")]
    memory: Option<usize>,

    /// Smallest memory length, drawn anew for every block up to --memory [default: as --memory]
    #[arg(long, value_name = "STEPS", conflicts_with = "data")]
    min_memory: Option<usize>,

    /// Number of different symbols, blank and marker among them [default: 6]
    #[arg(long, value_name = "N")]
    symbols: Option<usize>,

    /// Steps of generated training data per sequence; a quarter as many for validation and test [default: 4000]
    #[arg(long, value_name = "STEPS", conflicts_with = "data")]
    steps: Option<usize>,

    /// Hidden units per layer [default: 50]
    #[arg(long, value_name = "UNITS")]
    hidden: Option<usize>,

    /// LSTM layers [default: 2]
    #[arg(long, value_name = "N")]
    layers: Option<usize>,

    /// The paper's settings: windows of 2K−1 steps, step size times √K, clip 1/K, one probe per epoch, and its estimator of the
    /// bias exactly (the norm of the mean over the states, τ = 0.8 W); single options still override
    #[arg(long, conflicts_with = "resume")]
    paper: bool,

    /// The gradient of SnAp-1 (Menick et al. 2021), carried forward and never backpropagated through time, and an update every so
    /// many steps; for one layer
    #[arg(long, value_name = "STEPS", conflicts_with_all = [
        "policy", "style", "losses", "estimate", "gradient_size", "probes", "paper", "resume",
    ])]
    snap: Option<usize>,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    run: RunArgs,
}

/// Best of those tried on validation; see docs/EXAMPLES.md.
const LEARNING_RATE: f64 = 1.0;

/// Where the symbols come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Data {
    Folder(DataPath),
    Generated { task: CopyTask, steps: usize },
}

/// Data and model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Copy {
    data: Data,
    symbols: usize,
    hidden: usize,
    layers: usize,
    /// Whether SnAp-1 makes the gradient.
    #[serde(default)]
    snap: bool,
}

/// Settings of a new run.
fn preset(paper: bool) -> Settings<Copy> {
    let rule = AdaptiveKConfig::new(0.5)
        .with_k0(15)
        .with_k_min(2)
        .with_k_max(100);
    let training = TbpttConfig {
        probe: ProbeConfig::new(100).with_burn_in(20),
        seed: 1,
        eval_chunk: 100,
        ..match paper {
            true => TbpttConfig::paper(),
            false => TbpttConfig::default(),
        }
    };
    let (rule, lr) = match paper {
        true => {
            let estimator = BiasEstimator::paper()
                .with_tau(Tau::Fraction(0.8))
                .with_fit_lag_zero(false)
                .with_gradient_size(GradientSize::NormOfMeanStateSum);
            (
                rule.with_monitor(MonitorConfig::paper(estimator).with_probes(1)),
                1.0,
            )
        }
        false => (rule, LEARNING_RATE),
    };
    let plan = Plan {
        training,
        batch: 64,
        epochs: 50,
        lr,
        weight_decay: 1e-5,
        ..Plan::new(rule)
    };
    let task = Copy {
        data: Data::generated(),
        symbols: 6,
        hidden: 50,
        layers: 2,
        snap: false,
    };
    Settings { task, plan }
}

impl Cli {
    /// Puts what the user asked for into the settings.
    fn apply(&self, mut settings: Settings<Copy>) -> Result<Settings<Copy>> {
        settings.plan = settings.plan.with_options(&self.policy, &self.run)?;
        let Settings { task, plan } = &mut settings;
        task.symbols = self.symbols.unwrap_or(task.symbols);
        task.hidden = self.hidden.unwrap_or(task.hidden);
        task.layers = self.layers.unwrap_or(task.layers);
        task.snap |= self.snap.is_some();
        if task.snap {
            *plan = plan.clone().with_snap(self.snap)?;
        }
        if task.snap && task.layers != 1 {
            let layers = task.layers;
            return Err(format!("--snap is for one layer, got {layers}; add --layers 1").into());
        }
        let generation = self.memory.or(self.min_memory).or(self.steps);
        match (&self.data, generation, &mut task.data) {
            (Some(folder), _, data) => *data = Data::Folder(DataPath::new(folder)?),
            // Files that are to become generated data.
            (None, Some(_), data @ Data::Folder(_)) => *data = Data::generated(),
            (None, _, _) => {}
        }
        if let Data::Generated { task: copy, steps } = &mut task.data {
            let (least, most) = copy.memory;
            let most = self.memory.unwrap_or(most);
            let least = self.min_memory.or(self.memory).unwrap_or(least);
            copy.memory = (least, most);
            copy.symbols = task.symbols;
            copy.sequences = plan.batch;
            *steps = self.steps.unwrap_or(*steps);
        }
        Ok(settings)
    }
}

impl Data {
    /// What is generated where nothing else is asked for; symbols and sequences follow the model's.
    fn generated() -> Self {
        Self::Generated {
            task: CopyTask {
                memory: (10, 10),
                symbols: 6,
                sequences: 64,
            },
            steps: 4000,
        }
    }
}

impl Copy {
    /// Training, validation and test sequences.
    fn load(&self) -> Result<[SymbolSequences; 3]> {
        Ok(match &self.data {
            Data::Folder(folder) => {
                let read = |split| SymbolSequences::from_folder(folder.path(), split, self.symbols);
                [read("train")?, read("valid")?, read("test")?]
            }
            // The data have seeds of their own: --seed varies what is learnt from the same data.
            Data::Generated { task, steps } => [
                task.generate(*steps, 1)?,
                task.generate((steps / 4).max(1), 2)?,
                task.generate((steps / 4).max(1), 3)?,
            ],
        })
    }

    fn in_words(&self) -> String {
        match &self.data {
            Data::Folder(folder) => format!("copy task from {folder}"),
            Data::Generated { task, .. } => match task.memory {
                (least, most) if least < most => format!("copy task, memory {least} to {most}"),
                (_, most) => format!("copy task, memory {most}"),
            },
        }
    }
}

fn main() -> ExitCode {
    let paper = preset(true).plan;
    exit_code(run(parse(
        &preset(false).plan.defaults(&[("--paper", &paper)]),
    )))
}

fn run(cli: Cli) -> Result<ExitCode> {
    // What can be wrong with the options is found before any work or folder is made.
    let mut start = Start::new(
        &cli.run,
        || preset(cli.paper),
        |settings| cli.apply(settings),
    )?;
    let devices = cli.run.devices()?;
    let data = start.settings.task.load()?;
    let [training, _, _] = &data;
    let sequences = training.sequences();
    if start.settings.plan.batch != sequences {
        // Files hold as many as they hold.
        if let Some(asked) = cli.run.batch {
            return Err(format!(
                "--batch {asked} does not fit the {sequences} sequences of {}; leave it out",
                start.settings.task.in_words()
            )
            .into());
        }
        start.settings.plan.batch = sequences;
    }
    match start.settings.task.snap {
        true => train(&cli, start, data, devices, |model| Snap { model }),
        false => train(&cli, start, data, devices, |model| model),
    }
}

/// Trains what `learner` makes of a new model.
fn train<M: RecurrentModel<Batch = TokenBatch>>(
    cli: &Cli,
    mut start: Start<Copy>,
    [training, valid, test]: [SymbolSequences; 3],
    devices: Vec<NamedDevice>,
    learner: impl FnOnce(CopyModel) -> M,
) -> Result<ExitCode> {
    let Settings { task, plan } = start.settings.clone();
    let sequences = training.sequences();
    let identity = content_hash([&training, &valid, &test]);
    let (training, chunk) = (Arc::new(training), plan.training.eval_chunk);
    let device = devices[0].device.clone();
    let run = start
        .settings
        .run()
        .with_title(format!(
            "{}; {}",
            task.in_words(),
            plan.gradient_in_words(task.snap)
        ))
        .with_loss_name("Loss per symbol (nats)")
        .with_devices(devices.clone())
        .with_display(cli.run.display())
        .must_match("data", identity)
        .must_match("symbols", task.symbols)
        .must_match("hidden", task.hidden)
        .must_match("layers", task.layers)
        .may_change("source of the data", task.in_words())
        .with_measures(move |model: &M| {
            let loss = evaluate(model, &test, chunk, &device)?;
            let perplexity = (loss.sum / loss.count as f64).exp();
            Ok([("test_perplexity", perplexity)])
        });
    run.check(&training)?;
    let model = learner(CopyModel::new(
        task.symbols,
        task.hidden,
        task.layers,
        &run.device()?,
    )?);
    let folder = start.folder(&cli.run, "copy")?;
    if !cli.run.quiet {
        say(format_args!("data:    {}", task.in_words()));
        say(format_args!(
            "         {} training steps of {sequences} sequences",
            training.steps(),
        ));
        say(format_args!(
            "model:   LSTM, {} layers of {} units, {} parameters",
            task.layers,
            task.hidden,
            Module::num_params(&model)
        ));
        if task.snap {
            say(format_args!("         {}", plan.gradient_in_words(true)));
        }
        announce(&in_words(&devices), &plan, &folder);
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
            "test perplexity {} at epoch {} (best on validation, of {}); {:.0} s; {}",
            summary.measure("test_perplexity", 4),
            summary.best_epoch,
            summary.epochs,
            summary.seconds,
            folder.path().join("report.png").display(),
        )
    })
}
