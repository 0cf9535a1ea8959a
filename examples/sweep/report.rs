//! Table of a sweep.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use atbptt::train::EpochReport;
use atbptt::train::run::RunSummary;

use super::common::history::History;
use super::comparison;
use super::cost::steps_until;
use super::plan::Choice;
use super::policy::Policy;
use super::reports;
use super::run::Run;
use super::spec::{Metric, Spec};
use super::statistics::mean_and_sd;

/// What is there of a run.
pub struct Finished {
    pub policy: Policy,
    pub seed: u64,
    pub reports: Vec<EpochReport>,
    pub complete: bool,
    /// Steps per sequence until the end of each epoch, once the run is complete.
    pub steps: Option<Vec<f64>>,
}

impl Finished {
    /// The run's first metric at its best epoch, in the table's units.
    pub fn score(&self, spec: &Spec) -> Option<f64> {
        let metric = &spec.metrics[0];
        let summary = RunSummary::of(&self.reports)?;
        Some(summary.measures.get(&metric.name)? * metric.scale)
    }

    /// Steps per sequence of the whole run.
    pub fn all_steps(&self) -> Option<f64> {
        self.steps.as_ref()?.last().copied()
    }
}

/// The reports in a run's folder; none where it has written none yet.
pub fn read_reports(run: &Path) -> Result<Vec<EpochReport>, String> {
    let again = |error| format!("{error}; remove {} to run it again", run.display());
    reports::read_reports(run).map_err(again)
}

/// Reads the metrics of all runs that have any; unfinished ones count when `partial`.
pub fn collect(spec: &Spec, runs: &[Run], partial: bool) -> Result<Vec<Finished>, String> {
    let mut all = Vec::new();
    for run in runs {
        let complete = run.is_done();
        if !(complete || partial) {
            continue;
        }
        let reports = read_reports(&run.folder)?;
        if reports.is_empty() {
            continue;
        }
        let history = complete.then(|| History::read(&run.folder).ok()).flatten();
        let steps = history.map(|history| steps_until(&reports, &history, spec.validation_steps));
        all.push(Finished {
            policy: run.policy,
            seed: run.seed,
            reports,
            complete,
            steps: steps.transpose()?,
        });
    }
    Ok(all)
}

/// Refuses a metric that no run measures.
pub fn check_measures(spec: &Spec, finished: &[Finished]) -> Result<(), String> {
    let reports = finished.iter().flat_map(|run| &run.reports);
    let measured: BTreeSet<&String> = reports.flat_map(|report| report.measures.keys()).collect();
    let missing = |metric: &&Metric| !measured.contains(&metric.name);
    match spec.metrics.iter().find(missing) {
        Some(metric) if !measured.is_empty() => {
            let measured: Vec<&str> = measured.iter().map(|name| name.as_str()).collect();
            Err(format!(
                "no run measures {:?}, a metric of the sweep file; they measure {}",
                metric.name,
                measured.join(", ")
            ))
        }
        _ => Ok(()),
    }
}

/// The Markdown table: per policy and metric, mean (standard deviation) at the best validation epoch, the paper's beside. Where
/// policies are compared, with what was chosen for them, the bias and what they cost.
pub fn table(spec: &Spec, finished: &[Finished], choices: &[Option<Choice>]) -> String {
    let mut head = vec!["policy".to_owned(), "runs".into()];
    if let Some(tuning) = &spec.tuning {
        head.push(tuning.option.trim_start_matches('-').to_owned());
    }
    for metric in &spec.metrics {
        head.push(metric.title.clone());
        if !metric.paper.is_empty() {
            head.push("paper".into());
        }
    }
    head.extend(["best epoch", "mean K"].map(String::from));
    if spec.comparison.is_some() {
        head.extend(["bias at K", "steps, thousand"].map(String::from));
    }
    head.push("seconds".into());
    let compared = spec.comparison.as_ref().map(|of| {
        head.extend(comparison::head(spec, of));
        comparison::compare(spec, of, finished)
    });
    let mut lines = vec![row(&head), row(&vec!["---".to_owned(); head.len()])];
    let mut unfinished = false;
    let mut edge = false;
    for (&policy, choice) in spec.policies.iter().zip(choices) {
        let of_policy: Vec<&Finished> =
            finished.iter().filter(|run| run.policy == policy).collect();
        let results: Vec<RunSummary> = of_policy
            .iter()
            .filter_map(|run| RunSummary::of(&run.reports))
            .collect();
        let open = of_policy.iter().any(|run| !run.complete);
        unfinished |= open;
        let mut cells = vec![
            policy.to_string(),
            match results.len() {
                all if all == spec.seeds.len() && !open => all.to_string(),
                some => format!(
                    "{some} of {}{}",
                    spec.seeds.len(),
                    if open { "*" } else { "" }
                ),
            },
        ];
        if spec.tuning.is_some() {
            let at_edge = choice.is_some_and(|choice| choice.at_edge);
            edge |= at_edge;
            let mark = if at_edge { "†" } else { "" };
            cells.push(choice.map_or("–".into(), |choice| format!("{}{mark}", choice.value)));
        }
        for metric in &spec.metrics {
            let values: Vec<f64> = results
                .iter()
                .filter_map(|result| result.measures.get(&metric.name))
                .map(|value| value * metric.scale)
                .collect();
            cells.push(match values.is_empty() {
                true => "–".into(),
                false => {
                    let (mean, sd) = mean_and_sd(&values);
                    number(metric, mean, sd)
                }
            });
            if !metric.paper.is_empty() {
                let paper = metric.paper.get(&policy.key());
                cells.push(paper.map_or("–".into(), |p| number(metric, p.mean, p.sd)));
            }
        }
        let average = |value: &dyn Fn(&RunSummary) -> f64, digits: usize| match results.is_empty() {
            true => "–".to_owned(),
            false => {
                let values: Vec<f64> = results.iter().map(value).collect();
                format!("{:.digits$}", mean_and_sd(&values).0)
            }
        };
        cells.push(average(&|result| result.best_epoch as f64, 0));
        let ks: Vec<f64> = of_policy
            .iter()
            .flat_map(|run| run.reports.iter().map(|report| report.mean_k))
            .collect();
        cells.push(match ks.is_empty() {
            true => "–".into(),
            false => format!("{:.1}", mean_and_sd(&ks).0),
        });
        if spec.comparison.is_some() {
            let reports = of_policy.iter().flat_map(|run| &run.reports);
            cells.push(median(
                reports.filter_map(|report| report.relative_bias).collect(),
            ));
            let steps: Vec<f64> = of_policy.iter().filter_map(|run| run.all_steps()).collect();
            cells.push(match steps.is_empty() {
                true => "–".into(),
                false => format!("{:.0}", mean_and_sd(&steps).0 / 1000.0),
            });
        }
        cells.push(average(&|result| result.seconds, 0));
        if let Some(compared) = &compared {
            cells.extend(comparison::cells(spec, policy, compared));
        }
        lines.push(row(&cells));
    }
    if unfinished {
        lines.push(String::new());
        lines.push("\\* with runs that are not finished, at their best epoch so far.".into());
    }
    let mut notes = Vec::new();
    if let Some(comparison) = &spec.comparison {
        notes.push(format!(
            "Differences are paired by seed, with 95 % intervals (Student's t); p after Holm over the table; equal within {}.",
            comparison.margin
        ));
    }
    if edge {
        notes.push("† the smallest or largest value that was tried.".into());
    }
    if !notes.is_empty() {
        lines.push(String::new());
        lines.push(notes.join(" "));
    }
    lines.join("\n") + "\n"
}

/// The median of estimated biases, with two significant digits.
fn median(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    match values.get(values.len() / 2) {
        None => "–".into(),
        Some(value) if *value < 1e-4 => "< 0.0001".into(),
        Some(value) => {
            let digits = (1.0 - value.log10().floor()).clamp(0.0, 5.0) as usize;
            format!("{value:.digits$}")
        }
    }
}

fn row(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

fn number(metric: &Metric, mean: f64, sd: Option<f64>) -> String {
    let digits = metric.digits;
    match sd {
        Some(sd) => format!("{mean:.digits$} ({sd:.digits$})"),
        None => format!("{mean:.digits$}"),
    }
}

/// Puts table and figure between the markers of `name` in a Markdown file, the figure into `img/` beside it.
pub fn write_into(
    document: &Path,
    name: &str,
    spec: &Spec,
    table: &str,
    figure: &Path,
) -> Result<(), String> {
    let shown = document.display();
    let failed =
        |what: &Path, error: std::io::Error| format!("cannot write {}: {error}", what.display());
    let text =
        fs::read_to_string(document).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let (begin, end) = (
        format!("<!-- sweep {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let places = text.find(&begin).zip(text.find(&end));
    let Some((from, to)) = places.filter(|(from, to)| from < to) else {
        return Err(format!(
            "{shown} has no lines {begin:?} and {end:?}; add them where the table belongs"
        ));
    };
    let images = document.with_file_name("img");
    fs::create_dir_all(&images).map_err(|error| failed(&images, error))?;
    let file = format!("{}.png", name.replace('_', "-"));
    fs::copy(figure, images.join(&file)).map_err(|error| failed(&images.join(&file), error))?;
    let middle = format!("\n\n{table}\n![{}](img/{file})\n\n", spec.title);
    let whole = format!("{}{begin}{middle}{}", &text[..from], &text[to..]);
    fs::write(document, whole).map_err(|error| failed(document, error))
}
