//! How a lane's thread stands: what the kernel's scheduler and the team of kernel threads know of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Pid;

/// A thread that runs guests.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    thread: Pid,
    /// Set while the kernels of its call work on this thread alone.
    alone: Arc<AtomicBool>,
}

impl Standing {
    /// Of the thread that calls it.
    pub(super) fn own() -> Self {
        let alone = Arc::default();
        maquette_tensor::alone_while(Arc::clone(&alone));
        Self {
            thread: rustix::thread::gettid(),
            alone,
        }
    }

    /// From now on the thread has the processors only while nobody else wants them. There is no way back: raising a thread's
    /// priority takes a privilege.
    pub(super) fn step_back(&self) {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: it reads `parameters`, which lives until it returns.
        let status = unsafe { libc::sched_setscheduler(self.thread.as_raw_pid(), libc::SCHED_IDLE, &raw const parameters) };
        if status != 0 {
            // Where that is forbidden, the next best thing.
            let _ = rustix::process::setpriority_process(Some(self.thread), 19);
        }
    }

    /// Whether the kernels of its call leave the team to others.
    pub(super) fn alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }
}
