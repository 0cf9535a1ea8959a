//! The skinny product of a recurrent step: `[B, K] · [K, N]` against weights packed once per window.
//!
//! A *panel* is `V` registers of weight columns for all K rows, stored in the order in which the product reads it:
//! row by row, zeros where the matrix ends. Which columns make a panel is up to the cell: for the forward pass of a
//! gated cell they are the same hidden units of every gate, so that the gates meet in registers. A tile multiplies a
//! panel with up to `24 / V` rows of the batch, and hands the sums to [`Epilogue`], which does the pointwise part.
//!
//! Every sum runs over k = 0, 1, … in order, whatever the tile: results do not depend on how rows and panels are
//! split over threads.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pool::Buffer;
use super::simd::Real;
use super::threads::shared;

/// Accumulators of a tile, in registers: 24 of 32 leave room for a row of the panel and a value of the batch.
const TILE: usize = 24;
/// Rows that share one pass over a block of the panel.
const ROW_GROUP: usize = 24;
/// Bytes of a panel that stay in the first-level cache while the rows of a group pass over it.
/// The next block arrives there meanwhile.
const BLOCK_BYTES: usize = 16 * 1024;

/// Multiplications that an epilogue's functions cost per hidden unit, roughly.
pub(crate) const EPILOGUE_WORK: usize = 16;

/// Weights in panels of `V` registers.
pub(crate) struct Packed<E, const V: usize> {
    data: Buffer<E>,
    rows: usize,
    panels: usize,
}

impl<E: Real, const V: usize> Packed<E, V> {
    /// `fill(panel, v, out)` writes vector `v` of every row of a panel, at `out[(row · V + v) · lanes..]`.
    fn pack(rows: usize, panels: usize, fill: impl Fn(usize, usize, &mut [E]) + Sync) -> Self {
        let width = V * E::native_lanes();
        let mut data = Buffer::zeros(rows * panels * width);
        let work = |(panel, chunk): (usize, &mut [E])| {
            for v in 0..V {
                fill(panel, v, chunk);
            }
        };
        let chunk = (rows * width).max(1);
        if shared(data.len() >= 1 << 16) {
            data.par_chunks_mut(chunk).enumerate().for_each(work);
        } else {
            data.chunks_mut(chunk).enumerate().for_each(work);
        }
        Self { data, rows, panels }
    }

    /// Panels of the same hidden units of all `gates`, as many registers of units as `V` has room for; `weight`
    /// `[rows, gates · units]`. Of no gates there is no weight: the panels are empty, and only count the units.
    pub(crate) fn gates(weight: &[E], rows: usize, units: usize, gates: usize) -> Self {
        let lanes = E::native_lanes();
        let vectors = V / gates.max(1);
        let panels = units.div_ceil(vectors * lanes);
        Self::pack(rows, panels, |panel, v, out| {
            let (vector, gate) = (v / gates, v % gates);
            let first = (panel * vectors + vector) * lanes;
            let count = lanes.min(units.saturating_sub(first));
            for row in 0..rows {
                let (from, to) = ((row * gates + gate) * units + first, (row * V + v) * lanes);
                if count > 0 {
                    out[to..to + count].copy_from_slice(&weight[from..from + count]);
                }
            }
        })
    }

    /// Panels of successive rows of `weight` `[columns, rows]`: the product is with its transpose.
    pub(crate) fn transposed(weight: &[E], rows: usize, columns: usize) -> Self {
        let lanes = E::native_lanes();
        Self::pack(rows, columns.div_ceil(V * lanes), |panel, v, out| {
            let first = (panel * V + v) * lanes;
            let count = lanes.min(columns.saturating_sub(first));
            // Blocks of rows: a block of reads stays in cache while it is written across.
            for block in (0..rows).step_by(64) {
                let end = (block + 64).min(rows);
                for lane in 0..count {
                    let line = &weight[(first + lane) * rows..][block..end];
                    for (row, &value) in (block..end).zip(line) {
                        out[(row * V + v) * lanes + lane] = value;
                    }
                }
            }
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

    fn panel(&self, panel: usize) -> *const E {
        self.data[panel * self.rows * V * E::native_lanes()..].as_ptr()
    }
}

/// The pointwise part of a step.
pub(crate) trait Epilogue<E: Real, const V: usize>: Sync {
    /// First row of the left factor of `step` and the distance between its rows; `None` where the product is zero.
    fn left(&self, step: usize) -> Option<(*const E, usize)>;

    /// Takes the sums of the rows from `row` on, for `panel`.
    ///
    /// # Safety
    /// The rows exist, and nobody else works on the same step, rows and panel.
    unsafe fn apply<S: Simd>(
        &self,
        simd: S,
        step: usize,
        panel: usize,
        row: usize,
        sums: &[[E::Lanes<S>; V]],
    );

    /// Whether every step after `step` gives zeros for these rows: asked when they are done with `step`.
    fn rest_is_zero(&self, step: usize, rows: Range<usize>) -> bool {
        let _ = (step, rows);
        false
    }

    /// Writes the zeros of the steps from `step` on, for these rows: where [the rest is zero](Self::rest_is_zero).
    ///
    /// # Safety
    /// The rows exist, and nobody else works on them.
    unsafe fn write_zeros(&self, step: usize, rows: Range<usize>) {
        let _ = (step, rows);
    }
}

/// One panel of one step, for some rows of the batch.
pub(crate) struct Run<'a, E: Real, F, const V: usize> {
    pub epilogue: &'a F,
    pub packed: &'a Packed<E, V>,
    pub step: usize,
    pub panels: Range<usize>,
    pub rows: Range<usize>,
}

impl<E: Real, F: Epilogue<E, V>, const V: usize> WithSimd for Run<'_, E, F, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for panel in self.panels.clone() {
            let mut first = self.rows.start;
            while first < self.rows.end {
                let group = first..(first + ROW_GROUP).min(self.rows.end);
                first = group.end;
                self.group(simd, panel, group);
            }
        }
    }
}

impl<E: Real, F: Epilogue<E, V>, const V: usize> Run<'_, E, F, V> {
    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, panel: usize, rows: Range<usize>) {
        let lanes = E::lanes::<S>();
        debug_assert_eq!(lanes, E::native_lanes());
        let left = self.epilogue.left(self.step);
        let depth = if left.is_some() { self.packed.rows } else { 0 };
        let (left, stride) = left.unwrap_or((std::ptr::null(), 0));
        let block = (BLOCK_BYTES / (V * lanes * size_of::<E>())).max(1);
        let weights = self.packed.panel(panel);

        // Tiles of nearly equal height.
        let tallest = if S::REGISTER_COUNT >= 32 {
            TILE
        } else {
            TILE / 2
        } / V;
        let count = rows.len().div_ceil(tallest);
        let mut kept: [MaybeUninit<[E::Lanes<S>; V]>; ROW_GROUP] =
            [const { MaybeUninit::uninit() }; ROW_GROUP];

        let mut from = 0;
        loop {
            let to = (from + block).min(depth);
            let mut row = rows.start;
            for tile in 0..count {
                let height = (rows.end - row).div_ceil(count - tile);
                let part = Part {
                    weights: weights.wrapping_add(from * V * lanes),
                    left: left.wrapping_add(row * stride + from),
                    stride,
                    depth: to - from,
                    kept: kept[row - rows.start..].as_mut_ptr().cast(),
                    begin: from == 0,
                    ahead: weights.wrapping_add((from + block) * V * lanes),
                    prefetched: if count > 1 {
                        // Every tile asks for its share of the next block.
                        let share = V.div_ceil(count);
                        [share * tile, share * tile + share - 1].map(|v| v.min(V - 1) * lanes)
                    } else {
                        [0, V / 2 * lanes]
                    },
                };
                // SAFETY: rows `row..row + height` exist in the left factor, `kept` has a place for each, and only
                // this call works on them.
                unsafe {
                    match height {
                        1 => self.tile::<S, 1>(simd, part),
                        2 => self.tile::<S, 2>(simd, part),
                        3 => self.tile::<S, 3>(simd, part),
                        4 => self.tile::<S, 4>(simd, part),
                        5 => self.tile::<S, 5>(simd, part),
                        6 => self.tile::<S, 6>(simd, part),
                        7 => self.tile::<S, 7>(simd, part),
                        8 => self.tile::<S, 8>(simd, part),
                        9 => self.tile::<S, 9>(simd, part),
                        10 => self.tile::<S, 10>(simd, part),
                        11 => self.tile::<S, 11>(simd, part),
                        _ => self.tile::<S, 12>(simd, part),
                    }
                }
                row += height;
            }
            from = to;
            if from == depth {
                break;
            }
        }
        // SAFETY: every row of the group had its tile; rows and panel are this call's alone.
        unsafe {
            let sums = std::slice::from_raw_parts(kept.as_ptr().cast(), rows.len());
            self.epilogue
                .apply(simd, self.step, panel, rows.start, sums);
        }
    }

    /// # Safety
    /// `M` rows are readable from `part.left`, `part.depth` rows of the panel from `part.weights`, and `part.kept` has
    /// `M` places, written in an earlier block unless `part.begin`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(&self, simd: S, part: Part<E, E::Lanes<S>, V>) {
        if const { M * V > TILE } {
            // Settled at compile time: heights that do not fit are arms of a match that no `V` takes.
            #[allow(clippy::unreachable)]
            {
                unreachable!("tiles are at most {TILE} registers")
            }
        }
        let lanes = E::lanes::<S>();
        // SAFETY: the caller's promises.
        unsafe {
            let mut sums = if part.begin {
                [[E::splat(simd, E::ZERO); V]; M]
            } else {
                part.kept.cast::<[[E::Lanes<S>; V]; M]>().read()
            };
            let mut weights = part.weights;
            let mut left = part.left;
            let mut ahead = part.ahead;
            for _ in 0..part.depth {
                prefetch(ahead.wrapping_add(part.prefetched[0]));
                prefetch(ahead.wrapping_add(part.prefetched[1]));
                ahead = ahead.wrapping_add(V * lanes);
                let mut line = [E::splat(simd, E::ZERO); V];
                for (v, lane) in line.iter_mut().enumerate() {
                    *lane = E::load_all::<S>(weights.add(v * lanes));
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let value = E::splat(simd, *left.add(m * part.stride));
                    for (sum, &weight) in sums.iter_mut().zip(&line) {
                        *sum = E::fma(simd, value, weight, *sum);
                    }
                }
                weights = weights.add(V * lanes);
                left = left.add(1);
            }
            part.kept.cast::<[[E::Lanes<S>; V]; M]>().write(sums);
        }
    }
}

/// A tile's share of one block of a panel.
struct Part<E, L, const V: usize> {
    weights: *const E,
    left: *const E,
    stride: usize,
    depth: usize,
    kept: *mut [L; V],
    begin: bool,
    /// The next block, and the two vectors of each of its rows to fetch.
    ahead: *const E,
    prefetched: [usize; 2],
}

/// Asks for the cache line of an address, which need not exist.
#[inline(always)]
fn prefetch<E>(address: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it reads nothing that the program sees and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
