//! `devices`: when several devices pay. A window on N devices, simulated from windows measured on one, and measured with N workers
//! on this machine, as far as it has cores.
//!
//! A device here is one core: run it with `RAYON_NUM_THREADS=1`, so that a worker computes on its own thread alone. Links between
//! machines are simulated: in the order of the strategy's doing, the coordinator sends the weights to one worker after the other,
//! all compute, and when the last has finished, the coordinator takes the gradients one after the other, scales and adds them.

use std::time::Instant;

use atbptt::core::FixedKConfig;
use atbptt::train::{NamedDevice, Scheme, device_from_env, devices_by_names};
use burn::tensor::{Device, Tensor};
use clap::Args;

use crate::Result;
use crate::cases::TrainCase;
use crate::train::run_on;

#[derive(Args)]
pub struct Devices {
    /// Words.
    #[arg(long, default_value_t = 33_278)]
    vocabulary: usize,
    /// Hidden units, and features of the tied embedding: 1,150 make 49 million parameters.
    #[arg(long, default_value_t = 1150)]
    hidden: usize,
    /// Sequences of all devices.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// K, in steps: windows of 2K − 1 steps with K losses.
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Windows per measurement; the median counts.
    #[arg(long, default_value_t = 3)]
    windows: usize,
    /// Largest number of devices.
    #[arg(long, default_value_t = 64)]
    most: usize,
    /// Largest number of workers that is measured on this machine.
    #[arg(long, default_value_t = 2)]
    real: usize,
    /// What the links between coordinator and workers carry, in GB/s.
    #[arg(long, value_delimiter = ',', default_values_t = [0.125, 1.25, 12.5])]
    links: Vec<f64>,
    /// How many times as fast as one core here a device is.
    #[arg(long, default_value_t = 1.0)]
    faster: f64,
    /// Devices that the same window is measured on, too, by the names of `--devices`: `ws://127.0.0.1:3000` tells what a server costs.
    #[arg(long, value_name = "NAMES")]
    beside: Option<String>,
}

pub fn run(options: &Devices) -> Result<()> {
    let device = device_from_env()?;
    let case = |batch: usize| TrainCase {
        name: "devices",
        scheme: Scheme::Overlapping,
        batch,
        hidden: options.hidden,
        vocabulary: options.vocabulary,
        k: options.k,
    };
    let parameters = options.vocabulary * (options.hidden + 1)
        + 8 * options.hidden * options.hidden
        + 4 * options.hidden;
    let gather = gather_seconds(parameters, &device.device)?;
    println!(
        "{parameters} parameters, {:.0} MB each way; adding one gradient: {:.1} ms; threads: {}",
        parameters as f64 * 4e-6,
        1e3 * gather,
        std::env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| "all".into()),
    );
    print!("{:>7} {:>9} {:>12}", "devices", "sequences", "window");
    for link in &options.links {
        print!(" {:>14}", format!("{link} GB/s"));
    }
    println!(" {:>10} {:>10}", "no link", "measured");
    let mut alone = None;
    let counts = (0..).map(|i| 1usize << i);
    for count in counts.take_while(|count| *count <= options.most.min(options.batch)) {
        let rows = options.batch / count;
        let window = median(case(rows), &[], options.windows)? / options.faster;
        let first = *alone.get_or_insert(window);
        print!("{count:>7} {rows:>9} {:>12}", time(window));
        let simulated = |link: f64| {
            let transfer = parameters as f64 * 4.0 / (link * 1e9);
            simulate(count, transfer, window, gather / options.faster)
        };
        for link in &options.links {
            let seconds = simulated(*link);
            let gain = first / seconds;
            print!(" {:>14}", format!("{} {gain:.1}x", time(seconds)));
        }
        let seconds = simulated(f64::INFINITY);
        print!(" {:>10}", time(seconds));
        if count > 1 && count <= options.real {
            let devices = vec![device.clone(); count];
            let real = median(case(options.batch), &devices, options.windows)?;
            print!(" {:>10}", time(real));
        }
        println!();
    }
    if let (Some(names), Some(here)) = (&options.beside, alone) {
        let there = median(
            case(options.batch),
            &devices_by_names(names)?,
            options.windows,
        )?;
        let times = there / (here * options.faster);
        println!("on {names}: {}, {times:.1} times as long", time(there));
    }
    Ok(())
}

/// `1.63 s`, `4.2 ms`
fn time(seconds: f64) -> String {
    match seconds < 0.1 {
        true => format!("{:.2} ms", 1e3 * seconds),
        false => format!("{seconds:.2} s"),
    }
}

/// Seconds of a window on `count` devices: `transfer` for weights or gradients over the coordinator's link, `window` for the
/// window of one device with all that follows, `gather` to scale and add one gradient. The first device is the coordinator's.
fn simulate(count: usize, transfer: f64, window: f64, gather: f64) -> f64 {
    let mut link_free = 0.0;
    let mut finished: f64 = 0.0;
    for worker in 0..count {
        if worker > 0 {
            link_free += transfer;
        }
        finished = finished.max(link_free + window);
    }
    let gradients = (0..count).map(|worker| if worker > 0 { transfer } else { 0.0 } + gather);
    match count {
        1 => finished,
        _ => finished + gradients.sum::<f64>(),
    }
}

/// Median time of an update, in seconds.
fn median(case: TrainCase, devices: &[NamedDevice], windows: usize) -> Result<f64> {
    // The first window has no context, and the second warms up.
    let run = run_on(
        case,
        FixedKConfig::new(case.k).init()?,
        windows + 2,
        1,
        devices,
        |_| (),
    )?;
    let mut steps: Vec<f64> = run
        .steps
        .iter()
        .skip(1)
        .map(|step| step.as_secs_f64())
        .collect();
    steps.sort_by(f64::total_cmp);
    Ok(steps.get(steps.len() / 2).copied().unwrap_or(f64::NAN))
}

/// Time to scale a gradient and add it to another.
fn gather_seconds(parameters: usize, device: &Device) -> Result<f64> {
    let sum = Tensor::<1>::zeros([parameters], device);
    let gradient = Tensor::<1>::ones([parameters], device);
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let started = Instant::now();
        let total = sum.clone() + gradient.clone() * 0.5;
        total.narrow(0, 0, 1).try_into_data()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}
