//! Who waits and who runs: the queue in front of the lanes, and the calls on their threads.
//!
//! The queue is fair between tenants by cost: each has a virtual time that advances with what it is served, and the one that is
//! furthest behind is served next; when nobody waits or runs, all are equal again. Of those that run at once, short ones whose tenants are
//! far behind go before others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::places::{Counts, Place, Runner, background, goes_before, holds_others, is_short, is_tight, place, spare};
use super::standing::Standing;
use super::{Interrupt, Job, Ticket};
use crate::admission::Load;
use crate::engine::Cancel;

/// How far behind all others, in microseconds, a tenant that was idle may start: short calls of whoever asks for less than its share go
/// before theirs.
const CREDIT: u64 = 100_000;

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
    place: Place,
    /// What its thread had worked when it began, and when its tenant was last charged for it.
    started: Duration,
    charged: Duration,
}

impl Running {
    /// What it has taken beyond what its tenant was charged, in microseconds; its thread has worked so much.
    fn overrun(&self, worked: Duration) -> u64 {
        us(worked.saturating_sub(self.started)).saturating_sub(self.cost_us)
    }
}

#[derive(Default)]
struct Tenant {
    /// What it has been served so far, in microseconds, never behind the common time.
    time: u64,
    /// The same without what was set down for its last call and has not been taken yet.
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
    /// Set once it has started.
    pub(super) standing: Option<Standing>,
    call: Option<Running>,
}

impl Thread {
    /// Its call, and what it has worked.
    fn call(&self, now: Instant) -> Option<(&Running, Duration)> {
        Some((self.call.as_ref()?, self.standing.as_ref()?.worked(now)))
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
    /// Calls in the foreground that wait for others there.
    pub(super) held: usize,
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
            // Far from zero: whoever has credit starts below the common time.
            time: 100 * CREDIT,
            queued: 0,
            queued_us: 0,
            queued_bytes: 0,
            lanes,
            threads: std::iter::repeat_with(Thread::default).take(threads).collect(),
            running: Counts::default(),
            held: 0,
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
        let common = match present.map(Tenant::start).min() {
            Some(common) => common,
            None => {
                self.forgive();
                self.time
            }
        };
        let tenant = self.tenants.entry(Arc::clone(&waiting.ticket.tenant)).or_default();
        if !tenant.is_present() {
            // Whoever was idle has saved little up.
            tenant.time = tenant.time.max(common.saturating_sub(CREDIT));
        }
        if tenant.queue.is_empty() {
            self.active += 1;
        }
        tenant.queued_us = tenant.queued_us.saturating_add(waiting.ticket.cost_us);
        tenant.queue.push_back(waiting);
    }

    /// Makes all equal: what was taken while nobody else wanted it is owed to nobody.
    fn forgive(&mut self) {
        let equal = self.time.saturating_sub(CREDIT);
        for tenant in self.tenants.values_mut() {
            tenant.time = tenant.time.min(equal);
        }
    }

    /// Whose call starts next, and where; nothing if all that wait have to wait on.
    pub(super) fn next(&self, now: Instant) -> Option<(Arc<str>, Place)> {
        if self.queued == 0 {
            return None;
        }
        let tight = is_tight(self.lanes, self.running.foreground + 1);
        let first = self.first(now);
        let overtaken = self.tenants.values().filter(|tenant| tenant.running.background > 0);
        let overtaken = overtaken.map(|tenant| tenant.time).min().unwrap_or(u64::MAX);
        let starts = self.tenants.iter().filter(|(_, tenant)| !tenant.queue.is_empty());
        let starts = starts.filter_map(|(name, tenant)| {
            let behind = goes_before(overtaken, tenant.time) || self.would_give_way(tenant);
            // Those that would wait for it are not in its way, if that is not for long.
            let mut running = self.running;
            if tight && tenant.queue.front().is_some_and(|first| is_short(first.ticket.cost_us)) {
                running.foreground = self.beside(tenant.time);
            }
            let place = place(self.lanes, running, tenant.running, behind)?;
            let waits = tight && first.is_some_and(|first| goes_before(first, tenant.time));
            (place == Place::Background || !waits).then_some((tenant.time, name, place))
        });
        let (_, name, place) = starts.min_by_key(|(time, ..)| *time)?;
        Some((Arc::clone(name), place))
    }

    /// Gives the first of a tenant's calls to a thread.
    pub(super) fn begin(&mut self, number: usize, name: &str, place: Place, now: Instant) -> Option<Waiting> {
        let worked = self.threads[number].standing.as_ref()?.worked(now);
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
        self.threads[number].call = Some(Running {
            tenant: Arc::clone(&waiting.ticket.tenant),
            cost_us,
            cancel: waiting.ticket.cancel.clone(),
            place,
            started: worked,
            charged: worked,
        });
        self.settle(now);
        Some(waiting)
    }

    /// A thread's call has ended.
    pub(super) fn finish(&mut self, number: usize, now: Instant) {
        self.charge(now);
        let Some(call) = self.threads[number].call.take() else {
            return;
        };
        *self.running.of(call.place) -= 1;
        self.running_us = self.running_us.saturating_sub(call.cost_us);
        if let Some(tenant) = self.tenants.get_mut(&call.tenant) {
            *tenant.running.of(call.place) -= 1;
        }
        self.settle(now);
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

    /// How many calls in the foreground would go on beside a short one whose tenant has had `time`.
    fn beside(&self, time: u64) -> usize {
        let others = self.foreground().filter_map(|(_, call)| self.tenants.get(&call.tenant));
        others.filter(|other| !goes_before(time, other.start())).count()
    }

    /// What the tenant had had before its call that, of those in the foreground that may hold others up, goes first.
    fn first(&self, now: Instant) -> Option<u64> {
        let threads = self.threads.iter().filter_map(|thread| thread.call(now));
        let calls = threads.filter(|(call, worked)| {
            let takes_us = call.cost_us.saturating_add(call.overrun(*worked));
            call.place == Place::Foreground && holds_others(takes_us)
        });
        calls
            .filter_map(|(call, _)| Some(self.tenants.get(&call.tenant)?.start()))
            .min()
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
        freed.foreground = freed.foreground.min(self.lanes).saturating_sub(1);
        let waits = self.tenants.values().filter_map(|tenant| {
            let cost_us = tenant.queue.front()?.ticket.cost_us;
            place(self.lanes, freed, tenant.running, false)?;
            Some((tenant.time, cost_us))
        });
        let Some((time, cost_us)) = waits.min_by_key(|(time, _)| *time) else {
            return false;
        };
        let longer = self.foreground().filter_map(|(number, call)| {
            let overrun = call.overrun(self.threads[number].standing.as_ref()?.worked(now));
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
        self.charge(now);
        let Some(call) = &mut self.threads[number].call else {
            return;
        };
        call.place = Place::Background;
        let moved = |counts: &mut Counts| {
            counts.foreground -= 1;
            counts.background += 1;
        };
        moved(&mut self.running);
        if let Some(tenant) = self.tenants.get_mut(&call.tenant) {
            tenant.begun = tenant.time;
            moved(&mut tenant.running);
        }
        self.settle(now);
    }

    /// Charges tenants for what their calls have worked since the last time.
    fn charge(&mut self, now: Instant) {
        for thread in &mut self.threads {
            let (Some(call), Some(standing)) = (&mut thread.call, &thread.standing) else {
                continue;
            };
            let worked = standing.worked(now);
            let work = us(worked.saturating_sub(call.charged));
            call.charged = worked;
            let Some(tenant) = self.tenants.get_mut(&call.tenant) else {
                continue;
            };
            if call.place == Place::Background {
                tenant.time = tenant.time.saturating_add(work.saturating_mul(WEIGHT));
                tenant.begun = tenant.time;
            } else {
                let overrun = call.overrun(worked);
                call.cost_us = call.cost_us.saturating_add(overrun);
                self.running_us = self.running_us.saturating_add(overrun);
                tenant.time = tenant.time.saturating_add(overrun);
                tenant.begun = tenant.begun.saturating_add(work).min(tenant.time);
            }
        }
    }

    /// Tells the threads how they stand. Short calls in the foreground go on; all others do by turns, as many at once as there are lanes to
    /// spare, and leave the team of kernel threads to them. If lanes are few, so do short ones whose tenants are ahead.
    pub(super) fn settle(&mut self, now: Instant) {
        self.settle_for(None, now);
    }

    /// As if a tenant's first call ran already, if it is a short one: others make way while a thread wakes up for it.
    pub(super) fn expect(&mut self, tenant: &str, place: Place, now: Instant) {
        let coming = self.tenants.get(tenant).filter(|tenant| {
            let first = tenant.queue.front();
            place == Place::Foreground && first.is_some_and(|first| is_short(first.ticket.cost_us))
        });
        self.settle_for(coming.map(|tenant| tenant.time), now);
    }

    /// `coming` is what the tenant has had of a call that is about to begin in the foreground.
    fn settle_for(&mut self, coming: Option<u64>, now: Instant) {
        self.charge(now);
        let running = self.running.foreground + usize::from(coming.is_some());
        let first = [self.first(now), coming].into_iter().flatten().min();
        let first = first.filter(|_| is_tight(self.lanes, running));
        let waits = |call: &Running, worked| {
            let time = self.tenants.get(&call.tenant).map(Tenant::start);
            let takes_us = call.cost_us.saturating_add(call.overrun(worked));
            call.place == Place::Background
                || !holds_others(takes_us)
                || first.zip(time).is_some_and(|(first, time)| goes_before(first, time))
        };
        let time = |call: &Running| self.tenants.get(&call.tenant).map_or(0, Tenant::start);
        let calls = || self.threads.iter().filter_map(|thread| thread.call(now));
        let held = calls().filter(|(call, worked)| waits(call, *worked));
        let least = held.map(|(call, _)| time(call)).min().unwrap_or(u64::MAX);
        let go = calls().filter(|(call, worked)| !waits(call, *worked));
        let go = go.map(|(call, _)| time(call)).chain(coming);
        let (mut going, mut before) = (0, 0);
        for time in go {
            going += 1;
            before += usize::from(goes_before(time, least));
        }
        let held = running - going;
        let mut news = false;
        for thread in &self.threads {
            if let (Some(standing), Some((call, worked))) = (&thread.standing, thread.call(now)) {
                let held = waits(call, worked);
                news |= standing.stand(held, held && going > 0);
            }
        }
        self.held = held;
        news |= self.gate.open(spare(self.lanes, going, before));
        if news {
            (self.interrupt)();
        }
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

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
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
