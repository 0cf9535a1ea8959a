//! A probe's lag profile, its fitted tail, and the bias curve that chose K.

use std::path::Path;

use super::PlotError;
use super::axis::{Axis, number};
use super::canvas::{Canvas, Point, Stroke};
use super::panel::{BLUE, FAINT, GREEN, HEAD_AND_MARKS, PURPLE, Panel, VERMILION, heading};

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

pub(super) fn draw(figure: &LagProfileFigure<'_>) -> Result<Canvas, PlotError> {
    if figure.mean.is_empty() {
        return Err(PlotError::Empty { what: "lag" });
    }
    let mean = by_lag(figure.mean);
    // Only as many sequences as an eye can tell apart.
    let every = figure.sequences.len().div_ceil(SEQUENCES).max(1);
    let sequences: Vec<Vec<Point>> = figure
        .sequences
        .iter()
        .step_by(every)
        .map(|norms| by_lag(norms))
        .collect();
    let longest = figure
        .bias
        .iter()
        .map(|(k, _)| *k)
        .chain([figure.mean.len() - 1, figure.k, figure.tau])
        .max();
    let last = longest.unwrap_or(1);
    let tail = tail(figure, last);
    let lags = || Axis::span(0.0, last as f64).counting();
    let tau_mark = (
        figure.tau as f64,
        format!("τ = {}", figure.tau),
        Stroke::dashed(PURPLE, 1.6),
    );
    let k_mark = (
        figure.k as f64,
        format!("K = {}", figure.k),
        Stroke::dashed(GREEN, 2.0),
    );

    let mut canvas = Canvas::new(1200, 960)?;
    heading(&mut canvas, figure.title)?;

    let shown = sequences.iter().flatten().chain(&mean).map(|point| point.1);
    // The tail alone must not decide the scale: a steep one would flatten everything else.
    let y = Axis::log(shown);
    let mut panel = Panel::new(
        &mut canvas,
        "Lag profile φ: norm of ∂L/∂h",
        (HEAD_AND_MARKS, 104.0, 490.0),
        (lags(), Some("lag k (steps)")),
        y,
    )?;
    let (mean_stroke, tail_stroke) = (Stroke::solid(BLUE, 2.6), Stroke::dashed(VERMILION, 2.6));
    if let Some(beta) = figure.beta.filter(|_| !tail.is_empty()) {
        panel.legend(&format!("fitted tail, β = {beta:.4}"), tail_stroke)?;
    }
    if !sequences.is_empty() {
        panel.legend("sequences", Stroke::solid(FAINT, 2.0))?;
    }
    panel.legend("mean", mean_stroke)?;
    for sequence in &sequences {
        panel.curve(sequence, Stroke::solid(FAINT, 1.0))?;
    }
    panel.curve(&mean, mean_stroke)?;
    panel.curve(&tail, tail_stroke)?;
    panel.marks(&[tau_mark, k_mark.clone()])?;

    let bias: Vec<Point> = figure
        .bias
        .iter()
        .map(|&(k, bias)| (k as f64, bias))
        .collect();
    let finite = bias
        .iter()
        .any(|point| point.1.is_finite() && point.1 > 0.0);
    let y = finite
        .then(|| Axis::log(bias.iter().map(|point| point.1).chain([figure.delta])))
        .flatten();
    let mut panel = Panel::new(
        &mut canvas,
        "Relative bias δ(K)",
        (HEAD_AND_MARKS, 620.0, 900.0),
        (lags(), Some("K (steps)")),
        y,
    )?;
    let (bias_stroke, delta_stroke) = (Stroke::solid(BLUE, 2.6), Stroke::dashed(VERMILION, 2.0));
    if figure.delta.is_finite() {
        panel.legend(
            &format!("tolerance δ = {}", number(figure.delta)),
            delta_stroke,
        )?;
        panel.level(figure.delta, delta_stroke)?;
    }
    panel.legend("estimate", bias_stroke)?;
    panel.curve(&bias, bias_stroke)?;
    panel.marks(&[k_mark])?;
    if let Some((k, bias)) = figure.bias.iter().find(|(k, _)| *k == figure.k) {
        panel.target((*k as f64, *bias), GREEN)?;
    }
    Ok(canvas)
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
