//! One step of a recurrent layer at batch 1 with a carried state, without gradients: what a program that reads its input as it
//! comes waits for. By tensors ([`Stack::forward`](atbptt::models::Stack::forward)) and by a [`Stepper`].

use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use atbptt::models::{LstmLayer, StackConfig, Stepper};
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
    /// Python with onnx and onnxruntime, for a third column.
    #[arg(long, env = "ONNX_PYTHON")]
    onnx_python: Option<PathBuf>,
    /// onnxruntime's program.
    #[arg(long, default_value = "benches/onnx_peer.py")]
    onnx_peer: PathBuf,
}

/// Steps of a round.
const STEPS: u32 = 200;

pub fn run(args: &Latency) -> Result<()> {
    let device = device_from_env()?;
    println!("one LSTM step at batch 1 on {device}, µs");
    println!("| hidden | stepper | tensors | PyTorch | onnxruntime |");
    println!("|---|---|---|---|---|");
    for &hidden in &args.hidden {
        let [mut stepped, mut tensors, mut torch, mut onnx] = [const { Vec::new() }; 4];
        let layers = StackConfig::<LstmLayer>::new(hidden, hidden).init(&device.device)?;
        for _ in 0..args.rounds {
            let input = Tensor::<3>::random(
                [1, 1, hidden],
                Distribution::Normal(0.0, 1.0),
                &device.device,
            );
            let mut state = None;
            tensors.push(per_step(|| {
                let (output, next) = layers.forward(input.clone(), state.take())?;
                black_box(output);
                state = Some(next);
                Ok(())
            })?);
            device.device.sync()?;
            let input = input.into_data().try_to_vec::<f32>()?;
            let mut stepper = Stepper::new(&layers, 1)?;
            stepped.push(per_step(|| {
                black_box(stepper.step(&input)?);
                Ok(())
            })?);
            let name = format!("step/lstm/b1/h{hidden}");
            for (python, peer, times) in [
                (&args.python, &args.peer, &mut torch),
                (&args.onnx_python, &args.onnx_peer, &mut onnx),
            ] {
                if let Some(python) = python {
                    let mut them = Command::new(python);
                    them.arg(peer).args(["--case", &name, "--repeat", "3"]);
                    times.extend(lines(&mut them)?.into_iter().map(|line| line.seconds));
                }
            }
        }
        let columns = [stepped, tensors, torch, onnx].map(|times| match median(times) {
            Some(seconds) => format!("{:.1}", 1e6 * seconds),
            None => "–".to_owned(),
        });
        println!("| {hidden} | {} |", columns.join(" | "));
    }
    Ok(())
}

/// Seconds per step, the first left out.
fn per_step(mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    step()?;
    let started = Instant::now();
    for _ in 0..STEPS {
        step()?;
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(STEPS))
}
