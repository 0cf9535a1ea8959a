//! Small helpers on backend primitives: slices of steps and gates, products over all steps.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Shape, Slice};

use crate::ops::types::Arguments;

/// Time steps, batch and features of a rank-3 tensor.
pub(crate) fn dims3<B: Backend>(tensor: &FloatTensor<B>) -> [usize; 3] {
    let shape = tensor.shape();
    [shape[0], shape[1], shape[2]]
}

/// Step `t` of `[T, B, F]` as `[B, F]`.
pub(crate) fn step_of<B: Backend>(tensor: &FloatTensor<B>, t: usize) -> FloatTensor<B> {
    let [_, batch, features] = dims3::<B>(tensor);
    let slices = [
        Slice::from(t..t + 1),
        Slice::from(0..batch),
        Slice::from(0..features),
    ];
    B::float_reshape(
        B::float_slice(tensor.clone(), &slices),
        [batch, features].into(),
    )
}

/// Columns `from..to` of `[B, F]`.
pub(crate) fn columns<B: Backend>(
    tensor: &FloatTensor<B>,
    from: usize,
    to: usize,
) -> FloatTensor<B> {
    let rows = tensor.shape()[0];
    B::float_slice(
        tensor.clone(),
        &[Slice::from(0..rows), Slice::from(from..to)],
    )
}

/// Part or gate `index` of those side by side in `[B, parts · H]`: the tensor itself where it is the only one.
pub(crate) fn part<B: Backend>(
    tensor: &FloatTensor<B>,
    index: usize,
    hidden: usize,
) -> FloatTensor<B> {
    match tensor.shape()[1] == hidden {
        true => tensor.clone(),
        false => columns::<B>(tensor, index * hidden, (index + 1) * hidden),
    }
}

/// The sum, where there is something to add.
pub(crate) fn plus<B: Backend>(
    tensor: FloatTensor<B>,
    other: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    match other {
        Some(other) => B::float_add(tensor, other),
        None => tensor,
    }
}

/// Features `from..to` of `[T, B, F]`.
pub(crate) fn features<B: Backend>(
    tensor: &FloatTensor<B>,
    from: usize,
    to: usize,
) -> FloatTensor<B> {
    let [time, batch, _] = dims3::<B>(tensor);
    B::float_slice(
        tensor.clone(),
        &[
            Slice::from(0..time),
            Slice::from(0..batch),
            Slice::from(from..to),
        ],
    )
}

/// `[B, F]` → `[1, B, F]`, to be concatenated over time.
pub(crate) fn as_step<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let shape = tensor.shape();
    B::float_reshape(tensor, [1, shape[0], shape[1]].into())
}

/// `[T, B, F]` → `[T·B, F]`.
pub(crate) fn flatten<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let [time, batch, features] = dims3::<B>(&tensor);
    B::float_reshape(tensor, [time * batch, features].into())
}

/// Steps given last to first → `[T, B, F]` in time order.
pub(crate) fn stack_reversed<B: Backend>(mut steps: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    steps.reverse();
    B::float_cat(steps, 0)
}

/// x W + b for all steps at once: `[T, B, I]` → `[T, B, gates · H]`.
pub(crate) fn input_product<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let gates = weight.shape()[1];
    let product = plain_input_product::<B>(input, weight);
    B::float_add(product, B::float_reshape(bias, [1, 1, gates].into()))
}

/// x W for all steps at once: `[T, B, I]` → `[T, B, gates · H]`.
pub(crate) fn plain_input_product<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
) -> FloatTensor<B> {
    let [time, batch, _] = dims3::<B>(&input);
    let gates = weight.shape()[1];
    let product = B::float_matmul(flatten::<B>(input), weight);
    B::float_reshape(product, [time, batch, gates].into())
}

/// The state entering every step, `[T, B, S]`: the packed states shifted by one, taps added, resets applied.
pub(crate) fn entering<B: Backend>(args: &Arguments<B>, states: &FloatTensor<B>) -> FloatTensor<B> {
    let [time, batch, size] = dims3::<B>(states);
    let all_but_last = [
        Slice::from(0..time - 1),
        Slice::from(0..batch),
        Slice::from(0..size),
    ];
    let mut parts = vec![as_step::<B>(args.state.clone())];
    if time > 1 {
        let mut handed = B::float_slice(states.clone(), &all_but_last);
        if let Some(taps) = args.taps.as_option() {
            handed = B::float_add(handed, B::float_slice(taps.clone(), &all_but_last));
        }
        parts.push(handed);
    }
    let entering = B::float_cat(parts, 0);
    match args.reset_mask.as_option() {
        Some(mask) => B::float_mul(entering, mask.clone()),
        None => entering,
    }
}

/// xᵀ d over all steps: the gradient of a weight, `[in, out]`.
pub(crate) fn weight_grad<B: Backend>(
    rows: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    B::float_matmul(B::float_transpose(flatten::<B>(rows)), flatten::<B>(grad))
}

/// Σ over steps and batch: the gradient of a bias, `[out]`.
pub(crate) fn bias_grad<B: Backend>(grad: FloatTensor<B>) -> FloatTensor<B> {
    let out = grad.shape()[2];
    B::float_reshape(B::float_sum_dim(flatten::<B>(grad), 0), [out].into())
}

/// d Wᵀ over all steps: the gradient of the input, `[T, B, I]`.
pub(crate) fn input_grad<B: Backend>(
    grad: FloatTensor<B>,
    weight: FloatTensor<B>,
) -> FloatTensor<B> {
    let [time, batch, _] = dims3::<B>(&grad);
    let inputs = weight.shape()[0];
    let product = B::float_matmul(flatten::<B>(grad), B::float_transpose(weight));
    B::float_reshape(product, [time, batch, inputs].into())
}

/// Rᵀ as a copy of its own: multiplying T times by a transposed view would repack it T times.
pub(crate) fn transposed_copy<B: Backend>(weight: FloatTensor<B>) -> FloatTensor<B> {
    let shape = weight.shape();
    let (rows, columns) = (shape[0], shape[1]);
    let transposed = B::float_transpose(weight);
    // A concatenation always writes a fresh, contiguous tensor; `reshape` to the same shape would keep the view.
    let half = rows / 2;
    if half == 0 {
        return transposed;
    }
    let left = B::float_slice(
        transposed.clone(),
        &[Slice::from(0..columns), Slice::from(0..half)],
    );
    let right = B::float_slice(
        transposed,
        &[Slice::from(0..columns), Slice::from(half..rows)],
    );
    B::float_cat(vec![left, right], 1)
}

/// 1 − x.
pub(crate) fn one_minus<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add_scalar(B::float_neg(tensor), 1.0f64.into())
}

/// Derivative of tanh at output `y`, times `grad`: d (1 − y²).
pub(crate) fn tanh_grad<B: Backend>(y: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(grad, one_minus::<B>(B::float_mul(y.clone(), y)))
}

/// Derivative of σ at output `y`, times `grad`: d y (1 − y).
pub(crate) fn sigmoid_grad<B: Backend>(y: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(grad, B::float_mul(y.clone(), one_minus::<B>(y)))
}

/// Zeros of the same type, on the same device.
pub(crate) fn zeros_like<B: Backend>(
    tensor: &FloatTensor<B>,
    shape: impl Into<Shape>,
) -> FloatTensor<B> {
    B::float_zeros(shape.into(), &tensor.device(), tensor.dtype().into())
}

/// σ(x). Burn's default body rounds to f32 on the way, so f64 takes (1 + tanh(x/2)) / 2 instead.
pub(crate) fn sigmoid<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    if tensor.dtype() != DType::F64 {
        return B::sigmoid(tensor);
    }
    let half = B::float_tanh(B::float_mul_scalar(tensor, 0.5f64.into()));
    B::float_add_scalar(B::float_mul_scalar(half, 0.5f64.into()), 0.5f64.into())
}
