//! A window of one step, as a program reads its input when it comes: packing the weights for a single product would cost more
//! than the product.

use pulp::{Simd, WithSimd};

use super::matrix::Matrix;
use super::panel::Epilogue;
use super::pool::UninitBuffer;
use super::product::product;
use super::simd::{Level, Real};
use super::window::Window;

/// Sequences that meet the epilogue together.
const ROWS: usize = 8;

/// The only step of a forward pass of a cell with `gates` recurrent gates, panels of `V` registers: `[B, H] · [H, gates · H]`
/// from the weights as they lie, then `epilogue`.
pub(super) fn run<E: Real, F: Epilogue<E, V>, const V: usize>(
    window: &Window<'_, E>,
    epilogue: &F,
    gates: usize,
) {
    let (batch, hidden) = (window.batch, window.hidden);
    let width = gates * hidden;
    let Some((left, stride)) = epilogue.left(0) else {
        return;
    };
    // SAFETY: the left factor has `batch` rows, `stride` elements apart.
    let left = unsafe { std::slice::from_raw_parts(left, (batch - 1) * stride + hidden) };
    let mut products = UninitBuffer::new(batch * width);
    product(
        products.target(),
        width,
        false,
        Matrix::strided(left, batch, hidden, stride),
        Matrix::new(window.recurrent_weight, hidden, width),
    );
    Level::detect().dispatch(Apply::<E, F, V> {
        epilogue,
        // SAFETY: the product wrote all of it.
        products: &unsafe { products.assume_init() },
        batch,
        hidden,
        gates,
    });
}

struct Apply<'a, E, F, const V: usize> {
    epilogue: &'a F,
    products: &'a [E],
    batch: usize,
    hidden: usize,
    gates: usize,
}

impl<E: Real, F: Epilogue<E, V>, const V: usize> WithSimd for Apply<'_, E, F, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = E::lanes::<S>();
        let vectors = V / self.gates;
        for panel in 0..self.hidden.div_ceil(vectors * lanes) {
            for first in (0..self.batch).step_by(ROWS) {
                let rows = ROWS.min(self.batch - first);
                let mut sums = [[E::splat(simd, E::ZERO); V]; ROWS];
                for (row, sums) in sums[..rows].iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let unit = (panel * vectors + v / self.gates) * lanes;
                        if unit < self.hidden && v < vectors * self.gates {
                            let from = &self.products[(first + row) * self.gates * self.hidden..];
                            let from = &from[v % self.gates * self.hidden + unit..];
                            // SAFETY: so many units of the gate are left.
                            *sum = unsafe { E::load(simd, from.as_ptr(), self.hidden - unit) };
                        }
                    }
                }
                // SAFETY: the rows exist, and this is the only thread.
                unsafe {
                    self.epilogue.apply(simd, 0, panel, first, &sums[..rows]);
                }
            }
        }
    }
}
