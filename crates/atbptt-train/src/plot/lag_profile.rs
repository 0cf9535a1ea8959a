//! A probe's lag profile, its fitted tail, and the bias curve that chose K.

use std::path::Path;

use super::PlotError;
use super::chart::{
    Around, BLUE, Chart, Entry, FAINT, GREEN, HEAD_AND_MARKS, PURPLE, Point, Stroke, VERMILION,
    heading,
};
use super::scale::{Scale, number};
use super::sheet::{Area, Sheet};

/// Sequences drawn at most, evenly chosen.
const SEQUENCES: usize = 48;

/// What [`lag_profile_figure`] draws. Borrowed plain numbers.
#[derive(Clone, Copy, Debug)]
pub struct LagProfileFigure<'a> {
    /// Name of the figure: which probe this is.
    pub title: &'a str,
    /// Lag profile: `mean[k]` is φ_k, the mean norm of ∂L/∂h at lag k. Zeros are gaps (no logarithm).
    pub mean: &'a [f64],
    /// Norms of single sequences, each indexed by lag; may be empty.
    pub sequences: &'a [Vec<f64>],
    /// Lag τ from which the tail was fitted.
    pub tau: usize,
    /// Fitted decay per step β; the tail is drawn as φ_τ β^(k − τ). `None` when there was no fit.
    pub beta: Option<f64>,
    /// Points (K, δ(K)) of the relative-bias curve; infinite where the bound says nothing.
    pub bias: &'a [(usize, f64)],
    /// Tolerated relative bias δ.
    pub delta: f64,
    /// The K that was chosen.
    pub k: usize,
}

/// Draws the lag profile on a logarithmic scale with its tail, τ and K; below it the relative bias against K.
///
/// # Errors
///
/// [`PlotError::Empty`] without lags; [`PlotError::NotPng`] and [`PlotError::Write`] for the file.
pub fn lag_profile_figure(
    path: impl AsRef<Path>,
    figure: &LagProfileFigure<'_>,
) -> Result<(), PlotError> {
    draw(figure)?.save(path.as_ref())
}

pub(super) fn draw(figure: &LagProfileFigure<'_>) -> Result<Sheet, PlotError> {
    if figure.mean.is_empty() {
        return Err(PlotError::Empty { what: "lag" });
    }
    let longest = figure
        .bias
        .iter()
        .map(|(k, _)| *k)
        .chain([figure.mean.len() - 1, figure.k, figure.tau])
        .max();
    let last = longest.unwrap_or(1);
    let mut sheet = Sheet::new(960)?;
    sheet.draw(|area| {
        heading(area, figure.title)?;
        profile_chart(area, figure, last)?;
        bias_chart(area, figure, last)
    })?;
    Ok(sheet)
}

/// φ on a logarithmic scale, single sequences behind it, with the fitted tail, τ and K.
fn profile_chart(
    area: &Area<'_>,
    figure: &LagProfileFigure<'_>,
    last: usize,
) -> Result<(), PlotError> {
    let mean = by_lag(figure.mean);
    // Only as many sequences as an eye can tell apart.
    let every = figure.sequences.len().div_ceil(SEQUENCES).max(1);
    let sequences: Vec<Vec<Point>> = figure
        .sequences
        .iter()
        .step_by(every)
        .map(|norms| by_lag(norms))
        .collect();
    let tail = tail(figure, last);
    let (mean_stroke, tail_stroke) = (Stroke::solid(BLUE, 2.6), Stroke::dashed(VERMILION, 2.6));
    let mut legend = vec![Entry::new("mean", mean_stroke)];
    if !sequences.is_empty() {
        legend.push(Entry::new("sequences", Stroke::solid(FAINT, 2.0)));
    }
    if let Some(beta) = figure.beta.filter(|_| !tail.is_empty()) {
        legend.push(Entry::new(
            format!("fitted tail, β = {beta:.4}"),
            tail_stroke,
        ));
    }
    let shown = sequences.iter().flatten().chain(&mean).map(|point| point.1);
    let around = Around {
        title: "Lag profile φ: norm of ∂L/∂h",
        top: 104.0,
        head: HEAD_AND_MARKS,
        height: 386.0,
        x: lags(last),
        x_name: Some("lag k (steps)"),
        // The tail alone must not decide the scale: a steep one would flatten everything else.
        y: Scale::log(shown),
        legend,
    };
    let chart = Chart::new(area, around)?;
    for sequence in &sequences {
        chart.curve(sequence, Stroke::solid(FAINT, 1.0))?;
    }
    chart.curve(&mean, mean_stroke)?;
    chart.curve(&tail, tail_stroke)?;
    let tau = (
        figure.tau as f64,
        format!("τ = {}", figure.tau),
        Stroke::dashed(PURPLE, 1.6),
    );
    chart.marks(&[tau, k_mark(figure)])
}

/// The relative bias against K, with the tolerance and the K that was chosen.
fn bias_chart(
    area: &Area<'_>,
    figure: &LagProfileFigure<'_>,
    last: usize,
) -> Result<(), PlotError> {
    let points = figure.bias.iter().map(|&(k, bias)| (k as f64, bias));
    let bias: Vec<Point> = points.collect();
    let values = bias.iter().map(|point| point.1);
    let usable = values.clone().any(|bias| bias.is_finite() && bias > 0.0);
    let y = usable.then(|| Scale::log(values.chain([figure.delta])));
    let (bias_stroke, delta_stroke) = (Stroke::solid(BLUE, 2.6), Stroke::dashed(VERMILION, 2.0));
    let mut legend = vec![Entry::new("estimate", bias_stroke)];
    if figure.delta.is_finite() {
        let name = format!("tolerance δ = {}", number(figure.delta));
        legend.push(Entry::new(name, delta_stroke));
    }
    let around = Around {
        title: "Relative bias δ(K)",
        top: 620.0,
        head: HEAD_AND_MARKS,
        height: 280.0,
        x: lags(last),
        x_name: Some("K (steps)"),
        y: y.flatten(),
        legend,
    };
    let chart = Chart::new(area, around)?;
    chart.level(figure.delta, delta_stroke)?;
    chart.curve(&bias, bias_stroke)?;
    chart.marks(&[k_mark(figure)])?;
    if let Some((k, bias)) = figure.bias.iter().find(|(k, _)| *k == figure.k) {
        chart.target((*k as f64, *bias), GREEN)?;
    }
    Ok(())
}

fn lags(last: usize) -> Scale {
    Scale::span(0.0, last as f64).counting()
}

fn k_mark(figure: &LagProfileFigure<'_>) -> (f64, String, Stroke) {
    let name = format!("K = {}", figure.k);
    (figure.k as f64, name, Stroke::dashed(GREEN, 2.0))
}

/// Values with their index as the lag.
fn by_lag(values: &[f64]) -> Vec<Point> {
    values
        .iter()
        .enumerate()
        .map(|(lag, &value)| (lag as f64, value))
        .collect()
}

/// φ_τ β^(k − τ) from τ to `last`, at most about a thousand points; empty without a fit or without φ_τ.
fn tail(figure: &LagProfileFigure<'_>, last: usize) -> Vec<Point> {
    let (Some(beta), Some(&start)) = (figure.beta, figure.mean.get(figure.tau)) else {
        return Vec::new();
    };
    if !(beta.is_finite() && beta > 0.0 && start.is_finite() && start > 0.0) {
        return Vec::new();
    }
    let step = ((last - figure.tau) / 1000).max(1);
    let lags = (figure.tau..=last).step_by(step);
    lags.map(|lag| (lag as f64, start * beta.powf((lag - figure.tau) as f64)))
        .collect()
}
