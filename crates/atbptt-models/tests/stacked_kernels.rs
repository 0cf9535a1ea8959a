//! Stacks of one to three layers on the CPU kernels against the same stacks of reference bodies, differentiated by Burn.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

mod common;

use atbptt_models::ops::kernels::{GruInput, LstmInput, RnnInput};
use atbptt_models::ops::{
    GruWeights, LstmWeights, RecurrentKernels, RnnWeights, SequenceOptions, gru_sequence,
    lstm_sequence, rnn_sequence,
};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{noise, values};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Cell {
    Lstm,
    Gru,
    Rnn,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    cell: Cell,
    layers: usize,
    time: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
    seed: u32,
}

/// One layer's leaves.
struct Layer {
    input: Tensor<2>,
    recurrent: Tensor<2>,
    bias: Tensor<1>,
    recurrent_bias: Tensor<1>,
    state: Tensor<2>,
}

impl Case {
    fn leaf<const D: usize>(
        &self,
        seed: usize,
        dims: [usize; D],
        scale: f64,
        to: (&Device, DType),
    ) -> Tensor<D> {
        let data = noise(self.seed as u64 + seed as u64, dims.iter().product());
        let data: Vec<f64> = data.iter().map(|x| x * scale).collect();
        Tensor::from_data(TensorData::new(data, dims), to).require_grad()
    }

    fn layer(&self, index: usize, to: (&Device, DType)) -> Layer {
        let (gates, parts) = match self.cell {
            Cell::Lstm => (4, 2),
            Cell::Gru => (3, 1),
            Cell::Rnn => (1, 1),
        };
        let inputs = if index == 0 { self.inputs } else { self.hidden };
        let (width, seed) = (gates * self.hidden, 10 * (index + 1));
        let scale = |fan: usize| 1.5 / (fan as f64).sqrt();
        Layer {
            input: self.leaf(seed, [inputs, width], scale(inputs), to),
            recurrent: self.leaf(seed + 1, [self.hidden, width], scale(self.hidden), to),
            bias: self.leaf(seed + 2, [width], 0.5, to),
            recurrent_bias: self.leaf(seed + 3, [self.hidden], 0.5, to),
            state: self.leaf(seed + 4, [self.batch, parts * self.hidden], 1.0, to),
        }
    }

    /// Packed states `[T, B, S]` of one layer, from the kernels or from the reference bodies.
    fn run(&self, kernels: bool, x: Tensor<3>, layer: &Layer) -> Tensor<3> {
        let (input, recurrent, bias, recurrent_bias, state) = (
            layer.input.clone(),
            layer.recurrent.clone(),
            layer.bias.clone(),
            layer.recurrent_bias.clone(),
            layer.state.clone(),
        );
        if kernels {
            let options = SequenceOptions::default();
            return match self.cell {
                Cell::Lstm => {
                    let weights = LstmWeights {
                        input,
                        recurrent,
                        bias,
                    };
                    lstm_sequence(x, weights, state, options)
                }
                Cell::Gru => {
                    let weights = GruWeights {
                        input,
                        recurrent,
                        bias,
                        recurrent_bias,
                    };
                    gru_sequence(x, weights, state, options)
                }
                Cell::Rnn => {
                    let weights = RnnWeights {
                        input,
                        recurrent,
                        bias,
                    };
                    rnn_sequence(x, weights, state, options)
                }
            }
            .unwrap();
        }
        let (input, input_weight) = (x.into_dispatch(), input.into_dispatch());
        let (recurrent_weight, bias) = (recurrent.into_dispatch(), bias.into_dispatch());
        let (state, taps, keep) = (state.into_dispatch(), None, None);
        let trace = match self.cell {
            Cell::Lstm => Dispatch::lstm_forward(LstmInput {
                input,
                input_weight,
                recurrent_weight,
                bias,
                state,
                taps,
                keep,
            }),
            Cell::Gru => Dispatch::gru_forward(GruInput {
                input,
                input_weight,
                recurrent_weight,
                bias,
                recurrent_bias: recurrent_bias.into_dispatch(),
                state,
                taps,
                keep,
            }),
            Cell::Rnn => Dispatch::rnn_forward(RnnInput {
                input,
                input_weight,
                recurrent_weight,
                bias,
                state,
                taps,
                keep,
            }),
        };
        Tensor::from_dispatch(trace.states)
    }

    /// The last layer's states, then the gradients of the input and of every layer's weights and initial state.
    fn results(&self, kernels: bool, dtype: DType) -> Vec<Vec<f64>> {
        let device = Device::flex().autodiff();
        let to = (&device, dtype);
        let x = self.leaf(0, [self.time, self.batch, self.inputs], 1.0, to);
        let layers: Vec<Layer> = (0..self.layers)
            .map(|index| self.layer(index, to))
            .collect();
        let mut out = x.clone();
        for (index, layer) in layers.iter().enumerate() {
            if index > 0 {
                out = out.narrow(2, 0, self.hidden);
            }
            out = self.run(kernels, out, layer);
        }
        let weights = self.leaf(99, out.dims(), 1.0, to).detach();
        let grads = (out.clone() * weights).sum().backward();
        let mut all = vec![values(out), values(x.grad(&grads).unwrap())];
        for layer in &layers {
            all.push(values(layer.input.grad(&grads).unwrap()));
            all.push(values(layer.recurrent.grad(&grads).unwrap()));
            all.push(values(layer.bias.grad(&grads).unwrap()));
            all.push(values(layer.state.grad(&grads).unwrap()));
            all.extend(layer.recurrent_bias.grad(&grads).map(values));
        }
        all
    }

    fn check(&self, dtype: DType, tolerance: f64) {
        let (got, expected) = (self.results(true, dtype), self.results(false, dtype));
        assert_eq!(got.len(), expected.len());
        for (which, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let size = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
            assert_eq!(got.len(), expected.len());
            for (a, b) in got.iter().zip(expected) {
                assert!(
                    (a - b).abs() <= tolerance * size,
                    "{dtype:?}, result {which}: {a:e}, reference {b:e}, of {size:e}"
                );
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let cell = prop_oneof![Just(Cell::Lstm), Just(Cell::Gru), Just(Cell::Rnn)];
    let sizes = (
        1usize..=3,
        1usize..=40,
        1usize..=33,
        1usize..=40,
        1usize..=130,
    );
    (cell, sizes, any::<u32>()).prop_map(|(cell, sizes, seed)| Case {
        cell,
        layers: sizes.0,
        time: sizes.1,
        batch: sizes.2,
        inputs: sizes.3,
        hidden: sizes.4,
        seed,
    })
}

// Tolerances: as for single layers, times what three layers of 40 steps may amplify.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_stacks_equal_the_reference(case in cases()) {
        case.check(DType::F32, 5e-5);
        case.check(DType::F64, 1e-11);
    }
}
