//! The bias at every K, with its noise, its error and what it is worth.
//!
//! Symbols: as in the module above; `z` = standard normal quantile; S = Ĉ, N = tr V, the noise of one update.

use serde::{Deserialize, Serialize};

use super::outcome::DirectOutcome;
use super::tail::Tail;
use crate::{EstimateError, Scheme};

/// Longest window that is believed, in steps.
const MAX_WINDOW: usize = 1 << 24;

/// Standard errors that an upper limit lies above the estimate, and that the squared gradient must lie above zero.
const Z: f64 = 2.0;

/// A mean of products between probes, and its jackknife variance where there are probes enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Moment {
    pub value: f64,
    pub variance: Option<f64>,
}

impl Moment {
    /// Moving averages of values; of independent errors, variances.
    fn smoothed(self, previous: Self, keep: f64) -> Self {
        let new = 1.0 - keep;
        let both = self.variance.zip(previous.variance);
        Self {
            value: keep * previous.value + new * self.value,
            variance: match keep > 0.0 {
                true => both.map(|(new_one, old)| keep * keep * old + new * new * new_one),
                false => self.variance,
            },
        }
    }

    fn is_valid(self) -> bool {
        self.value.is_finite() && self.variance.is_none_or(|v| v.is_finite() && v >= 0.0)
    }
}

/// The squared bias ‖E d‖² of windows at one K.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub k: usize,
    pub bias: Moment,
    /// Jackknife variance of log Â − log Ĉ; `None` where one of the leave-one-out values is not above zero.
    pub log_variance: Option<f64>,
}

/// The relative bias of the truncated parameter gradient at every K, as probes measured it.
///
/// The estimate does not grow with K: it is the largest of those measured at K or more (the running maximum from the right),
/// joined between cuts along straight lines in the logarithm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct DirectEstimate {
    raw: Raw,
    curve: Vec<Joint>,
}

/// [`DirectEstimate`] as stored: checked when read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Raw {
    scheme: Scheme,
    window: usize,
    losses: usize,
    probes: usize,
    gradient: Moment,
    noise_trace: f64,
    points: Vec<Point>,
    tail: Tail,
}

/// A point of the curve, in units of the gradient's norm before division by √Ĉ.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Joint {
    k: f64,
    norm: f64,
    log_variance: Option<f64>,
    /// Variance of Â at the point that gives the maximum.
    variance: Option<f64>,
}

impl DirectEstimate {
    #[allow(clippy::too_many_arguments)] // Of one caller, which has them all.
    pub(super) fn new(
        scheme: Scheme,
        window: usize,
        losses: usize,
        probes: usize,
        gradient: Moment,
        noise_trace: f64,
        points: Vec<Point>,
        tail: Tail,
    ) -> Self {
        Self::from_raw(Raw {
            scheme,
            window,
            losses,
            probes,
            gradient,
            noise_trace,
            points,
            tail,
        })
    }

    fn from_raw(raw: Raw) -> Self {
        let beyond = raw.tail.size();
        let joint = |point: &Point| Joint {
            k: point.k as f64,
            norm: point.bias.value.max(0.0).sqrt() + beyond,
            log_variance: point.log_variance,
            variance: point.bias.variance,
        };
        let mut curve: Vec<Joint> = raw.points.iter().map(joint).collect();
        if raw.points.last().is_none_or(|point| point.k < raw.window) {
            // Nothing of the window is dropped.
            curve.push(Joint {
                k: raw.window as f64,
                norm: beyond,
                log_variance: None,
                variance: Some(0.0),
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

    /// Jackknife standard error of [`gradient_square`](Self::gradient_square); `None` below three probes.
    pub fn gradient_square_error(&self) -> Option<f64> {
        self.raw.gradient.variance.map(f64::sqrt)
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
        let error = match (point.log_variance, point.bias.variance) {
            (Some(variance), _) if bias > 0.0 => bias * variance.sqrt() / 2.0,
            (_, Some(variance)) => ((square + variance.sqrt()) / gradient).sqrt() - bias,
            (_, None) => f64::INFINITY,
        };
        Some((bias, error))
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

    /// Variance of log δ̂²(k).
    fn log_variance(&self, k: usize) -> Option<f64> {
        let (left, right, share) = self.around(k)?;
        let left_one = left.log_variance?;
        // Where the next cut has none, it is the noise itself.
        let right_one = right.log_variance.unwrap_or(left_one);
        Some(left_one + share * (right_one - left_one))
    }

    /// Standard error of Â at `k`.
    fn square_error(&self, k: usize) -> Option<f64> {
        let (left, right, share) = self.around(k)?;
        let (left, right) = (left.variance?.sqrt(), right.variance?.sqrt());
        Some(left + share * (right - left))
    }

    /// δ that is `z` standard errors above δ̂(k).
    fn limit(&self, k: usize, z: f64) -> f64 {
        let norm = self.norm(k);
        match self.square_error(k) {
            Some(error) => self.relative((norm * norm + z * error).sqrt()),
            None => f64::INFINITY,
        }
    }

    /// √((Â⁺ + 2 se(Â))/Ĉ): what the bias at `k` kept steps hardly exceeds, also where Â ≤ 0 and the estimate is 0. Infinite
    /// below three probes, which leave no standard error, and where Ĉ ≤ 0.
    pub fn upper_limit(&self, k: usize) -> f64 {
        self.limit(k, Z)
    }

    /// Standard error of δ̂(k): half that of log δ̂², times δ̂. Where the noise leaves no logarithm, the distance to the limit
    /// that lies one standard error of Â above. Infinite below three probes.
    pub fn standard_error(&self, k: usize) -> f64 {
        let bias = self.relative_bias(k);
        match self.log_variance(k) {
            Some(variance) if bias > 0.0 => bias * variance.sqrt() / 2.0,
            _ => self.limit(k, 1.0) - if bias.is_finite() { bias } else { 0.0 },
        }
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

    /// The lengths that the probes cannot tell from K(δ): shortest and longest of {K : |log δ̂²(K) − 2 log δ| ≤ z · se}.
    ///
    /// Where Â leaves no logarithm, the lengths whose limits, z standard errors of Â below and above, enclose δ. Always
    /// contains [`smallest_k`](Self::smallest_k), or W where there is none.
    pub fn k_interval(&self, delta: f64, z: f64) -> (usize, usize) {
        let window = self.raw.window;
        let k = self.smallest_k(delta).unwrap_or(window);
        let consistent = |k: &usize| {
            let bias = self.relative_bias(*k);
            match self.log_variance(*k) {
                Some(variance) if bias > 0.0 => {
                    2.0 * (bias.ln() - delta.ln()).abs() <= z * variance.sqrt()
                }
                _ => {
                    let norm = self.norm(*k);
                    let low = self.square_error(*k).map_or(0.0, |error| {
                        self.relative((norm * norm - z * error).max(0.0).sqrt())
                    });
                    low <= delta && delta <= self.limit(*k, z)
                }
            }
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
        let noise = match updates.is_finite() {
            true => format!("; noise outweighs it for the next {updates:.0} updates"),
            false => String::new(),
        };
        let short = match outcome {
            DirectOutcome::Usable => String::new(),
            outcome => format!("; {outcome}"),
        };
        format!("K = {k}: {size}{noise}{short}")
    }

    /// Moving averages of Â and Ĉ apart, `keep` of the previous ones: what noise each has averages out, where that of their
    /// ratio would not.
    ///
    /// # Errors
    /// [`EstimateError::OutOfRange`] for `keep` outside [0, 1), [`EstimateError::UnequalProbes`] when the two were measured at
    /// other lengths.
    pub fn smoothed(&self, previous: &Self, keep: f64) -> Result<Self, EstimateError> {
        if !(0.0..1.0).contains(&keep) {
            return Err(EstimateError::OutOfRange {
                what: "the kept share of a moving average",
                rule: "in [0, 1)",
                value: keep,
            });
        }
        let key = |raw: &Raw| (raw.scheme, raw.window, raw.losses);
        let (new, old) = (&self.raw, &previous.raw);
        if key(new) != key(old) || self.lengths() != previous.lengths() {
            let words = |estimate: &Self| {
                let (scheme, window, losses) = key(&estimate.raw);
                let lengths = estimate.lengths();
                format!("{scheme:?}, window {window}, losses {losses}, lengths {lengths:?}")
            };
            return Err(EstimateError::UnequalProbes {
                first: words(self),
                other: words(previous),
            });
        }
        let gradient = new.gradient.smoothed(old.gradient, keep);
        let points = new.points.iter().zip(&old.points).map(|(new, old)| {
            let bias = new.bias.smoothed(old.bias, keep);
            // d log Â of the average is the mean of both, weighted by their shares in it.
            let share = (1.0 - keep) * new.bias.value / bias.value;
            let log_variance = match new.log_variance.zip(old.log_variance) {
                Some((a, b)) => Some(share.powi(2) * a + (1.0 - share).powi(2) * b),
                None if bias.value > 0.0 && gradient.value > 0.0 => {
                    let relative = |of: Moment| of.variance.map(|v| v / of.value.powi(2));
                    relative(bias).zip(relative(gradient)).map(|(a, c)| a + c)
                }
                None => None,
            };
            Point {
                k: new.k,
                bias,
                log_variance: log_variance.filter(|v| v.is_finite()),
            }
        });
        Ok(Self::from_raw(Raw {
            gradient,
            noise_trace: keep * old.noise_trace + (1.0 - keep) * new.noise_trace,
            points: points.collect(),
            tail: new.tail.smoothed(old.tail, keep),
            ..*new
        }))
    }
}

/// Along a straight line in the logarithm, or to zero in the number itself.
fn interpolate(left: f64, right: f64, share: f64) -> f64 {
    match left > 0.0 && right > 0.0 && share > 0.0 {
        true => (left.ln() + share * (right.ln() - left.ln())).exp(),
        false => left + share * (right - left),
    }
}

/// Refuses a window that no estimate can be asked about.
pub(super) fn check_window(window: usize) -> Result<(), EstimateError> {
    match (1..=MAX_WINDOW).contains(&window) {
        true => Ok(()),
        false => Err(EstimateError::OutOfRange {
            what: "a probe's window",
            rule: "between 1 and 2^24 steps",
            value: window as f64,
        }),
    }
}

impl From<DirectEstimate> for Raw {
    fn from(estimate: DirectEstimate) -> Self {
        estimate.raw
    }
}

impl TryFrom<Raw> for DirectEstimate {
    type Error = EstimateError;

    fn try_from(raw: Raw) -> Result<Self, EstimateError> {
        check_window(raw.window)?;
        for (what, count) in [
            ("the number of losses of a probe", raw.losses),
            ("the number of measured lengths", raw.points.len()),
            ("the number of losses per update", raw.scheme.losses(1)),
        ] {
            if count == 0 {
                return Err(EstimateError::Zero { what });
            }
        }
        let mut before = 0;
        for point in &raw.points {
            if point.k <= before || point.k > raw.window {
                return Err(EstimateError::OutOfRange {
                    what: "a measured length",
                    rule: "above the one before it and within the window",
                    value: point.k as f64,
                });
            }
            before = point.k;
            let valid = point.log_variance.is_none_or(|v| v.is_finite() && v >= 0.0);
            if !(point.bias.is_valid() && valid) {
                return Err(stored(point.bias.value));
            }
        }
        let noise = raw.noise_trace;
        if !(raw.gradient.is_valid() && noise.is_finite() && noise >= 0.0 && raw.tail.is_valid()) {
            return Err(stored(raw.gradient.value));
        }
        Ok(Self::from_raw(raw))
    }
}

fn stored(value: f64) -> EstimateError {
    EstimateError::OutOfRange {
        what: "a number of a stored estimate",
        rule: "finite, and its variance at least 0",
        value,
    }
}
