//! How a lane's thread stands: what the kernel's scheduler and the team of kernel threads know of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use maquette_tensor::StoodBack;
use rustix::process::Pid;

use super::gate::{Gate, Pass};
use crate::scheduling;

/// By how much a thread that has stepped back stands behind the others, as `nice` counts: it has half of their weight until it comes to the
/// gate. With much less it would be put aside, or woken late, with locks in its hands that they need.
const BEHIND: i32 = 3;

/// A thread that runs guests.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    thread: Pid,
    nice: i32,
    /// Set while its call is behind others: its kernels work on this thread alone, and it waits at the gate.
    alone: Arc<AtomicBool>,
    /// Set once it has stepped back.
    back: Arc<OnceLock<StoodBack>>,
    /// The kernel's clock of the processor time that the thread has had.
    clock: libc::clockid_t,
    ended: Arc<AtomicBool>,
}

impl Standing {
    /// Of the thread that calls it, the `number`th, which from now on stands back behind others by `nice`.
    pub(super) fn own(number: usize, nice: i32, gate: &Arc<Gate>) -> Self {
        let nice = scheduling::works(nice);
        let (alone, back) = (Arc::default(), Arc::default());
        let pass = Pass::new(Arc::clone(gate), number, Arc::clone(&alone));
        maquette_tensor::gate::wait_at(Box::new(move |stops| pass.pass(stops)));
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
            nice,
            alone,
            back,
            clock,
            ended: Arc::default(),
        }
    }

    /// From now on the thread waits at the gate while others run, and is behind them until it comes there. There is no way back.
    pub(super) fn step_back(&self) {
        let (at, processor) = (Instant::now(), self.processor_time());
        if self.back.set(StoodBack { at, processor }).is_err() {
            return;
        }
        scheduling::step_back(self.thread, self.nice, BEHIND);
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

    /// Whether its call is behind others that run.
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
            let standing = Standing::own(0, 0, &Arc::default());
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
