//! Where the loop over time is faster, on the host or on the device: what [`TimeLoop::Auto`] should go by.

use atbptt::models::ops::internals::{TimeLoop, set_time_loop};
use atbptt::train::device_from_env;
use clap::Args;

use crate::Result;
use crate::cases::{Cell, LayerCase};
use crate::layer;

#[derive(Args)]
pub struct Loops {
    /// Hidden units.
    #[arg(long, value_delimiter = ',', default_values_t = [32, 64, 128, 180, 256, 512])]
    hidden: Vec<usize>,
    /// Batch sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64])]
    batch: Vec<usize>,
    /// Steps of a window.
    #[arg(long, default_value_t = 100)]
    steps: usize,
    /// Timed repeats per point; the median counts.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
}

pub fn run(args: &Loops) -> Result<()> {
    let device = device_from_env()?;
    if let backend @ ("flex" | "ndarray") = device.backend {
        return Err(format!(
            "time-loop compares kernels for GPUs, and BURN_DEVICE chose {backend}; name a GPU backend there"
        )
        .into());
    }
    println!(
        "forward and backward of {} steps on {device}, ms",
        args.steps
    );
    println!("| layer | on the host | on the device | ratio | automatic |");
    println!("|---|---|---|---|---|");
    for &hidden in &args.hidden {
        for &batch in &args.batch {
            for cell in [Cell::Lstm, Cell::Gru] {
                let case = LayerCase {
                    cell,
                    batch,
                    hidden,
                    steps: args.steps,
                };
                let mut times = [0.0; 3];
                let loops = [TimeLoop::OnHost, TimeLoop::OnDevice, TimeLoop::Auto];
                for (time, time_loop) in times.iter_mut().zip(loops) {
                    set_time_loop(time_loop);
                    *time = 1e3 * layer::measure(case, args.repeat)?.seconds;
                }
                let [host, device, auto] = times;
                println!(
                    "| {} | {host:.2} | {device:.2} | {:.2}x | {auto:.2} |",
                    case.name(),
                    host / device
                );
            }
        }
    }
    Ok(())
}
