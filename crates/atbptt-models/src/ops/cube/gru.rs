//! The equations of [`Cell::Gru`](crate::ops::Cell::Gru) on one unit: gates r, z, n, and u, the new gate's recurrent product.

use cubecl::prelude::*;

use super::unit::{Gates, Stepped, SteppedBack};
use super::window::sigma;

#[cube]
pub(super) fn forward(
    x: Gates,
    product: Gates,
    bias: Gates,
    recurrent_bias: f32,
    h_in: f32,
) -> Stepped {
    let r = sigma(x.a + product.a + bias.a);
    let z = sigma(x.b + product.b + bias.b);
    let u = product.c + recurrent_bias;
    let a_n = x.c + bias.c + r * u;
    let n = a_n.tanh();
    Stepped {
        gates: Gates {
            a: r,
            b: z,
            c: n,
            d: u,
        },
        // (1 − z) n + z h
        h: n + z * (h_in - n),
        c: 0.0f32,
    }
}

#[cube]
pub(super) fn backward(gate: Gates, h_in: f32, d_h: f32) -> SteppedBack {
    let r = gate.a;
    let z = gate.b;
    let n = gate.c;
    let u = gate.d;
    let d_z = d_h * (h_in - n) * z * (1.0f32 - z);
    let d_n = d_h * (1.0f32 - z) * (1.0f32 - n * n);
    let d_r = d_n * u * r * (1.0f32 - r);
    SteppedBack {
        input: Gates {
            a: d_r,
            b: d_z,
            c: d_n,
            d: 0.0f32,
        },
        last_product: d_n * r,
        carried: d_h * z,
    }
}
