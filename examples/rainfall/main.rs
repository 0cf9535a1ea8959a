//! How much water will the river carry, given the weather so far, and how many days back does the gradient have to reach?
//!
//! ```text
//! cargo run --release --example rainfall -- --data ../shared/data/camels
//! ```
//!
//! Expected: a Nash–Sutcliffe efficiency above the operational model's 0.748 on ten years that neither training nor selection saw;
//! `hydrograph.png` and `flow.csv` with both models beside the river, `bias.png` with what truncation leaves out. README.md in
//! this folder says more.

mod basin;
#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod report;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use atbptt::core::policy::MonitorConfig;
use atbptt::models::{SeriesModel, SeriesModelConfig};
use atbptt::prelude::*;
use atbptt::train::data::{Normalisation, PackedSource, SeriesSet};
use atbptt::train::run::DataPath;
use atbptt::train::{RateSchedule, RateShape};
use burn::module::Module;
use burn::optim::AdamConfig;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::basin::{Basin, WEATHER};
use crate::common::diagnostics::lstm_parts;
use crate::common::options::{Plan, RunArgs, in_words, parse};
use crate::common::rule::PolicyArgs;
use crate::common::start::{Settings, Start, announce, finish};
use crate::common::{Result, exit_code, say};
use crate::report::{ChunkBias, Flows};

/// Train an LSTM to turn daily weather into the flow of a river with adaptively truncated backpropagation through time.
///
/// Trains on the years up to 1995, selects on 1996 to 1998, tests on 1999 to 2008.
#[derive(Parser, Debug)]
#[command(name = "rainfall", version)]
struct Cli {
    /// Folder of a CAMELS basin: its files *_forcing_leap.txt and *_model_output.txt [default: ../shared/data/camels]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Hidden units [default: 32]
    #[arg(long, value_name = "UNITS")]
    hidden: Option<usize>,

    /// Days whose weather fills the state before its flow counts, in every part [default: 365]
    #[arg(long, value_name = "DAYS")]
    warm_up: Option<usize>,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    run: RunArgs,
}

/// Training, validation and test years.
pub const YEARS: [Range<u16>; 3] = [0..1996, 1996..1999, 1999..2009];

/// Data and model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    data: DataPath,
    hidden: usize,
    warm_up: usize,
}

/// What was chosen on the validation years, and how: README.md.
fn preset() -> Result<Settings<Task>> {
    let rule = AdaptiveKConfig::new(0.5)
        .with_k0(16)
        .with_k_min(2)
        .with_k_max(180)
        .with_monitor(MonitorConfig::default().with_probes(10));
    let plan = Plan {
        training: TbpttConfig {
            probe: ProbeConfig::new(200).with_burn_in(40),
            seed: 1,
            eval_chunk: 400,
            ..TbpttConfig::default()
        }
        .with_losses(20),
        batch: 4,
        epochs: 60,
        lr: 2e-3,
        ..Plan::new(rule)
    };
    let task = Task {
        data: DataPath::new("../shared/data/camels")?,
        hidden: 32,
        warm_up: 365,
    };
    Ok(Settings { task, plan })
}

impl Cli {
    /// Puts what the user asked for into the settings.
    fn apply(&self, mut settings: Settings<Task>) -> Result<Settings<Task>> {
        settings.plan = settings.plan.with_options(&self.policy, &self.run)?;
        let Settings { task, plan } = &mut settings;
        if let Some(folder) = &self.data {
            task.data = DataPath::new(folder)?;
        }
        task.hidden = self.hidden.unwrap_or(task.hidden);
        task.warm_up = self.warm_up.unwrap_or(task.warm_up);
        if self.run.resume.is_none() {
            // The rate falls to a twentieth by the end of the run.
            let shape = RateShape::Cosine {
                epochs: plan.epochs as f64,
            };
            plan.training.schedule = RateSchedule::new(shape).with_floor(0.05);
        }
        Ok(settings)
    }
}

fn main() -> ExitCode {
    exit_code(preset().and_then(|new| run(parse(&new.plan.defaults(&[])), new)))
}

fn run(cli: Cli, new: Settings<Task>) -> Result<ExitCode> {
    // What can be wrong with the options is found before any work or folder is made.
    let mut start = Start::new(&cli.run, || new, |settings| cli.apply(settings))?;
    let Settings { task, plan } = start.settings.clone();
    let devices = cli.run.devices()?;
    let basin = Basin::read(task.data.path())?;
    let part = |years: &Range<u16>| -> Result<SeriesSet> {
        Ok(SeriesSet::new(vec![
            basin.series(basin.days(years.clone()), task.warm_up)?,
        ])?)
    };
    let [train, valid, _] = &YEARS;
    let (train, valid) = (part(train)?, part(valid)?);
    let scale = Normalisation::fit(&train)?;
    let (train, valid) = (scale.apply(&train)?, scale.apply(&valid)?);
    let data = [train.content_hash(), valid.content_hash()].concat();
    // The years are cut into streams that are read in parallel.
    let streams = train.cut_with_context(plan.batch, task.warm_up)?;
    let train = PackedSource::new(streams, plan.batch)?;
    let valid = PackedSource::new(valid, 1)?;

    let flows = Flows::new(basin, scale.clone(), task.warm_up);
    let chunk = ChunkBias::new(&plan, train.clone());
    let (measured, device) = (flows.clone(), devices[0].device.clone().autodiff());
    let run = start
        .settings
        .run()
        .with_title(format!("{}; {}", flows.title(), plan.rule_in_words()))
        .with_loss_name("Squared error (normalised)")
        .with_epoch_lines(None, report::epoch_line)
        .with_devices(devices.clone())
        .with_display(cli.run.display())
        .must_match("data", data)
        .must_match("hidden", task.hidden)
        .must_match("warm-up", task.warm_up)
        .may_change("source of the data", &task.data)
        .with_measures(move |model: &SeriesModel<LstmLayer>| {
            let errors = measured.measures(model)?.into_iter();
            Ok(errors.chain(chunk.measures(model, &device)?))
        });
    run.check(&train)?;
    let config = SeriesModelConfig::new(WEATHER.len(), 1, task.hidden)
        // Weeks are remembered from the start (Kratzert et al. 2019).
        .with_forget_bias(3.0);
    let run = run.with_series_model(&config, &scale);
    let device = run.device()?;
    let model: SeriesModel<LstmLayer> = config.init(&device)?;
    let folder = start.folder(&cli.run, "rainfall")?;
    if !cli.run.quiet {
        say(format_args!(
            "data:    {}, from {}",
            flows.title(),
            task.data
        ));
        say(format_args!(
            "model:   LSTM of {} units, {} parameters",
            task.hidden,
            model.num_params()
        ));
        announce(&in_words(&devices), &plan, &folder);
    }
    let result = run.train(
        &folder,
        model,
        train.clone(),
        valid,
        AdamConfig::new().init(),
        plan.lr,
    )?;
    if result.summary.is_some() {
        let trained = result.best_model()?;
        flows.write(&trained, &folder)?;
        report::bias(&trained, &train, &plan, &result, &device)?;
    }
    finish(result, &train, &plan, &lstm_parts(1), |summary| {
        format!(
            "test NSE {} at epoch {} (best on validation, of {}; NSE there {}), {} mm/day RMSE; the operational model's {:.3}; \
             {:.0} s; {}",
            summary.measure("test_nse", 3),
            summary.best_epoch,
            summary.epochs,
            summary.measure("valid_nse", 3),
            summary.measure("test_rmse", 3),
            flows.operational_nse(),
            summary.seconds,
            folder.path().join("hydrograph.png").display(),
        )
    })
}
