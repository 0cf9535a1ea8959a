//! How long one recurrent layer takes for a window, forward and backward, beside Burn's own layer on the same backend.
//!
//! ```sh
//! cargo bench --bench layers             # about two minutes
//! cargo bench --bench layers -- --test   # each case once
//! ```
//!
//! A run is a forward pass over `[batch, time, hidden]` (as many inputs as hidden units) and the gradients of all weights,
//! of the input and of the initial state. Both layers start from the same kind of weights, on Flex with autodiff, in the
//! same process. The last lines give the ratio of the medians.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use atbptt_models::{GruLayer, LstmLayer, RecurrentState, StackConfig};
use burn::nn;
use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, SamplingMode};

/// Shape of a window.
#[derive(Clone, Copy)]
struct Case {
    cell: &'static str,
    batch: usize,
    hidden: usize,
    steps: usize,
}

impl Case {
    fn name(self) -> String {
        let Case {
            cell,
            batch,
            hidden,
            steps,
        } = self;
        format!("{cell} [{batch}, {hidden}, {steps} steps]")
    }

    fn input(self, device: &Device) -> Tensor<3> {
        let shape = [self.batch, self.steps, self.hidden];
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad()
    }

    fn part(self, device: &Device) -> Tensor<2> {
        let shape = [self.batch, self.hidden];
        Tensor::random(shape, Distribution::Normal(0.0, 0.5), device).require_grad()
    }
}

/// Medians per case: ours, Burn's.
type Medians = Mutex<Vec<(String, &'static str, f64)>>;

/// Measures `run`, keeping the median of what criterion asked for.
fn measure(c: &mut Criterion, medians: &Medians, case: Case, whose: &'static str, run: impl Fn()) {
    let mut group = c.benchmark_group(case.name());
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    let mut seconds = Vec::new();
    group.bench_function(BenchmarkId::from_parameter(whose), |bencher| {
        bencher.iter_custom(|iterations| {
            let started = Instant::now();
            for _ in 0..iterations {
                run();
            }
            let elapsed = started.elapsed();
            seconds.push(elapsed.as_secs_f64() / iterations as f64);
            elapsed
        });
    });
    group.finish();
    seconds.sort_by(f64::total_cmp);
    if let (Some(median), Ok(mut all)) = (seconds.get(seconds.len() / 2), medians.lock()) {
        all.push((case.name(), whose, *median));
    }
}

fn lstm(c: &mut Criterion, medians: &Medians, case: Case, device: &Device) {
    let config = StackConfig::<LstmLayer>::new(case.hidden, case.hidden);
    let Ok(ours) = config.init(device) else {
        return;
    };
    let burns = ours.layers[0].to_burn();
    let (hidden, cell) = (case.part(device), case.part(device));
    let input = case.input(device);
    measure(c, medians, case, "atbptt", || {
        let mut parts = vec![hidden.clone(), cell.clone()].into_iter();
        let zeros = ours.zero_state(case.batch, device);
        let state = zeros.map_parts(&mut |zeros| parts.next().unwrap_or(zeros));
        if let Ok((output, _)) = ours.forward(input.clone(), Some(state)) {
            black_box(output.sum().backward());
        }
    });
    measure(c, medians, case, "burn", || {
        let state = nn::LstmState::new(cell.clone(), hidden.clone());
        let (output, _) = burns.forward(input.clone(), Some(state));
        black_box(output.sum().backward());
    });
}

fn gru(c: &mut Criterion, medians: &Medians, case: Case, device: &Device) {
    let config = StackConfig::<GruLayer>::new(case.hidden, case.hidden);
    let Ok(ours) = config.init(device) else {
        return;
    };
    let burns = nn::GruConfig::new(case.hidden, case.hidden, true).init(device);
    let (hidden, input) = (case.part(device), case.input(device));
    measure(c, medians, case, "atbptt", || {
        if let Ok((output, _)) = ours.forward(input.clone(), Some(vec![hidden.clone()])) {
            black_box(output.sum().backward());
        }
    });
    measure(c, medians, case, "burn", || {
        let output = burns.forward(input.clone(), Some(hidden.clone()));
        black_box(output.sum().backward());
    });
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    let medians = Medians::default();
    let device = Device::flex().autodiff();
    let case = |cell, batch, hidden| Case {
        cell,
        batch,
        hidden,
        steps: 100,
    };
    lstm(&mut c, &medians, case("LSTM", 64, 50), &device);
    lstm(&mut c, &medians, case("LSTM", 16, 512), &device);
    lstm(&mut c, &medians, case("LSTM", 32, 900), &device);
    gru(&mut c, &medians, case("GRU", 16, 512), &device);
    c.final_summary();

    let all = medians.into_inner().unwrap_or_default();
    for pair in all.chunks(2) {
        if let [(case, "atbptt", ours), (_, "burn", burns)] = pair {
            println!(
                "{case}: {:.1} ms, Burn's {:.1} ms, {:.2} times as fast",
                1e3 * ours,
                1e3 * burns,
                burns / ours
            );
        }
    }
}
