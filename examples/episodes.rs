//! How do I train on episodes of unequal length?
//!
//! `cargo run --release --example episodes` (a few seconds) prints
//!
//! ```text
//! 24 episodes of 20 to 250 steps in 4 streams: 3240 steps, each counted once per epoch
//! ```
//!
//! and a validation loss that falls. Episodes are packed into parallel streams: where one ends and the next begins, the state
//! goes back to the start, which this model learns, and no gradient passes. Their order is drawn anew for every epoch.

use atbptt::models::{LstmLayer, SeriesModel, SeriesModelConfig};
use atbptt::prelude::*;
use atbptt::train::data::{PackedSource, Series, SeriesSet};
use atbptt::train::run::say;
use burn::optim::AdamConfig;

/// A swing that is let go and pushed now and then: from the pushes alone, where is it?
fn episode(steps: usize, nth: usize) -> Result<Series, atbptt::train::data::DataError> {
    let (mut angle, mut speed) = (1.0f32, 0.0f32);
    let (mut pushes, mut angles) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let push = if (step + 7 * nth).is_multiple_of(17) {
            0.5
        } else {
            0.0
        };
        speed += push - 0.15 * angle - 0.05 * speed;
        angle += speed;
        pushes.push(push);
        angles.push(angle);
    }
    Series::new(pushes, 1, angles, 1)
}

fn episodes(
    lengths: impl Iterator<Item = usize>,
) -> Result<SeriesSet, atbptt::train::data::DataError> {
    let episodes = lengths.enumerate().map(|(nth, steps)| episode(steps, nth));
    SeriesSet::new(episodes.collect::<Result<_, _>>()?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let train = PackedSource::new(episodes((0..24).map(|n| 20 + 10 * n))?, 4)?.with_shuffle(1);
    let valid = PackedSource::new(episodes([40, 90, 140, 190].into_iter())?, 4)?;
    say(format_args!(
        "{} episodes of 20 to 250 steps in {} streams: {} steps, each counted once per epoch",
        train.set().series().len(),
        train.sequences(),
        train.steps_counted()
    ));
    let run = Run::new(AdaptiveKConfig::new(0.1).with_k0(20).with_k_max(60))
        .with_training(TbpttConfig {
            probe: ProbeConfig::new(80),
            clip: Clip::Norm(1.0),
            ..TbpttConfig::default()
        })
        .with_loss_name("Mean squared error")
        .must_match("data", train.set().content_hash())
        .with_epochs(10);
    let model: SeriesModel<LstmLayer> = SeriesModelConfig::new(1, 1, 24)
        .with_learned_start(true)
        .init(&run.device()?)?;
    let folder = RunFolder::numbered("runs", "episodes")?;
    let result = run.train(&folder, model, train, valid, AdamConfig::new().init(), 5e-3)?;
    result.print();
    Ok(())
}
