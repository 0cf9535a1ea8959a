//! What probes add to an epoch.

use atbptt::core::AdaptiveKConfig;
use atbptt::core::policy::{Position, Schedule};
use clap::Args;

use crate::Result;
use crate::cases::TRAIN;
use crate::train;

/// Epochs of the run that the probes are a share of.
const EPOCHS: usize = 10;
/// The target: at most this share.
const TARGET: f64 = 0.03;

#[derive(Args)]
pub struct Overhead {
    /// Windows per epoch of the measurement; probes read 440 steps, so five at least.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(5..))]
    windows: u32,
    /// Only the setting with this hidden size.
    #[arg(long)]
    hidden: Option<usize>,
}

/// Trains two short epochs with an adaptive policy that may choose nothing but K = 100, so that both sides bear the
/// same windows, and sets its probes, as often as ten epochs of the default schedule have them, against windows at the measured
/// speed: with the fewest probes that an estimate takes by default, and with the most.
pub fn run(args: &Overhead) -> Result<()> {
    // Training tokens: 2,088,628 and 929,589, in parallel sequences.
    for (case, tokens) in [(TRAIN[0], 2_088_628), (TRAIN[1], 929_589)] {
        if args.hidden.is_some_and(|hidden| hidden != case.hidden) {
            continue;
        }
        let mut config = AdaptiveKConfig::new(0.5)
            .with_k0(case.k)
            .with_k_min(case.k)
            .with_k_max(case.k);
        // As few as an estimate takes, and as many.
        for probes in [config.monitor.probes, config.monitor.max_probes] {
            (config.monitor.probes, config.monitor.max_probes) = (probes, probes);
            let run = train::run(case, config.clone().init()?, args.windows as usize, 2)?;
            let last = run.reports.last().ok_or("no epoch was trained")?;
            let per_token = last.train_seconds / last.tokens as f64;
            let updates = tokens / (case.batch * case.k) as u64;
            let times = probings(config.monitor.schedule, updates);
            let epochs = EPOCHS as f64 * per_token * tokens as f64;
            println!(
                "{}: {probes} probes of W = 400: {:.2} s; {:.0} loss tokens/s; {times} times in {EPOCHS} epochs: {:.2} % (target: at \
                 most {:.0} %)",
                case.name(),
                last.probe_seconds,
                1.0 / per_token,
                100.0 * times as f64 * last.probe_seconds / epochs,
                100.0 * TARGET
            );
        }
    }
    Ok(())
}

/// How often probes are due in ten epochs of so many updates.
fn probings(schedule: Schedule, updates: u64) -> usize {
    let (mut last, mut times) = (None, 0);
    for update in 0..EPOCHS as u64 * updates {
        let at = Position {
            epoch: (update / updates.max(1)) as usize,
            update,
        };
        if schedule.is_due(last, at) {
            last = Some(at);
            times += 1;
        }
    }
    times
}
