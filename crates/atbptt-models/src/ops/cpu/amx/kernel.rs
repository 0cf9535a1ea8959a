//! The matrix unit of some x86-64 processors (AMX), as kernels on packed blocks.
//!
//! The unit multiplies bfloat16 numbers of 8 bits and adds up in f32, at sixteen times the rate of f32 registers. An f32 number of
//! 24 bits is the sum of three such numbers x = h + m + l (high, middle, low), each the rest's rounding to nearest. Of the
//! nine products of two such sums, h·h, h·m, m·h, h·l, l·h and m·m are computed; the other three are below 2⁻²⁵ of the product, as
//! is its rounding in f32 (Henry, Tang, Heinecke: "Leveraging the bfloat16 Artificial Intelligence Datatype For
//! Higher-Precision Computations", 2019).
//!
//! A *group* is 32 lines (rows of the left factor, columns of the right one), a *step* 32 elements along the sum. Packed, a group's
//! step is two tiles of 16 lines for each of the three parts.

use std::arch::asm;

/// Lines of a group.
pub(super) const GROUP: usize = 32;
/// Elements along the sum in a step.
pub(super) const STEP: usize = 32;
/// Bytes of a packed step of a group: three parts, two tiles each.
pub(super) const STEP_BYTES: usize = 6 << 10;
/// Elements of the result that two groups make.
pub(super) const RESULT: usize = GROUP * GROUP;
/// Bytes that [`Tiles::multiply`] asks for per step: an eighth of a packed step.
pub(super) const AHEAD: usize = STEP_BYTES / 8;

/// What the tile registers hold: eight times 16 lines of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    lines: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether this processor has the unit and what the kernels here need, and the system lets this process use it. Asked for once.
pub(super) fn is_available() -> bool {
    use std::sync::OnceLock;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let off = std::env::var_os("ATBPTT_AMX").is_some_and(|value| value == "0");
        !off && has_unit() && may_use_unit()
    })
}

fn has_unit() -> bool {
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bf16");
    // Every processor with these vectors has leaf 7.
    vectors && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE
}

/// Linux keeps the tiles' 8 KiB per thread only for processes that asked.
fn may_use_unit() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let answer: isize;
    // SAFETY: a system call that reads no memory of ours; the registers that the system overwrites are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Instructions that ask for cache lines, one at each distance from the address in register `$from`.
macro_rules! ask_for {
    ($instruction:literal, $from:literal; $($at:literal)+) => {
        concat!($($instruction, " [{", $from, "} + ", $at, "]\n"),+)
    };
}

/// Loads a tile, and asks for the same tile of the next step.
macro_rules! tile {
    ($tile:literal, $from:literal, $at:literal) => {
        concat!(
            "tileloadd ", $tile, ", [{", $from, "} + {line}*1 + ", $at, "]\n",
            tile!(@next $from, $at;
                6144 6208 6272 6336 6400 6464 6528 6592 6656 6720 6784 6848 6912 6976 7040 7104)
        )
    };
    (@next $from:literal, $at:literal; $($ahead:literal)+) => {
        concat!($("prefetcht0 [{", $from, "} + ", $at, " + ", $ahead, "]\n"),+)
    };
}

/// The tile registers of this thread, ready as long as this value lives.
pub(super) struct Tiles {
    here: std::marker::PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// The unit [is available](is_available).
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the unit is there, and the layout is one that it has.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Self {
            here: std::marker::PhantomData,
        }
    }

    /// The product of two packed groups over `steps` steps, row by row. Meanwhile asks for what comes next: [`AHEAD`] bytes per step
    /// at `next`, and the rows at `result`, `stride` bytes apart, that the product will be written to.
    ///
    /// # Safety
    /// So many steps are readable at both addresses.
    pub(super) unsafe fn multiply(
        &self,
        left: *const u8,
        right: *const u8,
        steps: usize,
        out: &mut [f32; RESULT],
        next: *const u8,
        [result, stride]: [usize; 2],
    ) {
        debug_assert!(steps > 0);
        // Consecutive pairs of parts share one: l·h, h·h, h·l, h·m, m·m, m·h.
        // SAFETY: the caller's promise; the tiles are configured, and named as overwritten.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                tile!("tmm6", "b", "0"),
                tile!("tmm4", "a", "4096"),
                tile!("tmm7", "b", "1024"),
                tile!("tmm5", "a", "5120"),
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                tile!("tmm4", "a", "0"),
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                tile!("tmm5", "a", "1024"),
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                tile!("tmm6", "b", "4096"),
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                tile!("tmm7", "b", "5120"),
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                tile!("tmm6", "b", "2048"),
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                tile!("tmm7", "b", "3072"),
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                tile!("tmm4", "a", "2048"),
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                tile!("tmm5", "a", "3072"),
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{b} + {line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ask_for!("prefetcht1", "next"; 0 64 128 192 256 320 384 448 512 576 640 704),
                "prefetchw [{result}]",
                "prefetchw [{result} + 64]",
                "prefetchw [{result} + {stride}*1]",
                "prefetchw [{result} + {stride}*1 + 64]",
                "lea {result}, [{result} + {stride}*2]",
                "add {next}, 768",
                "add {a}, 6144",
                "add {b}, 6144",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{out} + {row}*1], tmm0",
                "tilestored [{out} + {row}*1 + 64], tmm1",
                "tilestored [{out} + {row}*1 + 2048], tmm2",
                "tilestored [{out} + {row}*1 + 2112], tmm3",
                a = inout(reg) left => _,
                b = inout(reg) right => _,
                steps = inout(reg) steps => _,
                out = in(reg) out.as_mut_ptr(),
                line = in(reg) 64usize,
                next = inout(reg) next => _,
                result = inout(reg) result => _,
                stride = in(reg) stride,
                row = in(reg) 4 * GROUP,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the unit is there. Unused tiles cost nothing when threads change.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
