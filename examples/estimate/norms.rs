//! K from gradient norms.

use std::error::Error;
use std::fmt::Write as _;

use atbptt::core::{
    Averaging, BiasEstimate, BiasEstimator, DecayFit, EstimateError, GradientSize, KInterval,
    LagNorms, Reason, Tau, k_interval,
};
use atbptt::train::plot::{LagProfileFigure, lag_profile_figure};
use atbptt::train::probe_file::ProbeCase;
use serde_json::{Map, Value, json};

use crate::{Args, AveragingArg, Fit, Size, finite, lengths, mark, number, table};

/// Share of the bootstrap draws within an interval.
const LEVEL: f64 = 0.95;

/// Operations that the intervals may cost: the rule runs once per draw.
const INTERVAL_BUDGET: usize = 4_000_000_000;

/// Lags of the tail that all pairs may be taken of.
const QUANTILE_TAIL: usize = 8192;

/// What the norms of a case say to every tolerance.
pub struct Answered<'a> {
    args: &'a Args,
    norms: &'a LagNorms,
    estimator: BiasEstimator,
    estimate: BiasEstimate,
    answers: Vec<Answer>,
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

impl<'a> Answered<'a> {
    pub fn new(
        args: &'a Args,
        case: &ProbeCase,
        norms: &'a LagNorms,
    ) -> Result<Self, Box<dyn Error>> {
        let estimator = estimator(args, case.tau, norms)?;
        let estimate = estimator.estimate(norms)?;
        let answers = args
            .delta
            .iter()
            .map(|delta| answer(args, &estimator, norms, &estimate, *delta));
        Ok(Self {
            args,
            norms,
            answers: answers.collect::<Result<_, _>>()?,
            estimator,
            estimate,
        })
    }

    /// Table and figure, where they were asked for.
    pub fn write_files(&self, title: &str) -> Result<(), Box<dyn Error>> {
        if let Some(path) = &self.args.csv {
            std::fs::write(path, csv(&self.estimate))
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        if let Some(path) = &self.args.png {
            draw(path, title, self.norms, &self.estimate, self.drawn()?)?;
        }
        Ok(())
    }

    /// The answer for the figure: the smallest δ that some K reaches, else the smallest.
    fn drawn(&self) -> Result<&Answer, Box<dyn Error>> {
        let key = |answer: &&Answer| (answer.smallest.is_none(), answer.delta);
        let order = |a: &&Answer, b: &&Answer| {
            key(a)
                .partial_cmp(&key(b))
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        let smallest = self.answers.iter().min_by(order);
        smallest.ok_or_else(|| "a figure needs a tolerance; give --delta".into())
    }

    fn asked(&self) -> impl Iterator<Item = (f64, Option<usize>)> {
        self.answers
            .iter()
            .map(|answer| (answer.delta, answer.smallest))
    }

    pub fn tables(&self) -> String {
        let Self {
            norms,
            estimate,
            answers,
            ..
        } = self;
        let half_life = match half_life(estimate) {
            Some(steps) => format!("half-life {steps:.1} steps"),
            None => "no decay".into(),
        };
        let plural = if norms.sequences() == 1 { "" } else { "s" };
        let mut out = format!(
            "norms   {} lags (W = {} steps), {} sequence{plural}\n\
             decay   β = {:.4} per step, {half_life}; {}, τ = {} steps\n{}\n",
            norms.lags(),
            norms.window(),
            norms.sequences(),
            estimate.beta(),
            fit_in_words(self.estimator.fit),
            estimate.tau(),
            self.tail_in_words(),
        );
        let head = ["δ", "K", "95 % interval", "reason"].map(String::from);
        let rows = answers.iter().map(|answer| {
            let interval = match answer.interval {
                Some(i) if i.saturated < i.draws => {
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
            out += "no interval: too many norms to draw from again and again\n";
        } else if answers
            .iter()
            .filter_map(|answer| answer.interval)
            .any(|i| i.saturated > 0 && i.saturated < i.draws)
        {
            out += "where some draws of the sequences leave no K, the interval may be too narrow\n";
        }
        if !estimate.is_bounded() {
            out += "\nthe bias has no bound; a longer window or another --fit may show a decay\n";
            return out;
        }
        let head = ["K", "relative bias", ""].map(String::from);
        let shortest = answers.iter().filter_map(|answer| answer.smallest);
        let rows = lengths(norms.lags(), shortest).into_iter().map(|k| {
            [
                k.to_string(),
                number(estimate.relative_bias(k)),
                mark(k, self.asked()),
            ]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        out += &format!("\n{}", table(&rows, 1));
        if let (Some(path), Ok(answer)) = (&self.args.png, self.drawn()) {
            out += &format!("\nfigure for δ = {}: {}\n", answer.delta, path.display());
        }
        out
    }

    /// How much of the bias is the fitted tail, and with it whether τ matters.
    fn tail_in_words(&self) -> String {
        let ks = || self.answers.iter().filter_map(|answer| answer.smallest);
        let (Some(short), Some(long)) = (ks().min(), ks().max()) else {
            return String::new();
        };
        let percent = |k| 100.0 * self.estimate.tail_share(k);
        let mut text = format!(
            "tail    {:.1} % of the bias at the shortest K is beyond the window, {:.1} % at the longest",
            percent(short),
            percent(long)
        );
        if self.estimate.tau_is_moot(long) {
            write!(text, ": τ is moot").ok();
        }
        text + "\n"
    }

    pub fn json(&self) -> Map<String, Value> {
        let estimate = &self.estimate;
        let answers = self.answers.iter().map(|answer| {
            json!({
                "delta": answer.delta,
                "smallest_k": answer.smallest,
                "k": answer.k,
                "reason": answer.reason,
                "relative_bias": finite(estimate.relative_bias(answer.k)),
                "tail_share": estimate.tail_share(answer.k),
                "interval": answer.interval,
            })
        });
        let curve = estimate.relative_bias_curve().into_iter().map(finite);
        let rows = [
            ("lags", json!(self.norms.lags())),
            ("sequences", json!(self.norms.sequences())),
            ("tau", json!(estimate.tau())),
            ("beta", json!(finite(estimate.beta()))),
            ("log_beta", json!(estimate.log_beta())),
            ("half_life", json!(half_life(estimate))),
            ("answers", answers.collect()),
            ("relative_bias", json!(curve.collect::<Vec<_>>())),
        ];
        rows.into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect()
    }
}

fn estimator(
    args: &Args,
    of_file: Option<usize>,
    norms: &LagNorms,
) -> Result<BiasEstimator, Box<dyn Error>> {
    let base = match args.paper {
        true => BiasEstimator::paper(),
        false => BiasEstimator::new(),
    };
    let fit = match (args.fit, args.quantile) {
        (Some(Fit::Quantile), quantile) => DecayFit::Quantile(quantile.unwrap_or(0.95)),
        (_, Some(_)) => return Err("--quantile belongs to --fit quantile; add it".into()),
        (Some(Fit::Ols), None) => DecayFit::LeastSquaresOfAllLags,
        (Some(Fit::OlsTail), None) => DecayFit::LeastSquares,
        (Some(Fit::Max), None) => DecayFit::Max,
        (None, None) => base.fit,
    };
    let tau = match (args.tau, args.tau_fraction, of_file) {
        (Some(lag), _, _) => Tau::Lag(lag),
        (None, Some(fraction), _) => Tau::Fraction(fraction),
        (None, None, Some(lag)) => Tau::Lag(lag),
        (None, None, None) => base.tau,
    };
    let estimator = base
        .with_fit(fit)
        .with_tau(tau)
        .with_averaging(match args.averaging {
            AveragingArg::MeanLog => Averaging::MeanThenLog,
            AveragingArg::LogMean => Averaging::LogThenMean,
        })
        .with_gradient_size(match args.gradient_size {
            Size::Sum => GradientSize::SumOfNorms,
            Size::States => GradientSize::SumOfStateNorms,
            Size::MeanSum => GradientSize::NormOfMeanSum,
            Size::MeanStates => GradientSize::NormOfMeanStateSum,
            Size::Debiased => GradientSize::DebiasedNormOfMeanSum,
            Size::DebiasedStates => GradientSize::DebiasedNormOfMeanStateSum,
        });
    estimator.validate()?;
    let missing = match args.gradient_size {
        Size::MeanSum | Size::MeanStates if norms.mean_sum_norms().is_none() => "mean_sum_norms",
        Size::Debiased | Size::DebiasedStates if norms.debiased_squares().is_none() => {
            "sum_squares"
        }
        _ => "",
    };
    if !missing.is_empty() {
        return Err(format!(
            "this --gradient-size needs `{missing}` beside the norms in the file, and they are absent; add them or use \
             --gradient-size sum"
        )
        .into());
    }
    let tail = match tau {
        Tau::Lag(lag) => norms.lags().saturating_sub(lag),
        Tau::Fraction(share) => ((1.0 - share) * norms.lags() as f64) as usize,
        _ => norms.lags(),
    };
    if matches!(fit, DecayFit::Quantile(_)) && tail > QUANTILE_TAIL {
        return Err(format!(
            "--fit quantile compares all pairs of at most {QUANTILE_TAIL} lags, and the tail may have {tail}; \
             raise --tau, or use --fit max"
        )
        .into());
    }
    Ok(estimator)
}

fn fit_in_words(fit: DecayFit) -> String {
    match fit {
        DecayFit::LeastSquaresOfAllLags => "least squares over all lags".into(),
        DecayFit::LeastSquares => "least squares over the lags from τ on".into(),
        DecayFit::Max => "largest slope from τ on".into(),
        DecayFit::Quantile(quantile) => format!("{quantile} quantile of the slopes"),
        other => format!("{other:?}"),
    }
}

fn answer(
    args: &Args,
    estimator: &BiasEstimator,
    norms: &LagNorms,
    estimate: &BiasEstimate,
    delta: f64,
) -> Result<Answer, EstimateError> {
    let k_max = args.k_max.unwrap_or(norms.lags());
    let smallest = estimate.smallest_k(delta);
    let (k, reason) = match smallest {
        Some(k) if k <= k_max => (k, Reason::ToleranceMet),
        Some(_) => (k_max, Reason::ClampedToMax),
        None if estimate.is_bounded() => (k_max, Reason::OutOfReach),
        None => (k_max, Reason::NoDecay),
    };
    // A draw averages all norms, fits once per candidate of τ, and for a quantile sorts the slopes of all pairs.
    let pairs = match estimator.fit {
        DecayFit::Quantile(_) => norms.lags().saturating_pow(2),
        _ => 20 * norms.lags(),
    };
    let cost = norms.sequences().saturating_mul(norms.lags()) + pairs;
    let affordable = cost.saturating_mul(400) <= INTERVAL_BUDGET;
    let interval = match norms.sequences() >= 2 && affordable {
        true => Some(k_interval(estimator, norms, delta, LEVEL, k_max)?),
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

/// ln 2 / −ln β, in steps.
fn half_life(estimate: &BiasEstimate) -> Option<f64> {
    (estimate.log_beta() < 0.0).then(|| -std::f64::consts::LN_2 / estimate.log_beta())
}

fn csv(estimate: &BiasEstimate) -> String {
    let mut out = String::from("lag,phi,absolute_bias,relative_bias\n");
    for (lag, phi) in estimate.phi().into_iter().enumerate() {
        let (absolute, relative) = (estimate.absolute_bias(lag), estimate.relative_bias(lag));
        out += &format!("{lag},{phi:e},{absolute:e},{relative:e}\n");
    }
    out
}

fn draw(
    path: &std::path::Path,
    title: &str,
    norms: &LagNorms,
    estimate: &BiasEstimate,
    answer: &Answer,
) -> Result<(), Box<dyn Error>> {
    let sequences: Vec<Vec<f64>> = (0..norms.sequences())
        .map(|b| (0..norms.lags()).map(|lag| norms.row(lag)[b]).collect())
        .collect();
    let curve = estimate.relative_bias_curve().into_iter().enumerate();
    let bias: Vec<(usize, f64)> = curve.skip(1).collect();
    lag_profile_figure(
        path,
        &LagProfileFigure {
            title,
            mean: &estimate.phi(),
            sequences: &sequences,
            tau: estimate.tau(),
            beta: (estimate.log_beta() < 0.0).then(|| estimate.beta()),
            bias: &bias,
            delta: answer.delta,
            k: answer.k,
        },
    )?;
    Ok(())
}
