//! The gate at which calls wait while calls that go before them run, so that these share neither processors nor the kernel's locks with
//! more of them than there are lanes to spare.
//!
//! Places beside those that go first are taken by turns. When there are none, now and then one goes on for a moment all the same, so
//! that nobody starves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::scheduling;

/// How long a turn is.
const TURN: Duration = Duration::from_millis(10);

/// How long one goes on for which there is no place, and how often that is.
const MOMENT: Duration = Duration::from_millis(4);
const EVERY: Duration = Duration::from_millis(100);

/// How soon a thread that waits finds out that its call has to stop.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Turns {
    /// How many may go on beside those that go first.
    places: usize,
    /// Threads that have a place, by their numbers.
    placed: Vec<usize>,
    /// Threads that wait, and what wakes each.
    queue: VecDeque<(usize, Arc<Condvar>)>,
    /// When somebody goes on without a place: a while after the last that was held and went on all the same.
    moment: Instant,
}

impl Turns {
    /// Wakes whoever is first if there is a place; it wakes the next. Whoever waits for anything else finds out by itself.
    fn wake(&self) {
        if self.placed.len() < self.places
            && let Some((_, first)) = self.queue.front()
        {
            first.notify_one();
        }
    }

    fn is_first(&self, number: usize) -> bool {
        self.queue.front().is_some_and(|(first, _)| *first == number)
    }
}

/// The gate of all lanes.
#[derive(Debug)]
pub(super) struct Gate {
    turns: Mutex<Turns>,
}

impl Default for Gate {
    fn default() -> Self {
        let turns = Turns {
            places: 0,
            placed: Vec::new(),
            queue: VecDeque::new(),
            moment: Instant::now(),
        };
        Self {
            turns: Mutex::new(turns),
        }
    }
}

impl Gate {
    /// How many calls that are held may go on from now on. Whether more do, which have to find out.
    pub(super) fn open(&self, places: usize) -> bool {
        let mut turns = self.lock();
        let fewer = places < turns.places;
        turns.places = places;
        turns.wake();
        fewer && turns.placed.len() > places
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread at the gate.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    number: usize,
    /// Whether it needs a place to go on.
    held: AtomicBool,
    /// Wakes it.
    changed: Arc<Condvar>,
    time: Mutex<Time>,
}

/// What the clock says of a thread at the gate.
#[derive(Debug, Default)]
struct Time {
    /// Until when it may go on.
    until: Option<Instant>,
    /// Since when it waits.
    since: Option<Instant>,
    /// How long it has waited before.
    waited: Duration,
}

impl Pass {
    pub(super) fn new(gate: Arc<Gate>, number: usize) -> Self {
        Self {
            gate,
            number,
            held: AtomicBool::default(),
            changed: Arc::default(),
            time: Mutex::default(),
        }
    }

    /// Says whether the thread needs a place to go on, from its next pass on; wakes it if it waits for one that it does not need any more.
    /// Returns whether it did.
    pub(super) fn hold(&self, held: bool) -> bool {
        let before = self.held.swap(held, Ordering::Relaxed);
        if before && !held {
            // Not between its look and its sleep.
            let _turns = self.gate.lock();
            self.changed.notify_one();
        }
        before
    }

    /// Returns when the thread may go on, or soon after its call has to stop; says how long that took.
    pub(super) fn pass(&self, stops: &dyn Fn() -> bool) -> Duration {
        let held = self.is_held();
        scheduling::makes_way(held);
        if !held {
            if self.time().until.is_some() {
                self.leave();
            }
            return Duration::ZERO;
        }
        let began = Instant::now();
        let mut turns = self.gate.lock();
        let crowded = turns.placed.contains(&self.number) && turns.placed.len() > turns.places;
        if self.time().until.is_some_and(|until| began < until) && !crowded {
            return Duration::ZERO;
        }
        self.give_back(&mut turns, began);
        turns.queue.push_back((self.number, Arc::clone(&self.changed)));
        turns.wake();
        self.time().since = Some(began);
        while self.is_held() && !stops() {
            let now = Instant::now();
            if turns.is_first(self.number) {
                if turns.placed.len() < turns.places {
                    turns.placed.push(self.number);
                    self.time().until = Some(now + TURN);
                    break;
                }
                if now >= turns.moment {
                    turns.moment = now + EVERY;
                    self.time().until = Some(now + MOMENT);
                    break;
                }
            }
            let waited = self.changed.wait_timeout(turns, LOOK);
            turns = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        turns.queue.retain(|(number, _)| *number != self.number);
        turns.wake();
        drop(turns);
        let waited = began.elapsed();
        let mut time = self.time();
        time.since = None;
        time.waited += waited;
        waited
    }

    /// The thread does not go on: others may have its place.
    pub(super) fn leave(&self) {
        let mut turns = self.gate.lock();
        self.give_back(&mut turns, Instant::now());
        turns.wake();
    }

    /// How long it has waited, in all.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        let time = self.time();
        time.waited
            + time
                .since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    #[cfg(test)]
    pub(super) fn simulate_wait(&self, time: Duration) {
        self.time().waited += time;
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    fn time(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It does not go on any more, from `now` on, with a place or without.
    fn give_back(&self, turns: &mut Turns, now: Instant) {
        if self.time().until.take().is_some() {
            turns.moment = turns.moment.max(now + EVERY);
        }
        turns.placed.retain(|number| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Nobody goes on without a place for an hour.
    fn without_moments() -> Gate {
        let gate = Gate::default();
        gate.lock().moment = Instant::now() + Duration::from_secs(3600);
        gate
    }

    /// Threads that pass as often as they may until told to stop; how often each has, and how many went on at once at most.
    fn crowd(gate: Gate, threads: usize, time: Duration) -> (Vec<usize>, usize) {
        let (gate, over) = (Arc::new(gate), AtomicBool::new(false));
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = thread::scope(|scope| {
            let run = |number| {
                let pass = Pass::new(Arc::clone(&gate), number);
                pass.hold(true);
                let mut count = 0;
                let stops = || over.load(Ordering::Relaxed);
                loop {
                    pass.pass(&stops);
                    if stops() {
                        return count;
                    }
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::sleep(Duration::from_micros(100));
                    inside.fetch_sub(1, Ordering::SeqCst);
                    count += 1;
                }
            };
            let started: Vec<_> = (0..threads).map(|number| scope.spawn(move || run(number))).collect();
            thread::sleep(time);
            over.store(true, Ordering::Relaxed);
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        (counts, most.into_inner())
    }

    #[test]
    fn places_are_taken_by_turns_and_by_no_more_than_there_are() {
        let gate = without_moments();
        gate.open(2);
        let (counts, most) = crowd(gate, 5, Duration::from_secs(2));
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert!(most <= 2, "{most}");
    }

    #[test]
    fn without_places_everybody_has_a_moment_now_and_then() {
        let (counts, most) = crowd(Gate::default(), 3, Duration::from_secs(2));
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert!(most <= 2, "{most}");
    }

    #[test]
    fn who_has_lost_a_place_is_to_find_out_and_has_no_moment_at_once() {
        let gate = Arc::new(Gate::default());
        assert!(!gate.open(1), "nobody goes on");
        let pass = Pass::new(Arc::clone(&gate), 0);
        pass.hold(true);
        pass.pass(&|| false);
        assert!(gate.open(0));
        assert!(!gate.open(0), "it has been told");
        let waited = pass.pass(&|| false);
        assert!(waited > EVERY / 2, "it went on until now: {waited:?}");
    }

    #[test]
    fn who_is_not_held_any_more_goes_on_and_so_does_who_stops() {
        let gate = Arc::new(without_moments());
        let pass = Pass::new(Arc::clone(&gate), 0);
        assert_eq!(pass.pass(&|| false), Duration::ZERO);
        pass.hold(true);
        let waited = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                assert!(pass.waited(Instant::now()) > Duration::ZERO, "it waits");
                pass.hold(false);
                gate.open(0);
            });
            pass.pass(&|| false)
        });
        assert!(waited > Duration::ZERO);
        let stops = AtomicBool::new(false);
        pass.hold(true);
        let again = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                stops.store(true, Ordering::Relaxed);
            });
            pass.pass(&|| stops.load(Ordering::Relaxed))
        });
        assert_eq!(pass.waited(Instant::now()), waited + again);
        assert!(gate.lock().queue.is_empty());
    }

    #[test]
    fn a_place_is_given_back_when_the_call_ends_or_needs_none() {
        let gate = Arc::new(without_moments());
        gate.open(1);
        let pass = Pass::new(Arc::clone(&gate), 0);
        for leave in [true, false] {
            pass.hold(true);
            pass.pass(&|| false);
            assert_eq!(gate.lock().placed, [0]);
            pass.hold(false);
            if leave {
                pass.leave();
            } else {
                pass.pass(&|| false);
            }
            assert!(gate.lock().placed.is_empty());
        }
    }
}
