//! Does adaptive truncation work for a model and a loss of one's own? A recurrent marked temporal point process (Du et al.
//! 2016) predicts when the next event of an order book comes, and which.
//!
//! ```text
//! cargo run --release --example book_order -- --data ../shared/data/book_order              # adaptive, δ = 0.5
//! cargo run --release --example book_order -- --data ../shared/data/book_order --fixed-k 9
//! cargo run --release --example book_order -- --data ../shared/data/book_order --paper      # the paper's settings
//! ```
//!
//! Expected: a negative log-likelihood that falls below −4 within a few epochs; a run folder with metrics, checkpoints and
//! figures. The folder holds event-1-train.txt, time-1-train.txt and the same for test, one sequence per line; the first
//! half of the test sequences validates, the second half tests.

#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod data;
mod model;
mod predict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use atbptt::core::policy::MonitorConfig;
use atbptt::core::{BiasEstimator, GradientSize};
use atbptt::prelude::*;
use atbptt::train::run::DataPath;
use burn::module::Module;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::common::diagnostics::lstm_parts;
use crate::common::options::{Plan, RunArgs, in_words, parse};
use crate::common::rule::PolicyArgs;
use crate::common::start::{Settings, Start, announce, finish};
use crate::common::{Result, exit_code, say};
use crate::data::{Events, content_hash};
use crate::model::EventModel;

/// Train a recurrent marked temporal point process with adaptively truncated backpropagation through time.
#[derive(Parser, Debug)]
#[command(name = "book_order", version)]
struct Cli {
    /// Folder with event-1-train.txt, time-1-train.txt, event-1-test.txt and time-1-test.txt
    #[arg(long, value_name = "DIR", required_unless_present = "resume")]
    data: Option<PathBuf>,

    /// Hidden units per layer [default: 128]
    #[arg(long, value_name = "UNITS")]
    hidden: Option<usize>,

    /// LSTM layers [default: 2]
    #[arg(long, value_name = "N")]
    layers: Option<usize>,

    /// The paper's settings: windows of 2K−1 steps, clip 1/K, step size times √K where K adapts, one probe per epoch, and its
    /// estimator of the bias exactly (the norm of the mean over the states); single options still override
    #[arg(long, conflicts_with = "resume")]
    paper: bool,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    run: RunArgs,
}

/// Data and model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct BookOrder {
    /// None before the options are read.
    data: Option<DataPath>,
    hidden: usize,
    layers: usize,
}

/// Best of those tried on validation; see docs/EXAMPLES.md.
const LEARNING_RATE: f64 = 1.0;

/// Settings of a new run. The paper's step size grows with √K where K adapts, and is constant where it does not.
fn preset(paper: bool, adaptive: bool) -> Settings<BookOrder> {
    let rule = AdaptiveKConfig::new(0.5)
        .with_k0(6)
        .with_k_min(1)
        .with_k_max(100);
    let mut training = TbpttConfig {
        probe: ProbeConfig::new(200),
        seed: 1,
        eval_chunk: 100,
        ..match paper {
            true => TbpttConfig::paper(),
            false => TbpttConfig::default(),
        }
    };
    if !adaptive {
        training.step_scaling = StepScaling::None;
    }
    let (rule, lr) = match paper {
        true => {
            let estimator = BiasEstimator::paper()
                .with_fit_lag_zero(false)
                .with_gradient_size(GradientSize::NormOfMeanStateSum);
            (
                rule.with_monitor(MonitorConfig::paper(estimator).with_probes(1)),
                0.1,
            )
        }
        false => (rule, LEARNING_RATE),
    };
    let plan = Plan {
        training,
        batch: 64,
        epochs: 50,
        lr,
        weight_decay: 1e-3,
        ..Plan::new(rule)
    };
    let task = BookOrder {
        data: None,
        hidden: 128,
        layers: 2,
    };
    Settings { task, plan }
}

impl Cli {
    /// Puts what the user asked for into the settings.
    fn apply(&self, mut settings: Settings<BookOrder>) -> Result<Settings<BookOrder>> {
        settings.plan = settings.plan.with_options(&self.policy, &self.run)?;
        let task = &mut settings.task;
        if let Some(folder) = &self.data {
            task.data = Some(DataPath::new(folder)?);
        }
        task.hidden = self.hidden.unwrap_or(task.hidden);
        task.layers = self.layers.unwrap_or(task.layers);
        Ok(settings)
    }
}

fn main() -> ExitCode {
    let [paper, not_adaptive] = [true, false].map(|adaptive| preset(true, adaptive).plan);
    let defaults = preset(false, true).plan.defaults(&[
        ("--paper", &paper),
        ("--paper where K does not adapt", &not_adaptive),
    ]);
    exit_code(run(parse(&defaults)))
}

fn run(cli: Cli) -> Result<ExitCode> {
    // What can be wrong with the options is found before any work or folder is made.
    let mut start = Start::new(
        &cli.run,
        || preset(cli.paper, cli.policy.is_adaptive()),
        |settings| cli.apply(settings),
    )?;
    let devices = cli.run.devices()?;
    let Settings { task, plan } = start.settings.clone();
    let data = task.data.ok_or("no data; give their folder with --data")?;
    let events = Events::from_folder(data.path(), "train")?;
    let (valid, test) = Events::from_folder(data.path(), "test")?.halves()?;
    let marks = events.classes();
    valid.check(marks)?;
    test.check(marks)?;
    let training = Arc::new(events.streams(plan.batch));
    let device = devices[0].device.clone();
    let (chunk, parallel) = (plan.training.eval_chunk, test.parallel());
    let run = start
        .settings
        .run()
        .with_title(format!("Order book; {}", plan.rule_in_words()))
        .with_loss_name("Negative log-likelihood per event (nats)")
        .with_devices(devices.clone())
        .with_display(cli.run.display())
        .must_match("data", content_hash([&events, &valid, &test]))
        .must_match("hidden", task.hidden)
        .must_match("layers", task.layers)
        .may_change("source of the data", &data)
        .with_measures(move |model: &EventModel| {
            let quality = predict::evaluate(model, &parallel, chunk, &device)?;
            Ok([
                ("test_nll", quality.nll),
                ("test_rmse", quality.rmse),
                ("test_rmse_unbounded", quality.rmse_unbounded),
                ("test_error", quality.error),
            ])
        });
    run.check(&training)?;
    let model = EventModel::new(marks, task.hidden, task.layers, &run.device()?)?;
    let folder = start.folder(&cli.run, "book_order")?;
    if !cli.run.quiet {
        say(format_args!(
            "events:  {} for training, {} for validation, {} for testing; {marks} marks",
            events.len(),
            valid.len(),
            test.len()
        ));
        say(format_args!(
            "model:   LSTM, {} layers of {} units, {} parameters; {} streams of {} events",
            task.layers,
            task.hidden,
            model.num_params(),
            plan.batch,
            training.common_steps(),
        ));
        announce(&in_words(&devices), &plan, &folder);
    }
    let valid = valid.parallel();
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
            "test NLL {}, RMSE {} s, 0-1 error {} at epoch {} (best on validation, of {}); {:.0} s; {}",
            summary.measure("test_nll", 4),
            summary.measure("test_rmse", 7),
            summary.measure("test_error", 4),
            summary.best_epoch,
            summary.epochs,
            summary.seconds,
            folder.path().join("report.png").display(),
        )
    })
}
