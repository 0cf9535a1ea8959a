//! The kernels of CubeCL backends, on the best that is compiled in; skipped where it finds no device. The reference runs on the CPU:
//! Burn 0.22.1's fusion gets the GRU's wrong at batch 1.

use super::*;
use crate::common::{TURN, gpu, with_each_time_loop};
use atbptt_models::ops::backend::LogitBlock;
use atbptt_models::ops::internals::{Tile, TimeLoop, set_tiles, set_time_loop};
use burn::backend::Cube;
use burn::tensor::Tensor;

/// Against the reference, with either loop over time.
fn check(case: Case) {
    with_each_time_loop(|| case.check_against::<Cube, Flex>(DType::F32, tolerance()));
}

/// Of a sum, several roundings.
fn tolerance() -> f64 {
    f64::max(1e-5, 4.0 * product_rounding())
}

/// How far a product of f32 matrices is rounded, relative to its factors: 2⁻²⁴, or 2⁻¹¹ where the backend may choose tensor
/// cores, which read TF32.
fn product_rounding() -> f64 {
    static ROUNDING: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *ROUNDING.get_or_init(|| {
        let device = gpu().expect("asked before");
        // One bit more than TF32 has, times one.
        let value = 1.0 + 2f32.powi(-12);
        let exact = [1, 16, 128].into_iter().all(|n| {
            let product = Tensor::<2>::full([n, n], value, &device)
                .matmul(Tensor::eye(n, &device))
                .into_data();
            product.iter::<f32>().all(|product| product == value)
        });
        match exact {
            true => 2f64.powi(-24),
            false => {
                println!("products of f32 matrices are computed in TF32 here");
                2f64.powi(-11)
            }
        }
    })
}

// Fewer and smaller cases than on the CPU: a software device takes a tenth of a millisecond per launch. Tolerance as
// there, in f32.
proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_gpu_kernels_equal_the_reference(case in cases()) {
        if gpu().is_some() {
            check(Case { time: case.time.min(12), ..case });
        }
    }
}

/// By the ways that are compiled for few sizes or for each; fused steps have a test of their own, for every variant takes a
/// compiler half a second.
#[test]
fn smallest_windows_are_right() {
    if gpu().is_none() {
        return;
    }
    let _turn = TURN.lock();
    for time_loop in [TimeLoop::OnDevice, TimeLoop::OnHost] {
        set_time_loop(time_loop);
        for cell in CELLS {
            // The last is more than a cube has units.
            for (time, batch, hidden) in [(1, 1, 1), (2, 1, 3), (1, 5, 2), (3, 2, 64), (2, 2, 300)]
            {
                let window = case(cell, time, batch, 2, hidden);
                window.check_against::<Cube, Flex>(DType::F32, tolerance());
            }
        }
    }
    set_time_loop(TimeLoop::Auto);
}

/// Sizes that fill no line, no tile, several of both; with taps, resets and all gradients. The other ways to run a window take
/// any size alike, and random ones above.
#[test]
fn fused_windows_of_odd_sizes_are_right() {
    if gpu().is_none() {
        return;
    }
    let _turn = TURN.lock();
    set_time_loop(TimeLoop::Fused);
    let sizes = [
        (1, 1),
        (3, 5),
        (50, 33),
        (130, 2),
        (513, 16),
        (50, 70),
        (9, 140),
    ];
    for cell in [Cell::Lstm, Cell::Gru, Cell::Rnn] {
        for (hidden, batch) in sizes {
            let window = case(cell, 3, batch, 2, hidden);
            window.check_against::<Cube, Flex>(DType::F32, tolerance());
        }
    }
    set_time_loop(TimeLoop::Auto);
}

/// However the step is cut: one thread per block of sums and many, large blocks and small, more threads than terms, a last cube
/// and a last block of terms that are not full.
#[test]
fn a_fused_step_gives_the_same_however_it_is_cut() {
    if gpu().is_none() {
        return;
    }
    let _turn = TURN.lock();
    set_time_loop(TimeLoop::Fused);
    for cell in [Cell::Lstm, Cell::Gru, Cell::Rnn] {
        let window = case(cell, 4, 19, 2, 37);
        let x = window.tensors::<Cube>(DType::F32);
        let run = || -> Vec<Vec<f64>> {
            let all = window.run(&x, true).into_iter();
            all.map(values::<Cube>).collect()
        };
        let expected = run();
        let tiles = [
            (4, 4, 1, 1, 1, 1),
            (4, 4, 1, 1, 64, 1),
            (4, 16, 1, 1, 8, 8),
            (8, 16, 2, 1, 2, 3),
            (16, 32, 2, 2, 4, 2),
        ];
        for (units, rows, block_units, block_rows, split, ahead) in tiles {
            let tile = Tile {
                units,
                rows,
                block_units,
                block_rows,
                split,
                ahead,
            };
            set_tiles(Some(tile), Some(tile));
            let got = run();
            assert!(got == run(), "the same bits once more: {tile:?}");
            assert!(got != expected, "another order of the sums: {tile:?}");
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let what = format!("tensor {index} of {cell:?}, {tile:?}");
                // Gradients at inputs and weights come from Burn's products.
                crate::common::assert_close(&what, got, expected, tolerance());
            }
        }
        set_tiles(None, None);
    }
    set_time_loop(TimeLoop::Auto);
}

/// Ids that are no classes are not followed: no loss, and nothing written elsewhere.
#[test]
fn targets_outside_the_classes_give_no_loss() {
    if gpu().is_none() {
        return;
    }
    for bad in [-1, 5, i32::MAX] {
        let block = LogitBlock::<Cube> {
            logits: float::<Cube>(noise(1, 15), &[3, 5], DType::F32),
            bias: None,
            targets: Cube::int_from_data(
                TensorData::new(vec![0, bad, 4], [3]),
                &Default::default(),
            ),
            row_weights: None,
        };
        let out = Cube::softmax_block(block, true);
        let losses = values::<Cube>(out.rows);
        assert!(losses[1].is_nan(), "{bad}: {losses:?}");
        assert!(losses[0].is_finite() && losses[2].is_finite(), "{losses:?}");
        let gradients = values::<Cube>(out.logits.expect("asked for"));
        for (row, sum) in [(0, 0.0), (1, 1.0), (2, 0.0)] {
            let row = &gradients[row * 5..(row + 1) * 5];
            assert!(
                (row.iter().sum::<f64>() - sum).abs() < 1e-5,
                "{bad}: {row:?}"
            );
        }
    }
}

/// One class, fewer classes than units, more; several rows; with and without bias, row weights and gradient.
#[test]
fn softmax_rows_equal_the_reference() {
    if gpu().is_none() {
        return;
    }
    for (rows, classes) in [(1, 1), (3, 7), (40, 256), (9, 1_000)] {
        for flags in 0..8u8 {
            let flag = |bit: u8| flags >> bit & 1 == 1;
            let targets: Vec<i32> = (0..rows)
                .map(|row| ((row * 7 + 3) % classes) as i32)
                .collect();
            let block = || LogitBlock::<Cube> {
                logits: float::<Cube>(
                    noise(1, rows * classes).iter().map(|x| 8.0 * x).collect(),
                    &[rows, classes],
                    DType::F32,
                ),
                bias: flag(0).then(|| float::<Cube>(noise(2, classes), &[classes], DType::F32)),
                targets: Cube::int_from_data(
                    TensorData::new(targets.clone(), [rows]),
                    &Default::default(),
                ),
                row_weights: flag(1).then(|| float::<Cube>(noise(3, rows), &[rows], DType::F32)),
            };
            let got = Cube::softmax_block(block(), flag(2));
            let expected = reference::nll::softmax_block::<Cube>(block(), flag(2));
            let what = format!("{rows} rows of {classes}, flags {flags:03b}");
            crate::common::assert_close(
                &what,
                &values::<Cube>(got.rows),
                &values::<Cube>(expected.rows),
                1e-5,
            );
            assert_eq!(got.logits.is_some(), flag(2));
            if let (Some(got), Some(expected)) = (got.logits, expected.logits) {
                crate::common::assert_close(
                    &what,
                    &values::<Cube>(got),
                    &values::<Cube>(expected),
                    1e-6,
                );
            }
        }
    }
}
