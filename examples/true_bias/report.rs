//! What the measurements say: points, quantiles of estimate/truth, the K that each reading would have chosen, a figure.

use std::fs;

use atbptt::core::{BiasEstimate, DirectEstimate};
use atbptt::train::MeasuredCurves;
use atbptt::train::plot::{Line, LinesPanel, lines_figure};

use crate::common::Result;
use crate::common::diagnostics::SIZES;
use crate::options::Cli;

/// Below it a ratio says nothing: the error of the truth itself.
const LEAST_TRUTH: f64 = 0.02;

/// What each reading is called: the direct estimate, then those of the norms.
fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once("direct estimate").chain(SIZES.map(|(_, name)| name))
}

/// One epoch, estimate and K.
pub struct Point {
    epoch: usize,
    repeat: u64,
    k: usize,
    /// Of the recurrent weights, with its standard error.
    truth: (f64, f64),
    /// Of all parameters.
    truth_of_all: f64,
    direct_error: f64,
    noise_limited: bool,
    /// By reading; infinite where there is no bound.
    estimates: Vec<f64>,
}

/// One epoch and estimate: K(δ) of the truth and of every reading.
pub struct Choice {
    truth: usize,
    noise_limited: bool,
    by_reading: Vec<usize>,
}

/// All that was measured.
#[derive(Default)]
pub struct Readings {
    points: Vec<Point>,
    choices: Vec<Choice>,
}

/// The truth at `k` with its error, as it was measured there.
pub fn measured(truth: &DirectEstimate, k: usize) -> (f64, f64) {
    truth.as_measured(k).unwrap_or((f64::NAN, f64::INFINITY))
}

impl Readings {
    pub fn add(
        &mut self,
        cli: &Cli,
        epoch: usize,
        repeat: u64,
        truth: &MeasuredCurves,
        direct: &DirectEstimate,
        norms: &[Option<BiasEstimate>],
    ) {
        let noise_limited = !direct
            .gradient_square_error()
            .is_some_and(|error| direct.gradient_square() > 2.0 * error);
        for &k in &cli.k {
            let of_norms = norms.iter().map(|estimate| {
                let bias = estimate.as_ref().map(|estimate| estimate.relative_bias(k));
                bias.unwrap_or(f64::INFINITY)
            });
            self.points.push(Point {
                epoch,
                repeat,
                k,
                truth: measured(&truth.recurrent, k),
                truth_of_all: measured(&truth.all, k).0,
                direct_error: direct.standard_error(k),
                noise_limited,
                estimates: std::iter::once(direct.relative_bias(k))
                    .chain(of_norms)
                    .collect(),
            });
        }
        let cap = |k: Option<usize>| k.unwrap_or(cli.window).min(cli.window);
        let of_norms = norms
            .iter()
            .map(|estimate| estimate.as_ref().and_then(|e| e.smallest_k(cli.delta)));
        let all = std::iter::once(direct.smallest_k(cli.delta)).chain(of_norms);
        self.choices.push(Choice {
            truth: cap(truth.recurrent.smallest_k(cli.delta)),
            noise_limited,
            by_reading: all.map(cap).collect(),
        });
    }
}

/// Writes points, tables and the figure, and prints the tables.
pub fn write(cli: &Cli, name: &str, readings: &Readings) -> Result<()> {
    points(cli, readings)?;
    let tables = format!("{}\n{}", ratios(readings), regrets(cli, readings));
    fs::write(cli.out.join("table.md"), &tables)?;
    figure(cli, name, readings)?;
    println!(
        "\n{tables}\nfigure: {}",
        cli.out.join("true_bias.png").display()
    );
    Ok(())
}

fn points(cli: &Cli, readings: &Readings) -> Result<()> {
    let mut table = csv::Writer::from_path(cli.out.join("points.csv"))?;
    let head = [
        "epoch",
        "repeat",
        "k",
        "truth",
        "truth_error",
        "truth_all_parameters",
        "noise_limited",
        "direct_error",
    ];
    table.write_record(head.into_iter().chain(names()))?;
    for point in &readings.points {
        let numbers = [
            point.epoch.to_string(),
            point.repeat.to_string(),
            point.k.to_string(),
            point.truth.0.to_string(),
            point.truth.1.to_string(),
            point.truth_of_all.to_string(),
            u8::from(point.noise_limited).to_string(),
            point.direct_error.to_string(),
        ];
        let estimates = point.estimates.iter().map(f64::to_string);
        table.write_record(numbers.into_iter().chain(estimates))?;
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

/// Quantiles of estimate/truth where the truth is above 0.02 and the direct estimate is not noise-limited.
fn ratios(readings: &Readings) -> String {
    let usable: Vec<&Point> = readings
        .points
        .iter()
        .filter(|point| point.truth.0 > LEAST_TRUTH && !point.noise_limited)
        .collect();
    let all = readings.points.len();
    let mut text = format!(
        "Estimate/truth on {} of {all} points (truth above {LEAST_TRUTH}, not noise-limited):\n\n\
         | reading | finite | 10 % | 25 % | median | 75 % | 90 % |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        usable.len()
    );
    for (nth, name) in names().enumerate() {
        let mut ratios: Vec<f64> = usable
            .iter()
            .map(|point| point.estimates[nth] / point.truth.0)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let finite = ratios.iter().filter(|ratio| ratio.is_finite()).count();
        let columns =
            [0.1, 0.25, 0.5, 0.75, 0.9].map(|share| format!("{:.2}", quantile(&ratios, share)));
        text += &format!("| {name} | {finite} | {} |\n", columns.join(" | "));
    }
    text
}

/// How far each reading's K lies from the true K(δ); readings that find none ask for the whole window.
fn regrets(cli: &Cli, readings: &Readings) -> String {
    let usable: Vec<&Choice> = readings
        .choices
        .iter()
        .filter(|choice| !choice.noise_limited)
        .collect();
    let mut text = format!(
        "K({}) of an estimate over the true one, {} of {} estimates not noise-limited:\n\n\
         | reading | within a factor 1.5 | 10 % | median | 90 % |\n| --- | --- | --- | --- | --- |\n",
        cli.delta,
        usable.len(),
        readings.choices.len()
    );
    for (nth, name) in names().enumerate() {
        let mut ratios: Vec<f64> = usable
            .iter()
            .map(|choice| choice.by_reading[nth] as f64 / choice.truth as f64)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let near = ratios
            .iter()
            .filter(|r| (1.0 / 1.5..=1.5).contains(*r))
            .count();
        let columns = [0.1, 0.5, 0.9].map(|share| format!("{:.2}", quantile(&ratios, share)));
        text += &format!(
            "| {name} | {near} of {} ({:.0} %) | {} |\n",
            ratios.len(),
            100.0 * near as f64 / ratios.len().max(1) as f64,
            columns.join(" | ")
        );
    }
    text
}

/// A panel per K: the truth solid, the first estimate of every epoch dashed.
fn figure(cli: &Cli, name: &str, readings: &Readings) -> Result<()> {
    let panels: Vec<LinesPanel> = cli
        .k
        .iter()
        .map(|&k| {
            let of_k = || {
                let points = readings.points.iter();
                points.filter(move |point| point.k == k && point.repeat == 0)
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
                let points = of_k().map(|p| (p.epoch as f64, positive(p.estimates[nth])));
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
