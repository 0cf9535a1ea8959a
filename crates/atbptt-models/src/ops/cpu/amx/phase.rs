//! Phases of work that several threads do together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Looks at a counter before a thread that waits lets others have its core.
const SPINS: u32 = 4096;

/// Keeps phases apart that several threads work on: the tasks of a phase are claimed one by one, and the next begins when
/// all are done. Nobody waits for a thread that has not begun.
pub(super) struct Phase {
    tasks: usize,
    next: Counter,
    done: Counter,
}

/// On a cache line of its own.
#[repr(align(64))]
struct Counter(AtomicUsize);

impl Phase {
    pub(super) fn new(tasks: usize) -> Self {
        let counter = || Counter(AtomicUsize::new(0));
        Self {
            tasks,
            next: counter(),
            done: counter(),
        }
    }

    pub(super) fn attend(&self, task: impl Fn(usize)) {
        loop {
            let next = self.next.0.fetch_add(1, Ordering::Relaxed);
            if next >= self.tasks {
                break;
            }
            task(next);
            self.done.0.fetch_add(1, Ordering::Release);
        }
        let mut spins = 0;
        while self.done.0.load(Ordering::Acquire) < self.tasks {
            spins += 1;
            match spins < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
    }
}
