//! The clock that work is measured by: wall time, until its thread stands back behind others; from then on what the thread itself has
//! of the processor, so that nobody pays for waiting.

use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The moment from which on a thread stands back.
#[derive(Clone, Copy, Debug)]
pub struct StoodBack {
    /// When it was.
    pub at: Instant,
    /// What the thread had had of the processor by then.
    pub processor: Duration,
}

thread_local! {
    static STOOD_BACK: OnceCell<Arc<OnceLock<StoodBack>>> = const { OnceCell::new() };
}

/// From now on what this thread works counts as processor time from the moment that is set there. A thread has one such moment; a second
/// is ignored.
pub fn processor_time_from(moment: Arc<OnceLock<StoodBack>>) {
    STOOD_BACK.with(|own| {
        let _ = own.set(moment);
    });
}

/// What the work clock of this thread shows when it is `now`. Its differences are work.
pub(crate) fn clock(now: Instant) -> Instant {
    STOOD_BACK.with(|own| match own.get().and_then(|moment| moment.get()) {
        Some(moment) => moment.at + processor_time().saturating_sub(moment.processor),
        None => now,
    })
}

/// Work of this thread since its clock showed `start`.
pub(crate) fn since(start: Instant) -> Duration {
    clock(Instant::now()).saturating_duration_since(start)
}

/// What this thread has had of the processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::thread;

    fn burn(time: Duration) {
        let until = processor_time() + time;
        while processor_time() < until {}
    }

    #[test]
    fn work_is_wall_time_and_from_the_moment_on_processor_time() {
        let moment = Arc::new(OnceLock::new());
        let own = Arc::clone(&moment);
        let work = thread::spawn(move || {
            processor_time_from(Arc::clone(&own));
            let (wall, start) = (Instant::now(), clock(Instant::now()));
            thread::sleep(Duration::from_millis(30));
            let before = since(start);
            let at = Instant::now();
            let processor = processor_time();
            own.set(StoodBack { at, processor }).unwrap();
            // Nobody pays for this.
            thread::sleep(Duration::from_millis(500));
            burn(Duration::from_millis(20));
            (before, since(start), wall.elapsed())
        });
        let (before, all, wall) = work.join().unwrap();
        assert!(before >= Duration::from_millis(30), "{before:?}");
        assert!(all >= before + Duration::from_millis(20), "{all:?} after {before:?}");
        assert!(wall - all >= Duration::from_millis(490), "{all:?} of {wall:?}");
    }
}
