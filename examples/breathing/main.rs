//! Where will the chest be in two seconds? A stream that is learnt while it comes in, and forecast before it does.
//!
//! ```text
//! cargo run --release --example breathing -- --data ../shared/data/breathing
//! ```
//!
//! Expected: a normalised error per recording, and their mean beside that of online methods (SnAp-1, UORO, RTRL) as published;
//! forecasts and errors by horizon in `breathing.png`. README.md in this folder says more.

#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod online;
mod recording;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use atbptt::core::policy::MonitorConfig;
use atbptt::models::{SeriesBatch, SeriesModelConfig};
use atbptt::prelude::*;
use atbptt::train::data::{Normalisation, PackedSource, SeriesSet};
use atbptt::train::device_from_env;
use atbptt::train::plot::{Line, LinesPanel, lines_figure};
use atbptt::train::run::{DataPath, RunSummary};
use burn::module::Module;
use burn::optim::AdamConfig;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::common::diagnostics::lstm_parts;
use crate::common::options::{Plan, RunArgs, parse};
use crate::common::rule::PolicyArgs;
use crate::common::snap::Snap;
use crate::common::start::{Settings, Start, announce, finish};
use crate::common::{Result, exit_code, say};
use crate::online::{MINUTE, Model, Online};
use crate::recording::{AHEAD, COORDINATES, INPUTS, RATE, Recording};

/// Forecast the markers on a breathing chest 0.1 to 2.1 seconds ahead with an LSTM that learns while they move.
///
/// One sequence, one pass, an update every few steps: each forecast is made by a model that has seen nothing of what it forecasts.
#[derive(Parser, Debug)]
#[command(name = "breathing", version)]
struct Cli {
    /// Folder of the recordings: NAME-LAC.csv, NAME-UAC.csv and NAME-UCC.csv each [default: ../shared/data/breathing]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// One recording, by name [default: all of the folder, one after the other]
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    recording: Option<String>,

    /// Hidden units [default: 64]
    #[arg(long, value_name = "UNITS")]
    hidden: Option<usize>,

    /// The gradient of SnAp-1 (Menick et al. 2021), carried forward and never backpropagated through time, and an update every so
    /// many steps
    #[arg(long, value_name = "STEPS", conflicts_with_all = [
        "policy", "style", "losses", "estimate", "gradient_size", "probes", "resume",
    ])]
    snap: Option<usize>,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    run: RunArgs,
}

/// Data and model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    data: DataPath,
    recording: String,
    hidden: usize,
    /// Whether SnAp-1 makes the gradient.
    #[serde(default)]
    snap: bool,
}

/// What was chosen on the second half of the first minutes, and how: README.md.
fn preset() -> Result<Settings<Task>> {
    let rule = AdaptiveKConfig::new(0.5)
        .with_k0(20)
        .with_k_min(2)
        .with_k_max(60)
        .with_monitor(MonitorConfig::default().with_probes(10));
    let plan = Plan {
        training: TbpttConfig {
            probe: ProbeConfig::new(60).with_burn_in(20).with_past_only(),
            seed: 1,
            eval_chunk: 1000,
            ..TbpttConfig::default()
        }
        .with_losses(5),
        batch: 1,
        epochs: 1,
        lr: 2e-3,
        ..Plan::new(rule)
    };
    let task = Task {
        data: DataPath::new("../shared/data/breathing")?,
        recording: String::new(),
        hidden: 64,
        snap: false,
    };
    Ok(Settings { task, plan })
}

impl Cli {
    /// Puts what the user asked for into the settings.
    fn apply(&self, mut settings: Settings<Task>) -> Result<Settings<Task>> {
        settings.plan = settings.plan.with_options(&self.policy, &self.run)?;
        settings.plan.training.probe.past_only = true;
        if (settings.plan.epochs, settings.plan.batch) != (1, 1) {
            return Err(
                "a stream is one sequence that is read once; leave out --epochs and --batch".into(),
            );
        }
        let task = &mut settings.task;
        if let Some(folder) = &self.data {
            task.data = DataPath::new(folder)?;
        }
        task.hidden = self.hidden.unwrap_or(task.hidden);
        task.snap |= self.snap.is_some();
        if task.snap {
            settings.plan = settings.plan.with_snap(self.snap)?;
        }
        Ok(settings)
    }
}

fn main() -> ExitCode {
    exit_code(run())
}

/// One recording after the other.
fn run() -> Result<ExitCode> {
    let new = preset()?;
    let cli: Cli = parse(&new.plan.defaults(&[]));
    if cli.run.resume.is_some() {
        let start = Start::new(&cli.run, || new, |settings| cli.apply(settings))?;
        return Ok(learn(start, &cli.run)?.0);
    }
    let mut new = new;
    if let Some(folder) = &cli.data {
        new.task.data = DataPath::new(folder)?;
    }
    let mut names = Recording::names(new.task.data.path())?;
    if let Some(name) = &cli.recording {
        if !names.contains(name) {
            let names = names.join(", ");
            return Err(format!(
                "no recording `{name}` in {}; there are {names}",
                new.task.data
            )
            .into());
        }
        names = vec![name.clone()];
    }
    let mut summaries = Vec::new();
    for name in &names {
        let mut args = cli.run.clone();
        if cli.recording.is_none() {
            args.out = args.out.map(|out| out.join(name));
        }
        let mut new = new.clone();
        new.task.recording.clone_from(name);
        let start = Start::new(&args, || new, |settings| cli.apply(settings))?;
        match learn(start, &args)? {
            (_, Some(summary)) => summaries.push(summary),
            // Interrupted.
            (code, None) => return Ok(code),
        }
    }
    let mean = |measure: &str| {
        let values = summaries
            .iter()
            .filter_map(|summary| summary.measures.get(measure));
        values.sum::<f64>() / summaries.len() as f64
    };
    say(format_args!(
        "\nmean of {} recordings, over horizons of 0.1 to 2.1 s: test nRMSE {:.3} (validation {:.3}), {:.2} mm RMSE; the last position as the \
         forecast: {:.3}\npublished, means over nine recordings at 10 Hz (arXiv:2403.01607): SnAp-1 0.157, the lowest there; RTRL and UORO \
         are above it",
        summaries.len(),
        mean("test_nrmse"),
        mean("valid_nrmse"),
        mean("test_rmse"),
        mean("persistence_nrmse"),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Learns a recording while it comes in; the outcome, unless the run was interrupted.
fn learn(start: Start<Task>, args: &RunArgs) -> Result<(ExitCode, Option<RunSummary>)> {
    match start.settings.task.snap {
        true => learn_as(
            start,
            args,
            |model| Snap { model },
            |snap: &Snap<Model>| &snap.model,
            |run, _, _| run,
        ),
        false => learn_as(
            start,
            args,
            |model| model,
            |model: &Model| model,
            |run, config, scale| run.with_series_model(config, scale),
        ),
    }
}

/// The same for what `learner` makes of a new model and `forecaster` undoes; `describe` adds the model's own files to a run.
fn learn_as<M: RecurrentModel<Batch = SeriesBatch>>(
    mut start: Start<Task>,
    args: &RunArgs,
    learner: fn(Model) -> M,
    forecaster: fn(&M) -> &Model,
    describe: fn(Run<M>, &SeriesModelConfig, &Normalisation) -> Run<M>,
) -> Result<(ExitCode, Option<RunSummary>)> {
    let Settings { task, plan } = start.settings.clone();
    let recording = Recording::read(task.data.path(), &task.recording)?;
    if recording.steps() < MINUTE + 2 * AHEAD {
        return Err(format!(
            "recording {} has {} steps, and its test begins after a minute, {MINUTE} steps; take a longer one",
            task.recording,
            recording.steps()
        )
        .into());
    }
    let series = recording.series()?;
    // All that the first minute says.
    let first = SeriesSet::new(vec![series.part(0..MINUTE - AHEAD, 0)])?;
    let scale = Normalisation::fit(&first)?;
    let all = scale.apply(&SeriesSet::new(vec![series.clone()])?)?;
    let data = all.content_hash();
    let train = PackedSource::new(all, 1)?;
    let valid = PackedSource::new(scale.apply(&first)?, 1)?;

    let found = device_from_env()?;
    let run = start
        .settings
        .run()
        .with_title(format!(
            "recording {}; {}",
            task.recording,
            plan.gradient_in_words(task.snap)
        ))
        .with_loss_name("Squared error (normalised)")
        .with_display(args.display())
        .must_match("data", data)
        .must_match("hidden", task.hidden)
        .may_change("source of the data", &task.data);
    run.check(&train)?;
    let config = SeriesModelConfig::new(INPUTS, AHEAD * COORDINATES, task.hidden);
    let run = describe(run, &config, &scale);
    let model = learner(config.init(&run.device()?)?);
    let folder = start.folder(args, &format!("breathing-{}", task.recording))?;
    let losses = plan.training.scheme.losses(plan.policy.init()?.k_max());
    let online = Arc::new(Online::new(
        recording,
        series,
        scale,
        losses,
        folder.path(),
    )?);
    let (forecasts, measured) = (online.clone(), online.clone());
    let run = run
        .after_windows(move |model: &M, place| forecasts.look(forecaster(model), place))
        .with_measures(move |_| measured.measures());
    if !args.quiet {
        say(format_args!(
            "data:    recording {}, {} steps, from {}",
            task.recording,
            online.recording.steps(),
            task.data
        ));
        say(format_args!(
            "model:   LSTM of {} units, {} parameters",
            task.hidden,
            Module::num_params(&model)
        ));
        if task.snap {
            say(format_args!("         {}", plan.gradient_in_words(true)));
        }
        announce(&found, &plan, &folder);
    }
    let result = run.train(
        &folder,
        model,
        train.clone(),
        valid,
        AdamConfig::new().init(),
        plan.lr,
    )?;
    let summary = result.summary.clone();
    if summary.is_some() {
        draw(&online, &folder)?;
    }
    let windows = result
        .reports
        .first()
        .map_or(1, |report| report.windows.max(1));
    let code = finish(result, &train, &plan, &lstm_parts(1), |summary| {
        format!(
            "recording {}: test nRMSE {} (validation {}), {} mm RMSE; the last position: {}; {:.1} ms per update; {}",
            task.recording,
            summary.measure("test_nrmse", 3),
            summary.measure("valid_nrmse", 3),
            summary.measure("test_rmse", 2),
            summary.measure("persistence_nrmse", 3),
            1000.0 * summary.seconds / windows as f64,
            folder.path().join("breathing.png").display(),
        )
    })?;
    Ok((code, summary))
}

/// Half a minute of the coordinate that moves most, with forecasts; errors by horizon.
fn draw(online: &Online, folder: &RunFolder) -> Result<()> {
    let recording = &online.recording;
    let test = MINUTE..recording.steps();
    let range = |coordinate: usize| {
        let values = test.clone().map(|step| recording.at(step)[coordinate]);
        let low = values.clone().fold(f32::INFINITY, f32::min);
        values.fold(f32::NEG_INFINITY, f32::max) - low
    };
    let most = (0..COORDINATES).max_by(|a, b| range(*a).total_cmp(&range(*b)));
    let most = most.unwrap_or(0);
    let shown = MINUTE..(MINUTE + 300).min(recording.steps());
    let curve = |value: &dyn Fn(usize) -> f32| -> Vec<(f64, f64)> {
        let point = |step: usize| (step as f64 / RATE, f64::from(value(step)));
        shown.clone().map(point).collect()
    };
    let ahead = |steps: usize| curve(&|step| online.forecast(step, steps)[most]);
    let errors = |persistence| -> Result<Vec<(f64, f64)>> {
        let error = |ahead: usize| {
            let errors = online.errors(test.clone(), ahead, persistence)?;
            Ok((ahead as f64 / RATE, errors.normalised()))
        };
        (1..=AHEAD).map(error).collect()
    };
    let published = vec![(1.0 / RATE, 0.157), (AHEAD as f64 / RATE, 0.157)];
    let panels = [
        LinesPanel {
            title: "The coordinate that moves most (mm)".into(),
            x: "seconds".into(),
            lines: vec![
                Line::new("measured", curve(&|step| recording.at(step)[most])),
                Line::new("forecast 0.5 s before", ahead(5)),
                Line::new("forecast 2 s before", ahead(20)).dashed(),
            ],
        },
        LinesPanel {
            title: "Normalised RMSE of the test part".into(),
            x: "horizon (seconds)".into(),
            lines: vec![
                Line::new("this model", errors(false)?).with_zero(),
                Line::new("the last position", errors(true)?),
                Line::new("SnAp-1, mean of horizons and nine recordings", published).dashed(),
            ],
        },
    ];
    let title = format!(
        "Recording {}: forecasts of a model that learns meanwhile",
        recording.name
    );
    Ok(lines_figure(
        folder.path().join("breathing.png"),
        &title,
        &panels,
    )?)
}
