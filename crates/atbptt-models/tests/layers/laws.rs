//! Laws that join the ways to run a model: whole or in chunks, step by step, packed or plain, with marks where a
//! sequence begins. One contract suite for every cell, on every backend.
//!
//! Weights and data are fixed noise, so that no test depends on a random generator. f32 tolerances are about ten
//! roundings of values of order one; f64 ones leave room for another order of sums.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use crate::common::{
    all_devices, assert_close, by_precision, finest, noise_tensor, state_values, values,
    weight_gradients, weights, with_noise, worst,
};
use atbptt_models::interop::TorchCompatible;
use atbptt_models::{
    GruLayer, LstmLayer, MinGruLayer, ModelError, RecurrentLayer, RecurrentState, RnnLayer, Stack,
    StackConfig, UnrollOptions,
};
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Sizes of a stack and a window.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    steps: usize,
    input: usize,
    hidden: usize,
    layers: usize,
}

/// Two layers, three sequences, seven steps.
const SMALL: Sizes = Sizes {
    batch: 3,
    steps: 7,
    input: 4,
    hidden: 5,
    layers: 2,
};

impl Sizes {
    /// Weights of ±1/√hidden, PyTorch's size: values stay of order one.
    fn stack<L: RecurrentLayer>(self, device: &Device, dtype: DType) -> Stack<L> {
        let stack = StackConfig::<L>::new(self.input, self.hidden)
            .with_layers(self.layers)
            .init(device)
            .unwrap();
        with_noise(stack, 7, 1.0 / (self.hidden as f64).sqrt(), dtype)
    }

    fn input(self, device: &Device, dtype: DType) -> Tensor<3> {
        noise_tensor(1, [self.batch, self.steps, self.input], 1.0, device, dtype)
    }

    /// Noise in every part, as after some steps.
    fn state<L: RecurrentLayer>(
        self,
        stack: &Stack<L>,
        device: &Device,
        dtype: DType,
    ) -> Vec<L::State> {
        let parts = (0..self.layers * L::PARTS).map(|p| {
            noise_tensor(
                100 + p as u64,
                [self.batch, self.hidden],
                0.8,
                device,
                dtype,
            )
        });
        stack
            .zero_state(self.batch, device)
            .with_parts(parts.collect())
    }
}

fn steps(x: &Tensor<3>, range: std::ops::Range<usize>) -> Tensor<3> {
    x.clone().narrow(1, range.start, range.len())
}

fn sequence(x: &Tensor<3>, index: usize) -> Tensor<3> {
    x.clone().narrow(0, index, 1)
}

fn mask(marks: &[(usize, usize)], batch: usize, time: usize, device: &Device) -> Tensor<2, Bool> {
    let mut data = vec![false; batch * time];
    for (sequence, step) in marks {
        data[sequence * time + step] = true;
    }
    Tensor::from_data(TensorData::new(data, [batch, time]), device)
}

/// Chunks with carried state give the outputs and the last state of one run, wherever it is cut.
fn prop_chunks_equal_one_run<L: RecurrentLayer>() {
    let sizes = (1usize..9, 1usize..30, 1usize..10, 1usize..40, 1usize..=3);
    let cases = (sizes, prop::collection::vec(1usize..30, 0..4));
    let config = Config {
        cases: 20,
        failure_persistence: None,
        ..Config::default()
    };
    let law = |((batch, steps_, input, hidden, layers), mut cuts): (_, Vec<usize>)| {
        let sizes = Sizes {
            batch,
            steps: steps_,
            input,
            hidden,
            layers,
        };
        cuts.retain(|&cut| cut < steps_);
        cuts.extend([0, steps_]);
        cuts.sort_unstable();
        cuts.dedup();
        for (backend, device) in all_devices() {
            let stack = sizes.stack::<L>(&device, DType::F32);
            let x = sizes.input(&device, DType::F32);
            let start = sizes.state(&stack, &device, DType::F32);
            let (whole, end) = stack.forward(x.clone(), Some(start.clone())).unwrap();

            let mut state = Some(start);
            let mut outputs = Vec::new();
            for cut in cuts.windows(2) {
                let (output, after) = stack.forward(steps(&x, cut[0]..cut[1]), state).unwrap();
                outputs.push(output);
                state = Some(after);
            }
            let (by_cuts, state) = (Tensor::cat(outputs, 1), state.unwrap());
            let off = worst(&values(by_cuts), &values(whole))
                .max(worst(&state_values(&state), &state_values(&end)));
            prop_assert!(off <= 1e-6, "{backend}, {sizes:?}: off by {off:e}");
        }
        Ok(())
    };
    TestRunner::new(config).run(&cases, law).unwrap();
}

/// `step` repeated is `forward`, and both layouts give the same numbers.
fn steps_and_layouts_equal_forward<L: RecurrentLayer>() {
    for (backend, device) in all_devices() {
        let mut stack = SMALL.stack::<L>(&device, DType::F32);
        let x = SMALL.input(&device, DType::F32);
        let start = SMALL.state(&stack, &device, DType::F32);
        let (whole, end) = stack.forward(x.clone(), Some(start.clone())).unwrap();

        let mut state = Some(start.clone());
        let mut outputs = Vec::new();
        for t in 0..SMALL.steps {
            let input = steps(&x, t..t + 1).reshape([SMALL.batch, SMALL.input]);
            let (output, after) = stack.step(input, state).unwrap();
            outputs.push(output);
            state = Some(after);
        }
        let by_step = Tensor::stack::<3>(outputs, 1);
        assert_close(backend, &values(by_step), &values(whole.clone()), 1e-6);
        assert_close(
            backend,
            &state_values(&state.unwrap()),
            &state_values(&end),
            1e-6,
        );

        stack.batch_first = false;
        let (time_major, last) = stack.forward(x.swap_dims(0, 1), Some(start)).unwrap();
        assert_eq!(time_major.dims(), [SMALL.steps, SMALL.batch, SMALL.hidden]);
        assert_eq!(values(time_major.swap_dims(0, 1)), values(whole));
        assert_eq!(state_values(&last), state_values(&end));
    }
}

/// Without a state a sequence starts from zeros.
fn no_state_is_a_state_of_zeros<L: RecurrentLayer>() {
    for (_, device) in all_devices() {
        let finest = finest(&device);
        for dtype in [DType::F32, finest] {
            let stack = SMALL.stack::<L>(&device, dtype);
            let x = SMALL.input(&device, dtype);
            let start = SMALL.state(&stack, &device, dtype);
            let zeros = start.map_parts(&mut |part| part.zeros_like());
            let (implied, implied_end) = stack.forward(x.clone(), None).unwrap();
            let (explicit, end) = stack.forward(x, Some(zeros)).unwrap();
            assert_eq!(implied.dtype(), dtype);
            assert_eq!(values(implied), values(explicit));
            assert_eq!(state_values(&implied_end), state_values(&end));
        }
    }
}

/// A marked step splits a sequence in two separate runs: the same outputs, input gradients and weight gradients, and
/// nothing flows back over the mark.
fn a_reset_is_two_separate_runs<L: RecurrentLayer>() {
    for (backend, device) in all_devices() {
        let dtype = finest(&device);
        // Another order of sums; in f32 on a GPU ten roundings.
        let tolerance = |f64| by_precision(&device, f64, 1e-6);
        let device = device.clone().autodiff();
        let stack = SMALL.stack::<L>(&device, dtype);
        let x = SMALL.input(&device, dtype).require_grad();
        let start = SMALL
            .state(&stack, &device, dtype)
            .map_parts(&mut |part| part.require_grad());
        let factors: Tensor<3> = noise_tensor(
            9,
            [SMALL.batch, SMALL.steps, SMALL.hidden],
            1.0,
            &device,
            dtype,
        );
        // Sequence 0 runs through, 1 restarts at step 3, 2 at step 0: it never sees the state it was given.
        let options = UnrollOptions {
            taps: None,
            reset: Some(mask(&[(1, 3), (2, 0)], SMALL.batch, SMALL.steps, &device)),
        };
        let time_major = x.clone().swap_dims(0, 1);
        let run = stack
            .unroll(time_major, Some(start.clone()), options)
            .unwrap();
        let output = run.output.swap_dims(0, 1);
        let grads = (output.clone() * factors.clone()).sum().backward();

        let y = x.clone().detach().require_grad();
        let separate_start = start
            .clone()
            .map_parts(&mut |part| part.detach().require_grad());
        let only = |index: i64| {
            let device = device.clone();
            separate_start
                .clone()
                .select(Tensor::<1, Int>::from_data([index], &device))
        };
        let segments = [
            (0, 0..7, Some(only(0))),
            (1, 0..3, Some(only(1))),
            (1, 3..7, None),
            (2, 0..7, None),
        ];
        let mut outputs: Vec<Vec<Tensor<3>>> = vec![Vec::new(); SMALL.batch];
        for (index, range, state) in segments {
            let (out, _) = stack
                .forward(steps(&sequence(&y, index), range), state)
                .unwrap();
            outputs[index].push(out);
        }
        let rows = outputs.into_iter().map(|parts| Tensor::cat(parts, 1));
        let separate = Tensor::cat(rows.collect(), 0);
        assert_close(
            backend,
            &values(output),
            &values(separate.clone()),
            tolerance(1e-12),
        );
        let expected = (separate * factors).sum().backward();
        assert_close(
            backend,
            &values(x.grad(&grads).unwrap()),
            &values(y.grad(&expected).unwrap()),
            tolerance(1e-12),
        );
        assert_close(
            backend,
            &weight_gradients(&stack, &grads),
            &weight_gradients(&stack, &expected),
            tolerance(1e-11),
        );
        for (part, separate) in start.parts().iter().zip(separate_start.parts()) {
            let part = part.grad(&grads).unwrap();
            let rows = |index: usize| values(part.clone().narrow(0, index, 1));
            assert!(
                rows(2).iter().all(|g| *g == 0.0),
                "the given state of a restarted sequence"
            );
            assert!(rows(1).iter().any(|g| *g != 0.0));
            assert_close(
                backend,
                &values(part.clone()),
                &values(separate.grad(&expected).unwrap()),
                tolerance(1e-12),
            );
        }
    }
}

/// The loss after a mark has no gradient at all at what lies before it.
fn nothing_flows_back_over_a_reset<L: RecurrentLayer>() {
    for (_, device) in all_devices() {
        let device = device.autodiff();
        let stack = SMALL.stack::<L>(&device, DType::F32);
        let x = SMALL.input(&device, DType::F32).require_grad();
        let options = UnrollOptions {
            taps: None,
            reset: Some(mask(&[(1, 3)], SMALL.batch, SMALL.steps, &device)),
        };
        let run = stack
            .unroll(x.clone().swap_dims(0, 1), None, options)
            .unwrap();
        let grads = run.output.narrow(0, 6, 1).sum().backward();
        let grad = x.grad(&grads).unwrap();
        let before = |index: usize| values(sequence(&grad, index).narrow(1, 0, 3).abs().sum());
        let zero = |v: Vec<f64>, dims: &str| assert_eq!(v, [0.0], "{dims}");
        zero(before(1), "restarted at step 3");
        assert!(before(0)[0] > 0.0 && before(2)[0] > 0.0);
    }
}

/// A detached state carries its values but no gradient to the steps that made it.
fn a_detached_state_cuts_the_gradient<L: RecurrentLayer>() {
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let stack = SMALL.stack::<L>(&device, DType::F32).no_grad();
        let first = SMALL.input(&device, DType::F32).require_grad();
        let second = first.clone().detach().require_grad();
        let (_, state) = stack.forward(first.clone(), None).unwrap();
        let cut = state.clone().detach();
        assert_eq!(state_values(&cut), state_values(&state));

        let loss = |state| {
            let (output, _) = stack.forward(second.clone(), Some(state)).unwrap();
            output.sum()
        };
        let (attached, detached) = (loss(state), loss(cut));
        assert_eq!(
            values(attached.clone()),
            values(detached.clone()),
            "{backend}"
        );
        let (attached, detached) = (attached.backward(), detached.backward());
        let through = values(first.grad(&attached).unwrap());
        assert!(
            through.iter().any(|g| *g != 0.0),
            "{backend}: attached states do carry gradient"
        );
        let over = first.grad(&detached).map(values).unwrap_or_default();
        assert!(over.iter().all(|g| *g == 0.0), "{backend}: {over:?}");
        assert!(second.grad(&detached).is_some());
    }
}

/// `select` reorders and repeats sequences; running on from there is running the chosen sequences on.
fn select_reorders_and_repeats_sequences<L: RecurrentLayer>() {
    for (backend, device) in all_devices() {
        let stack = SMALL.stack::<L>(&device, DType::F32);
        let x = SMALL.input(&device, DType::F32);
        let (_, state) = stack.forward(x.clone(), None).unwrap();
        let chosen = [2i64, 0, 0, 1];
        let index = Tensor::<1, Int>::from_data(chosen, &device);
        let selected = state.clone().select(index.clone());
        assert_eq!(
            (state.batch_size(), selected.batch_size()),
            (SMALL.batch, chosen.len())
        );
        for (part, source) in selected.parts().iter().zip(state.parts()) {
            for (row, from) in chosen.iter().enumerate() {
                let from = *from as usize;
                assert_eq!(
                    values(part.clone().narrow(0, row, 1)),
                    values(source.clone().narrow(0, from, 1))
                );
            }
        }
        let (all, _) = stack.forward(x.clone(), Some(state)).unwrap();
        let (some, _) = stack
            .forward(x.select(0, index.clone()), Some(selected))
            .unwrap();
        assert_close(backend, &values(some), &values(all.select(0, index)), 1e-6);
    }
}

/// Models and states move between backends with their values.
fn backends_exchange_models_and_states<L: RecurrentLayer>() {
    let all = all_devices();
    for (from_name, from) in &all {
        for (to_name, to) in &all {
            let what = format!("{from_name} to {to_name}");
            let stack = SMALL.stack::<L>(from, DType::F32);
            let x = SMALL.input(from, DType::F32);
            let (expected, state) = stack.forward(x.clone(), None).unwrap();
            let moved = state.clone().to_device(to);
            assert!(moved.parts().iter().all(|part| part.device() == *to));
            assert_eq!(state_values(&moved), state_values(&state), "{what}");
            let there = stack.clone().to_device(to);
            let (output, _) = there.forward(x.to_device(to), None).unwrap();
            assert_close(&what, &values(output), &values(expected), 1e-6);
        }
    }
}

/// Out to PyTorch's layout and back, and through Burn's record: the same outputs, bit for bit.
fn exports_keep_outputs<L: TorchCompatible>() {
    let tracked = all_devices()
        .into_iter()
        .map(|(name, d)| (name, d.autodiff()));
    for (backend, device) in all_devices().into_iter().chain(tracked) {
        for bias in [true, false] {
            let fresh = StackConfig::<L>::new(SMALL.input, SMALL.hidden)
                .with_layers(SMALL.layers)
                .with_bias(bias);
            let stack = with_noise(fresh.init(&device).unwrap(), 21, 0.5, DType::F32);
            let x = SMALL.input(&device, DType::F32);
            let (expected, _) = stack.forward(x.clone(), None).unwrap();

            let layers: Vec<_> = stack.layers.iter().map(L::to_torch).collect();
            assert_eq!(layers.iter().all(|layer| layer.biases.is_some()), bias);
            let back = Stack::<L>::from_torch(layers, 0.0).unwrap();
            assert_eq!(weights(&back), weights(&stack), "{backend}");
            let (output, _) = back.forward(x, None).unwrap();
            assert_eq!(values(output), values(expected), "{backend}");
        }
    }
}

/// A record in bytes is the model again.
fn records_keep_outputs<L: RecurrentLayer>() {
    let tracked = all_devices()
        .into_iter()
        .map(|(name, d)| (name, d.autodiff()));
    for (backend, device) in all_devices().into_iter().chain(tracked) {
        for bias in [true, false] {
            let fresh = StackConfig::<L>::new(SMALL.input, SMALL.hidden)
                .with_layers(SMALL.layers)
                .with_bias(bias);
            let stack = with_noise(fresh.init(&device).unwrap(), 21, 0.5, DType::F32);
            let x = SMALL.input(&device, DType::F32);
            let (expected, _) = stack.forward(x.clone(), None).unwrap();
            let bytes = stack.into_record().into_bytes().unwrap();
            let loaded = fresh
                .init(&device)
                .unwrap()
                .load_record(ModuleRecord::from_bytes(bytes).unwrap());
            let (output, _) = loaded.forward(x, None).unwrap();
            assert_eq!(values(output), values(expected), "{backend}");
        }
    }
}

/// What was converted from tracked weights is a model of its own that can be trained.
fn converted_models_can_be_trained<L: TorchCompatible>() {
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let stack = SMALL.stack::<L>(&device, DType::F32);
        let layers: Vec<_> = stack.layers.iter().map(L::to_torch).collect();
        let back = Stack::<L>::from_torch(layers, 0.0).unwrap();
        let x = SMALL.input(&device, DType::F32);
        let loss = |stack: &Stack<L>| stack.forward(x.clone(), None).unwrap().0.sum();
        let expected = weight_gradients(&stack, &loss(&stack).backward());
        let grads = loss(&back).backward();
        assert_close(backend, &weight_gradients(&back, &grads), &expected, 1e-6);
        let original = weight_gradients(&stack, &grads);
        assert!(
            original.iter().all(|g| *g == 0.0),
            "{backend}: no shared graph"
        );
    }
}

/// Burn's `nn::Lstm` from tracked weights and back: leaves of their own, gates where they were.
#[test]
fn burns_lstm_made_from_tracked_weights_can_be_trained() {
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let sizes = Sizes { layers: 1, ..SMALL };
        let stack = sizes.stack::<LstmLayer>(&device, DType::F32);
        let burn = stack.layers[0].to_burn();
        let x = sizes.input(&device, DType::F32);
        let (expected, _) = stack.forward(x.clone(), None).unwrap();
        let (output, _) = burn.forward(x, None);
        assert_close(
            backend,
            &values(output.clone()),
            &values(expected.clone()),
            1e-6,
        );
        let layer = LstmLayer::from_burn(&burn).unwrap();
        assert_eq!(weights(&layer), weights(&stack), "{backend}");

        // The gradient at Burn's input gate is the first quarter of the columns of ours.
        let (ours, burns) = (expected.sum().backward(), output.sum().backward());
        let gate = burn.input_gate.input_transform.weight.val();
        let fused = stack.layers[0].input_weight.val().grad(&ours).unwrap();
        assert_close(
            backend,
            &values(gate.grad(&burns).unwrap()),
            &values(fused.narrow(1, 0, sizes.hidden)),
            1e-5,
        );
    }
}

/// What does not fit is a typed error that names what was wrong.
fn misfits_are_typed_errors<L: RecurrentLayer>() {
    let shape = |result: Result<(Tensor<3>, Vec<L::State>), ModelError>, expected: &str| {
        let Err(ModelError::Shape { what, .. }) = result else {
            panic!("{expected}: no shape error");
        };
        assert_eq!(what, expected);
    };
    for (_, device) in all_devices() {
        let stack = SMALL.stack::<L>(&device, DType::F32);
        let zeros = |dims: [usize; 3]| Tensor::<3>::zeros(dims, &device);
        let x = SMALL.input(&device, DType::F32);
        shape(stack.forward(zeros([3, 7, 9]), None), "input weight");
        let wrong_batch = stack.zero_state(4, &device);
        shape(stack.forward(x.clone(), Some(wrong_batch)), "state");
        let one_layer = stack.zero_state(3, &device)[..1].to_vec();
        shape(stack.forward(x.clone(), Some(one_layer)), "state");
        // Every part is checked, not only what the parts are together.
        let mut widths = [SMALL.hidden + 1, SMALL.hidden - 1].into_iter().cycle();
        let uneven = stack.zero_state(3, &device).map_parts(&mut |part| {
            Tensor::zeros([part.dims()[0], widths.next().unwrap()], &device)
        });
        shape(stack.forward(x.clone(), Some(uneven)), "state");
        let mut batch = SMALL.batch;
        let ragged = stack.zero_state(3, &device).map_parts(&mut |part| {
            batch += 1;
            Tensor::zeros([batch, part.dims()[1]], &device)
        });
        shape(stack.forward(x.clone(), Some(ragged)), "state");

        for (dims, missing) in [([3, 0, 4], "time steps"), ([0, 7, 4], "sequences")] {
            let expected = ModelError::Empty {
                what: "input",
                missing,
            };
            assert_eq!(stack.forward(zeros(dims), None).unwrap_err(), expected);
        }

        let time_major = x.swap_dims(0, 1);
        let unroll = |options| stack.unroll(time_major.clone(), None, options).unwrap_err();
        let reset = UnrollOptions {
            taps: None,
            reset: Some(mask(&[], 7, 3, &device)),
        };
        let error = unroll(reset);
        assert!(matches!(
            &error,
            ModelError::Shape {
                what: "reset mask",
                ..
            }
        ));
        let size = L::PARTS * SMALL.hidden;
        for (layers, steps) in [(1, 7), (2, 6)] {
            let taps = vec![zeros([steps, 3, size]); layers];
            let options = UnrollOptions {
                taps: Some(taps),
                reset: None,
            };
            assert!(matches!(
                unroll(options),
                ModelError::Shape { what: "taps", .. }
            ));
        }
    }
}

/// Input, state or reset mask on another device than the model: an error that names it and both devices.
fn tensors_of_another_device_are_typed_errors<L: RecurrentLayer>() {
    let all = all_devices();
    for (name, device) in &all {
        for (other_name, other) in all.iter().filter(|(other, _)| other != name) {
            let stack = SMALL.stack::<L>(device, DType::F32);
            let x = SMALL.input(device, DType::F32);
            let state = stack.zero_state(SMALL.batch, other);
            let options = UnrollOptions {
                taps: None,
                reset: Some(mask(&[(1, 3)], SMALL.batch, SMALL.steps, other)),
            };
            let elsewhere = [
                (
                    "input",
                    stack.forward(x.clone().to_device(other), None).err(),
                ),
                ("state", stack.forward(x.clone(), Some(state)).err()),
                (
                    "reset mask",
                    stack.unroll(x.swap_dims(0, 1), None, options).err(),
                ),
            ];
            for (tensor, error) in elsewhere {
                let error = error.unwrap_or_else(|| panic!("{tensor} on {other_name}: no error"));
                assert!(
                    matches!(&error, ModelError::Device { what, .. } if *what == tensor),
                    "{tensor} on {other_name}, model on {name}: {error}"
                );
                assert!(error.to_string().contains("to_device"), "{error}");
            }
        }
    }
}

/// One suite for every cell: a new one joins by one line, with the laws that not all of them have.
macro_rules! cell_contract {
    ($cell:ident, $layer:ty $(, $law:ident)*) => {
        laws!(
            $cell,
            $layer,
            prop_chunks_equal_one_run,
            steps_and_layouts_equal_forward,
            no_state_is_a_state_of_zeros,
            a_reset_is_two_separate_runs,
            nothing_flows_back_over_a_reset,
            a_detached_state_cuts_the_gradient,
            select_reorders_and_repeats_sequences,
            backends_exchange_models_and_states,
            records_keep_outputs,
            misfits_are_typed_errors,
            tensors_of_another_device_are_typed_errors
            $(, $law)*
        );
    };
}

macro_rules! laws {
    ($cell:ident, $layer:ty, $($law:ident),+) => {
        mod $cell {
            use super::*;
            $(#[test]
            fn $law() {
                super::$law::<$layer>();
            })+
        }
    };
}

cell_contract!(
    lstm,
    LstmLayer,
    exports_keep_outputs,
    converted_models_can_be_trained
);
cell_contract!(
    gru,
    GruLayer,
    exports_keep_outputs,
    converted_models_can_be_trained
);
cell_contract!(
    rnn,
    RnnLayer,
    exports_keep_outputs,
    converted_models_can_be_trained
);
cell_contract!(min_gru, MinGruLayer);
