//! Threads that help the one that runs a kernel.
//!
//! Waking a thread up takes 25 to 50 microseconds on a virtual machine, longer than many a kernel, and sleeping until
//! another has done the work as long again. So the thread that runs a kernel works itself, and its helpers stay awake for a while
//! after they were last of use, from kernel to kernel. One that is late, because it slept or has to share its processor, keeps
//! nobody waiting: who comes finds what is left to do, or a job that is over.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::processors;

/// How long a helper without work looks out for some before it goes to sleep.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks between two at the clock, and offers of the processor to whoever else wants it.
const LOOKS: u32 = 64;
/// Looks before a leader that waits for the last helper goes to sleep: about as long as waking up takes.
const SPINS: u32 = 2048;
/// Teams kept while nobody leads them.
const TEAMS: usize = 4;
/// Helpers that are led at once, at least; with more threads to a team, those of [`TEAMS`]. Callers beyond work alone: where so many call,
/// every processor has work.
const LED: usize = 64;

/// Helpers at work, in a team's state.
const COUNT: u64 = (1 << 16) - 1;
/// Whether helpers may begin.
const OPEN: u64 = 1 << 16;
/// The number of the job is above.
const JOB: u64 = 1 << 17;

/// Some helpers, and the job they are called to. One thread at a time leads them.
pub(super) struct Team {
    desk: Arc<Desk>,
    helpers: Vec<JoinHandle<()>>,
    /// Processors of leader and helpers, where each has its own.
    places: Mutex<Vec<usize>>,
}

/// What leader and helpers share.
struct Desk {
    /// [`COUNT`], [`OPEN`] and the job's number, in one: who begins knows which job it is.
    state: Line,
    job: UnsafeCell<Option<Job>>,
    /// Helpers sleep here.
    work: Bed,
    /// The leader sleeps here.
    end: Bed,
    /// What a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the job is written while nobody may begin and nobody is at work, and read by who has begun.
unsafe impl Sync for Desk {}
// SAFETY: the job is called while its owner waits; it may be called from any thread.
unsafe impl Send for Desk {}

#[repr(align(64))]
struct Line(AtomicU64);

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    members: usize,
}

/// Where threads sleep until something is so.
#[derive(Default)]
struct Bed {
    asleep: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Bed {
    fn sleep_until(&self, is_so: impl Fn() -> bool) {
        let mut lock = hold(&self.lock);
        // In one order with `ring`: it finds us asleep, or we find it so.
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while !is_so() {
            lock = self.wake.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes who sleeps, after what they wait for is so.
    fn ring(&self) {
        if self.asleep.load(Ordering::SeqCst) > 0 {
            drop(hold(&self.lock));
            self.wake.notify_all();
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    fn state(&self) -> u64 {
        self.state.0.load(Ordering::SeqCst)
    }

    /// Waits for a job after number `seen`; returns its number.
    fn next(&self, seen: u64) -> u64 {
        let job = || self.state() / JOB;
        let since = Instant::now();
        while since.elapsed() < AWAKE {
            for _ in 0..LOOKS {
                if job() != seen {
                    return job();
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        self.work.sleep_until(|| job() != seen);
        job()
    }

    /// Begins with the job if that is still allowed; returns its number.
    fn begin(&self) -> Option<u64> {
        let order = Ordering::SeqCst;
        let begun = |state: u64| (state & OPEN != 0).then_some(state + 1);
        let state = self.state.0.fetch_update(order, order, begun);
        state.ok().map(|state| state / JOB)
    }

    /// What a helper does all its life; ends when a job without work says so.
    fn help(&self, member: usize) {
        let mut seen = 0;
        loop {
            seen = self.next(seen);
            let Some(number) = self.begin() else { continue };
            seen = number;
            // SAFETY: we have begun, so that nobody writes the job.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job.filter(|job| member < job.members) {
                // SAFETY: the leader waits for us before its job ends.
                let work = AssertUnwindSafe(|| unsafe { (*job.work)(member) });
                if let Err(panic) = catch_unwind(work) {
                    *hold(&self.panic) = Some(panic);
                }
            }
            self.state.0.fetch_sub(1, Ordering::SeqCst);
            self.end.ring();
            if job.is_none() {
                return;
            }
        }
    }

    fn open(&self, job: Option<Job>) {
        // SAFETY: the last job is closed, and nobody is at it any more.
        unsafe { *self.job.get() = job };
        let number = self.state() / JOB + 1;
        self.state.0.store((number * JOB) | OPEN, Ordering::SeqCst);
        self.work.ring();
    }

    /// Lets nobody begin any more, and waits for those who have.
    fn close(&self) {
        self.state.0.fetch_and(!OPEN, Ordering::SeqCst);
        let is_over = || self.state() & COUNT == 0;
        for _ in 0..SPINS {
            if is_over() {
                return;
            }
            std::hint::spin_loop();
        }
        self.end.sleep_until(is_over);
    }
}

impl Team {
    fn new(threads: usize, start: fn()) -> Option<Self> {
        let desk = Arc::new(Desk {
            state: Line(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            work: Bed::default(),
            end: Bed::default(),
            panic: Mutex::new(None),
        });
        let mut team = Self {
            desk,
            helpers: Vec::new(),
            places: Mutex::default(),
        };
        for member in 1..threads {
            let desk = team.desk.clone();
            let builder = Builder::new().name(format!("atbptt-{member}"));
            let helper = builder.spawn(move || {
                start();
                desk.help(member);
            });
            // Dropped, the team sends those home that were there.
            team.helpers.push(helper.ok()?);
        }
        // Where there is a processor for each, each stays on its own: a system that wakes a thread within some microseconds may
        // put it behind another, and leave it there while a processor stands idle.
        let mut places = processors::allowed();
        if places.len() == threads
            && let Some(here) = processors::current()
            && let Some(at) = places.iter().position(|&place| place == here)
        {
            places.swap(0, at);
            for (helper, &place) in team.helpers.iter().zip(&places[1..]) {
                processors::keep_on(helper, place);
            }
            team.places = Mutex::new(places);
        }
        Some(team)
    }

    pub(super) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work(0)` here and `work(1)` to `work(members − 1)` on helpers, as far as they come before it is over.
    pub(super) fn run(&self, members: usize, work: &(dyn Fn(usize) + Sync)) {
        struct Close<'a>(&'a Desk);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.close();
            }
        }
        // What an earlier job left that panicked on both sides.
        *hold(&self.desk.panic) = None;
        // SAFETY: only the lifetime is forgotten; the job is closed before `work` ends, in a panic as well.
        let work_for_ever = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(
                work,
            )
        };
        self.desk.open(Some(Job {
            work: work_for_ever,
            members,
        }));
        let close = Close(&self.desk);
        work(0);
        drop(close);
        let panic = hold(&self.desk.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Where each member has a processor: moves the helper away that stays on the leader's.
    fn keep_apart(&self) {
        let mut places = hold(&self.places);
        let Some(&known) = places.first() else { return };
        let Some(here) = processors::current().filter(|&here| here != known) else {
            return;
        };
        if let Some(at) = places.iter().position(|&place| place == here) {
            places.swap(0, at);
            if let Some(helper) = self.helpers.get(at - 1) {
                processors::keep_on(helper, known);
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        // Nobody leads any more: a job without work, which every helper takes up in its time.
        self.desk.open(None);
    }
}

/// The lead of a team, for as long as this lives.
pub(super) struct Lead {
    helpers: usize,
    team: Option<Box<Team>>,
}

/// Helpers that are led.
static HELPING: AtomicUsize = AtomicUsize::new(0);

/// Teams that nobody leads.
#[allow(clippy::vec_box)] // A leader knows its team by address.
static FREE: Mutex<Vec<Box<Team>>> = Mutex::new(Vec::new());

/// Whether so many helpers more may be led, beside those that are.
fn may_lead(helpers: usize, helping: usize) -> bool {
    helping + helpers <= LED.max(TEAMS * helpers)
}

impl Lead {
    /// Of a team of so many threads, the caller among them; a new one's helpers run `start` first. `None` where too many are led
    /// already, or the system gives no more threads.
    pub(super) fn of(threads: usize, start: fn()) -> Option<Self> {
        let helpers = threads - 1;
        let helping = HELPING.fetch_add(helpers, Ordering::Relaxed);
        // Gives the helpers back in any case.
        let mut lead = Self {
            helpers,
            team: None,
        };
        if !may_lead(helpers, helping) {
            return None;
        }
        let free = {
            let mut free = hold(&FREE);
            let found = free.iter().rposition(|team| team.threads() == threads);
            found.map(|at| free.remove(at))
        };
        let team = match free {
            Some(team) => {
                team.keep_apart();
                team
            }
            None => Box::new(Team::new(threads, start)?),
        };
        lead.team = Some(team);
        Some(lead)
    }

    /// It stays where it is while the lead lasts.
    pub(super) fn team(&self) -> Option<&Team> {
        self.team.as_deref()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        HELPING.fetch_sub(self.helpers, Ordering::Relaxed);
        let Some(team) = self.team.take() else { return };
        let mut free = hold(&FREE);
        free.push(team);
        let old = (free.len() > TEAMS).then(|| free.remove(0));
        // Their sending home needs no lock.
        drop(free);
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_beyond_some_teams_get_none() {
        let given = |helpers: usize| (0..1000).take_while(move |&n| may_lead(helpers, n * helpers));
        for (helpers, teams) in [(1, 64), (3, 21), (15, 4), (63, 4), (500, 4)] {
            assert_eq!(given(helpers).count(), teams, "teams of {helpers} helpers");
        }
    }
}
