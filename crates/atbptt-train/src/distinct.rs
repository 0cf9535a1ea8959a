//! Probes of a short stream: windows no two of which are the same.
//!
//! A short stream has few windows that do not share losses, and independent draws read some of them twice and others not at all. Probes
//! that read each at most once leave only the unread ones to chance (METHOD §8, *Few windows*).
//!
//! Symbols: N = number of windows whose losses do not overlap, `m` = losses per window, in steps.

use std::ops::Range;

use atbptt_core::seed::mix;
use atbptt_models::ops::seed_device;
use atbptt_models::{RecurrentModel, frozen};
use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::TrainError;
use crate::evaluate::read_scalar;
use crate::source::SequenceSource;

/// Fewer windows leave no error to estimate.
const MIN_WINDOWS: usize = 5;

/// Among more windows repeats are rare.
const MAX_WINDOWS: usize = 1000;

/// Windows that no two probes of an estimate share: in every sequence those that begin `m` steps apart, in an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DistinctWindows {
    count: usize,
    losses: usize,
    seed: u64,
}

impl DistinctWindows {
    /// The windows of `steps` steps, the last `losses` of which carry a loss, in an order that `seed` gives. `None` where there are too
    /// few or many, and where the model draws at random itself, as dropout does: what a window's gradient has in common with itself
    /// is then not what it has in common with the same window in another probe.
    ///
    /// # Errors
    /// [`TrainError::Model`] when the model fails, [`TrainError::Data`] when the source does.
    pub fn of<M: RecurrentModel>(
        model: &M,
        source: &dyn SequenceSource<Batch = M::Batch>,
        (steps, losses): (usize, usize),
        seed: u64,
        device: &Device,
    ) -> Result<Option<Self>, TrainError> {
        let count = match source.common_steps().checked_sub(steps) {
            Some(last) if losses > 0 => last / losses + 1,
            _ => 0,
        };
        if !(MIN_WINDOWS..=MAX_WINDOWS).contains(&count)
            || !computes_the_same_twice(model, source, steps - losses..steps, device)?
        {
            return Ok(None);
        }
        Ok(Some(Self {
            count,
            losses,
            seed,
        }))
    }

    /// N.
    pub fn count(self) -> usize {
        self.count
    }

    /// Where probe `index`, below N, begins to read in every sequence; `last` is the last step at which one can.
    pub fn starts(self, index: usize, sequences: usize, last: usize) -> Vec<usize> {
        let spare = last.saturating_sub((self.count - 1) * self.losses);
        let start = |sequence: usize| {
            let mut rng = Pcg64::seed_from_u64(mix(self.seed, [sequence as u64]));
            let first = rng.random_range(0..=spare);
            // Fisher and Yates, as far as the probe.
            let mut order: Vec<usize> = (0..self.count).collect();
            for at in 0..=index.min(self.count - 1) {
                order.swap(at, rng.random_range(at..self.count));
            }
            first + self.losses * order.get(index).copied().unwrap_or(0)
        };
        (0..sequences).map(start).collect()
    }
}

/// Whether two passes over the same few steps have the same loss and features, whatever the generator's seed.
fn computes_the_same_twice<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    steps: Range<usize>,
    device: &Device,
) -> Result<bool, TrainError> {
    let starts = vec![steps.start; source.sequences()];
    let batch = source.gather(&starts, steps.len(), device)?;
    let frozen = frozen(model);
    let pass = |seed: u64| -> Result<[u64; 2], TrainError> {
        seed_device(device, seed);
        let (features, _) = frozen.forward(&batch, None)?;
        let sum = read_scalar(features.clone().sum())?;
        let loss = read_scalar(frozen.loss(features, &batch)?.sum)?;
        Ok([sum.to_bits(), loss.to_bits()])
    };
    Ok(pass(1)? == pass(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_gives_each_of_its_windows_to_one_probe() {
        let windows = DistinctWindows {
            count: 7,
            losses: 5,
            seed: 3,
        };
        let starts: Vec<Vec<usize>> = (0..7).map(|index| windows.starts(index, 4, 33)).collect();
        let mut orders = Vec::new();
        for sequence in 0..4 {
            let mut of_all: Vec<usize> = starts.iter().map(|probe| probe[sequence]).collect();
            orders.push(of_all.clone());
            of_all.sort_unstable();
            let first = of_all[0];
            assert!(first <= 3, "33 less six times 5 leaves 3");
            let expected: Vec<usize> = (0..7).map(|n| first + 5 * n).collect();
            assert_eq!(of_all, expected);
        }
        orders.dedup();
        assert_eq!(orders.len(), 4, "each has an order of its own");
        let other = DistinctWindows { seed: 4, ..windows };
        assert_ne!(starts[0], other.starts(0, 4, 33));
    }
}
