//! What the measurements say: points, quantiles of estimate/truth, the K that each reading would have chosen, a figure.

use std::fs;

use atbptt::core::BiasEstimate;
use atbptt::core::direct::{DirectEstimate, DirectOutcome};
use atbptt::train::plot::{Line, LinesPanel, lines_figure};

use crate::common::diagnostics::SIZES;
use crate::common::{Result, say};
use crate::options::{Cli, SHORTEST};

/// Below it a ratio says nothing: the error of the truth itself.
const LEAST_TRUTH: f64 = 0.02;

/// The direct estimates among the readings, which know their error: of one update's probes, and averaged over updates.
const DIRECT: [&str; 2] = ["direct estimate", "direct, averaged over updates"];

/// What each reading is called: the direct estimates, then those of the norms.
fn names() -> impl Iterator<Item = &'static str> {
    DIRECT.into_iter().chain(SIZES.map(|(_, name)| name))
}

/// What one set of probes and one controller have of one epoch.
pub struct Measured<'a> {
    pub seed: u64,
    pub epoch: usize,
    /// Which controller.
    pub repeat: usize,
    pub truth: &'a DirectEstimate,
    pub single: &'a DirectEstimate,
    pub averaged: &'a DirectEstimate,
    /// What the controller of every tolerance has.
    pub chosen: &'a [Chosen],
    pub norms: &'a [Option<BiasEstimate>],
}

/// What a controller has of one epoch.
#[derive(Clone, Copy)]
pub struct Chosen {
    pub k: usize,
    /// How many it took; 0 where none were due.
    pub probes: usize,
    /// Whether noise hides the gradient from its averages.
    pub noise_limited: bool,
}

/// One epoch, estimate and K.
struct Point {
    seed: u64,
    epoch: usize,
    repeat: usize,
    k: usize,
    /// Of the recurrent weights, with its standard error.
    truth: (f64, f64),
    /// By reading; infinite where there is no bound.
    estimates: Vec<f64>,
    /// Of the direct estimates.
    errors: [f64; 2],
    noise_limited: [bool; 2],
}

/// One epoch, estimate and tolerance: K(δ) of the truth, of the controller and of every reading.
struct Choice {
    seed: u64,
    epoch: usize,
    repeat: usize,
    delta: f64,
    truth: usize,
    /// The lengths that the truth itself, within two of its standard errors, does not tell from it.
    truth_interval: (usize, usize),
    chosen: Chosen,
    by_reading: Vec<usize>,
    noise_limited: [bool; 2],
}

/// All that was measured.
#[derive(Default)]
pub struct Readings {
    points: Vec<Point>,
    choices: Vec<Choice>,
}

/// The bias at `k` with its error, as it was measured there. What a fit makes of the part beyond the window is in neither the truth
/// nor the estimates, or the one would be held against the other's guess; where no cut is, the curve between the cuts stands in.
pub fn measured(estimate: &DirectEstimate, k: usize) -> (f64, f64) {
    let curve = || (estimate.relative_bias(k), estimate.standard_error(k));
    match estimate.lengths().contains(&k) {
        true => estimate.as_measured(k).unwrap_or((f64::NAN, f64::INFINITY)),
        false => curve(),
    }
}

impl Readings {
    pub fn add(&mut self, cli: &Cli, of: Measured) {
        let direct = [of.single, of.averaged];
        let noise_limited =
            direct.map(|estimate| matches!(estimate.outcome(), DirectOutcome::NoiseLimited { .. }));
        // None where they were not asked for.
        let of_sizes = || (0..SIZES.len()).map(|nth| of.norms.get(nth).and_then(Option::as_ref));
        for &k in &cli.k {
            let of_norms = of_sizes().map(|estimate| {
                let bias = estimate.map(|estimate| estimate.relative_bias(k));
                bias.unwrap_or(f64::INFINITY)
            });
            self.points.push(Point {
                seed: of.seed,
                epoch: of.epoch,
                repeat: of.repeat,
                k,
                truth: measured(of.truth, k),
                estimates: (direct.iter().map(|e| measured(e, k).0))
                    .chain(of_norms)
                    .collect(),
                errors: direct.map(|estimate| measured(estimate, k).1),
                noise_limited,
            });
        }
        let window = of.truth.window();
        let cap = |k: Option<usize>| k.unwrap_or(window).clamp(SHORTEST, window);
        for (&delta, &chosen) in cli.delta.iter().zip(of.chosen) {
            let of_norms = of_sizes().map(|e| e.and_then(|e| e.smallest_k(delta)));
            let all = direct.iter().map(|e| e.smallest_k(delta)).chain(of_norms);
            self.choices.push(Choice {
                seed: of.seed,
                epoch: of.epoch,
                repeat: of.repeat,
                delta,
                truth: cap(of.truth.smallest_k(delta)),
                truth_interval: {
                    let (first, last) = of.truth.k_interval(delta, 2.0);
                    (cap(Some(first)), cap(Some(last)))
                },
                chosen: Chosen {
                    k: cap(Some(chosen.k)),
                    ..chosen
                },
                by_reading: all.map(cap).collect(),
                noise_limited,
            });
        }
    }
}

/// Writes points, tables and the figure, and prints the tables.
pub fn write(cli: &Cli, name: &str, readings: &Readings) -> Result<()> {
    points(cli, readings)?;
    let tables = format!("{}\n{}", ratios(readings), regrets(cli, readings));
    fs::write(cli.out.join("table.md"), &tables)?;
    figure(cli, name, readings)?;
    say(format_args!(
        "\n{tables}\nfigure: {}",
        cli.out.join("true_bias.png").display()
    ));
    Ok(())
}

fn points(cli: &Cli, readings: &Readings) -> Result<()> {
    let mut table = csv::Writer::from_path(cli.out.join("points.csv"))?;
    let head = [
        "seed",
        "epoch",
        "repeat",
        "k",
        "truth",
        "truth_error",
        "noise_limited",
        "averaged_noise_limited",
        "direct_error",
        "averaged_error",
    ];
    table.write_record(head.into_iter().chain(names()))?;
    for point in &readings.points {
        let flag = |is: bool| u8::from(is).to_string();
        let [single, averaged] = point.noise_limited;
        let numbers = [
            point.seed.to_string(),
            point.epoch.to_string(),
            point.repeat.to_string(),
            point.k.to_string(),
            point.truth.0.to_string(),
            point.truth.1.to_string(),
            flag(single),
            flag(averaged),
            point.errors[0].to_string(),
            point.errors[1].to_string(),
        ];
        let estimates = point.estimates.iter().map(f64::to_string);
        table.write_record(numbers.into_iter().chain(estimates))?;
    }
    table.flush()?;
    let mut table = csv::Writer::from_path(cli.out.join("lengths.csv"))?;
    let head = [
        "seed",
        "epoch",
        "repeat",
        "delta",
        "noise_limited",
        "averaged_noise_limited",
        "truth",
        "truth_from",
        "truth_to",
        "controller",
        "probes",
    ];
    table.write_record(head.into_iter().chain(names()))?;
    for choice in &readings.choices {
        let single = u8::from(choice.noise_limited[0]);
        let averaged = u8::from(choice.chosen.noise_limited);
        let numbers = [
            choice.seed.to_string(),
            choice.epoch.to_string(),
            choice.repeat.to_string(),
            choice.delta.to_string(),
            single.to_string(),
            averaged.to_string(),
            choice.truth.to_string(),
            choice.truth_interval.0.to_string(),
            choice.truth_interval.1.to_string(),
            choice.chosen.k.to_string(),
            choice.chosen.probes.to_string(),
        ];
        let ks = choice.by_reading.iter().map(usize::to_string);
        table.write_record(numbers.into_iter().chain(ks))?;
    }
    Ok(table.flush()?)
}

/// The value below which `share` of sorted values lie, joined between order statistics.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = share * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    match low == high {
        true => low,
        false => low + (at - at.floor()) * (high - low),
    }
}

/// Whether a direct reading is noise-limited; the others do not know.
fn is_limited(nth: usize, limited: [bool; 2]) -> bool {
    limited.get(nth).is_some_and(|limited| *limited)
}

/// Quantiles of estimate/truth where the truth is above 0.02, and how often the truth lies within two standard errors of both.
fn ratios(readings: &Readings) -> String {
    let clear: Vec<&Point> = readings
        .points
        .iter()
        .filter(|point| point.truth.0 > LEAST_TRUTH)
        .collect();
    let mut text = format!(
        "Estimate/truth on the {} of {} points with a truth above {LEAST_TRUTH}:\n\n\
         | reading | not noise-limited | 10 % | 25 % | median | 75 % | 90 % | within 2 standard errors |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        clear.len(),
        readings.points.len()
    );
    for (nth, name) in names().enumerate() {
        let usable = || clear.iter().filter(|p| !is_limited(nth, p.noise_limited));
        let mut ratios: Vec<f64> = usable().map(|p| p.estimates[nth] / p.truth.0).collect();
        ratios.sort_by(f64::total_cmp);
        let columns =
            [0.1, 0.25, 0.5, 0.75, 0.9].map(|share| format!("{:.2}", quantile(&ratios, share)));
        let within = usable().filter(|point| {
            let error = point
                .errors
                .get(nth)
                .map(|error| error.hypot(point.truth.1));
            error.is_some_and(|e| (point.estimates[nth] - point.truth.0).abs() <= 2.0 * e)
        });
        let within = match nth < DIRECT.len() {
            true => percent(within.count(), ratios.len()),
            false => String::new(),
        };
        text += &format!(
            "| {name} | {} | {} | {within} |\n",
            percent(ratios.len(), clear.len()),
            columns.join(" | ")
        );
    }
    text
}

fn percent(part: usize, of: usize) -> String {
    format!("{:.0} %", 100.0 * part as f64 / of.max(1) as f64)
}

/// How far each reading's K lies from the true K(δ), neither below the shortest that a controller chooses; readings that find none
/// ask for the whole window.
fn regrets(cli: &Cli, readings: &Readings) -> String {
    let mut text = String::new();
    for &delta in &cli.delta {
        let of_delta = || readings.choices.iter().filter(move |c| c.delta == delta);
        text += &format!(
            "K({delta}) of an estimate over the true one, {} updates:\n\n\
             | reading | not noise-limited | within a factor 1.5 | 10 % | median | 90 % |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            of_delta().count(),
        );
        let mut row = |name: &str, ks: Vec<(usize, usize)>| {
            let mut ratios: Vec<f64> = ks
                .iter()
                .map(|(k, truth)| *k as f64 / *truth as f64)
                .collect();
            ratios.sort_by(f64::total_cmp);
            let near = ks
                .iter()
                .filter(|(k, truth)| 2 * k <= 3 * truth && 2 * truth <= 3 * k);
            let columns = [0.1, 0.5, 0.9].map(|share| format!("{:.2}", quantile(&ratios, share)));
            text += &format!(
                "| {name} | {} | {} | {} |\n",
                percent(ks.len(), of_delta().count()),
                percent(near.count(), ks.len()),
                columns.join(" | ")
            );
        };
        // It decides by averages of its own.
        let usable = || of_delta().filter(|choice| !choice.chosen.noise_limited);
        row(
            "controller",
            usable().map(|c| (c.chosen.k, c.truth)).collect(),
        );
        for (nth, name) in names().enumerate() {
            let usable = of_delta().filter(|choice| !is_limited(nth, choice.noise_limited));
            row(name, usable.map(|c| (c.by_reading[nth], c.truth)).collect());
        }
        let (known, within) = (
            usable().filter(|c| is_near(c.truth_interval, c.truth)),
            usable().filter(|c| reaches(c.truth_interval, c.chosen.k)),
        );
        let of = usable().count();
        let logs = usable().map(|c| (c.chosen.k as f64 / c.truth as f64).ln().abs());
        let taken = of_delta().map(|c| c.chosen.probes as f64);
        let estimates = of_delta().filter(|c| c.chosen.probes > 0).count().max(1);
        text += &format!(
            "\nThe controller took {:.1} probes per estimate; the logarithm of its K is {:.2} from that of the true one in the mean. \
             The truth knows its K({delta}) within a factor 1.5 in {} of these; the controller's K lies within a factor 1.5 of \
             what the truth cannot tell from it in {}.\n\n",
            taken.sum::<f64>() / estimates as f64,
            logs.sum::<f64>() / of.max(1) as f64,
            percent(known.count(), of),
            percent(within.count(), of),
        );
    }
    text
}

/// Whether both ends of an interval lie within a factor 1.5 of `k`.
fn is_near((first, last): (usize, usize), k: usize) -> bool {
    2 * k <= 3 * first && 2 * last <= 3 * k
}

/// Whether `k` lies within a factor 1.5 of some length of an interval.
fn reaches((first, last): (usize, usize), k: usize) -> bool {
    2 * first <= 3 * k && 2 * k <= 3 * last
}

/// A panel per K: the first seed's truth solid, its first controller's estimates dashed; no point where the noise has it.
fn figure(cli: &Cli, name: &str, readings: &Readings) -> Result<()> {
    let panels: Vec<LinesPanel> = cli
        .k
        .iter()
        .map(|&k| {
            let of_k = || {
                let points = readings.points.iter();
                points.filter(move |p| (p.seed, p.k, p.repeat) == (cli.seed, k, 0))
            };
            let positive = |bias: f64| match bias > 0.0 && bias < 1e4 {
                true => bias,
                false => f64::NAN,
            };
            let truth = of_k().map(|p| (p.epoch as f64, positive(p.truth.0)));
            let band = of_k().map(|p| {
                let (bias, error) = p.truth;
                (p.epoch as f64, bias - 2.0 * error, bias + 2.0 * error)
            });
            let name = "true bias of the parameter gradient, ± 2 standard errors";
            let mut lines = vec![Line::new(name, truth.collect()).with_band(band.collect())];
            for (nth, name) in names().enumerate() {
                let points = of_k().map(|p| {
                    let bias = match is_limited(nth, p.noise_limited) {
                        true => f64::NAN,
                        false => positive(p.estimates[nth]),
                    };
                    (p.epoch as f64, bias)
                });
                lines.push(Line::new(name, points.collect()).dashed());
            }
            LinesPanel {
                title: format!("Relative bias at K = {k}"),
                x: "epoch".into(),
                lines,
            }
        })
        .collect();
    let title = format!(
        "True and estimated bias: {name}, trained with K = {}",
        cli.train_k
    );
    Ok(lines_figure(
        cli.out.join("true_bias.png"),
        &title,
        &panels,
    )?)
}
