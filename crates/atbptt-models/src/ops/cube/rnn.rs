//! The equation of [`Cell::Rnn`](crate::ops::Cell::Rnn) on one unit.

use cubecl::prelude::*;

use super::unit::{Gates, Stepped, SteppedBack};

#[cube]
pub(super) fn forward(x: Gates, product: Gates, bias: Gates) -> Stepped {
    let a = x.a + product.a + bias.a;
    Stepped {
        gates: Gates {
            a: 0.0f32,
            b: 0.0f32,
            c: 0.0f32,
            d: 0.0f32,
        },
        h: a.tanh(),
        c: 0.0f32,
    }
}

/// `h`: the state that the step made.
#[cube]
pub(super) fn backward(h: f32, d_h: f32) -> SteppedBack {
    let d = d_h * (1.0f32 - h * h);
    SteppedBack {
        input: Gates {
            a: d,
            b: 0.0f32,
            c: 0.0f32,
            d: 0.0f32,
        },
        last_product: d,
        carried: 0.0f32,
    }
}
