//! Stacks of one to three layers on the CPU kernels against the same stacks of reference bodies, differentiated by Burn.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use crate::common::{noise, values};
use atbptt_models::ops::backend::{Arguments, Optional, RecurrentKernels};
use atbptt_models::ops::{Cell, SequenceOptions, Weights, sequence};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Tensor, TensorData};
use proptest::prelude::*;

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
        let inputs = if index == 0 { self.inputs } else { self.hidden };
        let (width, seed) = (self.cell.gates() * self.hidden, 10 * (index + 1));
        let recurrent = [self.hidden, self.cell.recurrent_gates() * self.hidden];
        let state = [self.batch, self.cell.state_parts() * self.hidden];
        let scale = |fan: usize| 1.5 / (fan as f64).sqrt();
        Layer {
            input: self.leaf(seed, [inputs, width], scale(inputs), to),
            recurrent: self.leaf(seed + 1, recurrent, scale(self.hidden), to),
            bias: self.leaf(seed + 2, [width], 0.5, to),
            recurrent_bias: self.leaf(seed + 3, [self.hidden], 0.5, to),
            state: self.leaf(seed + 4, state, 1.0, to),
        }
    }

    /// Packed states `[T, B, S]` of one layer, from the kernels or from the reference bodies.
    fn run(&self, kernels: bool, x: Tensor<3>, layer: &Layer) -> Tensor<3> {
        let cell = self.cell;
        let recurrent = (cell.recurrent_gates() > 0).then(|| layer.recurrent.clone());
        let recurrent_bias = cell
            .has_recurrent_bias()
            .then(|| layer.recurrent_bias.clone());
        let (input, bias, state) = (layer.input.clone(), layer.bias.clone(), layer.state.clone());
        if kernels {
            let weights = Weights {
                input,
                recurrent,
                bias: Some(bias),
                recurrent_bias,
            };
            return sequence(cell, x, weights, state, SequenceOptions::default()).unwrap();
        }
        let args = Arguments::<Dispatch> {
            input: x.into_dispatch(),
            input_weight: input.into_dispatch(),
            recurrent_weight: recurrent.map(Tensor::into_dispatch).into(),
            bias: bias.into_dispatch(),
            recurrent_bias: recurrent_bias.map(Tensor::into_dispatch).into(),
            state: state.into_dispatch(),
            taps: Optional::Absent,
            reset_mask: Optional::Absent,
        };
        Tensor::from_dispatch(Dispatch::sequence_forward(cell, args).states)
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
            all.push(values(layer.bias.grad(&grads).unwrap()));
            all.push(values(layer.state.grad(&grads).unwrap()));
            all.extend(layer.recurrent.grad(&grads).map(values));
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
    let cell = prop_oneof![
        Just(Cell::Lstm),
        Just(Cell::Gru),
        Just(Cell::Rnn),
        Just(Cell::MinGru)
    ];
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
