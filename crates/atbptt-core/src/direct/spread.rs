//! How far a mean of products between probes lies from what it estimates.
//!
//! Symbols: h_ij = product of a quantity of probe i with that of probe j; U = their mean over pairs of different probes.

use serde::{Deserialize, Serialize};

/// Variance of a mean over pairs of probes, or covariance of two, in the two parts of Hoeffding's (1948) decomposition:
///
/// ```text
/// Var U = 4 ζ/n + 2 η/(n (n − 1))     ζ = Cov(h_ij, h_ik),   η = Var h_ij − 2 ζ
/// ```
///
/// ζ is what one probe brings into all of its pairs, η what is left of a pair. Both are estimated without bias, from the mean
/// product of a pair with itself, with pairs that share one probe, and with pairs that share none; together they are U² minus
/// the last of these. (The variance among leave-one-out values is too large, 4 η/(n (n − 2)) in place of 2 η/(n (n − 1)):
/// of mere noise 2⅔ times the truth for five probes, and never less than twice.) An estimate may come out below zero. It is averaged
/// over updates as it is, and counts as zero only where a standard error is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// The part of ζ.
    pub shared: f64,
    /// The part of η. With three probes, which have no two pairs apart, the leave-one-out variance, above the whole in the mean.
    pub pairs: f64,
}

impl Spread {
    /// Of a number that is known.
    pub const ZERO: Self = Self {
        shared: 0.0,
        pairs: 0.0,
    };

    /// Adds `weight` times another.
    pub fn plus(self, weight: f64, other: Self) -> Self {
        Self {
            shared: self.shared + weight * other.shared,
            pairs: self.pairs + weight * other.pairs,
        }
    }

    /// Of the number times `factor`, which counts squared, or for a covariance of both numbers times √`factor`².
    pub fn scaled(self, factor: f64) -> Self {
        Self::ZERO.plus(factor * factor, self)
    }

    /// The standard error that this comes to; no part counts for less than nothing.
    pub fn error(self) -> f64 {
        (self.shared.max(0.0) + self.pairs.max(0.0)).sqrt()
    }

    pub fn is_finite(self) -> bool {
        self.shared.is_finite() && self.pairs.is_finite()
    }
}
