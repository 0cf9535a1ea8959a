//! From which lag on a profile decays geometrically: τ chosen from the data.
//!
//! Reads [`LagNorms`]; gives `bias` the onset of its fit. Lepski's rule (O. Lepski, 1991, *On a problem of adaptive
//! estimation in Gaussian white noise*): the more lags a slope is fitted over, the less noise and the more bend it
//! carries, so take the longest tail whose slope no shorter tail contradicts.
//!
//! `b(τ)`: least-squares slope of log φ over the lags τ..=W; `se(τ)`: its standard error, by a bootstrap over sequences
//! (lags of one sequence hang together, so that the usual error of a slope says nothing).

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::decay::least_squares;
use crate::profile::{Averaging, LOG_VANISHED};
use crate::{EstimateError, LagNorms};

/// Lags that the shortest tail has beyond τ.
const SHORTEST_TAIL: usize = 10;

/// Bootstrap draws for the error of a slope.
const DRAWS: usize = 200;

/// Seed of the draws: the same norms give the same τ.
const SEED: u64 = 0x7A75;

/// Share of the window that is the onset where no error can be known: the choice of Aicher et al. 2019.
const FIXED_SHARE: f64 = 0.9;

/// Slopes may differ by rounding, as a share of their size.
const ROUNDING: f64 = 1e-9;

/// The onsets to choose from, with the error of the slope from each on.
#[derive(Debug, Clone)]
pub(crate) struct Onsets {
    candidates: Vec<usize>,
    errors: Vec<f64>,
}

impl Onsets {
    /// Measures the errors. `log_phi`: the profile of these norms, at least three lags.
    ///
    /// The window counts up to its last lag that has not vanished. With a single sequence there is no spread to know the
    /// errors from: the onset is then 0.9 W, or ten lags before W if that is earlier.
    pub(crate) fn measure(
        norms: &LagNorms,
        averaging: Averaging,
        log_phi: &[f64],
    ) -> Result<Self, EstimateError> {
        let last = log_phi.iter().rposition(|x| *x >= LOG_VANISHED);
        let latest = last.unwrap_or(0).saturating_sub(SHORTEST_TAIL).max(1);
        let sequences = norms.sequences();
        if sequences < 2 {
            let fixed = (FIXED_SHARE * norms.window() as f64).round() as usize;
            return Ok(Self {
                candidates: vec![fixed.clamp(1, latest)],
                errors: vec![0.0],
            });
        }
        let candidates = candidates(latest);
        let mut rng = Pcg64::seed_from_u64(SEED);
        // Sums and sums of squares of the slopes' deviations from those of all sequences.
        let whole: Vec<f64> = slopes(log_phi, &candidates).collect();
        let mut moments = vec![(0.0, 0.0); candidates.len()];
        for _ in 0..if candidates.len() > 1 { DRAWS } else { 0 } {
            let drawn = draw(norms, &mut rng)?.profile(averaging)?;
            let deviations = slopes(drawn.log(), &candidates).zip(&whole);
            for ((sum, squares), (slope, whole)) in moments.iter_mut().zip(deviations) {
                *sum += slope - whole;
                *squares += (slope - whole).powi(2);
            }
        }
        let count = DRAWS as f64;
        let error = |(sum, squares): &(f64, f64)| {
            ((squares - sum * sum / count).max(0.0) / (count - 1.0)).sqrt()
        };
        Ok(Self {
            errors: moments.iter().map(error).collect(),
            candidates,
        })
    }

    /// The earliest onset whose slope lies within two standard errors of that of every later one.
    pub(crate) fn choose(&self, log_phi: &[f64]) -> usize {
        let slopes: Vec<f64> = slopes(log_phi, &self.candidates).collect();
        let rows = self.candidates.iter().zip(&slopes).enumerate();
        let mut agreeing = rows.filter(|(i, (_, slope))| {
            let later = slopes.iter().zip(&self.errors).skip(i + 1);
            let mut apart = later.map(|(other, error)| {
                let slack = 2.0 * error + ROUNDING * slope.abs().max(other.abs());
                (*slope - other).abs() > slack
            });
            !apart.any(|apart| apart)
        });
        // The last onset has no later one, so that there always is one.
        agreeing.next().map_or(1, |(_, (onset, _))| *onset)
    }
}

/// As many sequences as there are, drawn with replacement.
pub(crate) fn draw(norms: &LagNorms, rng: &mut Pcg64) -> Result<LagNorms, EstimateError> {
    let count = norms.sequences();
    let drawn: Vec<usize> = (0..count).map(|_| rng.random_range(0..count)).collect();
    norms.resampled(&drawn)
}

/// 1, 2, 3, 5, 7, 10, …, each √2 times the one before, and `latest`.
fn candidates(latest: usize) -> Vec<usize> {
    let next = |tau: &usize| Some((*tau as f64 * std::f64::consts::SQRT_2).ceil() as usize);
    let grid = std::iter::successors(Some(1), next);
    grid.take_while(|tau| *tau < latest)
        .chain([latest])
        .collect()
}

fn slopes<'a>(log_phi: &'a [f64], from: &'a [usize]) -> impl Iterator<Item = f64> + 'a {
    from.iter().map(|tau| least_squares(log_phi, *tau).log_beta)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slope −0.5 up to lag `bend`, then −0.05; every sequence at a level of its own, every norm off by up to `noise`.
    fn bent(bend: usize, window: usize, sequences: usize, noise: (f64, u64)) -> LagNorms {
        let (noise, seed) = noise;
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut value = |k: usize, b: usize| {
            let head = k.min(bend) as f64 * -0.5;
            let tail = k.saturating_sub(bend) as f64 * -0.05;
            let noise = noise * (rng.random_range(0.0..2.0) - 1.0);
            (head + tail + noise + 0.1 * b as f64).exp()
        };
        let rows = (0..=window).map(|k| (0..sequences).map(|b| value(k, b)).collect());
        LagNorms::new(rows.collect()).unwrap()
    }

    fn chosen(norms: &LagNorms) -> usize {
        let profile = norms.profile(Averaging::MeanThenLog).unwrap();
        let onsets = Onsets::measure(norms, Averaging::MeanThenLog, profile.log()).unwrap();
        onsets.choose(profile.log())
    }

    #[test]
    fn candidates_grow_by_the_root_of_two_and_leave_a_tail() {
        assert_eq!(candidates(1), [1]);
        assert_eq!(candidates(20), [1, 2, 3, 5, 8, 12, 17, 20]);
        assert_eq!(candidates(390).last(), Some(&390));
    }

    #[test]
    fn without_noise_the_onset_is_the_first_candidate_past_the_bend() {
        for (bend, tau) in [(0, 1), (8, 8), (20, 25)] {
            assert_eq!(chosen(&bent(bend, 100, 16, (0.0, 0))), tau, "bend {bend}");
        }
    }

    /// Two standard errors are exceeded by chance now and then, so a late onset comes up in some sets of norms: the rule must
    /// find the bend in most. (bend, window, sequences, noise, first and last onset that will do)
    #[test]
    fn with_noise_the_onset_mostly_lies_where_the_profile_stops_bending() {
        for (bend, window, sequences, noise, from, to) in
            [(20, 100, 16, 0.2, 17, 36), (0, 100, 16, 0.5, 1, 5)]
        {
            let norms = |seed| bent(bend, window, sequences, (noise, seed));
            let good = (0..20).filter(|seed| (from..=to).contains(&chosen(&norms(*seed))));
            let good = good.count();
            assert!(good >= 13, "bend {bend}: {good} of 20");
        }
    }

    #[test]
    fn short_windows_single_sequences_and_vanished_tails_have_an_onset() {
        assert_eq!(chosen(&bent(0, 2, 4, (0.1, 3))), 1);
        assert_eq!(chosen(&bent(0, 200, 1, (0.1, 3))), 180);
        assert_eq!(chosen(&bent(0, 50, 1, (0.1, 3))), 40);
        let rows = (0..=60)
            .map(|k| vec![(-2.0 * f64::from(k)).exp(); 3])
            .collect();
        // log φ is below −50 from lag 26 on.
        assert!(chosen(&LagNorms::new(rows).unwrap()) <= 15);
    }
}
