//! What a step of Adam costs once its averages have faded.

use std::time::Instant;

use atbptt::models::ops::flushed;
use atbptt::train::device_from_env;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Int, Tensor};
use clap::Args;

use crate::Result;

#[derive(Args)]
pub struct Faded {
    /// Updates in all; averages of a weight without a gradient are subnormal from about 780 on
    #[arg(long, default_value_t = 1300)]
    updates: usize,
    /// Words of the embedding; all but 16 occur in the first update alone
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(16..))]
    words: u32,
}

/// Burn's Adam on an embedding, as it is and with subnormal numbers as zeros, which is how training runs it.
pub fn run(args: &Faded) -> Result<()> {
    let device = device_from_env()?.device.autodiff();
    for flush in [false, true] {
        let words = args.words as usize;
        let mut model: Embedding = EmbeddingConfig::new(words, 128).init(&device);
        let mut optimizer = AdamConfig::new().init();
        let mut seconds = Vec::new();
        for update in 0..args.updates {
            let occurring = if update == 0 { words } else { 16 };
            let ids = Tensor::<1, Int>::arange(0..occurring as i64, &device);
            let loss = model.forward(ids.reshape([1, occurring])).square().sum();
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            let started = Instant::now();
            let step = || optimizer.step(0.001, model, grads);
            model = if flush { flushed(step) } else { step() };
            device.sync()?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        let mode = if flush { "zeros" } else { "as they are" };
        let hundreds = seconds.chunks_exact_mut(100).map(|hundred| {
            hundred.sort_by(f64::total_cmp);
            format!("{:.2}", 1e3 * hundred[50])
        });
        let hundreds = hundreds.collect::<Vec<_>>().join(", ");
        println!(
            "Adam, {words} × 128 values, subnormal numbers {mode}: ms per step, medians of 100: {hundreds}"
        );
    }
    Ok(())
}
