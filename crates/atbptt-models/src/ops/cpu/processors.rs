//! The processors that this process may run on.

pub(super) use system::{allowed, current, keep_on};

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::{c_int, c_ulong};
    use std::os::unix::thread::JoinHandleExt;
    use std::thread::JoinHandle;

    /// Bits of a set of processors, as many as the C library's.
    type Set = [u64; 16];

    unsafe extern "C" {
        fn sched_getaffinity(thread: c_int, size: usize, set: *mut Set) -> c_int;
        fn pthread_setaffinity_np(thread: c_ulong, size: usize, set: *const Set) -> c_int;
        fn sched_getcpu() -> c_int;
    }

    /// Those of the calling thread, by number; none where the system does not say.
    pub(in super::super) fn allowed() -> Vec<usize> {
        let mut set: Set = [0; 16];
        // SAFETY: the system writes at most the size it is told.
        let answer = unsafe { sched_getaffinity(0, size_of::<Set>(), &raw mut set) };
        let is_in = |&processor: &usize| set[processor / 64] >> (processor % 64) & 1 == 1;
        let known = if answer == 0 { 64 * set.len() } else { 0 };
        (0..known).filter(is_in).collect()
    }

    /// The one that the calling thread is on.
    pub(in super::super) fn current() -> Option<usize> {
        // SAFETY: asks, and changes nothing.
        usize::try_from(unsafe { sched_getcpu() }).ok()
    }

    /// Keeps a thread on one of them; a refusal changes nothing.
    pub(in super::super) fn keep_on(thread: &JoinHandle<()>, processor: usize) {
        let mut set: Set = [0; 16];
        let Some(word) = set.get_mut(processor / 64) else {
            return;
        };
        *word = 1 << (processor % 64);
        let thread = thread.as_pthread_t() as c_ulong;
        // SAFETY: the thread is neither joined nor detached; the system reads the size it is told.
        unsafe { pthread_setaffinity_np(thread, size_of::<Set>(), &raw const set) };
    }
}

/// Elsewhere threads are left where the system puts them.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::thread::JoinHandle;

    pub(in super::super) fn allowed() -> Vec<usize> {
        Vec::new()
    }

    pub(in super::super) fn current() -> Option<usize> {
        None
    }

    pub(in super::super) fn keep_on(_: &JoinHandle<()>, _: usize) {}
}
