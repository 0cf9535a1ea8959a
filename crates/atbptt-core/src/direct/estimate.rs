//! The bias at every K, with its noise, its error and what it is worth.
//!
//! Symbols: as in the module above; `z` = standard normal quantile; S = Ĉ, N = tr V, the noise of one update.

use serde::{Deserialize, Serialize};

use super::caution::difference;
use super::outcome::DirectOutcome;
use super::point::Point;
use super::stored::{Stored, Z};
use super::tail::Tail;
use crate::{EstimateError, Scheme};

/// More updates than a run has.
pub(crate) const MANY_UPDATES: f64 = 1e6;

/// The relative bias of the truncated parameter gradient at every K, as probes measured it.
///
/// The estimate does not grow with K: it is the largest of those measured at K or more (the running maximum from the right),
/// joined between cuts along straight lines in the logarithm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct DirectEstimate {
    raw: Stored,
    curve: Vec<Joint>,
}

/// A point of the curve, in units of the gradient's norm before division by √Ĉ.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Joint {
    k: f64,
    norm: f64,
    /// The point that gives the maximum; none at the window's end, where nothing is dropped.
    measured: Option<Point>,
}

impl DirectEstimate {
    pub(super) fn from_stored(raw: Stored) -> Self {
        let beyond = raw.tail.size();
        let joint = |point: &Point| Joint {
            k: point.k as f64,
            norm: point.bias.value.max(0.0).sqrt() + beyond,
            measured: Some(*point),
        };
        let mut curve: Vec<Joint> = raw.points.iter().map(joint).collect();
        if raw.points.last().is_none_or(|point| point.k < raw.window) {
            // Nothing of the window is dropped.
            curve.push(Joint {
                k: raw.window as f64,
                norm: beyond,
                measured: None,
            });
        }
        let mut largest: Option<Joint> = None;
        for joint in curve.iter_mut().rev() {
            match largest {
                Some(right) if right.norm > joint.norm => {
                    *joint = Joint {
                        k: joint.k,
                        ..right
                    };
                }
                _ => largest = Some(*joint),
            }
        }
        Self { raw, curve }
    }

    /// How the windows follow each other that this is about.
    pub fn scheme(&self) -> Scheme {
        self.raw.scheme
    }

    /// W, in steps.
    pub fn window(&self) -> usize {
        self.raw.window
    }

    /// m, the losses of a probe per sequence.
    pub fn losses(&self) -> usize {
        self.raw.losses
    }

    /// Number of probes.
    pub fn probes(&self) -> usize {
        self.raw.probes
    }

    /// The lengths at which the bias was measured, ascending, in steps.
    pub fn lengths(&self) -> Vec<usize> {
        self.raw.points.iter().map(|point| point.k).collect()
    }

    /// Â at each of the [`lengths`](Self::lengths): the unbiased estimate of the squared bias, below zero where the noise has it.
    pub fn bias_squares(&self) -> Vec<f64> {
        self.raw
            .points
            .iter()
            .map(|point| point.bias.value)
            .collect()
    }

    /// Ĉ: the unbiased estimate of the squared gradient, below zero where the noise has it.
    pub fn gradient_square(&self) -> f64 {
        self.raw.gradient.value
    }

    /// Standard error of [`gradient_square`](Self::gradient_square); `None` below three probes, and too large for three, which is
    /// one too few to tell noise from signal.
    pub fn gradient_square_error(&self) -> Option<f64> {
        self.raw.gradient.error()
    }

    /// δ̂(k), the bias of the gradient at `k` kept steps as a share of the whole gradient, the fitted tail beyond the window
    /// included. `k` = 0 counts as 1. Infinite where Ĉ ≤ 0, which leaves nothing to compare with.
    pub fn relative_bias(&self, k: usize) -> f64 {
        self.relative(self.norm(k))
    }

    fn relative(&self, norm: f64) -> f64 {
        let gradient = self.raw.gradient.value;
        match gradient > 0.0 {
            true => norm / gradient.sqrt(),
            false => f64::INFINITY,
        }
    }

    /// The bias at `k`, one of [`lengths`](Self::lengths), as it was measured there: without the maximum over longer ones and
    /// without the tail beyond the window. With its standard error, as [`standard_error`](Self::standard_error) has it.
    ///
    /// `None` at other lengths, and where Ĉ ≤ 0.
    pub fn as_measured(&self, k: usize) -> Option<(f64, f64)> {
        let point = self.raw.points.iter().find(|point| point.k == k)?;
        let gradient = self.raw.gradient.value;
        let square = point.bias.value.max(0.0);
        let bias = (gradient > 0.0).then(|| (square / gradient).sqrt())?;
        let error = self.point_error(point, square / gradient);
        Some((bias, self.error_of_root(square, error)))
    }

    /// Standard error of √(square/Ĉ), from that of square − δ̂² Ĉ.
    fn error_of_root(&self, square: f64, error: Option<f64>) -> f64 {
        let gradient = self.raw.gradient.value;
        let Some(error) = error.filter(|_| gradient > 0.0) else {
            return f64::INFINITY;
        };
        let root = (square / gradient).sqrt();
        match square > error {
            true => root * error / (2.0 * square),
            // Too near zero for a slope.
            false => ((square + error) / gradient).sqrt() - root,
        }
    }

    /// Standard error of Â − `share` Ĉ at a point.
    fn point_error(&self, point: &Point, share: f64) -> Option<f64> {
        let spread = difference(point, self.raw.gradient.spread?, share)?;
        Some((spread.error().powi(2) + point.extra).sqrt())
    }

    /// The two points of the curve around `k`, and how far between them it lies; equal ones at its ends.
    fn around(&self, k: usize) -> Option<(Joint, Joint, f64)> {
        let k = k as f64;
        let after = self.curve.partition_point(|joint| joint.k <= k);
        let left = *self.curve.get(after.saturating_sub(1))?;
        let right = self.curve.get(after).copied().unwrap_or(left);
        let share = match right.k > left.k {
            true => ((k - left.k) / (right.k - left.k)).max(0.0),
            false => 0.0,
        };
        Some((left, right, share))
    }

    fn norm(&self, k: usize) -> f64 {
        if k > self.raw.window {
            return self.raw.tail.norm(self.raw.window, k);
        }
        self.around(k)
            .map_or(f64::INFINITY, |(left, right, share)| {
                interpolate(left.norm, right.norm, share)
            })
    }

    /// Standard error of Â − `share` Ĉ at `k`.
    fn difference_error(&self, k: usize, share: f64) -> Option<f64> {
        let (left, right, part) = self.around(k)?;
        let of_gradient = self.raw.gradient.spread?;
        let error = |joint: Joint| match joint.measured {
            Some(point) => self.point_error(&point, share),
            None => Some(of_gradient.scaled(share).error()),
        };
        let (left, right) = (error(left)?, error(right)?);
        Some(left + part * (right - left))
    }

    /// √((Â⁺ + 2 se(Â))/Ĉ): what the bias at `k` kept steps hardly exceeds, also where Â ≤ 0 and the estimate is 0. Infinite
    /// below three probes, which leave no standard error, and where Ĉ ≤ 0.
    pub fn upper_limit(&self, k: usize) -> f64 {
        let norm = self.norm(k);
        match self.difference_error(k, 0.0) {
            Some(error) => self.relative((norm * norm + Z * error).sqrt()),
            None => f64::INFINITY,
        }
    }

    /// Standard error of δ̂(k): that of Â − δ̂² Ĉ through the slope of the square root; where Â does not exceed it, the distance
    /// to √((Â⁺ + se)/Ĉ). Infinite below three probes, and where Ĉ ≤ 0.
    pub fn standard_error(&self, k: usize) -> f64 {
        let square = self.norm(k).powi(2);
        let share = square / self.raw.gradient.value;
        self.error_of_root(square, self.difference_error(k, share))
    }

    /// K(δ): the smallest number of kept steps in `1..=W` whose relative bias is at most `delta`; `None` when none exists, and
    /// for a NaN tolerance.
    pub fn smallest_k(&self, delta: f64) -> Option<usize> {
        // The bias does not grow with K.
        let (mut above, mut within) = (0, self.raw.window);
        if delta.is_nan() || self.relative_bias(within) > delta {
            return None;
        }
        while within - above > 1 {
            let middle = above + (within - above) / 2;
            match self.relative_bias(middle) <= delta {
                true => within = middle,
                false => above = middle,
            }
        }
        Some(within)
    }

    /// The lengths that the probes cannot tell from K(δ): shortest and longest of {K : |Â(K) − δ² Ĉ| ≤ z · se(Â(K) − δ² Ĉ)}.
    ///
    /// This is Fieller's interval for a ratio: it needs no logarithm, which noise takes away where it is wanted most, and holds
    /// wherever the mean products are about normal. Always contains [`smallest_k`](Self::smallest_k), or W where there is none.
    pub fn k_interval(&self, delta: f64, z: f64) -> (usize, usize) {
        let window = self.raw.window;
        let k = self.smallest_k(delta).unwrap_or(window);
        let share = delta * delta;
        let tolerated = share * self.raw.gradient.value;
        let consistent = |k: &usize| {
            let distance = (self.norm(*k).powi(2) - tolerated).abs();
            // Without a standard error nothing is told apart.
            self.difference_error(*k, share)
                .is_none_or(|error| distance <= z * error)
        };
        let first = (1..=k).find(consistent).unwrap_or(k);
        let last = (k..=window).rev().find(consistent).unwrap_or(k);
        (first, last)
    }

    /// Whether the estimate can be acted upon at any tolerance: [`outcome_for`](Self::outcome_for) δ = 1.
    pub fn outcome(&self) -> DirectOutcome {
        self.outcome_for(1.0)
    }

    /// Whether the estimate can be acted upon at tolerance `delta`: the gradient must stand out of the noise, Ĉ > 2 se(Ĉ), and
    /// what the tail holds beyond the window must not exceed a tenth of `delta`.
    pub fn outcome_for(&self, delta: f64) -> DirectOutcome {
        let standard_error = self.gradient_square_error();
        let gradient_square = self.raw.gradient.value;
        if !standard_error.is_some_and(|error| gradient_square > Z * error) {
            return DirectOutcome::NoiseLimited {
                gradient_square,
                standard_error,
            };
        }
        let window = self.raw.window;
        let share = match self.raw.tail {
            Tail::Unbounded => None,
            tail => Some(self.relative(tail.size())),
        };
        match share {
            Some(share) if share <= delta / 10.0 => DirectOutcome::Usable,
            share => DirectOutcome::WindowTooShort { window, share },
        }
    }

    /// Noise scale N/S = tr V / Ĉ: how many updates, each with a probe's number of losses, a mean must be taken over until
    /// its noise is as large as the gradient. Infinite where Ĉ ≤ 0.
    pub fn noise_scale(&self) -> f64 {
        match self.raw.gradient.value > 0.0 {
            true => self.raw.noise_trace / self.raw.gradient.value,
            false => f64::INFINITY,
        }
    }

    /// n* = (N/S)/δ̂(k)²: for so many updates of the scheme at `k` the noise of their mean outweighs the bias. The noise is
    /// taken to fall with the number of losses per update. Infinite where no bias was seen.
    pub fn updates_until_bias_outweighs_noise(&self, k: usize) -> f64 {
        let per_update = self.raw.losses as f64 / self.raw.scheme.losses(k.max(1)).max(1) as f64;
        let bias = self.relative_bias(k);
        match bias > 0.0 && bias.is_finite() {
            true => self.noise_scale() * per_update / (bias * bias),
            false => f64::INFINITY,
        }
    }

    /// max(δ, √((N/S)/n_h)) for n_h updates per epoch: below it a tolerance chases noise.
    pub fn effective_tolerance(&self, delta: f64, updates_per_epoch: f64) -> f64 {
        let noise = (self.noise_scale() / updates_per_epoch).sqrt();
        match noise > delta {
            true => noise,
            false => delta,
        }
    }

    /// The estimate at `k` in one line, for reports.
    pub fn describe(&self, k: usize) -> String {
        let outcome = self.outcome();
        if let DirectOutcome::NoiseLimited { .. } = outcome {
            return format!("K = {k}: {outcome}");
        }
        let (bias, error) = (self.relative_bias(k), self.standard_error(k));
        let size = match bias > 0.0 {
            true => format!("bias {bias:.2} ± {error:.2} of the gradient"),
            false => format!("bias at most {:.2} of the gradient", self.upper_limit(k)),
        };
        let updates = self.updates_until_bias_outweighs_noise(k);
        let noise = match updates {
            many if many.is_infinite() => String::new(),
            many if many > MANY_UPDATES => "; noise outweighs it for over a million updates".into(),
            few => format!("; noise outweighs it for the next {few:.0} updates"),
        };
        let short = match outcome {
            DirectOutcome::Usable => String::new(),
            outcome => format!("; {outcome}"),
        };
        format!("K = {k}: {size}{noise}{short}")
    }

    /// Moving averages of Â, Ĉ and their variances apart, at most `keep` of the previous ones: what noise each has averages out, where
    /// that of their ratio would not.
    ///
    /// A gradient grows and shrinks as the model learns. So that old values neither drown the new ones nor vanish beside them,
    /// they are brought to the present scale first, by the mean squared norm of a probe's gradient, which few probes suffice
    /// for. The further the new Â/Ĉ lies from the old one than the errors of both explain, the less the old one weighs and the
    /// larger is the average's error (METHOD §8, *Averages*).
    ///
    /// # Errors
    /// [`EstimateError::OutOfRange`] for `keep` outside [0, 1), [`EstimateError::UnequalProbes`] when the two were measured at
    /// other lengths.
    pub fn smoothed(&self, previous: &Self, keep: f64) -> Result<Self, EstimateError> {
        self.raw
            .smoothed(&previous.raw, keep)
            .map(Self::from_stored)
    }
}

/// Along a straight line in the logarithm, or to zero in the number itself.
fn interpolate(left: f64, right: f64, share: f64) -> f64 {
    match left > 0.0 && right > 0.0 && share > 0.0 {
        true => (left.ln() + share * (right.ln() - left.ln())).exp(),
        false => left + share * (right - left),
    }
}

impl From<DirectEstimate> for Stored {
    fn from(estimate: DirectEstimate) -> Self {
        estimate.raw
    }
}

impl TryFrom<Stored> for DirectEstimate {
    type Error = EstimateError;

    fn try_from(raw: Stored) -> Result<Self, EstimateError> {
        raw.check()?;
        Ok(Self::from_stored(raw))
    }
}
