//! What a run cost, in steps of its sequences: the measure that does not depend on the machine.

use atbptt::core::policy::Estimator;
use atbptt::train::{EpochReport, Scheme};

use super::common::history::History;

/// Steps per sequence that were run forward until the end of each epoch: windows with their context, probes with their burn-in, and
/// validation.
pub fn steps_until(
    reports: &[EpochReport],
    history: &History,
    validation_steps: usize,
) -> Result<Vec<f64>, String> {
    let training = &history.training;
    let policy = history.policy.init().map_err(|error| error.to_string())?;
    let watched = policy.monitor().config().copied().unwrap_or_default();
    let probe = match watched.estimator {
        Estimator::Direct => training.probe.direct_steps(training.scheme),
        _ => training.probe.steps(),
    };
    let mut windows = 0.0;
    let mut all = Vec::with_capacity(reports.len());
    for (nth, report) in reports.iter().enumerate() {
        windows += report.windows as f64 * window(training.scheme, report.mean_k);
        let last = nth + 1 == reports.len();
        let before = |update: u64| last || update < report.step;
        let estimates = history.decisions.iter();
        let probes = estimates
            .filter(|decision| before(decision.position.update))
            .map(|decision| (decision.probes * probe) as f64)
            .sum::<f64>();
        all.push(windows + probes + (nth + 1) as f64 * validation_steps as f64);
    }
    Ok(all)
}

/// Mean steps of a window at a mean K; the length of a window is linear in K.
fn window(scheme: Scheme, mean_k: f64) -> f64 {
    let (one, two) = (scheme.window(1) as f64, scheme.window(2) as f64);
    one + (mean_k - 1.0) * (two - one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atbptt::core::EstimateError;
    use atbptt::core::policy::{FixedKConfig, MonitorConfig};
    use atbptt::train::{ProbeConfig, TbpttConfig};

    /// Two epochs of ten windows with K = 5 and 3 losses, probes of 2 · (10 + 50 + 2) steps before the eighth window and between
    /// the epochs, 40 steps of validation.
    #[test]
    fn windows_probes_and_validation_are_counted() {
        let report = |epoch: usize| EpochReport {
            epoch,
            step: 10 * epoch as u64,
            mean_k: 5.0,
            windows: 10,
            ..EpochReport::default()
        };
        let mut policy = FixedKConfig::new(5)
            .with_monitor(Some(MonitorConfig::default().with_probes(2)))
            .init()
            .unwrap();
        use atbptt::core::policy::{Measurement, Position, TruncationPolicy};
        for (epoch, update) in [(0, 7), (1, 10)] {
            let measured = Measurement::Direct {
                statistics: Err(EstimateError::TooFewProbes { needed: 2, got: 1 }),
                scheme: Scheme::Strided { losses: 3 },
                updates_per_epoch: 10.0,
            };
            policy.update(Position { epoch, update }, measured);
        }
        let history = History {
            policy: FixedKConfig::new(5)
                .with_monitor(Some(MonitorConfig::default().with_probes(2)))
                .into(),
            training: TbpttConfig {
                probe: ProbeConfig::new(50).with_burn_in(10),
                scheme: Scheme::Strided { losses: 3 },
                ..TbpttConfig::default()
            },
            decisions: policy.monitor().history().to_vec(),
        };
        let steps = steps_until(&[report(1), report(2)], &history, 40).unwrap();
        assert_eq!(steps, [70.0 + 124.0 + 40.0, 140.0 + 248.0 + 80.0]);
        // Three probes more at the first estimate.
        let mut noisy = history;
        noisy.decisions[0].probes = 5;
        let steps = steps_until(&[report(1), report(2)], &noisy, 40).unwrap();
        assert_eq!(steps, [70.0 + 310.0 + 40.0, 140.0 + 434.0 + 80.0]);
        assert_eq!(window(Scheme::Overlapping, 5.0), 9.0);
        assert_eq!(window(Scheme::Chunked, 5.5), 5.5);
    }
}
