//! Gradients that vanish on their way back through a long window: subnormal numbers count as zero, and what is skipped once all is
//! zero makes no difference.

#![allow(clippy::expect_used)] // A test fails by panicking.

use atbptt_models::ops::Cell;
use burn::backend::Flex;
use burn::tensor::DType;

use crate::kernels::{CELLS, Case, Tensors, case, float, values};

/// Steps at the end of a window whose states have a gradient of their own.
const COUNTED: usize = 3;
/// Steps after which a gradient times about 0.6 per step is below any f32.
const LONG: usize = 500;

/// A window whose gradient enters in its last steps and vanishes long before its first; `change` may edit the arguments, in the
/// order of [`Case::data`].
fn vanishing(window: Case, change: impl Fn(usize, &mut Vec<f64>)) -> Tensors<Flex> {
    let data = window.data().into_iter().enumerate();
    Tensors(
        data.map(|(index, (mut data, dims))| {
            let len = data.len();
            match index {
                // Recurrent weights: small.
                2 => data.iter_mut().for_each(|x| *x *= 0.1),
                // Gradient of the states.
                7 => data[..len / window.time * (window.time - COUNTED)].fill(0.0),
                _ => {}
            }
            change(index, &mut data);
            float::<Flex>(data, &dims, DType::F32)
        })
        .collect(),
    )
}

fn window(cell: Cell, batch: usize, hidden: usize) -> Case {
    let taps_and_mask = case(cell, LONG, batch, 6, hidden);
    Case {
        taps: false,
        reset_mask: false,
        needs: atbptt_models::ops::backend::NeedsGrad {
            taps: true,
            ..taps_and_mask.needs
        },
        ..taps_and_mask
    }
}

fn run(window: Case, x: &Tensors<Flex>, kernels: bool) -> Vec<Vec<f64>> {
    let out = window.run::<Flex>(x, kernels);
    out.into_iter().map(values::<Flex>).collect()
}

/// Tolerance: as for windows of any length, in f32, of each tensor's largest value.
#[test]
fn a_vanished_gradient_is_that_of_the_reference() {
    for cell in CELLS {
        for (taps, reset_mask) in [(false, false), (true, true)] {
            let window = Case {
                taps,
                reset_mask,
                ..window(cell, 3, 20)
            };
            let x = vanishing(window, |_, _| ());
            let (got, expected) = (run(window, &x, true), run(window, &x, false));
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let size = expected.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
                for (a, b) in got.iter().zip(expected) {
                    let close = (a - b).abs() <= 1e-5 * size;
                    assert!(close, "tensor {index}: {a:e}, reference {b:e}; {window:?}");
                }
            }
            // Gradient of the initial state and of the first inputs: exactly zero.
            assert!(got[2].iter().all(|&x| x.to_bits() == 0), "{window:?}");
            assert!(got[3][..100].iter().all(|&x| x == 0.0), "{window:?}");
            assert!(got[3].iter().any(|&x| x != 0.0), "{window:?}");
        }
    }
}

/// Split over threads by sequences (few weights) and by hidden units (many).
#[test]
fn bits_of_a_vanished_gradient_do_not_depend_on_the_number_of_threads() {
    for window in [
        window(Cell::Lstm, 33, 24),
        window(Cell::Gru, 5, 320),
        window(Cell::Rnn, 6, 530),
        window(Cell::MinGru, 40, 60),
    ] {
        let x = vanishing(window, |_, _| ());
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().expect("a thread pool");
            let out = pool.install(|| run(window, &x, true));
            let bits = out.into_iter().flatten().map(f64::to_bits);
            bits.collect::<Vec<_>>()
        };
        let one = bits(1);
        for threads in [2, 3] {
            assert!(one == bits(threads), "{threads} threads, {window:?}");
        }
    }
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn subnormal_gradients_give_zero() {
    for cell in CELLS {
        let window = case(cell, 4, 3, 5, 18);
        let x = vanishing(window, |index, data| {
            if index == 7 {
                data.fill(f64::from(f32::MIN_POSITIVE) / 4.0);
            }
        });
        for (index, gradient) in run(window, &x, true).iter().enumerate().skip(2) {
            let zero = gradient.iter().all(|&x| x == 0.0);
            assert!(zero, "gradient {index} of {cell:?}");
        }
        let smallest = vanishing(window, |index, data| {
            if index == 7 {
                data.fill(f64::from(f32::MIN_POSITIVE) * 100.0);
            }
        });
        let gradients = run(window, &smallest, true);
        assert!(
            gradients[2..].iter().flatten().any(|&x| x != 0.0),
            "{cell:?}"
        );
    }
}

/// Far before the first step that a gradient reaches, NaN and infinity still show where the reference shows them.
#[test]
fn what_is_not_finite_shows_beyond_a_vanished_gradient() {
    for cell in CELLS {
        let window = window(cell, 3, 20);
        for bad in [f64::NAN, f64::INFINITY] {
            let x = vanishing(window, |index, data| {
                if index == 0 {
                    // The first sequence's first input.
                    data[0] = bad;
                }
            });
            let (got, expected) = (run(window, &x, true), run(window, &x, false));
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let nan = |values: &[f64]| values.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
                assert!(nan(got) == nan(expected), "tensor {index}, {bad}, {cell:?}");
            }
            assert!(got.iter().flatten().any(|x| x.is_nan()), "{bad}, {cell:?}");
        }
    }
}
