//! The training loop: windows, policies, values that are not finite, exact restart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

#[path = "../common/mod.rs"]
mod common;

mod baselines;
mod devices;
mod how_often;
mod more_data;
mod non_finite;
mod own_metrics;
mod own_models;
mod own_optimisers;
mod own_policies;
mod refusals;
#[cfg(feature = "remote")]
mod remote;
mod restart;
mod sequences;
mod setup;
mod short_streams;
mod strategy;
mod updates;
mod waves;
