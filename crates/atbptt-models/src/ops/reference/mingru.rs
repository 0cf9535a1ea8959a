//! minGRU, [`Cell::MinGru`](crate::ops::Cell::MinGru): gate z and candidate n see the input alone.

use burn::backend::{Backend, tensor::FloatTensor};

use super::unit::{Returned, Stepped, SteppedBack};
use super::util::*;

pub(super) fn forward<B: Backend>(
    input: FloatTensor<B>,
    entering: FloatTensor<B>,
    hidden: usize,
) -> Stepped<B> {
    let z = sigmoid::<B>(part::<B>(&input, 0, hidden));
    let n = part::<B>(&input, 1, hidden);
    // (1 − z) h + z n = h + z (n − h)
    let new = B::float_mul(z.clone(), B::float_sub(n.clone(), entering.clone()));
    Stepped {
        state: B::float_add(entering, new),
        gates: Some(B::float_cat(vec![z, n], 1)),
    }
}

pub(super) fn backward<B: Backend>(at: Returned<B>) -> SteppedBack<B> {
    let (z, n) = (at.gate(0), at.gate(1));
    let d_h = at.grad;
    let d_z = sigmoid_grad::<B>(
        z.clone(),
        B::float_mul(d_h.clone(), B::float_sub(n, at.entering)),
    );
    let d_n = B::float_mul(d_h.clone(), z.clone());
    SteppedBack {
        input: B::float_cat(vec![d_z, d_n], 1),
        product: None,
        carried: Some(B::float_mul(d_h, one_minus::<B>(z))),
    }
}
