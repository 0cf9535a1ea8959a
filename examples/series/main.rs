//! Can a recurrent network predict one column of my CSV file from others, and how far back does it have to look?
//!
//! ```text
//! cargo run --release --example series -- --data tanks.csv --input uEst --target yEst
//! cargo run --release --example series -- --data a.csv b.csv --delimiter ';' --decimal-comma \
//!     --input x,y,z --target x --horizon 5 --drop-last 1
//! ```
//!
//! Expected: an error that falls, a K that fits the memory of the system; a run folder with metrics, checkpoints and figures, the
//! forecast with a carried state (`forecast.csv` and `forecast.png`), and the trained model, which `generate RUN --series FILE` uses
//! on other files.

mod columns;
#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod data;
mod forecast;

use std::process::ExitCode;

use atbptt::models::{SeriesLoss, SeriesModel, SeriesModelConfig};
use atbptt::prelude::*;
use atbptt::train::Checkpoint;
use atbptt::train::data::PackedSource;
use burn::module::Module;
use burn::optim::AdamConfig;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::common::diagnostics::lstm_parts;
use crate::common::options::{Plan, RunArgs, in_words, parse};
use crate::common::rule::PolicyArgs;
use crate::common::start::{Settings, Start, announce, finish};
use crate::common::{Result, exit_code, say};
use crate::data::{Data, DataArgs};

/// Train an LSTM on columns of CSV files with adaptively truncated backpropagation through time, and forecast.
///
/// Every file is one series, of any length; rows follow each other in time. Each is split into a training, a validation and
/// a test part, in this order.
#[derive(Parser, Debug)]
#[command(name = "series", version)]
struct Cli {
    #[command(flatten)]
    data: DataArgs,

    /// Hidden units per layer [default: 32]
    #[arg(long, value_name = "UNITS")]
    hidden: Option<usize>,

    /// LSTM layers [default: 1]
    #[arg(long, value_name = "N")]
    layers: Option<usize>,

    /// What a target costs [default: squared]
    #[arg(long, value_enum)]
    loss: Option<LossArg>,

    /// Learn the state that series begin with
    #[arg(long)]
    learned_start: bool,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    run: RunArgs,
}

/// What a target costs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LossArg {
    /// Squared error
    Squared,
    /// Negative log-likelihood of a normal distribution: the forecast says how sure it is
    Gaussian,
}

/// Data and model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    data: Data,
    hidden: usize,
    layers: usize,
    loss: SeriesLoss,
    learned_start: bool,
}

fn preset() -> Settings<Task> {
    let rule = AdaptiveKConfig::new(0.1)
        .with_k0(20)
        .with_k_min(2)
        .with_k_max(100);
    let plan = Plan {
        training: TbpttConfig {
            probe: ProbeConfig::new(100).with_burn_in(20),
            seed: 1,
            eval_chunk: 200,
            ..TbpttConfig::default()
        },
        batch: 4,
        epochs: 100,
        lr: 3e-3,
        ..Plan::new(rule)
    };
    let task = Task {
        data: Data::default(),
        hidden: 32,
        layers: 1,
        loss: SeriesLoss::SquaredError,
        learned_start: false,
    };
    Settings { task, plan }
}

impl Cli {
    /// Puts what the user asked for into the settings.
    fn apply(&self, mut settings: Settings<Task>) -> Result<Settings<Task>> {
        settings.plan = settings.plan.with_options(&self.policy, &self.run)?;
        let task = &mut settings.task;
        self.data.apply(&mut task.data)?;
        task.hidden = self.hidden.unwrap_or(task.hidden);
        task.layers = self.layers.unwrap_or(task.layers);
        task.loss = match self.loss {
            Some(LossArg::Squared) => SeriesLoss::SquaredError,
            Some(LossArg::Gaussian) => SeriesLoss::GaussianNll,
            None => task.loss,
        };
        task.learned_start |= self.learned_start;
        Ok(settings)
    }
}

fn main() -> ExitCode {
    exit_code(run(parse(&preset().plan.defaults(&[]))))
}

fn run(cli: Cli) -> Result<ExitCode> {
    // What can be wrong with the options is found before any work or folder is made.
    let mut start = Start::new(&cli.run, preset, |settings| cli.apply(settings))?;
    let devices = cli.run.devices()?;
    let Settings { task, plan } = start.settings.clone();
    let series = task.data.load()?;
    let normalised = &series.normalised;
    // Long series are cut, so that there are as many sequences as are read at a time.
    let training = PackedSource::new(series.training.cut(plan.batch)?, plan.batch)?
        .with_shuffle(plan.training.seed);
    let [valid, test] = [&series.valid, &series.test]
        .map(|part| PackedSource::new(part.clone(), part.series().len()));
    let (valid, test) = (valid?, test?);

    let (device, chunk) = (devices[0].device.clone(), plan.training.eval_chunk);
    let (scales, names) = (
        series.normalisation.targets.clone(),
        task.data.targets.clone(),
    );
    let loss = match task.loss {
        SeriesLoss::SquaredError => "Mean squared error (normalised)",
        SeriesLoss::GaussianNll => "Negative log-likelihood (nats)",
        _ => "Loss",
    };
    let run = start
        .settings
        .run()
        .with_title(format!("{}; {}", task.data.title(), plan.rule_in_words()))
        .with_loss_name(loss)
        .with_devices(devices.clone())
        .with_display(cli.run.display())
        .must_match("data", normalised.content_hash())
        .must_match("hidden", task.hidden)
        .must_match("layers", task.layers)
        .must_match("loss", format!("{:?}", task.loss))
        .must_match("learned start", task.learned_start)
        .may_change("source of the data", task.data.in_words())
        .with_measures(move |model: &SeriesModel<LstmLayer>| {
            let errors = forecast::root_mean_squares(model, &test, chunk, &device)?;
            let in_units = errors.into_iter().zip(&scales).zip(&names);
            let named = in_units
                .map(|((error, scale), name)| (format!("test_rmse_{name}"), error * scale.scale));
            Ok(named.collect::<Vec<_>>())
        });
    run.check(&training)?;
    let config = SeriesModelConfig::new(normalised.d_input(), normalised.d_target(), task.hidden)
        .with_layers(task.layers)
        .with_loss(task.loss)
        .with_learned_start(task.learned_start);
    let run = run
        .with_series_model(&config, &series.normalisation)
        .with_model_file(columns::FILE, &task.data.columns());
    let model: SeriesModel<LstmLayer> = config.init(&run.device()?)?;
    let folder = start.folder(&cli.run, "series")?;
    if !cli.run.quiet {
        say(format_args!("data:    {}", task.data.in_words()));
        say(format_args!(
            "         {} steps, of them {} for training, in {} streams",
            normalised.total_steps(),
            training.steps_counted(),
            plan.batch,
        ));
        say(format_args!(
            "model:   LSTM, {} layers of {} units, {} parameters",
            task.layers,
            task.hidden,
            model.num_params()
        ));
        announce(&in_words(&devices), &plan, &folder);
    }
    let template = model.clone();
    let optimizer = AdamConfig::new().init();
    let result = run.train(&folder, model, training.clone(), valid, optimizer, plan.lr)?;
    // The best epoch's model forecasts, where its checkpoint is still there.
    let best = result.summary.as_ref().and_then(|summary| {
        let path = Checkpoint::end_of_epoch(folder.path(), summary.best_epoch)?;
        Some(Checkpoint::open(path).and_then(|checkpoint| checkpoint.model(template)))
    });
    let best = match best {
        Some(model) => model?,
        None => result.model.clone(),
    };
    let forecast = match result.summary {
        Some(_) => Some(forecast::write(
            &best.valid(),
            &series,
            &task.data,
            &folder,
            chunk,
        )?),
        None => None,
    };
    finish(
        result,
        &training,
        &plan,
        &lstm_parts(task.layers),
        |summary| {
            let errors = task.data.targets.iter().map(|name| {
                let measure = format!("test_rmse_{name}");
                format!("{name} {}", summary.measure(&measure, 4))
            });
            format!(
                "test error (RMSE) {} at epoch {} (best on validation, of {}); {:.0} s; {}",
                errors.collect::<Vec<_>>().join(", "),
                summary.best_epoch,
                summary.epochs,
                summary.seconds,
                forecast.map_or_else(String::new, |path| path.display().to_string()),
            )
        },
    )
}
