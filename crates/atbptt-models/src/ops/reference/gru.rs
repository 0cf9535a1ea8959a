//! GRU, [`Cell::Gru`](crate::ops::Cell::Gru): gates r, z, n, and u, the new gate's recurrent product.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use super::unit::{Returned, Stepped, SteppedBack};
use super::util::*;

pub(super) fn forward<B: Backend>(
    input: FloatTensor<B>,
    product: Option<FloatTensor<B>>,
    recurrent_bias: Option<FloatTensor<B>>,
    entering: FloatTensor<B>,
    hidden: usize,
) -> Stepped<B> {
    let rz = columns::<B>(&input, 0, 2 * hidden);
    let product_rz = product
        .as_ref()
        .map(|product| columns::<B>(product, 0, 2 * hidden));
    let rz = sigmoid::<B>(plus::<B>(rz, product_rz));
    let (r, z) = (part::<B>(&rz, 0, hidden), part::<B>(&rz, 1, hidden));
    let u = match &product {
        Some(product) => part::<B>(product, 2, hidden),
        None => zeros_like::<B>(&r, r.shape()),
    };
    let u = plus::<B>(u, recurrent_bias);
    let n = B::float_tanh(B::float_add(
        part::<B>(&input, 2, hidden),
        B::float_mul(r, u.clone()),
    ));
    // (1 − z) n + z h = n + z (h − n)
    let kept = B::float_mul(z, B::float_sub(entering, n.clone()));
    Stepped {
        state: B::float_add(n.clone(), kept),
        gates: Some(B::float_cat(vec![rz, n, u], 1)),
    }
}

pub(super) fn backward<B: Backend>(at: Returned<B>) -> SteppedBack<B> {
    let (r, z, n, u) = (at.gate(0), at.gate(1), at.gate(2), at.gate(3));
    let d_h = at.grad;
    let d_z = sigmoid_grad::<B>(
        z.clone(),
        B::float_mul(d_h.clone(), B::float_sub(at.entering, n.clone())),
    );
    let d_n = tanh_grad::<B>(n, B::float_mul(d_h.clone(), one_minus::<B>(z.clone())));
    let d_r = sigmoid_grad::<B>(r.clone(), B::float_mul(d_n.clone(), u));
    let d_u = B::float_mul(d_n.clone(), r);
    SteppedBack {
        input: B::float_cat(vec![d_r.clone(), d_z.clone(), d_n], 1),
        product: Some(B::float_cat(vec![d_r, d_z, d_u], 1)),
        carried: Some(B::float_mul(d_h, z)),
    }
}
