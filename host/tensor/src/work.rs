//! The clock that work is measured by: wall time without what a thread has waited at its gate, so that nobody pays for waiting.

use std::time::{Duration, Instant};

use maquette_kernels::gate;

/// What the work clock of this thread shows when it is `now`. Its differences are work.
pub(crate) fn clock(now: Instant) -> Instant {
    // A thread has not waited for longer than the machine has run, or its clock would stand still.
    now.checked_sub(gate::waited()).unwrap_or(now)
}

/// Work of this thread since its clock showed `start`.
pub(crate) fn since(start: Instant) -> Duration {
    clock(Instant::now()).saturating_duration_since(start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::thread;

    #[test]
    fn work_is_time_without_what_was_waited_at_the_gate() {
        let work = thread::spawn(|| {
            gate::wait_at(Box::new(|_| {
                let began = Instant::now();
                thread::sleep(Duration::from_millis(300));
                began.elapsed()
            }));
            gate::pass(&|| false);
            let (wall, start) = (Instant::now(), clock(Instant::now()));
            thread::sleep(Duration::from_millis(30));
            let before = since(start);
            gate::pass(&|| false);
            (before, since(start), wall.elapsed())
        });
        let (before, all, wall) = work.join().unwrap();
        assert!(before >= Duration::from_millis(30), "{before:?}");
        assert!(all >= before, "{all:?} after {before:?}");
        assert!(wall - all >= Duration::from_millis(300), "{all:?} of {wall:?}");
    }
}
