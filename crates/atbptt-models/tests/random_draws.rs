//! Dropout and initial weights: what is drawn at random. The generator is one per process, so tests here take turns.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use atbptt_models::{
    GruLayer, LanguageModel, LanguageModelConfig, LstmLayer, RecurrentModel, RnnLayer, Stack,
    StackConfig, TokenBatch, WeightInit,
};
use burn::module::Module;
use burn::nn::Initializer;
use burn::tensor::{DType, Device, Tensor};
use common::{all_devices, assert_close, noise_tensor, values, weights, with_noise};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn output(stack: &Stack<LstmLayer>, x: &Tensor<3>) -> Vec<f64> {
    values(stack.forward(x.clone(), None).unwrap().0)
}

/// Between layers: on while training, off in `valid()`, new at every call, repeated by the device's seed.
#[test]
fn dropout_between_layers_is_for_training_only() {
    let _turn = turn();
    for (backend, device) in all_devices() {
        let autodiff = device.clone().autodiff();
        let config = StackConfig::<LstmLayer>::new(4, 16).with_layers(2);
        let dropped = config.clone().with_dropout(0.5).init(&autodiff).unwrap();
        let dropped = with_noise(dropped, 2, 0.4, DType::F32);
        let plain = with_noise(config.init(&autodiff).unwrap(), 2, 0.4, DType::F32);
        let x = noise_tensor::<3>(1, [3, 5, 4], 1.0, &autodiff, DType::F32);
        let expected = output(&plain, &x);

        let inner = x.clone().inner();
        assert_eq!(output(&dropped.valid(), &inner), expected, "{backend}");
        autodiff.seed(1);
        let first = output(&dropped, &x);
        let second = output(&dropped, &x);
        assert_ne!(first, expected, "{backend}: dropout is on");
        assert_ne!(first, second, "{backend}: every call draws a new mask");
        autodiff.seed(1);
        assert_eq!(
            output(&dropped, &x),
            first,
            "{backend}: the seed repeats it"
        );

        // One layer has nothing in between.
        let one = StackConfig::<LstmLayer>::new(4, 16)
            .with_dropout(0.5)
            .init(&autodiff)
            .unwrap();
        assert_eq!(output(&one, &x), output(&one, &x));
    }
}

/// Weights this small make tanh linear, so that the mean over masks is the output without dropout. 4,000 sequences of
/// one step: within five standard errors.
#[test]
fn dropout_keeps_the_expectation() {
    let _turn = turn();
    let sequences = 4000;
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let rnn = StackConfig::<RnnLayer>::new(3, 8)
            .with_layers(2)
            .with_dropout(0.4)
            .init(&device)
            .unwrap();
        let rnn = with_noise(rnn, 5, 0.05, DType::F32);
        let x = Tensor::ones([sequences, 1, 3], &device);
        device.seed(3);
        let (with, _) = rnn.forward(x.clone(), None).unwrap();
        let (without, _) = rnn.valid().forward(x.inner(), None).unwrap();
        let with = with.inner().reshape([sequences, 8]);
        let expected = values(without.narrow(0, 0, 1));
        let mean = values(with.clone().mean_dim(0));
        let deviation = values(with.var(0).sqrt());
        for unit in 0..8 {
            let error = deviation[unit] / (sequences as f64).sqrt();
            let off = (mean[unit] - expected[unit]).abs();
            assert!(
                error > 0.0 && off < 5.0 * error,
                "{backend}: {off} of {error}"
            );
        }
    }
}

/// After the embedding and before the softmax; a probe draws masks too.
#[test]
fn a_language_model_drops_embeddings_and_features() {
    let _turn = turn();
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let config = LanguageModelConfig::new(9)
            .with_hidden(16)
            .with_dropout(0.5);
        let model: LanguageModel<LstmLayer> =
            with_noise(config.init(&device).unwrap(), 4, 0.4, DType::F32);
        let batch = |device: &Device| {
            TokenBatch::from_host(&[1, 2, 3, 4], &[2, 3, 4, 5], 2, 2, device).unwrap()
        };
        let window = batch(&device);
        let features = |model: &LanguageModel<LstmLayer>, window: &TokenBatch| {
            model.forward(window, None).unwrap().0
        };
        let (a, b) = (features(&model, &window), features(&model, &window));
        assert_ne!(values(a.clone()), values(b), "{backend}: embeddings");
        let loss = || values(model.loss(a.clone(), &window).unwrap().sum);
        assert_ne!(loss(), loss(), "{backend}: features before the softmax");

        let probe = || values(model.state_gradients(&window, None).unwrap().features);
        device.seed(8);
        let first = probe();
        assert_ne!(probe(), first, "{backend}: probes");
        device.seed(8);
        assert_eq!(probe(), first, "{backend}: the seed repeats a probe");

        let (valid, inner) = (model.valid(), batch(&device.clone().inner()));
        let (a, b) = (features(&valid, &inner), features(&valid, &inner));
        assert_eq!(values(a.clone()), values(b));
        let loss = || values(valid.loss(a.clone(), &inner).unwrap().sum);
        assert_eq!(loss(), loss(), "{backend}: validation draws nothing");
    }
}

/// All within the bound, and with a few hundred draws at least one beyond nine tenths of it.
fn fills(what: &str, drawn: Vec<f64>, bound: f64) {
    let largest = drawn.iter().fold(0.0f64, |max, w| max.max(w.abs()));
    assert!(
        largest <= bound && largest > 0.9 * bound,
        "{what}: largest {largest}, bound {bound}"
    );
    let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
    // Uniform in ±b has a standard deviation of b/√3.
    let error = bound / (3.0 * drawn.len() as f64).sqrt();
    assert!(mean.abs() < 5.0 * error, "{what}: mean {mean}");
}

#[test]
fn weights_start_within_their_bound() {
    let _turn = turn();
    for (backend, device) in all_devices() {
        device.seed(11);
        let wide = StackConfig::<LstmLayer>::new(200, 10)
            .init(&device)
            .unwrap();
        let narrow = StackConfig::<LstmLayer>::new(5, 10).init(&device).unwrap();
        let what = |name: &str| format!("{name} on {backend}");
        let of = |weight: &burn::module::Param<Tensor<2>>| values(weight.val());
        // The larger of 200 inputs and 4·10 gates; of 10 units and 40 gates.
        let bound = |larger: f64| (3.0f64 / larger).sqrt();
        fills(
            &what("input"),
            of(&wide.layers[0].input_weight),
            bound(200.0),
        );
        fills(
            &what("input"),
            of(&narrow.layers[0].input_weight),
            bound(40.0),
        );
        fills(
            &what("recurrent"),
            of(&wide.layers[0].recurrent_weight),
            bound(40.0),
        );
        let gru = StackConfig::<GruLayer>::new(5, 16)
            .with_weights(WeightInit::InverseSqrtHidden)
            .init(&device)
            .unwrap();
        fills(&what("1/√hidden"), of(&gru.layers[0].input_weight), 0.25);
        fills(
            &what("1/√hidden"),
            of(&gru.layers[0].recurrent_weight),
            0.25,
        );

        let model: LanguageModel<LstmLayer> = LanguageModelConfig::new(300)
            .with_hidden(12)
            .with_tied(false)
            .init(&device)
            .unwrap();
        fills(
            &what("embedding"),
            of(&model.embedding.weight),
            bound(300.0),
        );
        fills(
            &what("softmax"),
            of(model.softmax.as_ref().unwrap()),
            bound(300.0),
        );
        assert!(values(model.softmax_bias.val()).iter().all(|b| *b == 0.0));

        let zeros = StackConfig::<RnnLayer>::new(3, 4)
            .with_weights(WeightInit::Burn(Initializer::Zeros))
            .init(&device)
            .unwrap();
        assert!(weights(&zeros).iter().all(|w| *w == 0.0));
    }
}

/// Gates i, f, g, o: only f starts elsewhere than at zero, in every layer; cells without one ignore it.
#[test]
fn the_forget_bias_reaches_the_forget_gate_only() {
    let _turn = turn();
    for (_, device) in all_devices() {
        let lstm = StackConfig::<LstmLayer>::new(2, 3)
            .with_layers(2)
            .with_forget_bias(1.5)
            .init(&device)
            .unwrap();
        let expected = [[0.0; 3], [1.5; 3], [0.0; 3], [0.0; 3]].concat();
        for layer in &lstm.layers {
            assert_eq!(values(layer.bias.as_ref().unwrap().val()), expected);
        }
        let gru = StackConfig::<GruLayer>::new(2, 3)
            .with_forget_bias(1.5)
            .init(&device)
            .unwrap();
        assert_eq!(values(gru.layers[0].bias.as_ref().unwrap().val()), [0.0; 9]);
        let none = StackConfig::<LstmLayer>::new(2, 3)
            .with_bias(false)
            .with_forget_bias(1.5)
            .init(&device)
            .unwrap();
        assert!(none.layers[0].bias.is_none());
        let infinite = StackConfig::<LstmLayer>::new(2, 3).with_forget_bias(f64::NAN);
        assert!(infinite.init(&device).is_err());
    }
}

/// An LSTM with a strong forget bias remembers: its cell after one more step is nearly the one it was given.
#[test]
fn a_strong_forget_bias_keeps_the_cell() {
    let _turn = turn();
    let device = Device::flex();
    let zeros = WeightInit::Burn(Initializer::Zeros);
    let lstm = StackConfig::<LstmLayer>::new(2, 3)
        .with_weights(zeros)
        .with_forget_bias(40.0)
        .init(&device)
        .unwrap();
    let mut state = lstm.zero_state(1, &device);
    state[0].cell = Tensor::from_data([[0.5, -0.25, 2.0]], &device);
    let (_, after) = lstm
        .step(Tensor::ones([1, 2], &device), Some(state))
        .unwrap();
    // σ(40) = 1 − 4e-18; the candidate is tanh(0) = 0.
    assert_close(
        "cell",
        &values(after[0].cell.clone()),
        &[0.5, -0.25, 2.0],
        1e-7,
    );
}
