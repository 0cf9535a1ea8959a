//! Linear layer, softmax and negative log-likelihood over blocks of rows.
//!
//! The logits of a block become ∂L/∂z in place, each row in one visit while it is in cache: maximum, exponentials and
//! their sum, scaling. The products accumulate into the gradients.

use pulp::{Simd, WithSimd};

use super::few_rows;
use super::math::exp_of_negative;
use super::matrix::Matrix;
use super::pool::{Buffer, UninitBuffer};
use super::product::product;
use super::shared::Shared;
use super::simd::{Level, Real};
use super::sum_rows::sum_rows;
use super::threads::each_chunk;
use crate::ops::types::NllNeedsGrad;

/// Largest number of logits that exist at once: 128 MiB in f32. The products of a block pack all weights, which larger
/// blocks do less often.
const BLOCK_LOGITS: usize = 1 << 25;
/// Logits from which a second thread pays for its waking up.
const SHARED_LOGITS: usize = 1 << 15;

/// Contiguous arguments; every target is below `classes`.
pub(crate) struct Arguments<'a, E> {
    pub rows: usize,
    pub features: usize,
    pub classes: usize,
    pub hidden: &'a [E],
    pub weight: &'a [E],
    pub bias: Option<&'a [E]>,
    pub targets: &'a [usize],
    /// Factors on the losses of the rows.
    pub row_weights: Option<&'a [E]>,
}

/// Loss, summed and per row, and the gradients asked for.
pub(crate) struct Output<E> {
    pub loss: E,
    pub rows: Buffer<E>,
    pub hidden: Option<Buffer<E>>,
    pub weight: Option<Buffer<E>>,
    pub bias: Option<Buffer<E>>,
    /// At the logits, in place of the weight's, where that was allowed and rows are few.
    pub logits: Option<Buffer<E>>,
}

pub(crate) fn linear_nll<E: Real>(
    args: &Arguments<'_, E>,
    needs: NllNeedsGrad,
    to_logits: bool,
) -> Output<E> {
    if few_rows::takes::<E>(args.rows, args.features) && args.rows * args.classes <= BLOCK_LOGITS {
        return linear_nll_of_few(args, needs, to_logits);
    }
    let most = (BLOCK_LOGITS / args.classes).max(16);
    // Blocks of nearly equal size.
    let block = args.rows.div_ceil(args.rows.div_ceil(most));
    linear_nll_in_blocks(args, needs, block)
}

fn linear_nll_of_few<E: Real>(
    args: &Arguments<'_, E>,
    needs: NllNeedsGrad,
    to_logits: bool,
) -> Output<E> {
    let &Arguments {
        rows,
        features,
        classes,
        ..
    } = args;
    let out = few_rows::softmax(args, needs.hidden, needs.weight || needs.bias);
    let weighted = |(row, loss): (usize, &E)| {
        let weight = args.row_weights.map_or(E::ONE, |weights| weights[row]);
        weight.to() * loss.to()
    };
    let loss = out.rows.iter().enumerate().map(weighted).sum();
    let bias = out.logits.as_deref().filter(|_| needs.bias).map(|logits| {
        let mut sum = Buffer::zeros(classes);
        sum_rows(&mut sum, logits, rows, classes);
        sum
    });
    let mut logits = out.logits.filter(|_| needs.weight);
    let at_once = logits.take_if(|_| !to_logits);
    Output {
        loss: E::of(loss),
        rows: out.rows,
        hidden: out.hidden,
        weight: at_once.map(|logits| {
            few_rows::weight_gradient(&logits, args.hidden, [rows, features, classes], E::ONE)
        }),
        bias,
        logits,
    }
}

fn linear_nll_in_blocks<E: Real>(
    args: &Arguments<'_, E>,
    needs: NllNeedsGrad,
    block: usize,
) -> Output<E> {
    let &Arguments {
        rows,
        features,
        classes,
        ..
    } = args;
    let gradient = needs != NllNeedsGrad::default();
    let weight = Matrix::new(args.weight, classes, features);
    let mut d_hidden = needs.hidden.then(|| Buffer::zeros(rows * features));
    let mut d_weight: Option<Buffer<E>> = None;
    let mut d_bias = needs.bias.then(|| Buffer::zeros(classes));
    let mut part = needs.bias.then(|| Buffer::zeros(classes));
    let mut loss = 0.0;
    let mut row_losses = Buffer::zeros(rows);
    let level = Level::detect();
    let row_weight = |row: usize| args.row_weights.map_or(E::ONE, |weights| weights[row]);
    for first in (0..rows).step_by(block) {
        let count = block.min(rows - first);
        let hidden = Matrix::new(&args.hidden[first * features..], count, features);
        let mut z = UninitBuffer::new(count * classes);
        product(z.target(), classes, false, hidden, weight.transposed());
        // SAFETY: the product wrote all of it.
        let mut z = unsafe { z.assume_init() };
        let losses = Shared::new(&mut row_losses[first..first + count]);
        let softmax = |row: usize, z: &mut [E]| {
            let loss = level.dispatch(Row {
                z,
                bias: args.bias,
                target: args.targets[first + row],
                weight: gradient.then(|| row_weight(first + row)),
            });
            // SAFETY: the row exists, and comes once.
            unsafe { *losses.at(row) = loss };
        };
        each_chunk(count * classes >= SHARED_LOGITS, &mut z, classes, softmax);
        loss += (first..first + count)
            .map(|row| row_weight(row).to() * row_losses[row].to())
            .sum::<f64>();

        let d_z = Matrix::new(&z, count, classes);
        if let (Some(total), Some(part)) = (&mut d_bias, &mut part) {
            sum_rows(part, &z, count, classes);
            total
                .iter_mut()
                .zip(part.iter())
                .for_each(|(total, &part)| *total += part);
        }
        if needs.weight {
            let d_z = d_z.transposed();
            match &mut d_weight {
                Some(out) => product((&mut out[..]).into(), features, true, d_z, hidden),
                None => {
                    let mut out = UninitBuffer::new(classes * features);
                    product(out.target(), features, false, d_z, hidden);
                    // SAFETY: the product wrote all of it.
                    d_weight = Some(unsafe { out.assume_init() });
                }
            }
        }
        if let Some(out) = &mut d_hidden {
            product(
                (&mut out[first * features..]).into(),
                features,
                false,
                d_z,
                weight,
            );
        }
    }
    Output {
        loss: E::of(loss),
        rows: row_losses,
        hidden: d_hidden,
        weight: d_weight,
        bias: d_bias,
        logits: None,
    }
}

/// One row of logits: returns −log softmax(z + bias) at the target; with a `weight`, z becomes weight · (softmax −
/// onehot).
struct Row<'a, E> {
    z: &'a mut [E],
    bias: Option<&'a [E]>,
    target: usize,
    weight: Option<E>,
}

impl<E: Real> WithSimd for Row<'_, E> {
    type Output = E;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> E {
        const WAYS: usize = 4;
        let lanes = E::lanes::<S>();
        let stride = WAYS * lanes;
        let (z, len) = (self.z.as_mut_ptr(), self.z.len());
        // SAFETY: every access is at `at < len`, of at most `len - at` elements; the bias is as long as the row.
        unsafe {
            let lowest = E::splat(simd, E::of(f64::NEG_INFINITY));
            let mut max = [lowest; WAYS];
            for first in (0..len).step_by(stride) {
                for (way, max) in max.iter_mut().enumerate() {
                    let at = first + way * lanes;
                    if at >= len {
                        break;
                    }
                    let mut x = E::load(simd, z.add(at), len - at);
                    if let Some(bias) = self.bias {
                        x = E::add(simd, x, E::load(simd, bias.as_ptr().add(at), len - at));
                        E::store(simd, z.add(at), len - at, x);
                    }
                    if len - at < lanes {
                        // Lanes past the end hold zero, which must not win.
                        for &x in std::slice::from_raw_parts(z.add(at), len - at) {
                            *max = E::max(simd, *max, E::splat(simd, x));
                        }
                    } else {
                        *max = E::max(simd, *max, x);
                    }
                }
            }
            let max = E::max(
                simd,
                E::max(simd, max[0], max[1]),
                E::max(simd, max[2], max[3]),
            );
            let max = E::max_lanes(simd, max);
            let target = self.z[self.target];

            let shift = E::splat(simd, max);
            let mut sum = [E::splat(simd, E::ZERO); WAYS];
            let mut tail = E::ZERO;
            for first in (0..len).step_by(stride) {
                for (way, sum) in sum.iter_mut().enumerate() {
                    let at = first + way * lanes;
                    if at >= len {
                        break;
                    }
                    let x = E::load(simd, z.add(at), len - at);
                    let e = exp_of_negative::<E, S>(simd, E::sub(simd, x, shift));
                    if self.weight.is_some() || len - at < lanes {
                        E::store(simd, z.add(at), len - at, e);
                    }
                    if len - at < lanes {
                        for &e in std::slice::from_raw_parts(z.add(at), len - at) {
                            tail += e;
                        }
                    } else {
                        *sum = E::add(simd, *sum, e);
                    }
                }
            }
            let sum = E::add(
                simd,
                E::add(simd, sum[0], sum[1]),
                E::add(simd, sum[2], sum[3]),
            );
            let mut total = E::sum_lanes(simd, sum);
            total += tail;

            if let Some(weight) = self.weight {
                let scale = E::splat(simd, E::of(weight.to() / total.to()));
                for at in (0..len).step_by(lanes) {
                    let p = E::mul(simd, E::load(simd, z.add(at), len - at), scale);
                    E::store(simd, z.add(at), len - at, p);
                }
                self.z[self.target] += -weight;
            }
            E::of(total.to().ln() - (target.to() - max.to()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks only regroup sums: 1e-12 in f64.
    #[test]
    fn blocks_of_rows_change_nothing() {
        let (rows, features, classes) = (23, 5, 41);
        let wave = |count: usize, step: f64| (0..count).map(|i| (i as f64 * step).sin()).collect();
        let (hidden, weight): (Vec<f64>, Vec<f64>) =
            (wave(rows * features, 0.7), wave(classes * features, 1.3));
        let bias: Vec<f64> = wave(classes, 0.4);
        let targets: Vec<usize> = (0..rows).map(|row| row * 5 % classes).collect();
        let args = Arguments {
            rows,
            features,
            classes,
            hidden: &hidden,
            weight: &weight,
            bias: Some(&bias),
            targets: &targets,
            row_weights: None,
        };
        let run = |block: usize| {
            let needs = NllNeedsGrad {
                hidden: true,
                weight: true,
                bias: true,
            };
            let out = linear_nll_in_blocks(&args, needs, block);
            [
                Some(Buffer::from(&[out.loss][..])),
                out.hidden,
                out.weight,
                out.bias,
            ]
            .into_iter()
            .flatten()
            .flat_map(|part| part.to_vec())
            .collect::<Vec<f64>>()
        };
        let whole = run(rows);
        for block in [1, 2, 7, 22] {
            for (a, b) in run(block).iter().zip(&whole) {
                assert!((a - b).abs() < 1e-12, "{block} rows per block: {a} and {b}");
            }
        }
    }
}
