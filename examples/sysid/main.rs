//! What will a system do under an input, and how long does its gradient have to be? One tolerance, a fast and a slow system.
//!
//! ```text
//! cargo run --release --example sysid -- --data ../shared/data                     # both, about two minutes
//! cargo run --release --example sysid -- --data ../shared/data --system tanks      # one of them
//! ```
//!
//! Expected: simulation errors on the benchmarks' test recordings beside published ones, and two very different K for the same δ.
//! README.md in this folder says more.

#[allow(dead_code)] // Not all programs use all of it.
#[path = "../common/mod.rs"]
mod common;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;

use atbptt::core::policy::MonitorConfig;
use atbptt::models::{SeriesModel, SeriesModelConfig};
use atbptt::prelude::*;
use atbptt::train::data::{Normalisation, PackedSource, Series};
use atbptt::train::plot::{Line, LinesPanel, lines_figure};
use atbptt::train::run::{DataPath, Forecast, RunSummary};
use atbptt::train::{ForecastErrors, RateSchedule, RateShape};
use burn::module::Module;
use burn::optim::AdamConfig;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::common::diagnostics::lstm_parts;
use crate::common::options::{Plan, RunArgs, in_words, parse};
use crate::common::rule::PolicyArgs;
use crate::common::start::{Settings, Start, announce, finish};
use crate::common::{Result, exit_code, say, trained_bias};
use crate::system::{SETTLING, System};

/// Train an LSTM to simulate a system from its input alone, with adaptively truncated backpropagation through time.
///
/// Without --system both systems are identified one after the other, with the same tolerance.
#[derive(Parser, Debug)]
#[command(name = "sysid", version)]
struct Cli {
    /// Folder that holds silverbox/SNLS80mV.csv and tanks/dataBenchmark.csv [default: ../shared/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// The system to identify [default: both]
    #[arg(long, value_enum, conflicts_with = "resume")]
    system: Option<System>,

    /// Hidden units [default: 32]
    #[arg(long, value_name = "UNITS")]
    hidden: Option<usize>,

    /// Steps that only fill the state before training streams and validation count [default: 50; tanks: 300]
    #[arg(long, value_name = "STEPS")]
    warm_up: Option<usize>,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    run: RunArgs,
}

/// Data and model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    system: System,
    data: DataPath,
    hidden: usize,
    warm_up: usize,
}

type Model = SeriesModel<LstmLayer>;

/// What was chosen on validation, and how: README.md.
fn preset(system: System) -> Result<Settings<Task>> {
    let (losses, window, warm_up, batch, epochs, lr) = match system {
        System::Silverbox => (32, 100, 50, 8, 30, 1e-2),
        System::Tanks => (16, 120, 300, 4, 200, 3e-3),
    };
    let rule = AdaptiveKConfig::new(0.5)
        .with_k0(16)
        .with_k_min(2)
        .with_k_max(100)
        .with_monitor(MonitorConfig::default().with_probes(10));
    let plan = Plan {
        training: TbpttConfig {
            probe: ProbeConfig::new(window).with_burn_in(20),
            seed: 1,
            eval_chunk: 1000,
            ..TbpttConfig::default()
        }
        .with_losses(losses),
        batch,
        epochs,
        lr,
        ..Plan::new(rule)
    };
    let task = Task {
        system,
        data: DataPath::new("../shared/data")?,
        hidden: 32,
        warm_up,
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
            let epochs = plan.epochs as f64;
            plan.training.schedule =
                RateSchedule::new(RateShape::Cosine { epochs }).with_floor(0.05);
        }
        Ok(settings)
    }
}

fn main() -> ExitCode {
    exit_code(run())
}

/// One system after the other.
fn run() -> Result<ExitCode> {
    let [silverbox, tanks] = System::ALL.map(preset);
    let (silverbox, tanks) = (silverbox?, tanks?);
    let cli: Cli = parse(&silverbox.plan.defaults(&[("tanks", &tanks.plan)]));
    let new = |system| match system {
        System::Silverbox => silverbox.clone(),
        System::Tanks => tanks.clone(),
    };
    if cli.run.resume.is_some() || cli.system.is_some() {
        let system = cli.system.unwrap_or(System::Silverbox);
        let start = Start::new(&cli.run, || new(system), |settings| cli.apply(settings))?;
        let (code, line) = identify(start, &cli.run)?;
        say(line.unwrap_or_default());
        return Ok(code);
    }
    let mut lines = Vec::new();
    for system in System::ALL {
        let mut args = cli.run.clone();
        args.out = args.out.map(|out| out.join(system.to_string()));
        let start = Start::new(&args, || new(system), |settings| cli.apply(settings))?;
        let (code, line) = identify(start, &args)?;
        match line {
            Some(line) => lines.push(line),
            // Interrupted.
            None => return Ok(code),
        }
        say("");
    }
    say(lines.join("\n"));
    Ok(ExitCode::SUCCESS)
}

/// Trains on a system; the outcome in a line, unless the run was interrupted.
fn identify(mut start: Start<Task>, args: &RunArgs) -> Result<(ExitCode, Option<String>)> {
    let Settings { task, plan } = start.settings.clone();
    let devices = args.devices()?;
    let system = task.system;
    let parts = system.load(task.data.path(), task.warm_up)?;
    let scale = Normalisation::fit(&parts.train)?;
    let (train, valid) = (scale.apply(&parts.train)?, scale.apply(&parts.valid)?);
    let data = [train.content_hash(), valid.content_hash()].concat();
    let streams = train.cut_with_context(plan.batch, task.warm_up)?;
    let train = PackedSource::new(streams, plan.batch)?;
    let valid = PackedSource::new(valid, 1)?;

    let (test, units) = (parts.test.clone(), scale.clone());
    let run = start
        .settings
        .run()
        .with_title(format!("{system}; {}", plan.rule_in_words()))
        .with_loss_name("Squared error (normalised)")
        .with_devices(devices.clone())
        .with_display(args.display())
        .must_match("data", data)
        .must_match("hidden", task.hidden)
        .must_match("warm-up", task.warm_up)
        .may_change("source of the data", &task.data)
        .with_measures(move |model: &Model| {
            let (_, error) = simulate(model, &units, &test)?;
            Ok([("test_rmse", error)])
        });
    run.check(&train)?;
    // Recordings begin with a state of their own, which the tanks forget slowly.
    let config = SeriesModelConfig::new(1, 1, task.hidden).with_learned_start(true);
    let run = run.with_series_model(&config, &scale);
    let device = run.device()?;
    let model: Model = config.init(&device)?;
    let folder = start.folder(args, &format!("sysid-{system}"))?;
    if !args.quiet {
        say(format_args!(
            "data:    {system}, {} training steps in {} streams, from {}",
            train.steps_counted(),
            plan.batch,
            task.data
        ));
        say(format_args!(
            "model:   LSTM of {} units, {} parameters",
            task.hidden,
            model.num_params()
        ));
        announce(&in_words(&devices), &plan, &folder);
    }
    let adam = AdamConfig::new().init();
    let result = run.train(&folder, model, train.clone(), valid, adam, plan.lr)?;
    let mut line = None;
    if let Some(summary) = &result.summary {
        let trained = result.best_model()?;
        let losses = plan.training.scheme.losses(1);
        let curve = trained_bias::measure(&trained, &train, &plan.training, losses, &device)?;
        say(format_args!(
            "\n{}",
            trained_bias::in_words(&curve, "steps")
        ));
        let (simulated, _) = simulate(&trained, &scale, &parts.test)?;
        let panel = trained_bias::panel(&curve, "steps");
        draw(system, &simulated, &parts.test, panel, &folder)?;
        line = Some(outcome(system, &plan, summary, &result.history));
    }
    let figure = folder.path().join("simulation.png");
    let shown = |_: &RunSummary| figure.display().to_string();
    let code = finish(result, &train, &plan, &lstm_parts(1), shown)?;
    Ok((code, line))
}

/// The output of a recording from its input alone, in volts, and the error of it once the state has settled.
fn simulate(
    model: &Model,
    scale: &Normalisation,
    recording: &Series,
) -> std::result::Result<(Vec<f32>, f64), TrainError> {
    let output = Forecast::new(model.clone(), scale.clone())?
        .predict(recording.inputs())?
        .mean;
    let counted = recording.part(SETTLING..recording.steps(), SETTLING);
    let errors = ForecastErrors::of(&output, counted.targets(), 1)?;
    Ok((output, errors.root_mean_square()))
}

/// Test error, K and what is published.
fn outcome(system: System, plan: &Plan, summary: &RunSummary, history: &[Decision]) -> String {
    // What was learnt shows in the second half of the run; where noise hid the gradient, K says nothing.
    let half = &history[history.len() / 2..];
    let told = half
        .iter()
        .filter(|decision| !decision.reason.is_noise_limited());
    let mut ks: Vec<usize> = told.map(|decision| decision.k).collect();
    ks.sort_unstable();
    let k = match ks.get(ks.len() / 2) {
        Some(k) => format!(
            "K = {k} steps or {} (median of {} estimates; quartiles {} and {})",
            time(*k as f64 * system.step_seconds()),
            ks.len(),
            ks[ks.len() / 4],
            ks[3 * ks.len() / 4],
        ),
        None => "K unknown: noise hid the gradient".into(),
    };
    format!(
        "{system}: test RMSE {} V at epoch {} (best on validation, of {}), published: {} V; {k}, {}; {:.0} s",
        summary.measure("test_rmse", 5),
        summary.best_epoch,
        summary.epochs,
        system.published(),
        plan.rule_in_words(),
        summary.seconds,
    )
}

/// Seconds, or thousandths of them.
fn time(seconds: f64) -> String {
    match seconds < 1.0 {
        true => format!("{:.1} ms", 1000.0 * seconds),
        false => format!("{seconds:.0} s"),
    }
}

/// The test recording, measured and simulated, above the bias of the trained model's gradient.
fn draw(
    system: System,
    simulated: &[f32],
    recording: &Series,
    bias: LinesPanel,
    folder: &RunFolder,
) -> Result<()> {
    let seconds = |values: &[f32]| -> Vec<(f64, f64)> {
        let at = |step: usize| step as f64 * system.step_seconds();
        let points = values.iter().enumerate();
        points
            .map(|(step, value)| (at(step), f64::from(*value)))
            .collect()
    };
    let apart: Vec<f32> = simulated
        .iter()
        .zip(recording.targets())
        .map(|(s, m)| s - m)
        .collect();
    // More would be a blot.
    let end = |values: &[f32]| {
        let all = seconds(values);
        all[all.len().saturating_sub(1024)..].to_vec()
    };
    let panels = [
        LinesPanel {
            title: "Output at the end of the test recording (V)".into(),
            x: "seconds".into(),
            lines: vec![
                Line::new("measured", end(recording.targets())),
                Line::new("simulated from the input alone", end(simulated)).dashed(),
            ],
        },
        LinesPanel {
            title: "Simulated minus measured (V)".into(),
            x: "seconds".into(),
            lines: vec![Line::new("", seconds(&apart))],
        },
        bias,
    ];
    let title = format!("{system}: simulation of the test recording");
    Ok(lines_figure(
        folder.path().join("simulation.png"),
        &title,
        &panels,
    )?)
}
