//! How a lane's thread stands: what the kernel's scheduler and the team of kernel threads know of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, getpriority_process, setpriority_process};

/// The nice value of a thread that has stepped back: a 68th of the weight of one that has not.
const LOWEST: i32 = 19;

/// How long it goes on at most once the scheduler has chosen it, if nobody else comes. Since Linux 6.12, whoever wakes up with a
/// shorter slice, as all others have, interrupts it at once; before, it is not looked at.
const SLICE: Duration = Duration::from_millis(50);

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
    back: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Standing {
    /// Of the thread that calls it, which from now on stands back behind others by `nice`.
    pub(super) fn own(nice: i32) -> Self {
        // Without a process, Linux takes the calling thread.
        let lowered = getpriority_process(None).and_then(|now| setpriority_process(None, (now + nice).clamp(-20, 19)));
        if let Err(error) = lowered {
            tracing::warn!("a lane's priority could not be lowered: {error}");
        }
        let alone = Arc::default();
        maquette_tensor::alone_while(Arc::clone(&alone));
        Self {
            thread: rustix::thread::gettid(),
            alone,
            back: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// From now on the thread has little of the processors while others want them. There is no way back: raising a thread's priority
    /// takes a privilege.
    pub(super) fn step_back(&self) {
        self.back.store(true, Ordering::Relaxed);
        // Not `SCHED_IDLE`: a thread that gets nothing at all on a busy machine also never gives back the locks that it holds.
        let attributes = Attributes {
            size: size_of::<Attributes>() as u32,
            policy: libc::SCHED_OTHER as u32,
            flags: 0,
            nice: LOWEST,
            priority: 0,
            slice: SLICE.as_nanos() as u64,
            unused: [0; 2],
        };
        // SAFETY: it reads `attributes`, which is laid out as it expects and lives until it returns.
        let status = unsafe {
            libc::syscall(
                libc::SYS_sched_setattr,
                self.thread.as_raw_pid(),
                &raw const attributes,
                0,
            )
        };
        if status == 0 {
            return;
        }
        if let Err(error) = setpriority_process(Some(self.thread), LOWEST) {
            tracing::debug!("a lane's priority stays as it is: {error}");
        }
    }

    /// Whether it has stepped back.
    pub(super) fn is_back(&self) -> bool {
        self.back.load(Ordering::Relaxed)
    }

    /// The last that the thread says.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Processor time that the thread has had. A few microseconds: the kernel's file is read.
    pub(super) fn processor_time(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.thread.as_raw_pid());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
        Duration::from_nanos(nanoseconds.unwrap_or(0))
    }

    /// Whether the kernels of its call leave the team to others.
    pub(super) fn alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }
}
