use std::collections::BTreeMap;

use burn::data::dataset::InMemDataset;
use burn::tensor::Tensor;

use super::*;
use crate::data::PackedSource;
use crate::source::SequenceSource;
use atbptt_models::SeriesBatch;

/// Item i is the number i.
fn dataset(items: usize) -> InMemDataset<usize> {
    InMemDataset::new((0..items).collect())
}

/// `[items, 1]`: the number, and the one after it.
#[derive(Clone)]
struct Numbers;

impl Batcher<usize, (Tensor<2>, Tensor<2>)> for Numbers {
    fn batch(&self, items: Vec<usize>, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let column = |add: usize| {
            let values: Vec<f32> = items.iter().map(|item| (item + add) as f32).collect();
            Tensor::<1>::from_floats(values.as_slice(), device).unsqueeze_dim(1)
        };
        (column(0), column(1))
    }
}

fn sequences(lengths: &[usize]) -> DatasetSequences<usize, (Tensor<2>, Tensor<2>), SeriesBatch> {
    let items = lengths.iter().sum();
    let window = |(x, y): (Tensor<2>, Tensor<2>), layout: &WindowLayout, _: &Device| {
        layout.series_batch(x, y)
    };
    DatasetSequences::new(dataset(items), Numbers, lengths, window).unwrap()
}

/// Step t of sequence s is the item after those of the sequences before it: 5, 3 and 4 items in two streams, each counted once,
/// with a reset where a sequence begins.
#[test]
fn a_dataset_and_a_batcher_of_ones_own_are_read_sequence_by_sequence_each_item_once() {
    let source = PackedSource::new(sequences(&[5, 3, 4]), 2).unwrap();
    assert_eq!(source.order(), [vec![0], vec![2, 1]]);
    let window = source.window(0, 7, &Device::default()).unwrap();
    let inputs: Vec<f32> = window.inputs().to_data().iter::<f32>().collect();
    assert_eq!(inputs[..5], [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(inputs[7..], [8.0, 9.0, 10.0, 11.0, 5.0, 6.0, 7.0]);
    assert_eq!((window.count(), window.reset_steps()), (12, vec![0, 4]));
    // In any windows, and in any order.
    let shuffled = source.with_shuffle(3);
    for epoch in 1..5 {
        let source = shuffled.epoch(epoch);
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        for start in (0..source.common_steps()).step_by(2) {
            let steps = 2.min(source.common_steps() - start);
            let window = source.window(start, steps, &Device::default()).unwrap();
            let targets: Vec<f32> = window.targets().to_data().iter::<f32>().collect();
            let there: Vec<bool> = match window.present() {
                Some(present) => present.to_data().iter::<bool>().collect(),
                None => vec![true; targets.len()],
            };
            for (target, _) in targets.iter().zip(&there).filter(|(_, there)| **there) {
                *seen.entry(*target as usize - 1).or_insert(0) += 1;
            }
        }
        assert_eq!(seen, (0..12).map(|item| (item, 1)).collect());
    }
}

#[test]
fn lengths_windows_and_datasets_that_do_not_fit_are_refused() {
    let window = |(x, y): (Tensor<2>, Tensor<2>), layout: &WindowLayout, _: &Device| {
        layout.series_batch(x, y)
    };
    for lengths in [&[5, 3][..], &[5, 6], &[], &[usize::MAX, 2]] {
        let found = DatasetSequences::new(dataset(10), Numbers, lengths, window);
        assert!(matches!(found, Err(DataError::Lengths { items: 10, .. })));
    }
    // A closure that gives another shape.
    let time_major = |(x, y): (Tensor<2>, Tensor<2>), layout: &WindowLayout, _: &Device| {
        let batch = layout.series_batch(x, y)?;
        let swapped = |tensor: &Tensor<3>| tensor.clone().swap_dims(0, 1);
        SeriesBatch::from_tensors(swapped(batch.inputs()), swapped(batch.targets()))
    };
    let odd = DatasetSequences::new(dataset(10), Numbers, &[6, 4], time_major).unwrap();
    let odd = PackedSource::new(odd, 2).unwrap();
    let error = odd.window(0, 3, &Device::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("3 sequences of 2 steps where 2 of 3")
    );

    /// Cannot be read.
    struct Broken;
    impl Dataset<usize, std::io::Error> for Broken {
        fn get(&self, _: usize) -> Result<usize, std::io::Error> {
            Err(std::io::Error::other("the disk is gone"))
        }
        fn len(&self) -> usize {
            10
        }
    }
    let broken = DatasetSequences::new(Broken, Numbers, &[10], window).unwrap();
    let broken = PackedSource::new(broken, 1).unwrap();
    let error = broken.window(0, 3, &Device::default()).unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
}
