//! What was measured at one K.

use serde::{Deserialize, Serialize};

use super::spread::Spread;

/// A mean of products between probes, and its variance where there are probes enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Moment {
    pub value: f64,
    pub spread: Option<Spread>,
}

impl Moment {
    pub fn error(self) -> Option<f64> {
        self.spread.map(Spread::error)
    }

    pub fn scaled(self, factor: f64) -> Self {
        Self {
            value: factor * self.value,
            spread: self.spread.map(|spread| spread.scaled(factor)),
        }
    }

    pub fn is_valid(self) -> bool {
        self.value.is_finite() && self.spread.is_none_or(Spread::is_finite)
    }
}

/// The squared bias ‖E d‖² of windows at one K.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub k: usize,
    pub bias: Moment,
    /// Covariance of Â with Ĉ.
    pub with_gradient: Option<Spread>,
}

impl Point {
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            k: self.k,
            bias: self.bias.scaled(factor),
            with_gradient: self.with_gradient.map(|spread| spread.scaled(factor)),
        }
    }
}
