//! What probes add to an epoch.

use atbptt::core::AdaptiveKConfig;
use clap::Args;

use crate::Result;
use crate::cases::TRAIN;
use crate::train;

/// Losses that an epoch of WikiText-2 counts: 2,088,628 training tokens in 16 sequences of 130,539.
const EPOCH_TOKENS: f64 = 16.0 * 130_538.0;
/// The paper's target: at most this share.
const TARGET: f64 = 0.03;

#[derive(Args)]
pub struct Overhead {
    /// Windows per epoch of the measurement; probes read 440 steps, so five at least.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(5..))]
    windows: u32,
}

/// Trains two short epochs with an adaptive policy that may choose nothing but K = 100, so that both sides bear the
/// same windows, and sets the probes of the second against a full epoch of windows at the measured speed.
pub fn run(args: &Overhead) -> Result<()> {
    let case = TRAIN[0];
    let policy = AdaptiveKConfig::new(0.5)
        .with_k0(case.k)
        .with_k_min(case.k)
        .with_k_max(case.k)
        .with_probes(5)
        .init()?;
    let run = train::run(case, policy, args.windows as usize, 2)?;
    let last = run.reports.last().ok_or("no epoch was trained")?;
    let per_token = last.train_seconds / last.tokens as f64;
    let epoch = per_token * EPOCH_TOKENS;
    let share = last.probe_seconds / epoch;
    println!(
        "five probes of W = 400: {:.2} s; an epoch of WikiText-2 at K = {}: {:.0} s at {:.0} loss tokens/s",
        last.probe_seconds,
        case.k,
        epoch,
        1.0 / per_token
    );
    println!(
        "an adaptive epoch costs {:.2} % more than one at the same fixed K (target: at most {:.0} %)",
        100.0 * share,
        100.0 * TARGET
    );
    Ok(())
}
