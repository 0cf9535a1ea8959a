//! TOML files of a sweep: what is accepted can be run, shown and named.

#[allow(dead_code)] // The program uses all of it.
#[path = "../../examples/sweep/spec.rs"]
mod spec;

use self::spec::{Policy, Spec};

/// Bytes: the file.
pub fn sweep(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let spec = match Spec::parse(text) {
        Ok(spec) => spec,
        Err(error) => {
            assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
            return;
        }
    };
    assert!(!spec.policies.is_empty() && !spec.seeds.is_empty() && !spec.metrics.is_empty());
    for policy in &spec.policies {
        assert_eq!(Policy::try_from(policy.key()).as_ref(), Ok(policy));
        let [option, value] = policy.arguments();
        assert!(option.starts_with("--") && value.parse::<f64>().is_ok_and(|v| v > 0.0));
    }
    for metric in &spec.metrics {
        // As a table shows a number.
        let shown = format!("{:.*}", metric.digits, 0.5 * metric.scale);
        assert!(shown.parse::<f64>().is_ok_and(f64::is_finite), "{shown}");
        for (policy, published) in &metric.paper {
            assert!(spec.policies.iter().any(|p| p.key() == *policy));
            assert!(published.mean.is_finite());
            assert!(published.sd.is_none_or(|sd| sd >= 0.0 && sd.is_finite()));
        }
    }
    assert_eq!(Spec::parse(text).as_ref(), Ok(&spec));
}
