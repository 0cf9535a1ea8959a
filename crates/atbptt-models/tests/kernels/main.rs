//! Kernels against the reference bodies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

#[path = "../common/mod.rs"]
mod common;

mod kernels;
mod stacked_kernels;
mod vanishing_gradients;
