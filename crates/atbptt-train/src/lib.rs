//! Training with adaptively truncated backpropagation through time, on Burn.

pub mod data;
#[cfg(feature = "plot")]
pub mod plot;
