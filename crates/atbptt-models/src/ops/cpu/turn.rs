//! Squares of 16 × 16 numbers turned in AVX-512 registers.

use std::arch::x86_64::{
    __m512, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_maskz_loadu_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use pulp::Simd;

use super::simd::Real;

/// Numbers in a register.
const SIDE: usize = 16;

/// Whether [`turn`] works for this type and instruction set.
pub(super) fn can_turn<E: Real, S: Simd>() -> bool {
    // Registers of so many numbers are those of AVX-512.
    E::dtype() == burn::tensor::DType::F32 && S::F32_LANES == SIDE
}

/// Writes `lines` lines (of at most `stride`, a multiple of 16) of `width` numbers as columns: rows of `stride` numbers, zeros
/// where there are no lines. Asks for the numbers `ahead` from where it reads.
///
/// # Safety
/// [`can_turn`], the lines are readable one after the other, and `width.next_multiple_of(16)` rows writable.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turn(
    from: *const f32,
    [lines, width]: [usize; 2],
    to: *mut f32,
    stride: usize,
    ahead: usize,
) {
    for first in (0..stride).step_by(SIDE) {
        for at in (0..width).step_by(SIDE) {
            let mask = ((1u32 << (width - at).min(SIDE)) - 1) as u16;
            let mut square = [_mm512_setzero_ps(); SIDE];
            for (line, row) in (first..lines).zip(&mut square) {
                let from = from.wrapping_add(line * width + at);
                // SAFETY: a hint, and a load of which lanes outside the mask are not read.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(ahead).cast());
                    *row = _mm512_maskz_loadu_ps(mask, from);
                }
            }
            for (row, column) in transposed(square).into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { _mm512_storeu_ps(to.add((at + row) * stride + first), column) };
            }
        }
    }
}

/// Writes the sums of the numbers in each of sixteen registers.
///
/// # Safety
/// [`can_turn`], the registers are readable and sixteen numbers writable.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add_up(from: *const __m512, to: *mut f32) {
    // SAFETY: the caller's promise.
    let register = |index: usize| unsafe { from.add(index).read_unaligned() };
    // Sums of two registers side by side, then of four, in every quarter of a register.
    let two = |index: usize| {
        let (a, b) = (register(2 * index), register(2 * index + 1));
        _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
    };
    let four = |index: usize| {
        let [a, b] = [two(2 * index), two(2 * index + 1)].map(|x| _mm512_castps_pd(x));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    };
    // Then over quarters.
    let halves = |a: __m512, b: __m512| {
        let even = _mm512_shuffle_f32x4::<0x88>(a, b);
        _mm512_add_ps(even, _mm512_shuffle_f32x4::<0xDD>(a, b))
    };
    let sums = halves(halves(four(0), four(1)), halves(four(2), four(3)));
    // SAFETY: the caller's promise.
    unsafe { _mm512_storeu_ps(to, sums) };
}

/// A square of 16 × 16, turned.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [__m512; 16]) -> [__m512; 16] {
    let zero = _mm512_setzero_ps();
    let mut pairs = [zero; 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    let mut quads = [zero; 16];
    for i in (0..16).step_by(4) {
        for (j, (a, b)) in [(0, 2), (1, 3)].into_iter().enumerate() {
            let (a, b) = (
                _mm512_castps_pd(pairs[i + a]),
                _mm512_castps_pd(pairs[i + b]),
            );
            quads[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            quads[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    let mut out = [zero; 16];
    for j in 0..4 {
        let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
        let even = [
            _mm512_shuffle_f32x4::<0x88>(a, b),
            _mm512_shuffle_f32x4::<0x88>(c, d),
        ];
        let odd = [
            _mm512_shuffle_f32x4::<0xDD>(a, b),
            _mm512_shuffle_f32x4::<0xDD>(c, d),
        ];
        out[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        out[8 + j] = _mm512_shuffle_f32x4::<0xDD>(even[0], even[1]);
        out[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        out[12 + j] = _mm512_shuffle_f32x4::<0xDD>(odd[0], odd[1]);
    }
    out
}
