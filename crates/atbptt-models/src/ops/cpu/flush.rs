//! Subnormal numbers count as zero in our kernels.
//!
//! Gradients that fade over a long window end below the smallest normal number (1.2e-38 in f32, 2.2e-308 in f64), where many
//! processors go on in microcode, ten to a hundred times slower. [`Flush`] turns that off for the thread it is made on:
//! what is smaller is zero, as an operand and as a result. Nothing at or above the smallest normal number changes.
//!
//! The compiler takes for granted that nobody changes this mode. It may compute a constant with subnormal numbers that we would
//! have flushed; either is a rounding below the smallest normal number. The mode is changed only around calls that
//! it cannot look into (a new job of a thread, a dispatched instruction set), and put back when the value is dropped,
//! during a panic as well.

use std::marker::PhantomData;

/// Subnormal numbers count as zero on this thread as long as this value lives.
pub(crate) struct Flush {
    /// The mode found, where it had to be changed.
    before: Option<Mode>,
    /// Dropped where it was made.
    here: PhantomData<*const ()>,
}

impl Flush {
    #[inline(never)]
    pub(crate) fn new() -> Self {
        let before = mode();
        let change = before & FLUSH != FLUSH;
        if change {
            set_mode(before | FLUSH);
        }
        Self {
            before: change.then_some(before),
            here: PhantomData,
        }
    }
}

impl Drop for Flush {
    #[inline(never)]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Flags that operations raised meanwhile stay raised, as without us.
            set_mode(before & MODES | mode() & !MODES);
        }
    }
}

#[cfg(target_arch = "x86_64")]
use x86_64::{FLUSH, MODES, Mode, mode, set_mode};

/// SSE's control and status register.
#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    pub(super) type Mode = u32;
    /// Flush to zero (results) and denormals are zeros (operands).
    pub(super) const FLUSH: Mode = 1 << 15 | 1 << 6;
    /// All but the six flags of what has happened.
    pub(super) const MODES: Mode = !0x3F;

    pub(super) fn mode() -> Mode {
        let mut mode: Mode = 0;
        // SAFETY: stores the register into four bytes of ours.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack, preserves_flags)) };
        mode
    }

    pub(super) fn set_mode(mode: Mode) {
        // SAFETY: the register takes a value that it gave, but for the two bits, which every x86-64 processor has.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const mode, options(nostack)) };
    }
}

#[cfg(target_arch = "aarch64")]
use aarch64::{FLUSH, MODES, Mode, mode, set_mode};

/// The floating-point control register.
#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;

    pub(super) type Mode = u64;
    /// Flush to zero: operands and results.
    pub(super) const FLUSH: Mode = 1 << 24;
    /// It has no flags.
    pub(super) const MODES: Mode = !0;

    pub(super) fn mode() -> Mode {
        let mode: Mode;
        // SAFETY: reads a register that user code may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) mode, options(nostack)) };
        mode
    }

    pub(super) fn set_mode(mode: Mode) {
        // SAFETY: the register takes a value that it gave, but for a bit that every processor has.
        unsafe { asm!("msr fpcr, {}", in(reg) mode, options(nostack)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use other::{FLUSH, MODES, Mode, mode, set_mode};

/// Elsewhere there is no such mode, or no way to it: subnormal numbers stay.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other {
    pub(super) type Mode = u32;
    pub(super) const FLUSH: Mode = 0;
    pub(super) const MODES: Mode = !0;

    pub(super) fn mode() -> Mode {
        0
    }

    pub(super) fn set_mode(_: Mode) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    /// Half of the smallest normal number.
    fn subnormal() -> f32 {
        black_box(f32::MIN_POSITIVE) * black_box(0.5)
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn subnormal_numbers_are_zero_as_long_as_the_value_lives() {
        let kept = subnormal();
        assert!(kept > 0.0);
        {
            let _flush = Flush::new();
            assert_eq!(subnormal(), 0.0, "a result");
            assert_eq!(black_box(kept) * black_box(1e30), 0.0, "an operand");
            let smallest = black_box(f32::MIN_POSITIVE) * black_box(1.0);
            assert_eq!(smallest, f32::MIN_POSITIVE, "the smallest normal number");
            let nan = black_box(f32::INFINITY) * black_box(0.0);
            assert!(nan.is_nan());
            {
                let _again = Flush::new();
            }
            assert_eq!(subnormal(), 0.0, "the inner value leaves what it found");
        }
        assert_eq!(subnormal(), kept);
    }

    #[test]
    fn the_mode_is_put_back_after_a_panic_and_after_an_early_return() {
        let before = mode() & MODES;
        let panicked = std::panic::catch_unwind(|| {
            let _flush = Flush::new();
            assert_eq!(mode() & FLUSH, FLUSH);
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(panicked.is_err());
        assert_eq!(mode() & MODES, before);
        let early = || -> Option<()> {
            let _flush = Flush::new();
            None?;
            Some(())
        };
        assert!(early().is_none());
        assert_eq!(mode() & MODES, before);
    }

    #[test]
    fn a_mode_that_somebody_else_set_stays() {
        let before = mode();
        set_mode(before | FLUSH);
        drop(Flush::new());
        let after = mode();
        set_mode(before);
        assert_eq!(after & FLUSH, FLUSH);
    }
}
