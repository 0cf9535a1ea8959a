//! Who trains on what: sequences shared out over devices, and what each device did.

use std::ops::Range;

use atbptt_models::SequenceBatch;

use crate::TrainError;
use crate::source::SequenceSource;

/// What one device of a run trains on, and the time it has worked.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerReport {
    /// The device's name.
    pub device: String,
    /// Its sequences.
    pub sequences: Range<usize>,
    /// Seconds it has worked on windows and probes.
    pub busy_seconds: f64,
    /// Seconds that windows and probes have taken, with moving weights and gradients, the updates, and waiting for the slowest.
    pub total_seconds: f64,
}

impl WorkerReport {
    /// Share of the time in which the device worked, in `[0, 1]`.
    pub fn busy_share(&self) -> f64 {
        match self.total_seconds > 0.0 {
            true => (self.busy_seconds / self.total_seconds).min(1.0),
            false => 0.0,
        }
    }
}

/// Which sequences each of `devices` devices trains on: contiguous, and as many or one more than the others.
///
/// # Errors
///
/// [`TrainError::TooManyDevices`] when there are fewer sequences than devices.
pub fn shards(sequences: usize, devices: usize) -> Result<Vec<Range<usize>>, TrainError> {
    if devices > sequences {
        return Err(TrainError::TooManyDevices { devices, sequences });
    }
    let (each, longer) = match devices {
        0 => (0, 0),
        _ => (sequences / devices, sequences % devices),
    };
    let start = |worker: usize| worker * each + worker.min(longer);
    Ok((0..devices)
        .map(|worker| start(worker)..start(worker + 1))
        .collect())
}

/// Refuses a source that `devices` devices cannot share.
pub(crate) fn check_shared<B: SequenceBatch>(
    source: &dyn SequenceSource<Batch = B>,
    devices: usize,
) -> Result<(), TrainError> {
    let mut rows = shards(source.sequences(), devices)?.into_iter();
    match devices > 1 && rows.any(|rows| source.shard(rows).is_none()) {
        true => Err(TrainError::NotShared { devices }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_contiguous_and_differ_by_one_sequence_at_most() {
        assert_eq!(shards(10, 4).unwrap(), [0..3, 3..6, 6..8, 8..10]);
        assert_eq!(shards(4, 4).unwrap(), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(shards(5, 1).unwrap().first(), Some(&(0..5)));
        let text = shards(3, 4).unwrap_err().to_string();
        assert!(
            text.contains("4 devices") && text.contains("3 sequences"),
            "{text}"
        );
    }
}
