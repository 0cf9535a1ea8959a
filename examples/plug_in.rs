//! How do I train a model of my own, made of Burn's modules, with adaptive truncation?
//!
//! `cargo run --release --example plug_in` (6 epochs, about 10 seconds; a number after `--` sets the epochs) ends with
//!
//! ```text
//! device: flex
//! epoch 1: perplexity 19.52 (validation 12.53), K = 15: as configured
//! epoch 2: perplexity 10.93 (validation 10.36), K = 5: shortest length that meets the bias tolerance
//! ```
//!
//! and so on. All a model needs is `forward` and `loss`; probes find the gradient at every lag by autodiff.

use atbptt::prelude::*;
use atbptt::train::data::{Corpus, Split, SyntheticConfig, TokenStream};
use atbptt::train::{QuietRenderer, device_from_env};
use burn::module::Module;
use burn::nn::{self, loss::CrossEntropyLossConfig};
use burn::optim::AdamConfig;
use burn::tensor::Tensor;
use burn::train::{Learner, SupervisedTraining};

#[derive(Module, Debug)]
struct MyModel {
    embedding: nn::Embedding,
    lstm: nn::Lstm,
    decoder: nn::Linear,
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
        Ok(StepLoss { sum, count })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let epochs: usize = std::env::args().nth(1).map_or(Ok(6), |n| n.parse())?;
    // The built-in language: what closes an agreement was opened 4 or 12 words before.
    let language = SyntheticConfig::default()
        .with_tokens(40_000, 4_000, 2)
        .with_vocabulary(60)
        .with_distances([4, 12])
        .with_classes(4);
    let corpus = Corpus::synthetic(&language)?;
    let train = TokenStream::for_training(corpus.tokens(Split::Train), 16)?;
    let valid = TokenStream::exact(corpus.evaluation_tokens(Split::Valid), 16)?;

    let found = device_from_env()?;
    println!("device: {found}");
    let device = found.device.autodiff();
    device.seed(1);
    let (words, size) = (corpus.vocabulary().len(), 64);
    let model = MyModel {
        embedding: nn::EmbeddingConfig::new(words, size).init(&device),
        lstm: nn::LstmConfig::new(size, size, true).init(&device),
        decoder: nn::LinearConfig::new(size, words).init(&device),
    };

    // The shortest K whose gradient bias is at most a tenth of the gradient.
    let policy = AdaptiveKConfig::new(0.1)
        .with_k0(15)
        .with_k_max(40)
        .init()?;
    let config = TbpttConfig {
        probe: ProbeConfig::new(60),
        ..TbpttConfig::default()
    };
    let strategy = AdaptiveTbptt::new(policy, config)?;
    let handle = strategy.handle();
    let folder = std::env::temp_dir().join("atbptt-plug-in");
    let train = StreamLoader::tokens(train).into_loader::<MyModel>();
    let valid = StreamLoader::tokens(valid).into_loader::<MyModel>();
    let learner = Learner::new(Tbptt::new(model), AdamConfig::new().init(), 3e-3);
    let result = SupervisedTraining::new(folder, train, valid)
        .renderer(Box::new(QuietRenderer))
        .num_epochs(epochs)
        .with_training_strategy(strategy.into_strategy())
        .launch(learner);
    handle.finish(&result)?;
    for report in handle.reports() {
        println!("{report}");
    }
    Ok(())
}
