//! The baselines in the training loop: unbiased random truncation against full backpropagation, random lengths with their step
//! sizes, and measures after every epoch.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::collections::BTreeMap;

use atbptt_core::policy::{
    ArtbpConfig, FixedKConfig, NextWindow, RandomLengthConfig, TruncationPolicy,
};
use atbptt_models::{
    LanguageModel, LanguageModelConfig, LstmLayer, RecurrentModel, RecurrentState, SequenceBatch,
    TokenBatch, WindowPlan,
};
use atbptt_train::data::{Corpus, Split, SyntheticConfig};
use atbptt_train::{
    AdaptiveTbptt, Clip, EpochReport, ProbeConfig, Scheme, SequenceSource, StepScaling, Tbptt,
    TbpttConfig, TokenSource, TrainError, evaluate, measured_bias, measured_bias_of_all_weights,
    quiet_renderer, stream_loader,
};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn::train::{Learner, SupervisedTraining};

use crate::common::turn;

type Model = LanguageModel<LstmLayer>;

const STEPS: usize = 7;

/// Two layers of three units over five words, in doubles.
fn tiny() -> Model {
    struct Doubles;
    impl ModuleMapper for Doubles {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let value = param.val();
            let values: Vec<f64> = value.to_data().iter::<f64>().map(|x| 2.0 * x).collect();
            let data = TensorData::new(values, value.dims());
            let device = value.device();
            Param::from_tensor(Tensor::from_data(data, (&device, DType::F64)))
        }
    }
    let device = Device::flex().autodiff();
    device.seed(4);
    let model: Model = LanguageModelConfig::new(5)
        .with_hidden(3)
        .with_layers(2)
        .with_dropout(0.0)
        .init(&device)
        .unwrap();
    model.map(&mut Doubles)
}

fn words() -> TokenBatch {
    let ids = |offset: usize| -> Vec<i64> {
        (0..2 * STEPS)
            .map(|i| ((i * i + 3 * i + offset) % 5) as i64)
            .collect()
    };
    TokenBatch::from_host(&ids(0), &ids(2), 2, STEPS, &Device::flex().autodiff()).unwrap()
}

fn gradient(model: &Model, loss: Tensor<1>) -> Vec<f64> {
    struct Collect(GradientsParams, Vec<f64>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = self
                .0
                .get::<D>(param.id)
                .expect("every parameter has a gradient");
            self.1.extend(grad.into_data().iter::<f64>());
        }
    }
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let mut collect = Collect(grads, Vec::new());
    model.visit(&mut collect);
    collect.1
}

fn full_gradient(model: &Model) -> Vec<f64> {
    let plan = WindowPlan {
        warm_up: 0,
        loss_from: 0,
        carry: STEPS,
    };
    gradient(model, model.window(&words(), None, plan).unwrap().loss.sum)
}

/// Gradient of the summed loss with cuts at the end of the windows of these lengths, compensated in between.
fn cut_gradient(model: &Model, lengths: &[usize], factors: &[f64]) -> Vec<f64> {
    let batch = words();
    let mut state = None;
    let mut total: Option<Vec<f64>> = None;
    let mut start = 0;
    for &length in lengths {
        let end = (start + length).min(STEPS);
        let piece = batch.slice(start..end);
        let window = model
            .compensated_window(&piece, state, &factors[..end - start - 1])
            .unwrap();
        let part = gradient(model, window.loss.sum);
        total = Some(match total {
            Some(sum) => sum.iter().zip(&part).map(|(a, b)| a + b).collect(),
            None => part,
        });
        state = window.state;
        start = end;
        if start == STEPS {
            break;
        }
    }
    assert_eq!(start, STEPS);
    total.unwrap()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn norm(a: &[f64]) -> f64 {
    distance(a, &vec![0.0; a.len()])
}

/// The first window that reaches over all steps.
fn longest(policy: &mut impl TruncationPolicy) -> NextWindow {
    loop {
        let window = policy.next_window();
        if window.k >= STEPS {
            return window;
        }
    }
}

/// Over all 2^6 ways to cut seven steps, weighed by their probability, the compensated gradients sum to the full one, to
/// the rounding of doubles. Without the compensation they do not.
#[test]
fn artbp_is_unbiased_in_exact_expectation() {
    let _turn = turn();
    let model = tiny();
    let full = full_gradient(&model);
    for alpha in [None, Some(4.0)] {
        let config = ArtbpConfig::new(3).with_alpha(alpha).with_longest(STEPS);
        let mut policy = config.init().unwrap();
        let factors = longest(&mut policy).compensation;
        let expectation = |factors: &[f64]| {
            let mut mean = vec![0.0; full.len()];
            let mut certain = 0.0;
            for pattern in 0..1u32 << (STEPS - 1) {
                let (mut lengths, mut weight, mut since) = (Vec::new(), 1.0, 0);
                for boundary in 0..STEPS {
                    since += 1;
                    if boundary == STEPS - 1 {
                        lengths.push(since);
                        break;
                    }
                    let cut = config.cut_probability(since);
                    match pattern >> boundary & 1 {
                        1 => {
                            weight *= cut;
                            lengths.push(since);
                            since = 0;
                        }
                        _ => weight *= 1.0 - cut,
                    }
                }
                certain += weight;
                for (sum, part) in mean.iter_mut().zip(cut_gradient(&model, &lengths, factors)) {
                    *sum += weight * part;
                }
            }
            assert!((certain - 1.0f64).abs() < 1e-12);
            mean
        };
        let off = distance(&expectation(&factors), &full) / norm(&full);
        assert!(off < 1e-12, "{alpha:?}: off by {off}");
        let plain = distance(&expectation(&[1.0; STEPS]), &full) / norm(&full);
        assert!(
            plain > 1e-3,
            "{alpha:?}: plain random cuts are off by {plain} only"
        );
    }
}

/// The policy's own draws, 3,000 sequences of windows: the mean gradient lies within five standard errors of the full one,
/// component by component (of 100 components, one beyond that is a chance of 1 in 20,000).
#[test]
fn artbp_is_unbiased_over_its_own_draws() {
    let _turn = turn();
    let model = tiny();
    let full = full_gradient(&model);
    let mut policy = ArtbpConfig::new(3)
        .with_longest(60)
        .with_seed(9)
        .init()
        .unwrap();
    let (mut sum, mut squares) = (vec![0.0; full.len()], vec![0.0; full.len()]);
    const DRAWS: usize = 3_000;
    // Gradients per set of lengths: there are few.
    let mut known: BTreeMap<Vec<usize>, Vec<f64>> = BTreeMap::new();
    let factors = longest(&mut policy.clone()).compensation;
    for _ in 0..DRAWS {
        let (mut lengths, mut covered) = (Vec::new(), 0);
        while covered < STEPS {
            let window = policy.next_window();
            let length = window.k;
            assert_eq!(window.compensation, factors_of(length));
            lengths.push(length.min(STEPS - covered));
            covered += length;
        }
        let gradient = known
            .entry(lengths)
            .or_insert_with_key(|lengths| cut_gradient(&model, lengths, &factors));
        for ((sum, squares), value) in sum.iter_mut().zip(&mut squares).zip(gradient.iter()) {
            *sum += *value;
            *squares += *value * *value;
        }
    }
    let count = DRAWS as f64;
    for ((sum, squares), full) in sum.iter().zip(&squares).zip(&full) {
        let mean = sum / count;
        let error = ((squares / count - mean * mean).max(0.0) / count).sqrt();
        assert!(
            (mean - full).abs() <= 5.0 * error + 1e-12,
            "{mean} ± {error}, full {full}"
        );
    }
}

/// 1/(1 − c_i) from the formula, for α = 6 and L₀ = 3: c_i = 5/(12 + i).
fn factors_of(length: usize) -> Vec<f64> {
    (1..length)
        .map(|i| 1.0 / (1.0 - 5.0 / (12.0 + i as f64)))
        .collect()
}

/// What `measured_bias` says, by hand: the gradient of the last step's loss through all steps, and with the state before
/// the last K steps held fixed. In doubles, to their rounding; W = 7, no burn-in, one window per sequence.
#[test]
fn measured_bias_is_the_relative_distance_of_the_truncated_gradient() {
    let _turn = turn();
    /// Two sequences of exactly one window.
    struct OneWindow;
    impl SequenceSource for OneWindow {
        type Batch = TokenBatch;
        fn sequences(&self) -> usize {
            2
        }
        fn common_steps(&self) -> usize {
            STEPS
        }
        fn active(&self, step: usize) -> usize {
            if step < STEPS { 2 } else { 0 }
        }
        fn window(&self, start: usize, len: usize, _: &Device) -> Result<TokenBatch, TrainError> {
            Ok(words().slice(start..start + len))
        }
        fn gather(
            &self,
            starts: &[usize],
            len: usize,
            device: &Device,
        ) -> Result<TokenBatch, TrainError> {
            self.window(starts[0], len, device)
        }
    }
    let model = tiny();
    let device = Device::flex().autodiff();
    let config = ProbeConfig::new(STEPS).with_burn_in(0);
    let ks = [1, 3, STEPS, 100];
    let exact = Scheme::Strided { losses: 1 };
    let bias = |ks: &[usize], seeds: &[u64]| {
        let config = config.clone();
        measured_bias(&model, &OneWindow, config, exact, ks, seeds, &device)
    };
    let recurrent = bias(&ks, &[1, 2]).unwrap();
    let seeds = [1, 2];
    let of_all = measured_bias_of_all_weights(
        &model,
        &OneWindow,
        config.clone(),
        exact,
        &ks,
        &seeds,
        &device,
    )
    .unwrap();
    let last = words().slice(STEPS - 1..STEPS);
    let truncated = |kept: usize| {
        let state = (kept < STEPS).then(|| {
            let (_, state) = model
                .forward(&words().slice(0..STEPS - kept), None)
                .unwrap();
            state.detach()
        });
        let (features, _) = model
            .forward(&words().slice(STEPS - kept..STEPS), state)
            .unwrap();
        let features = features.narrow(1, kept - 1, 1);
        gradient(&model, model.loss(features, &last).unwrap().sum)
    };
    let full = truncated(STEPS);
    for k in ks {
        let expected = distance(&truncated(k.min(STEPS)), &full) / norm(&full);
        let at = k.min(STEPS);
        let (all, error) = of_all.as_measured(at).unwrap();
        assert!(
            (all - expected).abs() < 1e-12,
            "K = {k}: {all}, expected {expected}"
        );
        assert!(k >= STEPS || all > 1e-4);
        // Two windows that are the same leave no doubt, but two are too few to say so.
        assert_eq!(error, f64::INFINITY);
        assert!(k >= STEPS || recurrent.as_measured(at).unwrap().0 > all);
    }
    for (ks, seeds) in [(&[0usize][..], &[1u64, 2][..]), (&[1], &[3]), (&[1], &[])] {
        let error = bias(ks, seeds).unwrap_err();
        assert!(error.to_string().contains("at least"), "{error}");
    }
}

/// Factors change no value: the loss and the state are those of the plain window, to rounding.
#[test]
fn compensation_leaves_values_as_they_are() {
    let _turn = turn();
    let model = tiny();
    let plan = WindowPlan {
        warm_up: 0,
        loss_from: 0,
        carry: STEPS,
    };
    let plain = model.window(&words(), None, plan).unwrap();
    let factors = [1.5, 2.0, 3.0, 1.0, 7.0, 1.1];
    let compensated = model.compensated_window(&words(), None, &factors).unwrap();
    let values = |tensor: Tensor<1>| tensor.into_data().iter::<f64>().next().unwrap();
    let (a, b) = (values(plain.loss.sum), values(compensated.loss.sum));
    assert!((a - b).abs() < 1e-12, "{a} and {b}");
    assert_eq!(plain.loss.count, compensated.loss.count);
    let (a, b) = (
        plain.state.unwrap().parts(),
        compensated.state.unwrap().parts(),
    );
    for (a, b) in a.into_iter().zip(b) {
        let off: f64 = (a - b).abs().max().into_scalar();
        assert!(off < 1e-13);
    }
}

fn corpus() -> Corpus {
    let language = SyntheticConfig::default()
        .with_tokens(1604, 202, 2)
        .with_vocabulary(36)
        .with_distances([3])
        .with_classes(2);
    Corpus::synthetic(&language).unwrap()
}

fn config(scheme: Scheme) -> TbpttConfig {
    TbpttConfig {
        scheme,
        step_scaling: StepScaling::None,
        clip: Clip::Norm(1.0),
        probe: ProbeConfig::new(20),
        eval_chunk: 20,
        ..TbpttConfig::default()
    }
}

fn trained(strategy: AdaptiveTbptt, epochs: usize) -> (Result<(), TrainError>, Vec<EpochReport>) {
    let corpus = corpus();
    let device = Device::flex().autodiff();
    device.seed(1);
    let model: Model = LanguageModelConfig::new(corpus.vocabulary().len())
        .with_hidden(12)
        .with_dropout(0.0)
        .init(&device)
        .unwrap();
    let train = TokenSource::training(corpus.tokens(Split::Train), 4).unwrap();
    let valid = TokenSource::evaluation(corpus.tokens(Split::Valid), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let handle = strategy.handle();
    let result = SupervisedTraining::new(
        folder.path(),
        stream_loader::<Model>(train),
        stream_loader::<Model>(valid),
    )
    .renderer(quiet_renderer())
    .with_application_logger(None)
    .num_epochs(epochs)
    .with_training_strategy(strategy.into_strategy())
    .launch(Learner::new(
        Tbptt::new(model),
        AdamConfig::new().init(),
        1e-2,
    ));
    (handle.finish(&result), handle.reports())
}

/// Every loss is counted once whatever the lengths, and training learns.
#[test]
fn random_policies_train() {
    let _turn = turn();
    let policies: [(Box<dyn TruncationPolicy>, Scheme); 3] = [
        (
            Box::new(RandomLengthConfig::new(12).init().unwrap()),
            Scheme::Chunked,
        ),
        (
            Box::new(RandomLengthConfig::new(12).init().unwrap()),
            Scheme::Overlapping,
        ),
        (
            Box::new(ArtbpConfig::new(8).with_longest(40).init().unwrap()),
            Scheme::Chunked,
        ),
    ];
    for (policy, scheme) in policies {
        let name = format!("{policy:?}");
        let typical = policy.k() as f64;
        let strategy = AdaptiveTbptt::new(policy, config(scheme)).unwrap();
        let (outcome, reports) = trained(strategy, 3);
        outcome.unwrap();
        assert!(
            reports[2].train_loss < 0.95 * reports[0].train_loss,
            "{name}"
        );
        for report in &reports {
            assert_eq!(report.tokens, 1600, "{name}");
            assert!(
                (report.mean_k / typical - 1.0).abs() < 0.5,
                "{name}: {}",
                report.mean_k
            );
        }
    }
}

/// ARTBP on overlapping windows would be something else.
#[test]
fn artbp_refuses_overlapping_windows() {
    let policy = ArtbpConfig::new(8).init().unwrap();
    let error = AdaptiveTbptt::new(policy, config(Scheme::Overlapping))
        .err()
        .unwrap();
    assert!(error.to_string().contains("Scheme::Chunked"), "{error}");
}

/// What is measured is the model after the epoch, in evaluation mode: its validation loss is the report's.
#[test]
fn measures_see_the_model_after_every_epoch() {
    let _turn = turn();
    let valid = TokenSource::evaluation(corpus().tokens(Split::Valid), 1).unwrap();
    let strategy = AdaptiveTbptt::new(
        FixedKConfig::new(6).init().unwrap(),
        config(Scheme::Overlapping),
    )
    .unwrap()
    .with_measures(move |model: &Model| {
        let source = valid.clone();
        let loss = evaluate(model, &source, 20, &Device::flex())?;
        Ok([("loss", loss.sum / loss.count as f64)])
    });
    let (outcome, reports) = trained(strategy, 2);
    outcome.unwrap();
    for report in reports {
        assert_eq!(report.measures.get("loss").copied(), report.valid_loss);
    }
}

#[test]
fn measures_of_another_model_are_refused() {
    let _turn = turn();
    type Other = LanguageModel<atbptt_models::GruLayer>;
    let strategy = AdaptiveTbptt::new(
        FixedKConfig::new(6).init().unwrap(),
        config(Scheme::Overlapping),
    )
    .unwrap()
    .with_measures(|_: &Other| Ok([("none", 0.0)]));
    let error = trained(strategy, 1).0.unwrap_err();
    assert!(error.to_string().contains("measures"), "{error}");
}
