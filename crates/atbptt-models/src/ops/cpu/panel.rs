//! The skinny product of a recurrent step: `[B, K] · [K, N]` against weights packed once per window.
//!
//! A tile multiplies a panel ([`Packed`]: `V` registers of weight columns for all K rows) with up to `24 / V` rows of the
//! batch, and hands the sums to [`Epilogue`], which does the pointwise part. Weights seldom fit the second-level cache: while the tiles
//! of a group of rows pass over one block of a panel, they ask for the next, one line after the other, which is what the
//! processor's own prefetching expects; and for what the pointwise part will read, which lies scattered.
//!
//! Every sum runs over k = 0, 1, … in order, whatever the tile: results do not depend on how rows and panels are
//! split over threads.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::packed::Packed;
use super::simd::Real;

/// Accumulators of a tile, in registers: 24 of 32 leave room for a row of the panel and a value of the batch.
const TILE: usize = 24;
/// Rows that share one pass over a block of the panel.
const ROW_GROUP: usize = 24;
/// Bytes of a panel that stay in the first-level cache while the rows of a group pass over it.
/// The next block arrives there meanwhile.
const BLOCK_BYTES: usize = 16 * 1024;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// The pointwise part of a step.
pub(crate) trait Epilogue<E: Real, const V: usize>: Sync {
    /// First row of the left factor of `step` and the distance between its rows; `None` where the product is zero.
    fn left(&self, step: usize) -> Option<(*const E, usize)>;

    /// Asks for the memory that [`apply`](Self::apply) will read for one row: the product takes long enough for it to arrive.
    fn prefetch(&self, step: usize, panel: usize, row: usize, lanes: usize) {
        let _ = (step, panel, row, lanes);
    }

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
    /// Whether these panels are this thread's first of the step.
    pub fresh: bool,
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
        let mut asked = rows.start;
        loop {
            let to = (from + block).min(depth);
            if self.fresh {
                // What another thread wrote in the step before takes long to come.
                let begin = if from == 0 { 0 } else { to };
                for at in (begin..(to + block).min(depth)).step_by(LINE_BYTES / size_of::<E>()) {
                    for row in rows.clone() {
                        prefetch(left.wrapping_add(row * stride + at));
                    }
                }
            }
            // Spread over the blocks, so that the panel's own lines are not kept waiting.
            let share = rows.start + (rows.len() * to).div_ceil(depth.max(1));
            while asked < share.min(rows.end) {
                self.epilogue.prefetch(self.step, panel, asked, lanes);
                asked += 1;
            }
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
                    // Every tile asks for its share of the next block, one line after the other.
                    ahead: weights.wrapping_add(
                        (from + block) * V * lanes + tile * (block * V / count) * lanes,
                    ),
                    stride_ahead: V * lanes / count,
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
                prefetch(ahead);
                // A tile's share of a row may be more than a line.
                if V > 2 {
                    prefetch(ahead.wrapping_add(lanes));
                }
                ahead = ahead.wrapping_add(part.stride_ahead);
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
    /// Where to ask for the next block, and how much further per row.
    ahead: *const E,
    stride_ahead: usize,
}

/// Asks for the cache line of an address, which need not exist, as far as the second-level cache.
#[inline(always)]
pub(crate) fn prefetch_far<E>(address: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it reads nothing that the program sees and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the cache line of an address, which need not exist.
#[inline(always)]
pub(crate) fn prefetch<E>(address: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it reads nothing that the program sees and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the cache line of an address, which need not exist, to be written to.
#[inline(always)]
pub(crate) fn prefetch_to_write<E>(address: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it reads nothing that the program sees and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
