//! The two sides of docs/PIPELINE.md, and the difference that it shows.

use std::fs;

/// Lines added and removed by the unified diff that turns `before` into `after`, which must do just that.
fn apply(before: &str, diff: &str, after: &str) -> [usize; 2] {
    let old: Vec<&str> = before.lines().collect();
    let (mut at, mut new, mut counts) = (0, Vec::new(), [0, 0]);
    for line in diff.lines() {
        if let Some(place) = line.strip_prefix("@@ -") {
            let from: usize = place.split(&[',', ' ']).next().unwrap().parse().unwrap();
            new.extend(&old[at..from - 1]);
            at = from - 1;
            continue;
        }
        let (sign, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
        if sign != "+" {
            assert_eq!(old[at], rest, "line {} of what was before", at + 1);
            at += 1;
        }
        match sign {
            "+" => counts[0] += 1,
            "-" => counts[1] += 1,
            " " => {}
            _ => panic!("{line:?} is no line of a diff"),
        }
        if sign != "-" {
            new.push(rest);
        }
    }
    new.extend(&old[at..]);
    assert_eq!(new, after.lines().collect::<Vec<_>>());
    counts
}

/// Dataset, batcher, Adam, schedule and accuracy stay; both sides are examples, so that both compile.
#[test]
fn a_users_pipeline_changes_at_most_30_lines() {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let document = read("docs/PIPELINE.md");
    let (_, diff) = document.split_once("```diff\n").unwrap();
    let (diff, _) = diff.split_once("```\n").unwrap();
    let [added, removed] = apply(
        &read("examples/pipeline/before.rs"),
        diff,
        &read("examples/pipeline/after.rs"),
    );
    assert!((1..=30).contains(&added), "{added} lines added");
    assert!((1..=30).contains(&removed), "{removed} lines removed");
}

#[test]
fn an_example_is_as_short_as_it_says() {
    for name in ["own_metric", "own_data", "episodes"] {
        let text = fs::read_to_string(format!("examples/{name}.rs")).unwrap();
        assert!(text.lines().count() <= 80, "{name}");
    }
}
