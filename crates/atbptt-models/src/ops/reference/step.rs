//! What surrounds the layers in training, composed of Burn's operations: embedding, dropout, passes over weights.

use burn::backend::{
    Backend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{Distribution, IndexingUpdateOp, Shape, Slice};

use crate::ops::draws::SharedDraw;
use crate::ops::types::DropoutMask;

/// The first `count` features of `[T, B, S]`.
pub fn first_features_forward<B: Backend>(tensor: FloatTensor<B>, count: usize) -> FloatTensor<B> {
    let dims = tensor.shape().to_vec();
    let part = [dims[0], dims[1], count].map(|size| Slice::from(0..size));
    B::float_slice(tensor, &part)
}

/// Gradient `[T, B, S]` from that of the first features: zero in the others.
pub fn first_features_backward<B: Backend>(grad: FloatTensor<B>, size: usize) -> FloatTensor<B> {
    let dims = grad.shape().to_vec();
    let part = [dims[0], dims[1], dims[2]].map(|size| Slice::from(0..size));
    let shape = Shape::from(vec![dims[0], dims[1], size]);
    let zeros = B::float_zeros(shape, &grad.device(), grad.dtype().into());
    B::float_slice_assign(zeros, &part, grad)
}

/// Rows of `weight` `[V, F]` at `tokens` `[N]`.
pub fn embedding_rows_forward<B: Backend>(
    weight: FloatTensor<B>,
    tokens: IntTensor<B>,
) -> FloatTensor<B> {
    B::float_select(weight, 0, tokens)
}

/// `into` `[V, F]`, or zeros, with each row of `grad` `[N, F]` added at its token. `rows` is V.
pub fn embedding_rows_backward<B: Backend>(
    into: Option<FloatTensor<B>>,
    rows: usize,
    tokens: IntTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let into = into.unwrap_or_else(|| {
        let shape = Shape::from(vec![rows, grad.shape()[1]]);
        B::float_zeros(shape, &grad.device(), grad.dtype().into())
    });
    B::float_select_assign(into, 0, tokens, grad, IndexingUpdateOp::Add)
}

/// Each element zero with probability `prob`, else divided by 1 − `prob`; and which were kept.
pub fn dropout_forward<B: Backend>(
    tensor: FloatTensor<B>,
    prob: f64,
) -> (FloatTensor<B>, DropoutMask<B>) {
    let draw = || {
        B::float_random(
            tensor.shape(),
            Distribution::Bernoulli(1.0 - prob),
            &tensor.device(),
            tensor.dtype().into(),
        )
    };
    let mask = match SharedDraw::next() {
        None => draw(),
        Some(shared) => shared.alone(|seed| {
            B::seed(&tensor.device(), seed);
            draw()
        }),
    };
    let out = masked::<B>(tensor, mask.clone(), prob);
    (out, DropoutMask::Tensor(mask))
}

/// Gradient of the input from that of the output.
pub fn dropout_backward<B: Backend>(
    grad: FloatTensor<B>,
    mask: DropoutMask<B>,
    prob: f64,
) -> FloatTensor<B> {
    match mask {
        DropoutMask::Tensor(mask) => masked::<B>(grad, mask, prob),
        // Only a backend's own kernel makes seeds, and it overrides this.
        DropoutMask::Seed(_) => grad,
    }
}

/// Σ x² as `[1]`.
pub fn sum_of_squares<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let squares = B::float_mul(tensor.clone(), tensor);
    B::float_reshape(B::float_sum(squares), [1].into())
}

/// `factor` times the tensor.
pub fn scale<B: Backend>(tensor: FloatTensor<B>, factor: f64) -> FloatTensor<B> {
    B::float_mul_scalar(tensor, factor.into())
}

/// `tensor` times the scalar `factor` `[1]` on the device.
pub fn scale_by<B: Backend>(tensor: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B> {
    let ones = vec![1usize; tensor.rank()];
    B::float_mul(tensor, B::float_reshape(factor, ones.into()))
}

/// w − rate (g + decay w).
pub fn sgd_step<B: Backend>(
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    rate: f64,
    decay: f64,
) -> FloatTensor<B> {
    let grad = match decay == 0.0 {
        true => grad,
        false => {
            let decayed = B::float_mul_scalar(weight.clone(), decay.into());
            B::float_add(grad, decayed)
        }
    };
    B::float_sub(weight, B::float_mul_scalar(grad, rate.into()))
}

/// `tensor · mask / (1 − prob)`.
pub(crate) fn masked<B: Backend>(
    tensor: FloatTensor<B>,
    mask: FloatTensor<B>,
    prob: f64,
) -> FloatTensor<B> {
    B::float_mul_scalar(B::float_mul(tensor, mask), (1.0 / (1.0 - prob)).into())
}
