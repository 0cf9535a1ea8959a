//! What an error counts for: a handful of probes knows its own scatter badly, and an average lags behind.
//!
//! Symbols: ρ = Â/Ĉ, the squared relative bias; D = Â − ρĈ, whose variance is that of ρ in units of Ĉ²; n probes.

use super::point::Point;
use super::spread::Spread;
use super::stored::{Stored, Z};

/// What 95 % of a normal distribution lie within.
const NORMAL: f64 = 1.959964;

/// Share of the older estimates in what is known of the errors themselves.
const KEEP_OF_ERRORS: f64 = 0.5;

/// (t/1.96)², with t the 95 % quantile of Student's distribution at the degrees of freedom that `probes` probes leave a variance of
/// these two parts (Satterthwaite 1946): n − 1 to what one probe brings into all of its pairs, n (n − 1)/2 to what is left of a pair.
///
/// 2.0 for five probes whose gradient is clear, 1.3 for ten, 1 for many.
pub(super) fn small_sample(spread: Spread, probes: usize) -> f64 {
    let n = probes as f64;
    let (shared, pairs) = (spread.shared.max(0.0), spread.pairs.max(0.0));
    let sum = shared * shared / (n - 1.0) + pairs * pairs / (n * (n - 1.0) / 2.0);
    let freedom = match sum > 0.0 {
        true => (shared + pairs).powi(2) / sum,
        // No scatter at all.
        false => n - 1.0,
    };
    let (z, v) = (NORMAL, freedom.max(2.0));
    // The expansion of Cornish and Fisher, within 4 % from two degrees of freedom on.
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    let t = z + first / v + second / (v * v) + third / v.powi(3);
    (t / z).powi(2)
}

/// Spread of Â − `share` Ĉ.
pub(super) fn difference(point: &Point, of_gradient: Spread, share: f64) -> Option<Spread> {
    let (own, with_gradient) = point.bias.spread.zip(point.with_gradient)?;
    let both = own.plus(-2.0 * share, with_gradient);
    Some(both.plus(share * share, of_gradient))
}

/// How ρ moved at one length since the older estimates; variances in units of the gradient.
struct Step {
    /// Variance of the newer ρ by its own probes.
    own: f64,
    /// The same, and no less than what is usual as a share of its square.
    usual: f64,
    /// Variance of the older one.
    old: f64,
    distance: f64,
    /// Variance of ρ as a share of its square, averaged with those before.
    relative: f64,
}

/// How the estimate moved since the older ones, and what that says about averaging the two.
pub(super) struct Steps {
    /// Share of the older estimates.
    pub keep: f64,
    /// By length; empty where one of the two does not stand out of its noise.
    steps: Vec<Step>,
    /// Variance of the drift in units of the variances of both estimates.
    drift: f64,
}

impl Stored {
    fn is_clear(&self) -> bool {
        let error = self.gradient.error();
        error.is_some_and(|error| self.gradient.value > Z * error)
    }

    /// ρ at a point; no bias is below zero.
    fn ratio(&self, point: &Point) -> f64 {
        (point.bias.value / self.gradient.value).max(0.0)
    }

    /// Variance of Â − `share` Ĉ at a point, without what is added for caution.
    fn plain_variance(&self, point: &Point, share: f64) -> Option<f64> {
        let spread = difference(point, self.gradient.spread?, share)?;
        Some(spread.error().powi(2))
    }

    /// Widens the errors of one update's estimate by what so few probes know of their own scatter.
    pub(super) fn with_caution(mut self) -> Self {
        let Some(of_gradient) = self.gradient.spread.filter(|_| self.gradient.value > 0.0) else {
            return self;
        };
        let is_clear = self.is_clear();
        let (probes, square) = (self.probes, self.gradient.value.powi(2));
        let ratios: Vec<f64> = self.points.iter().map(|point| self.ratio(point)).collect();
        for (point, ratio) in self.points.iter_mut().zip(ratios) {
            let Some(spread) = difference(point, of_gradient, ratio) else {
                continue;
            };
            let plain = spread.error().powi(2);
            let all = plain * small_sample(spread, probes);
            if all.is_finite() {
                point.extra = all - plain;
                point.relative = is_clear.then(|| relative(ratio, all / square));
            }
        }
        self
    }

    /// Compares an estimate with the average of the older ones, in the same units; `keep`: largest share of the older ones.
    ///
    /// A newer ρ that lies further from the older one than both errors explain has drifted, by d² less their variances: that
    /// variance counts for the older one, which is weighted by the inverse of its own.
    pub(super) fn steps(&self, old: &Self, keep: f64) -> Steps {
        let clear = self.is_clear() && old.is_clear();
        let points = self.points.iter().zip(&old.points).filter(|_| clear);
        let steps: Option<Vec<Step>> = points
            .map(|(new, before)| self.step(old, new, before))
            .collect();
        let steps = steps.unwrap_or_default();
        // Where neither knows of an error there is nothing to be wrong about.
        let known = |step: &&Step| step.own + step.old > 0.0;
        let excess = |step: &Step| step.distance.powi(2) / (step.own + step.old) - 1.0;
        let drift = steps.iter().filter(known).map(excess).fold(0.0, f64::max);
        let share = |step: &Step| step.own / ((1.0 + drift) * (step.own + step.old));
        let (sum, count) = steps
            .iter()
            .filter(known)
            .map(share)
            .fold((0.0, 0.0), |(sum, count), share| (sum + share, count + 1.0));
        Steps {
            keep: if count > 0.0 {
                keep.min(sum / count)
            } else {
                keep
            },
            steps,
            drift,
        }
    }

    fn step(&self, old: &Self, new: &Point, before: &Point) -> Option<Step> {
        let (ratio, older) = (self.ratio(new), old.ratio(before));
        // As if the bias were the same.
        let both =
            (new.bias.value + before.bias.value) / (self.gradient.value + old.gradient.value);
        let of = |all: &Self, point: &Point| {
            let plain = all.plain_variance(point, both.max(0.0))?;
            Some((plain + point.extra) / all.gradient.value.powi(2))
        };
        let (own, of_older) = (of(self, new)?, of(old, before)?);
        let alone = new.relative.unwrap_or_else(|| relative(ratio, own));
        let pooled = match before.relative {
            Some(known) => KEEP_OF_ERRORS * known + (1.0 - KEEP_OF_ERRORS) * alone,
            None => alone,
        };
        Some(Step {
            own,
            usual: own.max(pooled * (ratio * ratio).max(own)),
            old: of_older,
            distance: ratio - older,
            relative: pooled,
        })
    }
}

/// A variance of ρ as a share of ρ²; at most 1, which is no knowledge of ρ.
fn relative(ratio: f64, variance: f64) -> f64 {
    let square = (ratio * ratio).max(variance);
    if square > 0.0 { variance / square } else { 0.0 }
}

impl Steps {
    /// Errors of the averages `both` of `new` and `old`.
    pub(super) fn widen(&self, both: &mut Stored, new: &Stored, old: &Stored) {
        let (keep, rest) = (self.keep.powi(2), (1.0 - self.keep).powi(2));
        let squares = (new.gradient.value.powi(2), old.gradient.value.powi(2));
        let plain = |point: &Point| both.plain_variance(point, both.ratio(point));
        let plain: Vec<Option<f64>> = both.points.iter().map(plain).collect();
        let points = both
            .points
            .iter_mut()
            .zip(new.points.iter().zip(&old.points));
        for (index, (point, (newer, older))) in points.enumerate() {
            let step = self.steps.get(index);
            point.relative = match step {
                Some(step) => Some(step.relative),
                None => older.relative.or(newer.relative),
            };
            let extra = match (step, plain.get(index).copied().flatten()) {
                (Some(step), Some(plain)) => {
                    let drifted = step.old + self.drift * (step.own + step.old);
                    keep * drifted * squares.1 + rest * step.usual * squares.0 - plain
                }
                _ => keep * older.extra + rest * newer.extra,
            };
            point.extra = if extra.is_finite() {
                extra.max(0.0)
            } else {
                0.0
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_probes_count_by_students_distribution() {
        let clear = Spread {
            shared: 1.0,
            pairs: 0.0,
        };
        // t at 95 % for n − 1 degrees of freedom.
        for (probes, t) in [
            (3, 4.303),
            (5, 2.776),
            (10, 2.262),
            (16, 2.131),
            (1000, 1.962),
        ] {
            let got = NORMAL * small_sample(clear, probes).sqrt();
            assert!((got / t - 1.0).abs() < 0.035, "{probes} probes: {got} {t}");
        }
        let noise = Spread {
            shared: -1.0,
            pairs: 1.0,
        };
        let got = NORMAL * small_sample(noise, 5).sqrt();
        assert!(
            (got - 2.228).abs() < 0.01,
            "ten pairs of five probes: {got}"
        );
        assert!(small_sample(Spread::ZERO, 5) > 1.9);
    }
}
