//! How do I train on a `Dataset` and a `Batcher` that I already have?
//!
//! `cargo run --release --example own_data` (a few seconds) ends with a validation loss far below 1, the variance of the
//! targets, and leaves a run folder in `runs/`.
//!
//! Neither dataset nor batcher knows of sequences: an item is one step. `DatasetSequences` is told how many items each sequence
//! has, and how the batcher's rows become `[batch, time, …]`.

use atbptt::models::{GruLayer, SeriesBatch, SeriesModel, SeriesModelConfig};
use atbptt::prelude::*;
use atbptt::train::data::{DatasetSequences, PackedSource};
use burn::data::{dataloader::batcher::Batcher, dataset::InMemDataset};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor, TensorData};

/// One step: what a leaky tank gets, and how full it is afterwards.
#[derive(Clone, Debug)]
struct Reading {
    inflow: f32,
    level: f32,
}

/// Any batcher: rows of inputs, and of targets.
struct Readings;

impl Batcher<Reading, (Tensor<2>, Tensor<2>)> for Readings {
    fn batch(&self, items: Vec<Reading>, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let column = |of: fn(&Reading) -> f32| {
            let values: Vec<f32> = items.iter().map(of).collect();
            Tensor::from_data(TensorData::new(values, [items.len(), 1]), device)
        };
        (column(|item| item.inflow), column(|item| item.level))
    }
}

/// The level falls by a twentieth per step: what flowed in is remembered for a while.
fn readings(steps: usize) -> Vec<Reading> {
    let (mut level, mut open) = (0.0, 1.0f32);
    let reading = |step: usize| {
        if (step * step).is_multiple_of(13) {
            open = -open;
        }
        level = 0.95 * level + 0.3 * open;
        Reading {
            inflow: open,
            level,
        }
    };
    (0..steps).map(reading).collect()
}

fn source(lengths: &[usize]) -> Result<impl SequenceSource<Batch = SeriesBatch>, TrainError> {
    let items = InMemDataset::new(readings(lengths.iter().sum()));
    let sequences = DatasetSequences::new(items, Readings, lengths, |(x, y), layout, _device| {
        layout.series_batch(x, y)
    })?;
    Ok(PackedSource::new(sequences, 4)?.with_shuffle(1))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run = Run::new(AdaptiveKConfig::new(0.1).with_k0(20).with_k_max(60))
        .with_training(TbpttConfig {
            probe: ProbeConfig::new(80),
            clip: Clip::Norm(1.0),
            ..TbpttConfig::default()
        })
        .with_loss_name("Mean squared error")
        .with_epochs(10);
    let model: SeriesModel<GruLayer> = SeriesModelConfig::new(1, 1, 16).init(&run.device()?)?;
    let folder = RunFolder::numbered("runs", "own_data")?;
    let (train, valid) = (
        source(&[900, 700, 500, 400, 300])?,
        source(&[200, 150, 100, 90])?,
    );
    let result = run.train(&folder, model, train, valid, AdamConfig::new().init(), 3e-3)?;
    result.print();
    Ok(())
}
