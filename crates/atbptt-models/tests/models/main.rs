//! Models: the language model, series, 16-bit training windows, golden values of the direct estimate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

#[path = "../common/mod.rs"]
mod common;

mod golden_direct_bias;
mod language_model;
mod precision;
mod series_model;
