//! Factors packed for the matrix unit, as three bfloat16 parts of every number, and results written from its blocks.

use std::arch::x86_64::{
    __m512bh, __m512i, _CMP_GT_OQ, _MM_HINT_T0, _mm_prefetch, _mm512_abs_ps, _mm512_castsi512_ps,
    _mm512_castsi512_si256, _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_extracti64x4_epi64, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_or_si512, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_si512,
    _mm512_sub_ps,
};

use super::kernel::{GROUP, RESULT, STEP};
use crate::ops::cpu::turn::transposed;

/// The largest bfloat16 number: what is larger rounds to infinity.
const LARGEST: f32 = 3.389_531_4e38;
/// Lines of a tile.
const LINES: usize = 16;

/// A factor: lines, and elements along the sum; one of the strides is 1.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    pub data: *const f32,
    pub line_stride: usize,
    pub sum_stride: usize,
}

/// Packs `lines` lines by `sum` elements (32 of either at most) at `from` into a step of a group, zeros where there are fewer.
/// `PAIRS` is the right factor's order: pairs along the sum, side by side for all lines. Returns whether a number is infinite, or
/// so large that its rounding would be.
///
/// # Safety
/// The elements are readable, `STEP_BYTES` at `out` writable, and the unit is available.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub(super) unsafe fn pack<const PAIRS: bool>(
    from: Factor,
    lines: usize,
    sum: usize,
    out: *mut u8,
) -> bool {
    let mut large = false;
    for tile in 0..2 {
        let lines = lines.saturating_sub(tile * LINES).min(LINES);
        let at = from.data.wrapping_add(tile * LINES * from.line_stride);
        let zero = _mm512_setzero_ps();
        let mut low = [zero; LINES];
        let mut high = [zero; LINES];
        if from.sum_stride == 1 {
            let masks = [first(sum), first(sum.saturating_sub(16))];
            for line in 0..lines {
                let at = at.wrapping_add(line * from.line_stride);
                // The next step.
                ask_for(at.wrapping_add(STEP));
                ask_for(at.wrapping_add(STEP + 16));
                // SAFETY: lanes outside the mask are not read.
                unsafe {
                    low[line] = _mm512_maskz_loadu_ps(masks[0], at);
                    high[line] = _mm512_maskz_loadu_ps(masks[1], at.wrapping_add(16));
                }
            }
            if PAIRS {
                let (a, b) = (transposed(low), transposed(high));
                for pair in 0..8 {
                    (low[pair], high[pair]) = (a[2 * pair], a[2 * pair + 1]);
                    (low[pair + 8], high[pair + 8]) = (b[2 * pair], b[2 * pair + 1]);
                }
            }
        } else {
            let mask = first(lines);
            let load = |index: usize| match index < sum {
                true => {
                    let at = at.wrapping_add(index * from.sum_stride);
                    // The next group.
                    ask_for(at.wrapping_add(GROUP));
                    // SAFETY: lanes outside the mask are not read.
                    unsafe { _mm512_maskz_loadu_ps(mask, at) }
                }
                false => zero,
            };
            if PAIRS {
                for pair in 0..LINES {
                    (low[pair], high[pair]) = (load(2 * pair), load(2 * pair + 1));
                }
            } else {
                for index in 0..LINES {
                    (low[index], high[index]) = (load(index), load(index + 16));
                }
                (low, high) = (transposed(low), transposed(high));
            }
        }
        let largest = _mm512_set1_ps(LARGEST);
        for (line, (mut low, mut high)) in low.into_iter().zip(high).enumerate() {
            large |= _mm512_cmp_ps_mask::<_CMP_GT_OQ>(_mm512_abs_ps(low), largest)
                | _mm512_cmp_ps_mask::<_CMP_GT_OQ>(_mm512_abs_ps(high), largest)
                != 0;
            for part in 0..3 {
                let both = bits(_mm512_cvtne2ps_pbh(high, low));
                let first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
                let second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(both));
                let second = _mm512_slli_epi32::<16>(second);
                let stored = match PAIRS {
                    true => _mm512_or_si512(first, second),
                    false => both,
                };
                // SAFETY: inside of the step.
                unsafe {
                    let at = out.add(part * 2048 + tile * 1024 + line * 64);
                    _mm512_storeu_si512(at.cast(), stored);
                }
                let first = _mm512_slli_epi32::<16>(first);
                low = _mm512_sub_ps(low, _mm512_castsi512_ps(first));
                high = _mm512_sub_ps(high, _mm512_castsi512_ps(second));
            }
        }
    }
    large
}

/// The first `count` of 16 lanes.
fn first(count: usize) -> u16 {
    ((1u32 << count.min(16)) - 1) as u16
}

fn bits(register: __m512bh) -> __m512i {
    // SAFETY: both are 64 plain bytes.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(register) }
}

/// Asks for the cache line of an address, which need not exist.
#[inline(always)]
fn ask_for(address: *const f32) {
    // SAFETY: a hint, which never faults; every x86-64 processor has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

/// Writes a block of the result, or adds to it: the first `rows` rows and `columns` columns of `block`.
///
/// # Safety
/// They are writable at `out`, rows `stride` apart, and the unit is available.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn finish(
    block: &[f32; RESULT],
    out: *mut f32,
    stride: usize,
    [rows, columns]: [usize; 2],
    add: bool,
) {
    use std::arch::x86_64::_mm512_add_ps;
    let masks = [first(columns), first(columns.saturating_sub(16))];
    for (row, line) in block.chunks_exact(GROUP).take(rows).enumerate() {
        for (half, mask) in masks.into_iter().enumerate() {
            let at = out.wrapping_add(row * stride + 16 * half);
            // SAFETY: lanes outside the mask are neither read nor written.
            unsafe {
                let mut value = _mm512_loadu_ps(line[16 * half..].as_ptr());
                if add {
                    value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), value);
                }
                _mm512_mask_storeu_ps(at, mask, value);
            }
        }
    }
}
