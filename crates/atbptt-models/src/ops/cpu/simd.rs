//! Vectors of f32 or f64 lanes, one instruction set at a time.
//!
//! [`Real`] names the few lane operations that the kernels need, over `pulp`'s run-time dispatched instruction sets,
//! so that each kernel is written once for both element types.

use burn::tensor::Element;
use pulp::{MemMask, Simd, WithSimd, bytemuck::Pod};

/// The widest instruction set of this processor.
///
/// `pulp`'s own choice passes AVX2 over unless one of its features is on; here every set that was compiled counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    Other(pulp::Arch),
}

impl Level {
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Self::V4(simd);
            }
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Self::V3(simd);
            }
        }
        Self::Other(pulp::Arch::new())
    }

    /// Runs `operation` with this instruction set enabled.
    #[inline(always)]
    pub(crate) fn dispatch<Op: WithSimd>(self, operation: Op) -> Op::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Self::V3(simd) => Simd::vectorize(simd, operation),
            Self::Other(arch) => arch.dispatch(operation),
        }
    }
}

/// f32 or f64, as an element of a kernel.
///
/// Functions are inlined into the kernels: only there the instruction set of `S` is enabled.
pub(crate) trait Real:
    Element
    + Pod
    + Send
    + Sync
    + PartialOrd
    + std::ops::AddAssign
    + std::ops::MulAssign
    + std::ops::Neg<Output = Self>
{
    /// A register of lanes.
    type Lanes<S: Simd>: Copy;

    const ZERO: Self;
    const ONE: Self;

    /// Lanes per register.
    fn lanes<S: Simd>() -> usize;
    /// Lanes per register of the instruction set in use.
    fn native_lanes() -> usize {
        struct Count<E>(std::marker::PhantomData<E>);
        impl<E: Real> WithSimd for Count<E> {
            type Output = usize;
            fn with_simd<S: Simd>(self, _: S) -> usize {
                E::lanes::<S>()
            }
        }
        Level::detect().dispatch(Count::<Self>(std::marker::PhantomData))
    }

    fn of(value: f64) -> Self;
    fn to(self) -> f64;

    fn splat<S: Simd>(simd: S, value: Self) -> Self::Lanes<S>;
    /// Lanes from `from[..count]`, zeros after it; `count` may exceed the number of lanes.
    ///
    /// # Safety
    /// The first `min(count, lanes)` elements are readable.
    unsafe fn load<S: Simd>(simd: S, from: *const Self, count: usize) -> Self::Lanes<S>;
    /// The first `min(count, lanes)` lanes.
    ///
    /// # Safety
    /// That many elements are writable.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, count: usize, value: Self::Lanes<S>);
    /// A whole register.
    ///
    /// # Safety
    /// As many elements as there are lanes are readable.
    #[inline(always)]
    unsafe fn load_all<S: Simd>(from: *const Self) -> Self::Lanes<S> {
        // SAFETY: the caller's promise; registers of floats hold any bits.
        unsafe { from.cast::<Self::Lanes<S>>().read_unaligned() }
    }
    /// A whole register.
    ///
    /// # Safety
    /// As many elements as there are lanes are writable.
    #[inline(always)]
    unsafe fn store_all<S: Simd>(to: *mut Self, value: Self::Lanes<S>) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::Lanes<S>>().write_unaligned(value) }
    }

    fn add<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    fn sub<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    fn mul<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    fn div<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    /// a b + c, rounded once.
    fn fma<S: Simd>(
        simd: S,
        a: Self::Lanes<S>,
        b: Self::Lanes<S>,
        c: Self::Lanes<S>,
    ) -> Self::Lanes<S>;
    /// The larger; which of the two when one is NaN depends on the instruction set.
    fn max<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    /// The magnitude of `a` with the sign of `sign`.
    fn with_sign<S: Simd>(simd: S, a: Self::Lanes<S>, sign: Self::Lanes<S>) -> Self::Lanes<S>;
    /// `a` where `x` is a number, `x` where it is NaN.
    fn or_nan<S: Simd>(simd: S, a: Self::Lanes<S>, x: Self::Lanes<S>) -> Self::Lanes<S>;
    /// `a` where `x` ≥ 0, else `b`.
    fn where_positive<S: Simd>(
        simd: S,
        x: Self::Lanes<S>,
        a: Self::Lanes<S>,
        b: Self::Lanes<S>,
    ) -> Self::Lanes<S>;
    /// All bits that are set in either.
    fn or<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    /// Whether every lane is zero, of either sign; NaN is not.
    fn is_zero<S: Simd>(simd: S, a: Self::Lanes<S>) -> bool;
    fn sum_lanes<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self;
    fn max_lanes<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self;

    /// 2ⁿ from `n + ROUND`, n whole and in the range of normal numbers.
    fn power_of_two<S: Simd>(simd: S, shifted: Self::Lanes<S>) -> Self::Lanes<S>;
    /// 1.5 · 2^(mantissa bits): adding and subtracting it rounds to a whole number.
    const ROUND: Self;
    const LOG2_E: Self;
    /// −ln 2 in two parts; n times the first is exact for |n| < 2⁹ (f32), 2¹¹ (f64).
    const LN_2: [Self; 2];
    /// Arguments below underflow to zero in `exp`.
    const EXP_LOWEST: Self;
    /// Exponent of the smallest normal number.
    const MIN_EXPONENT: Self;
    /// 1/n! from the highest power of exp's series down to 1/2!.
    const SERIES: &'static [Self];
}

macro_rules! real {
    (
        $ty:ident, $int:ident, $lanes:ident, $bits_lanes:ident, $mask:ident,
        lanes: $LANES:ident,
        splat: $splat:ident, splat_bits: $splat_bits:ident,
        mask_load: $mask_load:ident, mask_store: $mask_store:ident, mask_between: $mask_between:ident,
        add: $add:ident, sub: $sub:ident, mul: $mul:ident, div: $div:ident, fma: $fma:ident, max: $max:ident,
        abs: $abs:ident, and: $and:ident, or: $or:ident, xor: $xor:ident, equal: $equal:ident, at_least: $at_least:ident,
        select: $select:ident, sum: $sum:ident, max_lanes: $max_lanes:ident,
        to_bits: $to_bits:ident, from_bits: $from_bits:ident, add_bits: $add_bits:ident,
        shift: |$simd:ident, $bits:ident| $shift:expr, one_bits: $one_bits:expr,
        $($consts:tt)*
    ) => {
        impl Real for $ty {
            type Lanes<S: Simd> = S::$lanes;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            $($consts)*

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$LANES
            }
            fn of(value: f64) -> Self {
                value as Self
            }
            fn to(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$lanes {
                simd.$splat(value)
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(simd: S, from: *const Self, count: usize) -> S::$lanes {
                if count >= S::$LANES {
                    // SAFETY: all lanes are readable, says the caller.
                    unsafe { Self::load_all::<S>(from) }
                } else {
                    let mask = MemMask::new(simd.$mask_between(0, count as _).mask());
                    // SAFETY: lanes outside the mask are not read.
                    unsafe { simd.$mask_load(mask, from) }
                }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(simd: S, to: *mut Self, count: usize, value: S::$lanes) {
                if count >= S::$LANES {
                    // SAFETY: all lanes are writable, says the caller.
                    unsafe { Self::store_all::<S>(to, value) }
                } else {
                    let mask = MemMask::new(simd.$mask_between(0, count as _).mask());
                    // SAFETY: lanes outside the mask are not written.
                    unsafe { simd.$mask_store(mask, to, value) }
                }
            }
            #[inline(always)]
            fn add<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn sub<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn mul<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn div<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$div(a, b)
            }
            #[inline(always)]
            fn fma<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes, c: S::$lanes) -> S::$lanes {
                simd.$fma(a, b, c)
            }
            #[inline(always)]
            fn max<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$max(a, b)
            }
            #[inline(always)]
            fn with_sign<S: Simd>(simd: S, a: S::$lanes, sign: S::$lanes) -> S::$lanes {
                let sign = simd.$and(sign, simd.$splat(-0.0));
                simd.$xor(simd.$abs(a), sign)
            }
            #[inline(always)]
            fn or_nan<S: Simd>(simd: S, a: S::$lanes, x: S::$lanes) -> S::$lanes {
                simd.$select(simd.$equal(x, x), a, x)
            }
            #[inline(always)]
            fn where_positive<S: Simd>(
                simd: S,
                x: S::$lanes,
                a: S::$lanes,
                b: S::$lanes,
            ) -> S::$lanes {
                simd.$select(simd.$at_least(x, simd.$splat(0.0)), a, b)
            }
            #[inline(always)]
            fn or<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$or(a, b)
            }
            #[inline(always)]
            fn is_zero<S: Simd>(simd: S, a: S::$lanes) -> bool {
                let zero = simd.$splat(0.0);
                let others = simd.$select(simd.$equal(a, zero), zero, simd.$splat(1.0));
                simd.$sum(others) == 0.0
            }
            #[inline(always)]
            fn sum_lanes<S: Simd>(simd: S, a: S::$lanes) -> Self {
                simd.$sum(a)
            }
            #[inline(always)]
            fn max_lanes<S: Simd>(simd: S, a: S::$lanes) -> Self {
                simd.$max_lanes(a)
            }
            #[inline(always)]
            fn power_of_two<S: Simd>($simd: S, shifted: S::$lanes) -> S::$lanes {
                let $bits = $simd.$to_bits(shifted);
                $simd.$from_bits($simd.$add_bits($shift, $simd.$splat_bits($one_bits)))
            }
        }
    };
}

real! {
    f32, u32, f32s, u32s, m32s,
    lanes: F32_LANES,
    splat: splat_f32s, splat_bits: splat_u32s,
    mask_load: mask_load_ptr_f32s, mask_store: mask_store_ptr_f32s, mask_between: mask_between_m32s,
    add: add_f32s, sub: sub_f32s, mul: mul_f32s, div: div_f32s, fma: mul_add_f32s, max: max_f32s,
    abs: abs_f32s, and: and_f32s, or: or_f32s, xor: xor_f32s, equal: equal_f32s, at_least: greater_than_or_equal_f32s,
    select: select_f32s, sum: reduce_sum_f32s, max_lanes: reduce_max_f32s,
    to_bits: transmute_u32s_f32s, from_bits: transmute_f32s_u32s, add_bits: add_u32s,
    shift: |simd, bits| simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23)), one_bits: 1f32.to_bits(),
    const ROUND: f32 = 12_582_912.0;
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 rounded to 15 bits, and the rest.
    const LN_2: [f32; 2] = [-0.693_145_75, -1.428_606_8e-6];
    const EXP_LOWEST: f32 = -104.0;
    const MIN_EXPONENT: f32 = -126.0;
    const SERIES: &'static [f32] = &[1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];
}

real! {
    f64, u64, f64s, u64s, m64s,
    lanes: F64_LANES,
    splat: splat_f64s, splat_bits: splat_u64s,
    mask_load: mask_load_ptr_f64s, mask_store: mask_store_ptr_f64s, mask_between: mask_between_m64s,
    add: add_f64s, sub: sub_f64s, mul: mul_f64s, div: div_f64s, fma: mul_add_f64s, max: max_f64s,
    abs: abs_f64s, and: and_f64s, or: or_f64s, xor: xor_f64s, equal: equal_f64s, at_least: greater_than_or_equal_f64s,
    select: select_f64s, sum: reduce_sum_f64s, max_lanes: reduce_max_f64s,
    to_bits: transmute_u64s_f64s, from_bits: transmute_f64s_u64s, add_bits: add_u64s,
    // There is no shift of 64-bit lanes to call: a product with 2⁵² is one.
    shift: |simd, bits| simd.mul_u64s(bits, simd.splat_u64s(1 << 52)), one_bits: 1f64.to_bits(),
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    // ln 2 rounded to 33 bits, and the rest.
    const LN_2: [f64; 2] = [-0.693_147_180_601_954_5, 4.200_915_072_681_084_6e-11];
    const EXP_LOWEST: f64 = -746.0;
    const MIN_EXPONENT: f64 = -1022.0;
    const SERIES: &'static [f64] = &[
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
    ];
}
