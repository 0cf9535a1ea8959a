//! What a sweep runs: a TOML file, read strictly.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::policy::Policy;

/// A number of the paper's, with the standard deviation where it gives one: `[1.022, 0.006]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Vec<f64>")]
pub struct Published {
    pub mean: f64,
    pub sd: Option<f64>,
}

impl TryFrom<Vec<f64>> for Published {
    type Error = String;

    fn try_from(numbers: Vec<f64>) -> Result<Self, String> {
        if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
            return Err(format!("a published number must be finite, got {number}"));
        }
        match numbers[..] {
            [_, sd] if sd < 0.0 => Err(format!("a standard deviation is at least 0, got {sd}")),
            [mean] => Ok(Self { mean, sd: None }),
            [mean, sd] => Ok(Self { mean, sd: Some(sd) }),
            _ => Err(format!(
                "a published number is [mean] or [mean, standard deviation], got {} numbers",
                numbers.len()
            )),
        }
    }
}

/// One column of the table: a measure that the program writes into `result.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Its name there, such as `test_perplexity`.
    pub name: String,
    /// As tables and figures call it.
    pub title: String,
    /// Factor on the measured number, to show it in the paper's units.
    #[serde(default = "one")]
    pub scale: f64,
    /// Digits after the point.
    #[serde(default = "three")]
    pub digits: usize,
    /// Whether more is better, as of an efficiency; else less is, as of an error.
    #[serde(default)]
    pub more_is_better: bool,
    /// The paper's numbers, by policy.
    #[serde(default)]
    pub paper: BTreeMap<String, Published>,
}

/// Digits after the point beyond which no number has any; far more than a formatter takes.
const MAX_DIGITS: usize = 17;

fn one() -> f64 {
    1.0
}

fn three() -> usize {
    3
}

/// A number that every policy gets chosen for it, on validation data: above all the step size.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// The program's option for it, such as `--lr`.
    pub option: String,
    /// What is tried, rising.
    pub values: Vec<f64>,
    /// Seed of the runs that it is chosen by. None of those that are compared.
    pub seed: u64,
}

/// What all other policies are compared with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// One of the policies.
    pub baseline: Policy,
    /// Difference of the first metric up to which two policies count as equally good, in the table's units. Named before the
    /// runs.
    pub margin: f64,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Heading of table and figure.
    pub title: String,
    /// The example program to run.
    pub program: String,
    /// Its options, but for policy, seed and folder.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Rows of the table, in this order.
    pub policies: Vec<Policy>,
    /// Seeds; the first of every policy runs before the second of any.
    pub seeds: Vec<u64>,
    /// Columns of the table; the first one is drawn and compared.
    pub metrics: Vec<Metric>,
    /// What is chosen for every policy on validation data first. Policies that go by another one's runs take its choice.
    #[serde(default)]
    pub tuning: Option<Tuning>,
    /// Which policy the others are compared with, seed by seed.
    #[serde(default)]
    pub comparison: Option<Comparison>,
    /// Steps per sequence of a pass over the validation data, which count among the steps that a run processes.
    #[serde(default)]
    pub validation_steps: usize,
}

impl Spec {
    /// Reads a file. Errors name the file, the field and, where one is to blame, the line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read {shown}: {error}; give a TOML file"))?;
        Self::parse(&text).map_err(|error| format!("{shown}{error}"))
    }

    /// Reads the text of a file. Errors begin with the place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or_else(String::new, |span| {
                let line = text[..span.start.min(text.len())].matches('\n').count();
                let field = field_at(text, line).map_or_else(String::new, |f| format!(", `{f}`"));
                format!(", line {}{field}", line + 1)
            });
            format!("{place}: {}", error.message().replace('\n', " "))
        })?;
        for (field, empty) in [
            ("policies", spec.policies.is_empty()),
            ("seeds", spec.seeds.is_empty()),
            ("metrics", spec.metrics.is_empty()),
        ] {
            if empty {
                return Err(format!(
                    ": `{field}` is empty; a sweep needs at least one entry"
                ));
            }
        }
        let known: Vec<String> = spec.policies.iter().map(|policy| policy.key()).collect();
        // Two runs of one name would share a folder.
        let seeds: Vec<String> = spec.seeds.iter().map(u64::to_string).collect();
        for (field, entries) in [("policies", &known), ("seeds", &seeds)] {
            if let Some(twice) = (1..entries.len()).find(|&i| entries[..i].contains(&entries[i])) {
                return Err(format!(
                    ": `{field}` names {} twice; name it once",
                    entries[twice]
                ));
            }
        }
        spec.check_relations(&known)?;
        for metric in &spec.metrics {
            if metric.digits > MAX_DIGITS || !metric.scale.is_finite() {
                return Err(format!(
                    ": metric {:?} has {} digits and scale {}; give at most {MAX_DIGITS} digits and a finite scale",
                    metric.name, metric.digits, metric.scale
                ));
            }
            for policy in metric.paper.keys() {
                if !known.contains(policy) {
                    return Err(format!(
                        ": the paper's {:?} names the policy {policy:?}, which the sweep does not run; its policies are {}",
                        metric.name,
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(spec)
    }

    /// Refuses policies without the ones that they go by, and a choice or comparison that cannot be made.
    fn check_relations(&self, known: &[String]) -> Result<(), String> {
        for policy in &self.policies {
            let Some(leader) = policy.leader() else {
                continue;
            };
            if !self.policies.contains(&leader) {
                return Err(format!(
                    ": `{}` goes by runs of `{}`, which `policies` does not name; add it",
                    policy.key(),
                    leader.key()
                ));
            }
            if self.seeds.len() < 2 {
                return Err(format!(
                    ": `{}` goes by a run of another seed, and `seeds` has one; give two or more",
                    policy.key()
                ));
            }
        }
        if let Some(tuning) = &self.tuning {
            let name = tuning.option.strip_prefix("--").unwrap_or_default();
            let letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
            // It names folders.
            if !(name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(letter))
            {
                return Err(format!(
                    ": `tuning.option` must be an option of the program, such as `--lr`, got {:?}",
                    tuning.option
                ));
            }
            let rising = tuning.values.windows(2).all(|pair| pair[0] < pair[1]);
            let finite = tuning.values.iter().all(|value| value.is_finite());
            if tuning.values.is_empty() || !(rising && finite) {
                return Err(format!(
                    ": `tuning.values` must be finite and rise, got {:?}",
                    tuning.values
                ));
            }
            if self.seeds.contains(&tuning.seed) {
                return Err(format!(
                    ": `tuning.seed` {} is among the `seeds` that are compared; what was chosen on a seed flatters it, take another",
                    tuning.seed
                ));
            }
        }
        if let Some(comparison) = &self.comparison {
            if !self.policies.contains(&comparison.baseline) {
                return Err(format!(
                    ": `comparison.baseline` is `{}`, which the sweep does not run; its policies are {}",
                    comparison.baseline.key(),
                    known.join(", ")
                ));
            }
            if !(comparison.margin >= 0.0 && comparison.margin.is_finite()) {
                return Err(format!(
                    ": `comparison.margin` must be finite and at least 0, got {}",
                    comparison.margin
                ));
            }
        }
        Ok(())
    }
}

/// The key that a line belongs to: on it, or on the nearest line above.
fn field_at(text: &str, line: usize) -> Option<&str> {
    let lines: Vec<&str> = text.lines().take(line + 1).collect();
    lines.into_iter().rev().find_map(|line| {
        let (key, _) = line.split_once('=')?;
        let key = key.trim().trim_matches('"');
        (!key.is_empty() && !key.starts_with(['#', '[', ']'])).then_some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
title = "t"
program = "copy"
policies = ["fixed 5", "adaptive 0.9"]
seeds = [1]

[[metrics]]
name = "test_perplexity"
title = "test perplexity"
[metrics.paper]
"fixed 5" = [1.646, 0.012]
"#;

    #[test]
    fn a_whole_file_is_read() {
        let spec = Spec::parse(WHOLE).unwrap();
        assert_eq!(spec.policies, [Policy::Fixed(5), Policy::Adaptive(0.9)]);
        assert_eq!(spec.metrics[0].paper["fixed 5"].sd, Some(0.012));
        assert_eq!((spec.metrics[0].scale, spec.metrics[0].digits), (1.0, 3));
    }

    /// What is wrong, in which line, in which field.
    #[test]
    fn errors_name_line_and_field() {
        let cases = [
            ("seeds = [1]", "seeds = [1", "`seeds`: missing comma"),
            ("seeds = [1]", "seeds = [\"one\"]", ", line 5, `seeds`"),
            ("seeds = [1]", "seeds = []", "`seeds` is empty"),
            ("seeds = [1]", "seeds = [1, 2, 1]", "`seeds` names 1 twice"),
            (
                "\"adaptive 0.9\"",
                "\"fixed 5\"",
                "`policies` names fixed 5 twice",
            ),
            ("seeds = [1]", "sedes = [1]", "unknown field `sedes`"),
            ("seeds = [1]\n", "", "missing field `seeds`"),
            (
                "adaptive 0.9",
                "adaptiv 0.9",
                "line 4, `policies`: unknown policy \"adaptiv 0.9\"",
            ),
            ("adaptive 0.9", "adaptive 1.9", "δ must lie in (0, 1]"),
            ("fixed 5\"", "fixed 0\"", "at least 1"),
            (
                "\"fixed 5\" =",
                "\"fixed 6\" =",
                "\"fixed 6\", which the sweep does not run",
            ),
            (
                "[1.646, 0.012]",
                "[1, 2, 3]",
                "`fixed 5`: a published number",
            ),
            ("[1.646, 0.012]", "[nan]", "must be finite, got NaN"),
            ("[1.646, 0.012]", "[1.6, -0.1]", "at least 0, got -0.1"),
            (
                "title = \"test perplexity\"",
                "title = \"t\"\ndigits = 70000",
                "at most 17 digits",
            ),
            (
                "title = \"test perplexity\"",
                "title = \"t\"\nscale = inf",
                "a finite scale",
            ),
            (
                "\"fixed 5\", ",
                "\"fixed 5\", \"replay 0.5\", ",
                "goes by runs of `adaptive 0.5`, which `policies` does not name",
            ),
            (
                "\"fixed 5\", ",
                "\"fixed 5\", \"median 0.9\", ",
                "`seeds` has one; give two or more",
            ),
            (
                "[[metrics]]",
                "[tuning]\noption = \"--lr\"\nvalues = [1.0, 3.0]\nseed = 1\n[[metrics]]",
                "is among the `seeds` that are compared",
            ),
            (
                "[[metrics]]",
                "[tuning]\noption = \"--lr\"\nvalues = [3.0, 1.0]\nseed = 2\n[[metrics]]",
                "must be finite and rise, got [3.0, 1.0]",
            ),
            (
                "[[metrics]]",
                "[tuning]\noption = \"lr\"\nvalues = [1.0]\nseed = 2\n[[metrics]]",
                "such as `--lr`, got \"lr\"",
            ),
            (
                "[[metrics]]",
                "[tuning]\noption = \"--../x\"\nvalues = [1.0]\nseed = 2\n[[metrics]]",
                "such as `--lr`, got \"--../x\"",
            ),
            (
                "[[metrics]]",
                "[comparison]\nbaseline = \"fixed 6\"\nmargin = 0.1\n[[metrics]]",
                "`comparison.baseline` is `fixed 6`, which the sweep does not run",
            ),
            (
                "[[metrics]]",
                "[comparison]\nbaseline = \"fixed 5\"\nmargin = nan\n[[metrics]]",
                "`comparison.margin` must be finite",
            ),
        ];
        for (from, to, expected) in cases {
            let error = Spec::parse(&WHOLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{expected:?} in {error:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }
}
