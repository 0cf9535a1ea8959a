//! What the experiment programs share: options, run folder, training, progress.

pub mod diagnostics;
pub mod figures;
pub mod folder;
pub mod options;
pub mod progress;
pub mod train;

use std::process::ExitCode;

use burn::tensor::Device;

/// A result whose error is only ever shown.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Complete,
    /// By a signal, with this exit status; a checkpoint is there to go on from.
    Interrupted(u8),
}

/// What a run shows while it trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Nothing,
    /// A bar and a line per epoch.
    Lines,
    /// Burn's dashboard; the lines follow when it is gone.
    Dashboard,
}

impl Show {
    /// Lines, or nothing.
    pub fn lines(wanted: bool) -> Self {
        match wanted {
            true => Self::Lines,
            false => Self::Nothing,
        }
    }
}

/// Shows an error as one line.
pub fn exit_code(ended: Result<Ended>) -> ExitCode {
    match ended {
        Ok(Ended::Complete) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted(status)) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The device with gradient tracking.
pub fn autodiff(device: Device) -> Device {
    match device.is_autodiff() {
        true => device,
        false => device.autodiff(),
    }
}
