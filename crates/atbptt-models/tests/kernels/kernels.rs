//! The CPU kernels against the reference bodies they override: random shapes, both element types, every subset of
//! gradients, views, special values, and the same bits whatever the number of threads.

#![allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.
#![allow(clippy::expect_used)] // A test fails by panicking.

mod factors;
#[cfg(feature = "cube")]
mod gpu;
mod softmax;

use crate::common::noise;
use atbptt_models::ops::Cell;
use atbptt_models::ops::backend::{
    Arguments, NeedsGrad, NllArguments, NllNeedsGrad, Optional, RecurrentKernels,
};
use atbptt_models::ops::internals::reference;
#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::ops::{FloatTensorOps as _, IntTensorOps as _};
use burn::backend::{Backend, Flex, tensor::FloatTensor};
use burn::tensor::{DType, TensorData};
use proptest::prelude::*;

/// Shape and options of a random window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) cell: Cell,
    pub(crate) time: usize,
    pub(crate) batch: usize,
    pub(crate) inputs: usize,
    pub(crate) hidden: usize,
    pub(crate) taps: bool,
    pub(crate) reset_mask: bool,
    pub(crate) needs: NeedsGrad,
    pub(crate) seed: u64,
}

pub(crate) fn float<B: Backend>(data: Vec<f64>, dims: &[usize], dtype: DType) -> FloatTensor<B> {
    let data = TensorData::new(data, dims.to_vec()).convert_dtype(dtype);
    B::float_from_data(data, &Default::default())
}

pub(crate) fn values<B: Backend>(tensor: FloatTensor<B>) -> Vec<f64> {
    let data = burn::tensor::read_sync(B::float_into_data(tensor)).expect("CPU tensors are read");
    data.iter::<f64>().collect()
}

/// A tensor in the order of a window's arguments.
pub(crate) struct Tensors<B: Backend>(pub(crate) Vec<FloatTensor<B>>);

impl<B: Backend> Tensors<B> {
    fn get(&self, index: usize) -> FloatTensor<B> {
        self.0[index].clone()
    }
}

impl Case {
    fn gates(&self) -> usize {
        self.cell.gates()
    }

    fn size(&self) -> usize {
        self.hidden * self.cell.state_parts()
    }

    /// Input, input weight, recurrent weight, bias, recurrent bias, state, taps, gradient of the states, reset mask.
    pub(crate) fn data(&self) -> Vec<(Vec<f64>, Vec<usize>)> {
        let (t, b, i, h) = (self.time, self.batch, self.inputs, self.hidden);
        let (g, s) = (self.gates() * h, self.size());
        let scale = 1.5 / (h as f64).sqrt();
        let mut all: Vec<_> = [
            (vec![t, b, i], 1.0),
            (vec![i, g], 1.0 / (i as f64).sqrt()),
            (vec![h, self.cell.recurrent_gates() * h], scale),
            (vec![g], 0.5),
            (vec![h], 0.5),
            (vec![b, s], 1.0),
            (vec![t, b, s], 0.1),
            (vec![t, b, s], 1.0),
        ]
        .into_iter()
        .enumerate()
        .map(|(index, (dims, scale))| {
            let data = noise(self.seed + index as u64, dims.iter().product());
            (data.iter().map(|x| x * scale).collect(), dims)
        })
        .collect();
        let mask = noise(self.seed + 100, t * b);
        let mask = mask.iter().map(|&x| if x > -0.8 { 1.0 } else { 0.0 });
        all.push((mask.collect(), vec![t, b, 1]));
        all
    }

    fn tensors<B: Backend>(&self, dtype: DType) -> Tensors<B> {
        let data = self.data().into_iter();
        Tensors(data.map(|(x, dims)| float::<B>(x, &dims, dtype)).collect())
    }

    fn args<B: Backend>(&self, x: &Tensors<B>) -> Arguments<B> {
        let given = |index: usize, given: bool| given.then(|| x.get(index)).into();
        Arguments {
            input: x.get(0),
            input_weight: x.get(1),
            recurrent_weight: given(2, self.cell.recurrent_gates() > 0),
            bias: x.get(3),
            recurrent_bias: given(4, self.cell.has_recurrent_bias()),
            state: x.get(5),
            taps: given(6, self.taps),
            reset_mask: given(8, self.reset_mask),
        }
    }

    /// Forward and backward pass: states, gates, then the gradients that were asked for.
    pub(crate) fn run<B: RecurrentKernels>(
        &self,
        x: &Tensors<B>,
        kernels: bool,
    ) -> Vec<FloatTensor<B>> {
        let (args, grad, cell, needs) = (self.args(x), x.get(7), self.cell, self.needs);
        let (saved, grads) = if kernels {
            let saved = B::sequence_forward(cell, args.clone());
            let grads = B::sequence_backward(cell, args, saved.clone(), grad, needs);
            (saved, grads)
        } else {
            let saved = reference::forward::<B>(cell, args.clone());
            let grads = reference::backward::<B>(cell, args, saved.clone(), grad, needs);
            (saved, grads)
        };
        let wanted = [
            (&grads.input, self.needs.input),
            (&grads.input_weight, self.needs.input_weight),
            (
                &grads.recurrent_weight,
                needs.recurrent_weight && cell.recurrent_gates() > 0,
            ),
            (&grads.bias, self.needs.bias),
            (
                &grads.recurrent_bias,
                needs.bias && cell.has_recurrent_bias(),
            ),
            (&grads.taps, self.needs.taps),
        ];
        for (grad, wanted) in wanted {
            assert_eq!(grad.is_some(), wanted, "only what was asked for: {self:?}");
        }
        [Some(saved.states), Some(saved.gates), Some(grads.state)]
            .into_iter()
            .chain([
                grads.input,
                grads.input_weight,
                grads.recurrent_weight,
                grads.bias,
                grads.recurrent_bias,
                grads.taps,
            ])
            .flatten()
            .collect()
    }

    /// Kernels against reference, relative to the largest value of each tensor.
    fn check<B: RecurrentKernels>(&self, dtype: DType, tolerance: f64) {
        self.check_against::<B, B>(dtype, tolerance);
    }

    /// Kernels of `B` against the reference computed on `R`.
    fn check_against<B: RecurrentKernels, R: RecurrentKernels>(
        &self,
        dtype: DType,
        tolerance: f64,
    ) {
        use burn::backend::TensorMetadata;
        let got = self.run(&self.tensors::<B>(dtype), true);
        let expected = self.run(&self.tensors::<R>(dtype), false);
        assert_eq!(got.len(), expected.len());
        for (index, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            assert_eq!(got.shape(), expected.shape(), "shape of tensor {index}");
            assert_eq!(got.dtype(), dtype);
            let (got, expected) = (values::<B>(got), values::<R>(expected));
            let size = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
            for (at, (a, b)) in got.iter().zip(&expected).enumerate() {
                assert!(
                    (a - b).abs() <= tolerance * size,
                    "tensor {index}[{at}]: {a:e}, reference {b:e}, of {size:e}; {self:?}"
                );
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let cell = prop::sample::select(CELLS.to_vec());
    let sizes = (1usize..=40, 1usize..=33, 1usize..=70, 1usize..=130);
    let flags = any::<[bool; 7]>();
    (cell, sizes, flags, any::<u32>()).prop_map(|(cell, sizes, flags, seed)| Case {
        cell,
        time: sizes.0,
        batch: sizes.1,
        inputs: sizes.2,
        hidden: sizes.3,
        taps: flags[0],
        reset_mask: flags[1],
        needs: NeedsGrad {
            input: flags[2],
            input_weight: flags[3],
            recurrent_weight: flags[4],
            bias: flags[5],
            taps: flags[6],
        },
        seed: seed as u64,
    })
}

// Tolerances: sums of at most 40·33 products in another order, with errors that 40 steps may amplify a few times:
// √1320 ulp ≈ 2e-6 in f32 and 4e-15 in f64, of the largest value.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn prop_kernels_equal_the_reference_in_f32(case in cases()) {
        case.check::<Flex>(DType::F32, 1e-5);
    }

    #[test]
    fn prop_kernels_equal_the_reference_in_f64(case in cases()) {
        case.check::<Flex>(DType::F64, 1e-12);
    }
}

const ALL: NeedsGrad = NeedsGrad {
    input: true,
    input_weight: true,
    recurrent_weight: true,
    bias: true,
    taps: true,
};

pub(crate) fn case(cell: Cell, time: usize, batch: usize, inputs: usize, hidden: usize) -> Case {
    Case {
        cell,
        time,
        batch,
        inputs,
        hidden,
        taps: true,
        reset_mask: true,
        needs: ALL,
        seed: 7,
    }
}

pub(crate) const CELLS: [Cell; 4] = [Cell::Lstm, Cell::Gru, Cell::Rnn, Cell::MinGru];

#[test]
#[cfg(feature = "ndarray")]
fn ndarray_takes_the_same_kernels() {
    for cell in CELLS {
        case(cell, 7, 5, 6, 37).check::<NdArray>(DType::F32, 1e-5);
        case(cell, 7, 5, 6, 37).check::<NdArray>(DType::F64, 1e-12);
    }
}

#[test]
fn smallest_windows_are_right() {
    for cell in CELLS {
        for (time, batch, inputs, hidden) in
            [(1, 1, 1, 1), (1, 3, 2, 1), (2, 1, 1, 17), (1, 1, 9, 8)]
        {
            case(cell, time, batch, inputs, hidden).check::<Flex>(DType::F64, 1e-12);
            case(cell, time, batch, inputs, hidden).check::<Flex>(DType::F32, 1e-5);
        }
    }
}

/// Large enough to be split over threads: sequences (weights below 1 MiB) and hidden units (above).
#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let windows = [
        case(Cell::Lstm, 9, 33, 20, 66),
        case(Cell::Lstm, 6, 5, 300, 300),
        case(Cell::Gru, 6, 5, 40, 333),
        case(Cell::Rnn, 6, 6, 40, 530),
        case(Cell::Gru, 6, 130, 40, 130),
        case(Cell::MinGru, 30, 40, 40, 150),
        // Products large enough for a matrix unit, where there is one.
        case(Cell::Lstm, 12, 40, 150, 170),
    ];
    for window in windows {
        for dtype in [DType::F32, DType::F64] {
            let x = window.tensors::<Flex>(dtype);
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().expect("a thread pool");
                let out = pool.install(|| window.run(&x, true));
                out.into_iter().map(values::<Flex>).collect::<Vec<_>>()
            };
            let one = run(1);
            for threads in [2, 3] {
                assert!(one == run(threads), "{threads} threads, {window:?}");
            }
        }
        window.check::<Flex>(DType::F64, 1e-12);
    }
}

/// Where nobody else holds the saved gates, gradients take their place; where somebody does, the gates stay.
#[test]
fn gradients_are_the_same_bits_whether_or_not_the_gates_are_held() {
    for cell in CELLS {
        for (taps, reset_mask) in [(false, false), (true, true)] {
            let window = Case {
                taps,
                reset_mask,
                ..case(cell, 7, 5, 6, 37)
            };
            let x = window.tensors::<Flex>(DType::F32);
            let forward = || Flex::sequence_forward(cell, window.args(&x));
            let backward = |saved| {
                let grads =
                    Flex::sequence_backward(cell, window.args(&x), saved, x.get(7), window.needs);
                [
                    grads.input,
                    grads.input_weight,
                    grads.recurrent_weight,
                    grads.bias,
                    grads.recurrent_bias,
                    grads.taps,
                    Some(grads.state),
                ]
                .map(|grad| grad.map(values::<Flex>))
            };
            let held = forward();
            let before = values::<Flex>(held.gates.clone());
            let expected = backward(held.clone());
            assert_eq!(values::<Flex>(held.gates), before, "{window:?}");
            assert!(backward(forward()) == expected, "{window:?}");
        }
    }
}

/// Transposed, sliced and broadcast tensors are read as what they show.
#[test]
fn views_are_read_right() {
    for cell in CELLS {
        let window = case(cell, 4, 3, 5, 18);
        let plain = window.tensors::<Flex>(DType::F32);
        let mut views = Vec::new();
        for tensor in &plain.0 {
            // Stored transposed, then a slice of a larger tensor.
            let last = tensor.shape_of().len() - 1;
            let view = if last == 0 {
                let twice = Flex::float_cat(vec![tensor.clone(), tensor.clone()], 0);
                let size = tensor.shape_of()[0];
                Flex::float_slice(twice, &[burn::tensor::Slice::from(size..2 * size)])
            } else {
                let swapped = Flex::float_swap_dims(tensor.clone(), 0, last);
                let stored = float::<Flex>(
                    values::<Flex>(swapped.clone()),
                    &swapped.shape_of(),
                    DType::F32,
                );
                Flex::float_swap_dims(stored, 0, last)
            };
            views.push(view);
        }
        let expected = window.run(&plain, true);
        for (got, expected) in window
            .run(&Tensors::<Flex>(views), true)
            .into_iter()
            .zip(expected)
        {
            assert_eq!(values::<Flex>(got), values::<Flex>(expected));
        }

        // One value for all, by broadcast.
        let mut plain = plain;
        let (h, g) = (window.hidden, window.gates() * window.hidden);
        plain.0[3] = float::<Flex>(vec![0.25; g], &[g], DType::F32);
        plain.0[4] = float::<Flex>(vec![0.25; h], &[h], DType::F32);
        let one = || float::<Flex>(vec![0.25], &[1], DType::F32);
        let mut broadcast = Tensors::<Flex>(plain.0.clone());
        broadcast.0[3] = Flex::float_expand(one(), [g].into());
        broadcast.0[4] = Flex::float_expand(one(), [h].into());
        let expected = window.run(&plain, true);
        for (got, expected) in window.run(&broadcast, true).into_iter().zip(expected) {
            assert_eq!(values::<Flex>(got), values::<Flex>(expected));
        }
    }
}

trait ShapeOf {
    fn shape_of(&self) -> Vec<usize>;
}

impl ShapeOf for FloatTensor<Flex> {
    fn shape_of(&self) -> Vec<usize> {
        use burn::backend::TensorMetadata;
        self.shape().to_vec()
    }
}

#[test]
fn half_precision_takes_the_reference_body() {
    let window = case(Cell::Lstm, 3, 2, 4, 5);
    let x = window.tensors::<Flex>(DType::BF16);
    let (got, expected) = (window.run(&x, true), window.run(&x, false));
    for (got, expected) in got.into_iter().zip(expected) {
        assert_eq!(values::<Flex>(got), values::<Flex>(expected));
    }
}

/// NaN stays in its sequence, infinity saturates; the pattern is that of the reference.
#[test]
fn special_values_spread_as_in_the_reference() {
    for cell in CELLS {
        for value in [f64::NAN, f64::INFINITY, -f64::INFINITY] {
            let window = case(cell, 5, 19, 6, 21);
            let mut data = window.data();
            // Step 2 of sequence 4.
            data[0].0[(2 * 19 + 4) * 6 + 1] = value;
            let tensors = data
                .into_iter()
                .map(|(x, dims)| float::<Flex>(x, &dims, DType::F32));
            let x = Tensors::<Flex>(tensors.collect());
            let states = |kernels| values::<Flex>(window.run(&x, kernels).swap_remove(0));
            let (got, expected) = (states(true), states(false));
            assert!(expected.iter().any(|x| !x.is_nan()));
            for (a, b) in got.iter().zip(&expected) {
                assert!(
                    a.is_nan() == b.is_nan() && (a.is_nan() || a == b || (a - b).abs() < 1e-5),
                    "{a} and {b}, {cell:?} with {value}"
                );
            }
        }
    }
}
