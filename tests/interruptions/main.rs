//! The example programs while they are killed, stopped, starved and moved.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod hang_up;
mod resume_elsewhere;
