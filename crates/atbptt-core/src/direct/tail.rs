//! What lies beyond the probe's window: the part of the bias that no cut of the window shows.
//!
//! Symbols: the window shows d_W(c) = d(c) − d(W − 1), so that a dropped part that falls as d(c) = a β^c appears as
//! a (β^c − β^(W−1)): fitted to the far cuts, a β^(W−1) is what the window misses.

use serde::{Deserialize, Serialize};

use super::point::Point;

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
    /// Fits the far cuts, `points` at K = c + 1, weighted by the inverse variance of the norms.
    ///
    /// Cuts from W/8 on count whose Â exceeds two standard errors, the last one before W − 1 among them: without it there is
    /// nothing to continue.
    pub(super) fn fit(window: usize, points: &[Point]) -> Self {
        let inside = |point: &&Point| point.k < window;
        let clear = |point: &Point| {
            let error = point.bias.error()?;
            let norm = point.bias.value.max(0.0).sqrt();
            // Var ‖d‖ = Var Â / (4 Â).
            (point.bias.value > 2.0 * error).then(|| {
                (
                    point.k as f64,
                    norm,
                    (error / (2.0 * norm)).max(1e-3 * norm),
                )
            })
        };
        let far: Vec<(f64, f64, f64)> = points
            .iter()
            .filter(inside)
            .filter(|point| 8 * point.k >= window)
            .filter_map(clear)
            .collect();
        let last = points.iter().rfind(inside).and_then(clear);
        if far.len() < 3 || last.is_none() {
            return Self::Negligible;
        }
        let w = window as f64;
        // Decay lengths from a fiftieth of the window to a hundred of them, where β^c is a straight line.
        let candidates = (0..=200).map(|i| w / 50.0 * 5000f64.powf(f64::from(i) / 200.0));
        let fits = candidates.map(|length| {
            let shape = |k: f64| (-k / length).exp() - (-w / length).exp();
            let (mut sy, mut ss) = (0.0, 0.0);
            for (k, norm, error) in &far {
                let weight = error.powi(-2);
                sy += weight * norm * shape(*k);
                ss += weight * shape(*k).powi(2);
            }
            let scale = sy / ss;
            let residual =
                |(k, norm, error): &(f64, f64, f64)| ((norm - scale * shape(*k)) / error).powi(2);
            let misfit: f64 = far.iter().map(residual).sum();
            (misfit, length, scale)
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
