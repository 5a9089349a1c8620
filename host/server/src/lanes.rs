//! The lanes: plain threads with large stacks on which guests run, and the one bounded queue in front of them.
//!
//! The queue is fair between tenants by cost ([`state`]). Whoever is served may have to give way to whoever has had less ([`places`]): there
//! are more threads than lanes, and those that have given way wait at a [`gate`] while others run.

mod gate;
mod places;
mod standing;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::standing::Standing;
use self::state::{State, Waiting};
use crate::admission::{Bounds, Decision, decide};
use crate::engine::{Cancel, STACK_BYTES};
use crate::scheduling;

pub(crate) use self::places::background;

/// How often a lane that has just worked lets others run before it goes to sleep: a few microseconds on an idle machine.
const YIELDS: u32 = 16;

/// How often the keeper looks whether somebody has to give way, while calls wait.
const LOOK: Duration = Duration::from_millis(5);

/// How often tenants are charged for what runs beside others.
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
    /// Signalled when a call ends while the lanes are closing.
    done: Condvar,
    bounds: Bounds,
    /// By how much a lane stands back behind the threads that answer.
    nice: i32,
}

/// The lanes. Dropping them ends the threads after their current call.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
        // Those in the background, those that run, and those that wait for them.
        let count = background(bounds.lanes) + 2 * bounds.lanes;
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
            threads: Mutex::default(),
        };
        let start = |name: String, work: Box<dyn FnOnce(&Shared) + Send>| {
            let (shared, thread) = (Arc::clone(&shared), std::thread::Builder::new().name(name));
            let thread = thread.stack_size(STACK_BYTES).spawn(move || work(&shared))?;
            lanes.threads().push(thread);
            Ok::<_, std::io::Error>(())
        };
        for number in 0..count {
            start(format!("lane-{number}"), Box::new(move |shared| shared.serve(number)))?;
        }
        start("lane-keeper".to_owned(), Box::new(Shared::keep))?;
        Ok(lanes)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
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
        for thread in self.threads().drain(..) {
            // None of them panics.
            let _ = thread.join();
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

    /// Puts a job that was let in into the queue, and sees to it that it does not wait for longer calls of others.
    fn enqueue(&self, mut state: MutexGuard<'_, State>, ticket: Ticket, job: Job) {
        state.push(Waiting {
            ticket,
            since: Instant::now(),
            job,
        });
        let now = Instant::now();
        state.make_room(now);
        let next = state.next(now);
        let starts = next.is_some();
        let wake = starts && state.asleep > 0;
        if let Some((tenant, place)) = next
            && state.running.all() > 0
        {
            state.expect(&tenant, place, now);
        }
        drop(state);
        if wake {
            self.work.notify_one();
        } else if !starts {
            self.chores.notify_one();
        }
    }

    /// What a thread does until the lanes close.
    fn serve(&self, number: usize) {
        let gate = Arc::clone(&self.lock().gate);
        let standing = Standing::own(number, self.nice, &gate);
        let mut state = self.lock();
        state.threads[number].standing = Some(standing.clone());
        let mut patience = 0;
        loop {
            let now = Instant::now();
            let next = state.next(now);
            let next = next.and_then(|(tenant, place)| state.begin(number, &tenant, place, now));
            if let Some(waiting) = next {
                let more = state.asleep > 0 && state.next(now).is_some();
                let held = state.held > 0;
                drop(state);
                if more {
                    self.work.notify_one();
                }
                if held {
                    self.chores.notify_one();
                }
                // Whoever goes behind others waits here, on its own time no more than in the queue.
                let cancel = waiting.ticket.cancel;
                maquette_tensor::gate::pass(&|| cancel.is_cancelled());
                if catch_unwind(AssertUnwindSafe(|| (waiting.job)(waiting.since.elapsed()))).is_err() {
                    tracing::error!("a job panicked on its lane");
                }
                standing.leave();
                state = self.lock();
                state.finish(number, Instant::now());
                if state.closed {
                    self.done.notify_all();
                    self.work.notify_all();
                    self.chores.notify_one();
                }
                patience = YIELDS;
            } else if state.closed && state.queued == 0 {
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

    /// What the keeper does: charges for what runs beside others, and looks now and then whether a call has become so long, or its tenant
    /// has had so much, that another need not wait for it.
    fn keep(&self) {
        let mut state = self.lock();
        while !state.closed || state.queued + state.running.all() > 0 {
            let now = Instant::now();
            state.make_room(now);
            state.settle(now);
            let starts = state.next(now).is_some();
            if starts && state.asleep > 0 {
                self.work.notify_one();
            }
            let wait = if state.held > 0 || (state.queued > 0 && !starts) {
                Some(LOOK)
            } else {
                (state.running.background > 0).then_some(CHARGE)
            };
            state = match wait {
                Some(wait) => {
                    let waited = self.chores.wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.chores.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests;
