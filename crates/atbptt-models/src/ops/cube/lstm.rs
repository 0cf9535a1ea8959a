//! The equations of [`Cell::Lstm`](crate::ops::Cell::Lstm) on one unit: gates i, f, g, o.

use cubecl::prelude::*;

use super::unit::{Gates, Stepped, SteppedBack};
use super::window::sigma;

#[cube]
pub(super) fn forward(x: Gates, product: Gates, bias: Gates, c_in: f32) -> Stepped {
    let i = sigma(x.a + product.a + bias.a);
    let f = sigma(x.b + product.b + bias.b);
    let a_g = x.c + product.c + bias.c;
    let g = a_g.tanh();
    let o = sigma(x.d + product.d + bias.d);
    let c = f * c_in + i * g;
    Stepped {
        gates: Gates {
            a: i,
            b: f,
            c: g,
            d: o,
        },
        h: o * c.tanh(),
        c,
    }
}

/// `c`: the cell that the step made; `c_in`: the one that entered it.
#[cube]
pub(super) fn backward(gate: Gates, c: f32, c_in: f32, d_h: f32, d_c: f32) -> SteppedBack {
    let i = gate.a;
    let f = gate.b;
    let g = gate.c;
    let o = gate.d;
    let tanh_c = c.tanh();
    let d_c = d_c + d_h * o * (1.0f32 - tanh_c * tanh_c);
    let d_o = d_h * tanh_c * o * (1.0f32 - o);
    SteppedBack {
        input: Gates {
            a: d_c * g * i * (1.0f32 - i),
            b: d_c * c_in * f * (1.0f32 - f),
            c: d_c * i * (1.0f32 - g * g),
            d: d_o,
        },
        last_product: d_o,
        carried: d_c * f,
    }
}
