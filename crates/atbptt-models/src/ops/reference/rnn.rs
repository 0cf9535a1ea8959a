//! Tanh RNN, [`Cell::Rnn`](crate::ops::Cell::Rnn): the state is all that the way back needs.

use burn::backend::{Backend, tensor::FloatTensor};

use super::unit::{Returned, Stepped, SteppedBack};
use super::util::*;

pub(super) fn forward<B: Backend>(
    input: FloatTensor<B>,
    product: Option<FloatTensor<B>>,
) -> Stepped<B> {
    Stepped {
        state: B::float_tanh(plus::<B>(input, product)),
        gates: None,
    }
}

pub(super) fn backward<B: Backend>(at: Returned<B>) -> SteppedBack<B> {
    SteppedBack {
        input: tanh_grad::<B>(at.state, at.grad),
        product: None,
        carried: None,
    }
}
