//! Leaving a kernel before its end: whoever calls kernels may hand them a signal that they look at every fraction of a millisecond.
//!
//! A kernel that has to stop unwinds, as it would for a panic but without the panic's message: what it was making is dropped with its
//! stack, so that nothing half made is ever seen, and no kernel returns anything for it. [`under`] ends the unwinding.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::{gate, team};

/// Nanoseconds of work, as kernels estimate it, between two looks at the signal. Estimates are good to a factor of ten.
const GRAIN: u64 = 100_000;

/// Says when kernels have to stop; asked from several threads, and for good once it is up.
pub trait Signal: Sync {
    /// Whether to stop.
    fn is_up(&self) -> bool;
}

/// A kernel was left before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// A signal without its lifetime, on its way to other threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raised(*const (dyn Signal + 'static));
// SAFETY: a signal is `Sync`; whoever passes one on waits until nobody uses it any more (`Team::share`).
unsafe impl Send for Raised {}
// SAFETY: as above.
unsafe impl Sync for Raised {}

thread_local! {
    /// The signal that kernels on this thread look at.
    static CURRENT: Cell<Option<Raised>> = const { Cell::new(None) };
    /// Work done since the last look.
    static SPENT: Cell<u64> = const { Cell::new(0) };
}

/// Puts a thread's signal back at the end.
struct Restore(Option<Raised>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Calls a function whose kernels stop when the signal is up.
///
/// # Errors
/// [`Stopped`] if they did.
///
/// # Panics
/// If `work` does.
pub fn under<R>(signal: &dyn Signal, work: impl FnOnce() -> R) -> Result<R, Stopped> {
    // SAFETY: only the lifetime changes. The thread forgets the signal before this function returns, and a team's members do
    // before the kernel that told them of it does.
    let signal: *const (dyn Signal + 'static) = unsafe { std::mem::transmute(std::ptr::from_ref(signal)) };
    let _restore = Restore(CURRENT.replace(Some(Raised(signal))));
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        if !payload.is::<Stopped>() {
            resume_unwind(payload);
        }
        Stopped
    })
}

/// The signal that kernels on this thread look at.
pub(crate) fn current() -> Option<Raised> {
    CURRENT.get()
}

/// Calls a function under another thread's signal. Its unwinding goes on.
///
/// # Safety
/// The signal must outlive the call.
pub(crate) unsafe fn under_raised<R>(signal: Option<Raised>, work: impl FnOnce() -> R) -> R {
    let _restore = Restore(CURRENT.replace(signal));
    work()
}

/// Counts work, and looks at the signal every [`GRAIN`] of it. Loops that nothing else divides call it for each piece of theirs.
///
/// # Panics
/// Unwinds with [`Stopped`] if the signal is up.
#[inline]
pub fn spend(nanoseconds: u64) {
    let spent = SPENT.get().saturating_add(nanoseconds);
    if spent < GRAIN {
        SPENT.set(spent);
    } else {
        look();
    }
}

/// Looks at the signal now. A thread that has a [gate] waits there first, unless others would wait for the team that it has.
///
/// # Panics
/// As [`spend`].
#[cold]
pub fn look() {
    SPENT.set(0);
    let Some(Raised(signal)) = CURRENT.get() else { return };
    // SAFETY: it is good for as long as it is this thread's: see `under` and `under_raised`.
    let signal = unsafe { &*signal };
    if !team::keeps_turn() {
        gate::pass(&|| signal.is_up());
    }
    if signal.is_up() {
        resume_unwind(Box::new(Stopped));
    }
}

/// Goes through something long in parts, each counted before it is taken.
pub(crate) fn counted<I: Iterator>(parts: I, nanoseconds: u64) -> impl Iterator<Item = I::Item> {
    parts.inspect(move |_| spend(nanoseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::parallel;

    /// Is up from the n-th look on.
    struct After(AtomicUsize);

    impl Signal for After {
        fn is_up(&self) -> bool {
            self.0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_err()
        }
    }

    #[test]
    fn a_kernel_stops_within_a_grain_of_work_on_every_thread() {
        for looks in 0..20 {
            let done = AtomicUsize::new(0);
            let signal = After(AtomicUsize::new(looks));
            let kernel = || {
                parallel(100_000, 100_000 * 10_000, |_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            };
            assert_eq!(under(&signal, kernel), Err(Stopped));
            // Ten tasks are a grain; each thread may have begun one beside those that were looked at.
            let threads = crate::team::team().threads();
            assert!(
                done.load(Ordering::Relaxed) <= (looks + 2 * threads + 1) * 10,
                "{looks}"
            );
        }
        // Nothing is left behind.
        parallel(1000, 10_000_000, |_| {});
        spend(u64::MAX);
    }

    #[test]
    fn a_thread_waits_at_its_gate_where_it_looks_and_not_while_it_has_the_team() {
        let passed = std::thread::spawn(|| {
            let (count, seen) = (std::rc::Rc::new(Cell::new(0)), Cell::new((0, 0)));
            let counts = std::rc::Rc::clone(&count);
            gate::wait_at(Box::new(move |stops| {
                assert!(!stops());
                counts.set(counts.get() + 1);
                Duration::from_millis(1)
            }));
            let never = After(AtomicUsize::new(usize::MAX));
            look();
            let without = count.get();
            let looked = || {
                look();
                team::engaged(|| {
                    let before = count.get();
                    look();
                    // Another test may have the team.
                    let waits = u64::from(!team::keeps_turn());
                    seen.set((before, count.get() - waits));
                });
            };
            assert_eq!(under(&never, looked), Ok(()));
            assert_eq!(gate::waited(), Duration::from_millis(count.get()));
            (without, seen.get())
        });
        assert_eq!(passed.join().unwrap(), (0, (1, 1)));
    }

    #[test]
    fn a_panic_is_no_stop_and_an_inner_signal_ends_with_its_call() {
        let never = After(AtomicUsize::new(usize::MAX));
        let panicked = catch_unwind(AssertUnwindSafe(|| under(&never, || panic!("mine"))));
        assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "mine");
        let at_once = After(AtomicUsize::new(0));
        let inner = || (under(&at_once, look), under(&never, || 7));
        assert_eq!(under(&never, inner), Ok((Err(Stopped), Ok(7))));
    }
}
