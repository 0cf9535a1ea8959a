//! The numbers of `direct_bias.json` from the gradients in it: U-statistics and plug-in, to 1e-9 relative.
//!
//! `atbptt-models` has the tests that start from weights and inputs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on should stop

use std::path::PathBuf;

use atbptt_core::{DirectStatistics, Scheme};
use serde_json::Value;

fn golden(name: &str) -> Option<Value> {
    let folder = std::env::var_os("ATBPTT_GOLDEN")
        .map_or_else(|| PathBuf::from("../../../shared/golden"), PathBuf::from);
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).expect("golden files are JSON")),
        Err(error) => {
            println!(
                "skipped: {} cannot be read ({error}); set ATBPTT_GOLDEN",
                path.display()
            );
            None
        }
    }
}

fn flatten(value: &Value, into: &mut Vec<f64>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, into)),
        number => into.push(number.as_f64().expect("a number")),
    }
}

fn sizes(values: &Value) -> Vec<usize> {
    let all = values.as_array().unwrap().iter();
    all.map(|v| v.as_u64().unwrap() as usize).collect()
}

/// The counted gradients in one vector; of the GRU's recurrent biases, only the candidate's count, and no others.
fn gradient(of: &Value, kind: &str, hidden: usize) -> Vec<f64> {
    let mut all = Vec::new();
    for (name, values) in of.as_object().unwrap() {
        let mut part = Vec::new();
        flatten(values, &mut part);
        match (name.starts_with("bias_hh"), kind) {
            (false, _) => all.extend(part),
            (true, "gru") => all.extend(&part[2 * hidden..]),
            (true, _) => (),
        }
    }
    all
}

/// A reference number: `None` for null, infinities and NaN as they are spelled.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(
            text.to_lowercase()
                .replace("infinity", "inf")
                .parse()
                .unwrap(),
        ),
        value => Some(value.as_f64().unwrap()),
    }
}

/// Equal, infinities too, or within 1e-9 of the larger; null is no answer, or none that is a number.
fn same(got: Option<f64>, expected: &Value, scale: f64) -> bool {
    match (got, number(expected)) {
        (None, None) => true,
        (Some(got), None) => !got.is_finite(),
        (None, Some(expected)) => !expected.is_finite(),
        (Some(got), Some(expected)) => {
            got == expected
                || (got.is_nan() && expected.is_nan())
                || (got - expected).abs() <= 1e-9 * expected.abs().max(scale)
        }
    }
}

#[test]
fn golden_statistics_are_reproduced() {
    let Some(golden) = golden("direct_bias.json") else {
        return;
    };
    for (index, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let kind = case["kind"].as_str().unwrap();
        let hidden = case["d_hidden"].as_u64().unwrap() as usize;
        let window = case["window"].as_u64().unwrap() as usize;
        let losses = case["losses"].as_u64().unwrap() as usize;
        let contexts = sizes(&case["context_cuts"]);
        let probes = case["probes"].as_array().unwrap();
        let mut vectors: Vec<Vec<f64>> = Vec::new();
        for probe in probes {
            // Gradients of what is kept at each cut, and of everything; their differences are the pieces.
            let mut kept: Vec<Vec<f64>> = probe["cuts"]
                .as_array()
                .unwrap()
                .iter()
                .map(|cut| gradient(&cut["truncated"], kind, hidden))
                .collect();
            if contexts.last().is_some_and(|c| c + 1 < window) {
                kept.push(gradient(&probe["full"], kind, hidden));
            }
            let mut before = vec![0.0; kept[0].len()];
            for now in kept {
                vectors.push(now.iter().zip(&before).map(|(a, b)| a - b).collect());
                before = now;
            }
        }
        let dot = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let gram = vectors
            .iter()
            .flat_map(|a| vectors.iter().map(move |b| dot(a, b)))
            .collect();
        let got = DirectStatistics::new(window, losses, contexts, probes.len(), gram).unwrap();

        let label = format!("case {index} ({kind})");
        let square = got.gradient_square();
        assert!(
            same(Some(square), &case["gradient_square"], 0.0),
            "{label}: {square}"
        );
        // What is dropped at the last cut is a rounding of the whole.
        let check = |what: &str, got: Vec<Option<f64>>, scale: f64| {
            let expected = case[what].as_array().unwrap();
            assert_eq!(got.len(), expected.len(), "{label}: {what}");
            for (cut, (got, expected)) in got.into_iter().zip(expected).enumerate() {
                assert!(
                    same(got, expected, scale),
                    "{label}: {what} at cut {cut}: {got:?} {expected}"
                );
            }
        };
        let squares = got.bias_squares().into_iter().map(Some).collect();
        check("bias_square", squares, 1e-9 * square.abs());
        check("relative_bias", got.relative_biases(), 1e-6);
        check("plug_in_relative_bias", got.plug_in_relative_biases(), 1e-6);
        let estimate = got.estimate(Scheme::Strided { losses }).unwrap();
        assert_eq!(estimate.gradient_square(), square);
        println!(
            "{label}: {} cuts, {} probes",
            got.contexts().len(),
            got.probes()
        );
    }
}
