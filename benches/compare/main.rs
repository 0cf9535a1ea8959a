//! Our speed and memory beside PyTorch's, case by case, and the cost of a loss against K.
//!
//! ```sh
//! TORCH_PYTHON=/path/to/python benches/compare.sh           # every case, ours and PyTorch's in turn
//! cargo bench --bench compare -- ours --only layer          # our side alone, one JSON line per case
//! cargo bench --bench compare -- growth --out growth        # seconds per loss against K and batch: table, CSV, PNG
//! cargo bench --bench compare -- peak                       # what the machine can do, and each case's share of it
//! cargo bench --bench compare -- latency                    # one step of a layer at batch 1, without gradients
//! cargo bench --bench compare -- overhead                   # what probes add to an epoch
//! cargo bench --bench compare -- probe                      # a direct probe beside one of lag norms
//! cargo bench --bench compare -- optimizer                  # a step of Adam whose averages have faded
//! RAYON_NUM_THREADS=1 cargo bench --bench compare -- devices # when several devices pay (docs/DEVICES.md)
//! cargo bench --features vulkan --bench compare -- share    # GPU: launches and time, by kind of kernel
//! cargo bench --features vulkan --bench compare -- time-loop # GPU: the loop over time on the host, on the device
//! cargo bench --features vulkan --bench compare -- steps    # GPU: a recurrent step by each of the ways, and cut differently
//! ```
//!
//! A case is named, sized and timed as in the peer's program (`benches/torch_peer.py`): one warm-up run, then the median of
//! the repeats (layers warm up for half a second, and are repeated for as long at least); `layer/*` is a forward and
//! backward pass with the gradients of weights, input and initial state, `train/*` one update of the real training loop. Every case runs in a process of its own, so that its peak memory is its own; both
//! sides use all cores, and rounds alternate. The peer flushes subnormal numbers to zero, as our kernels do. Our side runs
//! on the device of `BURN_DEVICE`; `gpu.sh` does a whole round on an NVIDIA GPU.

mod cases;
mod devices;
mod growth;
mod latency;
mod layer;
mod optimizer;
mod overhead;
mod peak;
mod probe;
#[cfg(feature = "cube")]
mod share;
#[cfg(feature = "cube")]
mod steps;
mod table;
#[cfg(feature = "cube")]
mod time_loop;
mod train;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Parser, Subcommand, ValueEnum};

use cases::{LayerCase, Measured, TrainCase};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Our speed and memory beside PyTorch's on the same machine.
#[derive(Parser)]
#[command(name = "compare")]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Set by `cargo bench`; of no meaning here.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Both sides in turn, and a table of ratios.
    Versus(Versus),
    /// Our side alone: one JSON line per case.
    Ours(Ours),
    /// Time per loss token and peak memory at several K and batch sizes.
    Growth(growth::Growth),
    /// Launches and device time of a training window by kind of kernel, and the time the device waits.
    #[cfg(feature = "cube")]
    Share(share::Share),
    /// Time of a layer with its loop over time on the host and on the device.
    #[cfg(feature = "cube")]
    TimeLoop(time_loop::Loops),
    /// Time of the recurrent part of a layer by each of the ways, and over several ways to cut the fused step.
    #[cfg(feature = "cube")]
    Steps(steps::Steps),
    /// What the machine can do, and each case's time as a share of it.
    Peak(peak::Peak),
    /// Time of one step of a layer at batch 1, without gradients.
    Latency(latency::Latency),
    /// The share of an epoch that probes take, at the paper's WikiText-2 settings.
    Overhead(overhead::Overhead),
    /// A direct probe beside one of lag norms, at the paper's settings.
    Probe(probe::Probe),
    /// A step of Adam whose averages have faded, with subnormal numbers as they are and as zeros
    Optimizer(optimizer::Faded),
    /// A window on several devices: simulated from measured ones, and measured.
    Devices(devices::Devices),
}

#[derive(Args)]
struct Versus {
    #[command(flatten)]
    ours: Ours,
    /// Python with PyTorch; its program is run as `PYTHON PEER …`.
    #[arg(long, env = "TORCH_PYTHON", default_value = "python3")]
    python: PathBuf,
    /// The peer's program.
    #[arg(long, default_value = "benches/torch_peer.py")]
    peer: PathBuf,
    /// Device of the peer.
    #[arg(long, default_value = "cpu")]
    peer_device: String,
    /// Rounds: in each, our process and then the peer's. The table shows medians over rounds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[derive(Args, Clone)]
struct Ours {
    /// Only these cases.
    #[arg(long, value_enum)]
    only: Option<Kind>,
    /// Only cases whose name contains this.
    #[arg(long)]
    case: Option<String>,
    /// Timed repeats per case; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Sizes that take seconds anywhere: rehearses the measurement, measures nothing.
    #[arg(long)]
    rehearse: bool,
    /// In this process, one case after the other: the peak memory is that of the process so far.
    #[arg(long)]
    here: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Layer,
    Train,
}

fn main() -> ExitCode {
    // `cargo test --benches` and `cargo bench -- --test` only ask whether this starts.
    if std::env::args().any(|arg| arg == "--test") {
        return ExitCode::SUCCESS;
    }
    // Cargo starts a benchmark in its package's folder; paths are meant from the project's.
    if std::path::Path::new("../Cargo.lock").is_file() && std::env::set_current_dir("..").is_err() {
        eprintln!("error: cannot change to the project's folder");
        return ExitCode::FAILURE;
    }
    let outcome = match Cli::parse().what {
        What::Versus(args) => versus(&args),
        What::Ours(args) => ours(&args),
        What::Growth(args) => growth::run(&args),
        #[cfg(feature = "cube")]
        What::Share(args) => share::run(&args),
        #[cfg(feature = "cube")]
        What::TimeLoop(args) => time_loop::run(&args),
        #[cfg(feature = "cube")]
        What::Steps(args) => steps::run(&args),
        What::Peak(args) => peak::run(&args),
        What::Latency(args) => latency::run(&args),
        What::Overhead(args) => overhead::run(&args),
        What::Probe(args) => probe::run(&args),
        What::Optimizer(args) => optimizer::run(&args),
        What::Devices(args) => devices::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A case of either kind.
#[derive(Clone, Copy)]
enum Case {
    Layer(LayerCase),
    Train(TrainCase),
}

impl Case {
    fn name(self) -> String {
        match self {
            Self::Layer(case) => case.name(),
            Self::Train(case) => case.name(),
        }
    }

    fn measure(self, repeat: usize) -> Result<Measured> {
        match self {
            Self::Layer(case) => layer::measure(case, repeat),
            Self::Train(case) => train::measure(case, repeat),
        }
    }
}

/// The cases asked for; those of one name in a rehearsal once.
fn wanted(args: &Ours) -> Vec<Case> {
    let layers =
        cases::LAYERS.map(|case| (Kind::Layer, Case::Layer(case), Case::Layer(case.shrunk())));
    let train =
        cases::TRAIN.map(|case| (Kind::Train, Case::Train(case), Case::Train(case.shrunk())));
    let mut wanted: Vec<Case> = Vec::new();
    for (kind, case, shrunk) in layers.into_iter().chain(train) {
        let case = if args.rehearse { shrunk } else { case };
        let part = args.case.as_deref().unwrap_or_default();
        let known = wanted.iter().any(|known| known.name() == case.name());
        if args.only.is_none_or(|only| only == kind) && case.name().contains(part) && !known {
            wanted.push(case);
        }
    }
    wanted
}

fn ours(args: &Ours) -> Result<()> {
    for case in wanted(args) {
        let measured = match args.here {
            true => vec![case.measure(args.repeat as usize)?],
            false => alone(case, args)?,
        };
        for measured in measured {
            println!("{}", measured.line()?);
        }
    }
    Ok(())
}

/// A case of ours in a process of its own.
fn alone(case: Case, args: &Ours) -> Result<Vec<Measured>> {
    let mut us = Command::new(std::env::current_exe()?);
    us.args(["ours", "--here", "--case", &case.name()]);
    us.args(["--repeat", &args.repeat.to_string()]);
    if args.rehearse {
        us.arg("--rehearse");
    }
    let mut measured = lines(&mut us)?;
    // The name may be the beginning of another.
    measured.retain(|measured| measured.case == case.name());
    Ok(measured)
}

fn versus(args: &Versus) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        for case in wanted(&args.ours) {
            eprintln!("round {round} of {}: {}", args.rounds, case.name());
            ours.extend(alone(case, &args.ours)?);
            let mut them = Command::new(&args.python);
            them.arg(&args.peer).args(["--case", &case.name()]);
            them.args(["--repeat", &args.ours.repeat.to_string()]);
            them.args(["--device", &args.peer_device]);
            if args.ours.rehearse {
                them.arg("--rehearse");
            }
            theirs.extend(lines(&mut them)?);
        }
    }
    table::print(&ours, &theirs);
    Ok(())
}

/// The JSON lines that a program prints.
fn lines(command: &mut Command) -> Result<Vec<Measured>> {
    let name = command.get_program().to_owned();
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| {
        format!("cannot start {name:?}: {error}; name a Python with PyTorch in TORCH_PYTHON")
    })?;
    if !output.status.success() {
        return Err(format!("{name:?} ended with {}", output.status).into());
    }
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .map_err(|error| format!("{name:?} printed {line:?}: {error}").into())
        })
        .collect()
}
