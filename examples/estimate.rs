//! How many steps of backpropagation do these gradients need?
//!
//! Reads gradient norms from a JSON file, rows `[lag][sequence]`, measured with any framework: `[[…], …]`, or
//! `{"gradient_norms": [[…], …], "tau": …, "mean_sum_norms": […]}` with the last two optional, or several of these as
//! `{"cases": [{…}, …]}`. Row k holds the norm of ∂L/∂h at the state k steps before the loss, one number per sequence.
//!
//! ```text
//! cargo run --release --example estimate -- norms.json --delta 0.5 --delta 0.1 --png profile.png
//! ```
//!
//! Expected output, for norms that shrink by 0.8 per step (φ_k = 0.8^k, k = 0..=40, two sequences):
//!
//! ```text
//! norms   41 lags (W = 40 steps), 2 sequences
//! decay   β = 0.8000 per step, half-life 3.1 steps; least squares over all lags, τ = 36 steps
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

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use atbptt::core::{
    Averaging, BiasEstimate, BiasEstimator, DecayFit, EstimateError, FitLags, GradientSize,
    KInterval, LagNorms, Reason, Tau, k_interval,
};
use atbptt::train::norms_file::{LagNormsCase, LagNormsFile};
use atbptt::train::plot::{LagProfileFigure, lag_profile_figure};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

/// Half-width of a 95 % interval, in standard errors.
const Z: f64 = 1.96;

/// Operations that the interval may cost: it estimates once per sequence left out.
const INTERVAL_BUDGET: usize = 2_000_000_000;

/// Lags of the tail that all pairs may be taken of.
const QUANTILE_TAIL: usize = 8192;

/// How many steps of backpropagation do these gradients need?
///
/// Reads gradient norms per lag and sequence, fits their decay, and prints the shortest truncation length K whose
/// estimated relative gradient bias stays within each tolerance δ.
#[derive(Parser)]
#[command(name = "estimate", version)]
struct Args {
    /// JSON file of gradient norms, rows [lag][sequence], lag 0 first: [[…], …], or an object with `gradient_norms`
    /// (and optionally `tau`, `mean_sum_norms`), or `{"cases": […]}` of such objects. `-` reads standard input.
    file: PathBuf,

    /// Which probe of a file with several, from 0. Without it they are listed.
    #[arg(long, value_name = "N")]
    case: Option<usize>,

    /// Tolerated relative bias δ, a share of the gradient in (0, 1]. Give it once per tolerance.
    #[arg(long, value_name = "SHARE", default_values_t = [0.9, 0.5, 0.1], allow_negative_numbers = true)]
    delta: Vec<f64>,

    /// How the decay per step β is fitted: least squares over all lags, over the lags from τ on, the largest slope
    /// from τ on (conservative), or a quantile of the slopes between all pairs of lags from τ on.
    #[arg(long, value_enum, default_value = "ols")]
    fit: Fit,

    /// Which quantile of the slopes, in [0, 1], for `--fit quantile` [default: 0.95].
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    quantile: Option<f64>,

    /// Lag from which on the decay counts as geometric, in steps, below the window length W [default: the file's
    /// `tau`, else 0.9 W].
    #[arg(long, value_name = "STEPS", conflicts_with = "tau_fraction")]
    tau: Option<usize>,

    /// The same as a share of W, in [0, 1).
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    tau_fraction: Option<f64>,

    /// Order of the mean over sequences and the logarithm.
    #[arg(long, value_enum, default_value = "mean-log")]
    averaging: AveragingArg,

    /// What the bias is compared with: the sum of the norms, or the norm of the batch-mean sum, which the file must
    /// then hold as `mean_sum_norms` (one number per count of kept lags, from 0).
    #[arg(long, value_enum, default_value = "sum")]
    gradient_size: Size,

    /// Longest K to use, in steps [default: the number of lags, W + 1].
    #[arg(long, value_name = "STEPS")]
    k_max: Option<usize>,

    /// Draw profile, tail and bias curve as a PNG, for the smallest δ that some K reaches.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,

    /// Write lag, φ, absolute and relative bias as CSV; in row k the biases are those of keeping k steps.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Print JSON in place of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Fit {
    Ols,
    OlsTail,
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
}

impl Args {
    fn estimator(&self, case: &LagNormsCase) -> Result<BiasEstimator, Box<dyn Error>> {
        let fit = match (self.fit, self.quantile) {
            (Fit::Quantile, quantile) => DecayFit::Quantile(quantile.unwrap_or(0.95)),
            (_, Some(_)) => return Err("--quantile belongs to --fit quantile; add it".into()),
            (Fit::Ols, None) => DecayFit::LeastSquares(FitLags::All),
            (Fit::OlsTail, None) => DecayFit::LeastSquares(FitLags::Tail),
            (Fit::Max, None) => DecayFit::Max,
        };
        let tau = match (self.tau, self.tau_fraction, case.tau) {
            (Some(lag), _, _) => Tau::Lag(lag),
            (None, Some(fraction), _) => Tau::Fraction(fraction),
            (None, None, Some(lag)) => Tau::Lag(lag),
            (None, None, None) => Tau::default(),
        };
        let estimator = BiasEstimator::new()
            .with_fit(fit)
            .with_tau(tau)
            .with_averaging(match self.averaging {
                AveragingArg::MeanLog => Averaging::MeanThenLog,
                AveragingArg::LogMean => Averaging::LogThenMean,
            })
            .with_gradient_size(match self.gradient_size {
                Size::Sum => GradientSize::SumOfNorms,
                Size::MeanSum => GradientSize::NormOfMeanSum,
            });
        estimator.validate()?;
        if matches!(self.gradient_size, Size::MeanSum) && case.norms.mean_sum_norms().is_none() {
            return Err("--gradient-size mean-sum needs `mean_sum_norms` beside the norms in the file, and they are \
                        absent; add them or use --gradient-size sum"
                .into());
        }
        let tail = match tau {
            Tau::Lag(lag) => case.norms.lags().saturating_sub(lag),
            Tau::Fraction(share) => ((1.0 - share) * case.norms.lags() as f64) as usize,
        };
        if self.fit == Fit::Quantile && tail > QUANTILE_TAIL {
            return Err(format!(
                "--fit quantile compares all pairs of at most {QUANTILE_TAIL} lags, and the tail has {tail}; \
                 raise --tau, or use --fit max"
            )
            .into());
        }
        Ok(estimator)
    }

    fn fit_in_words(&self) -> String {
        match self.fit {
            Fit::Ols => "least squares over all lags".into(),
            Fit::OlsTail => "least squares over the lags from τ on".into(),
            Fit::Max => "largest slope from τ on".into(),
            Fit::Quantile => {
                format!("{} quantile of the slopes", self.quantile.unwrap_or(0.95))
            }
        }
    }
}

/// What one tolerance asks for.
struct Answer {
    delta: f64,
    /// K(δ) as the estimate has it; `None`: no K reaches δ.
    smallest: Option<usize>,
    /// K to use: at most the longest allowed.
    k: usize,
    reason: Reason,
    interval: Option<KInterval>,
}

fn answer(
    args: &Args,
    estimator: &BiasEstimator,
    norms: &LagNorms,
    estimate: &BiasEstimate,
    delta: f64,
) -> Result<Answer, EstimateError> {
    if !(delta > 0.0 && delta <= 1.0) {
        return Err(EstimateError::Tolerance { delta });
    }
    let k_max = args.k_max.unwrap_or(norms.lags());
    let smallest = estimate.smallest_k(delta);
    let (k, reason) = match smallest {
        Some(k) if k <= k_max => (k, Reason::ToleranceMet),
        Some(_) => (k_max, Reason::ClampedToMax),
        None if estimate.is_bounded() => (k_max, Reason::OutOfReach),
        None => (k_max, Reason::NoDecay),
    };
    let one = norms.lags() + estimate.window().saturating_sub(estimate.tau()).pow(2);
    let cost = norms.sequences().saturating_mul(norms.sequences() + one);
    let affordable = cost.saturating_mul(norms.lags()) <= INTERVAL_BUDGET;
    let interval = match norms.sequences() >= 2 && affordable {
        true => Some(k_interval(estimator, norms, delta, Z, k_max)?),
        false => None,
    };
    Ok(Answer {
        delta,
        smallest,
        k,
        reason,
        interval,
    })
}

fn run(args: &Args) -> Result<String, Box<dyn Error>> {
    let read = match args.file.as_os_str() == "-" {
        true => LagNormsFile::from_reader(io::stdin().lock()),
        false => LagNormsFile::open(&args.file),
    };
    let cases = read
        .map_err(|error| format!("{}: {error}", args.file.display()))?
        .cases;
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

    let estimator = args.estimator(case)?;
    let estimate = estimator.estimate(&case.norms)?;
    let mut answers = Vec::new();
    for &delta in &args.delta {
        answers.push(answer(args, &estimator, &case.norms, &estimate, delta)?);
    }
    let mut out = match args.json {
        true => as_json(&case.norms, &estimate, &answers),
        false => as_tables(args, &case.norms, &estimate, &answers),
    };
    if let Some(path) = &args.csv {
        std::fs::write(path, csv(&estimate))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if let Some(path) = &args.png {
        let mut title = match args.file.file_name() {
            Some(name) if name != "-" => format!("Gradient norms of {}", name.display()),
            _ => String::from("Gradient norms"),
        };
        if cases.len() > 1 {
            write!(title, ", case {index}")?;
        }
        let delta = draw(path, &title, &case.norms, &estimate, &answers)?;
        if !args.json {
            writeln!(out, "\nfigure for δ = {delta}: {}", path.display())?;
        }
    }
    Ok(out)
}

/// The cases of a file with several.
fn list(args: &Args, cases: &[LagNormsCase]) -> String {
    if args.json {
        let rows = cases.iter().enumerate().map(|(index, case)| {
            let (lags, sequences) = (case.norms.lags(), case.norms.sequences());
            json!({"case": index, "lags": lags, "sequences": sequences, "tau": case.tau})
        });
        return format!("{:#}\n", json!({"cases": rows.collect::<Vec<_>>()}));
    }
    let head = ["case", "lags", "sequences", "τ"].map(String::from);
    let rows = cases.iter().enumerate().map(|(index, case)| {
        let tau = case.tau.map_or("-".into(), |tau| tau.to_string());
        let (lags, sequences) = (case.norms.lags(), case.norms.sequences());
        [
            index.to_string(),
            lags.to_string(),
            sequences.to_string(),
            tau,
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    format!("choose one with --case N\n\n{}", table(&rows, 4))
}

/// ln 2 / −ln β, in steps.
fn half_life(estimate: &BiasEstimate) -> Option<f64> {
    (estimate.log_beta() < 0.0).then(|| -std::f64::consts::LN_2 / estimate.log_beta())
}

fn as_tables(args: &Args, norms: &LagNorms, estimate: &BiasEstimate, answers: &[Answer]) -> String {
    let half_life = match half_life(estimate) {
        Some(steps) => format!("half-life {steps:.1} steps"),
        None => "no decay".into(),
    };
    let plural = if norms.sequences() == 1 { "" } else { "s" };
    let mut out = format!(
        "norms   {} lags (W = {} steps), {} sequence{plural}\n\
         decay   β = {:.4} per step, {half_life}; {}, τ = {} steps\n\n",
        norms.lags(),
        norms.window(),
        norms.sequences(),
        estimate.beta(),
        args.fit_in_words(),
        estimate.tau(),
    );
    let head = ["δ", "K", "95 % interval", "reason"].map(String::from);
    let rows = answers.iter().map(|answer| {
        let interval = match answer.interval {
            Some(i) if i.saturated < norms.sequences() => {
                // K is the crossing rounded up, and so are its ends.
                format!("{} to {}", i.low.ceil(), i.high.ceil())
            }
            _ => "-".into(),
        };
        [
            answer.delta.to_string(),
            answer.k.to_string(),
            interval,
            answer.reason.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    out += &table(&rows, 2);
    if norms.sequences() < 2 {
        out += "no interval: it takes the spread over two sequences or more\n";
    } else if answers.iter().any(|answer| answer.interval.is_none()) {
        out += "no interval: too many norms to leave out sequence by sequence\n";
    } else if answers
        .iter()
        .filter_map(|answer| answer.interval)
        .any(|i| i.saturated > 0 && i.saturated < norms.sequences())
    {
        out += "where leaving out one sequence leaves no K, the interval is too narrow\n";
    }
    if !estimate.is_bounded() {
        out += "\nthe bias has no bound; a longer window or another --fit may show a decay\n";
        return out;
    }
    let head = ["K", "relative bias", ""].map(String::from);
    let rows = lengths(norms, answers).into_iter().map(|k| {
        let met = answers.iter().filter(|a| a.smallest == Some(k));
        let marks: Vec<String> = met.map(|a| format!("δ = {}", a.delta)).collect();
        let mark = match marks.is_empty() {
            true => String::new(),
            false => format!("<- {}", marks.join(", ")),
        };
        [k.to_string(), number(estimate.relative_bias(k)), mark]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    out + "\n" + &table(&rows, 1)
}

/// 1, 2, 5, 10, … up to W + 1, and every K that a tolerance asks for.
fn lengths(norms: &LagNorms, answers: &[Answer]) -> Vec<usize> {
    let decades = std::iter::successors(Some(1usize), |decade| decade.checked_mul(10));
    let mut ks: Vec<usize> = decades
        .take_while(|decade| *decade <= norms.lags())
        .flat_map(|decade| [1, 2, 5].map(|digit| decade.saturating_mul(digit)))
        .filter(|k| *k <= norms.lags())
        .chain([norms.lags()])
        .chain(answers.iter().filter_map(|answer| answer.smallest))
        .collect();
    ks.sort_unstable();
    ks.dedup();
    ks
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

fn as_json(norms: &LagNorms, estimate: &BiasEstimate, answers: &[Answer]) -> String {
    let finite = |value: f64| value.is_finite().then_some(value);
    let answers = answers.iter().map(|answer| {
        json!({
            "delta": answer.delta,
            "smallest_k": answer.smallest,
            "k": answer.k,
            "reason": answer.reason,
            "relative_bias": finite(estimate.relative_bias(answer.k)),
            "interval": answer.interval,
        })
    });
    let curve = estimate.relative_bias_curve().into_iter().map(finite);
    let value: Value = json!({
        "lags": norms.lags(),
        "sequences": norms.sequences(),
        "tau": estimate.tau(),
        "beta": finite(estimate.beta()),
        "log_beta": estimate.log_beta(),
        "half_life": half_life(estimate),
        "answers": answers.collect::<Vec<_>>(),
        "relative_bias": curve.collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn csv(estimate: &BiasEstimate) -> String {
    let mut out = String::from("lag,phi,absolute_bias,relative_bias\n");
    for (lag, phi) in estimate.profile().phi().into_iter().enumerate() {
        let (absolute, relative) = (estimate.absolute_bias(lag), estimate.relative_bias(lag));
        out += &format!("{lag},{phi:e},{absolute:e},{relative:e}\n");
    }
    out
}

/// Draws the smallest δ that some K reaches, else the smallest; gives that δ.
fn draw(
    path: &std::path::Path,
    title: &str,
    norms: &LagNorms,
    estimate: &BiasEstimate,
    answers: &[Answer],
) -> Result<f64, Box<dyn Error>> {
    let key = |answer: &&Answer| (answer.smallest.is_none(), answer.delta);
    let order = |a: &&Answer, b: &&Answer| {
        key(a)
            .partial_cmp(&key(b))
            .unwrap_or(std::cmp::Ordering::Equal)
    };
    let Some(answer) = answers.iter().min_by(order) else {
        return Err("a figure needs a tolerance; give --delta".into());
    };
    let sequences: Vec<Vec<f64>> = (0..norms.sequences())
        .map(|b| (0..norms.lags()).map(|lag| norms.row(lag)[b]).collect())
        .collect();
    let curve = estimate.relative_bias_curve().into_iter().enumerate();
    let bias: Vec<(usize, f64)> = curve.skip(1).collect();
    lag_profile_figure(
        path,
        &LagProfileFigure {
            title,
            mean: &estimate.profile().phi(),
            sequences: &sequences,
            tau: estimate.tau(),
            beta: (estimate.log_beta() < 0.0).then(|| estimate.beta()),
            bias: &bias,
            delta: answer.delta,
            k: answer.k,
        },
    )?;
    Ok(answer.delta)
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
