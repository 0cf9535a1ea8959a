//! Laws that join the ways to run a model: whole or in chunks, step by step, packed or plain, with marks where a
//! sequence begins. One contract suite for every cell, on every backend.
//!
//! Weights and data are fixed noise, so that no test depends on a random generator. f32 tolerances are about ten
//! roundings of values of order one; f64 ones leave room for another order of sums.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

mod exchange;
mod refusals;

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

use self::exchange::*;
use self::refusals::*;

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
