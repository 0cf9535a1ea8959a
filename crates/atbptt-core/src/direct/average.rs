//! Which cuts stand for a scheme of windows at a truncation length K.
//!
//! Symbols: b(j) = bias vector at j kept lags, the same for every loss in the mean; a probe with m losses has
//! d(c) = (1/m) Σ b(c+1..c+m); a window by the scheme has the mean of b over lags `low..=high`.

use crate::Scheme;

/// Weights of d over the cuts whose sum is the mean of b over the lags that the scheme has at K.
///
/// Blocks of m lags, evenly spaced from the first to the last: exact where m divides their number. Between two cuts d is
/// taken as linear, and zero at W − 1, where nothing of the window is dropped.
pub(super) fn over_cuts(
    scheme: Scheme,
    k: usize,
    losses: usize,
    window: usize,
    contexts: &[usize],
) -> Vec<f64> {
    let blocks = Blocks::of(scheme, k, losses);
    let mut weights = vec![0.0; contexts.len()];
    for at in blocks.contexts(window) {
        add_at(at, 1.0 / blocks.count, window, contexts, &mut weights);
    }
    weights
}

/// The cuts that the estimate for each of `ks` reads, in order, with c = 0: with them in a probe's plan nothing is joined between
/// cuts, as far as m divides the number of lags in the scheme's mean.
///
/// - `losses`: m of the probe, at least 1
pub fn contexts_for(scheme: Scheme, ks: &[usize], losses: usize, window: usize) -> Vec<usize> {
    let Some(last) = window.checked_sub(1) else {
        return Vec::new();
    };
    let mut all = vec![0];
    for k in ks {
        let k = (*k).max(1);
        all.push(k - 1);
        for at in Blocks::of(scheme, k, losses.max(1)).contexts(window) {
            all.extend([at.floor() as usize, at.ceil() as usize]);
        }
    }
    all.iter_mut().for_each(|c| *c = (*c).min(last));
    all.sort_unstable();
    all.dedup();
    all
}

/// Blocks of m lags that stand for the lags of a scheme's mean.
struct Blocks {
    count: f64,
    /// Context of the first block.
    first: f64,
    spacing: f64,
}

impl Blocks {
    fn of(scheme: Scheme, k: usize, losses: usize) -> Self {
        let kept = scheme.kept_lags(k);
        let (low, high, m) = (*kept.start() as f64, *kept.end() as f64, losses as f64);
        let lags = high - low + 1.0;
        let count = (lags / m).ceil().max(1.0);
        Self {
            count,
            first: match lags >= m {
                true => low - 1.0,
                // One block around the same middle.
                false => ((low + high - m - 1.0) / 2.0).max(0.0),
            },
            spacing: match count > 1.0 {
                true => (lags - m) / (count - 1.0),
                false => 0.0,
            },
        }
    }

    /// Contexts of the blocks within the window; those behind it drop nothing of it.
    fn contexts(&self, window: usize) -> impl Iterator<Item = f64> {
        let (first, spacing) = (self.first, self.spacing);
        let inside = ((window as f64 - first) / spacing.max(1.0)).ceil().max(1.0);
        (0..self.count.min(inside) as usize).map(move |block| first + block as f64 * spacing)
    }
}

/// Adds `share` of d at context `at`, between cuts to both of them.
fn add_at(at: f64, share: f64, window: usize, contexts: &[usize], weights: &mut [f64]) {
    let end = window.saturating_sub(1) as f64;
    let after = contexts.partition_point(|c| (*c as f64) <= at);
    let Some(before) = after.checked_sub(1) else {
        return;
    };
    let left = contexts.get(before).map_or(0.0, |c| *c as f64);
    let right = contexts.get(after).map_or(end, |c| *c as f64);
    let part = match right > left {
        true => ((at - left) / (right - left)).min(1.0),
        false => f64::from(u8::from(at > left)),
    };
    for (index, part) in [(before, 1.0 - part), (after, part)] {
        if let Some(weight) = weights.get_mut(index) {
            *weight += share * part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// K = 4 overlapping: lags 4..=7, two blocks of m = 2 at c = 3 and 5. Chunks of 4: lags 1..=4, c = 0 and 2.
    #[test]
    fn blocks_tile_the_lags_of_a_window() {
        let cuts = [0, 1, 2, 3, 4, 5, 6, 7];
        let at = |scheme, k, m| over_cuts(scheme, k, m, 20, &cuts);
        let halves = |a: usize, b: usize| {
            let mut weights = vec![0.0; 8];
            weights[a] += 0.5;
            weights[b] += 0.5;
            weights
        };
        assert_eq!(at(Scheme::Overlapping, 4, 2), halves(3, 5));
        assert_eq!(at(Scheme::Chunked, 4, 2), halves(0, 2));
        // Strided windows of 4 losses from probes of 2: lags 3..=6.
        assert_eq!(at(Scheme::Strided { losses: 4 }, 3, 2), halves(2, 4));
        // As many: the cut itself.
        assert_eq!(at(Scheme::Strided { losses: 2 }, 3, 2), halves(2, 2));
        // Five lags in blocks of two: three blocks, 1.5 apart, so that every second one falls between cuts.
        let five = at(Scheme::Strided { losses: 5 }, 1, 2);
        let third = 1.0 / 3.0;
        let expected = [third, third / 2.0, third / 2.0, third];
        assert!(
            five.iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{five:?}"
        );
    }

    /// K = 2 overlapping has lags 2 and 3; a probe of 4 losses has c + 1..=c + 4 at best around the same middle, 2.5: c = 0.
    #[test]
    fn longer_probes_stand_in_around_the_same_middle() {
        let weights = over_cuts(Scheme::Overlapping, 2, 4, 20, &[0, 5, 10]);
        assert_eq!(weights, [1.0, 0.0, 0.0]);
        // K = 6: lags 6..=11 in two blocks at c = 5 and 7.
        let weights = over_cuts(Scheme::Overlapping, 6, 4, 20, &[0, 5, 10]);
        assert!((weights[1] - 0.8).abs() < 1e-12 && (weights[2] - 0.2).abs() < 1e-12);
    }

    #[test]
    fn cuts_for_a_scheme_are_those_its_blocks_read() {
        let of = |scheme, ks: &[usize]| contexts_for(scheme, ks, 2, 20);
        assert_eq!(of(Scheme::Strided { losses: 2 }, &[5, 1, 40]), [0, 4, 19]);
        assert_eq!(of(Scheme::Overlapping, &[4]), [0, 3, 5]);
        assert_eq!(of(Scheme::Chunked, &[5]), [0, 1, 2, 3, 4]);
        assert_eq!(
            contexts_for(Scheme::Chunked, &[5], 2, 0),
            Vec::<usize>::new()
        );
    }

    #[test]
    fn nothing_is_dropped_behind_the_window() {
        assert_eq!(
            over_cuts(Scheme::Strided { losses: 1 }, 20, 1, 20, &[0, 9]),
            [0.0, 0.0]
        );
        // Half way between the last cut, 9, and W − 1 = 19.
        assert_eq!(
            over_cuts(Scheme::Strided { losses: 1 }, 15, 1, 20, &[0, 9]),
            [0.0, 0.5]
        );
        let far = over_cuts(Scheme::Overlapping, usize::MAX, 1, 20, &[0, 9]);
        assert_eq!(far, [0.0, 0.0]);
    }
}
