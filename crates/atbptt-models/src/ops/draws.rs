//! Dropout on several devices: a batch that is shared out drops the units that it would drop whole.
//!
//! The generators of Burn's CPU backends are one per process, so that two workers who draw from it race. Inside
//! [`SharedDraws::in_shard`] they do not: each dropout of a window has a seed of its own, a function of the window's seed and
//! of how many dropouts came before it, and a worker drops what the whole batch would have dropped in its sequences.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Device;

/// Seeds that are drawn at first; most windows need fewer.
const AT_FIRST: usize = 16;

/// The seeds of all dropouts of one window, for all workers that share it.
///
/// ```
/// use atbptt_models::ops::{self, SharedDraws};
/// use burn::nn::DropoutConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let (device, dropout) = (Device::flex().autodiff(), DropoutConfig::new(0.5).init());
/// let ones = |sequences| Tensor::<3>::ones([5, sequences, 7], &device); // [time, batch, features]
///
/// device.seed(3);
/// let whole = ops::dropout(&dropout, ones(4));
/// let draws = SharedDraws::new(3);
/// let part = draws.in_shard(1..3, 4, || ops::dropout(&dropout, ones(2)));
/// assert!(part.equal(whole.slice([0..5, 1..3, 0..7])).all().into_scalar::<bool>());
/// ```
#[derive(Clone, Debug)]
pub struct SharedDraws(Arc<Draws>);

#[derive(Debug)]
struct Draws {
    seed: u64,
    drawn: Mutex<Vec<u64>>,
}

/// One worker's place in a shared window.
struct Shard {
    draws: Arc<Draws>,
    /// Dropouts so far.
    count: usize,
    part: BatchPart,
}

thread_local! {
    static SHARD: RefCell<Option<Shard>> = const { RefCell::new(None) };
}

/// Whoever seeds the process-wide generator and draws from it holds this, so that nobody draws in between.
static GENERATOR: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seeds the generator of `device`, not while a worker of a shared window draws from it.
pub fn seed_device(device: &Device, seed: u64) {
    let _turn = lock(&GENERATOR);
    device.seed(seed);
}

impl SharedDraws {
    /// The draws of a window that would have been run after `device.seed(seed)`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Draws {
            seed,
            drawn: Mutex::new(Vec::new()),
        }))
    }

    /// Runs `work` on this thread as the part of a window that concerns the sequences `rows` of a batch of `batch`.
    ///
    /// In it, [`dropout`](crate::ops::dropout) of a tensor `[time, batch, features]` of these sequences drops, on Flex, NdArray and
    /// remote devices, the units that the whole batch would drop. Other backends draw units of their own, the same each time for the same
    /// window and sequences. Burn's own `Dropout` still draws from the generator of the process.
    pub fn in_shard<R>(&self, rows: Range<usize>, batch: usize, work: impl FnOnce() -> R) -> R {
        /// Puts back what was there, also when `work` panics.
        struct Restore(Option<Shard>);
        impl Drop for Restore {
            fn drop(&mut self) {
                SHARD.with(|shard| *shard.borrow_mut() = self.0.take());
            }
        }
        let shard = Shard {
            draws: self.0.clone(),
            count: 0,
            part: BatchPart {
                first: rows.start,
                rows: rows.len(),
                batch: batch.max(rows.end),
            },
        };
        let _restore = Restore(SHARD.with(|slot| slot.borrow_mut().replace(shard)));
        work()
    }
}

/// Sequences `first..first + rows` of a batch of `batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPart {
    /// The first sequence.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// Sequences of the whole batch.
    pub batch: usize,
}

/// Whether this thread works on a shared window.
#[cfg(all(feature = "remote", feature = "flex"))]
pub(crate) fn in_shared_window() -> bool {
    SHARD.with(|shard| shard.borrow().is_some())
}

/// One dropout of a shared window.
pub(crate) struct SharedDraw {
    draws: Arc<Draws>,
    index: usize,
    pub(crate) part: BatchPart,
}

impl SharedDraw {
    /// The next dropout on this thread, if it works on a shared window.
    pub(crate) fn next() -> Option<Self> {
        SHARD.with(|shard| {
            let mut shard = shard.borrow_mut();
            let shard = shard.as_mut()?;
            let index = shard.count;
            shard.count += 1;
            Some(Self {
                draws: shard.draws.clone(),
                index,
                part: shard.part,
            })
        })
    }

    /// The seed that the whole batch would have drawn: `generator` is seeded with the first argument and draws as many seeds
    /// as the second says.
    pub(crate) fn seed(
        &self,
        generator: impl FnOnce(u64, usize) -> Option<Vec<u64>>,
    ) -> Option<u64> {
        let mut drawn = lock(&self.draws.drawn);
        if drawn.len() <= self.index {
            let count = AT_FIRST.max(2 * self.index);
            let _turn = lock(&GENERATOR);
            *drawn = generator(self.draws.seed, count)?;
        }
        drawn.get(self.index).copied()
    }

    /// What `draw` draws from a generator that it seeds with its argument: a seed of this dropout and these sequences alone.
    pub(crate) fn alone<R>(&self, draw: impl FnOnce(u64) -> R) -> R {
        let place = [self.index as u64, self.part.first as u64];
        let _turn = lock(&GENERATOR);
        draw(atbptt_core::seed::mix(self.draws.seed, place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_depend_on_the_window_and_not_on_who_asks_first() {
        let generator = |seed, count| Some((0..count as u64).map(|i| 1000 * seed + i).collect());
        let draws = SharedDraws::new(7);
        let late = draws.in_shard(0..2, 4, || {
            for _ in 0..40 {
                SharedDraw::next().unwrap();
            }
            SharedDraw::next().unwrap().seed(generator)
        });
        let early = draws.in_shard(2..4, 4, || SharedDraw::next().unwrap().seed(generator));
        assert_eq!((late, early), (Some(7040), Some(7000)));
        assert!(SharedDraw::next().is_none());
    }

    #[test]
    fn a_panic_ends_the_shared_window() {
        let draws = SharedDraws::new(1);
        let panicked = std::panic::catch_unwind(|| draws.in_shard(0..1, 2, || panic!("inside")));
        assert!(panicked.is_err() && SharedDraw::next().is_none());
    }
}
