//! How do I train a model of my own, made of Burn's modules, with adaptive truncation?
//!
//! ```text
//! cargo run --release --example plug_in                              # 6 epochs, about 10 seconds
//! cargo run --release --example plug_in -- --resume runs/plug_in-1   # after Ctrl-C, or to train up to 12 epochs
//! ```
//!
//! prints a line per epoch, such as
//!
//! ```text
//! epoch 3: perplexity 10.35 (validation 10.37), K = 2: bias 0.080 ± 0.070 of the gradient; noise outweighs it for the next 2000 updates
//! ```
//!
//! and leaves metrics, checkpoints and a figure in `runs/plug_in-1`. All a model needs is `forward` and `loss`;
//! probes find the gradient at every lag by autodiff.

use std::process::ExitCode;

use atbptt::prelude::*;
use atbptt::train::data::{Corpus, Split, SyntheticConfig};
use burn::module::Module;
use burn::nn::{self, loss::CrossEntropyLossConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor};

#[derive(Module, Debug)]
struct MyModel {
    embedding: nn::Embedding,
    lstm: nn::Lstm,
    decoder: nn::Linear,
}

impl MyModel {
    fn new(words: usize, size: usize, device: &Device) -> Self {
        Self {
            embedding: nn::EmbeddingConfig::new(words, size).init(device),
            lstm: nn::LstmConfig::new(size, size, true).init(device),
            decoder: nn::LinearConfig::new(size, words).init(device),
        }
    }
}

impl RecurrentModel for MyModel {
    type Batch = TokenBatch;
    type State = nn::LstmState<2>;

    fn forward(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        let embedded = self.embedding.forward(batch.inputs().clone());
        Ok(self.lstm.forward(embedded, state))
    }

    fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
        let logits: Tensor<2> = self.decoder.forward(features).flatten(0, 1);
        let targets = batch.targets().clone().flatten(0, 1);
        let [count, _] = logits.dims();
        let mean = CrossEntropyLossConfig::new().init(&logits.device());
        let sum = mean.forward(logits, targets) * count as f64;
        Ok(StepLoss::new(sum, count))
    }
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    // The built-in language: what closes an agreement was opened 4 or 12 words before.
    let language = SyntheticConfig::default()
        .with_tokens(40_000, 4_000, 2)
        .with_vocabulary(60)
        .with_distances([4, 12])
        .with_classes(4);
    let corpus = Corpus::synthetic(&language)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, epochs) = match arguments.as_slice() {
        [] => (RunFolder::numbered("runs", "plug_in")?, 6),
        [option, run] if option == "--resume" => (RunFolder::resume(run)?, 12),
        _ => return Err("usage: plug_in [--resume RUN]".into()),
    };

    // The shortest K whose gradient bias is at most a tenth of the gradient.
    let run = Run::new(AdaptiveKConfig::new(0.1).with_k0(15).with_k_max(40))
        .with_training(TbpttConfig {
            probe: ProbeConfig::new(60),
            ..TbpttConfig::default()
        })
        .with_epochs(epochs)
        .must_match("data", corpus.fingerprint())
        .stop_on_signals();
    let model = MyModel::new(corpus.vocabulary().len(), 64, &run.device()?);
    let (train, valid) = (corpus.training(16)?, corpus.evaluation(Split::Valid, 16)?);
    let result = run.train(&folder, model, train, valid, AdamConfig::new().init(), 3e-3)?;
    result.print();
    Ok(result.exit_code())
}
