//! The example programs as a user starts them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

#[path = "../common/mod.rs"]
mod common;

mod breathing_cli;
mod closed_pipe;
mod compare_runs_cli;
mod devices_cli;
mod estimate_cli;
mod experiments_cli;
mod first_run;
mod rainfall_cli;
#[cfg(feature = "remote")]
mod remote_cli;
mod runs_cli;
mod series_cli;
mod sweeps_cli;
mod sysid_cli;
mod wiki2_cli;
