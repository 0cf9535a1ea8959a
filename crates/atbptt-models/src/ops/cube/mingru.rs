//! The equations of [`Cell::MinGru`](crate::ops::Cell::MinGru) on one unit: gate z and candidate n.

use cubecl::prelude::*;

use super::unit::{Gates, Stepped, SteppedBack};
use super::window::sigma;

#[cube]
pub(super) fn forward(x: Gates, bias: Gates, h_in: f32) -> Stepped {
    let z = sigma(x.a + bias.a);
    let n = x.b + bias.b;
    Stepped {
        gates: Gates {
            a: z,
            b: n,
            c: 0.0f32,
            d: 0.0f32,
        },
        // (1 − z) h + z n
        h: h_in + z * (n - h_in),
        c: 0.0f32,
    }
}

#[cube]
pub(super) fn backward(gate: Gates, h_in: f32, d_h: f32) -> SteppedBack {
    let z = gate.a;
    let n = gate.b;
    let d_n = d_h * z;
    SteppedBack {
        input: Gates {
            a: d_h * (n - h_in) * z * (1.0f32 - z),
            b: d_n,
            c: 0.0f32,
            d: 0.0f32,
        },
        last_product: d_n,
        carried: d_h * (1.0f32 - z),
    }
}
