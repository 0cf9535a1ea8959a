//! The figure of a run.

use std::path::Path;

use atbptt_core::policy::Estimate;
use atbptt_core::{Decision, DirectEstimate, DirectOutcome};

use super::LossName;
use crate::plot::{
    EpochRow, EstimateRow, LagProfileFigure, Line, LinesPanel, PlotError, lines_figure,
    report_figure, training_figure_with,
};
use crate::report::EpochReport;
use crate::strategy::TbpttHandle;

/// Draws a run of at least one epoch: perplexities or the loss, K and bias, and below what the last estimate says.
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
        LossName::Named(loss) => loss_figure(path, title, loss, reports, handle, delta),
    }
}

/// Perplexity, K and relative bias against epochs, and what the last estimate says: the bias against K, or the lag profile.
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
    // Zero, where no bias was seen, has no place on a logarithmic scale.
    let seen = |bias: f64| if bias > 0.0 { bias } else { f64::NAN };
    let points = lengths().map(|k| (k as f64, seen(direct.relative_bias(k))));
    let band = lengths().map(|k| {
        let low = direct.relative_bias(k) - 2.0 * direct.standard_error(k);
        (k as f64, low.max(0.0), direct.upper_limit(k))
    });
    let mut lines = vec![Line::new("estimate", points.collect()).with_band(band.collect())];
    if let Some(delta) = delta {
        let ends = vec![(1.0, delta), (last as f64, delta)];
        lines.push(Line::new("tolerance δ", ends).dashed());
    }
    if direct.relative_bias(k) > 0.0 {
        let here = vec![(k as f64, seen(direct.relative_bias(k)))];
        lines.push(Line::new(format!("K = {k} in use"), here));
    }
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

/// Every decision that knew more than one number per epoch does: where estimates have an error, or there were several in an
/// epoch. Otherwise nothing, for the epochs' rows then say the same.
fn estimates(reports: &[EpochReport], history: &[Decision]) -> Vec<EstimateRow> {
    let with_error = history
        .iter()
        .any(|decision| decision.standard_error.is_some());
    let (Some(first), true) = (history.first(), with_error || history.len() > reports.len()) else {
        return Vec::new();
    };
    // Windows done after so many epochs.
    let windows = |epochs: usize| match epochs {
        0 => Some(0.0),
        _ => reports.get(epochs - 1).map(|report| report.step as f64),
    };
    let row = |decision: &Decision| {
        let epoch = decision.position.epoch;
        let within = windows(epoch)
            .zip(windows(epoch + 1))
            .map(|(from, to)| (decision.position.update as f64 - from) / (to - from))
            .filter(|share| (0.0..=1.0).contains(share));
        // Where noise hides the gradient, there is nothing to compare with.
        let noise_limited = matches!(decision.outcome, Some(DirectOutcome::NoiseLimited { .. }));
        let known = |value: Option<f64>| value.filter(|_| !noise_limited).unwrap_or(f64::NAN);
        let bias = known(decision.relative_bias);
        // Two standard errors down; the estimate knows its own upper limit.
        let error = decision.standard_error.unwrap_or(f64::NAN);
        EstimateRow {
            epoch: epoch as f64 + within.unwrap_or(0.0),
            k: decision.k as f64,
            relative_bias: bias,
            lower: match bias.is_nan() {
                true => f64::NAN,
                false => (bias - 2.0 * error).max(0.0),
            },
            upper: known(decision.upper_limit.or(Some(bias + 2.0 * error))),
        }
    };
    // Up to the first decision K was what the first epoch says, if it ended before.
    let start = (first.position.epoch > 0)
        .then(|| reports.first())
        .flatten()
        .map(|report| EstimateRow {
            epoch: 0.0,
            k: report.k as f64,
            relative_bias: f64::NAN,
            lower: f64::NAN,
            upper: f64::NAN,
        });
    start.into_iter().chain(history.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(epoch: usize, step: u64, k: usize, error: Option<f64>) -> Decision {
        serde_json::from_value(serde_json::json!({
            "k": k,
            "reason": "ToleranceMet",
            "position": { "epoch": epoch, "update": step },
            "relative_bias": 0.25,
            "standard_error": error,
            "upper_limit": error.map(|_| 0.5),
            "probe_ks": [],
            "saturated": 0,
            "unusable": 0,
        }))
        .unwrap()
    }

    fn report(epoch: usize, step: u64) -> EpochReport {
        EpochReport {
            epoch,
            step,
            k: 20,
            ..EpochReport::default()
        }
    }

    /// 100 windows per epoch: window 150 is in the middle of the second. The bias is 0.25 with an error of 0.0625.
    #[test]
    fn decisions_within_an_epoch_have_their_place_and_their_interval() {
        let reports = [report(1, 100), report(2, 200)];
        let history = [
            decision(1, 100, 8, Some(0.0625)),
            decision(1, 150, 9, Some(0.0625)),
        ];
        let rows = estimates(&reports, &history);
        let places: Vec<(f64, f64)> = rows.iter().map(|row| (row.epoch, row.k)).collect();
        assert_eq!(places, [(0.0, 20.0), (1.0, 8.0), (1.5, 9.0)]);
        assert!(rows[0].relative_bias.is_nan());
        assert_eq!((rows[1].lower, rows[1].upper), (0.125, 0.5));
    }

    #[test]
    fn without_errors_one_decision_per_epoch_says_no_more_than_the_epochs() {
        let reports = [report(1, 100), report(2, 200)];
        assert!(estimates(&reports, &[decision(1, 100, 8, None)]).is_empty());
        let several = [1, 2, 3].map(|nth| decision(0, nth, 8, None));
        assert_eq!(estimates(&reports, &several).len(), 3);
        assert!(estimates(&reports, &[]).is_empty());
    }
}
