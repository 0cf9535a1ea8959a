//! Which policy for K is best on a task? A grid of policies and seeds, run from one TOML file.
//!
//! ```text
//! cargo build --release --examples
//! cargo run --release --example sweep -- experiments/copy_fixed.toml --out runs/copy_fixed
//! cargo run --release --example sweep -- experiments/copy_fixed.toml --out runs/copy_fixed --report   # what is there so far
//! ```
//!
//! Expected: a Markdown table with mean and standard deviation per policy at the best validation epoch, beside the paper's
//! numbers, and a figure. With `[tuning]`, every policy first gets its step size (or another number), chosen on validation data
//! and on a seed of its own; with `[comparison]`, paired differences from one policy, with intervals. Started again, it goes on
//! where it stopped: finished runs are not repeated.

#[allow(dead_code)] // The sweep reads what the other programs write.
#[path = "../common/mod.rs"]
mod common;
mod comparison;
mod cost;
mod figure;
mod grid;
mod plan;
mod policy;
mod report;
#[path = "../common/reports.rs"]
mod reports;
mod run;
mod spec;
mod statistics;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;

use crate::common::{Result, exit_code, say};
use crate::plan::Choice;
use crate::run::Run;
use crate::spec::Spec;

/// Run a grid of truncation policies and seeds, and compare them in a table and a figure.
#[derive(Parser, Debug)]
#[command(name = "sweep", version)]
struct Cli {
    /// TOML file of the experiment; see experiments/
    file: PathBuf,

    /// Folder for the runs, the table and the figure [default: runs/NAME of the file]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Processes at a time [default: number of cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Run nothing: table and figure of what is there, unfinished runs included
    #[arg(long)]
    report: bool,

    /// Markdown file to write table and figure into: between the lines `<!-- sweep NAME -->` and `<!-- end NAME -->`, NAME
    /// being that of the TOML file; the figure goes to img/ beside it
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,

    /// Folder with the example programs [default: where this one is]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let spec = Spec::read(&cli.file)?;
    let jobs = match cli.jobs {
        Some(0) => return Err("--jobs must be at least 1, got 0".into()),
        Some(jobs) => jobs,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let out = cli.out.clone().unwrap_or_else(|| {
        Path::new("runs").join(cli.file.file_stem().unwrap_or("sweep".as_ref()))
    });
    grid::check_started(&spec, &out)?;
    let mut failed = Vec::new();
    let mut interrupted = false;
    if !cli.report {
        let program = program(cli, &spec)?;
        fs::create_dir_all(&out)
            .map_err(|error| format!("cannot create {}: {error}", out.display()))?;
        grid::note_started(&spec, &out)?;
        let signals = Arc::new(AtomicUsize::new(0));
        let count = signals.clone();
        ctrlc::set_handler(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })?;
        for stage in Stage::ALL {
            let mut runs = stage.runs(&spec, &out)?;
            // Once is enough.
            runs.retain(|run| !failed.contains(&run.folder));
            let outcome = grid::execute(&spec, stage.name(), &program, &runs, jobs, &signals);
            for failure in &outcome.failed {
                eprintln!("failed: {failure}");
            }
            failed.extend(outcome.failed_folders);
            if outcome.interrupted {
                interrupted = true;
                break;
            }
        }
    }
    let choices: Vec<Option<Choice>> = spec
        .policies
        .iter()
        .map(|&policy| plan::choice(&spec, &out, policy))
        .collect::<std::result::Result<_, _>>()?;
    let runs = Stage::Followers.runs(&spec, &out)?;
    let finished = report::collect(&spec, &runs, cli.report)?;
    if !finished.is_empty() {
        let whole = finished.len() == spec.policies.len() * spec.seeds.len();
        show(cli, &spec, &out, &finished, &choices, whole)?;
    } else if failed.is_empty() && !interrupted {
        return Err(format!("{} holds no results yet", out.display()).into());
    }
    if interrupted {
        say("interrupted; the same command goes on");
        return Ok(ExitCode::from(130));
    }
    // A step that is too large for a policy is found by trying it.
    let lost = failed
        .iter()
        .filter(|folder| runs.iter().any(|run| run.folder == **folder));
    let lost = match spec.tuning {
        Some(_) if !runs.is_empty() => lost.count(),
        _ => failed.len(),
    };
    match lost {
        0 => Ok(ExitCode::SUCCESS),
        lost => Err(format!(
            "{lost} of {} runs failed, see above; the same command tries them again",
            runs.len().max(lost)
        )
        .into()),
    }
}

/// What runs after what.
#[derive(Clone, Copy)]
enum Stage {
    Tuning,
    Leaders,
    /// All runs that are compared.
    Followers,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Tuning, Self::Leaders, Self::Followers];

    fn name(self) -> &'static str {
        match self {
            Self::Tuning => "tuning",
            Self::Leaders => "runs",
            Self::Followers => "all runs",
        }
    }

    fn runs(self, spec: &Spec, out: &Path) -> Result<Vec<Run>> {
        Ok(match self {
            Self::Tuning => plan::tuning_runs(spec, out),
            Self::Leaders => plan::compared_runs(spec, out, true)?,
            Self::Followers => plan::compared_runs(spec, out, false)?,
        })
    }
}

/// Writes and prints table and figure.
fn show(
    cli: &Cli,
    spec: &Spec,
    out: &Path,
    finished: &[report::Finished],
    choices: &[Option<Choice>],
    complete: bool,
) -> Result<()> {
    report::check_measures(spec, finished)?;
    let mut table = report::table(spec, finished, choices);
    if let Some(search) = comparison::search(spec, out, choices)? {
        table += &search;
    }
    let (table_path, figure_path) = (out.join("table.md"), out.join("figure.png"));
    fs::write(&table_path, &table)
        .map_err(|error| format!("cannot write {}: {error}", table_path.display()))?;
    figure::figure(spec, finished, &figure_path)?;
    say(format_args!("{}\n\n{table}", spec.title));
    say(format_args!("figure: {}", figure_path.display()));
    match &cli.into {
        // Half a table never replaces a whole one unasked.
        Some(document) if !(complete || cli.report) => say(format_args!(
            "{} is left as it was, as runs are missing; --report writes what is there",
            document.display()
        )),
        Some(document) => {
            let name = cli.file.file_stem().unwrap_or_default().to_string_lossy();
            report::write_into(document, &name, spec, &table, &figure_path)?;
        }
        None => {}
    }
    Ok(())
}

/// The program to run, beside this one.
fn program(cli: &Cli, spec: &Spec) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folder = cli.programs.clone().or(here.parent().map(Path::to_owned));
    let name = format!("{}{}", spec.program, std::env::consts::EXE_SUFFIX);
    let program = folder.unwrap_or_default().join(name);
    match program.is_file() {
        true => Ok(program),
        false => Err(format!(
            "there is no program {}; build it with `cargo build --release --example {}`",
            program.display(),
            spec.program
        )
        .into()),
    }
}
