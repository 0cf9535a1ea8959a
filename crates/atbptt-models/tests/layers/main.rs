//! Layers: reference values of PyTorch, gradients, and the laws that every cell keeps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

#[path = "../common/mod.rs"]
mod common;

mod golden_min_gru;
mod golden_recurrent_layers;
mod gradients;
mod laws;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod stepper;
mod trainable;
