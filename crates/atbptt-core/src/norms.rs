//! What a probe measured: the norm of the loss gradient at the state `k` steps back, sequence by sequence.
//!
//! Filled by `device` or by hand; averaged by `profile`.
//!
//! `norms[k][b]`: ‖∂L_s/∂h_{s−k}‖ of sequence `b`, `k = 0..=W`; `G(j)`: ‖mean over sequences of
//! Σ_{k<j} ∂L/∂h_{s−k}‖, the size of the gradient that `j` kept lags give; `U(j)`: the same squared, without the noise
//! of a mean over few sequences.

use serde::{Deserialize, Serialize};

use crate::EstimateError;
use crate::profile::{Averaging, LagProfile};

/// Gradient norms of one probe, one per lag and sequence.
///
/// A window of `W` steps gives `W + 1` lags, `0..=W`. Every number is finite and at least 0, however the value was
/// built, deserialisation included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct LagNorms {
    sequences: usize,
    norms: Vec<f64>,
    mean_sum_norms: Option<Vec<f64>>,
    debiased_squares: Option<Vec<f64>>,
    parts: usize,
    part_norms: Vec<f64>,
}

impl LagNorms {
    /// Norms as rows, `rows[lag][sequence]`.
    ///
    /// # Errors
    /// [`EstimateError::Empty`], [`EstimateError::Ragged`] or [`EstimateError::NotANorm`].
    pub fn new(rows: Vec<Vec<f64>>) -> Result<Self, EstimateError> {
        let expected = rows.first().map_or(0, Vec::len);
        if let Some((lag, row)) = rows
            .iter()
            .enumerate()
            .find(|(_, row)| row.len() != expected)
        {
            return Err(EstimateError::Ragged {
                lag,
                expected,
                got: row.len(),
            });
        }
        Self::checked(rows.len(), expected, rows.concat())
    }

    /// Norms as one slice of `f32` or `f64`, sequences fastest: `values[lag · sequences + sequence]`.
    ///
    /// # Errors
    /// [`EstimateError::Empty`], [`EstimateError::Length`] or [`EstimateError::NotANorm`].
    pub fn from_flat<T: Copy + Into<f64>>(
        lags: usize,
        sequences: usize,
        values: &[T],
    ) -> Result<Self, EstimateError> {
        Self::checked(lags, sequences, values.iter().map(|&v| v.into()).collect())
    }

    /// Norms of each state part, `values[(lag · parts + part) · sequences + sequence]`.
    ///
    /// Parts are independent coordinates (hidden and cell of each layer), so the norm over all of them is the root of
    /// the sum of squares. At lag 0, where only the top layer's output receives a gradient, the other parts are 0.
    ///
    /// # Errors
    /// [`EstimateError::Empty`], [`EstimateError::Length`] or [`EstimateError::NotANorm`].
    pub fn from_parts<T: Copy + Into<f64>>(
        lags: usize,
        parts: usize,
        sequences: usize,
        values: &[T],
    ) -> Result<Self, EstimateError> {
        let rows = lags.saturating_mul(parts);
        let breakdown =
            Self::checked(rows, sequences, values.iter().map(|&v| v.into()).collect())?.norms;
        let total = breakdown
            .chunks(parts * sequences)
            .flat_map(|lag| {
                (0..sequences).map(|b| {
                    lag.iter()
                        .skip(b)
                        .step_by(sequences)
                        .fold(0.0f64, |n, x| n.hypot(*x))
                })
            })
            .collect();
        let mut norms = Self::checked(lags, sequences, total)?;
        norms.parts = parts;
        norms.part_norms = breakdown;
        Ok(norms)
    }

    /// Adds the cumulative sizes `G(j)`, `j = 0..=lags`, that [`crate::GradientSize::NormOfMeanSum`] needs; `G(0) = 0`.
    ///
    /// # Errors
    /// [`EstimateError::Length`] or [`EstimateError::NotASize`].
    pub fn with_mean_sum_norms(mut self, sizes: Vec<f64>) -> Result<Self, EstimateError> {
        check_length("cumulative gradient sizes", self.lags() + 1, sizes.len())?;
        for (kept, &value) in sizes.iter().enumerate() {
            let ok = if kept == 0 {
                value == 0.0
            } else {
                is_norm(value)
            };
            if !ok {
                return Err(EstimateError::NotASize { kept, value });
            }
        }
        self.mean_sum_norms = Some(sizes);
        Ok(self)
    }

    /// Adds what the cumulative sizes lack to be free of the batch's size: `squares[j]`, the mean over sequences of
    /// ‖Σ_{k<j} ∂L/∂h_{s−k}‖², `j = 0..=lags`.
    ///
    /// The squared norm of a mean over B sequences overstates that of the expectation by tr Σ / B. From the sizes
    /// `G(j)` and these squares `q(j)`, U(j) = (B G(j)² − q(j)) / (B − 1) does not, for any B: it is the mean of the
    /// scalar products between different sequences. It may be negative where the expectation is small.
    /// [`crate::GradientSize::DebiasedNormOfMeanSum`] reads it.
    ///
    /// # Errors
    /// [`EstimateError::MeanSumsMissing`] without [`LagNorms::with_mean_sum_norms`] before,
    /// [`EstimateError::TooFewSequences`] below two, [`EstimateError::Length`], or [`EstimateError::NotASize`] for a
    /// square that is none or leaves the range of `f64`.
    pub fn with_sum_squares(mut self, squares: Vec<f64>) -> Result<Self, EstimateError> {
        let sizes = self
            .mean_sum_norms
            .as_ref()
            .ok_or(EstimateError::MeanSumsMissing)?;
        if self.sequences < 2 {
            return Err(EstimateError::TooFewSequences {
                needed: 2,
                got: self.sequences,
            });
        }
        check_length(
            "mean squares of cumulative gradients",
            sizes.len(),
            squares.len(),
        )?;
        let count = self.sequences as f64;
        let debias = |(kept, (size, square)): (usize, (&f64, &f64))| {
            let value = (count * size * size - square) / (count - 1.0);
            match is_norm(*square) && value.is_finite() {
                true => Ok(value),
                false => Err(EstimateError::NotASize {
                    kept,
                    value: *square,
                }),
            }
        };
        let debiased = sizes.iter().zip(&squares).enumerate().map(debias);
        self.debiased_squares = Some(debiased.collect::<Result<_, _>>()?);
        Ok(self)
    }

    /// The norms of several probes as if their sequences had been one batch.
    ///
    /// The cumulative sizes of the result, and their de-biased squares, are the probes' mean (each probe knows only its
    /// own batch mean), the breakdown is dropped. Weights every sequence alike.
    ///
    /// # Errors
    /// [`EstimateError::Empty`] for no probe, [`EstimateError::UnequalWindows`].
    pub fn pool(probes: &[&Self]) -> Result<Self, EstimateError> {
        let Some(first) = probes.first() else {
            return Err(EstimateError::Empty {
                lags: 0,
                sequences: 0,
            });
        };
        if let Some(other) = probes.iter().find(|p| p.lags() != first.lags()) {
            return Err(EstimateError::UnequalWindows {
                first: first.lags(),
                other: other.lags(),
            });
        }
        let rows = (0..first.lags())
            .map(|k| probes.iter().flat_map(|p| p.row(k)).copied().collect())
            .collect();
        let mean = |all: Option<Vec<&Vec<f64>>>| -> Option<Vec<f64>> {
            let all = all?;
            let count = all.len() as f64;
            let at = |j| all.iter().filter_map(|s| s.get(j)).map(|s| s / count).sum();
            Some((0..=first.lags()).map(at).collect())
        };
        let mut pooled = Self::new(rows)?;
        pooled.mean_sum_norms = mean(probes.iter().map(|p| p.mean_sum_norms.as_ref()).collect());
        let debiased = probes.iter().map(|p| p.debiased_squares.as_ref());
        pooled.debiased_squares = mean(debiased.collect());
        Ok(pooled)
    }

    /// One state part's norms, for the profile of that part alone. Carries no cumulative sizes.
    ///
    /// # Errors
    /// [`EstimateError::NoSuchPart`].
    pub fn part(&self, part: usize) -> Result<Self, EstimateError> {
        if part >= self.parts {
            return Err(EstimateError::NoSuchPart {
                part,
                parts: self.parts,
            });
        }
        let rows = self
            .part_norms
            .chunks(self.sequences)
            .skip(part)
            .step_by(self.parts);
        Self::new(rows.map(<[f64]>::to_vec).collect())
    }

    /// The norms with these sequences in place of their own, each as often as it is named; unknown ones are left out.
    ///
    /// The cumulative sizes stay as they are: without the gradient vectors the mean over other sequences is unknown.
    pub(crate) fn resampled(&self, sequences: &[usize]) -> Result<Self, EstimateError> {
        let rows = self.norms.chunks(self.sequences);
        let drawn = rows.flat_map(|row| sequences.iter().filter_map(|b| row.get(*b)).copied());
        let mut norms = Self::checked(self.lags(), sequences.len(), drawn.collect())?;
        norms.mean_sum_norms.clone_from(&self.mean_sum_norms);
        norms.debiased_squares.clone_from(&self.debiased_squares);
        Ok(norms)
    }

    /// Number of lags, `W + 1`.
    pub fn lags(&self) -> usize {
        self.norms.len() / self.sequences
    }

    /// Window length W, in steps.
    pub fn window(&self) -> usize {
        self.lags() - 1
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Number of state parts in the breakdown; 0 when none was kept.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The norms at one lag, one per sequence; empty past the window.
    pub fn row(&self, lag: usize) -> &[f64] {
        self.norms
            .chunks(self.sequences)
            .nth(lag)
            .unwrap_or_default()
    }

    /// The cumulative sizes `G(0..=lags)`, where the probe kept them.
    pub fn mean_sum_norms(&self) -> Option<&[f64]> {
        self.mean_sum_norms.as_deref()
    }

    /// The de-biased squares `U(0..=lags)` of the cumulative sizes, where the probe kept them; some may be negative.
    pub fn debiased_squares(&self) -> Option<&[f64]> {
        self.debiased_squares.as_deref()
    }

    /// The lag profile of these norms: φ_k, the norms at lag k averaged over the sequences, `k = 0..=W`.
    ///
    /// # Errors
    /// [`EstimateError::ZeroAmongNorms`] for [`Averaging::LogThenMean`] where some norms of a lag are exactly zero and
    /// others are not.
    pub fn phi(&self, averaging: Averaging) -> Result<Vec<f64>, EstimateError> {
        Ok(self.profile(averaging)?.phi())
    }

    /// The profile in logs.
    pub(crate) fn profile(&self, averaging: Averaging) -> Result<LagProfile, EstimateError> {
        LagProfile::of_rows(self.norms.chunks(self.sequences), averaging)
    }

    fn checked(lags: usize, sequences: usize, norms: Vec<f64>) -> Result<Self, EstimateError> {
        if lags == 0 || sequences == 0 {
            return Err(EstimateError::Empty { lags, sequences });
        }
        check_length("norms", lags.saturating_mul(sequences), norms.len())?;
        if let Some((i, &value)) = norms.iter().enumerate().find(|(_, x)| !is_norm(**x)) {
            return Err(EstimateError::NotANorm {
                lag: i / sequences,
                sequence: i % sequences,
                value,
            });
        }
        Ok(Self {
            sequences,
            norms,
            mean_sum_norms: None,
            debiased_squares: None,
            parts: 0,
            part_norms: Vec::new(),
        })
    }
}

fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), EstimateError> {
    match expected == got {
        true => Ok(()),
        false => Err(EstimateError::Length {
            what,
            expected,
            got,
        }),
    }
}

fn is_norm(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}

/// [`LagNorms`] as stored: checked again when read.
#[derive(Serialize, Deserialize)]
struct Raw {
    lags: usize,
    sequences: usize,
    norms: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean_sum_norms: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    debiased_squares: Option<Vec<f64>>,
    #[serde(default)]
    parts: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    part_norms: Vec<f64>,
}

impl From<LagNorms> for Raw {
    fn from(n: LagNorms) -> Self {
        Self {
            lags: n.lags(),
            sequences: n.sequences,
            norms: n.norms,
            mean_sum_norms: n.mean_sum_norms,
            debiased_squares: n.debiased_squares,
            parts: n.parts,
            part_norms: n.part_norms,
        }
    }
}

impl TryFrom<Raw> for LagNorms {
    type Error = EstimateError;

    fn try_from(raw: Raw) -> Result<Self, EstimateError> {
        let mut norms = Self::checked(raw.lags, raw.sequences, raw.norms)?;
        if raw.parts > 0 {
            norms.part_norms = Self::checked(
                raw.lags.saturating_mul(raw.parts),
                raw.sequences,
                raw.part_norms,
            )?
            .norms;
            norms.parts = raw.parts;
        }
        if let Some(squares) = &raw.debiased_squares {
            check_length("de-biased squares", raw.lags + 1, squares.len())?;
            if let Some((kept, &value)) = squares.iter().enumerate().find(|(_, x)| !x.is_finite()) {
                return Err(EstimateError::NotASize { kept, value });
            }
        }
        norms.debiased_squares = raw.debiased_squares;
        match raw.mean_sum_norms {
            Some(sizes) => norms.with_mean_sum_norms(sizes),
            None => Ok(norms),
        }
    }
}

#[cfg(test)]
mod tests;
