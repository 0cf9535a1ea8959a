//! How do runs compare? Their scores after every epoch against epochs and seconds, their K and its estimated bias: a table and a figure.
//!
//! ```text
//! cargo run --release --example wiki2 -- --builtin --fixed-k 10                      # runs/wiki2-1
//! cargo run --release --example wiki2 -- --builtin --delta 0.5                       # runs/wiki2-2
//! cargo run --release --example compare_runs -- runs/wiki2-1 runs/wiki2-2 --measures valid_perplexity,test_perplexity
//! ```
//!
//! Expected: a Markdown table with a row per epoch, and `compare_runs.png`. Runs under way count as far as they are.

#[path = "common/reports.rs"]
mod reports;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atbptt::train::EpochReport;
use atbptt::train::plot::{Line, LinesPanel, lines_figure};
use atbptt::train::run::say;
use clap::Parser;

use crate::reports::read_reports;

/// Sets runs beside each other, epoch by epoch
#[derive(Parser)]
#[command(name = "compare_runs", version)]
struct Cli {
    /// Folders of runs
    #[arg(required = true)]
    runs: Vec<PathBuf>,

    /// Names of the runs, in their order, separated by semicolons [default: those of the folders]
    #[arg(long, value_name = "NAMES", value_delimiter = ';')]
    names: Vec<String>,

    /// What to compare, separated by commas: valid_loss, valid_perplexity, train_loss, train_perplexity, or a measure of the runs
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "valid_loss"
    )]
    measures: Vec<String>,

    /// Highest score of the figure's axis; a triangle marks those beyond it
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    highest: Option<f64>,

    /// Title of the figure
    #[arg(long, default_value = "Runs compared")]
    title: String,

    /// Where to draw
    #[arg(long, value_name = "FILE", default_value = "compare_runs.png")]
    out: PathBuf,
}

/// A run, and what it reported after each epoch.
struct Compared {
    name: String,
    reports: Vec<EpochReport>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn std::error::Error>> {
    if !cli.names.is_empty() && cli.names.len() != cli.runs.len() {
        let (names, runs) = (cli.names.len(), cli.runs.len());
        return Err(format!(
            "--names has {names} names for {runs} runs; give one for each, separated by semicolons"
        )
        .into());
    }
    let mut runs = Vec::new();
    for (index, folder) in cli.runs.iter().enumerate() {
        let name = cli.names.get(index).cloned().unwrap_or_else(|| {
            let last = folder.file_name().unwrap_or(folder.as_os_str());
            last.to_string_lossy().into_owned()
        });
        let reports = read(folder)?;
        for measure in &cli.measures {
            check(measure, folder, &reports)?;
        }
        runs.push(Compared { name, reports });
    }
    table(&runs, &cli.measures);
    lines_figure(&cli.out, &cli.title, &panels(&runs, cli))?;
    say(format_args!("\nfigure: {}", cli.out.display()));
    Ok(())
}

/// The reports of a run, one at least.
fn read(folder: &Path) -> Result<Vec<EpochReport>, String> {
    let reports = read_reports(folder)?;
    match reports.is_empty() {
        true => Err(format!(
            "{} has no metrics.jsonl with an epoch; name the folder of a run that has finished one",
            folder.display()
        )),
        false => Ok(reports),
    }
}

fn value(measure: &str, report: &EpochReport) -> Option<f64> {
    match measure {
        "valid_loss" => report.valid_loss,
        "valid_perplexity" => report.valid_perplexity,
        "train_loss" => Some(report.train_loss),
        "train_perplexity" => Some(report.train_perplexity),
        name => report.measures.get(name).copied(),
    }
}

/// Refuses a measure that no epoch of the run has.
fn check(measure: &str, folder: &Path, reports: &[EpochReport]) -> Result<(), String> {
    if reports.iter().any(|r| value(measure, r).is_some()) {
        return Ok(());
    }
    let own = reports.iter().flat_map(|report| report.measures.keys());
    let mut own: Vec<&str> = own.map(String::as_str).collect();
    own.sort_unstable();
    own.dedup();
    let general = [
        "valid_loss",
        "valid_perplexity",
        "train_loss",
        "train_perplexity",
    ];
    let known = general.into_iter().chain(own).collect::<Vec<_>>();
    Err(format!(
        "{} has no measure {measure:?}; --measures takes of it: {}",
        folder.display(),
        known.join(", ")
    ))
}

/// A row per epoch: of every run its measures, mean K and seconds.
fn table(runs: &[Compared], measures: &[String]) {
    let mut head = String::from("| epoch |");
    for run in runs {
        head += &format!(" {}: {} | K | s |", run.name, measures.join(", "));
    }
    say(&head);
    say("|---".repeat(head.matches('|').count() - 1) + "|");
    let epochs = runs.iter().map(|run| run.reports.len()).max().unwrap_or(0);
    for epoch in 0..epochs {
        let mut row = format!("| {} |", epoch + 1);
        for run in runs {
            row += &match run.reports.get(epoch) {
                Some(report) => {
                    let scores = measures
                        .iter()
                        .map(|measure| digits(value(measure, report)));
                    let scores = scores.collect::<Vec<_>>().join(", ");
                    let (k, seconds) = (report.mean_k, report.elapsed_seconds);
                    format!(" {scores} | {k:.1} | {seconds:.0} |")
                }
                None => " – | – | – |".to_owned(),
            };
        }
        say(row);
    }
}

/// Four significant digits.
fn digits(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "–".into();
    };
    if value == 0.0 {
        return "0".into();
    }
    let before = value.abs().log10().floor() as i32 + 1;
    format!("{value:.*}", (4 - before).clamp(0, 8) as usize)
}

fn panels(runs: &[Compared], cli: &Cli) -> Vec<LinesPanel> {
    let lines = |point: &dyn Fn(&EpochReport) -> (f64, Option<f64>)| -> Vec<Line> {
        let of = |run: &Compared| {
            let points = run.reports.iter().map(point);
            let points = points.map(|(x, y)| (x, y.unwrap_or(f64::NAN)));
            Line::new(run.name.clone(), points.collect())
        };
        runs.iter().map(of).collect()
    };
    let epoch = |report: &EpochReport| report.epoch as f64;
    let panel = |title: &str, x: &str, lines| LinesPanel {
        title: title.to_owned(),
        x: x.to_owned(),
        lines,
    };
    let mut panels = Vec::new();
    for measure in &cli.measures {
        let score = |report: &EpochReport| value(measure, report);
        let scores = |x: &dyn Fn(&EpochReport) -> f64| -> Vec<Line> {
            let lines = lines(&|report| (x(report), score(report))).into_iter();
            let limited = lines.map(|line| match cli.highest {
                Some(highest) => line.with_limits(f64::NEG_INFINITY, highest),
                None => line,
            });
            limited.collect()
        };
        let title = measure.replace('_', " ");
        panels.push(panel(&title, "epoch", scores(&epoch)));
        let seconds = "seconds of training, probes and validation";
        panels.push(panel(
            &title,
            seconds,
            scores(&|report| report.elapsed_seconds),
        ));
    }
    let k = lines(&|r| (epoch(r), Some(r.mean_k)));
    panels.push(panel("mean truncation length K (steps)", "epoch", k));
    if runs
        .iter()
        .any(|run| run.reports.iter().any(|r| r.relative_bias.is_some()))
    {
        // Logarithmic: anything smaller stands at 10⁻⁴.
        let bias = lines(&|r| (epoch(r), r.relative_bias.map(|bias| bias.max(1e-4))));
        let title = "estimated relative bias (10⁻⁴ stands for anything smaller)";
        panels.push(panel(title, "epoch", bias));
    }
    panels
}
