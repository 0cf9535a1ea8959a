//! What the machine at hand can do, and how much of it each case uses.
//!
//! Two ceilings: the rate of fused multiply-adds on registers alone, and the best rate that the `gemm` crate reaches, all threads
//! together, on each product of a case. The limit of a case is the sum over its products of operations / rate. What a case does
//! besides its products (gates, softmax, passes over weights) is in its time and not in the limit.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use clap::Args;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::Result;
use crate::cases::{Cell, LAYERS, LayerCase, TRAIN, TrainCase};
use crate::{layer, train};

#[derive(Args)]
pub struct Peak {
    /// Only cases whose name contains this.
    #[arg(long)]
    case: Option<String>,
    /// Timed repeats per product and case: the best of the products, the median of the cases.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Sizes that take seconds anywhere.
    #[arg(long)]
    rehearse: bool,
}

/// A product `[m, k] · [k, n]` and how often a case needs it.
#[derive(Clone, Copy, PartialEq)]
struct Product {
    of: &'static str,
    m: usize,
    k: usize,
    n: usize,
    /// Whether a factor is stored transposed.
    transposed: [bool; 2],
    times: usize,
}

impl Product {
    fn new(of: &'static str, [m, k, n]: [usize; 3], times: usize) -> Self {
        Self {
            of,
            m,
            k,
            n,
            transposed: [false; 2],
            times,
        }
    }

    fn left_transposed(self) -> Self {
        let transposed = [true, false];
        Self { transposed, ..self }
    }

    fn right_transposed(self) -> Self {
        let transposed = [false, true];
        Self { transposed, ..self }
    }

    /// Operations of one, an addition and a multiplication counted apart.
    fn operations(self) -> f64 {
        2.0 * self.m as f64 * self.k as f64 * self.n as f64
    }
}

/// The products of a recurrent layer over a window, forward and backward.
fn of_layer(cell: Cell, batch: usize, hidden: usize, steps: usize) -> Vec<Product> {
    let (rows, width) = (batch * steps, hidden * cell.gates());
    vec![
        Product::new("input", [rows, hidden, width], 1),
        Product::new("recurrent", [batch, hidden, width], steps),
        Product::new("recurrent, backward", [batch, width, hidden], steps).right_transposed(),
        // Of the input's weights and of the recurrent ones.
        Product::new("gradient of weights", [hidden, rows, width], 2).left_transposed(),
        Product::new("gradient of the input", [rows, width, hidden], 1).right_transposed(),
    ]
}

fn of_training(case: TrainCase) -> Vec<Product> {
    let TrainCase {
        hidden, vocabulary, ..
    } = case;
    let steps = case.scheme.window(case.k);
    let rows = case.tokens();
    let mut products = of_layer(Cell::Lstm, case.batch, hidden, steps);
    products.extend([
        Product::new("logits", [rows, hidden, vocabulary], 1).right_transposed(),
        Product::new("gradient of softmax", [vocabulary, rows, hidden], 1).left_transposed(),
        Product::new("gradient of features", [rows, vocabulary, hidden], 1),
    ]);
    products
}

/// One row of the report.
struct Case {
    name: String,
    products: Vec<Product>,
    /// Measures the case; seconds.
    seconds: Box<dyn Fn(usize) -> Result<f64>>,
}

fn cases(args: &Peak) -> Vec<Case> {
    let layer = |case: LayerCase| {
        let case = if args.rehearse { case.shrunk() } else { case };
        Case {
            name: case.name(),
            products: of_layer(case.cell, case.batch, case.hidden, case.steps),
            seconds: Box::new(move |repeat| Ok(layer::measure(case, repeat)?.seconds)),
        }
    };
    let training = |case: TrainCase| {
        let case = if args.rehearse { case.shrunk() } else { case };
        Case {
            name: case.name(),
            products: of_training(case),
            seconds: Box::new(move |repeat| Ok(train::measure(case, repeat)?.seconds)),
        }
    };
    let all = LAYERS.into_iter().map(layer);
    let mut all: Vec<Case> = all.chain(TRAIN.into_iter().map(training)).collect();
    all.retain(|case| {
        let part = args.case.as_deref().unwrap_or_default();
        case.name.contains(part)
    });
    all
}

pub fn run(args: &Peak) -> Result<()> {
    let repeat = args.repeat as usize;
    let threads = rayon::current_num_threads();
    let multiplications = if args.rehearse { 1 << 20 } else { 1 << 27 };
    let [one, all] =
        [1, threads].map(|threads| multiply_add_rate(threads, multiplications, repeat));
    println!("multiply-add on registers: {one:.0} GFLOP/s on one thread, {all:.0} on {threads}");

    let cases = cases(args);
    let mut rates: Vec<(Product, f64)> = Vec::new();
    println!("\n| product | shape | GFLOP/s of the gemm crate | share of multiply-add |");
    println!("|---|---|---|---|");
    for product in cases.iter().flat_map(|case| &case.products) {
        let product = Product {
            times: 1,
            ..*product
        };
        if rates.iter().any(|(known, _)| *known == product) {
            continue;
        }
        let rate = library_rate(product, repeat);
        let [left, right] = product.transposed.map(|yes| if yes { "ᵀ" } else { "" });
        let Product { of, m, k, n, .. } = product;
        println!(
            "| {of} | [{m}, {k}]{left} · [{k}, {n}]{right} | {rate:.0} | {:.2} |",
            rate / all
        );
        rates.push((product, rate));
    }

    println!(
        "\n| case | GFLOP | ms | GFLOP/s | share of multiply-add | library's limit, ms | share of the limit |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in &cases {
        let seconds = (case.seconds)(repeat)?;
        let (mut operations, mut limit) = (0.0, 0.0);
        for product in &case.products {
            let one = Product {
                times: 1,
                ..*product
            };
            let rate = rates.iter().find(|(known, _)| *known == one);
            let rate = rate.ok_or("a product without a rate")?.1;
            operations += product.times as f64 * product.operations();
            limit += product.times as f64 * product.operations() / (1e9 * rate);
        }
        let rate = operations / seconds / 1e9;
        println!(
            "| {} | {:.1} | {:.1} | {rate:.0} | {:.2} | {:.1} | {:.2} |",
            case.name,
            operations / 1e9,
            1e3 * seconds,
            rate / all,
            1e3 * limit,
            limit / seconds
        );
    }
    Ok(())
}

/// Fused multiply-adds on registers, the best of `repeat`, in GFLOP/s: as many on each of `threads` threads.
fn multiply_add_rate(threads: usize, multiplications: usize, repeat: usize) -> f64 {
    let mut best: f64 = 0.0;
    for _ in 0..repeat {
        let started = Instant::now();
        let operations: usize = std::thread::scope(|scope| {
            let run = || vectorized(MultiplyAdd(multiplications));
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            let own = run();
            let joined = others.into_iter().filter_map(|other| other.join().ok());
            own + joined.sum::<usize>()
        });
        best = best.max(operations as f64 / started.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// Runs `operation` with the widest instruction set that this processor has.
fn vectorized<Op: WithSimd>(operation: Op) -> Op::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return Simd::vectorize(simd, operation);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return Simd::vectorize(simd, operation);
        }
    }
    pulp::Arch::new().dispatch(operation)
}

/// So many rounds over independent sums; returns the operations done.
struct MultiplyAdd(usize);

impl WithSimd for MultiplyAdd {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        // More sums than the latency of a multiply-add times the units that do it, fewer than there are registers.
        const SUMS: usize = 12;
        let rounds = self.0 / SUMS;
        let [factor, term] = [0.999f32, 0.001].map(|value| simd.splat_f32s(black_box(value)));
        let mut sums = [term; SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, term);
            }
        }
        black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
        2 * S::F32_LANES * SUMS * rounds
    }
}

/// Rate of the `gemm` crate on a product, the best of `repeat`, in GFLOP/s: by its own threads, or by one call per thread on rows
/// of the result, whichever is faster. Small products are run many times.
fn library_rate(product: Product, repeat: usize) -> f64 {
    let Product { m, k, n, .. } = product;
    let value = |index: usize| (index % 17) as f32 / 17.0 - 0.4;
    let left: Vec<f32> = (0..m * k).map(value).collect();
    let right: Vec<f32> = (0..k * n).map(value).collect();
    let mut out = vec![0f32; m * n];
    let strides = |transposed: bool, rows: usize, columns: usize| match transposed {
        true => [1, rows],
        false => [columns, 1],
    };
    let left_strides = strides(product.transposed[0], m, k);
    let right_strides = strides(product.transposed[1], k, n);
    let call = |rows: Range<usize>, out: &mut [f32], parallelism: gemm::Parallelism| {
        let left = &left[rows.start * left_strides[0]..];
        // SAFETY: the factors have the rows and columns that sizes and strides say, and so has the result, which is borrowed.
        unsafe {
            gemm::gemm(
                rows.len(),
                n,
                k,
                out.as_mut_ptr(),
                1,
                n as isize,
                false,
                left.as_ptr(),
                left_strides[1] as isize,
                left_strides[0] as isize,
                right.as_ptr(),
                right_strides[1] as isize,
                right_strides[0] as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    };
    let rows_of_part = m.div_ceil(rayon::current_num_threads());
    let times = ((2e9 / product.operations()) as usize).clamp(1, 1000);
    let mut best: f64 = 0.0;
    for round in 0..2 * (repeat + 1) {
        let started = Instant::now();
        for _ in 0..times {
            match round % 2 {
                0 => call(0..m, &mut out, gemm::Parallelism::Rayon(0)),
                _ => out
                    .par_chunks_mut(rows_of_part * n)
                    .enumerate()
                    .for_each(|(part, out)| {
                        let first = part * rows_of_part;
                        let rows = first..first + out.len() / n;
                        call(rows, out, gemm::Parallelism::None);
                    }),
            }
        }
        black_box(&out);
        let seconds = started.elapsed().as_secs_f64() / times as f64;
        best = best.max(product.operations() / seconds / 1e9);
    }
    best
}
