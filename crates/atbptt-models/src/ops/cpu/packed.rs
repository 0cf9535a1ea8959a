//! Weights in the order in which the recurrent product reads them, copied once per window.
//!
//! A *panel* is `V` registers of weight columns for all rows, row by row, zeros where the matrix ends. Which columns make a
//! panel is up to the cell: for the forward pass of a gated cell they are the same hidden units of every gate, so that the
//! gates meet in registers.

use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use super::pool::{Buffer, UninitBuffer};
use super::simd::{Level, Real};
use super::threads::{EPILOGUE_WORK, each_chunk};

/// Weights in panels of `V` registers.
pub(crate) struct Packed<E, const V: usize> {
    data: Buffer<E>,
    pub(super) rows: usize,
    panels: usize,
}

impl<E: Real, const V: usize> Packed<E, V> {
    /// `fill(panel, out)` writes all of a panel.
    fn pack(
        rows: usize,
        panels: usize,
        fill: impl Fn(usize, &mut [MaybeUninit<E>]) + Sync,
    ) -> Self {
        let width = V * E::native_lanes();
        let mut data = UninitBuffer::new(rows * panels * width);
        let chunk = (rows * width).max(1);
        let enough = rows * panels * width >= 1 << 16;
        each_chunk(enough, data.elements(), chunk, fill);
        // SAFETY: every panel was written.
        let data = unsafe { data.assume_init() };
        Self { data, rows, panels }
    }

    /// Panels of the same hidden units of all `gates`, as many registers of units as `V` has room for; `weight`
    /// `[rows, gates · units]`. Of no gates there is no weight: the panels are empty, and only count the units.
    pub(crate) fn gates(weight: &[E], rows: usize, units: usize, gates: usize) -> Self {
        assert_eq!(weight.len(), rows * gates * units);
        let lanes = E::native_lanes();
        let vectors = V / gates.max(1);
        let panels = units.div_ceil(vectors * lanes);
        let level = Level::detect();
        Self::pack(rows, panels, |panel, out| {
            for v in 0..V {
                let (vector, gate) = (v / gates, v % gates);
                let first = (panel * vectors + vector) * lanes;
                let count = if vector < vectors {
                    lanes.min(units.saturating_sub(first))
                } else {
                    0
                };
                level.dispatch(Columns {
                    from: weight.get(gate * units + first..).unwrap_or_default(),
                    stride: gates * units,
                    count,
                    out: &mut out[v * lanes..],
                    width: V * lanes,
                    rows,
                });
            }
        })
    }

    /// Panels of successive rows of `weight` `[columns, rows]`: the product is with its transpose.
    pub(crate) fn transposed(weight: &[E], rows: usize, columns: usize) -> Self {
        assert_eq!(weight.len(), rows * columns);
        let lanes = E::native_lanes();
        let level = Level::detect();
        Self::pack(rows, columns.div_ceil(V * lanes), |panel, out| {
            let first = panel * V * lanes;
            level.dispatch(Transposed {
                from: &weight[first * rows..],
                count: (V * lanes).min(columns - first),
                out,
                width: V * lanes,
                rows,
            });
        })
    }

    pub(crate) fn panels(&self) -> usize {
        self.panels
    }

    /// Multiplications per row of the batch: those of the product or, where there is none, what the epilogue costs.
    pub(crate) fn work(&self) -> usize {
        match self.rows {
            0 => EPILOGUE_WORK * self.panels * V * E::native_lanes(),
            _ => self.data.len(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<E>()
    }

    pub(super) fn panel(&self, panel: usize) -> *const E {
        self.data[panel * self.rows * V * E::native_lanes()..].as_ptr()
    }
}

/// Copies `count` columns of every row, and zeros after them up to a register.
struct Columns<'a, E> {
    from: &'a [E],
    /// Elements from row to row.
    stride: usize,
    count: usize,
    out: &'a mut [MaybeUninit<E>],
    /// As `stride`, of `out`.
    width: usize,
    rows: usize,
}

impl<E: Real> WithSimd for Columns<'_, E> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let zero = E::splat(simd, E::ZERO);
        for (row, out) in self.out.chunks_mut(self.width).take(self.rows).enumerate() {
            let line = if self.count > 0 {
                let from = &self.from[row * self.stride..][..self.count];
                // SAFETY: as many elements as the slice has.
                unsafe { E::load(simd, from.as_ptr(), self.count) }
            } else {
                zero
            };
            let out = &mut out[..E::lanes::<S>()];
            // SAFETY: as many elements as there are lanes.
            unsafe { E::store_all::<S>(out.as_mut_ptr().cast(), line) };
        }
    }
}

/// Writes `count` lines of `rows` elements as columns, and zeros after them up to the width.
struct Transposed<'a, E> {
    from: &'a [E],
    count: usize,
    out: &'a mut [MaybeUninit<E>],
    width: usize,
    rows: usize,
}

impl<E: Real> WithSimd for Transposed<'_, E> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        #[cfg(target_arch = "x86_64")]
        if super::turn::can_turn::<E, S>() && self.rows.is_multiple_of(16) {
            let (from, to) = (self.from.as_ptr().cast(), self.out.as_mut_ptr().cast());
            let lines = [self.count, self.rows];
            // SAFETY: the element type is f32, so many lines are readable, and the panel has `rows` rows of its width, which
            // is whole registers.
            unsafe { super::turn::turn(from, lines, to, self.width, 0) };
            return;
        }
        /// Lines and elements of a square that is turned in registers.
        const SIDE: usize = 8;
        let Self {
            from,
            count,
            out,
            width,
            rows,
        } = self;
        for first in (0..width).step_by(SIDE) {
            let full = first + SIDE <= count;
            let mut row = 0;
            while full && row + SIDE <= rows {
                let mut square = [[E::ZERO; SIDE]; SIDE];
                for (line, to) in square.iter_mut().enumerate() {
                    to.copy_from_slice(&from[(first + line) * rows + row..][..SIDE]);
                }
                for i in 0..SIDE {
                    let out = &mut out[(row + i) * width + first..][..SIDE];
                    for (out, line) in out.iter_mut().zip(&square) {
                        out.write(line[i]);
                    }
                }
                row += SIDE;
            }
            for row in row..rows {
                for line in first..(first + SIDE).min(width) {
                    out[row * width + line].write(if line < count {
                        from[line * rows + row]
                    } else {
                        E::ZERO
                    });
                }
            }
        }
    }
}
