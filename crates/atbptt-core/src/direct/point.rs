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
    /// Variance of Â − δ̂²Ĉ over and above that of its parts: what few probes do not know of their own scatter, and how far
    /// averages lag behind.
    #[serde(default)]
    pub extra: f64,
    /// Variance of Â/Ĉ of one update as a share of its square, averaged over updates; unknown where noise has the gradient.
    #[serde(default)]
    pub relative: Option<f64>,
}

impl Point {
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            k: self.k,
            bias: self.bias.scaled(factor),
            with_gradient: self.with_gradient.map(|spread| spread.scaled(factor)),
            extra: factor * factor * self.extra,
            relative: self.relative,
        }
    }
}
