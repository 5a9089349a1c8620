//! When a call has to stop: its deadline, and the flag that cancels it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use maquette_kernels::stop::{Signal, Stopped, under};
use maquette_ops::{Code, Error};

/// When a call has to stop.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Nothing starts after it, and what runs is left.
    pub deadline: Option<Instant>,
    /// Nothing starts once it is set, and what runs is left.
    pub cancelled: Arc<AtomicBool>,
}

impl Control {
    /// # Errors
    /// `cancelled` or `timeout`.
    #[inline]
    pub(crate) fn check(&self, now: Instant) -> Result<(), Error> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::cancelled("the call was cancelled"));
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Error::timeout("the deadline of the call has passed"));
        }
        Ok(())
    }

    /// Calls a function whose kernels are left when the call has to stop; what they were making is dropped.
    ///
    /// # Errors
    /// As `work`; `cancelled` or `timeout` if it was left.
    pub(crate) fn stoppable<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let result = under(self, work).unwrap_or_else(|Stopped| Err(Error::cancelled("the call was stopped")));
        // A kernel knows that it was stopped, and not why.
        result.map_err(|e| match e.code {
            Code::Cancelled => self.check(Instant::now()).err().unwrap_or(e),
            _ => e,
        })
    }
}

impl Signal for Control {
    fn is_up(&self) -> bool {
        self.check(Instant::now()).is_err()
    }
}
