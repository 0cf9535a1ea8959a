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

use super::panel::{Epilogue, Packed, Run};
use super::simd::{Level, Real};

/// Weights up to this size are streamed by every thread at little cost.
const SHARED_WEIGHT_BYTES: usize = 1 << 20;
/// Rows per thread from which reading all weights is cheap beside the arithmetic.
const MANY_ROWS: usize = 48;
/// Rows of a part that use the registers well.
const PART_ROWS: usize = 12;
/// Multiplications of a window below which a second thread does not pay for its waking up.
const WINDOW_WORK: usize = 1 << 21;
/// Multiplications of a step below which meeting after every step does not pay.
const STEP_WORK: usize = 1 << 18;

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
        let most = rayon::current_num_threads();
        if most == 1 || work.saturating_mul(steps) < WINDOW_WORK {
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

/// Runs `work` on a thread of the pool: there, sharing something out is a push onto the thread's own queue, where a thread
/// from outside would be put to sleep and woken up again every time.
pub(crate) fn inside<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match rayon::current_thread_index() {
        None if rayon::current_num_threads() > 1 => rayon::scope(|_| work()),
        _ => work(),
    }
}

/// Runs `steps` steps of `rows` sequences, each step after the one before it.
pub(crate) fn run<E: Real, F: Epilogue<E, V>, const V: usize>(
    steps: usize,
    rows: usize,
    packed: &Packed<E, V>,
    epilogue: &F,
) {
    let split = Split::choose(steps, rows, packed.panels(), packed.work(), packed.bytes());
    run_split(split, steps, rows, packed, epilogue);
}

pub(crate) fn run_split<E: Real, F: Epilogue<E, V>, const V: usize>(
    split: Split,
    steps: usize,
    rows: usize,
    packed: &Packed<E, V>,
    epilogue: &F,
) {
    let level = Level::detect();
    let run = |step: usize, panels: Range<usize>, rows: Range<usize>| {
        level.dispatch(Run {
            epilogue,
            packed,
            step,
            panels,
            rows,
        });
    };
    let panels = packed.panels();
    match split {
        Split::None => (0..steps).for_each(|step| run(step, 0..panels, 0..rows)),
        Split::Rows(parts) => {
            let all_steps = |part: usize| {
                let range = part * rows / parts..(part + 1) * rows / parts;
                (0..steps).for_each(|step| run(step, 0..panels, range.clone()));
            };
            let all_steps = &all_steps;
            rayon::in_place_scope(|scope| {
                for part in 1..parts {
                    scope.spawn(move |_| all_steps(part));
                }
                all_steps(0);
            });
        }
        Split::Panels(members) => {
            let barrier = Barrier::new(panels);
            let member = |member: usize| {
                barrier.attend(member, members, steps, |step, panel| {
                    run(step, panel..panel + 1, 0..rows)
                });
            };
            let member = &member;
            rayon::in_place_scope(|scope| {
                for helper in 1..members {
                    scope.spawn(move |_| member(helper));
                }
                member(0);
            });
        }
    }
}

/// Keeps the steps apart: panels of a step are claimed once each, and the next step begins when all are done.
struct Barrier {
    /// Per panel, the next step to claim; one cache line each.
    next: Vec<Line>,
    /// Panels done, over all steps.
    done: Line,
}

#[repr(align(64))]
struct Line(AtomicUsize);

impl Barrier {
    fn new(panels: usize) -> Self {
        Self {
            next: (0..panels).map(|_| Line(AtomicUsize::new(0))).collect(),
            done: Line(AtomicUsize::new(0)),
        }
    }

    fn attend(&self, member: usize, members: usize, steps: usize, work: impl Fn(usize, usize)) {
        let panels = self.next.len();
        let home = member * panels / members..(member + 1) * panels / members;
        let others = panels - home.len();
        // A helper that arrives late begins where the others are.
        let first = self.done.0.load(Ordering::Acquire) / panels;
        for step in first..steps {
            let claim = |panel: usize| {
                let next = &self.next[panel].0;
                if next.load(Ordering::Relaxed) == step
                    && next
                        .compare_exchange(step, step + 1, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                {
                    work(step, panel);
                    self.done.0.fetch_add(1, Ordering::AcqRel);
                }
            };
            // To and fro: the panels used last are still in cache.
            if step % 2 == 0 {
                home.clone().for_each(claim);
            } else {
                home.clone().rev().for_each(claim);
            }
            // Then what is left of the others' share, from its far end.
            for offset in (0..others).rev() {
                claim((home.end + offset) % panels);
            }
            let mut spins = 0u32;
            while self.done.0.load(Ordering::Acquire) < (step + 1) * panels {
                spins += 1;
                if spins < 4096 {
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
        }
    }
}
