//! Files of measurements: what was read can be written and read again, and every estimate of it keeps its laws.

use atbptt_core::direct::DirectStatistics;
use atbptt_core::{LagNorms, Scheme};
use atbptt_train::probe_file::{MAX_LAGS, from_reader, from_slice};
use serde_json::{Map, Value, json};

use super::{check_message, estimator};

/// Bytes: the file.
pub fn norms(data: &[u8]) {
    let read = match from_slice(data) {
        Ok(read) => read,
        Err(error) => return check_message(&error),
    };
    assert!(!read.is_empty());
    let cases: Vec<Value> = read
        .iter()
        .map(|case| {
            let mut object = Map::new();
            if let Some(norms) = &case.norms {
                assert!(norms.lags() <= MAX_LAGS);
                object.insert("gradient_norms".into(), rows(norms).into());
                object.insert("mean_sum_norms".into(), json!(norms.mean_sum_norms()));
            }
            object.insert("tau".into(), json!(case.tau));
            object.insert("direct".into(), json!(case.direct));
            object.into()
        })
        .collect();
    let text = json!({ "cases": cases }).to_string();
    let again = from_reader(text.as_bytes()).expect("its own JSON");
    assert_eq!(again.len(), read.len());
    for (again, case) in again.iter().zip(&read) {
        assert_eq!((again.tau, &again.direct), (case.tau, &case.direct));
        // Squares of sums cannot be told from what was made of them.
        let plain = |norms: &LagNorms| (rows(norms), norms.mean_sum_norms().map(<[f64]>::to_vec));
        assert_eq!(
            again.norms.as_ref().map(plain),
            case.norms.as_ref().map(plain)
        );
    }
    for case in read.iter().take(4) {
        if let Some(norms) = &case.norms {
            estimator::check_norms(norms, case.tau);
        }
        case.direct.iter().for_each(check_direct);
    }
}

fn rows(norms: &LagNorms) -> Vec<Value> {
    (0..norms.lags()).map(|lag| json!(norms.row(lag))).collect()
}

fn check_direct(statistics: &DirectStatistics) {
    let losses = statistics.losses();
    for scheme in [
        Scheme::Strided { losses },
        Scheme::Overlapping,
        Scheme::Chunked,
    ] {
        let estimate = match statistics.estimate(scheme) {
            Ok(estimate) => estimate,
            Err(error) => {
                check_message(&error);
                continue;
            }
        };
        check_message(&estimate.outcome());
        let mut last = f64::INFINITY;
        for k in [0, 1, 2, 3, estimate.window() / 2, estimate.window()] {
            let bias = estimate.relative_bias(k);
            assert!(bias >= 0.0, "{bias} at {k}");
            assert!(estimate.upper_limit(k) >= 0.0 && estimate.standard_error(k) >= 0.0);
            if k > 0 && k <= estimate.window() {
                assert!(bias <= last * (1.0 + 1e-9), "the bias grows at {k}");
                last = bias;
            }
        }
        for delta in [0.0, 0.1, 0.5, 1.0, f64::NAN] {
            if let Some(k) = estimate.smallest_k(delta) {
                assert!((1..=estimate.window()).contains(&k));
                let (low, high) = estimate.k_interval(delta, 1.96);
                assert!(low <= high, "{low} to {high}");
            }
        }
    }
}
