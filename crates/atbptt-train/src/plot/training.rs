//! The course of a run: perplexity, truncation length and estimated bias over the epochs.

use std::path::Path;

use super::PlotError;
use super::axis::{Axis, number};
use super::canvas::{Canvas, Point, Stroke};
use super::panel::{BLUE, GREEN, HEAD, PURPLE, Panel, VERMILION, heading};

/// What one epoch showed. NaN stands for what is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRow {
    /// Epoch, counted as the run counts.
    pub epoch: usize,
    /// Perplexity on the train split, as met during training.
    pub train_perplexity: f64,
    /// Perplexity on the valid split after the epoch.
    pub valid_perplexity: f64,
    /// Truncation length K in the epoch, in steps.
    pub k: f64,
    /// Estimated relative bias δ(K) of the gradient.
    pub relative_bias: f64,
}

/// Draws three panels over the epochs: perplexities, K, and the estimated relative bias with the tolerance `delta`.
///
/// Perplexity and bias get a logarithmic scale when their values differ fivefold.
///
/// # Errors
///
/// [`PlotError::Empty`] without rows; [`PlotError::NotPng`] and [`PlotError::Write`] for the file.
pub fn training_figure(
    path: impl AsRef<Path>,
    rows: &[EpochRow],
    delta: Option<f64>,
) -> Result<(), PlotError> {
    draw(rows, delta)?.save(path.as_ref())
}

pub(super) fn draw(rows: &[EpochRow], delta: Option<f64>) -> Result<Canvas, PlotError> {
    let (Some(first), Some(last)) = (
        rows.iter().map(|row| row.epoch).min(),
        rows.iter().map(|row| row.epoch).max(),
    ) else {
        return Err(PlotError::Empty { what: "epoch" });
    };
    let column = |value: fn(&EpochRow) -> f64| -> Vec<Point> {
        rows.iter()
            .map(|row| (row.epoch as f64, value(row)))
            .collect()
    };
    let train = column(|row| row.train_perplexity);
    let valid = column(|row| row.valid_perplexity);
    let lengths = column(|row| row.k);
    let bias = column(|row| row.relative_bias);
    let values = |points: &[Point]| points.iter().map(|point| point.1).collect::<Vec<_>>();
    let epochs = || epoch_axis(first, last);

    let mut canvas = Canvas::new(1200, 1020)?;
    heading(&mut canvas, "Training run")?;

    let y = Axis::automatic([values(&train), values(&valid)].concat());
    let mut panel = Panel::new(
        &mut canvas,
        "Perplexity",
        (HEAD, 86.0, 430.0),
        (epochs(), None),
        y,
    )?;
    let (train_stroke, valid_stroke) = (Stroke::solid(BLUE, 2.6), Stroke::solid(VERMILION, 2.6));
    panel.legend(&valid_name(rows), valid_stroke)?;
    panel.legend("train", train_stroke)?;
    panel.curve(&train, train_stroke)?;
    panel.dots(&train, BLUE)?;
    panel.curve(&valid, valid_stroke)?;
    panel.dots(&valid, VERMILION)?;

    let y = Axis::linear(values(&lengths)).map(Axis::counting);
    let mut panel = Panel::new(
        &mut canvas,
        "Truncation length K (steps)",
        (HEAD, 490.0, 690.0),
        (epochs(), None),
        y,
    )?;
    panel.curve(&lengths, Stroke::solid(GREEN, 2.6))?;
    panel.dots(&lengths, GREEN)?;

    let with_delta = [values(&bias), delta.into_iter().collect()].concat();
    let y = values(&bias)
        .iter()
        .any(|value| value.is_finite())
        .then(|| Axis::automatic(with_delta))
        .flatten();
    let mut panel = Panel::new(
        &mut canvas,
        "Estimated relative bias δ(K)",
        (HEAD, 750.0, 960.0),
        (epochs(), Some("epoch")),
        y,
    )?;
    if let Some(delta) = delta.filter(|delta| delta.is_finite()) {
        let tolerated = Stroke::dashed(VERMILION, 2.0);
        panel.level(delta, tolerated)?;
        panel.legend(&format!("tolerance δ = {}", number(delta)), tolerated)?;
    }
    panel.curve(&bias, Stroke::solid(PURPLE, 2.6))?;
    panel.dots(&bias, PURPLE)?;
    Ok(canvas)
}

/// Epochs with half an epoch of air, so that the first dot does not sit on the frame.
fn epoch_axis(first: usize, last: usize) -> Axis {
    let air = 0.02 * (last - first) as f64 + 0.2;
    Axis::span(first as f64 - air, last as f64 + air).counting()
}

/// `valid`, with its best value.
fn valid_name(rows: &[EpochRow]) -> String {
    let finite = rows.iter().filter(|row| row.valid_perplexity.is_finite());
    match finite.min_by(|a, b| a.valid_perplexity.total_cmp(&b.valid_perplexity)) {
        Some(best) => format!(
            "valid (best {}, epoch {})",
            number(best.valid_perplexity),
            best.epoch
        ),
        None => "valid".to_owned(),
    }
}
