//! Linear layer, softmax and negative log-likelihood over blocks of rows.
//!
//! The logits of a block exist only while its loss and gradients are computed: with the softmax at hand, all
//! gradients cost one more product each, and nothing is kept for the backward pass but the gradients themselves.
//!
//! Symbols: `z` logits `[rows, classes]`; `p` = softmax(z); ∂L/∂z = p − onehot(target).

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, IndexingUpdateOp, Slice};

use crate::ops::types::{BlockLoss, LogitBlock, NllArguments, NllNeedsGrad, NllOutput};

/// Largest number of logits that exist at once: 2²⁴ values, 64 MiB in f32.
const BLOCK_LOGITS: usize = 1 << 24;

/// Rows per block: at least 16, so that products stay worthwhile with very large vocabularies.
fn rows_per_block(classes: usize) -> usize {
    (BLOCK_LOGITS / classes.max(1)).max(16)
}

/// How a block of logits becomes losses and gradients.
pub type SoftmaxBlock<B> = fn(LogitBlock<B>, bool) -> BlockLoss<B>;

/// Reference body of [`RecurrentKernels::linear_nll_forward`](crate::ops::contract::RecurrentKernels::linear_nll_forward), with
/// the backend's own way to treat a block of logits.
pub fn linear_nll<B: Backend>(
    args: NllArguments<B>,
    needs: NllNeedsGrad,
    softmax: SoftmaxBlock<B>,
) -> NllOutput<B> {
    let classes = args.weight.shape()[0];
    linear_nll_in_blocks::<B>(args, needs, softmax, rows_per_block(classes))
}

fn linear_nll_in_blocks<B: Backend>(
    args: NllArguments<B>,
    needs: NllNeedsGrad,
    softmax: SoftmaxBlock<B>,
    block_rows: usize,
) -> NllOutput<B> {
    let (rows, features) = (args.hidden.shape()[0], args.hidden.shape()[1]);
    let classes = args.weight.shape()[0];
    let weight_t = B::float_transpose(args.weight.clone());

    let mut loss: Option<FloatTensor<B>> = None;
    let mut row_losses = Vec::new();
    let mut d_hidden = Vec::new();
    let mut d_weight: Option<FloatTensor<B>> = None;
    let mut d_bias: Option<FloatTensor<B>> = None;
    for start in (0..rows).step_by(block_rows) {
        let end = (start + block_rows).min(rows);
        let block = [Slice::from(start..end), Slice::from(0..features)];
        let hidden = B::float_slice(args.hidden.clone(), &block);
        let row_weights = args
            .row_weights
            .as_option()
            .map(|weights| B::float_slice(weights.clone(), &[Slice::from(start..end)]));
        let block = LogitBlock {
            logits: B::float_matmul(hidden.clone(), weight_t.clone()),
            bias: args.bias.as_option().cloned(),
            targets: B::int_slice(args.targets.clone(), &[Slice::from(start..end)]),
            row_weights: row_weights.clone(),
        };
        let out = softmax(block, needs != NllNeedsGrad::default());
        let weighted = match row_weights {
            Some(weights) => {
                let dtype = out.rows.dtype().into();
                B::float_mul(out.rows.clone(), B::float_cast(weights, dtype))
            }
            None => out.rows.clone(),
        };
        add(&mut loss, B::float_sum(weighted), B::float_add);
        row_losses.push(out.rows);

        let Some(d_z) = out.logits else {
            continue;
        };
        if needs.bias {
            add(&mut d_bias, B::float_sum_dim(d_z.clone(), 0), B::float_add);
        }
        if needs.weight {
            let product = B::float_matmul(B::float_transpose(d_z.clone()), hidden);
            add(&mut d_weight, product, B::float_add);
        }
        if needs.hidden {
            d_hidden.push(B::float_matmul(d_z, args.weight.clone()));
        }
    }
    let loss = loss.unwrap_or_else(|| {
        B::float_zeros(
            [1].into(),
            &args.hidden.device(),
            loss_dtype(args.hidden.dtype()).into(),
        )
    });
    NllOutput {
        loss: B::float_reshape(loss, [1].into()),
        rows: B::float_cat(row_losses, 0),
        hidden: needs.hidden.then(|| B::float_cat(d_hidden, 0)),
        weight: d_weight,
        bias: d_bias.map(|grad| B::float_reshape(grad, [classes].into())),
    }
}

/// Reference body of
/// [`RecurrentKernels::linear_nll_weight_gradient`](crate::ops::contract::RecurrentKernels::linear_nll_weight_gradient).
pub fn weight_gradient<B: Backend>(
    logits: FloatTensor<B>,
    hidden: FloatTensor<B>,
    factor: FloatTensor<B>,
) -> FloatTensor<B> {
    let product = B::float_matmul(B::float_transpose(logits), hidden);
    B::float_mul(product, B::float_reshape(factor, [1, 1].into()))
}

/// Type of the losses of logits of type `logits`.
pub(super) fn loss_dtype(logits: DType) -> DType {
    match logits {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Reference body of [`RecurrentKernels::softmax_block`](crate::ops::contract::RecurrentKernels::softmax_block).
pub fn softmax_block<B: Backend>(block: LogitBlock<B>, gradients: bool) -> BlockLoss<B> {
    let (rows, classes) = (block.logits.shape()[0], block.logits.shape()[1]);
    let targets = B::int_reshape(block.targets, [rows, 1].into());
    // Losses of half types are f32: thousands of them are summed.
    let (given, wide) = (block.logits.dtype(), loss_dtype(block.logits.dtype()));
    let widen = |tensor: FloatTensor<B>| match tensor.dtype() == wide {
        true => tensor,
        false => B::float_cast(tensor, wide.into()),
    };
    let mut z = widen(block.logits);
    if let Some(bias) = block.bias {
        z = B::float_add(z, B::float_reshape(widen(bias), [1, classes].into()));
    }
    let max = B::float_max_dim(z.clone(), 1);
    let z = B::float_sub(z, max);
    let target_z = B::float_gather(1, z.clone(), targets.clone());
    let exp = B::float_exp(z);
    let sum = B::float_sum_dim(exp.clone(), 1);
    let nll = B::float_sub(B::float_log(sum.clone()), target_z.clone());
    let logits = gradients.then(|| {
        let p = B::float_div(exp, sum);
        let minus_one = B::float_full(
            target_z.shape(),
            (-1.0f64).into(),
            &target_z.device(),
            target_z.dtype().into(),
        );
        let d_z = B::float_scatter(1, p, targets, minus_one, IndexingUpdateOp::Add);
        let d_z = match block.row_weights {
            Some(weights) => {
                let weights = B::float_reshape(widen(weights), [rows, 1].into());
                B::float_mul(d_z, weights)
            }
            None => d_z,
        };
        match given == wide {
            true => d_z,
            false => B::float_cast(d_z, given.into()),
        }
    });
    BlockLoss {
        rows: B::float_reshape(nll, [rows].into()),
        logits,
    }
}

fn add<T>(sum: &mut Option<T>, value: T, op: impl FnOnce(T, T) -> T) {
    *sum = Some(match sum.take() {
        Some(sum) => op(sum, value),
        None => value,
    });
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::ops::types::Optional;
    use burn::backend::Flex;
    use burn::backend::ops::{FloatTensorOps, IntTensorOps};
    use burn::tensor::TensorData;

    fn run(block_rows: usize) -> Vec<Vec<f64>> {
        let device = Default::default();
        let float = |count: usize, step: f64, dims: [usize; 2]| {
            let data: Vec<f64> = (0..count).map(|i| ((i as f64) * step).sin()).collect();
            Flex::float_from_data(TensorData::new(data, dims), &device)
        };
        let targets: Vec<i64> = (0..11).map(|i| (i * 3) % 5).collect();
        let args = NllArguments::<Flex> {
            hidden: float(44, 0.7, [11, 4]),
            weight: float(20, 1.3, [5, 4]),
            bias: Optional::Given(Flex::float_reshape(float(5, 0.4, [1, 5]), [5].into())),
            targets: Flex::int_from_data(TensorData::new(targets, [11]), &device),
            row_weights: Optional::Absent,
        };
        let needs = NllNeedsGrad {
            hidden: true,
            weight: true,
            bias: true,
        };
        let out = linear_nll_in_blocks::<Flex>(args, needs, softmax_block::<Flex>, block_rows);
        [Some(out.loss), out.hidden, out.weight, out.bias]
            .into_iter()
            .flatten()
            .map(|tensor| {
                let data = burn::tensor::read_sync(Flex::float_into_data(tensor)).unwrap();
                data.iter::<f64>().collect()
            })
            .collect()
    }

    /// Blocks only regroup sums: 1e-13 in f64.
    #[test]
    fn blocks_of_rows_change_nothing() {
        let whole = run(11);
        assert_eq!(whole.len(), 4);
        for block_rows in [1, 2, 5, 10, 100] {
            for (a, b) in run(block_rows).iter().flatten().zip(whole.iter().flatten()) {
                assert!(
                    (a - b).abs() < 1e-13,
                    "{block_rows} rows per block: {a} and {b}"
                );
            }
        }
    }
}
