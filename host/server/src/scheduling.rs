//! How the kernel's scheduler sees a thread: how much of the processors it has beside others (nice), and how soon (slice).
//!
//! A slice is how long a thread goes on once it has been chosen, if it is not interrupted. Since Linux 6.12 whoever wakes up with a shorter
//! one interrupts it at once, and before that it is not looked at; what a thread has in all does not depend on it. So threads that
//! answer interrupt lanes, and lanes whose calls go first interrupt those whose calls make way for them.

use std::cell::Cell;
use std::time::Duration;

use rustix::process::{getpriority_process, setpriority_process};

/// The nice value beyond which there is none.
const LOWEST: i32 = 19;

/// Of threads that answer, and of the one that writes: they have little to do, and somebody waits for it.
const PROMPT: Duration = Duration::from_micros(200);

/// Of threads that run guests and kernels: one that wakes up for a call need not wait for others to have had all of the system's own,
/// some milliseconds.
const WORK: Duration = Duration::from_micros(500);

/// Of threads whose calls make way for others.
const MAKES_WAY: Duration = Duration::from_millis(2);

thread_local! {
    /// Whether the thread makes way.
    static WAY: Cell<bool> = const { Cell::new(false) };
}

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

/// The calling thread answers somebody: what it does is short, and is done as soon as it wakes up.
pub fn prompt() {
    own(0, PROMPT);
}

/// The calling thread works, and stands back behind where it stood by `nice`.
pub(crate) fn works(nice: i32) {
    own(nice, WORK);
}

/// Whether the calling thread, which works, makes way for those that do not. Costs little where nothing changes.
pub(crate) fn makes_way(now: bool) {
    if WAY.replace(now) != now {
        own(0, if now { MAKES_WAY } else { WORK });
    }
}

fn own(nice: i32, slice: Duration) {
    // Without a process, Linux takes the calling thread.
    match getpriority_process(None) {
        Ok(now) => stand(now.saturating_add(nice).clamp(-20, LOWEST), slice),
        Err(error) => tracing::warn!("a thread's priority is not known, and stays as it is: {error}"),
    }
}

/// Tells the scheduler how the calling thread stands.
fn stand(nice: i32, slice: Duration) {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        slice: slice.as_nanos() as u64,
        unused: [0; 2],
    };
    // SAFETY: it reads `attributes`, which is laid out as it expects and lives until it returns. Thread 0 is the calling one.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if status != 0
        && let Err(error) = setpriority_process(None, nice)
    {
        tracing::debug!("a thread's priority stays as it is: {error}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::thread;

    #[test]
    fn a_thread_stands_where_it_was_told_to_and_what_it_starts_stands_beside_it_until_told_otherwise() {
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let (lane, started) = thread::spawn(move || {
            works(2);
            (
                nice(),
                thread::spawn(move || {
                    let inherited = nice();
                    works(0);
                    (inherited, nice())
                })
                .join()
                .unwrap(),
            )
        })
        .join()
        .unwrap();
        let lower = (before + 2).min(LOWEST);
        assert_eq!((lane, started), (lower, (lower, lower)), "it was {before}");
        assert_eq!(nice(), before, "who starts a lane stands where it stood");
    }
}
