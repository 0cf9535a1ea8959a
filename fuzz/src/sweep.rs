//! TOML files of a sweep: what is accepted can be run, shown and named.

#[allow(dead_code)] // The program uses all of it.
#[path = "../../examples/sweep/policy.rs"]
mod policy;
#[allow(dead_code)]
#[path = "../../examples/sweep/spec.rs"]
mod spec;

use self::policy::Policy;
use self::spec::Spec;

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
        match (policy.arguments(), policy.leader()) {
            (Some([option, value]), None) => {
                assert!(option.starts_with("--") && value.parse::<f64>().is_ok_and(|v| v > 0.0));
            }
            (None, Some(leader)) => {
                assert!(leader.arguments().is_some() && spec.policies.contains(&leader));
                assert!(spec.seeds.len() > 1);
            }
            other => panic!("{policy:?} goes by {other:?}"),
        }
    }
    if let Some(tuning) = &spec.tuning {
        // It names folders.
        let name = tuning.option.trim_start_matches('-');
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
        assert!(!spec.seeds.contains(&tuning.seed));
        assert!(!tuning.values.is_empty() && tuning.values.is_sorted());
    }
    if let Some(comparison) = &spec.comparison {
        assert!(spec.policies.contains(&comparison.baseline) && comparison.margin >= 0.0);
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
