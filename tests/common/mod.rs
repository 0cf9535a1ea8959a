//! What tests of the example programs share: the programs as children, and the helpers of the training loop's tests.

#![allow(dead_code, unused_imports)] // not every test uses everything

pub mod programs;
#[path = "../../crates/atbptt-train/tests/common/mod.rs"]
mod training_loop;

pub use training_loop::*;
