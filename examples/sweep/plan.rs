//! Which runs a sweep needs: those that a setting is chosen by, those of the policies, and those that go by other runs.

use std::path::{Path, PathBuf};

use atbptt::train::run::RunSummary;

use super::common::history::History;
use super::policy::Policy;
use super::report::read_reports;
use super::run::{Run, has_failed};
use super::spec::{Spec, Tuning};

/// What was chosen for a policy on validation data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub value: f64,
    /// Mean validation loss with it, at the best epoch.
    pub valid_loss: f64,
    /// Whether the best value is the smallest or largest that was tried.
    pub at_edge: bool,
}

/// The rule whose setting a policy takes: its leader's, or its own.
fn chooser(policy: Policy) -> Policy {
    policy.leader().unwrap_or(policy)
}

fn folder(
    out: &Path,
    start: &str,
    policy: Policy,
    value: Option<(&Tuning, f64)>,
    seed: u64,
) -> PathBuf {
    let policy = policy.key().replace(' ', "-");
    let value = value.map_or_else(String::new, |(tuning, value)| {
        format!("-{}{value}", tuning.option.trim_start_matches('-'))
    });
    out.join(format!("{start}{policy}{value}-seed{seed}"))
}

fn options(value: Option<(&Tuning, f64)>) -> Vec<String> {
    value.map_or_else(Vec::new, |(tuning, value)| {
        vec![tuning.option.clone(), value.to_string()]
    })
}

/// Runs that a setting is chosen by: every value for every policy that goes by itself.
pub fn tuning_runs(spec: &Spec, out: &Path) -> Vec<Run> {
    let Some(tuning) = &spec.tuning else {
        return Vec::new();
    };
    let of_value = |&value: &f64| {
        let of_policy = move |&policy: &Policy| {
            let value = Some((tuning, value));
            let arguments = policy.arguments()?.into_iter().chain(options(value));
            Some(Run {
                policy,
                seed: tuning.seed,
                arguments: arguments.collect(),
                folder: folder(out, "tune-", policy, value, tuning.seed),
            })
        };
        spec.policies.iter().filter_map(of_policy)
    };
    tuning.values.iter().flat_map(of_value).collect()
}

/// The value with the lowest validation loss among a policy's runs; `None` while some of them are left.
pub fn choice(spec: &Spec, out: &Path, policy: Policy) -> Result<Option<Choice>, String> {
    let Some(tuning) = &spec.tuning else {
        return Ok(None);
    };
    let mut best: Option<(usize, f64)> = None;
    for (nth, &value) in tuning.values.iter().enumerate() {
        let run = folder(
            out,
            "tune-",
            chooser(policy),
            Some((tuning, value)),
            tuning.seed,
        );
        match (run.join("result.json").is_file(), has_failed(&run)) {
            (true, _) => {}
            // A step that was too large is no choice.
            (false, true) => continue,
            (false, false) => return Ok(None),
        }
        let Some(summary) = RunSummary::of(&read_reports(&run)?) else {
            continue;
        };
        if best.is_none_or(|(_, loss)| summary.valid_loss < loss) {
            best = Some((nth, summary.valid_loss));
        }
    }
    Ok(best.map(|(nth, valid_loss)| Choice {
        value: tuning.values[nth],
        valid_loss,
        at_edge: tuning.values.len() > 1 && (nth == 0 || nth + 1 == tuning.values.len()),
    }))
}

/// The runs that are compared, the first seed of every policy before the second of any. Left out are those whose setting is not
/// chosen yet or whose leader has not run yet, and `leaders` leaves out those that go by another run.
pub fn compared_runs(spec: &Spec, out: &Path, leaders: bool) -> Result<Vec<Run>, String> {
    let mut runs = Vec::new();
    for (nth, &seed) in spec.seeds.iter().enumerate() {
        for &policy in &spec.policies {
            let value = match &spec.tuning {
                None => None,
                Some(tuning) => match choice(spec, out, policy)? {
                    None => continue,
                    Some(choice) => Some((tuning, choice.value)),
                },
            };
            let arguments = match (policy.arguments(), policy.leader()) {
                (Some(arguments), _) => arguments,
                (None, Some(_)) if leaders => continue,
                (None, leader) => {
                    // Of the next seed, and of the first for the last.
                    let other = spec.seeds[(nth + 1) % spec.seeds.len()];
                    let followed = folder(out, "", leader.unwrap_or(policy), value, other);
                    match followed.join("result.json").is_file() {
                        true => following(policy, &followed)?,
                        false => continue,
                    }
                }
            };
            runs.push(Run {
                policy,
                seed,
                arguments: arguments.into_iter().chain(options(value)).collect(),
                folder: folder(out, "", policy, value, seed),
            });
        }
    }
    Ok(runs)
}

/// Options of a policy that goes by the run in `followed`.
fn following(policy: Policy, followed: &Path) -> Result<[String; 2], String> {
    if let Policy::Median(_) = policy {
        let windows = read_reports(followed)?.last().map_or(0, |last| last.step);
        let k = History::read(followed)?.median_k(windows)?;
        return Ok(["--fixed-k".into(), k.to_string()]);
    }
    Ok(["--replay-k".into(), followed.display().to_string()])
}
