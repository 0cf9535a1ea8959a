//! Figure of a sweep: one line per policy, the mean over seeds.

use std::path::Path;

use atbptt::train::EpochReport;
use atbptt::train::plot::{Line, LinesPanel, PlotError, lines_figure};

use super::policy::Policy;
use super::report::Finished;
use super::spec::Spec;
use super::statistics::{mean_and_sd, quantile};

/// What a curve goes along.
#[derive(Clone, Copy)]
enum Across {
    Epochs,
    Steps,
    Seconds,
}

/// Test metric against epochs, steps (where those of every run are known) and seconds, K and relative bias against epochs: one line per
/// policy, the mean over seeds.
pub fn figure(spec: &Spec, finished: &[Finished], path: &Path) -> Result<(), PlotError> {
    let counted = finished.iter().all(|run| run.steps.is_some());
    let lines = |value: &dyn Fn(&EpochReport) -> Option<f64>, across: Across| -> Vec<Line> {
        let of_policy = |&policy: &Policy| {
            let runs: Vec<&Finished> = finished.iter().filter(|run| run.policy == policy).collect();
            let epochs = runs.iter().map(|run| run.reports.len()).max().unwrap_or(0);
            let point = |epoch: usize| {
                let rows = runs.iter().filter_map(|run| run.reports.get(epoch));
                let known: Vec<f64> = rows
                    .clone()
                    .filter_map(value)
                    .filter(|v| v.is_finite())
                    .collect();
                let mean = |values: Vec<f64>| mean_and_sd(&values).0;
                let steps = runs.iter().filter_map(|run| run.steps.as_ref()?.get(epoch));
                let x = match across {
                    Across::Epochs => (epoch + 1) as f64,
                    Across::Steps => mean(steps.map(|steps| steps / 1000.0).collect()),
                    Across::Seconds => mean(rows.map(|row| row.elapsed_seconds).collect()),
                };
                let y = match known.is_empty() {
                    true => f64::NAN,
                    false => mean_and_sd(&known).0,
                };
                (x, y)
            };
            let line = Line::new(policy.to_string(), (0..epochs).map(point).collect());
            match policy.is_adaptive() {
                true => line,
                false => line.dashed(),
            }
        };
        let drawn = spec.policies.iter().map(of_policy);
        drawn.filter(|line| !line.points.is_empty()).collect()
    };
    let metric = &spec.metrics[0];
    let measured = |report: &EpochReport| Some(report.measures.get(&metric.name)? * metric.scale);
    let limits = limits(&lines(&measured, Across::Epochs));
    let scores = |across| -> Vec<Line> {
        let lines = lines(&measured, across).into_iter();
        let limited = lines.map(|line| match limits {
            Some((low, high)) => line.with_limits(low, high),
            None => line,
        });
        limited.collect()
    };
    let title = match limits {
        Some(_) => format!("{} (a triangle: beyond the axis)", metric.title),
        None => metric.title.clone(),
    };
    let panel = |title: &str, x: &str, lines| LinesPanel {
        title: title.into(),
        x: x.into(),
        lines,
    };
    let steps = "thousand steps per sequence: windows, probes, validation";
    let seconds = "seconds of training, probes and validation";
    let mut panels = vec![panel(&title, "epoch", scores(Across::Epochs))];
    if counted {
        panels.push(panel(&title, steps, scores(Across::Steps)));
    }
    panels.extend([
        panel(&title, seconds, scores(Across::Seconds)),
        panel(
            "Truncation length K (steps)",
            "epoch",
            lines(&|r| Some(r.mean_k), Across::Epochs),
        ),
        panel(
            "Estimated relative bias δ(K) (10⁻⁴ stands for anything smaller)",
            "epoch",
            lines(
                &|r| r.relative_bias.map(|bias| bias.max(1e-4)),
                Across::Epochs,
            ),
        ),
    ]);
    lines_figure(path, &spec.title, &panels)
}

/// Lowest and highest score to show, where some lie so far off that they would take the axis from the others: more than twice the
/// distance from the 10 % to the 90 % quantile of all scores beyond these, the last score of every line counted among them. `None` where
/// none lies so far off.
fn limits(lines: &[Line]) -> Option<(f64, f64)> {
    let finite = |&(_, y): &(f64, f64)| Some(y).filter(|y| y.is_finite());
    let mut scores: Vec<f64> = lines
        .iter()
        .flat_map(|line| &line.points)
        .filter_map(finite)
        .collect();
    scores.sort_by(f64::total_cmp);
    let last = lines.iter().filter_map(|line| finite(line.points.last()?));
    let (mut low, mut high) = (quantile(&scores, 0.1)?, quantile(&scores, 0.9)?);
    for score in last {
        (low, high) = (low.min(score), high.max(score));
    }
    let reach = 2.0 * (high - low);
    let shown = |score: &&f64| (low - reach..=high + reach).contains(*score);
    let (first, last) = (scores.iter().find(shown)?, scores.iter().rfind(shown)?);
    let cut = first > scores.first()? || last < scores.last()?;
    cut.then_some((*first, *last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(scores: &[f64]) -> Line {
        Line::new(
            "line",
            (1..).map(f64::from).zip(scores.iter().copied()).collect(),
        )
    }

    #[test]
    fn one_score_far_below_the_others_does_not_set_the_axis() {
        // An efficiency that rises, and one epoch far off, as one seed had on the rivers.
        let rising: Vec<f64> = (0..30)
            .map(|epoch| 0.85 - 0.7 * 0.85_f64.powi(epoch))
            .collect();
        let mut spoilt = rising.clone();
        spoilt[13] = -2.8;
        let (low, high) = limits(&[line(&rising), line(&spoilt)]).unwrap();
        assert!(
            (low - 0.15).abs() < 1e-12 && (high - rising[29]).abs() < 1e-12,
            "{low} to {high}"
        );
        assert_eq!(limits(&[line(&rising), line(&rising)]), None);
    }

    #[test]
    fn perplexities_before_anything_is_learnt_do_not_set_the_axis() {
        let falling: Vec<f64> = (0..20)
            .map(|epoch| 80.0 + 40.0 * 0.7_f64.powi(epoch))
            .collect();
        let mut first = falling.clone();
        first[0] = 900.0;
        let (low, high) = limits(&[line(&falling), line(&first)]).unwrap();
        assert!(
            (low - falling[19]).abs() < 1e-12 && (high - 120.0).abs() < 1e-12,
            "{low} to {high}"
        );
    }

    #[test]
    fn where_a_line_ends_is_always_shown() {
        let (good, diverged) = (vec![1.0; 30], [vec![1.0; 29], vec![50.0]].concat());
        assert_eq!(limits(&[line(&good), line(&diverged)]), None);
        let worse = [vec![1.0; 10], vec![1e6], vec![1.0; 18], vec![50.0]].concat();
        assert_eq!(limits(&[line(&good), line(&worse)]), Some((1.0, 50.0)));
    }

    #[test]
    fn scores_that_are_missing_or_few_set_no_limits() {
        assert_eq!(limits(&[]), None);
        assert_eq!(limits(&[line(&[f64::NAN, f64::INFINITY])]), None);
        assert_eq!(limits(&[line(&[3.0])]), None);
        assert_eq!(limits(&[line(&[3.0, 300.0, f64::NAN])]), None);
    }
}
