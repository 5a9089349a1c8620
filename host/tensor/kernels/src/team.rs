//! A team of threads that work through the tasks of one call together. A call that finds the team busy works alone, so that
//! several calls at once share the processor's cores instead of fighting for them.
//!
//! Between two jobs of one call the members wait without sleeping, for a bounded time: a call makes hundreds of jobs of some
//! microseconds each, and waking a thread costs as much as such a job.

use std::any::Any;
use std::cell::{Cell, OnceCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::stop::{self, Raised};

/// Work below this is not worth a second thread.
const WORTH_SHARING: Duration = Duration::from_micros(12);

/// How long a member looks for the next job of a call before it sleeps, and after a job outside of one.
const PATIENCE: (Duration, Duration) = (Duration::from_micros(300), Duration::from_micros(20));

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// Threads that wait for jobs.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<Thread>,
}

#[derive(Debug)]
struct Shared {
    /// Whether somebody has the turn: the one thread that may open jobs.
    turn: AtomicBool,
    /// Odd while a job is open; each job has a number of its own.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// The next task that nobody has taken.
    next: AtomicUsize,
    /// Members that may be looking at the job.
    active: AtomicUsize,
    /// Members that sleep, by number.
    asleep: Vec<AtomicBool>,
    /// Whether one call has the team for a while.
    engaged: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    task: *const Task<'static>,
    tasks: usize,
    /// What a task takes, about.
    each: u64,
    signal: Option<Raised>,
    /// The flag of the thread that opened it, if it has one: see [`alone_while`].
    alone: *const AtomicBool,
}

// SAFETY: `job` is written only by who has the turn, while no job is open and `active` is 0; members read it only between adding
// themselves to `active` and taking themselves away, after they have seen that the job is still open.
unsafe impl Sync for Shared {}
// SAFETY: the pointers inside are to what is `Sync`, and are used only while their owner waits in `Team::share`.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread has the turn.
    static HAS_TURN: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is working on a task, which must not make jobs of its own.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    static ALONE: OnceCell<Arc<AtomicBool>> = const { OnceCell::new() };
}

static TEAM: OnceLock<Team> = OnceLock::new();

/// Sets how many threads kernels use, the caller's own included; before the first kernel runs. Returns false, and changes
/// nothing, afterwards.
pub fn set_threads(threads: usize) -> bool {
    let mut fresh = false;
    TEAM.get_or_init(|| {
        fresh = true;
        Team::new(threads)
    });
    fresh
}

/// The process's team: as many threads as the processor has cores, unless [`set_threads`] said otherwise.
pub fn team() -> &'static Team {
    TEAM.get_or_init(|| Team::new(thread::available_parallelism().map_or(1, usize::from)))
}

/// From now on this thread's jobs are its own affair whenever `flag` is set: the team is left to others, at once even when a job is under
/// way. A thread has one flag; a second is ignored.
pub fn alone_while(flag: Arc<AtomicBool>) {
    ALONE.with(|alone| {
        let _ = alone.set(flag);
    });
}

/// Whether the team stays this thread's, if it is: who has to work alone gives it back here, unless a job is under way.
pub(crate) fn keeps_turn() -> bool {
    if HAS_TURN.get() && is_alone() && !IN_TASK.get() {
        team().shared.end_turn();
    }
    HAS_TURN.get()
}

fn is_alone() -> bool {
    ALONE.with(|alone| alone.get().is_some_and(|flag| flag.load(Ordering::Relaxed)))
}

/// Runs `task(i)` for each `i` below `tasks`, on the process's team if it is free and the work, which takes about `nanoseconds` on
/// one thread, is worth it. Between tasks it looks whether to [stop].
///
/// # Panics
/// If a task does.
pub fn parallel(tasks: usize, nanoseconds: u64, task: impl Fn(usize) + Sync) {
    let each = nanoseconds / tasks.max(1) as u64;
    if tasks <= 1 || nanoseconds < WORTH_SHARING.as_nanos() as u64 || IN_TASK.get() {
        stop::counted(0..tasks, each).for_each(task);
        return;
    }
    team().run(tasks, each, &task);
}

/// Keeps the team for a call, if it is free, so that its jobs start fast.
pub fn engaged<R>(work: impl FnOnce() -> R) -> R {
    team().engage(work)
}

impl Team {
    /// A team of so many threads, the caller's own among them.
    fn new(threads: usize) -> Self {
        let helpers = threads.clamp(1, 256) - 1;
        let shared = Arc::new(Shared {
            turn: AtomicBool::new(false),
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            engaged: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let member = |number: usize| {
            let shared = Arc::clone(&shared);
            let name = format!("kernel-{number}");
            let spawned = thread::Builder::new().name(name).spawn(move || shared.serve(number));
            // Where no thread can be had, the others do the work.
            spawned.ok().map(|handle| handle.thread().clone())
        };
        let members = (0..helpers).map_while(member).collect();
        Self { shared, members }
    }

    /// How many threads there are, the caller's own included.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// The turn until what is returned is dropped, or the turn is ended before.
    fn take_turn(&self) -> Option<Turn<'_>> {
        if self.members.is_empty() || is_alone() || self.shared.turn.swap(true, Ordering::Acquire) {
            return None;
        }
        HAS_TURN.set(true);
        Some(Turn(&self.shared))
    }

    fn engage<R>(&self, work: impl FnOnce() -> R) -> R {
        if HAS_TURN.get() {
            return work();
        }
        let Some(_turn) = self.take_turn() else {
            return work();
        };
        self.shared.engaged.store(true, Ordering::Relaxed);
        work()
    }

    /// Tasks of so many nanoseconds each.
    fn run(&self, tasks: usize, each: u64, task: &Task<'_>) {
        if is_alone() {
            // Whoever has kept the team so far gives it back.
            self.shared.end_turn();
        } else if HAS_TURN.get() {
            return self.share(tasks, each, task);
        } else if let Some(_turn) = self.take_turn() {
            return self.share(tasks, each, task);
        }
        stop::counted(0..tasks, each).for_each(task);
    }

    /// Works on a job together with the members. The caller has the turn; if it has to work alone before the end, it gives it back, and
    /// does what is left by itself.
    fn share(&self, tasks: usize, each: u64, task: &Task<'_>) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is used by members counted in `active` while the job is open; this
        // function closes the job and waits until there are none before it returns.
        let task: *const Task<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        let job = Job {
            task,
            tasks,
            each,
            signal: stop::current(),
            alone: ALONE.with(|alone| alone.get().map_or(std::ptr::null(), Arc::as_ptr)),
        };
        // SAFETY: this thread has the turn, no job is open and no member is active: the previous job ended so.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        let number = shared.epoch.load(Ordering::Relaxed) + 1;
        shared.epoch.store(number, Ordering::SeqCst);
        for (member, asleep) in self.members.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                member.unpark();
            }
        }
        shared.work(job);
        shared.epoch.store(number + 1, Ordering::SeqCst);
        let mut spins = 0_u32;
        while shared.active.load(Ordering::SeqCst) != 0 {
            spins += 1;
            if spins.is_multiple_of(4096) {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        let left = shared.next.load(Ordering::Relaxed);
        if left < tasks {
            shared.end_turn();
            // SAFETY: it is the function that was handed in.
            stop::counted(left..tasks, each).for_each(|at| unsafe { (*task)(at) });
        }
    }
}

/// The turn of this thread; ends with it.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end_turn();
    }
}

impl Shared {
    /// Ends this thread's turn, if it has it.
    fn end_turn(&self) {
        if HAS_TURN.replace(false) {
            self.engaged.store(false, Ordering::Relaxed);
            self.turn.store(false, Ordering::Release);
        }
    }

    /// Takes tasks until there are none or whoever opened the job has to work alone.
    fn work(&self, job: Job) {
        let outer = IN_TASK.replace(true);
        let tasks = || {
            loop {
                // SAFETY: as for the task below; a thread's flag lives as long as the thread.
                if unsafe { job.alone.as_ref() }.is_some_and(|alone| alone.load(Ordering::Relaxed)) {
                    break;
                }
                let at = self.next.fetch_add(1, Ordering::Relaxed);
                if at >= job.tasks {
                    break;
                }
                stop::spend(job.each);
                // SAFETY: the job is open or this member is counted as active, so its owner waits in `Team::share`.
                unsafe { (*job.task)(at) };
            }
        };
        // SAFETY: as long as the owner waits, its signal is there.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { stop::under_raised(job.signal, tasks) }));
        IN_TASK.set(outer);
        if let Err(panic) = result {
            // The tasks that are left are not worth doing.
            self.next.store(job.tasks, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }

    /// What a member does all its life.
    fn serve(&self, number: usize) {
        let mut seen = 0;
        loop {
            let epoch = self.wait(number, seen);
            seen = epoch;
            self.active.fetch_add(1, Ordering::SeqCst);
            // Either this sees that the job was closed, or its owner sees that this member is active.
            if self.epoch.load(Ordering::SeqCst) == epoch {
                // SAFETY: the job is open and this member is active, so nobody writes it.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.work(job);
                }
            }
            self.active.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Waits for a job that it has not seen.
    fn wait(&self, number: usize, seen: usize) -> usize {
        let fresh = || {
            let epoch = self.epoch.load(Ordering::SeqCst);
            (epoch % 2 == 1 && epoch != seen).then_some(epoch)
        };
        let mut since = Instant::now();
        let mut spins = 0_u32;
        loop {
            if let Some(epoch) = fresh() {
                return epoch;
            }
            std::hint::spin_loop();
            spins += 1;
            if !spins.is_multiple_of(64) {
                continue;
            }
            let engaged = self.engaged.load(Ordering::Relaxed);
            let patience = if engaged { PATIENCE.0 } else { PATIENCE.1 };
            if since.elapsed() < patience {
                continue;
            }
            self.asleep[number].store(true, Ordering::SeqCst);
            // Whoever opened a job before it could see this sleep has not woken us: look again.
            if fresh().is_none() {
                thread::park();
            }
            self.asleep[number].store(false, Ordering::SeqCst);
            since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_task_runs_once_whoever_else_works() {
        let team = Team::new(4);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..300 {
                        let done: Vec<_> = (0..round % 50).map(|_| AtomicUsize::new(0)).collect();
                        let job = || {
                            team.run(done.len(), 0, &|i| {
                                done[i].fetch_add(1, Ordering::Relaxed);
                            });
                        };
                        if round % 2 == 0 {
                            team.engage(job)
                        } else {
                            job()
                        }
                        assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_task_that_panics_ends_its_call_alone() {
        let team = Team::new(3);
        for _ in 0..20 {
            let failed = catch_unwind(AssertUnwindSafe(|| team.run(10, 0, &|i| assert!(i != 7, "seven"))));
            assert!(failed.is_err());
            let sum = AtomicUsize::new(0);
            team.run(10, 0, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn who_has_to_work_alone_gives_the_team_back_and_may_have_it_again() {
        let team = Team::new(2);
        let on_a_thread = |work: &(dyn Fn(&AtomicBool) + Sync)| {
            thread::scope(|scope| {
                let spawned = scope.spawn(|| {
                    let flag = Arc::new(AtomicBool::new(false));
                    alone_while(Arc::clone(&flag));
                    work(&flag);
                });
                spawned.join().unwrap();
            });
        };
        let taken = || team.shared.turn.load(Ordering::Relaxed);
        on_a_thread(&|flag| {
            let done = AtomicUsize::new(0);
            let job = || {
                team.run(100, 0, &|i| {
                    // In the middle of a job.
                    flag.store(i >= 50 || flag.load(Ordering::Relaxed), Ordering::Relaxed);
                    done.fetch_add(1, Ordering::Relaxed);
                });
            };
            team.engage(|| {
                job();
                assert!(!taken(), "the rest of the job is its own affair");
                job();
                assert!(!taken(), "as is the next one");
                flag.store(false, Ordering::Relaxed);
                team.run(4, 0, &|_| assert!(taken()));
            });
            assert_eq!(done.into_inner(), 200);
        });
        assert!(!taken());
    }

    #[test]
    fn tasks_may_be_many_and_members_may_have_slept() {
        let team = Team::new(2);
        for pause in [0, 5] {
            thread::sleep(Duration::from_millis(pause));
            let sum = AtomicUsize::new(0);
            team.run(10_000, 0, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 10_000 * 9_999 / 2);
        }
    }
}
