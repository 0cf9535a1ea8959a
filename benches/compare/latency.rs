//! One step of a recurrent layer at batch 1 with a carried state, without gradients: what a program that reads its input as it
//! comes waits for.

use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use atbptt::models::LstmConfig;
use atbptt::train::device_from_env;
use burn::tensor::{Distribution, Tensor};
use clap::Args;

use crate::cases::median;
use crate::{Result, lines};

#[derive(Args)]
pub struct Latency {
    /// Hidden units, and inputs.
    #[arg(long, value_delimiter = ',', default_values_t = [32, 64, 128, 256, 512, 1024])]
    hidden: Vec<usize>,
    /// Rounds, both sides in turn; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Python with PyTorch, for the other column.
    #[arg(long, env = "TORCH_PYTHON")]
    python: Option<PathBuf>,
    /// The peer's program.
    #[arg(long, default_value = "benches/torch_peer.py")]
    peer: PathBuf,
}

/// Steps of a round.
const STEPS: u32 = 200;

pub fn run(args: &Latency) -> Result<()> {
    let device = device_from_env()?;
    println!("one LSTM step at batch 1 on {device}, µs");
    println!("| hidden | ours | PyTorch | ratio |");
    println!("|---|---|---|---|");
    for &hidden in &args.hidden {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let layers = LstmConfig::new(hidden, hidden).init(&device.device)?;
        for _ in 0..args.rounds {
            let input = Tensor::<3>::random(
                [1, 1, hidden],
                Distribution::Normal(0.0, 1.0),
                &device.device,
            );
            let mut state = None;
            // The first step warms up.
            let mut started = Instant::now();
            for step in 0..=STEPS {
                if step == 1 {
                    started = Instant::now();
                }
                let (output, next) = layers.forward(input.clone(), state)?;
                black_box(output);
                state = Some(next);
            }
            device.device.sync()?;
            ours.push(started.elapsed().as_secs_f64() / f64::from(STEPS));
            if let Some(python) = &args.python {
                let mut them = Command::new(python);
                let name = format!("step/lstm/b1/h{hidden}");
                them.arg(&args.peer)
                    .args(["--case", &name, "--repeat", "3"]);
                theirs.extend(lines(&mut them)?.into_iter().map(|line| line.seconds));
            }
        }
        let ours = median(ours).ok_or("no round")?;
        let theirs = match median(theirs) {
            Some(theirs) => format!("{:.1} | {:.2}x", 1e6 * theirs, theirs / ours),
            None => "– | –".to_owned(),
        };
        println!("| {hidden} | {:.1} | {theirs} |", 1e6 * ours);
    }
    Ok(())
}
