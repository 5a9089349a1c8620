//! The gate at which calls in the background wait while calls in the foreground run, so that these share neither processors nor the
//! kernel's locks with more of them than there are lanes to spare.
//!
//! Places beside the foreground are taken by turns. When there are none, now and then one goes on for a moment all the same, so that
//! nobody starves.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a turn is.
const TURN: Duration = Duration::from_millis(20);

/// How long one goes on for which there is no place, and how often that is.
const MOMENT: Duration = Duration::from_millis(4);
const EVERY: Duration = Duration::from_millis(100);

/// How soon a thread that waits finds out that its call has to stop.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Turns {
    /// How many may go on beside the foreground.
    places: usize,
    taken: usize,
    /// Threads that wait, by their numbers.
    queue: VecDeque<usize>,
    /// When somebody goes on without a place.
    moment: Instant,
}

/// The gate of all lanes.
#[derive(Debug)]
pub(super) struct Gate {
    turns: Mutex<Turns>,
    changed: Condvar,
}

impl Default for Gate {
    fn default() -> Self {
        let turns = Turns {
            places: 0,
            taken: 0,
            queue: VecDeque::new(),
            moment: Instant::now(),
        };
        Self {
            turns: Mutex::new(turns),
            changed: Condvar::new(),
        }
    }
}

impl Gate {
    /// How many calls in the background may go on from now on, and that threads look again whether they have to wait at all.
    pub(super) fn open(&self, places: usize) {
        let mut turns = self.lock();
        turns.places = places;
        if !turns.queue.is_empty() {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread at the gate.
pub(super) struct Pass {
    gate: Arc<Gate>,
    number: usize,
    /// Set while it has to wait for places.
    held_up: Arc<AtomicBool>,
    /// Until when it may go on.
    until: Cell<Option<Instant>>,
    /// Whether it has a place.
    placed: Cell<bool>,
}

impl Pass {
    pub(super) fn new(gate: Arc<Gate>, number: usize, held_up: Arc<AtomicBool>) -> Self {
        Self {
            gate,
            number,
            held_up,
            until: Cell::default(),
            placed: Cell::default(),
        }
    }

    /// Returns when the thread may go on, or soon after its call has to stop.
    pub(super) fn pass(&self, stops: &dyn Fn() -> bool) {
        if !self.waits() {
            return;
        }
        let now = Instant::now();
        let mut turns = self.gate.lock();
        let crowded = self.placed.get() && turns.taken > turns.places;
        if self.until.get().is_some_and(|until| now < until) && !crowded {
            return;
        }
        self.give_back(&mut turns);
        turns.queue.push_back(self.number);
        while self.waits() && !stops() {
            let now = Instant::now();
            if turns.queue.front() == Some(&self.number) {
                if turns.taken < turns.places {
                    turns.taken += 1;
                    self.placed.set(true);
                    self.until.set(Some(now + TURN));
                    break;
                }
                if now >= turns.moment {
                    turns.moment = now + EVERY;
                    self.until.set(Some(now + MOMENT));
                    break;
                }
            }
            let waited = self.gate.changed.wait_timeout(turns, LOOK);
            turns = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        turns.queue.retain(|number| *number != self.number);
        drop(turns);
        self.gate.changed.notify_all();
    }

    fn waits(&self) -> bool {
        self.held_up.load(Ordering::Relaxed)
    }

    fn give_back(&self, turns: &mut Turns) {
        if self.placed.replace(false) {
            turns.taken -= 1;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.give_back(&mut self.gate.lock());
        self.gate.changed.notify_all();
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
        let gate = Arc::new(gate);
        let (held_up, over) = (Arc::new(AtomicBool::new(true)), AtomicBool::new(false));
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = thread::scope(|scope| {
            let run = |number| {
                let pass = Pass::new(Arc::clone(&gate), number, Arc::clone(&held_up));
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
    fn who_need_not_wait_any_more_goes_on() {
        let gate = Arc::new(without_moments());
        let held_up = Arc::new(AtomicBool::new(true));
        let pass = Pass::new(Arc::clone(&gate), 0, Arc::clone(&held_up));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                held_up.store(false, Ordering::Relaxed);
                gate.open(0);
            });
            pass.pass(&|| false);
        });
        let stops = AtomicBool::new(false);
        held_up.store(true, Ordering::Relaxed);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                stops.store(true, Ordering::Relaxed);
            });
            pass.pass(&|| stops.load(Ordering::Relaxed));
        });
        assert!(gate.lock().queue.is_empty());
    }
}
