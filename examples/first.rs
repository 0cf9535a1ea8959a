//! What does a first program look like? This is the README's.
//!
//! `cargo run --release --example first` (ten seconds) prints a line per epoch and ends with a validation loss of 4.22, which is a
//! perplexity of 68; it leaves a run folder in `runs/`.

use atbptt::prelude::*;
use atbptt::train::data::{Corpus, Split, SyntheticConfig};
use burn::optim::SgdConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let corpus = Corpus::synthetic(&SyntheticConfig::default())?;

    // Tolerate a gradient bias of a tenth of the gradient; K starts at 20 and stays within 200.
    let run = Run::new(AdaptiveKConfig::new(0.1).with_k0(20).with_k_max(200))
        .with_training(TbpttConfig {
            probe: ProbeConfig::new(250),
            ..TbpttConfig::default()
        })
        .with_epochs(5);
    let model: LanguageModel<LstmLayer> = LanguageModelConfig::new(corpus.vocabulary().len())
        .with_hidden(64)
        .init(&run.device()?)?;

    let folder = RunFolder::numbered("runs", "first")?;
    let (train, valid) = (corpus.training(16)?, corpus.evaluation(Split::Valid, 16)?);
    let result = run.train(&folder, model, train, valid, SgdConfig::new().init(), 10.0)?;
    result.print();
    Ok(())
}
