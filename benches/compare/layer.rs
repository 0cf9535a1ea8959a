//! `layer/*`: forward and backward of one layer, gradients of weights, input and initial state.

use std::hint::black_box;
use std::time::{Duration, Instant};

use atbptt::models::{GruLayer, LstmLayer, RecurrentLayer, RecurrentState, Stack, StackConfig};
use atbptt::train::device_from_env;
use burn::tensor::{Device, Distribution, Tensor};

use crate::Result;
use crate::cases::{Cell, LEAST_TIME, LayerCase, Measured};

pub fn measure(case: LayerCase, repeat: usize) -> Result<Measured> {
    let named = device_from_env()?;
    let device = named.device.clone().autodiff();
    let LayerCase { hidden, .. } = case;
    let times = match case.cell {
        Cell::Lstm => {
            let config = StackConfig::<LstmLayer>::new(hidden, hidden).with_batch_first(false);
            times(&config.init(&device)?, case, repeat, &device)?
        }
        Cell::Gru => {
            let config = StackConfig::<GruLayer>::new(hidden, hidden).with_batch_first(false);
            times(&config.init(&device)?, case, repeat, &device)?
        }
    };
    Measured::new(case.name(), case.batch * case.steps, times, &named)
}

fn times<L: RecurrentLayer>(
    layers: &Stack<L>,
    case: LayerCase,
    repeat: usize,
    device: &Device,
) -> Result<Vec<Duration>> {
    let LayerCase {
        batch,
        hidden,
        steps,
        ..
    } = case;
    let input = Tensor::<3>::random(
        [steps, batch, hidden],
        Distribution::Normal(0.0, 1.0),
        device,
    );
    let input = input.require_grad();
    let state: Vec<L::State> = layers
        .zero_state(batch, device)
        .into_iter()
        .map(|state| state.map_parts(&mut |part| part.require_grad()))
        .collect();
    let mut times = Vec::with_capacity(repeat);
    let (mut begun, mut warm) = (Instant::now(), false);
    while !warm || times.len() < repeat || begun.elapsed() < LEAST_TIME {
        let started = Instant::now();
        let (output, _) = layers.forward(input.clone(), Some(state.clone()))?;
        // From ones, as the peer starts from a given gradient of the outputs.
        black_box(output.backward());
        device.sync().map_err(|error| format!("{error:?}"))?;
        if warm {
            times.push(started.elapsed());
        } else if begun.elapsed() >= LEAST_TIME {
            (begun, warm) = (Instant::now(), true);
        }
    }
    Ok(times)
}
