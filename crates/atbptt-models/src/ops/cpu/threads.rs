//! The threads that kernels run on.
//!
//! Small work runs where it is called: sharing it with another thread costs more, on a busy machine a hundred times as much.
//! Large work is shared between the calling thread and [helpers](super::helpers), together as many as the pool it was called in
//! has threads (rayon's global one, or the caller's). Both ways every thread that computes treats subnormal numbers as zero
//! ([`Flush`]), which in a pool of rayon's would reach other people's work, and both give the same bits.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::flush::Flush;
use super::helpers::{Lead, Team};
use super::shared::Shared;

/// Multiplications from which it is worth calling other threads.
pub(crate) const SHARED_WORK: usize = 1 << 21;
/// Multiplications below which a product runs on one thread.
pub(crate) const PARALLEL_WORK: usize = 1 << 20;
/// Multiplications that the pointwise part of a step costs per hidden unit, roughly.
pub(crate) const EPILOGUE_WORK: usize = 16;

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
}

/// Where a thread stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    /// In a kernel, or a part of one, that has one thread.
    Alone,
    /// In a kernel that leads a team.
    Leader(*const Team),
}

/// Threads that the kernel on this thread may use.
pub(crate) fn threads() -> usize {
    match PLACE.get() {
        Place::Alone => 1,
        // SAFETY: the team is there for as long as the kernel runs.
        Place::Leader(team) => unsafe { (*team).threads() },
        Place::Outside => rayon::current_num_threads(),
    }
}

/// Whether to share out: there is enough to do, and somebody to share with.
pub(crate) fn shared(enough: bool) -> bool {
    enough && threads() > 1
}

/// Runs a kernel of `work` multiplications, or what costs as much, with subnormal numbers as zeros.
pub(crate) fn inside<R>(work: usize, kernel: impl FnOnce() -> R) -> R {
    match PLACE.get() {
        Place::Outside if work >= SHARED_WORK => leading(kernel),
        Place::Outside => alone(kernel),
        Place::Alone | Place::Leader(_) => kernel(),
    }
}

/// Runs a kernel that leads as many threads as the caller's pool has.
fn leading<R>(kernel: impl FnOnce() -> R) -> R {
    let threads = rayon::current_num_threads();
    let lead = (threads > 1).then(|| Lead::of(threads, start)).flatten();
    // Where no more threads are to be had there is this one.
    match lead.as_ref().and_then(Lead::team) {
        Some(team) => at(Place::Leader(team), kernel),
        None => alone(kernel),
    }
}

/// What a helper does first, for as long as it lives: it runs nothing but kernels.
fn start() {
    PLACE.set(Place::Alone);
    std::mem::forget(Flush::new());
}

/// Runs a kernel on this thread, with subnormal numbers as zeros.
pub(crate) fn alone<R>(kernel: impl FnOnce() -> R) -> R {
    at(Place::Alone, kernel)
}

fn at<R>(place: Place, kernel: impl FnOnce() -> R) -> R {
    struct Back(Place);
    impl Drop for Back {
        fn drop(&mut self) {
            PLACE.set(self.0);
        }
    }
    let _back = Back(PLACE.replace(place));
    let _flush = Flush::new();
    kernel()
}

/// Runs `work(0)` here and `work(1)` to `work(members − 1)` on helpers, as far as they come before it is over: what a member
/// leaves undone is for the others. Inside of it there is one thread.
pub(crate) fn together(members: usize, work: impl Fn(usize) + Sync) {
    match PLACE.get() {
        _ if members < 2 => alone(|| work(0)),
        Place::Alone => work(0),
        // SAFETY: the team is there for as long as the kernel runs, and this is the thread that leads it.
        Place::Leader(team) => unsafe { (*team).run(members, &|member| alone(|| work(member))) },
        Place::Outside => leading(|| match PLACE.get() {
            Place::Outside | Place::Alone => work(0),
            Place::Leader(_) => together(members, work),
        }),
    }
}

/// Runs `task` on every index below `count`, over the kernel's threads where there is [enough](shared) to do.
pub(crate) fn each(enough: bool, count: usize, task: impl Fn(usize) + Sync) {
    let members = match shared(enough) {
        true => threads().min(count),
        false => 1,
    };
    if members < 2 {
        return (0..count).for_each(task);
    }
    let claims = Claims::new(count, members);
    together(members, |member| claims.take(member, &task));
}

/// What `task` makes of every index below `count`, likewise.
pub(crate) fn map<R: Send + Sync>(
    enough: bool,
    count: usize,
    task: impl Fn(usize) -> R + Sync,
) -> Vec<R> {
    if !shared(enough) {
        return (0..count).map(task).collect();
    }
    let made: Vec<OnceLock<R>> = (0..count).map(|_| OnceLock::new()).collect();
    each(enough, count, |index| {
        made[index].get_or_init(|| task(index));
    });
    made.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// Runs `task` on every chunk of `size` elements and its index, likewise; the last chunk may be shorter.
pub(crate) fn each_chunk<T: Send>(
    enough: bool,
    data: &mut [T],
    size: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    let (at, len) = (Shared::new(data), data.len());
    each(enough, len.div_ceil(size), |index| {
        let first = index * size;
        // SAFETY: chunks are within the data and apart from each other; every index comes once.
        let chunk = unsafe { std::slice::from_raw_parts_mut(at.at(first), size.min(len - first)) };
        task(index, chunk);
    });
}

/// Indices to be taken once each: every member begins with a range of its own, which is near to what it had in the last kernel,
/// and then takes what is left of the others'.
struct Claims {
    count: usize,
    /// Per member, the next index of its range.
    next: Vec<Line>,
}

#[repr(align(64))]
struct Line(AtomicUsize);

impl Claims {
    fn new(count: usize, members: usize) -> Self {
        let first = |member: usize| Line(AtomicUsize::new(member * count / members));
        Self {
            count,
            next: (0..members).map(first).collect(),
        }
    }

    fn take(&self, member: usize, task: impl Fn(usize)) {
        let members = self.next.len();
        for whose in (member..members).chain(0..member) {
            let end = (whose + 1) * self.count / members;
            loop {
                let index = self.next[whose].0.fetch_add(1, Ordering::Relaxed);
                if index >= end {
                    break;
                }
                task(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use rayon::ThreadPoolBuilder;

    use super::super::processors;

    // A call that is not looked into: the multiplication stays where the mode was asked for.
    #[inline(never)]
    fn flushed() -> bool {
        black_box(f32::MIN_POSITIVE) * black_box(0.5) == 0.0
    }

    /// Runs `act` as a caller whose pool has so many threads.
    fn among<R: Send>(threads: usize, act: impl FnOnce() -> R + Send) -> R {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(act)
    }

    /// What every member of a kernel saw; all are waited for.
    fn seen_by_all<R: Send>(threads: usize, look: impl Fn() -> R + Sync) -> Vec<R> {
        let seen = Mutex::new(Vec::new());
        inside(SHARED_WORK, || {
            assert_eq!(super::threads(), threads);
            together(threads, |_| {
                seen.lock().unwrap().push(look());
                while seen.lock().unwrap().len() < threads {
                    std::thread::yield_now();
                }
            });
        });
        seen.into_inner().unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn where_there_is_a_processor_for_each_helpers_stay_apart_and_callers_keep_all() {
        let all = processors::allowed();
        assert!(!all.is_empty());
        among(all.len(), || {
            let mut seen = seen_by_all(all.len(), processors::allowed);
            assert_eq!(processors::allowed(), all);
            // The caller, who has all, may be on any.
            seen.retain(|places| all.len() == 1 || *places != all);
            assert_eq!(seen.len(), all.len().max(2) - 1);
            assert!(seen.iter().all(|places| places.len() == 1));
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), all.len().max(2) - 1);
        });
        let more = all.len() + 1;
        let seen = among(more, || seen_by_all(more, processors::allowed));
        assert_eq!(seen, vec![all.clone(); more]);
        assert_eq!(processors::allowed(), all);
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn kernels_flush_on_every_thread_and_callers_do_not() {
        assert!(!flushed());
        for threads in [3, 2, 1] {
            let seen = among(threads, || {
                let seen = seen_by_all(threads, flushed);
                assert!(!flushed(), "the caller's mode is as before");
                seen
            });
            assert_eq!(seen, vec![true; threads]);
        }
        let small = || inside(SHARED_WORK - 1, || (flushed(), super::threads()));
        assert_eq!(among(3, small), (true, 1), "small work stays");
        assert!(!flushed());
    }

    #[test]
    fn every_index_comes_once_whoever_takes_it() {
        for threads in [1, 2, 3, 5] {
            for count in [0, 1, 2, 7, 100, 1001] {
                among(threads, || {
                    let times: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    each(true, count, |index| {
                        times[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(times.iter().all(|times| times.load(Ordering::Relaxed) == 1));
                    let squares = map(true, count, |index| index * index);
                    assert_eq!(squares, (0..count).map(|i| i * i).collect::<Vec<_>>());
                    let mut data = vec![0; count];
                    each_chunk(true, &mut data, 3, |index, chunk| {
                        assert_eq!(chunk.len(), 3.min(count - 3 * index));
                        chunk
                            .iter_mut()
                            .enumerate()
                            .for_each(|(at, x)| *x += 3 * index + at);
                    });
                    assert_eq!(data, (0..count).collect::<Vec<_>>());
                });
            }
        }
    }

    /// Jobs one after the other, from several callers at once, each with a sum that needs every index of every job.
    #[test]
    fn jobs_follow_each_other_from_many_callers() {
        std::thread::scope(|scope| {
            for caller in 0..6 {
                scope.spawn(move || {
                    among(2 + caller % 2, || {
                        for job in 0..2000 {
                            let sum = AtomicUsize::new(0);
                            inside(SHARED_WORK, || {
                                each(true, 5, |index| {
                                    sum.fetch_add(index + job, Ordering::Relaxed);
                                });
                            });
                            assert_eq!(sum.into_inner(), 10 + 5 * job);
                        }
                    });
                });
            }
        });
    }

    #[test]
    fn inside_of_a_part_there_is_one_thread() {
        among(3, || {
            let here: Vec<ThreadId> = seen_by_all(3, || {
                assert_eq!(super::threads(), 1);
                let own = std::thread::current().id();
                let seen = map(true, 9, |_| std::thread::current().id());
                assert_eq!(seen, vec![own; 9]);
                own
            });
            assert!(here.iter().collect::<std::collections::HashSet<_>>().len() == 3);
        });
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn a_kernel_that_panics_leaves_the_caller_as_it_was() {
        let panics = || std::panic::resume_unwind(Box::new("on purpose"));
        among(2, || {
            for work in [0, SHARED_WORK] {
                let panicked = std::panic::catch_unwind(|| inside(work, panics));
                assert!(panicked.is_err());
                assert!(!flushed());
                assert!(PLACE.get() == Place::Outside);
            }
            // On a helper, on the leader: the team is as good as before.
            for who in [1, 0] {
                let came = AtomicUsize::new(0);
                let panicked = std::panic::catch_unwind(|| {
                    inside(SHARED_WORK, || {
                        together(2, |member| {
                            came.fetch_add(1, Ordering::SeqCst);
                            while came.load(Ordering::SeqCst) < 2 {
                                std::thread::yield_now();
                            }
                            if member == who {
                                panics();
                            }
                        });
                    });
                });
                assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on purpose"));
                assert!(PLACE.get() == Place::Outside && !flushed());
                assert_eq!(seen_by_all(2, flushed), [true; 2]);
            }
        });
    }
}
