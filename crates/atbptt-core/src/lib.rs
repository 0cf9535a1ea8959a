//! Placeholder.
/// Placeholder.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("x")]
pub struct EstimateError;
