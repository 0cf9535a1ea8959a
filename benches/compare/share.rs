//! Where a training window's time goes on a GPU: products, our kernels, softmax, the rest, and waiting.
//!
//! Two runs: one undisturbed for the time of a window, one with every launch timed on the device (which slows the host, not the
//! kernels). What the kernels do not account for is the device waiting for launches and the host for the device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atbptt::core::FixedKConfig;
use atbptt::train::device_from_env;
use clap::Args;
use cubecl::logging::{
    LaunchObservation, LaunchObserver, ProfileDuration, TimingMethod, TimingRequest,
};

use crate::Result;
use crate::cases::TRAIN;
use crate::train;

#[derive(Args)]
pub struct Share {
    /// Windows measured, after two that warm up.
    #[arg(long, default_value_t = 5)]
    windows: usize,
    /// Sizes that take seconds anywhere.
    #[arg(long)]
    rehearse: bool,
    /// Lists every kernel by name, too.
    #[arg(long)]
    kernels: bool,
}

/// A launch and its time, not read yet; some backends hand the time over at once.
enum Timed {
    Later(ProfileDuration),
    Now(Duration),
}

#[derive(Default)]
struct Launches(Mutex<Vec<(&'static str, Option<Timed>)>>);

impl Launches {
    fn push(&self, kernel: &'static str, timed: Option<Timed>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((kernel, timed));
    }

    fn take(&self) -> Vec<(&'static str, Option<Timed>)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        self.push(kernel, None);
    }

    fn timing(&self) -> TimingRequest {
        TimingRequest::Deferred
    }

    fn profiled(&self, kernel: &'static str, profile: ProfileDuration) {
        self.push(kernel, Some(Timed::Later(profile)));
    }

    fn timed(&self, kernel: &'static str, duration: Duration, _method: TimingMethod) {
        self.push(kernel, Some(Timed::Now(duration)));
    }
}

/// Launches and seconds of one kind.
#[derive(Default)]
struct Sum {
    launches: usize,
    seconds: f64,
}

pub fn run(args: &Share) -> Result<()> {
    let case = match args.rehearse {
        true => TRAIN[0].shrunk(),
        false => TRAIN[0],
    };
    let windows = args.windows + 2;
    let plain = train::run(case, FixedKConfig::new(case.k).init()?, windows, 1)?;
    let mut times: Vec<f64> = plain
        .steps
        .iter()
        .skip(1)
        .map(Duration::as_secs_f64)
        .collect();
    times.sort_by(f64::total_cmp);
    let window = *times.get(times.len() / 2).ok_or("nothing was timed")?;

    let launches = Arc::new(Launches::default());
    let measured = Arc::new(Mutex::new(Vec::new()));
    let watching = LaunchObservation::new(launches.clone());
    let (seen, kept) = (launches.clone(), measured.clone());
    train::run_watched(
        case,
        FixedKConfig::new(case.k).init()?,
        windows,
        1,
        move |done| {
            let so_far = seen.take();
            if done > 2 {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(so_far);
            }
        },
    )?;
    drop(watching);

    let mut kinds: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut kernels: BTreeMap<&str, Sum> = BTreeMap::new();
    let all = std::mem::take(&mut *measured.lock().unwrap_or_else(PoisonError::into_inner));
    for (kernel, timed) in all {
        let seconds = match timed {
            None => None,
            Some(Timed::Now(duration)) => Some(duration.as_secs_f64()),
            Some(Timed::Later(profile)) => cubecl::future::block_on(profile.resolve())
                .map(|ticks| ticks.duration().as_secs_f64()),
        };
        for sum in [
            kinds.entry(kind(kernel)).or_default(),
            kernels.entry(short(kernel)).or_default(),
        ] {
            match seconds {
                None => sum.launches += 1,
                Some(seconds) => sum.seconds += seconds,
            }
        }
    }
    let per_window = 1.0 / args.windows as f64;
    println!(
        "{} on {}: {:.2} ms per window",
        case.name(),
        device_from_env()?,
        1e3 * window
    );
    let row = |name: &str, sum: &Sum| {
        println!(
            "| {name} | {:.0} | {:.3} | {:.1} % |",
            sum.launches as f64 * per_window,
            1e3 * sum.seconds * per_window,
            100.0 * sum.seconds * per_window / window
        );
    };
    println!("| kernels | launches per window | ms on the device | share of the window |");
    println!("|---|---|---|---|");
    kinds.iter().for_each(|(name, sum)| row(name, sum));
    let busy: f64 = kinds.values().map(|sum| sum.seconds).sum::<f64>() * per_window;
    println!(
        "| waiting for launches and the host | | {:.3} | {:.1} % |",
        1e3 * (window - busy),
        100.0 * (1.0 - busy / window)
    );
    if args.kernels {
        println!();
        kernels.iter().for_each(|(name, sum)| row(name, sum));
    }
    Ok(())
}

/// What a kernel is for, by its name.
fn kind(kernel: &str) -> &'static str {
    let name = kernel.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let parts = ["forward", "backward", "fused", "window", "multiply"];
    let of_a_cell = parts
        .iter()
        .any(|part| name.contains(&format!("ops::cube::{part}")));
    if of_a_cell {
        "cell"
    } else if has(&["softmax_row"]) {
        "softmax"
    } else if has(&["matmul", "gemm", "gemv", "vecmat", "matvec"]) {
        "products"
    } else {
        "other"
    }
}

/// The name without its path and parameters.
fn short(kernel: &str) -> &str {
    let name = kernel.split('<').next().unwrap_or(kernel);
    name.rsplit("::").next().unwrap_or(name)
}
