//! What the example programs are made of: their data, models and settings.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

mod experiments;
mod pipeline;
mod point_process;
mod snap;
