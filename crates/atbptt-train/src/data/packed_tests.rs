use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Gives the layout itself as the batch.
#[derive(Debug)]
struct Lengths(Vec<usize>);

#[derive(Clone)]
struct Laid(WindowLayout);

impl SequenceBatch for Laid {
    fn steps(&self) -> usize {
        self.0.time()
    }
    fn sequences(&self) -> usize {
        self.0.batch()
    }
    fn slice(&self, _range: Range<usize>) -> Self {
        self.clone()
    }
}

impl SequenceSet for Lengths {
    type Batch = Laid;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn steps(&self, sequence: usize) -> usize {
        self.0.get(sequence).copied().unwrap_or(0)
    }
    fn batch(&self, window: &WindowLayout, _device: &Device) -> Result<Laid, TrainError> {
        Ok(Laid(window.clone()))
    }
}

fn source(lengths: &[usize], batch: usize) -> PackedSource<Lengths> {
    PackedSource::new(Lengths(lengths.to_vec()), batch).unwrap()
}

/// How often each step counts in one pass by windows of `len`, and at which places sequences begin.
fn pass(source: &PackedSource<Lengths>, len: usize) -> (BTreeMap<(usize, usize), usize>, usize) {
    let mut counted = BTreeMap::new();
    let mut begun = 0;
    let mut start = 0;
    while start < source.common_steps() {
        let time = len.min(source.common_steps() - start);
        let window = source.window(start, time, &Device::default()).unwrap().0;
        assert_eq!(window.places().count(), window.batch() * time);
        let marks = window.counted().into_iter().zip(window.begins());
        for (place, (counts, begins)) in window.places().zip(marks) {
            assert!(
                place.1 < source.set().steps(place.0),
                "{place:?} does not exist"
            );
            if counts {
                *counted.entry(place).or_insert(0) += 1;
                assert_eq!(begins, place.1 == 0, "{place:?}");
                begun += usize::from(begins);
            } else {
                assert!(!begins);
            }
        }
        start += time;
    }
    (counted, begun)
}

#[test]
fn of_lengths_2000_1500_900_250_every_step_counts_once_per_epoch() {
    for batch in [1, 2, 3, 4] {
        let shuffled = source(&[2000, 1500, 900, 250], batch).with_shuffle(3);
        for epoch in 1..4 {
            let source = shuffled.epoch(epoch);
            let (counted, begun) = pass(&source, 77);
            assert_eq!(counted.len(), 4650);
            assert!(counted.values().all(|&times| times == 1));
            assert_eq!((begun, source.steps_counted()), (4, 4650));
            assert_eq!(source.common_steps(), shuffled.common_steps());
        }
    }
    // Longest first: 2000 beside 1500 + 900, and 250 behind the shorter.
    assert_eq!(
        source(&[2000, 1500, 900, 250], 2).order(),
        [vec![0, 3], vec![1, 2]]
    );
}

#[test]
fn the_order_is_a_function_of_seed_and_epoch() {
    let lengths = [5; 40];
    let of = |seed: u64, epoch: usize| source(&lengths, 4).with_shuffle(seed).epoch(epoch).order();
    assert_eq!(of(1, 2), of(1, 2));
    assert_ne!(of(1, 2), of(1, 3));
    assert_ne!(of(1, 2), of(2, 2));
    let plain = source(&lengths, 4);
    assert_eq!(plain.epoch(2).order(), plain.order());
    assert!(plain.in_epoch(2).is_none());
    let second = plain.clone().with_shuffle(1);
    assert!(
        second
            .in_epoch(2)
            .is_some_and(|source| source.common_steps() == 50)
    );
}

#[test]
fn a_stream_that_has_ended_is_filled_with_steps_that_do_not_count() {
    let source = source(&[4, 2], 2);
    let window = source.window(1, 3, &Device::default()).unwrap().0;
    let places: Vec<_> = window.places().collect();
    assert_eq!(places, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 1), (1, 1)]);
    assert_eq!(window.counted(), [true, true, true, true, false, false]);
    assert!(!window.is_full());
    let mask = window.counted_mask(&Device::default()).unwrap();
    assert_eq!(
        mask.into_data().iter::<bool>().collect::<Vec<_>>(),
        window.counted()
    );
    assert!(window.reset(&Device::default()).is_none());
}

#[test]
fn a_window_may_hold_several_sequences_and_gathers_anywhere() {
    let source = source(&[2, 1, 3], 1);
    // Longest first.
    assert_eq!(source.order(), [[2, 0, 1]]);
    let window = source.gather(&[2], 4, &Device::default()).unwrap().0;
    assert_eq!(
        window.places().collect::<Vec<_>>(),
        [(2, 2), (0, 0), (0, 1), (1, 0)]
    );
    assert_eq!(window.begins(), [false, true, false, true]);
    let reset = window.reset(&Device::default()).unwrap();
    assert_eq!(reset.dims(), [1, 4]);
}

#[test]
fn batches_that_cannot_be_filled_and_windows_outside_are_refused() {
    let new = |lengths: &[usize], batch| PackedSource::new(Lengths(lengths.to_vec()), batch);
    assert!(matches!(new(&[3], 0), Err(DataError::EmptyBatch)));
    // A sequence without a step fills no stream.
    let found = new(&[3, 0, 2], 3);
    assert!(matches!(
        found,
        Err(DataError::TooFewSequences {
            batch: 3,
            sequences: 2
        })
    ));
    assert!(matches!(
        new(&[], 1),
        Err(DataError::TooFewSequences { .. })
    ));
    let source = source(&[4, 2], 2);
    for (start, len) in [(0, 5), (4, 1), (usize::MAX, 2), (1, usize::MAX)] {
        let found = source.window(start, len, &Device::default());
        assert!(matches!(
            found,
            Err(TrainError::Data(DataError::WindowTooLong { .. }))
        ));
    }
    let found = source.window(0, 0, &Device::default());
    assert!(matches!(
        found,
        Err(TrainError::Data(DataError::EmptyWindow))
    ));
    let found = source.gather(&[0], 1, &Device::default());
    assert!(matches!(
        found,
        Err(TrainError::Data(DataError::StartCount { batch: 2, got: 1 }))
    ));
}

proptest! {
    #[test]
    fn prop_every_step_counts_once_whatever_the_lengths(
        lengths in proptest::collection::vec(0usize..30, 1..12),
        batch in 1usize..5,
        len in 1usize..40,
        seed in any::<u64>(),
    ) {
        let real = lengths.iter().filter(|&&steps| steps > 0).count();
        prop_assume!(real >= batch);
        let total: usize = lengths.iter().sum();
        let packed = source(&lengths, batch).with_shuffle(seed).epoch(3);
        let (counted, begun) = pass(&packed, len);
        prop_assert!(counted.values().all(|&times| times == 1));
        prop_assert_eq!((counted.len(), begun), (total, real));
        // Graham's bound.
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let best = longest.max(total.div_ceil(batch));
        prop_assert!(3 * packed.common_steps() <= 4 * best + 3 * longest);
    }
}
