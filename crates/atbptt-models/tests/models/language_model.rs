//! [`LanguageModel`] against the default bodies of [`RecurrentModel`]: the fused window and the fused state taps must
//! give what forward and loss alone give. And what a language model refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

mod refusals;

use crate::common::{
    all_devices, assert_close, by_precision, finest, noise_tensor, state_values, values,
    weight_gradients, with_noise, worst,
};
use atbptt_core::LagNorms;
use atbptt_models::{
    GruLayer, LanguageModel, LanguageModelConfig, LstmLayer, ModelError, RecurrentLayer,
    RecurrentModel, RecurrentState, RnnLayer, SequenceBatch, StateGradients, StepLoss, TokenBatch,
    WindowPlan,
};
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const VOCABULARY: usize = 11;

const HIDDEN: usize = 6;

const BATCH: usize = 3;

/// The same model with nothing but `forward` and `loss`: all else is the trait's default.
#[derive(Module, Debug)]
struct Plain<L: RecurrentLayer> {
    model: LanguageModel<L>,
}

impl<L: RecurrentLayer> RecurrentModel for Plain<L> {
    type Batch = TokenBatch;
    type State = Vec<L::State>;

    fn forward(
        &self,
        batch: &TokenBatch,
        state: Option<Vec<L::State>>,
    ) -> Result<(Tensor<3>, Vec<L::State>), ModelError> {
        self.model.forward(batch, state)
    }

    fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
        self.model.loss(features, batch)
    }
}

fn config() -> LanguageModelConfig {
    LanguageModelConfig::new(VOCABULARY)
        .with_hidden(HIDDEN)
        .with_layers(2)
        .with_dropout(0.0)
}

/// Untied when `embedding` is given.
fn model<L: RecurrentLayer>(
    embedding: Option<usize>,
    device: &Device,
    dtype: DType,
) -> LanguageModel<L> {
    let config = match embedding {
        Some(size) => config().with_tied(false).with_embedding(size),
        None => config(),
    };
    with_noise(config.init(device).unwrap(), 3, 0.6, dtype)
}

fn ids(count: usize, offset: usize) -> Vec<i64> {
    (0..count)
        .map(|i| ((i * 7 + offset * 3 + i * i) % VOCABULARY) as i64)
        .collect()
}

fn batch(steps: usize, device: &Device) -> TokenBatch {
    let (inputs, targets) = (ids(BATCH * steps, 0), ids(BATCH * steps, 1));
    TokenBatch::from_host(&inputs, &targets, BATCH, steps, device).unwrap()
}

/// Sequence 0 restarts at step 2, sequence 2 at step 0.
fn with_marks(batch: TokenBatch, device: &Device) -> TokenBatch {
    let steps = batch.steps();
    let mut marks = vec![false; BATCH * steps];
    marks[2.min(steps - 1)] = true;
    marks[2 * steps] = true;
    let marks = Tensor::<2, Bool>::from_data(TensorData::new(marks, [BATCH, steps]), device);
    batch.with_reset(marks).unwrap()
}

fn state<L: RecurrentLayer>(
    model: &LanguageModel<L>,
    device: &Device,
    dtype: DType,
) -> Vec<L::State> {
    let parts =
        (0..2 * L::PARTS).map(|p| noise_tensor(50 + p as u64, [BATCH, HIDDEN], 0.7, device, dtype));
    model
        .layers
        .zero_state(BATCH, device)
        .with_parts(parts.collect())
}

/// Norms of lags 0..=W, sequences side by side.
fn all_norms(norms: &LagNorms) -> Vec<f64> {
    (0..=norms.window())
        .flat_map(|lag| norms.row(lag).to_vec())
        .collect()
}

/// Taps of the sequence operations give what autodiff gives step by step: every part, every lag, and the norms.
fn check_state_gradients<L: RecurrentLayer>() {
    for (backend, device) in all_devices() {
        let finest = finest(&device);
        let device = device.autodiff();
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-13)] {
            if dtype == DType::F64 && finest != dtype {
                continue; // No f64 on this device.
            }
            for (embedding, given, marked) in [
                (None, true, false),
                (Some(4), false, false),
                (None, true, true),
                (None, false, true),
            ] {
                let what = format!("{} on {backend}, {dtype:?}, state {given}", L::NAME);
                let model = model::<L>(embedding, &device, dtype);
                let mut window = batch(9, &device);
                if marked {
                    window = with_marks(window, &device);
                }
                let start = given.then(|| state(&model, &device, dtype));
                let fused = model.state_gradients(&window, start.clone()).unwrap();
                let plain = Plain {
                    model: model.clone(),
                };
                let stepwise = plain.state_gradients(&window, start).unwrap();

                assert_eq!(fused.parts.len(), 2 * L::PARTS);
                assert_eq!(stepwise.parts.len(), fused.parts.len());
                let close = |a: Vec<f64>, b: Vec<f64>| assert_close(&what, &a, &b, tolerance);
                close(
                    values(fused.features.clone()),
                    values(stepwise.features.clone()),
                );
                for (a, b) in fused.parts.iter().zip(&stepwise.parts) {
                    assert_eq!(a.dims(), [9, BATCH, HIDDEN]);
                    assert_eq!((a.dtype(), a.dims()), (dtype, b.dims()));
                    close(values(a.clone()), values(b.clone()));
                }
                let (a, b) = (fused.lag_norms().unwrap(), stepwise.lag_norms().unwrap());
                assert_eq!(a.window(), 9);
                close(all_norms(&a), all_norms(&b));
                if marked {
                    // Sequence 2 restarts at step 0: nothing reaches the state before it (lag W = 9).
                    assert_eq!(a.row(9)[2], 0.0);
                    // Sequence 0 restarts at step 2: lags 1..=6 enter steps 8..=3, lag 7 enters step 2.
                    assert!(a.row(6)[0] > 0.0);
                    assert_eq!(a.row(7)[0], 0.0);
                    assert!(a.row(9)[1] > 0.0);
                }
            }
        }
    }
}

#[test]
fn lstm_state_taps_equal_stepwise_autodiff() {
    check_state_gradients::<LstmLayer>();
}

#[test]
fn gru_state_taps_equal_stepwise_autodiff() {
    check_state_gradients::<GruLayer>();
}

#[test]
fn rnn_state_taps_equal_stepwise_autodiff() {
    check_state_gradients::<RnnLayer>();
}

/// One step: lag 0 and the lag of the state it started from.
#[test]
fn a_probe_of_one_step_has_two_lags() {
    for (_, device) in all_devices() {
        let device = device.autodiff();
        let model = model::<LstmLayer>(None, &device, DType::F32);
        let plain = Plain {
            model: model.clone(),
        };
        let window = batch(1, &device);
        let lags = |gradients: StateGradients| all_norms(&gradients.lag_norms().unwrap());
        let fused = lags(model.state_gradients(&window, None).unwrap());
        let stepwise = lags(plain.state_gradients(&window, None).unwrap());
        assert_eq!(fused.len(), 2 * BATCH);
        assert_close("norms", &fused, &stepwise, 1e-6);
    }
}

/// Loss, carried state and weight gradients of a window by hand: the steps before `warm_up` on a detached state, one
/// forward over the rest, the loss over its tail; the carried state from a run of its own.
fn by_hand<L: RecurrentLayer>(
    model: &LanguageModel<L>,
    window: &TokenBatch,
    start: Option<Vec<L::State>>,
    plan: WindowPlan,
) -> (f64, Vec<f64>, Vec<f64>) {
    let steps = window.steps();
    let mut state = start.clone();
    if plan.warm_up > 0 {
        let (_, after) = model
            .forward(&window.slice(0..plan.warm_up), state)
            .unwrap();
        state = Some(after.detach());
    }
    let (features, _) = model
        .forward(&window.slice(plan.warm_up..steps), state)
        .unwrap();
    let tail = plan.loss_from - plan.warm_up;
    let features = features.narrow(1, tail, steps - plan.loss_from);
    let loss = model
        .loss(features, &window.slice(plan.loss_from..steps))
        .unwrap();
    let grads = loss.sum.clone().backward();
    let carried = match plan.carry {
        0 => start,
        carry => Some(model.forward(&window.slice(0..carry), start).unwrap().1),
    };
    (
        values(loss.sum)[0],
        carried
            .map(|state| state_values(&state))
            .unwrap_or_default(),
        weight_gradients(model, &grads),
    )
}

fn prop_window<L: RecurrentLayer>() {
    let plans = (1usize..10).prop_flat_map(|steps| {
        (0..steps).prop_flat_map(move |loss_from| {
            (Just(steps), 0..=loss_from, Just(loss_from), 0..=steps)
        })
    });
    let cases = (plans, any::<bool>(), any::<bool>());
    let config = Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    };
    let law = |((steps, warm_up, loss_from, carry), given, marked): (_, bool, bool)| {
        let plan = WindowPlan {
            warm_up,
            loss_from,
            carry,
        };
        for (backend, device) in all_devices() {
            let (dtype, tolerance) = (finest(&device), by_precision(&device, 1e-11, 1e-5));
            let device = device.autodiff();
            let model = model::<L>(None, &device, dtype);
            let mut window = batch(steps, &device);
            if marked {
                window = with_marks(window, &device);
            }
            let start: Option<Vec<L::State>> = given.then(|| state(&model, &device, dtype));
            let (loss, carried, grads) = by_hand(&model, &window, start.clone(), plan);

            let fused = model.window(&window, start.clone(), plan).unwrap();
            let plain = Plain {
                model: model.clone(),
            };
            let pieces = plain.window(&window, start, plan).unwrap();
            for (how, out) in [("fused", fused), ("in pieces", pieces)] {
                let what = format!("{how} on {backend}, {steps} steps, {plan:?}");
                prop_assert_eq!(out.loss.count, BATCH * (steps - loss_from), "{}", &what);
                prop_assert_eq!(out.state.is_none(), carry == 0 && !given, "{}", &what);
                let state = out
                    .state
                    .map(|state| state_values(&state))
                    .unwrap_or_default();
                let sum = values(out.loss.sum.clone());
                let weights = weight_gradients(&model, &out.loss.sum.backward());
                let off = worst(&sum, &[loss])
                    .max(worst(&state, &carried))
                    .max(worst(&weights, &grads));
                prop_assert!(off < tolerance, "{what}: off by {off:e}");
            }
        }
        Ok(())
    };
    TestRunner::new(config).run(&cases, law).unwrap();
}

#[test]
fn prop_lstm_window_equals_its_pieces() {
    prop_window::<LstmLayer>();
}

#[test]
fn prop_gru_window_equals_its_pieces() {
    prop_window::<GruLayer>();
}

/// The carried state is cut from the window that made it.
#[test]
fn the_carried_state_has_no_gradient() {
    for (_, device) in all_devices() {
        let device = device.autodiff();
        let model = model::<LstmLayer>(None, &device, DType::F32);
        for warm_up in [0, 2] {
            let plan = WindowPlan {
                warm_up,
                loss_from: 3,
                carry: 4,
            };
            let out = model.window(&batch(6, &device), None, plan).unwrap();
            let sum = state_sum(&out.state.unwrap());
            assert!(!sum.is_require_grad());
            let factor = Tensor::<1>::ones([1], &device).require_grad();
            let grads = (sum * factor).backward();
            let all = weight_gradients(&model, &grads);
            assert!(all.iter().all(|g| *g == 0.0));
        }
    }
}

fn state_sum<S: RecurrentState>(state: &S) -> Tensor<1> {
    let sums = state.parts().into_iter().map(Tensor::sum);
    Tensor::cat(sums.collect(), 0).sum()
}

/// All weights zero: every word is as likely as another, ln 11 nats for each of 15 tokens.
#[test]
fn a_uniform_model_loses_log_vocabulary_per_token() {
    for (_, device) in all_devices() {
        let model: LanguageModel<LstmLayer> = config().init(&device).unwrap();
        let model = with_noise(model, 1, 0.0, finest(&device));
        let window = batch(5, &device);
        let (features, _) = model.forward(&window, None).unwrap();
        let loss = model.loss(features, &window).unwrap();
        let expected = 15.0 * (VOCABULARY as f64).ln();
        let tolerance = by_precision(&device, 1e-14, 1e-6);
        assert_close("loss", &values(loss.sum), &[expected], tolerance);
        assert_eq!(loss.count, 15);
    }
}

/// Through a record in memory and a file: the loss of a saved model, bit for bit.
#[test]
fn a_saved_language_model_gives_the_same_loss() {
    for (backend, device) in all_devices() {
        for embedding in [None, Some(4)] {
            let model = model::<LstmLayer>(embedding, &device, DType::F32);
            let fresh = || {
                let config = match embedding {
                    Some(size) => config().with_tied(false).with_embedding(size),
                    None => config(),
                };
                config.init::<LstmLayer>(&device).unwrap()
            };
            let window = batch(5, &device);
            let loss = |model: &LanguageModel<LstmLayer>| {
                let (features, state) = model.forward(&window, None).unwrap();
                let loss = model.loss(features, &window).unwrap();
                (values(loss.sum), state_values(&state))
            };
            let expected = loss(&model);
            let bytes = model.into_record().into_bytes().unwrap();
            let loaded = fresh().load_record(ModuleRecord::from_bytes(bytes).unwrap());
            assert_eq!(loss(&loaded), expected, "{backend}");
            assert_ne!(
                loss(&fresh()),
                expected,
                "{backend}: the test has a model to load"
            );
        }
    }
}
