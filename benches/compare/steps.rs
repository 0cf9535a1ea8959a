//! The recurrent part of a layer alone, step by step: products and steps, all steps in one launch, and the fused step over several
//! ways to cut it ([`Tile`]). What the choices in `ops/cube/{time_loop,tuning}.rs` go by.
//!
//! Eight inputs, so that the product over all steps weighs nothing; gradients of the bias and the initial state. One line per
//! setting, as soon as it is known. Every setting's results are held to those of the CPU (without the feature `flex`, to the
//! fused step's). Inputs and their weights have so few bits that TF32 holds them: what differs is the recurrent part. Burn's product
//! may be computed in TF32, so that it may differ by that.

use std::time::{Duration, Instant};

use atbptt::models::ops::internals::{Tile, TimeLoop, set_tiles, set_time_loop};
use atbptt::models::ops::{Cell, SequenceOptions, Weights, sequence};
use atbptt::train::device_from_env;
use burn::tensor::{Device, Distribution, Tensor};
use clap::Args;

use crate::Result;
use crate::cases::median;

#[derive(Args)]
pub struct Steps {
    /// Steps of a window.
    #[arg(long, default_value_t = 100)]
    steps: usize,
    /// No setting begins later than this many seconds after the start.
    #[arg(long, default_value_t = 90)]
    seconds: u64,
    /// Only layers whose name contains this.
    #[arg(long)]
    layer: Option<String>,
    /// Small layers in the place of the measured ones: rehearses, measures nothing.
    #[arg(long)]
    rehearse: bool,
}

/// A layer, and how much of the sweep it gets.
struct Layer {
    cell: Cell,
    batch: usize,
    hidden: usize,
    /// Forward and backward, measured together and reported apart.
    tiles: Vec<[Tile; 2]>,
}

/// Units, sequences, lines of gates and of sequences in a thread's block, split, terms ahead.
const fn tile(of: [usize; 6]) -> Tile {
    let [units, rows, block_units, block_rows, split, ahead] = of;
    Tile {
        units,
        rows,
        block_units,
        block_rows,
        split,
        ahead,
    }
}

fn layers() -> Vec<Layer> {
    let layer = |cell, batch, hidden, tiles: &[[[usize; 6]; 2]]| Layer {
        cell,
        batch,
        hidden,
        tiles: tiles.iter().map(|both| both.map(tile)).collect(),
    };
    vec![
        layer(
            Cell::Lstm,
            16,
            512,
            &[
                [[4, 16, 1, 1, 16, 8], [4, 16, 1, 1, 128, 4]],
                [[4, 16, 1, 2, 32, 4], [8, 16, 1, 2, 64, 4]],
                [[4, 16, 1, 1, 64, 2], [8, 16, 1, 1, 32, 8]],
                [[4, 16, 1, 1, 16, 4], [16, 16, 1, 2, 32, 4]],
                [[8, 16, 1, 1, 16, 4], [8, 16, 2, 1, 64, 4]],
                [[4, 16, 2, 2, 64, 2], [8, 8, 1, 1, 64, 4]],
            ],
        ),
        layer(
            Cell::Lstm,
            32,
            900,
            &[
                [[8, 32, 2, 2, 16, 4], [8, 32, 2, 2, 64, 4]],
                [[8, 16, 1, 2, 16, 4], [16, 16, 1, 2, 32, 4]],
                [[8, 32, 1, 2, 8, 4], [8, 32, 1, 2, 32, 4]],
                [[4, 32, 1, 2, 16, 4], [16, 32, 2, 2, 32, 4]],
                [[8, 16, 2, 2, 32, 4], [8, 16, 1, 2, 64, 4]],
            ],
        ),
        layer(Cell::Lstm, 16, 128, &[]),
        layer(Cell::Lstm, 16, 256, &[]),
        layer(Cell::Lstm, 64, 50, &[]),
        layer(Cell::Lstm, 64, 256, &[]),
        layer(Cell::Gru, 16, 512, &[]),
        layer(
            Cell::Lstm,
            64,
            512,
            &[
                [[8, 32, 2, 2, 16, 4], [8, 32, 2, 2, 64, 4]],
                [[8, 64, 2, 2, 8, 4], [16, 64, 2, 2, 16, 4]],
            ],
        ),
        layer(
            Cell::Lstm,
            256,
            512,
            &[[[8, 64, 2, 2, 8, 4], [16, 64, 2, 2, 16, 4]]],
        ),
    ]
}

/// Of a window, in milliseconds: until the device was done, and until the host had asked for everything.
struct Times {
    forward: [f64; 2],
    backward: [f64; 2],
}

struct Window {
    cell: Cell,
    input: Tensor<3>,
    weights: Weights,
    state: Tensor<2>,
}

impl Window {
    fn new(layer: &Layer, steps: usize, device: &Device) -> Self {
        let device = device.clone().autodiff();
        let Layer {
            cell,
            batch,
            hidden,
            ..
        } = *layer;
        let inputs = 8;
        let scale = 1.0 / (hidden as f64).sqrt();
        let uniform = Distribution::Uniform(-scale, scale);
        let recurrent = [hidden, cell.recurrent_gates() * hidden];
        let gates = cell.gates() * hidden;
        let normal = Distribution::Normal(0.0, 1.0);
        let input = Tensor::random([steps, batch, inputs], normal, &device);
        let input_weight = Tensor::random([inputs, gates], uniform, &device);
        Self {
            cell,
            input: coarse(input, 64.0),
            weights: Weights {
                input: coarse(input_weight, 4096.0),
                recurrent: Some(Tensor::random(recurrent, uniform, &device)),
                bias: Some(Tensor::random([gates], uniform, &device).require_grad()),
                recurrent_bias: None,
            },
            state: Tensor::random([batch, cell.state_parts() * hidden], normal, &device)
                .require_grad(),
        }
    }

    /// The same numbers there.
    #[cfg(feature = "flex")]
    fn on(&self, device: &Device) -> Self {
        let device = device.clone().autodiff();
        let Weights {
            input,
            recurrent,
            bias,
            recurrent_bias,
        } = self.weights.clone();
        Self {
            cell: self.cell,
            input: Tensor::from_data(self.input.to_data(), &device),
            weights: Weights {
                input: Tensor::from_data(input.into_data(), &device),
                recurrent: recurrent.map(|weight| Tensor::from_data(weight.into_data(), &device)),
                bias: bias.map(|bias| Tensor::from_data(bias.into_data(), &device).require_grad()),
                recurrent_bias,
            },
            state: Tensor::from_data(self.state.to_data(), &device).require_grad(),
        }
    }

    /// What every setting's results are held to, where there is a backend to compute it.
    fn expected(&self) -> Result<Option<Vec<Vec<f32>>>> {
        #[cfg(feature = "flex")]
        return self.on(&Device::flex()).results().map(Some);
        #[cfg(not(feature = "flex"))]
        Ok(None)
    }

    fn forward(&self) -> Result<Tensor<3>> {
        let options = SequenceOptions::default();
        let (input, weights) = (self.input.clone(), self.weights.clone());
        Ok(sequence(
            self.cell,
            input,
            weights,
            self.state.clone(),
            options,
        )?)
    }

    /// States, and gradients of bias and initial state, each relative to its largest value.
    fn results(&self) -> Result<Vec<Vec<f32>>> {
        let states = self.forward()?;
        let grads = states.clone().backward();
        let bias = self
            .weights
            .bias
            .as_ref()
            .and_then(|bias| bias.grad(&grads));
        let bias = bias.ok_or("the bias has no gradient")?;
        let state = self
            .state
            .grad(&grads)
            .ok_or("the initial state has no gradient")?;
        let all = [states.into_data(), bias.into_data(), state.into_data()];
        let relative = |data: burn::tensor::TensorData| {
            let values: Vec<f32> = data.iter::<f32>().collect();
            let largest = values.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
            values.into_iter().map(|x| x / largest).collect()
        };
        Ok(all.into_iter().map(relative).collect())
    }

    fn times(&self, device: &Device) -> Result<Times> {
        let sync = || device.sync().map_err(|error| format!("{error:?}"));
        let mut all: [Vec<f64>; 4] = Default::default();
        let begun = Instant::now();
        sync()?;
        while all[0].len() < 5 || begun.elapsed() < Duration::from_millis(200) {
            let started = Instant::now();
            let states = self.forward()?;
            let asked = started.elapsed();
            sync()?;
            let forward = started.elapsed();
            let started = Instant::now();
            let grads = states.backward();
            let asked_back = started.elapsed();
            sync()?;
            let times = [forward, asked, started.elapsed(), asked_back];
            drop(grads);
            for (all, time) in all.iter_mut().zip(times) {
                all.push(1e3 * time.as_secs_f64());
            }
        }
        let [forward, asked, backward, asked_back] =
            all.map(|times| median(times).unwrap_or(f64::NAN));
        Ok(Times {
            forward: [forward, asked],
            backward: [backward, asked_back],
        })
    }
}

/// Rounded to multiples of 1 / `parts`.
fn coarse<const D: usize>(tensor: Tensor<D>, parts: f64) -> Tensor<D> {
    (tensor * parts).round() / parts
}

pub fn run(args: &Steps) -> Result<()> {
    let named = device_from_env()?;
    if let backend @ ("flex" | "ndarray") = named.backend {
        return Err(format!(
            "steps compares kernels for GPUs, and BURN_DEVICE chose {backend}; name a GPU backend there"
        )
        .into());
    }
    let started = Instant::now();
    println!(
        "{} steps on {named}, ms: device done (host done)",
        args.steps
    );
    println!("| layer | setting | forward | backward | both, us per step | difference |");
    println!("|---|---|---|---|---|---|");
    let mut wrong = 0;
    for layer in layers() {
        let name = |of: &Layer| format!("{}/b{}/h{}", of.cell.name(), of.batch, of.hidden);
        if !name(&layer).contains(args.layer.as_deref().unwrap_or_default()) {
            continue;
        }
        let layer = match args.rehearse {
            true => Layer {
                batch: layer.batch.min(10),
                hidden: layer.hidden.min(20),
                ..layer
            },
            false => layer,
        };
        let name = name(&layer);
        let window = Window::new(&layer, args.steps, &named.device);
        let mut settings = vec![
            ("fused".to_owned(), TimeLoop::Fused, None),
            (PRODUCTS.to_owned(), TimeLoop::OnHost, None),
        ];
        if layer.hidden <= 256 {
            settings.push(("one launch".to_owned(), TimeLoop::OnDevice, None));
        }
        for tiles in &layer.tiles {
            let [there, back] = tiles.map(show);
            settings.push((format!("{there} {back}"), TimeLoop::Fused, Some(*tiles)));
        }
        let mut expected = window.expected()?;
        for (setting, time_loop, tiles) in settings {
            if started.elapsed() > Duration::from_secs(args.seconds) {
                println!("| {name} | {setting} | no time left | | | |");
                continue;
            }
            set_time_loop(time_loop);
            set_tiles(tiles.map(|[there, _]| there), tiles.map(|[_, back]| back));
            // Compiles, too.
            let got = window.results()?;
            let expected = expected.get_or_insert_with(|| got.clone());
            let pairs = got.iter().flatten().zip(expected.iter().flatten());
            let apart = pairs.map(|(a, b)| match (a - b).abs() {
                nan if nan.is_nan() => f32::INFINITY,
                apart => apart,
            });
            let difference = apart.fold(0.0, f32::max);
            let Times { forward, backward } = window.times(&named.device)?;
            let [f, f_host] = forward;
            let [b, b_host] = backward;
            let per_step = 1e3 * (f + b) / args.steps as f64;
            let is_right = difference
                <= match setting.as_str() {
                    PRODUCTS => TOLERANCE_OF_TF32,
                    _ => TOLERANCE,
                };
            wrong += usize::from(!is_right);
            println!(
                "| {name} | {setting} | {f:.2} ({f_host:.2}) | {b:.2} ({b_host:.2}) | {per_step:.1} | {difference:.0e}{} |",
                if is_right { "" } else { ", WRONG" }
            );
        }
    }
    set_time_loop(TimeLoop::Auto);
    set_tiles(None, None);
    println!("{:.0} s", started.elapsed().as_secs_f64());
    match wrong {
        0 => Ok(()),
        _ => Err(
            format!("{wrong} settings differ from the products by more than {TOLERANCE:e}").into(),
        ),
    }
}

const PRODUCTS: &str = "products";

/// Of the largest value of each result: f32's roundings over the steps of a window.
const TOLERANCE: f32 = 1e-5;

/// Where products are computed in TF32: 2⁻¹¹ of each factor.
const TOLERANCE_OF_TF32: f32 = 2e-3;

fn show(tile: Tile) -> String {
    let Tile {
        units,
        rows,
        block_units,
        block_rows,
        split,
        ahead,
    } = tile;
    format!("{units}x{rows}/{block_units}x{block_rows}/{split}/{ahead}")
}
