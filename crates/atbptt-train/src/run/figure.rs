//! The figure of a run.

use std::path::Path;

use atbptt_core::DirectEstimate;
use atbptt_core::policy::Estimate;

use crate::plot::{
    EstimateRow, LagProfileFigure, Line, LinesPanel, PlotError, epochs, estimates, lines_figure,
    report_figure, training_figure_with,
};
use crate::report::EpochReport;
use crate::strategy::TbpttHandle;

/// Draws a run of at least one epoch: perplexities or the loss, K and bias, and below what the last estimate says.
pub(super) fn draw(
    path: &Path,
    title: &str,
    loss: Option<&str>,
    reports: &[EpochReport],
    handle: &TbpttHandle,
    delta: Option<f64>,
) -> Result<(), PlotError> {
    match loss {
        None => perplexity_figure(path, reports, handle, delta),
        Some(loss) => loss_figure(path, title, loss, reports, handle, delta),
    }
}

/// Perplexity, K and relative bias against epochs, and what the last estimate says: the bias against K, or the lag profile.
fn perplexity_figure(
    path: &Path,
    reports: &[EpochReport],
    handle: &TbpttHandle,
    delta: Option<f64>,
) -> Result<(), PlotError> {
    let rows = epochs(reports);
    let estimates = estimates(reports, &handle.history());
    let estimate = handle.last_estimate();
    let k = reports.last().map_or(0, |report| report.k);
    let estimate = match &estimate {
        None => return report_figure(path, &rows, &estimates, delta, None),
        Some(Estimate::Norms { curve, .. }) => curve,
        Some(Estimate::Direct(direct)) => {
            let (title, panel) = direct_curve(direct, delta, k);
            return training_figure_with(path, &rows, &estimates, delta, &title, &[panel]);
        }
        Some(_) => return report_figure(path, &rows, &estimates, delta, None),
    };
    let curve = estimate.relative_bias_curve();
    let bias: Vec<(usize, f64)> = curve.into_iter().enumerate().skip(1).collect();
    let mean: Vec<f64> = estimate.phi();
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
        k,
    };
    report_figure(path, &rows, &estimates, delta, Some(&profile))
}

/// The last direct estimate: δ(K) with its interval, the tolerance, and the K in use.
fn direct_curve(direct: &DirectEstimate, delta: Option<f64>, k: usize) -> (String, LinesPanel) {
    // Where nothing is left to see, the curve ends.
    let seen_until = (1..=direct.window())
        .rev()
        .find(|&k| direct.upper_limit(k) > 0.01);
    let last = (seen_until.unwrap_or(1).max(k) + 5).min(direct.window());
    let lengths = || 1..=last;
    let points: Vec<_> = lengths()
        .map(|k| (k as f64, direct.relative_bias(k)))
        .collect();
    // Where no bias was seen it is zero, which has no place on a logarithmic scale.
    let unseen = points.iter().any(|&(_, bias)| bias <= 0.0);
    let band = lengths().map(|k| {
        let low = direct.relative_bias(k) - 2.0 * direct.standard_error(k);
        (k as f64, low.max(0.0), direct.upper_limit(k))
    });
    let estimate = Line::new("estimate", points).with_band(band.collect());
    let mut lines = vec![match unseen {
        true => estimate.with_zero(),
        false => estimate,
    }];
    if let Some(delta) = delta {
        let ends = vec![(1.0, delta), (last as f64, delta)];
        lines.push(Line::new("tolerance δ", ends).dashed());
    }
    let here = vec![(k as f64, direct.relative_bias(k))];
    lines.push(Line::new(format!("K = {k} in use"), here));
    let title = format!(
        "Last estimate: {} probes of {} losses",
        direct.probes(),
        direct.losses()
    );
    let panel = LinesPanel {
        title: "Relative bias δ(K)".into(),
        x: "K (steps)".into(),
        lines,
    };
    (title, panel)
}

/// Loss, measures, K and relative bias against epochs; the bias against K of the last direct estimate.
fn loss_figure(
    path: &Path,
    title: &str,
    loss: &str,
    reports: &[EpochReport],
    handle: &TbpttHandle,
    delta: Option<f64>,
) -> Result<(), PlotError> {
    let column = |name: &str, value: &dyn Fn(&EpochReport) -> Option<f64>| {
        let points = reports
            .iter()
            .map(|report| (report.epoch as f64, value(report).unwrap_or(f64::NAN)));
        Line::new(name, points.collect())
    };
    let estimates = estimates(reports, &handle.history());
    let mut bias = vec![match estimates.is_empty() {
        true => column("estimate", &|report| report.relative_bias),
        false => {
            // Far below any tolerance is as good as none, and keeps the scale linear.
            let shown = |bias: f64| if bias < 1e-3 { 0.0 } else { bias };
            let points = estimates
                .iter()
                .map(|row| (row.epoch, shown(row.relative_bias)));
            let band = estimates
                .iter()
                .map(|row| (row.epoch, row.lower, row.upper));
            Line::new("estimate", points.collect()).with_band(band.collect())
        }
    }];
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
            lines: vec![match estimates.is_empty() {
                true => column("", &|report| Some(report.mean_k)),
                false => Line::new("", lengths(&estimates, reports)),
            }],
        },
        LinesPanel {
            title: "Estimated relative bias δ(K)".into(),
            x: "epoch".into(),
            lines: bias,
        },
    ];
    panels.splice(1..1, measures);
    if let Some(Estimate::Direct(direct)) = handle.last_estimate() {
        let k = reports.last().map_or(0, |report| report.k);
        let (title, panel) = direct_curve(&direct, delta, k);
        let title = format!("{}. {title}", panel.title);
        panels.push(LinesPanel { title, ..panel });
    }
    lines_figure(path, title, &panels)
}

/// K as it was from one estimate to the next, and after the last one.
fn lengths(estimates: &[EstimateRow], reports: &[EpochReport]) -> Vec<(f64, f64)> {
    let changes = estimates.iter().map(|row| row.epoch).skip(1);
    let end = reports.last().map(|report| report.epoch as f64);
    estimates
        .iter()
        .zip(changes.chain(end))
        .flat_map(|(row, until)| [(row.epoch, row.k), (until.max(row.epoch), row.k)])
        .collect()
}
