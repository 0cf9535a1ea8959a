//! What the experiment programs share: command-line options, the settings they stand for, the end of a run.

pub mod diagnostics;
pub mod history;
pub mod options;
pub mod rule;
pub mod snap;
pub mod start;
pub mod trained_bias;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// A result whose error is only ever shown.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A line on standard output. Who reads it may have closed the pipe (`… | head`): the run goes on without.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Shows an error as one line.
pub fn exit_code(ended: Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
