//! The lanes: plain threads with large stacks on which guests run, and the one bounded queue in front of them.
//!
//! The queue is fair between tenants by cost ([`state`]). Whoever is served may have to give way to whoever has had less ([`places`]): there are more
//! threads than lanes, and those that have given way wait at a [`gate`] while others run. A thread that has stepped back cannot come
//! forward again ([`standing`]); it ends with what it runs, and the keeper starts another in its stead.

mod gate;
mod places;
mod standing;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::places::Place;
use self::standing::Standing;
use self::state::{State, Thread, Waiting};
use crate::admission::{Bounds, Decision, decide};
use crate::engine::{Cancel, STACK_BYTES};
use crate::scheduling;

pub(crate) use self::places::background;

/// How often a lane that has just worked lets others run before it goes to sleep: a few microseconds on an idle machine.
const YIELDS: u32 = 16;

/// How often the keeper looks whether somebody has to give way, while calls wait.
const LOOK: Duration = Duration::from_millis(5);

/// How often tenants are charged for what runs in the background.
const CHARGE: Duration = Duration::from_millis(50);

/// Work for a lane. It is told how long it waited.
pub(crate) type Job = Box<dyn FnOnce(Duration) + Send>;

/// Makes guests that run look at once whether they have to wait at the gate, instead of at the next tick.
pub(crate) type Interrupt = Box<dyn Fn() + Send + Sync>;

/// What the queue has to know of a job.
pub(crate) struct Ticket {
    /// Whose it is.
    pub(crate) tenant: Arc<str>,
    /// How long it will likely take, in microseconds.
    pub(crate) cost_us: u64,
    /// What it holds in memory while it waits.
    pub(crate) bytes: u64,
    /// Cancels it, waiting or running.
    pub(crate) cancel: Cancel,
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// See [`Decision::OverShare`].
    OverShare(u64),
    /// See [`Decision::Full`].
    Full(u64),
    /// The lanes are closing.
    Closed,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when there is work, or none will come any more.
    work: Condvar,
    /// Signalled when there is something for the keeper.
    chores: Condvar,
    /// Signalled when a lane ends its work while the lanes are closing.
    done: Condvar,
    bounds: Bounds,
    /// By how much a lane stands back behind the threads that answer.
    nice: i32,
}

/// The lanes. Dropping them ends the threads after their current call.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Lanes {
    /// Starts the threads, which stand back behind others by so much, as `nice` counts.
    pub(crate) fn start(bounds: Bounds, nice: i32, interrupt: Interrupt) -> std::io::Result<Self> {
        // Threads inherit how their maker stands: those that every call shares are made here, neither by a thread that answers nor by a
        // call in the background.
        let shared = std::thread::spawn(|| {
            scheduling::works(0);
            maquette_tensor::start_threads();
        });
        if shared.join().is_err() {
            return Err(std::io::Error::other(
                "the threads that kernels share could not be started",
            ));
        }
        let count = bounds.lanes + background(bounds.lanes);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(bounds.lanes, count, interrupt)),
            work: Condvar::new(),
            chores: Condvar::new(),
            done: Condvar::new(),
            bounds,
            nice,
        });
        let lanes = Self {
            shared: Arc::clone(&shared),
            keeper: Mutex::default(),
        };
        for number in 0..count {
            shared.lock().threads[number].starts = true;
            shared.spawn(number)?;
        }
        let keeper = std::thread::Builder::new().name("lane-keeper".to_owned());
        let keeper = keeper.spawn(move || shared.keep())?;
        *lanes.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        Ok(lanes)
    }

    /// Takes a job, or refuses it at once.
    pub(crate) fn submit(&self, ticket: Ticket, job: Job) -> Result<(), Refusal> {
        let mut state = self.shared.lock();
        self.admit(&mut state, &ticket.tenant, ticket.bytes)?;
        self.shared.enqueue(state, ticket, job);
        Ok(())
    }

    /// Whether a job of a tenant's would be refused now: what is to be refused is not worked on first.
    pub(crate) fn refuses(&self, tenant: &Arc<str>) -> Option<Refusal> {
        self.admit(&mut self.shared.lock(), tenant, 0).err()
    }

    fn admit(&self, state: &mut State, tenant: &Arc<str>, bytes: u64) -> Result<(), Refusal> {
        if state.closed {
            return Err(Refusal::Closed);
        }
        let bounds = &self.shared.bounds;
        let mut decision = decide(bounds, &state.load(tenant), bytes);
        if decision != Decision::Admit && state.forget_cancelled() {
            decision = decide(bounds, &state.load(tenant), bytes);
        }
        match decision {
            Decision::Admit => Ok(()),
            Decision::OverShare { retry_after } => Err(Refusal::OverShare(retry_after)),
            Decision::Full { retry_after } => Err(Refusal::Full(retry_after)),
        }
    }

    /// Takes a job that was let in before, perhaps by an earlier process.
    pub(crate) fn resubmit(&self, ticket: Ticket, job: Job) -> Result<(), Refusal> {
        let state = self.shared.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        self.shared.enqueue(state, ticket, job);
        Ok(())
    }

    /// How many calls will be served before the one that `cancel` cancels, and in how many microseconds it will likely start;
    /// nothing if it does not wait.
    pub(crate) fn forecast(&self, cancel: &Cancel) -> Option<(usize, u64)> {
        let state = self.shared.lock();
        let (before, us) = state.before(cancel)?;
        let lanes = self.shared.bounds.lanes.max(1) as u64;
        Some((before, us.saturating_add(state.running_us) / lanes))
    }

    /// Calls that wait and calls that run.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.queued, state.running.all())
    }

    /// Takes no more, lets what is queued and running finish within `limit`, then cancels the rest. Blocks.
    pub(crate) fn close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.work.notify_all();
        self.shared.chores.notify_one();
        while state.queued + state.running.all() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(
                    queued = state.queued,
                    running = state.running.all(),
                    "cancelling what did not finish in time"
                );
                state.cancel_all();
                break;
            }
            let waited = self.shared.done.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Neither it nor a lane's jobs panic.
            let _ = keeper.join();
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl Shared {
    /// The state is whole whenever the lock is free; nothing panics under it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread; it is not waited for.
    fn spawn(self: &Arc<Self>, number: usize) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name(format!("lane-{number}"))
            .stack_size(STACK_BYTES);
        thread.spawn(move || shared.serve(number)).map(drop)
    }

    /// Puts a job that was let in into the queue, and sees to it that it does not wait for longer calls of others.
    fn enqueue(&self, mut state: MutexGuard<'_, State>, ticket: Ticket, job: Job) {
        state.push(Waiting {
            ticket,
            since: Instant::now(),
            job,
        });
        state.make_room(Instant::now());
        let starts = state.next().is_some();
        let wake = starts && state.asleep > 0;
        drop(state);
        if wake {
            self.work.notify_one();
        } else if !starts {
            self.chores.notify_one();
        }
    }

    /// What a thread does until the lanes close or it has stepped back.
    fn serve(&self, number: usize) {
        let gate = Arc::clone(&self.lock().gate);
        let standing = Standing::own(number, self.nice, &gate);
        let mut state = self.lock();
        state.threads[number].standing = Some(standing.clone());
        state.threads[number].starts = false;
        let mut patience = 0;
        loop {
            let next = state.next();
            let next = next.and_then(|(tenant, place)| Some((state.begin(number, &tenant, place)?, place)));
            if let Some((waiting, place)) = next {
                let more = state.asleep > 0 && state.next().is_some();
                drop(state);
                if more {
                    self.work.notify_one();
                }
                if place == Place::Background {
                    standing.step_back();
                }
                if catch_unwind(AssertUnwindSafe(|| (waiting.job)(waiting.since.elapsed()))).is_err() {
                    tracing::error!("a job panicked on its lane");
                }
                if standing.is_back() {
                    // Not under the lock: others would wait for a thread that has little of the processors.
                    standing.end();
                    self.chores.notify_one();
                    return;
                }
                state = self.lock();
                state.finish(number);
                if state.closed {
                    self.done.notify_all();
                    self.work.notify_all();
                }
                patience = YIELDS;
            } else if state.closed && state.queued == 0 {
                standing.end();
                drop(state);
                self.chores.notify_one();
                return;
            } else if patience > 0 {
                // More work often follows at once; sleeping and being woken would cost more than the call itself.
                patience -= 1;
                drop(state);
                std::thread::yield_now();
                state = self.lock();
            } else {
                state.asleep += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.asleep -= 1;
            }
        }
    }

    /// What the keeper does: replaces threads that have ended, charges for what runs in the background, and looks now and then whether
    /// a call has become so long that another need not wait for it.
    fn keep(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            for number in 0..state.threads.len() {
                if state.threads[number].standing.as_ref().is_some_and(Standing::has_ended) {
                    state.finish(number);
                    state.threads[number] = Thread::default();
                    if state.closed {
                        self.done.notify_all();
                        self.work.notify_all();
                    }
                }
                if state.threads[number].is_missing() && (!state.closed || state.queued > 0) {
                    match self.spawn(number) {
                        Ok(()) => state.threads[number].starts = true,
                        Err(error) => tracing::error!("a lane cannot be started again: {error}"),
                    }
                }
            }
            if state.closed && state.queued == 0 && state.threads.iter().all(Thread::is_missing) {
                return;
            }
            state.charge_background();
            state.make_room(Instant::now());
            let starts = state.next().is_some();
            if starts && state.asleep > 0 {
                self.work.notify_one();
            }
            // Whoever steps back does not wait for the lock to say that it has ended, so that a word of it may be missed.
            let wait = if state.queued > 0 && !starts { LOOK } else { CHARGE };
            state = if state.running.background > 0 || wait == LOOK || state.closed || state.lacks_threads() {
                let waited = self.chores.wait_timeout(state, wait);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.chores.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

#[cfg(test)]
mod tests;
