//! The figure of a run.

use std::path::Path;

use super::LossName;
use crate::plot::{
    EpochRow, LagProfileFigure, Line, LinesPanel, PlotError, lines_figure, report_figure,
};
use crate::report::EpochReport;
use crate::strategy::TbpttHandle;

/// Draws a run of at least one epoch: perplexities or the loss, K and bias; below perplexities, the last lag profile.
pub(super) fn draw(
    path: &Path,
    title: &str,
    loss: &LossName,
    reports: &[EpochReport],
    handle: &TbpttHandle,
    delta: Option<f64>,
) -> Result<(), PlotError> {
    match loss {
        LossName::Perplexity => perplexity_figure(path, reports, handle, delta),
        LossName::Named(loss) => loss_figure(path, title, loss, reports, delta),
    }
}

/// Perplexity, K and relative bias against epochs, and the last lag profile.
fn perplexity_figure(
    path: &Path,
    reports: &[EpochReport],
    handle: &TbpttHandle,
    delta: Option<f64>,
) -> Result<(), PlotError> {
    let row = |report: &EpochReport| EpochRow {
        epoch: report.epoch,
        train_perplexity: report.train_perplexity,
        valid_perplexity: report.valid_perplexity.unwrap_or(f64::NAN),
        k: report.k as f64,
        relative_bias: report.relative_bias.unwrap_or(f64::NAN),
    };
    let rows: Vec<EpochRow> = reports.iter().map(row).collect();
    let estimate = handle.last_estimate();
    let Some(estimate) = estimate.as_ref().and_then(|estimate| estimate.norms()) else {
        return report_figure(path, &rows, &[], delta, None);
    };
    let curve = estimate.relative_bias_curve();
    let bias: Vec<(usize, f64)> = curve.into_iter().enumerate().skip(1).collect();
    let mean: Vec<f64> = estimate.profile().phi().to_vec();
    let beta = estimate.beta();
    let title = format!(
        "Lag profile of the last estimate ({} lags, {})",
        estimate.window(),
        match beta < 1.0 {
            true => format!("half-life {:.1} steps", -(2f64.ln()) / beta.ln()),
            false => "no decay".into(),
        },
    );
    let profile = LagProfileFigure {
        title: &title,
        mean: &mean,
        sequences: &[],
        tau: estimate.tau(),
        beta: beta.is_finite().then_some(beta),
        bias: &bias,
        delta: delta.unwrap_or(f64::NAN),
        k: reports.last().map_or(0, |report| report.k),
    };
    report_figure(path, &rows, &[], delta, Some(&profile))
}

/// Loss, measures, K and relative bias against epochs.
fn loss_figure(
    path: &Path,
    title: &str,
    loss: &str,
    reports: &[EpochReport],
    delta: Option<f64>,
) -> Result<(), PlotError> {
    let column = |name: &str, value: &dyn Fn(&EpochReport) -> Option<f64>| {
        let points = reports
            .iter()
            .map(|report| (report.epoch as f64, value(report).unwrap_or(f64::NAN)));
        Line::new(name, points.collect())
    };
    let mut bias = vec![column("estimate", &|report| report.relative_bias)];
    if let Some(delta) = delta {
        bias.push(column("tolerance δ", &|_| Some(delta)).dashed());
    }
    let names = reports.first().into_iter();
    let names = names.flat_map(|report| report.measures.keys());
    let measures = names.map(|name| LinesPanel {
        title: name.replace('_', " "),
        x: "epoch".into(),
        lines: vec![column("", &|report| report.measures.get(name).copied())],
    });
    let mut panels = vec![
        LinesPanel {
            title: loss.into(),
            x: "epoch".into(),
            lines: vec![
                column("train", &|report| Some(report.train_loss)),
                column("validation", &|report| report.valid_loss),
            ],
        },
        LinesPanel {
            title: "Truncation length K (steps)".into(),
            x: "epoch".into(),
            lines: vec![column("", &|report| Some(report.mean_k))],
        },
        LinesPanel {
            title: "Estimated relative bias δ(K)".into(),
            x: "epoch".into(),
            lines: bias,
        },
    ];
    panels.splice(1..1, measures);
    lines_figure(path, title, &panels)
}
