//! LSTM, [`Cell::Lstm`](crate::ops::Cell::Lstm): gates i, f, g, o; packed state h, c.

use burn::backend::{Backend, tensor::FloatTensor};

use super::unit::{Returned, Stepped, SteppedBack};
use super::util::*;

pub(super) fn forward<B: Backend>(
    input: FloatTensor<B>,
    product: Option<FloatTensor<B>>,
    entering: FloatTensor<B>,
    hidden: usize,
) -> Stepped<B> {
    let a = plus::<B>(input, product);
    let i = sigmoid::<B>(part::<B>(&a, 0, hidden));
    let f = sigmoid::<B>(part::<B>(&a, 1, hidden));
    let g = B::float_tanh(part::<B>(&a, 2, hidden));
    let o = sigmoid::<B>(part::<B>(&a, 3, hidden));
    let c = B::float_add(
        B::float_mul(f.clone(), part::<B>(&entering, 1, hidden)),
        B::float_mul(i.clone(), g.clone()),
    );
    let h = B::float_mul(o.clone(), B::float_tanh(c.clone()));
    Stepped {
        state: B::float_cat(vec![h, c], 1),
        gates: Some(B::float_cat(vec![i, f, g, o], 1)),
    }
}

pub(super) fn backward<B: Backend>(at: Returned<B>) -> SteppedBack<B> {
    let hidden = at.hidden;
    let (i, f, g, o) = (at.gate(0), at.gate(1), at.gate(2), at.gate(3));
    let d_h = part::<B>(&at.grad, 0, hidden);
    let d_c = part::<B>(&at.grad, 1, hidden);
    let c_in = part::<B>(&at.entering, 1, hidden);

    let tanh_c = B::float_tanh(part::<B>(&at.state, 1, hidden));
    let d_o = sigmoid_grad::<B>(o.clone(), B::float_mul(d_h.clone(), tanh_c.clone()));
    let d_c = B::float_add(d_c, tanh_grad::<B>(tanh_c, B::float_mul(d_h, o)));
    let d_i = sigmoid_grad::<B>(i.clone(), B::float_mul(d_c.clone(), g.clone()));
    let d_f = sigmoid_grad::<B>(f.clone(), B::float_mul(d_c.clone(), c_in));
    let d_g = tanh_grad::<B>(g, B::float_mul(d_c.clone(), i));
    SteppedBack {
        input: B::float_cat(vec![d_i, d_f, d_g, d_o], 1),
        product: None,
        carried: Some(B::float_mul(d_c, f)),
    }
}
