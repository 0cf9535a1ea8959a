//! What the experiment programs share: command-line options, the settings they stand for, the end of a run.

pub mod diagnostics;
pub mod history;
pub mod options;
pub mod rule;
pub mod snap;
pub mod start;
pub mod trained_bias;

use std::process::ExitCode;

pub use atbptt::train::run::say;

/// A result whose error is only ever shown.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Shows an error as one line.
pub fn exit_code(ended: Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
