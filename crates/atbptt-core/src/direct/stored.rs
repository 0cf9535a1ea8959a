//! The numbers that a direct estimate is made of, as they are stored, checked when read, and averaged over updates.

use serde::{Deserialize, Serialize};

use super::point::{Moment, Point};
use super::spread::Spread;
use super::tail::Tail;
use crate::{EstimateError, Scheme};

/// Longest window that is believed, in steps.
const MAX_WINDOW: usize = 1 << 24;

/// Standard errors that the squared gradient must lie above zero to stand out of the noise.
pub(super) const Z: f64 = 2.0;

/// [`DirectEstimate`](super::DirectEstimate) as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub scheme: Scheme,
    pub window: usize,
    pub losses: usize,
    pub probes: usize,
    pub gradient: Moment,
    pub noise_trace: f64,
    pub points: Vec<Point>,
    pub tail: Tail,
}

/// Averages of independent numbers: their variances count with the squares of the weights.
struct Average {
    keep: f64,
}

impl Average {
    fn number(&self, new: f64, old: f64) -> f64 {
        self.keep * old + (1.0 - self.keep) * new
    }

    fn spread(&self, new: Option<Spread>, old: Option<Spread>) -> Option<Spread> {
        let (new, old) = new.zip(old)?;
        let new = new.scaled(1.0 - self.keep);
        Some(new.plus(1.0, old.scaled(self.keep)))
    }

    fn moment(&self, new: Moment, old: Moment) -> Moment {
        Moment {
            value: self.number(new.value, old.value),
            spread: self.spread(new.spread, old.spread),
        }
    }

    fn point(&self, new: &Point, old: &Point) -> Point {
        Point {
            k: new.k,
            bias: self.moment(new.bias, old.bias),
            with_gradient: self.spread(new.with_gradient, old.with_gradient),
            // Of the steps.
            extra: 0.0,
            relative: None,
        }
    }
}

impl Stored {
    /// Mean squared norm of a probe's gradient, signal and noise together: known well from few probes, and the unit that
    /// estimates of different updates are averaged in.
    fn size(&self) -> f64 {
        self.noise_trace + self.gradient.value
    }

    fn scaled(&self, factor: f64) -> Self {
        Self {
            gradient: self.gradient.scaled(factor),
            noise_trace: factor * self.noise_trace,
            points: self
                .points
                .iter()
                .map(|point| point.scaled(factor))
                .collect(),
            tail: self.tail.scaled(factor.sqrt()),
            ..self.clone()
        }
    }

    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.points.iter().map(|point| point.k)
    }

    fn words(&self) -> String {
        let (scheme, window, losses) = (self.scheme, self.window, self.losses);
        let lengths: Vec<usize> = self.lengths().collect();
        format!("{scheme:?}, window {window}, losses {losses}, lengths {lengths:?}")
    }

    /// See [`DirectEstimate::smoothed`](super::DirectEstimate::smoothed).
    pub fn smoothed(&self, old: &Self, keep: f64) -> Result<Self, EstimateError> {
        if !(0.0..1.0).contains(&keep) {
            return Err(EstimateError::OutOfRange {
                what: "the kept share of a moving average",
                rule: "in [0, 1)",
                value: keep,
            });
        }
        let key = |of: &Self| (of.scheme, of.window, of.losses);
        if key(self) != key(old) || !self.lengths().eq(old.lengths()) {
            return Err(EstimateError::UnequalProbes {
                first: self.words(),
                other: old.words(),
            });
        }
        let factor = self.size() / old.size();
        let old = match factor > 0.0 && factor.is_finite() {
            true => old.scaled(factor),
            // One of the two has no gradient at all.
            false => old.clone(),
        };
        let steps = self.steps(&old, keep);
        let average = Average { keep: steps.keep };
        let points = self.points.iter().zip(&old.points);
        let mut both = Self {
            gradient: average.moment(self.gradient, old.gradient),
            noise_trace: average.number(self.noise_trace, old.noise_trace),
            points: points.map(|(new, old)| average.point(new, old)).collect(),
            tail: self.tail.smoothed(old.tail, steps.keep),
            ..*self
        };
        steps.widen(&mut both, self, &old);
        // Units so far apart that numbers overflow have nothing to say about one another.
        Ok(both.check().map_or_else(|_| self.clone(), |()| both))
    }

    /// Refuses what no measurement can have given.
    pub fn check(&self) -> Result<(), EstimateError> {
        check_window(self.window)?;
        for (what, count) in [
            ("the number of losses of a probe", self.losses),
            ("the number of measured lengths", self.points.len()),
            ("the number of losses per update", self.scheme.losses(1)),
        ] {
            if count == 0 {
                return Err(EstimateError::Zero { what });
            }
        }
        let mut before = 0;
        for point in &self.points {
            if point.k <= before || point.k > self.window {
                return Err(EstimateError::OutOfRange {
                    what: "a measured length",
                    rule: "above the one before it and within the window",
                    value: point.k as f64,
                });
            }
            before = point.k;
            let is_variance = |x: f64| x.is_finite() && x >= 0.0;
            let valid = point.with_gradient.is_none_or(Spread::is_finite)
                && is_variance(point.extra)
                && point.relative.is_none_or(is_variance);
            if !(point.bias.is_valid() && valid) {
                return Err(stored(point.bias.value));
            }
        }
        let noise = self.noise_trace;
        let valid = noise.is_finite() && noise >= 0.0 && self.tail.is_valid();
        match valid && self.gradient.is_valid() {
            true => Ok(()),
            false => Err(stored(self.gradient.value)),
        }
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

fn stored(value: f64) -> EstimateError {
    EstimateError::OutOfRange {
        what: "a number of a stored estimate",
        rule: "finite, and its noise at least 0",
        value,
    }
}
