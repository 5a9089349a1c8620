//! The lanes: a fixed set of plain threads with large stacks on which guests run, and the one bounded queue in front of them.
//!
//! The queue is fair between tenants by predicted cost: each has a virtual time that advances with what it is served, and the
//! one that is furthest behind is served next.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::admission::{Bounds, Decision, Load, decide};
use crate::engine::{Cancel, STACK_BYTES};

/// Tenants remembered beyond those that wait; a server has few.
const MAX_IDLE_TENANTS: usize = 1024;

/// How often a lane that has just worked lets others run before it goes to sleep: a few microseconds on an idle machine.
const YIELDS: u32 = 16;

/// Work for a lane. It is told how long it waited.
pub(crate) type Job = Box<dyn FnOnce(Duration) + Send>;

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

struct Waiting {
    ticket: Ticket,
    since: Instant,
    job: Job,
}

#[derive(Default)]
struct Tenant {
    /// What it has been served so far, in microseconds, never behind the common time.
    time: u64,
    queue: VecDeque<Waiting>,
    queued_us: u64,
}

#[derive(Default)]
struct State {
    tenants: HashMap<Arc<str>, Tenant>,
    /// Tenants with something in their queue.
    active: usize,
    /// The virtual time of whoever was served last.
    time: u64,
    queued: usize,
    queued_us: u64,
    queued_bytes: u64,
    /// What each lane runs: its predicted cost and how to cancel it.
    running: Vec<Option<(u64, Cancel)>>,
    busy: usize,
    running_us: u64,
    /// Lanes asleep, to be woken when work comes.
    asleep: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when there is work, or none will come any more.
    work: Condvar,
    /// Signalled when a lane ends its work while the lanes are closing.
    done: Condvar,
    bounds: Bounds,
}

/// The lanes. Dropping them ends the threads after their current call.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Lanes {
    /// Starts the threads, which stand back behind others by so much, as `nice` counts.
    pub(crate) fn start(bounds: Bounds, nice: i32) -> std::io::Result<Self> {
        let mut state = State::default();
        state.running.resize_with(bounds.lanes, || None);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            bounds,
        });
        let lanes = Self {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
        };
        for lane in 0..bounds.lanes {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("lane-{lane}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    stand_back(nice);
                    shared.serve(lane);
                })?;
            lanes
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(thread);
        }
        Ok(lanes)
    }

    /// Takes a job, or refuses it at once.
    pub(crate) fn submit(&self, ticket: Ticket, job: Job) -> Result<(), Refusal> {
        let mut state = self.shared.lock();
        self.admit(&mut state, &ticket.tenant, ticket.bytes)?;
        state.push(Waiting {
            ticket,
            since: Instant::now(),
            job,
        });
        let wake = state.asleep > 0;
        drop(state);
        if wake {
            self.shared.work.notify_one();
        }
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
        let mut decision = self.decide(state, tenant, bytes);
        if decision != Decision::Admit && state.forget_cancelled() {
            decision = self.decide(state, tenant, bytes);
        }
        match decision {
            Decision::Admit => Ok(()),
            Decision::OverShare { retry_after } => Err(Refusal::OverShare(retry_after)),
            Decision::Full { retry_after } => Err(Refusal::Full(retry_after)),
        }
    }

    /// Takes a job that was let in before, perhaps by an earlier process.
    pub(crate) fn resubmit(&self, ticket: Ticket, job: Job) -> Result<(), Refusal> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        state.push(Waiting {
            ticket,
            since: Instant::now(),
            job,
        });
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// How many calls will be served before the one that `cancel` cancels, and in how many microseconds it will likely start;
    /// nothing if it does not wait.
    pub(crate) fn forecast(&self, cancel: &Cancel) -> Option<(usize, u64)> {
        let state = self.shared.lock();
        let lines = state.tenants.values().filter(|tenant| !tenant.queue.is_empty());
        let lines = lines.map(|tenant| Line {
            time: tenant.time,
            calls: tenant
                .queue
                .iter()
                .map(|waiting| (waiting.ticket.cost_us, waiting.ticket.cancel.is(cancel)))
                .collect(),
        });
        let (before, us) = served_before(lines.collect())?;
        let lanes = self.shared.bounds.lanes.max(1) as u64;
        Some((before, us.saturating_add(state.running_us) / lanes))
    }

    fn decide(&self, state: &State, tenant: &Arc<str>, bytes: u64) -> Decision {
        let tenant = state.tenants.get(tenant);
        let waits = tenant.is_some_and(|t| !t.queue.is_empty());
        let load = Load {
            running: state.busy,
            running_us: state.running_us,
            queued: state.queued,
            queued_us: state.queued_us,
            queued_bytes: state.queued_bytes,
            tenant_queued: tenant.map_or(0, |t| t.queue.len()),
            tenant_queued_us: tenant.map_or(0, |t| t.queued_us),
            tenants: state.active + usize::from(!waits),
        };
        decide(&self.shared.bounds, &load, bytes)
    }

    /// Calls that wait and calls that run.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.queued, state.busy)
    }

    /// Takes no more, lets what is queued and running finish within `limit`, then cancels the rest. Blocks.
    pub(crate) fn close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.work.notify_all();
        while state.queued + state.busy > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(
                    queued = state.queued,
                    running = state.busy,
                    "cancelling what did not finish in time"
                );
                state.cancel_all();
                break;
            }
            let waited = self.shared.done.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A lane's jobs cannot panic out of it.
            let _ = thread.join();
        }
    }
}

/// Lets threads that have little to do, such as those that answer requests, run before this one.
fn stand_back(nice: i32) {
    use rustix::process::{getpriority_process, setpriority_process};
    // Without a process, Linux takes the calling thread.
    let lowered = getpriority_process(None).and_then(|now| setpriority_process(None, (now + nice).clamp(-20, 19)));
    if let Err(e) = lowered {
        tracing::warn!("a lane's priority could not be lowered: {e}");
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

    fn serve(&self, lane: usize) {
        let mut state = self.lock();
        let mut patience = 0;
        loop {
            if let Some(Waiting { ticket, since, job }) = state.pop() {
                state.busy += 1;
                state.running_us = state.running_us.saturating_add(ticket.cost_us);
                state.running[lane] = Some((ticket.cost_us, ticket.cancel));
                drop(state);
                if catch_unwind(AssertUnwindSafe(|| job(since.elapsed()))).is_err() {
                    tracing::error!("a job panicked on its lane");
                }
                state = self.lock();
                state.busy -= 1;
                if let Some((cost_us, _)) = state.running[lane].take() {
                    state.running_us = state.running_us.saturating_sub(cost_us);
                }
                if state.closed {
                    self.done.notify_all();
                }
                patience = YIELDS;
            } else if state.closed {
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
}

impl State {
    fn push(&mut self, waiting: Waiting) {
        self.queued += 1;
        self.queued_us = self.queued_us.saturating_add(waiting.ticket.cost_us);
        self.queued_bytes = self.queued_bytes.saturating_add(waiting.ticket.bytes);
        if self.tenants.len() > MAX_IDLE_TENANTS + self.active {
            let time = self.time;
            self.tenants
                .retain(|_, tenant| !tenant.queue.is_empty() || tenant.time > time);
        }
        let tenant = self.tenants.entry(Arc::clone(&waiting.ticket.tenant)).or_default();
        if tenant.queue.is_empty() {
            self.active += 1;
            // Whoever was idle starts with the others; it has saved nothing up.
            tenant.time = tenant.time.max(self.time);
        }
        tenant.queued_us = tenant.queued_us.saturating_add(waiting.ticket.cost_us);
        tenant.queue.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        if self.queued == 0 {
            return None;
        }
        let tenant = self
            .tenants
            .values_mut()
            .filter(|t| !t.queue.is_empty())
            .min_by_key(|t| t.time)?;
        let waiting = tenant.queue.pop_front()?;
        self.time = tenant.time;
        tenant.time = tenant.time.saturating_add(waiting.ticket.cost_us.max(1));
        tenant.queued_us = tenant.queued_us.saturating_sub(waiting.ticket.cost_us);
        if tenant.queue.is_empty() {
            self.active -= 1;
        }
        self.queued -= 1;
        self.queued_us = self.queued_us.saturating_sub(waiting.ticket.cost_us);
        self.queued_bytes = self.queued_bytes.saturating_sub(waiting.ticket.bytes);
        Some(waiting)
    }

    /// Makes room by dropping the jobs that nobody waits for any more. Whether there were any.
    fn forget_cancelled(&mut self) -> bool {
        let before = self.queued;
        for tenant in self.tenants.values_mut().filter(|t| !t.queue.is_empty()) {
            tenant.queue.retain(|waiting| {
                let keep = !waiting.ticket.cancel.is_cancelled();
                if !keep {
                    self.queued -= 1;
                    self.queued_us = self.queued_us.saturating_sub(waiting.ticket.cost_us);
                    self.queued_bytes = self.queued_bytes.saturating_sub(waiting.ticket.bytes);
                    tenant.queued_us = tenant.queued_us.saturating_sub(waiting.ticket.cost_us);
                }
                keep
            });
            if tenant.queue.is_empty() {
                self.active -= 1;
            }
        }
        self.queued < before
    }

    /// Cancels what runs and what waits. What waits is still handed to a lane, which finds it cancelled.
    fn cancel_all(&self) {
        let waiting = self
            .tenants
            .values()
            .flat_map(|t| t.queue.iter())
            .map(|w| &w.ticket.cancel);
        let running = self.running.iter().flatten().map(|(_, cancel)| cancel);
        waiting.chain(running).for_each(Cancel::cancel);
    }
}

/// A tenant's waiting calls: what each will cost, and whether it is the one that is looked for.
struct Line {
    time: u64,
    calls: VecDeque<(u64, bool)>,
}

/// How many calls are served before the one that is looked for, and what they cost together: the queue played through.
fn served_before(mut lines: Vec<Line>) -> Option<(usize, u64)> {
    let (mut count, mut us) = (0, 0_u64);
    loop {
        let line = lines
            .iter_mut()
            .filter(|line| !line.calls.is_empty())
            .min_by_key(|line| line.time)?;
        let (cost, found) = line.calls.pop_front()?;
        if found {
            return Some((count, us));
        }
        line.time = line.time.saturating_add(cost.max(1));
        count += 1;
        us = us.saturating_add(cost);
    }
}

#[cfg(test)]
mod tests;
