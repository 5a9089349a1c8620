//! Who waits and who runs: the queue in front of the lanes, and the calls on their threads.
//!
//! The queue is fair between tenants by cost: each has a virtual time that advances with what it is served, and the one that is
//! furthest behind is served next.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::places::{Counts, Place, Runner, background, is_tight, place, spare};
use super::standing::Standing;
use super::{Interrupt, Job, Ticket};
use crate::admission::Load;
use crate::engine::Cancel;

/// Tenants remembered beyond those that wait; a server has few.
const MAX_IDLE_TENANTS: usize = 1024;

/// What a microsecond in the background counts for: a tenant whose calls are short may have so many times what each of those has whom
/// it has overtaken, before it stands with them. So floods of long calls take little from it, and it does not starve them.
const WEIGHT: u64 = 8;

/// A call that waits.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
    pub(super) job: Job,
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
pub(super) struct Thread {
    /// Set from when it is started to when it says how it stands.
    pub(super) starts: bool,
    pub(super) standing: Option<Standing>,
    call: Option<Running>,
}

impl Thread {
    pub(super) fn is_missing(&self) -> bool {
        !self.starts && self.standing.is_none()
    }
}

/// The queue and the threads. Nothing that has it waits for anything.
pub(super) struct State {
    tenants: HashMap<Arc<str>, Tenant>,
    /// Tenants with something in their queue.
    active: usize,
    /// The virtual time of whoever was served last, for when nobody waits or runs.
    time: u64,
    pub(super) queued: usize,
    queued_us: u64,
    queued_bytes: u64,
    lanes: usize,
    pub(super) threads: Vec<Thread>,
    pub(super) running: Counts,
    pub(super) gate: Arc<Gate>,
    interrupt: Interrupt,
    /// Predicted time of all running calls, in microseconds.
    pub(super) running_us: u64,
    /// Threads asleep, to be woken when work comes.
    pub(super) asleep: usize,
    pub(super) closed: bool,
}

impl State {
    /// So many lanes and threads, and nothing to do.
    pub(super) fn new(lanes: usize, threads: usize, interrupt: Interrupt) -> Self {
        Self {
            tenants: HashMap::new(),
            active: 0,
            time: 0,
            queued: 0,
            queued_us: 0,
            queued_bytes: 0,
            lanes,
            threads: std::iter::repeat_with(Thread::default).take(threads).collect(),
            running: Counts::default(),
            gate: Arc::default(),
            interrupt,
            running_us: 0,
            asleep: 0,
            closed: false,
        }
    }

    /// What a tenant's next call meets.
    pub(super) fn load(&self, tenant: &Arc<str>) -> Load {
        let tenant = self.tenants.get(tenant);
        let waits = tenant.is_some_and(|t| !t.queue.is_empty());
        Load {
            running: self.running.foreground,
            running_us: self.running_us,
            queued: self.queued,
            queued_us: self.queued_us,
            queued_bytes: self.queued_bytes,
            tenant_queued: tenant.map_or(0, |t| t.queue.len()),
            tenant_queued_us: tenant.map_or(0, |t| t.queued_us),
            tenants: self.active + usize::from(!waits),
        }
    }

    /// How many calls will be served before the one that `cancel` cancels, and what they take together, in microseconds; nothing if it
    /// does not wait.
    pub(super) fn before(&self, cancel: &Cancel) -> Option<(usize, u64)> {
        let lines = self.tenants.values().filter(|tenant| !tenant.queue.is_empty());
        let lines = lines.map(|tenant| Line {
            time: tenant.time,
            calls: tenant
                .queue
                .iter()
                .map(|waiting| (waiting.ticket.cost_us, waiting.ticket.cancel.is(cancel)))
                .collect(),
        });
        served_before(lines.collect())
    }

    pub(super) fn push(&mut self, waiting: Waiting) {
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
    pub(super) fn next(&self) -> Option<(Arc<str>, Place)> {
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
    pub(super) fn begin(&mut self, number: usize, name: &str, place: Place) -> Option<Waiting> {
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
    pub(super) fn finish(&mut self, number: usize) {
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

    pub(super) fn lacks_threads(&self) -> bool {
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
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
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
    pub(super) fn charge_background(&mut self) {
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

    /// Calls in the background leave the team of kernel threads, and what cannot be spared of the lanes, to those in the foreground, if there
    /// are any.
    fn tell_standings(&self) {
        for thread in &self.threads {
            if let (Some(standing), Some(call)) = (&thread.standing, &thread.call) {
                standing.alone(call.place == Place::Background && self.running.foreground > 0);
            }
        }
        self.gate.open(spare(self.lanes, self.running.foreground));
    }

    /// Makes room by dropping the jobs that nobody waits for any more. Whether there were any.
    pub(super) fn forget_cancelled(&mut self) -> bool {
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
    pub(super) fn cancel_all(&self) {
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
