//! What probes measured, and what the bias is estimated from.

use serde::{Deserialize, Serialize};

use crate::{
    BiasEstimate, BiasEstimator, DirectEstimate, DirectStatistics, EstimateError, LagNorms, Scheme,
};

/// How the bias is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimator {
    /// The bias of the parameter gradient itself, from inner products between independent probes ([`crate::direct`]), under
    /// the scheme of windows in use. The default.
    #[default]
    Direct,
    /// From the norms of state gradients, all probes' sequences pooled, averaged over what the losses of a window keep
    /// under the scheme in use ([`Scheme::kept_lags`]).
    Norms(BiasEstimator),
    /// As in the experiments of Aicher et al. 2019: from the norms of state gradients at exactly K kept lags, whatever the
    /// scheme; K is the mean of the probes' K, each at most `k_max`.
    Paper(BiasEstimator),
}

impl Estimator {
    /// Fewest probes that the direct estimate takes.
    const MIN_DIRECT_PROBES: usize = 2;

    /// What to ask the trainer for.
    pub(super) fn request(self, probes: usize) -> ProbeRequest {
        match self {
            Self::Direct => ProbeRequest::Direct { probes },
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
            Self::Direct if probes < Self::MIN_DIRECT_PROBES => Err(EstimateError::TooFewProbes {
                needed: Self::MIN_DIRECT_PROBES,
                got: probes,
            }),
            Self::Direct => Ok(()),
            Self::Norms(estimator) | Self::Paper(estimator) => estimator.validate(),
        }
    }
}

/// Probes that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeRequest {
    /// Inner products of the weight gradients of a window's pieces, within and between the probes.
    Direct {
        /// How many random windows, at least 2.
        probes: usize,
    },
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
            Self::Direct { probes } | Self::Norms { probes } => probes,
        }
    }
}

/// What the probes of one request measured.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Measurement {
    /// Answers [`ProbeRequest::Direct`].
    Direct {
        /// Of all probes together, or why there are none.
        statistics: Result<DirectStatistics, EstimateError>,
        /// How training windows follow each other.
        scheme: Scheme,
        /// Updates of the weights per epoch at the present K: what a bias is weighed against.
        updates_per_epoch: f64,
    },
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
    /// From the parameter gradient itself.
    Direct(DirectEstimate),
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
    /// The losses of a window keep different numbers of lags ([`Scheme::kept_lags`]). The direct estimate is of their mean
    /// gradient; norms give the mean of their biases, which the bias of their mean does not exceed.
    pub fn relative_bias(&self, k: usize) -> f64 {
        match self {
            Self::Direct(direct) => direct.relative_bias(k),
            Self::Norms { curve, scheme } => mean_over_losses(curve, *scheme, k),
        }
    }

    /// Smallest K within the probe window whose relative bias is at most `delta`; `None` when there is none.
    pub fn smallest_k(&self, delta: f64) -> Option<usize> {
        match self {
            Self::Direct(direct) => direct.smallest_k(delta),
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
            Self::Direct(_) => None,
        }
    }

    /// The direct estimate, if it is one.
    pub fn direct(&self) -> Option<&DirectEstimate> {
        match self {
            Self::Direct(direct) => Some(direct),
            Self::Norms { .. } => None,
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
    /// Probes that were run.
    pub probes: usize,
    /// Those that gave none.
    pub unusable: usize,
    /// Updates of the weights per epoch, where the measurement says.
    pub updates_per_epoch: Option<f64>,
}

impl Assessment {
    /// A probe is usable when it was measured and gives an estimate. `asked`: how many probes there should be.
    pub(super) fn new(estimator: Estimator, asked: usize, measured: &Measurement) -> Self {
        match measured {
            Measurement::Direct {
                statistics,
                scheme,
                updates_per_epoch,
            } => {
                let probes = statistics.as_ref().map_or(asked, DirectStatistics::probes);
                let estimate = statistics
                    .as_ref()
                    .ok()
                    .and_then(|s| s.estimate(*scheme).ok());
                Self {
                    probes,
                    unusable: match estimate {
                        Some(_) => asked.saturating_sub(probes),
                        None => asked,
                    },
                    estimate: estimate.map(Estimate::Direct),
                    each: Vec::new(),
                    updates_per_epoch: Some(*updates_per_epoch),
                }
            }
            Measurement::Norms { probes, scheme } => match estimator {
                Estimator::Norms(estimator) => Self::of_norms(&estimator, probes, *scheme),
                Estimator::Paper(estimator) => {
                    Self::of_norms(&estimator, probes, Scheme::Strided { losses: 1 })
                }
                // Norms that nobody asked for.
                Estimator::Direct => Self::of_norms(&BiasEstimator::default(), probes, *scheme),
            },
        }
    }

    /// Averages the direct estimate with the one before it, numerator and denominator apart; `keep`: share of the old one.
    pub(super) fn smoothed(mut self, previous: Option<&Estimate>, keep: f64) -> Self {
        let previous = previous.and_then(Estimate::direct);
        if let (Some(Estimate::Direct(new)), Some(old)) = (&self.estimate, previous)
            // Other cuts or windows than before start afresh.
            && let Ok(both) = new.smoothed(old, keep)
        {
            self.estimate = Some(Estimate::Direct(both));
        }
        self
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
            probes: probes.len(),
            unusable: probes.len() - usable.len(),
            each: usable
                .into_iter()
                .map(|(_, curve)| estimate(curve))
                .collect(),
            updates_per_epoch: None,
        }
    }
}
