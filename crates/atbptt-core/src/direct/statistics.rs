//! Inner products of piece gradients, and the U-statistics they give.
//!
//! Symbols: `w_ip` = gradient of probe i through piece p; pieces from the newest (the steps of the losses) to the oldest.
//! A quantity is a vector of weights γ over pieces: v_i = Σ_p γ_p w_ip, with γ = 1 for the whole gradient and γ_p = 1 for
//! the pieces behind a cut. Its pair products are h_ij = γᵀ G_ij γ, G_ij the inner products of the pieces of probes i and j.

use serde::{Deserialize, Serialize};

use super::average;
use super::checks::{check_cuts, check_products, pieces};
use super::estimate::DirectEstimate;
use super::pairs::Products;
use super::point::{Moment, Point};
use super::stored::Stored;
use super::tail::Tail;
use crate::{EstimateError, Scheme};

/// Inner products ⟨w_ip, w_jq⟩ of piece gradients over all pairs of (probe, piece).
///
/// Piece 0 are the steps of the m losses, piece p the steps between cuts p − 1 and p, and where the last cut lies before
/// W − 1, one more piece holds the rest of the window. Every value is finite, whatever way it was built, deserialisation
/// included. Probes are windows of the same weights: independent ones, or no two the same ([`out_of`](Self::out_of)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct DirectStatistics {
    window: usize,
    losses: usize,
    contexts: Vec<usize>,
    /// Not empty. Products between probes of different groups are unknown.
    groups: Vec<Group>,
    /// Windows that the probes were drawn from, each at most once.
    population: Option<usize>,
}

/// Probes whose mutual products are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Group {
    pub probes: usize,
    /// `[(probe, piece), (probe, piece)]`, row-major.
    pub gram: Vec<f64>,
}

impl DirectStatistics {
    /// Statistics of `probes` probes.
    ///
    /// - `window`: W, in steps: the window has W + m − 1 steps
    /// - `losses`: m, the steps at its end that carry a loss
    /// - `contexts`: the cuts c, ascending from 0, at most W − 1, in steps before the first loss
    /// - `gram`: `⟨w_ip, w_jq⟩` at `(i · pieces + p) · probes · pieces + j · pieces + q`, pieces from the newest to the oldest
    ///
    /// # Errors
    /// [`EstimateError::TooFewProbes`] below two, [`EstimateError::Zero`] for no losses, [`EstimateError::ShortWindow`] for a
    /// window below m + 2 steps, [`EstimateError::Contexts`] for cuts out of order, [`EstimateError::Length`],
    /// [`EstimateError::NotProducts`] for numbers that cannot be inner products.
    pub fn new(
        window: usize,
        losses: usize,
        contexts: Vec<usize>,
        probes: usize,
        gram: Vec<f64>,
    ) -> Result<Self, EstimateError> {
        check_cuts(window, losses, &contexts)?;
        let mut statistics = Self {
            window,
            losses,
            contexts,
            groups: Vec::new(),
            population: None,
        };
        let group = Group { probes, gram };
        check_products(group.probes, statistics.pieces(), &group.gram)?;
        statistics.groups.push(group);
        Ok(statistics)
    }

    /// The same where no two probes read the same window, out of `windows` that a short stream has: only what they have not read is
    /// uncertain (METHOD §8, *Few windows*). The model must draw nothing at random itself.
    ///
    /// # Errors
    /// [`EstimateError::OutOfRange`] for fewer windows than probes.
    pub fn out_of(mut self, windows: usize) -> Result<Self, EstimateError> {
        if windows < self.probes() {
            return Err(EstimateError::OutOfRange {
                what: "the number of windows that probes were drawn from",
                rule: "at least the number of probes",
                value: windows as f64,
            });
        }
        self.population = Some(windows);
        Ok(self)
    }

    /// How many windows the probes were drawn from, each at most once; `None` for independent probes.
    pub fn population(&self) -> Option<usize> {
        self.population
    }

    /// Joins the probes of another worker, or of another call, with the same weights.
    ///
    /// Products between probes of the two are unknown and stay out of all means: gather the gradients of all probes in one
    /// place where that can be done, since n probes together have n (n − 1) products, and apart only those within.
    ///
    /// # Errors
    /// [`EstimateError::UnequalProbes`] when windows, losses or cuts differ, and for probes that are not independent.
    pub fn merge(mut self, other: Self) -> Result<Self, EstimateError> {
        let independent = self.population.is_none() && other.population.is_none();
        if !independent
            || (self.window, self.losses, &self.contexts)
                != (other.window, other.losses, &other.contexts)
        {
            return Err(EstimateError::UnequalProbes {
                first: self.describe(),
                other: other.describe(),
            });
        }
        self.groups.extend(other.groups);
        Ok(self)
    }

    fn describe(&self) -> String {
        let Self {
            window,
            losses,
            contexts,
            population,
            ..
        } = self;
        let drawn = population.map_or(String::new(), |n| format!(", drawn out of {n} windows"));
        format!("window {window}, losses {losses}, cuts {contexts:?}{drawn}")
    }

    /// W, in steps.
    pub fn window(&self) -> usize {
        self.window
    }

    /// m, the losses of a probe per sequence.
    pub fn losses(&self) -> usize {
        self.losses
    }

    /// The cuts c, ascending, in steps before the first loss.
    pub fn contexts(&self) -> &[usize] {
        &self.contexts
    }

    /// Number of probes.
    pub fn probes(&self) -> usize {
        self.groups.iter().map(|group| group.probes).sum()
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Number of pieces of a window.
    pub fn pieces(&self) -> usize {
        pieces(self.window, &self.contexts)
    }

    /// Ĉ, the unbiased estimate of ‖E g‖²; may come out below zero.
    pub fn gradient_square(&self) -> f64 {
        self.products(&self.whole()).square()
    }

    /// Â(c) for every cut, the unbiased estimate of ‖E d(c)‖²; may come out below zero.
    pub fn bias_squares(&self) -> Vec<f64> {
        let behind = (0..self.contexts.len()).map(|cut| self.behind(cut));
        behind.map(|gamma| self.products(&gamma).square()).collect()
    }

    /// δ̂(c) = √(Â(c)/Ĉ) for every cut, as measured: 0 where Â ≤ 0, `None` where Ĉ ≤ 0.
    pub fn relative_biases(&self) -> Vec<Option<f64>> {
        let gradient = self.gradient_square();
        let ratio = |a: f64| (gradient > 0.0).then(|| (a.max(0.0) / gradient).sqrt());
        self.bias_squares().into_iter().map(ratio).collect()
    }

    /// ‖mean d(c)‖ / ‖mean g‖ for every cut: the ratio of plain norms, whose noise stands above and below the line. `None`
    /// where the mean gradient vanishes. For comparison; [`relative_biases`](Self::relative_biases) is the estimate.
    pub fn plug_in_relative_biases(&self) -> Vec<Option<f64>> {
        let probes = self.probes() as f64;
        let square_of_mean = |gamma: &[f64]| {
            let products = self.products(gamma);
            (products.within + (probes - 1.0) * products.between()) / probes
        };
        let gradient = square_of_mean(&self.whole());
        let behind = (0..self.contexts.len()).map(|cut| self.behind(cut));
        behind
            .map(|gamma| {
                (gradient > 0.0).then(|| (square_of_mean(&gamma).max(0.0) / gradient).sqrt())
            })
            .collect()
    }

    /// tr V, the variance of one probe's whole gradient summed over parameters: n/(n−1) · (mean ‖g_i‖² − ‖ḡ‖²).
    pub fn noise_trace(&self) -> f64 {
        // ‖ḡ‖² = (mean ‖g_i‖² + (n − 1) Ĉ)/n turns the formula into mean ‖g_i‖² − Ĉ.
        self.products(&self.whole()).variance()
    }

    /// The bias at every K for windows by `scheme`.
    ///
    /// What a window's gradient leaves out is the mean over its losses of what each of them leaves out: with b(j) the bias at
    /// j kept lags, strided windows of m losses have (1/m) Σ b(K..K+m−1), which is d(K − 1) itself where the probe has as many
    /// losses; BPTT(2K−1; K) has (1/K) Σ b(K..2K−1) and chunks (1/K) Σ b(1..K), both means of d over cuts. Where the probe
    /// has more losses than these means have terms (K < m), the cut with the same middle stands in, or c = 0.
    ///
    /// # Errors
    /// [`EstimateError::Zero`] for strided windows without losses.
    pub fn estimate(&self, scheme: Scheme) -> Result<DirectEstimate, EstimateError> {
        if scheme == (Scheme::Strided { losses: 0 }) {
            return Err(EstimateError::Zero {
                what: "the number of losses per update",
            });
        }
        let whole = self.products(&self.whole());
        let moment = |products: &Products| Moment {
            value: products.square(),
            spread: products.spread(products),
        };
        let gradient = moment(&whole);
        let point = |k: usize, products: &Products| Point {
            k,
            bias: moment(products),
            with_gradient: products.spread(&whole),
            extra: 0.0,
            relative: None,
        };
        let by_cut = (0..self.contexts.len()).map(|cut| self.products(&self.behind(cut)));
        let cuts: Vec<Point> = self
            .contexts
            .iter()
            .zip(by_cut)
            .map(|(context, products)| point(context + 1, &products))
            .collect();
        let tail = Tail::fit(self.window, &cuts);
        let points = match scheme {
            Scheme::Strided { losses } if losses == self.losses => cuts,
            _ => self
                .contexts
                .iter()
                .map(|context| {
                    let k = context + 1;
                    let weights =
                        average::over_cuts(scheme, k, self.losses, self.window, &self.contexts);
                    point(k, &self.products(&self.behind_all(&weights)))
                })
                .collect(),
        };
        let measured = Stored {
            scheme,
            window: self.window,
            losses: self.losses,
            probes: self.probes(),
            gradient,
            noise_trace: whole.variance(),
            points,
            tail,
        };
        Ok(DirectEstimate::from_stored(measured.with_caution()))
    }

    fn whole(&self) -> Vec<f64> {
        vec![1.0; self.pieces()]
    }

    /// γ of d at one cut: the pieces behind it.
    fn behind(&self, cut: usize) -> Vec<f64> {
        (0..self.pieces())
            .map(|piece| f64::from(u8::from(piece > cut)))
            .collect()
    }

    /// γ of a weighted sum of d over all cuts.
    fn behind_all(&self, weights: &[f64]) -> Vec<f64> {
        (0..self.pieces())
            .map(|piece| weights.iter().take(piece).sum())
            .collect()
    }

    /// h_ij = γᵀ G_ij γ of every group.
    fn products(&self, gamma: &[f64]) -> Products {
        let pieces = gamma.len();
        Products::new(self.groups.iter().map(|group| {
            let side = group.probes * pieces;
            let blocks = group.gram.chunks(side * pieces);
            let products = blocks.flat_map(|block| {
                // Over the other probe's pieces: Σ_p γ_p ⟨w_ip, w_jq⟩.
                let mut row = vec![0.0; side];
                for (weight, line) in gamma.iter().zip(block.chunks(side)) {
                    row.iter_mut().zip(line).for_each(|(r, x)| *r += weight * x);
                }
                let with =
                    |part: &[f64]| part.iter().zip(gamma).map(|(x, weight)| x * weight).sum();
                row.chunks(pieces).map(with).collect::<Vec<f64>>()
            });
            (group.probes, products.collect())
        }))
        .out_of(self.population)
    }
}

/// [`DirectStatistics`] as stored: the first group's numbers plain, further groups in `merged`.
#[derive(Serialize, Deserialize)]
struct Raw {
    window: usize,
    losses: usize,
    contexts: Vec<usize>,
    probes: usize,
    gram: Vec<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    merged: Vec<Group>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    population: Option<usize>,
}

impl From<DirectStatistics> for Raw {
    fn from(statistics: DirectStatistics) -> Self {
        let mut groups = statistics.groups.into_iter();
        let first = groups.next();
        let (probes, gram) = first.map_or((0, Vec::new()), |group| (group.probes, group.gram));
        Self {
            window: statistics.window,
            losses: statistics.losses,
            contexts: statistics.contexts,
            probes,
            gram,
            merged: groups.collect(),
            population: statistics.population,
        }
    }
}

impl TryFrom<Raw> for DirectStatistics {
    type Error = EstimateError;

    fn try_from(raw: Raw) -> Result<Self, EstimateError> {
        let mut statistics = Self::new(raw.window, raw.losses, raw.contexts, raw.probes, raw.gram)?;
        for group in raw.merged {
            check_products(group.probes, statistics.pieces(), &group.gram)?;
            statistics.groups.push(group);
        }
        match raw.population {
            // Merged probes are independent.
            Some(_) if statistics.groups.len() > 1 => Err(EstimateError::UnequalProbes {
                first: "independent probes of several workers".into(),
                other: "windows drawn without putting any back".into(),
            }),
            Some(windows) => statistics.out_of(windows),
            None => Ok(statistics),
        }
    }
}
