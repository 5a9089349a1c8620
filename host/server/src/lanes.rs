//! The lanes: plain threads with large stacks on which guests run, and the one bounded queue in front of them.
//!
//! The queue is fair between tenants by cost: each has a virtual time that advances with what it is served, and the one that is
//! furthest behind is served next. Whoever is served may have to give way to whoever has had less ([`places`]): there are more
//! threads than lanes, and those that have given way wait at a [`gate`] while others run. A thread that has stepped back cannot come
//! forward again ([`standing`]); it ends with what it runs, and the keeper starts another in its stead.

mod gate;
mod places;
mod standing;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::gate::Gate;
use self::places::{Counts, Place, Runner, is_tight, place, spare};
use self::standing::Standing;
use crate::admission::{Bounds, Decision, Load, decide};
use crate::engine::{Cancel, STACK_BYTES};
use crate::scheduling;

pub(crate) use self::places::background;

/// Tenants remembered beyond those that wait; a server has few.
const MAX_IDLE_TENANTS: usize = 1024;

/// How often a lane that has just worked lets others run before it goes to sleep: a few microseconds on an idle machine.
const YIELDS: u32 = 16;

/// How often the keeper looks whether somebody has to give way, while calls wait.
const LOOK: Duration = Duration::from_millis(5);

/// What a microsecond in the background counts for: a tenant whose calls are short may have so many times what each of those has whom
/// it has overtaken, before it stands with them. So floods of long calls take little from it, and it does not starve them.
const WEIGHT: u64 = 8;

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

struct Waiting {
    ticket: Ticket,
    since: Instant,
    job: Job,
}

/// A call that runs.
struct Running {
    tenant: Arc<str>,
    /// What its tenant was charged for it so far, in microseconds.
    cost_us: u64,
    cancel: Cancel,
    since: Instant,
    place: Place,
    /// Processor time of its thread when its tenant was last charged for its time in the background.
    charged: Duration,
}

impl Running {
    /// What it has taken beyond what its tenant was charged, in microseconds.
    fn overrun(&self, now: Instant) -> u64 {
        let us = u64::try_from((now - self.since).as_micros()).unwrap_or(u64::MAX);
        us.saturating_sub(self.cost_us)
    }
}

#[derive(Default)]
struct Tenant {
    /// What it has been served so far, in microseconds, never behind the common time.
    time: u64,
    /// What it had been served when its last call began or was moved into the background.
    begun: u64,
    queue: VecDeque<Waiting>,
    queued_us: u64,
    running: Counts,
}

impl Tenant {
    fn is_present(&self) -> bool {
        !self.queue.is_empty() || self.running.all() > 0
    }

    /// Where whoever comes now starts beside it: not behind what has been set down for a call that has yet to take it.
    fn start(&self) -> u64 {
        if self.running.all() > 0 { self.begun } else { self.time }
    }
}

/// A thread's place in the state.
#[derive(Default)]
struct Thread {
    /// Set from when it is started to when it says how it stands.
    starts: bool,
    standing: Option<Standing>,
    call: Option<Running>,
}

impl Thread {
    fn is_missing(&self) -> bool {
        !self.starts && self.standing.is_none()
    }
}

struct State {
    tenants: HashMap<Arc<str>, Tenant>,
    /// Tenants with something in their queue.
    active: usize,
    /// The virtual time of whoever was served last, for when nobody waits or runs.
    time: u64,
    queued: usize,
    queued_us: u64,
    queued_bytes: u64,
    lanes: usize,
    threads: Vec<Thread>,
    running: Counts,
    gate: Arc<Gate>,
    interrupt: Interrupt,
    /// Predicted time of all running calls, in microseconds.
    running_us: u64,
    /// Threads asleep, to be woken when work comes.
    asleep: usize,
    closed: bool,
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
        let state = State {
            tenants: HashMap::new(),
            active: 0,
            time: 0,
            queued: 0,
            queued_us: 0,
            queued_bytes: 0,
            lanes: bounds.lanes,
            threads: std::iter::repeat_with(Thread::default).take(count).collect(),
            running: Counts::default(),
            gate: Arc::default(),
            interrupt,
            running_us: 0,
            asleep: 0,
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
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
            running: state.running.foreground,
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

impl State {
    fn push(&mut self, waiting: Waiting) {
        self.queued += 1;
        self.queued_us = self.queued_us.saturating_add(waiting.ticket.cost_us);
        self.queued_bytes = self.queued_bytes.saturating_add(waiting.ticket.bytes);
        if self.tenants.len() > MAX_IDLE_TENANTS + self.active {
            let time = self.time;
            self.tenants
                .retain(|_, tenant| tenant.is_present() || tenant.time > time);
        }
        let present = self.tenants.values().filter(|tenant| tenant.is_present());
        let common = present.map(Tenant::start).min().unwrap_or(self.time);
        let tenant = self.tenants.entry(Arc::clone(&waiting.ticket.tenant)).or_default();
        if !tenant.is_present() {
            // Whoever was idle starts with the others; it has saved nothing up.
            tenant.time = tenant.time.max(common);
        }
        if tenant.queue.is_empty() {
            self.active += 1;
        }
        tenant.queued_us = tenant.queued_us.saturating_add(waiting.ticket.cost_us);
        tenant.queue.push_back(waiting);
    }

    /// Whose call starts next, and where; nothing if all that wait have to wait on.
    fn next(&self) -> Option<(Arc<str>, Place)> {
        if self.queued == 0 {
            return None;
        }
        let overtaken = self.tenants.values().filter(|tenant| tenant.running.background > 0);
        let overtaken = overtaken.map(|tenant| tenant.time).min().unwrap_or(u64::MAX);
        let starts = self.tenants.iter().filter(|(_, tenant)| !tenant.queue.is_empty());
        let starts = starts.filter_map(|(name, tenant)| {
            let behind = tenant.time > overtaken || self.would_give_way(tenant);
            let place = place(self.lanes, self.running, tenant.running, behind)?;
            Some((tenant.time, name, place))
        });
        let (_, name, place) = starts.min_by_key(|(time, ..)| *time)?;
        Some((Arc::clone(name), place))
    }

    /// Gives the first of a tenant's calls to a thread.
    fn begin(&mut self, number: usize, name: &str, place: Place) -> Option<Waiting> {
        let tenant = self.tenants.get_mut(name)?;
        let waiting = tenant.queue.pop_front()?;
        let cost_us = waiting.ticket.cost_us;
        self.time = self.time.max(tenant.time);
        tenant.begun = tenant.time;
        tenant.time = tenant.time.saturating_add(cost_us.max(1));
        tenant.queued_us = tenant.queued_us.saturating_sub(cost_us);
        if tenant.queue.is_empty() {
            self.active -= 1;
        }
        *tenant.running.of(place) += 1;
        *self.running.of(place) += 1;
        self.running_us = self.running_us.saturating_add(cost_us);
        self.queued -= 1;
        self.queued_us = self.queued_us.saturating_sub(cost_us);
        self.queued_bytes = self.queued_bytes.saturating_sub(waiting.ticket.bytes);
        let standing = self.threads[number]
            .standing
            .as_ref()
            .filter(|_| place == Place::Background);
        let started = standing.map(Standing::processor_time).unwrap_or_default();
        self.threads[number].call = Some(Running {
            tenant: Arc::clone(&waiting.ticket.tenant),
            cost_us,
            cancel: waiting.ticket.cancel.clone(),
            since: Instant::now(),
            place,
            charged: started,
        });
        self.tell_standings();
        if place == Place::Foreground && self.running.background > 0 {
            (self.interrupt)();
        }
        Some(waiting)
    }

    /// A thread's call has ended.
    fn finish(&mut self, number: usize) {
        let Some(call) = self.threads[number].call.take() else {
            return;
        };
        *self.running.of(call.place) -= 1;
        self.running_us = self.running_us.saturating_sub(call.cost_us);
        if let Some(tenant) = self.tenants.get_mut(&call.tenant) {
            *tenant.running.of(call.place) -= 1;
            // In the background time passes without being served.
            if call.place == Place::Foreground {
                tenant.time = tenant.time.saturating_add(call.overrun(Instant::now()));
            }
        }
        self.tell_standings();
    }

    fn lacks_threads(&self) -> bool {
        self.threads.iter().any(Thread::is_missing)
    }

    /// Whether a tenant's next call, if it ran, would give way to one that does.
    fn would_give_way(&self, tenant: &Tenant) -> bool {
        let Some(first) = tenant.queue.front() else {
            return false;
        };
        let cost_us = first.ticket.cost_us;
        let runner = Runner {
            time: tenant.time.saturating_add(cost_us),
            takes_us: cost_us,
        };
        is_tight(self.lanes, self.running.foreground + 1)
            && self.foreground().any(|(_, call)| {
                let other = self.tenants.get(&call.tenant).map_or(0, Tenant::start);
                runner.gives_way(other, call.cost_us)
            })
    }

    /// The threads that run calls in the foreground.
    fn foreground(&self) -> impl Iterator<Item = (usize, &Running)> {
        let calls = self.threads.iter().enumerate();
        let calls = calls.filter_map(|(number, thread)| Some((number, thread.call.as_ref()?)));
        calls.filter(|(_, call)| call.place == Place::Foreground)
    }

    /// Moves calls into the background that give way to the one that starts next. Whether there were any.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.queued == 0 || !is_tight(self.lanes, self.running.foreground + 1) {
            return false;
        }
        // Who would start if there were a lane.
        let mut freed = self.running;
        freed.foreground = freed.foreground.saturating_sub(1);
        let waits = self.tenants.values().filter_map(|tenant| {
            let cost_us = tenant.queue.front()?.ticket.cost_us;
            place(self.lanes, freed, tenant.running, false)?;
            Some((tenant.time, cost_us))
        });
        let Some((time, cost_us)) = waits.min_by_key(|(time, _)| *time) else {
            return false;
        };
        let longer = self.foreground().filter_map(|(number, call)| {
            let overrun = call.overrun(now);
            let runner = Runner {
                time: self.tenants.get(&call.tenant)?.time.saturating_add(overrun),
                takes_us: call.cost_us.saturating_add(overrun),
            };
            runner.gives_way(time, cost_us).then_some((runner.takes_us, number))
        });
        let mut longer: Vec<_> = longer.collect();
        longer.sort_unstable_by_key(|(takes_us, _)| std::cmp::Reverse(*takes_us));
        longer.truncate(background(self.lanes).saturating_sub(self.running.background));
        for (_, number) in &longer {
            self.step_back(*number, now);
        }
        !longer.is_empty()
    }

    /// Moves a thread's call into the background.
    fn step_back(&mut self, number: usize, now: Instant) {
        let thread = &mut self.threads[number];
        let (Some(call), Some(standing)) = (&mut thread.call, &thread.standing) else {
            return;
        };
        let overrun = call.overrun(now);
        call.charged = standing.processor_time();
        call.place = Place::Background;
        call.cost_us = call.cost_us.saturating_add(overrun);
        standing.step_back();
        self.running_us = self.running_us.saturating_add(overrun);
        let moved = |counts: &mut Counts| {
            counts.foreground -= 1;
            counts.background += 1;
        };
        moved(&mut self.running);
        if let Some(tenant) = self.tenants.get_mut(&call.tenant) {
            tenant.time = tenant.time.saturating_add(overrun);
            tenant.begun = tenant.time;
            moved(&mut tenant.running);
        }
        self.tell_standings();
    }

    /// Charges tenants for the processor time that their calls in the background have had.
    fn charge_background(&mut self) {
        for thread in &mut self.threads {
            let (Some(call), Some(standing)) = (&mut thread.call, &thread.standing) else {
                continue;
            };
            if call.place == Place::Background {
                let now = standing.processor_time();
                let us = u64::try_from(now.saturating_sub(call.charged).as_micros()).unwrap_or(0);
                call.charged = now;
                if let Some(tenant) = self.tenants.get_mut(&call.tenant) {
                    tenant.time = tenant.time.saturating_add(us.saturating_mul(WEIGHT));
                    tenant.begun = tenant.time;
                }
            }
        }
    }

    /// Calls in the background leave the team of kernel threads, and all but the lanes that are free, to those in the foreground, if
    /// there are any.
    fn tell_standings(&self) {
        for thread in &self.threads {
            if let (Some(standing), Some(call)) = (&thread.standing, &thread.call) {
                standing.alone(call.place == Place::Background && self.running.foreground > 0);
            }
        }
        self.gate.open(spare(self.lanes, self.running.foreground));
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
        let running = self
            .threads
            .iter()
            .filter_map(|thread| Some(&thread.call.as_ref()?.cancel));
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
