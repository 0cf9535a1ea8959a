//! How a window's steps are shared out over threads.
//!
//! - Few weights or a large batch: each thread takes some sequences through **all steps** of the window, and nobody
//!   waits for anybody.
//! - Many weights and a small batch: each thread takes some **hidden units**, so that its part of the weights stays in
//!   its cache, and all meet after every step. Panels are claimed one by one: the calling thread never waits for one
//!   that has not begun, so a helper that is busy elsewhere costs time, never a deadlock.
//!
//! Either way a panel's rows are computed by the same instructions in the same order: the bits do not depend on
//! the number of threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::packed::Packed;
use super::panel::{Epilogue, Run};
use super::simd::{Level, Real};
use super::threads::{SHARED_WORK, each, threads, together};

/// Weights up to this size are streamed by every thread at little cost.
const SHARED_WEIGHT_BYTES: usize = 1 << 20;
/// Rows per thread from which reading all weights is cheap beside the arithmetic.
const MANY_ROWS: usize = 48;
/// Rows of a part that use the registers well.
const PART_ROWS: usize = 12;
/// Looks at a flag before a thread that waits for another goes to sleep: about as long as waking up takes.
const SPINS: u32 = 2048;
/// Multiplications of a step below which meeting after every step does not pay.
const STEP_WORK: usize = 1 << 17;

/// How the steps of a window are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// One thread.
    None,
    /// Sequences over threads.
    Rows(usize),
    /// Hidden units over threads.
    Panels(usize),
}

impl Split {
    fn choose(steps: usize, rows: usize, panels: usize, row_work: usize, bytes: usize) -> Self {
        let work = rows * row_work;
        let most = threads();
        if most == 1 || work.saturating_mul(steps) < SHARED_WORK {
            return Self::None;
        }
        let by_rows = most.min(rows.div_ceil(4));
        if by_rows > 1 && (bytes <= SHARED_WEIGHT_BYTES || rows / by_rows >= MANY_ROWS) {
            // Twice as many parts as threads where they stay tall: one that wakes up late leaves some to the others.
            let parts = if rows / by_rows >= 2 * PART_ROWS {
                2
            } else {
                1
            };
            return Self::Rows(by_rows * parts);
        }
        let by_panels = most.min(panels / 2);
        if by_panels > 1 && work >= STEP_WORK {
            return Self::Panels(by_panels);
        }
        Self::None
    }
}

/// Runs `steps` steps of `rows` sequences, each step after the one before it, up to the one after which
/// [all is zero](Epilogue::rest_is_zero); returns how many were run.
pub(crate) fn run<E: Real, F: Epilogue<E, V>, const V: usize>(
    steps: usize,
    rows: usize,
    packed: &Packed<E, V>,
    epilogue: &F,
) -> usize {
    let split = Split::choose(steps, rows, packed.panels(), packed.work(), packed.bytes());
    run_split(split, steps, rows, packed, epilogue)
}

pub(crate) fn run_split<E: Real, F: Epilogue<E, V>, const V: usize>(
    split: Split,
    steps: usize,
    rows: usize,
    packed: &Packed<E, V>,
    epilogue: &F,
) -> usize {
    let level = Level::detect();
    let run = |step: usize, panels: Range<usize>, rows: Range<usize>, fresh: bool| {
        level.dispatch(Run {
            epilogue,
            packed,
            step,
            panels,
            fresh,
            rows,
        });
    };
    let panels = packed.panels();
    // One thread takes these rows through all steps.
    let all_steps = |rows: Range<usize>| {
        for step in 0..steps {
            run(step, 0..panels, rows.clone(), false);
            if epilogue.rest_is_zero(step, rows.clone()) {
                // SAFETY: no other thread has these rows.
                unsafe { epilogue.write_zeros(step + 1, rows) };
                return step + 1;
            }
        }
        steps
    };
    match split {
        Split::None => all_steps(0..rows),
        Split::Rows(parts) => {
            let most = AtomicUsize::new(0);
            let part = |part: usize| {
                let done = all_steps(part * rows / parts..(part + 1) * rows / parts);
                most.fetch_max(done, Ordering::AcqRel);
            };
            each(true, parts, part);
            most.into_inner()
        }
        Split::Panels(members) => {
            let barrier = Barrier::new(panels);
            let member = |member: usize| {
                barrier.attend(
                    [member, members],
                    steps,
                    |step, panel, fresh| run(step, panel..panel + 1, 0..rows, fresh),
                    |step| epilogue.rest_is_zero(step, 0..rows),
                )
            };
            let done = AtomicUsize::new(0);
            together(members, |index| {
                // The leader is there to the end.
                let steps = member(index);
                if index == 0 {
                    done.store(steps, Ordering::Relaxed);
                }
            });
            let done = done.into_inner();
            if done < steps {
                // SAFETY: the threads have met for the last time.
                unsafe { epilogue.write_zeros(done, 0..rows) };
            }
            done
        }
    }
}

/// Keeps the steps apart: panels of a step are claimed once each, and the next step begins when all are done.
struct Barrier {
    /// Per panel, the next step to claim; one cache line each.
    next: Vec<Line>,
    /// Panels done, over all steps.
    done: Line,
    /// Threads that wait asleep, or are about to.
    asleep: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

#[repr(align(64))]
struct Line(AtomicUsize);

impl Barrier {
    fn new(panels: usize) -> Self {
        Self {
            next: (0..panels).map(|_| Line(AtomicUsize::new(0))).collect(),
            done: Line(AtomicUsize::new(0)),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Counts a panel as done, and wakes those who wait for it.
    fn finish_panel(&self) {
        // In one order with `wait`: it sees the panel done, or we see it asleep.
        let done = self.done.0.fetch_add(1, Ordering::SeqCst) + 1;
        if done.is_multiple_of(self.next.len()) && self.asleep.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Waits until so many panels are done: at first awake, since on a quiet machine all are done at about the same time;
    /// then asleep, so that a thread that has to share its core with others is not kept from it.
    fn wait(&self, panels: usize) {
        for _ in 0..SPINS {
            if self.done.0.load(Ordering::Acquire) >= panels {
                return;
            }
            std::hint::spin_loop();
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while self.done.0.load(Ordering::SeqCst) < panels {
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Takes part in all steps until `last` says that one was the last; returns how many there were. Every member comes to
    /// the same answer: what `last` says of a step is settled when the step is done.
    fn attend(
        &self,
        [member, members]: [usize; 2],
        steps: usize,
        work: impl Fn(usize, usize, bool),
        last: impl Fn(usize) -> bool,
    ) -> usize {
        let panels = self.next.len();
        let home = member * panels / members..(member + 1) * panels / members;
        let others = panels - home.len();
        // A helper that arrives late begins where the others are.
        let first = self.done.0.load(Ordering::Acquire) / panels;
        if first > 0 && last(first - 1) {
            return first;
        }
        for step in first..steps {
            let mut fresh = true;
            let mut claim = |panel: usize| {
                let next = &self.next[panel].0;
                if next.load(Ordering::Relaxed) == step
                    && next
                        .compare_exchange(step, step + 1, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                {
                    work(step, panel, std::mem::take(&mut fresh));
                    self.finish_panel();
                }
            };
            // To and fro: the panels used last are still in cache.
            if step % 2 == 0 {
                home.clone().for_each(&mut claim);
            } else {
                home.clone().rev().for_each(&mut claim);
            }
            // Then what is left of the others' share, from its far end.
            for offset in (0..others).rev() {
                claim((home.end + offset) % panels);
            }
            self.wait((step + 1) * panels);
            if last(step) {
                return step + 1;
            }
        }
        steps
    }
}
