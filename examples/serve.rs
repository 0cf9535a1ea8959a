//! How does another machine train on the devices of this one? This program serves them.
//!
//! ```text
//! cargo run --release --features remote --example serve                            # this machine's processor, for itself
//! cargo run --release --features remote,cuda --example serve -- --devices cuda:0,cuda:1 --listen 0.0.0.0:3000
//! cargo run --release --features remote --example wiki2 -- --devices ws://HOST:3000,ws://HOST:3000/1
//! ```
//!
//! It logs what servers do; `RUST_LOG=warn` has it say less. Whoever reaches the address may use the devices and their
//! memory, and nothing is encrypted: serve on networks that you trust, or through a tunnel.

use std::net::TcpListener;
use std::process::ExitCode;

use atbptt::train::run::say;
use atbptt::train::{NamedDevice, device_from_env, devices_by_names};
use burn::server::{RemoteServer, WebSocketTransport};
use clap::Parser;

/// Serves this machine's devices to training programs, until Ctrl-C
#[derive(Parser)]
struct Cli {
    /// Which devices, of one backend: names as BURN_DEVICE takes them, separated by commas [default: the one that BURN_DEVICE
    /// names]
    #[arg(long, value_name = "NAMES")]
    devices: Option<String>,

    /// Where to listen; 0.0.0.0 lets other machines in, port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    listen: String,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn std::error::Error>> {
    let devices = match &cli.devices {
        Some(names) => devices_by_names(names)?,
        None => vec![device_from_env()?],
    };
    let listener = TcpListener::bind(&cli.listen).map_err(|error| {
        format!(
            "cannot listen at {}: {error}; --listen takes an address of this machine and a free port",
            cli.listen
        )
    })?;
    let address = listener.local_addr()?;
    for (number, device) in devices.iter().enumerate() {
        say(format_args!("ws://{address}/{number}  {device}"));
    }
    let served = devices.into_iter().map(|NamedDevice { device, .. }| device);
    RemoteServer::new(served).serve(WebSocketTransport::from_listener(listener))?;
    Ok(())
}
