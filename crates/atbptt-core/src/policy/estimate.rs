//! What probes measured, and what the bias is estimated from.

use serde::{Deserialize, Serialize};

use crate::{BiasEstimate, BiasEstimator, EstimateError, LagNorms, Scheme};

/// How the bias is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimator {
    /// From the norms of state gradients, all probes' sequences pooled, averaged over what the losses of a window keep
    /// under the scheme in use ([`Scheme::kept_lags`]).
    Norms(BiasEstimator),
    /// As in the experiments of Aicher et al. 2019: from the norms of state gradients at exactly K kept lags, whatever the
    /// scheme; K is the mean of the probes' K, each at most `k_max`.
    Paper(BiasEstimator),
}

impl Default for Estimator {
    fn default() -> Self {
        Self::Norms(BiasEstimator::default())
    }
}

impl Estimator {
    /// What to ask the trainer for.
    pub(super) fn request(self, probes: usize) -> ProbeRequest {
        match self {
            Self::Norms(_) | Self::Paper(_) => ProbeRequest::Norms { probes },
        }
    }

    pub(super) fn validate(self, probes: usize) -> Result<(), EstimateError> {
        if probes == 0 {
            return Err(EstimateError::Zero {
                what: "the number of probes",
            });
        }
        match self {
            Self::Norms(estimator) | Self::Paper(estimator) => estimator.validate(),
        }
    }
}

/// Probes that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeRequest {
    /// Norms of the state gradient at every lag of a window.
    Norms {
        /// How many random windows, at least 1.
        probes: usize,
    },
}

impl ProbeRequest {
    /// How many random windows, at least 1.
    pub fn probes(self) -> usize {
        match self {
            Self::Norms { probes } => probes,
        }
    }
}

/// What the probes of one request measured.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Measurement {
    /// Answers [`ProbeRequest::Norms`].
    Norms {
        /// One result per probe; an `Err` is a probe that could not be used.
        probes: Vec<Result<LagNorms, EstimateError>>,
        /// How training windows follow each other.
        scheme: Scheme,
    },
}

/// A bias curve under a scheme of windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimate {
    /// From norms.
    Norms {
        /// The bias of one loss at each number of kept lags.
        curve: BiasEstimate,
        /// How training windows follow each other. Exactly K lags are windows with a single loss.
        scheme: Scheme,
    },
}

impl Estimate {
    /// Relative bias of the gradient of windows of truncation length `k`; infinite when it has no bound, never NaN.
    ///
    /// The losses of a window keep different numbers of lags ([`Scheme::kept_lags`]), and the bias of their mean gradient is
    /// at most the mean of their biases.
    pub fn relative_bias(&self, k: usize) -> f64 {
        match self {
            Self::Norms { curve, scheme } => mean_over_losses(curve, *scheme, k),
        }
    }

    /// Smallest K within the probe window whose relative bias is at most `delta`; `None` when there is none.
    pub fn smallest_k(&self, delta: f64) -> Option<usize> {
        match self {
            Self::Norms {
                curve,
                scheme: Scheme::Strided { losses: 1 },
            } => curve.smallest_k(delta),
            Self::Norms { curve, .. } => {
                // The curve does not rise, so neither do its means.
                let (mut above, mut at_most) = (0, curve.window().saturating_add(1));
                if self.relative_bias(at_most) > delta || delta.is_nan() {
                    return None;
                }
                while at_most - above > 1 {
                    let middle = above + (at_most - above) / 2;
                    match self.relative_bias(middle) <= delta {
                        true => at_most = middle,
                        false => above = middle,
                    }
                }
                Some(at_most)
            }
        }
    }

    /// The norm estimate, if it is one.
    pub fn norms(&self) -> Option<&BiasEstimate> {
        match self {
            Self::Norms { curve, .. } => Some(curve),
        }
    }
}

/// Mean of δ(j) over the kept lags j of a window's losses.
fn mean_over_losses(curve: &BiasEstimate, scheme: Scheme, k: usize) -> f64 {
    let kept = scheme.kept_lags(k);
    let (first, last) = (*kept.start(), *kept.end());
    // Past the window δ is geometric: a sum of any length costs nothing.
    let measured = curve.window().saturating_add(1).min(last);
    let inside: f64 = (first..=measured).map(|j| curve.relative_bias(j)).sum();
    let from = measured.saturating_add(1).max(first);
    let beyond = match last.checked_sub(from) {
        None => 0.0,
        Some(more) => {
            let (start, count) = (curve.relative_bias(from), more as f64 + 1.0);
            let log_beta = curve.log_beta();
            match log_beta < 0.0 {
                true => start * (count * log_beta).exp_m1() / log_beta.exp_m1(),
                false => start * count,
            }
        }
    };
    (inside + beyond) / ((last - first) as f64 + 1.0)
}

/// What a measurement comes to.
#[derive(Debug, Clone, Default)]
pub(super) struct Assessment {
    /// Of all usable probes together.
    pub estimate: Option<Estimate>,
    /// Of each usable probe of a norm estimate alone.
    pub each: Vec<Estimate>,
    /// Probes that gave none.
    pub unusable: usize,
}

impl Assessment {
    /// A probe is usable when it was measured and its norms give an estimate.
    pub(super) fn new(estimator: Estimator, measured: Measurement) -> Self {
        match measured {
            Measurement::Norms { probes, scheme } => match estimator {
                Estimator::Norms(estimator) => Self::of_norms(&estimator, &probes, scheme),
                Estimator::Paper(estimator) => {
                    Self::of_norms(&estimator, &probes, Scheme::Strided { losses: 1 })
                }
            },
        }
    }

    fn of_norms(
        estimator: &BiasEstimator,
        probes: &[Result<LagNorms, EstimateError>],
        scheme: Scheme,
    ) -> Self {
        let usable: Vec<(&LagNorms, BiasEstimate)> = probes
            .iter()
            .filter_map(|probe| probe.as_ref().ok())
            .filter_map(|norms| Some((norms, estimator.estimate(norms).ok()?)))
            .collect();
        let norms: Vec<&LagNorms> = usable.iter().map(|(norms, _)| *norms).collect();
        let pooled = LagNorms::pool(&norms).and_then(|all| estimator.estimate(&all));
        // Probes of different windows cannot be pooled: the last one then speaks for all.
        let last = || usable.last().map(|(_, curve)| curve.clone());
        let curve = pooled.ok().or_else(last);
        let estimate = |curve| Estimate::Norms { curve, scheme };
        Self {
            estimate: curve.map(estimate),
            unusable: probes.len() - usable.len(),
            each: usable
                .into_iter()
                .map(|(_, curve)| estimate(curve))
                .collect(),
        }
    }
}
