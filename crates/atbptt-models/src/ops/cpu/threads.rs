//! The threads that kernels run on.
//!
//! Small work runs where it is called: handing it over to another thread costs more, on a busy machine a hundred times as much.
//! Large work runs in a pool of its own, with as many threads as the pool it was called in (rayon's global one, or the
//! caller's). Both ways every thread that computes treats subnormal numbers as zero ([`Flush`]), which in a
//! shared pool would reach other people's work, and both give the same bits.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::flush::Flush;

/// Multiplications from which it is worth waking other threads up.
pub(crate) const SHARED_WORK: usize = 1 << 21;
/// Multiplications below which a product runs on one thread.
pub(crate) const PARALLEL_WORK: usize = 1 << 20;
/// Multiplications that the pointwise part of a step costs per hidden unit, roughly.
pub(crate) const EPILOGUE_WORK: usize = 16;
/// How long a thread without work looks out for some before it goes to sleep.
const AWAKE: Duration = Duration::from_micros(200);
/// Pools kept: one per number of threads asked for, of which there is nearly always one.
const POOLS: usize = 4;

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
}

/// Where a thread stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    /// In a kernel that has one thread.
    Alone,
    /// A thread of one of our pools.
    Worker,
}

/// Threads that the kernel on this thread may use.
pub(crate) fn threads() -> usize {
    match PLACE.get() {
        Place::Alone => 1,
        Place::Outside | Place::Worker => rayon::current_num_threads(),
    }
}

/// Whether to share out: there is enough to do, and somebody to share with.
pub(crate) fn shared(enough: bool) -> bool {
    enough && threads() > 1
}

/// Runs a kernel of `work` multiplications, or what costs as much, with subnormal numbers as zeros.
pub(crate) fn inside<R: Send>(work: usize, kernel: impl FnOnce() -> R + Send) -> R {
    if PLACE.get() != Place::Outside {
        return kernel();
    }
    let threads = rayon::current_num_threads();
    if work >= SHARED_WORK && threads > 1 {
        // A system that gives no more threads has this one.
        if let Some(pool) = pool(threads) {
            return pool.install(|| with_others_awake(threads, kernel));
        }
    }
    alone(kernel)
}

/// Runs a kernel while the pool's other threads stay awake between its parallel parts, if those are not far apart: waking a
/// processor of a virtual machine up may take longer than a part of a small layer.
fn with_others_awake<R: Send>(threads: usize, kernel: impl FnOnce() -> R + Send) -> R {
    let done = AtomicBool::new(false);
    let own = rayon::current_thread_index();
    let wait = || {
        let mut since = Instant::now();
        // Not in place of the kernel's own thread, which runs this if it waits for another.
        while rayon::current_thread_index() != own
            && !done.load(Ordering::Relaxed)
            && since.elapsed() < AWAKE
        {
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => since = Instant::now(),
                _ => std::hint::spin_loop(),
            }
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| wait());
        }
        let out = kernel();
        done.store(true, Ordering::Relaxed);
        out
    })
}

/// Runs a kernel on this thread, with subnormal numbers as zeros.
pub(crate) fn alone<R>(kernel: impl FnOnce() -> R) -> R {
    struct Back(Place);
    impl Drop for Back {
        fn drop(&mut self) {
            PLACE.set(self.0);
        }
    }
    let _back = Back(PLACE.replace(Place::Alone));
    let _flush = Flush::new();
    kernel()
}

/// Our pool of so many threads.
fn pool(threads: usize) -> Option<Arc<ThreadPool>> {
    static KNOWN: Mutex<Vec<Arc<ThreadPool>>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = |pool: &&Arc<ThreadPool>| pool.current_num_threads() == threads;
    if let Some(pool) = known.iter().find(found) {
        return Some(pool.clone());
    }
    let processors = processors::allowed();
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("atbptt-{index}"))
        .start_handler(move |index| {
            PLACE.set(Place::Worker);
            // Where there is a processor for each, each stays on its own: a system that wakes two threads within some
            // microseconds may put both on one, and leave them there while another stands idle.
            if let (Some(&processor), true) = (processors.get(index), processors.len() == threads) {
                processors::stay_on(processor);
            }
            // For as long as the thread lives: it runs nothing but kernels.
            std::mem::forget(Flush::new());
        })
        .build()
        .ok()?;
    let pool = Arc::new(pool);
    if known.len() == POOLS {
        // Whoever uses it holds it.
        known.remove(0);
    }
    known.push(pool.clone());
    Some(pool)
}

/// The processors that this process may run on.
#[cfg(target_os = "linux")]
mod processors {
    use std::ffi::c_int;

    /// Bits of a set of processors, as many as the C library's.
    type Set = [u64; 16];

    unsafe extern "C" {
        fn sched_getaffinity(thread: c_int, size: usize, set: *mut Set) -> c_int;
        fn sched_setaffinity(thread: c_int, size: usize, set: *const Set) -> c_int;
    }

    /// Their numbers; none where the system does not say.
    pub(super) fn allowed() -> Vec<usize> {
        let mut set: Set = [0; 16];
        // SAFETY: the system writes at most the size it is told.
        let answer = unsafe { sched_getaffinity(0, size_of::<Set>(), &raw mut set) };
        let is_in = |&processor: &usize| set[processor / 64] >> (processor % 64) & 1 == 1;
        let known = if answer == 0 { 64 * set.len() } else { 0 };
        (0..known).filter(is_in).collect()
    }

    /// Keeps the calling thread on one of them; a refusal changes nothing.
    pub(super) fn stay_on(processor: usize) {
        let mut set: Set = [0; 16];
        set[processor / 64] = 1 << (processor % 64);
        // SAFETY: the system reads the size it is told.
        unsafe { sched_setaffinity(0, size_of::<Set>(), &raw const set) };
    }
}

/// Elsewhere threads are left where the system puts them.
#[cfg(not(target_os = "linux"))]
mod processors {
    pub(super) fn allowed() -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn stay_on(_: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;
    use std::hint::black_box;

    fn flushed() -> bool {
        black_box(f32::MIN_POSITIVE) * black_box(0.5) == 0.0
    }

    /// Whether the caller and every thread that takes part flush, in a kernel of `work` called among `threads` threads.
    fn everywhere(threads: usize, work: usize) -> (bool, usize) {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| {
            let seen = inside(work, || {
                let here = (flushed(), super::threads());
                let all = match shared(true) {
                    true => (0..64).into_par_iter().all(|_| flushed()),
                    false => true,
                };
                (here.0 && all, here.1)
            });
            assert!(!flushed(), "the caller's mode is as before");
            seen
        })
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn as_many_threads_as_processors_have_one_each_and_callers_keep_all() {
        let all = processors::allowed();
        assert!(!all.is_empty());
        let seen = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                inside(SHARED_WORK, || {
                    let mut seen = rayon::broadcast(|_| processors::allowed());
                    seen.sort();
                    seen
                })
            })
        };
        // One thread is the caller's own, which is not bound.
        if all.len() > 1 {
            let one_each: Vec<_> = all.iter().map(|&processor| vec![processor]).collect();
            assert_eq!(seen(all.len()), one_each);
        }
        assert_eq!(seen(all.len() + 1), vec![all.clone(); all.len() + 1]);
        assert_eq!(processors::allowed(), all);
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn kernels_flush_on_every_thread_and_callers_do_not() {
        assert!(!flushed());
        assert_eq!(everywhere(3, SHARED_WORK), (true, 3));
        assert_eq!(everywhere(2, SHARED_WORK), (true, 2));
        assert_eq!(everywhere(1, SHARED_WORK), (true, 1));
        assert_eq!(
            everywhere(3, SHARED_WORK - 1),
            (true, 1),
            "small work stays"
        );
        assert!(!flushed());
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn a_kernel_that_panics_leaves_the_caller_as_it_was() {
        for work in [0, SHARED_WORK] {
            let panicked = std::panic::catch_unwind(|| {
                inside(work, || std::panic::resume_unwind(Box::new("on purpose")))
            });
            assert!(panicked.is_err());
            assert!(!flushed());
            assert!(PLACE.get() == Place::Outside);
        }
    }
}
