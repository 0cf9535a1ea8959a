//! How many steps of backpropagation does this model need?
//!
//! Reads what probes measured, with any framework, from a JSON file: gradient norms, rows `[lag][sequence]`, as `[[…], …]` or
//! `{"gradient_norms": [[…], …], "tau": …, "mean_sum_norms": […], "sum_squares": […]}` with all but the first optional;
//! direct statistics, `{"direct": {…}}`; both in one object; or several of these as `{"cases": [{…}, …]}`. Row k of the norms
//! holds ‖∂L/∂h‖ at the state k steps before the loss, one number per sequence. `python/atbptt_probe.py` writes both for any
//! PyTorch model.
//!
//! ```text
//! cargo run --release --example estimate -- norms.json --delta 0.5 --delta 0.1 --png profile.png
//! ```
//!
//! Expected output, for norms that shrink by 0.8 per step (φ_k = 0.8^k, k = 0..=40, two sequences):
//!
//! ```text
//! norms   41 lags (W = 40 steps), 2 sequences
//! decay   β = 0.8000 per step, half-life 3.1 steps; least squares over the lags from τ on, τ = 1 steps
//! tail    0.0 % of the bias at the shortest K is beyond the window, 0.1 % at the longest: τ is moot
//!
//!   δ   K  95 % interval  reason
//! 0.5   4  4 to 4         shortest length that meets the bias tolerance
//! 0.1  11  11 to 11       shortest length that meets the bias tolerance
//!
//!  K  relative bias
//!  1  0.8002
//!  2  0.6401
//!  4  0.4097         <- δ = 0.5
//!  5  0.3277
//! 10  0.1074
//! 11  0.0859         <- δ = 0.1
//! 20  0.0115
//! 41  1.1e-4
//!
//! figure for δ = 0.1: profile.png
//! ```
//!
//! Norms give an estimate and no bound: they know states, not parameters. Direct statistics measure the bias of the
//! parameter gradient itself; where a file has both, believe these.

mod direct;
mod norms;

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use atbptt::train::probe_file::{self, ProbeCase};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

/// How many steps of backpropagation does this model need?
///
/// Reads gradient norms per lag and sequence, fits their decay, and prints the shortest truncation length K whose
/// estimated relative gradient bias stays within each tolerance δ. Reads direct statistics, and prints the same from the
/// measured bias of the parameter gradient.
#[derive(Parser)]
#[command(name = "estimate", version)]
struct Args {
    /// JSON file of gradient norms, rows [lag][sequence], lag 0 first: [[…], …], or an object with `gradient_norms`
    /// (and optionally `tau`, `mean_sum_norms`, `sum_squares`) or `direct`, or `{"cases": […]}` of such objects. `-` reads
    /// standard input.
    file: PathBuf,

    /// Which case of a file with several, from 0. Without it they are listed.
    #[arg(long, value_name = "N")]
    case: Option<usize>,

    /// Tolerated relative bias δ, a share of the gradient in (0, 1]. Give it once per tolerance.
    #[arg(long, value_name = "SHARE", default_values_t = [0.9, 0.5, 0.1], allow_negative_numbers = true)]
    delta: Vec<f64>,

    /// Norms: the estimator of Aicher et al. (2019) in place of this library's: τ = 0.9 W, tail summed from τ on, least
    /// squares over all lags. The options below still count.
    #[arg(long)]
    paper: bool,

    /// Norms: how the decay per step β is fitted: least squares over the lags from τ on, over all lags, the largest slope
    /// from τ on (conservative), or a quantile of the slopes between all pairs of lags from τ on [default: ols-tail, with
    /// --paper ols].
    #[arg(long, value_enum)]
    fit: Option<Fit>,

    /// Norms: which quantile of the slopes, in [0, 1], for `--fit quantile` [default: 0.95].
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    quantile: Option<f64>,

    /// Norms: lag from which on the decay counts as geometric, in steps, below the window length W [default: the file's
    /// `tau`, else chosen from the data by Lepski's rule].
    #[arg(long, value_name = "STEPS", conflicts_with = "tau_fraction")]
    tau: Option<usize>,

    /// Norms: the same as a share of W, in [0, 1).
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    tau_fraction: Option<f64>,

    /// Norms: order of the mean over sequences and the logarithm.
    #[arg(long, value_enum, default_value = "mean-log")]
    averaging: AveragingArg,

    /// Norms: what the bias is compared with: the sum of the norms, or the norm of the batch-mean sum, which the file must
    /// then hold as `mean_sum_norms` (one number per count of kept lags, from 0); `states`: without lag 0; `debiased`:
    /// without the noise of a mean over few sequences, for which the file must hold `sum_squares`, too.
    #[arg(long, value_enum, default_value = "sum")]
    gradient_size: Size,

    /// Direct statistics: how windows follow each other in training.
    #[arg(long, value_enum, default_value = "strided")]
    scheme: SchemeArg,

    /// Direct statistics: losses per update of strided windows [default: as many as a probe had].
    #[arg(long, value_name = "STEPS")]
    losses: Option<usize>,

    /// Longest K to use, in steps [default: the number of lags, W + 1, or the direct window].
    #[arg(long, value_name = "STEPS")]
    k_max: Option<usize>,

    /// Draw profile, tail and bias curve of the norms as a PNG, for the smallest δ that some K reaches.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,

    /// Write lag, φ, absolute and relative bias of the norms as CSV; in row k the biases are those of keeping k steps.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Print JSON in place of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Fit {
    OlsTail,
    Ols,
    Max,
    Quantile,
}

#[derive(Clone, Copy, ValueEnum)]
enum AveragingArg {
    MeanLog,
    LogMean,
}

#[derive(Clone, Copy, ValueEnum)]
enum Size {
    Sum,
    MeanSum,
    Debiased,
    States,
    MeanStates,
    DebiasedStates,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemeArg {
    Strided,
    Overlapping,
    Chunked,
}

fn run(args: &Args) -> Result<String, Box<dyn Error>> {
    let read = match args.file.as_os_str() == "-" {
        true => probe_file::from_reader(io::stdin().lock()),
        false => probe_file::open(&args.file),
    };
    let cases = read.map_err(|error| format!("{}: {error}", args.file.display()))?;
    let index = match (args.case, cases.len()) {
        (Some(index), _) => index,
        (None, 1) => 0,
        (None, _) => return Ok(list(args, &cases)),
    };
    let case = cases.get(index).ok_or_else(|| {
        let last = cases.len() - 1;
        format!("--case must be at most {last}, got {index}; leave it out to list the cases")
    })?;
    if args.k_max == Some(0) {
        return Err("--k-max must be at least 1 step, got 0".into());
    }
    for delta in &args.delta {
        if !(*delta > 0.0 && *delta <= 1.0) {
            return Err(
                format!("the bias tolerance --delta must lie in (0, 1], got {delta}").into(),
            );
        }
    }
    if case.norms.is_none() && (args.png.is_some() || args.csv.is_some()) {
        return Err(
            "--png and --csv show gradient norms, and the file has none; leave them out".into(),
        );
    }

    let name = match args.file.file_name() {
        Some(name) if name != "-" => format!("Gradient norms of {}", name.display()),
        _ => String::from("Gradient norms"),
    };
    let title = match cases.len() > 1 {
        true => format!("{name}, case {index}"),
        false => name,
    };
    let mut parts = Vec::new();
    let mut object = Map::new();
    if let Some(norms) = &case.norms {
        let answered = norms::Answered::new(args, case, norms)?;
        answered.write_files(&title)?;
        match args.json {
            true => object.append(&mut answered.json()),
            false => parts.push(answered.tables()),
        }
    }
    if let Some(statistics) = &case.direct {
        let answered = direct::Answered::new(args, statistics)?;
        match args.json {
            true => {
                object.insert("direct".into(), answered.json());
            }
            false => parts.push(answered.tables()),
        }
    }
    Ok(match args.json {
        true => format!("{:#}\n", Value::from(object)),
        false => parts.join("\n"),
    })
}

/// The cases of a file with several.
fn list(args: &Args, cases: &[ProbeCase]) -> String {
    let lags = |case: &ProbeCase| case.norms.as_ref().map(|norms| norms.lags());
    let sequences = |case: &ProbeCase| case.norms.as_ref().map(|norms| norms.sequences());
    let probes = |case: &ProbeCase| case.direct.as_ref().map(|direct| direct.probes());
    if args.json {
        let rows = cases.iter().enumerate().map(|(index, case)| {
            json!({
                "case": index,
                "lags": lags(case),
                "sequences": sequences(case),
                "tau": case.tau,
                "direct_probes": probes(case),
            })
        });
        return format!("{:#}\n", json!({"cases": rows.collect::<Vec<_>>()}));
    }
    let head = ["case", "lags", "sequences", "τ", "direct probes"].map(String::from);
    let number = |value: Option<usize>| value.map_or("-".into(), |value| value.to_string());
    let rows = cases.iter().enumerate().map(|(index, case)| {
        let numbers = [lags(case), sequences(case), case.tau, probes(case)].map(number);
        let [lags, sequences, tau, probes] = numbers;
        [index.to_string(), lags, sequences, tau, probes]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    format!("choose one with --case N\n\n{}", table(&rows, 5))
}

/// 1, 2, 5, 10, … up to `longest`, and every K that a tolerance asks for.
fn lengths(longest: usize, asked: impl Iterator<Item = usize>) -> Vec<usize> {
    let decades = std::iter::successors(Some(1usize), |decade| decade.checked_mul(10));
    let mut ks: Vec<usize> = decades
        .take_while(|decade| *decade <= longest)
        .flat_map(|decade| [1, 2, 5].map(|digit| decade.saturating_mul(digit)))
        .filter(|k| *k <= longest)
        .chain([longest])
        .chain(asked)
        .collect();
    ks.sort_unstable();
    ks.dedup();
    ks
}

/// `<- δ = …` for the tolerances of which `k` is the shortest length.
fn mark(k: usize, answers: impl Iterator<Item = (f64, Option<usize>)>) -> String {
    let met = answers.filter(|(_, smallest)| *smallest == Some(k));
    let marks: Vec<String> = met.map(|(delta, _)| format!("δ = {delta}")).collect();
    match marks.is_empty() {
        true => String::new(),
        false => format!("<- {}", marks.join(", ")),
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn number(value: f64) -> String {
    match value {
        value if !value.is_finite() => "no bound".into(),
        value if value >= 1e-3 => format!("{value:.4}"),
        value => format!("{value:.1e}"),
    }
}

/// Columns two spaces apart, the first `right` of them flush right.
fn table<const N: usize>(rows: &[[String; N]], right: usize) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column < right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out
}

fn main() -> ExitCode {
    let result = match Args::try_parse() {
        Ok(args) => run(&args),
        // `--help` and `--version` arrive here too, and belong on standard output.
        Err(error) if !error.use_stderr() => Ok(error.to_string()),
        Err(error) => Err(usage(&error.to_string()).into()),
    };
    match result {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            // A reader that has seen enough, such as `head`, is no error.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error.to_string()),
            _ => ExitCode::SUCCESS,
        },
        Err(error) => fail(&error.to_string()),
    }
}

/// The message of a command line that does not parse, on one line.
fn usage(text: &str) -> String {
    let message = text.split("\n\n").next().unwrap_or(text);
    let words: Vec<&str> = message.split_whitespace().collect();
    let words = words.join(" ");
    format!("{}; see --help", words.trim_start_matches("error: "))
}

fn fail(message: &str) -> ExitCode {
    let line = message.replace(['\n', '\r'], " ");
    // Nowhere is left to report a failure of this.
    writeln!(io::stderr(), "error: {line}").ok();
    ExitCode::FAILURE
}
