//! Estimates of the bias: laws, reference values, and the interval of K.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

mod bias_laws;
mod direct_errors;
mod golden_bias_estimator;
mod golden_direct_bias;
