//! Every policy beside the baseline, seed by seed, and what it costs to find a fixed K.

use std::path::Path;

use super::common::history::History;
use super::cost::steps_until;
use super::plan::{Choice, tuning_runs};
use super::policy::Policy;
use super::report::{Finished, read_reports};
use super::spec::{Comparison, Spec};
use super::statistics::{Paired, Verdict, holm};

/// One policy beside the baseline.
#[derive(Debug, PartialEq)]
pub struct Compared {
    pub policy: Policy,
    /// Seeds that both have.
    pub pairs: usize,
    /// The policy's score less the baseline's; `None` with less than two pairs.
    pub difference: Option<Paired>,
    /// Adjusted for all comparisons of the table.
    pub p: f64,
    pub verdict: Verdict,
}

/// All policies but the baseline, in the order of the file.
pub fn compare(spec: &Spec, comparison: &Comparison, finished: &[Finished]) -> Vec<Compared> {
    let score = |policy: Policy, seed: u64| {
        let of = |run: &&Finished| run.policy == policy && run.seed == seed;
        finished.iter().find(of)?.score(spec)
    };
    let others = spec.policies.iter();
    let others = others.filter(|&&policy| policy != comparison.baseline);
    let differences: Vec<(Policy, Vec<f64>)> = others
        .map(|&policy| {
            let of_seed =
                |&seed: &u64| Some(score(policy, seed)? - score(comparison.baseline, seed)?);
            (policy, spec.seeds.iter().filter_map(of_seed).collect())
        })
        .collect();
    let paired: Vec<Option<Paired>> = differences
        .iter()
        .map(|(_, differences)| Paired::of(differences))
        .collect();
    // What has not run yet is no part of the family.
    let known: Vec<f64> = paired.iter().flatten().map(|paired| paired.p).collect();
    let mut adjusted = holm(&known).into_iter();
    differences
        .into_iter()
        .zip(paired)
        .map(|((policy, differences), difference)| {
            let p = difference.and_then(|_| adjusted.next()).unwrap_or(1.0);
            let more = spec.metrics[0].more_is_better;
            let verdict = |paired| Verdict::of(&paired, p, comparison.margin, more);
            Compared {
                policy,
                pairs: differences.len(),
                difference,
                p,
                verdict: difference.map_or(Verdict::NotShown, verdict),
            }
        })
        .collect()
}

/// Heads of the table's columns about a comparison.
pub fn head(spec: &Spec, comparison: &Comparison) -> [String; 3] {
    let (title, baseline) = (&spec.metrics[0].title, comparison.baseline);
    [
        format!("{title} less that of {baseline}"),
        "p".into(),
        format!("than {baseline}"),
    ]
}

/// What these columns say of a policy.
pub fn cells(spec: &Spec, policy: Policy, compared: &[Compared]) -> [String; 3] {
    let digits = spec.metrics[0].digits;
    let of_policy = compared.iter().find(|one| one.policy == policy);
    let Some((one, paired)) = of_policy.and_then(|one| Some((one, one.difference?))) else {
        return ["–"; 3].map(String::from);
    };
    [
        format!("{:+.digits$} ± {:.digits$}", paired.mean, paired.half_width),
        match one.p < 0.001 {
            true => "< 0.001".into(),
            false => format!("{:.3}", one.p),
        },
        one.verdict.to_string(),
    ]
}

/// What it took to choose the best fixed K and its setting on validation, beside the adaptive runs of the same choice; `None` where
/// nothing was chosen or runs are missing.
pub fn search(
    spec: &Spec,
    out: &Path,
    choices: &[Option<Choice>],
) -> Result<Option<String>, String> {
    let (Some(tuning), Some(comparison)) = (&spec.tuning, &spec.comparison) else {
        return Ok(None);
    };
    let cost = |of: &dyn Fn(Policy) -> bool| -> Result<Option<(usize, f64)>, String> {
        let mut all = (0, 0.0);
        for run in tuning_runs(spec, out).iter().filter(|run| of(run.policy)) {
            let Ok(history) = History::read(&run.folder) else {
                return Ok(None);
            };
            let reports = read_reports(&run.folder)?;
            let steps = steps_until(&reports, &history, spec.validation_steps)?;
            all = (all.0 + 1, all.1 + steps.last().copied().unwrap_or(0.0));
        }
        Ok(Some(all))
    };
    let mut best: Option<(Policy, Choice)> = None;
    for (&policy, choice) in spec.policies.iter().zip(choices) {
        if let (true, Some(choice)) = (policy.is_fixed(), choice)
            && best.is_none_or(|(_, so_far)| choice.valid_loss < so_far.valid_loss)
        {
            best = Some((policy, *choice));
        }
    }
    let (fixed, own) = (
        cost(&Policy::is_fixed)?,
        cost(&|policy| policy == comparison.baseline)?,
    );
    let (Some((policy, choice)), Some(fixed), Some(own)) = (best, fixed, own) else {
        return Ok(None);
    };
    Ok(Some(format!(
        "Of the fixed lengths, validation on seed {} chooses {policy} with {} {}: {} runs, {:.0} thousand steps per sequence. The same choice for {} \
         took {} runs and {:.0} thousand.\n",
        tuning.seed,
        tuning.option.trim_start_matches('-'),
        choice.value,
        fixed.0,
        fixed.1 / 1000.0,
        comparison.baseline,
        own.0,
        own.1 / 1000.0,
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use atbptt::train::EpochReport;

    const FILE: &str = r#"
title = "t"
program = "copy"
policies = ["adaptive 0.5", "fixed 1", "fixed 2", "fixed 3"]
seeds = [1, 2, 3]
[comparison]
baseline = "adaptive 0.5"
margin = 0.05
[[metrics]]
name = "ppl"
title = "ppl"
"#;

    fn run(policy: Policy, seed: u64, score: f64) -> Finished {
        let report = EpochReport {
            epoch: 1,
            valid_loss: Some(score),
            measures: BTreeMap::from([("ppl".to_owned(), score)]),
            ..EpochReport::default()
        };
        Finished {
            policy,
            seed,
            reports: vec![report],
            complete: true,
            steps: None,
        }
    }

    /// Differences 0.9, 1.0, 1.1 have t = 17.32 and p = 0.00332, twice that after Holm; 0.00, 0.01, 0.02 lie within the margin; of a
    /// policy with one run nothing is said.
    #[test]
    fn policies_are_compared_seed_by_seed() {
        let spec = Spec::parse(FILE).unwrap();
        let comparison = spec.comparison.clone().unwrap();
        let mut finished = Vec::new();
        for (seed, base) in [(1, 2.0), (2, 3.0), (3, 5.0)] {
            let nth = seed as f64 - 2.0;
            finished.push(run(Policy::Adaptive(0.5), seed, base));
            finished.push(run(Policy::Fixed(1), seed, base + 1.0 + 0.1 * nth));
            finished.push(run(Policy::Fixed(2), seed, base + 0.01 + 0.01 * nth));
        }
        finished.push(run(Policy::Fixed(3), 2, 1.0));
        let compared = compare(&spec, &comparison, &finished);
        let words: Vec<String> = compared.iter().map(|c| c.verdict.to_string()).collect();
        assert_eq!(words, ["worse", "as well as", "not shown"]);
        let first = compared[0].difference.unwrap();
        assert!((first.mean - 1.0).abs() < 1e-12 && (first.p - 0.00332).abs() < 1e-5);
        assert!((first.half_width - 0.24841).abs() < 1e-5);
        assert!((compared[0].p - 2.0 * first.p).abs() < 1e-12);
        assert_eq!((compared[2].pairs, compared[2].difference), (1, None));
        let cells = |k: usize| cells(&spec, Policy::Fixed(k), &compared);
        assert_eq!(cells(1), ["+1.000 ± 0.248", "0.007", "worse"]);
        assert_eq!(cells(3), ["–"; 3]);
        let head = head(&spec, &comparison);
        assert_eq!(head, ["ppl less that of δ = 0.5", "p", "than δ = 0.5"]);
    }
}
