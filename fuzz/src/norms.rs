//! Files of gradient norms: what was read can be written and read again, and every estimate of it keeps its laws.

use atbptt_core::LagNorms;
use atbptt_train::norms_file::{LagNormsFile, MAX_LAGS};
use serde_json::{Map, Value, json};

use super::{check_message, estimator};

/// Bytes: the file.
pub fn norms(data: &[u8]) {
    let file = match LagNormsFile::from_slice(data) {
        Ok(file) => file,
        Err(error) => return check_message(&error),
    };
    assert!(!file.cases.is_empty());
    let cases: Vec<Value> = file
        .cases
        .iter()
        .map(|case| {
            assert!(case.norms.lags() <= MAX_LAGS);
            let mut object = Map::new();
            object.insert("gradient_norms".into(), rows(&case.norms).into());
            object.insert("tau".into(), json!(case.tau));
            object.insert("mean_sum_norms".into(), json!(case.norms.mean_sum_norms()));
            object.into()
        })
        .collect();
    let text = json!({ "cases": cases }).to_string();
    let again = LagNormsFile::from_reader(text.as_bytes()).expect("its own JSON");
    assert_eq!(again, file);
    for case in file.cases.iter().take(4) {
        estimator::check_norms(&case.norms, case.tau);
    }
}

fn rows(norms: &LagNorms) -> Vec<Value> {
    (0..norms.lags()).map(|lag| json!(norms.row(lag))).collect()
}
