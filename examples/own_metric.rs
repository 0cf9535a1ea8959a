//! How do I see the accuracy of my model, and a metric of my own?
//!
//! `cargo run --release --example own_metric` (a few seconds) writes both to `runs/own_metric-1/valid`, at the end
//! of the last epoch an accuracy of 10 % and a confidence of 0.033 (one in a thousand would be a guess), and for
//! `tensorboard --logdir runs/own_metric-1/tensorboard`. The model says what its loss compared (`with_classes`);
//! Burn's metrics and your own read it.

use atbptt::models::Predictions;
use atbptt::prelude::*;
use atbptt::train::data::{Corpus, Split, SyntheticConfig};
use atbptt::train::metrics::PredictionMetric;
use burn::nn::{self, loss::CrossEntropyLossConfig};
use burn::tensor::{Tensor, activation::softmax};
use burn::train::metric::AccuracyMetric;
use burn::{module::Module, optim::AdamConfig};

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
        let scores: Tensor<2> = self.decoder.forward(features).flatten(0, 1);
        let targets = batch.targets().clone().flatten(0, 1);
        let [count, _] = scores.dims();
        let mean = CrossEntropyLossConfig::new().init(&scores.device());
        let sum = mean.forward(scores.clone(), targets.clone()) * count as f64;
        Ok(StepLoss::new(sum, count).with_classes(scores, targets))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(40_000, 4_000, 2))?;
    // The mean probability that the model gave to the right word.
    let confidence = PredictionMetric::new("Confidence", |predictions| match predictions {
        Predictions::Classes { scores, targets } => {
            let right = targets.clone().unsqueeze_dim(1);
            let given = softmax(scores.clone(), 1).gather(1, right);
            Ok(Some((given.sum().try_into_scalar()?, targets.dims()[0])))
        }
        _ => Ok(None),
    });
    let run = Run::new(AdaptiveKConfig::new(0.5)).with_epochs(4);
    let run = run.with_tensorboard().with_supervised(|training| {
        let training = training.metric_valid_numeric(AccuracyMetric::new());
        training.metric_valid_numeric(confidence)
    });
    let (words, device) = (corpus.vocabulary().len(), run.device()?);
    let model = MyModel {
        embedding: nn::EmbeddingConfig::new(words, 64).init(&device),
        lstm: nn::LstmConfig::new(64, 64, true).init(&device),
        decoder: nn::LinearConfig::new(64, words).init(&device),
    };
    let folder = RunFolder::numbered("runs", "own_metric")?;
    let (train, valid) = (corpus.training(16)?, corpus.evaluation(Split::Valid, 16)?);
    let result = run.train(&folder, model, train, valid, AdamConfig::new().init(), 3e-3)?;
    result.print();
    Ok(())
}
