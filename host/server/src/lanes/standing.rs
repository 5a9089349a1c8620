//! How a lane's thread stands: what the kernel's scheduler and the team of kernel threads know of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use maquette_tensor::StoodBack;
use rustix::process::{Pid, getpriority_process, setpriority_process};

/// The nice value of a thread that has stepped back: a 68th of the weight of one that has not.
const LOWEST: i32 = 19;

/// How long a thread goes on once the scheduler has chosen it, if it is not interrupted. Since Linux 6.12 whoever wakes up with a shorter
/// slice interrupts it at once, and before that it is not looked at. So threads that answer, which have the system's few milliseconds,
/// interrupt lanes; a lane interrupts those that have stepped back, and is not interrupted by them for as long as a short call takes.
const SLICE: Duration = Duration::from_millis(20);

/// As [`SLICE`], of a thread that has stepped back: the longest that there is.
const SLICE_BACK: Duration = Duration::from_millis(100);

/// The kernel's `sched_attr`, first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    slice: u64,
    unused: [u64; 2],
}

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
        let thread = rustix::thread::gettid();
        // Without a process, Linux takes the calling thread.
        match getpriority_process(None) {
            Ok(now) => stand(thread, (now + nice).clamp(-20, LOWEST), SLICE),
            Err(error) => tracing::warn!("a lane's priority is not known, and stays as it is: {error}"),
        }
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
            thread,
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
        stand(self.thread, LOWEST, SLICE_BACK);
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

/// Tells the scheduler how a thread stands.
fn stand(thread: Pid, nice: i32, slice: Duration) {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        slice: slice.as_nanos() as u64,
        unused: [0; 2],
    };
    // SAFETY: it reads `attributes`, which is laid out as it expects and lives until it returns.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, thread.as_raw_pid(), &raw const attributes, 0) };
    if status != 0
        && let Err(error) = setpriority_process(Some(thread), nice)
    {
        tracing::debug!("a lane's priority stays as it is: {error}");
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
