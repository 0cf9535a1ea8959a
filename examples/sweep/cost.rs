//! What a run cost, in steps of its sequences: the measure that does not depend on the machine.

use atbptt::core::direct::DirectOutcome;
use atbptt::core::policy::{Decision, Estimator, MonitorConfig};
use atbptt::train::{EpochReport, Scheme};

use super::common::history::History;

/// Steps per sequence that were run forward until the end of each epoch: windows with their context, probes with their burn-in, and
/// validation. Where noise hid the gradient, the next estimates took more probes; a run does not write down when they became fewer
/// again, and they count as if they never did.
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
    let counts = probes(&watched, &history.decisions);
    let mut windows = 0.0;
    let mut all = Vec::with_capacity(reports.len());
    for (nth, report) in reports.iter().enumerate() {
        windows += report.windows as f64 * window(training.scheme, report.mean_k);
        let last = nth + 1 == reports.len();
        let before = |update: u64| last || update < report.step;
        let estimates = history.decisions.iter().zip(&counts);
        let estimates = estimates.filter(|(decision, _)| before(decision.position.update));
        let probes = estimates
            .map(|(_, &count)| (count * probe) as f64)
            .sum::<f64>();
        all.push(windows + probes + (nth + 1) as f64 * validation_steps as f64);
    }
    Ok(all)
}

/// Probes of each estimate, or more.
fn probes(config: &MonitorConfig, decisions: &[Decision]) -> Vec<usize> {
    let most = config.max_probes.max(config.probes);
    let mut next = config.probes;
    let of = |decision: &Decision| {
        let taken = next;
        if let Some(DirectOutcome::NoiseLimited { .. }) = decision.outcome {
            next = (2 * next).min(most);
        }
        taken
    };
    decisions.iter().map(of).collect()
}

/// Mean steps of a window at a mean K; the length of a window is linear in K.
fn window(scheme: Scheme, mean_k: f64) -> f64 {
    let (one, two) = (scheme.window(1) as f64, scheme.window(2) as f64);
    one + (mean_k - 1.0) * (two - one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atbptt::core::policy::FixedKConfig;
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
            let probes = Vec::new();
            let scheme = Scheme::Strided { losses: 3 };
            policy.update(
                Position { epoch, update },
                Measurement::Norms { probes, scheme },
            );
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
        // Twice as many probes after noise hid the gradient.
        let mut noisy = history;
        noisy.decisions[0].outcome = Some(DirectOutcome::NoiseLimited {
            gradient_square: 1.0,
            standard_error: Some(1.0),
        });
        let steps = steps_until(&[report(1), report(2)], &noisy, 40).unwrap();
        assert_eq!(steps, [70.0 + 124.0 + 40.0, 140.0 + 124.0 + 248.0 + 80.0]);
        assert_eq!(window(Scheme::Overlapping, 5.0), 9.0);
        assert_eq!(window(Scheme::Chunked, 5.5), 5.5);
    }
}
