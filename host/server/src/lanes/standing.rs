//! How a lane's thread stands: what the kernel's scheduler and the team of kernel threads know of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use maquette_tensor::StoodBack;
use rustix::process::Pid;

use crate::scheduling::{self, BACK, LANE, LOWEST, stand};

/// A thread that runs guests.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    thread: Pid,
    /// Set while the kernels of its call work on this thread alone.
    alone: Arc<AtomicBool>,
    /// Set once it has stepped back.
    back: Arc<OnceLock<StoodBack>>,
    /// The kernel's clock of the processor time that the thread has had.
    clock: libc::clockid_t,
    ended: Arc<AtomicBool>,
}

impl Standing {
    /// Of the thread that calls it, which from now on stands back behind others by `nice`.
    pub(super) fn own(nice: i32) -> Self {
        scheduling::own(nice, LANE);
        let (alone, back) = (Arc::default(), Arc::default());
        maquette_tensor::alone_while(Arc::clone(&alone));
        maquette_tensor::processor_time_from(Arc::clone(&back));
        let mut clock = libc::CLOCK_MONOTONIC;
        // SAFETY: the thread is the one that runs, and `clock` is written to only before it returns.
        let status = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        if status != 0 {
            tracing::warn!("a lane has no clock of its own: what it does in the background is not billed");
        }
        Self {
            thread: rustix::thread::gettid(),
            alone,
            back,
            clock,
            ended: Arc::default(),
        }
    }

    /// From now on the thread has little of the processors while others want them. There is no way back: raising a thread's priority
    /// takes a privilege.
    pub(super) fn step_back(&self) {
        let (at, processor) = (Instant::now(), self.processor_time());
        if self.back.set(StoodBack { at, processor }).is_err() {
            return;
        }
        // Not `SCHED_IDLE`: a thread that gets nothing at all on a busy machine also never gives back the locks that it holds.
        stand(self.thread, LOWEST, BACK);
    }

    /// Whether it has stepped back.
    pub(super) fn is_back(&self) -> bool {
        self.back.get().is_some()
    }

    /// The last that the thread says.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Processor time that the thread has had; nothing once it has ended.
    pub(super) fn processor_time(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is written to only before it returns; a clock of a thread that has ended is refused, and leaves it as it is.
        unsafe { libc::clock_gettime(self.clock, &raw mut time) };
        let part = |n: i64| u64::try_from(n).unwrap_or(0);
        Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
    }

    /// Whether the kernels of its call leave the team to others.
    pub(super) fn alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::time::{ClockId, clock_gettime};
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn processor_time_is_the_threads_own_whoever_asks() {
        let (send, receive) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let own = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let lane = thread::spawn(move || {
            let standing = Standing::own(0);
            while own() < Duration::from_millis(20) {}
            let before = own();
            send.send((standing, before)).unwrap();
            wait.recv().unwrap();
            own()
        });
        let (standing, before) = receive.recv().unwrap();
        let told = standing.processor_time();
        standing.step_back();
        assert!(standing.is_back());
        go_on.send(()).unwrap();
        let after = lane.join().unwrap();
        assert!(before <= told && told <= after, "{before:?} {told:?} {after:?}");
        assert_eq!(standing.processor_time(), Duration::ZERO, "it has ended");
    }
}
