//! What lies beyond the probe's window: the part of the bias that no cut of the window shows.
//!
//! Symbols: the window shows d_W(c) = d(c) − d(W − 1), so that a dropped part that falls as d(c) = a β^c appears as
//! a (β^c − β^(W−1)): fitted to the far cuts, a β^(W−1) is what the window misses.

use serde::{Deserialize, Serialize};

use super::point::Point;

/// Least error of a squared bias as a share of it: no fit is better.
const LEAST_ERROR: f64 = 2e-3;

/// The usual decay length of far cuts, as a share of the window, for a window is several times as long as the K looked for.
const USUAL_LENGTH: f64 = 0.2;

/// Standard deviation of its logarithm: about a factor of two.
const LENGTH_SPREAD: f64 = 0.7;

/// The dropped part at the window's end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) enum Tail {
    /// The far cuts show nothing above the noise.
    Negligible,
    /// Norm ‖d‖ at W kept steps, and the log of its decay per further step.
    Decaying { norm: f64, log_decay: f64 },
    /// The far cuts fall no faster than a constant contribution per step would let them: no end in sight.
    Unbounded,
}

impl Tail {
    /// Fits the far cuts, `points` at K = c + 1: those from W/8 on, three of them at least, of which one stands out of its error.
    ///
    /// The squares Â are fitted, by the inverse of their variances. They are unbiased also where noise makes them negative, so that no
    /// cut has to be left out, and the tail does not come and go with a cut that passes a threshold by chance. What the cuts leave open
    /// is settled by what windows are like: the logarithm of the decay length is taken to be normal around that of W/5.
    pub(super) fn fit(window: usize, points: &[Point]) -> Self {
        let w = window as f64;
        let far: Option<Vec<(f64, f64, f64)>> = points
            .iter()
            .filter(|point| point.k < window && 8 * point.k >= window)
            .map(|point| {
                let (square, error) = (point.bias.value, point.bias.error()?);
                let variance = error * error + (LEAST_ERROR * square).powi(2);
                Some((point.k as f64, square, variance))
            })
            .collect();
        // Without errors there are no weights.
        let far = far.unwrap_or_default();
        let stands_out =
            |(_, square, variance): &(f64, f64, f64)| *square > 0.0 && square * square >= *variance;
        if far.len() < 3 || !far.iter().any(stands_out) {
            return Self::Negligible;
        }
        // Decay lengths from a fiftieth of the window to a hundred of them, where β^c is a straight line.
        let candidates = (0..=200).map(|i| w / 50.0 * 5000f64.powf(f64::from(i) / 200.0));
        let fits = candidates.map(|length| {
            let shape = |k: f64| ((-k / length).exp() - (-w / length).exp()).powi(2);
            let (mut sy, mut ss) = (0.0, 0.0);
            for (k, square, variance) in &far {
                sy += square * shape(*k) / variance;
                ss += shape(*k).powi(2) / variance;
            }
            let scale = (sy / ss).max(0.0);
            let residual = |(k, square, variance): &(f64, f64, f64)| {
                (square - scale * shape(*k)).powi(2) / variance
            };
            let misfit: f64 = far.iter().map(residual).sum();
            let unusual = ((length / (USUAL_LENGTH * w)).ln() / LENGTH_SPREAD).powi(2);
            (misfit + unusual, length, scale.sqrt())
        });
        let best = fits
            .filter(|(misfit, ..)| misfit.is_finite())
            .min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            None => Self::Negligible,
            Some((_, length, _)) if length > 4.0 * w => Self::Unbounded,
            Some((_, length, scale)) => Self::Decaying {
                norm: scale * (-w / length).exp(),
                log_decay: -1.0 / length,
            },
        }
    }

    /// ‖d‖ beyond the window, at K kept steps; that of W for shorter K, which miss it as well. Zero where there is no end in
    /// sight: the outcome says so.
    pub(super) fn norm(self, window: usize, k: usize) -> f64 {
        match self {
            Self::Decaying { norm, log_decay } => {
                norm * (log_decay * k.saturating_sub(window) as f64).exp()
            }
            Self::Negligible | Self::Unbounded => 0.0,
        }
    }

    /// ‖d‖ at W kept steps; zero where it is not known.
    pub(super) fn size(self) -> f64 {
        match self {
            Self::Decaying { norm, .. } => norm,
            Self::Negligible | Self::Unbounded => 0.0,
        }
    }

    /// The same in other units of length.
    pub(super) fn scaled(self, factor: f64) -> Self {
        match self {
            Self::Decaying { norm, log_decay } => Self::Decaying {
                norm: factor * norm,
                log_decay,
            },
            other => other,
        }
    }

    /// The moving average of two tails.
    pub(super) fn smoothed(self, previous: Self, keep: f64) -> Self {
        match (self, previous) {
            (Self::Unbounded, _) => Self::Unbounded,
            (Self::Decaying { norm, log_decay }, _) => Self::Decaying {
                norm: keep * previous.size() + (1.0 - keep) * norm,
                log_decay,
            },
            (Self::Negligible, Self::Decaying { norm, log_decay }) => Self::Decaying {
                norm: keep * norm,
                log_decay,
            },
            (Self::Negligible, _) => Self::Negligible,
        }
    }

    /// Whether the numbers are such.
    pub(super) fn is_valid(self) -> bool {
        match self {
            Self::Decaying { norm, log_decay } => {
                norm.is_finite() && norm >= 0.0 && log_decay.is_finite() && log_decay < 0.0
            }
            Self::Negligible | Self::Unbounded => true,
        }
    }
}
