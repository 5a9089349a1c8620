//! How a lane's thread stands: what the kernel's scheduler and the team of kernel threads know of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, getpriority_process, setpriority_process};

/// The nice value of a thread that has stepped back: a 68th of the weight of one that has not.
const LOWEST: i32 = 19;

/// A thread that runs guests.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    thread: Pid,
    /// Set while the kernels of its call work on this thread alone.
    alone: Arc<AtomicBool>,
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
        }
    }

    /// From now on the thread has little of the processors while others want them. There is no way back: raising a thread's priority
    /// takes a privilege.
    pub(super) fn step_back(&self) {
        // Not `SCHED_IDLE`: a thread that gets nothing at all on a busy machine also never gives back the locks that it holds.
        if let Err(error) = setpriority_process(Some(self.thread), LOWEST) {
            tracing::debug!("a lane's priority stays as it is: {error}");
        }
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
