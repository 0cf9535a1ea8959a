//! What a direct probe costs beside a probe of lag norms, at the paper's settings.

use std::time::Instant;

use atbptt::core::DirectStatistics;
use atbptt::core::policy::MonitorConfig;
use atbptt::models::{LanguageModelConfig, direct_statistics};
use atbptt::train::{ProbeConfig, Scheme, device_from_env, direct_probe, probe};
use clap::Args;

use crate::Result;
use crate::cases::{TRAIN, TrainCase, peak_rss_mb};
use crate::train::{Model, tokens};

/// The target: a direct probe takes at most so many times as long.
const TARGET: f64 = 3.0;

#[derive(Args)]
pub struct Probe {
    /// Probes of each kind, in turn; the medians count. Five make an estimate.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    repeat: u32,
    /// Losses of a direct probe, in steps.
    #[arg(long, default_value_t = 20)]
    losses: usize,
    /// Only the setting with this hidden size.
    #[arg(long)]
    hidden: Option<usize>,
    /// Sizes that take seconds anywhere.
    #[arg(long)]
    rehearse: bool,
}

/// Penn Treebank with 200 units, beside the paper's WikiText-2 and Penn Treebank.
const CASES: [TrainCase; 3] = [
    TRAIN[0],
    TrainCase {
        hidden: 200,
        ..TRAIN[1]
    },
    TRAIN[1],
];

/// Probes of both kinds in turn, after one of each that warms up, and the inner products of all direct ones at the end.
pub fn run(args: &Probe) -> Result<()> {
    let device = device_from_env()?.device.autodiff();
    let scheme = Scheme::Strided {
        losses: args.losses,
    };
    let wanted = |case: &TrainCase| args.hidden.is_none_or(|hidden| hidden == case.hidden);
    for case in CASES.into_iter().filter(wanted) {
        let (case, window) = match args.rehearse {
            true => (case.shrunk(), 60),
            false => (case, 400),
        };
        let model: Model = LanguageModelConfig::new(case.vocabulary)
            .with_hidden(case.hidden)
            .init(&device)?;
        let config = ProbeConfig::new(window);
        let plan = config.direct_plan(scheme);
        let source = tokens(case, 2 * config.direct_steps(scheme))?;
        let (mut norms, mut direct, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 0..=u64::from(args.repeat) {
            let started = Instant::now();
            probe(&model, &source, config.clone(), seed, &device)?;
            norms.push(started.elapsed().as_secs_f64());
            let started = Instant::now();
            kept.push(direct_probe(
                &model, &source, &config, &plan, seed, &device,
            )?);
            device.sync()?;
            direct.push(started.elapsed().as_secs_f64());
        }
        // They grow with the square of the number: those of an estimate's fewest probes, and of its most.
        let products = |probes: usize| -> Result<(f64, DirectStatistics)> {
            let all: Vec<_> = kept[1..].iter().cycle().take(probes).cloned().collect();
            let started = Instant::now();
            let statistics = direct_statistics(&all)?;
            Ok((started.elapsed().as_secs_f64(), statistics))
        };
        let MonitorConfig {
            probes, max_probes, ..
        } = MonitorConfig::default();
        let ((few, statistics), (many, _)) = (products(probes)?, products(max_probes)?);
        let each = few / probes as f64;
        let (norms, direct) = (median(&mut norms[1..]), median(&mut direct[1..]));
        println!(
            "{}, W = {window}: norms {norms:.3} s; direct, {} losses and {} pieces, {direct:.3} s, and {each:.3} s for its \
             products: {:.2} times as long (target: at most {TARGET}); products of {probes} probes {few:.3} s, of {max_probes} {many:.3} s",
            case.name(),
            args.losses,
            statistics.pieces(),
            (direct + each) / norms,
        );
    }
    if let Some(peak) = peak_rss_mb() {
        println!("peak memory of the process: {peak:.0} MiB");
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
