//! A limit in bytes, and charges against it that give back when they are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use maquette_ops::Error;

use crate::memory::Share;

/// A budget takes this much of its call's share at once, or more, so that it seldom does.
const STEP: u64 = 1 << 20;

/// A limit that everything allocated under it counts against.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    /// What of its call's share it has taken already.
    covered: AtomicU64,
    share: Option<Arc<Share>>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Self::with(limit, None)
    }

    /// A budget of so many bytes, as far as its call's share of the machine's memory has room for them.
    pub fn under(share: Arc<Share>, limit: u64) -> Arc<Self> {
        Self::with(limit, Some(share))
    }

    fn with(limit: u64, share: Option<Arc<Share>>) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            covered: AtomicU64::new(if share.is_some() { 0 } else { limit }),
            share,
        })
    }

    /// Bytes charged now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were charged at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Charges bytes before they are allocated.
    ///
    /// # Errors
    /// `quota` if they would exceed the limit, or find no room in the call's share; nothing is charged then.
    #[inline]
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge, Error> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        match taken {
            Ok(before) => {
                let charge = Charge {
                    budget: Arc::clone(self),
                    bytes,
                };
                if before + bytes > self.covered.load(Ordering::Relaxed) {
                    self.cover(before + bytes)?;
                }
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(charge)
            }
            Err(used) => Err(Error::quota(format!(
                "{bytes} bytes of tensors are needed; {used} of {} are in use: drop tensors, use smaller batches, or ask for more in [limits]",
                self.limit
            ))),
        }
    }

    /// Takes of the share what so many bytes need beyond what it has.
    #[cold]
    fn cover(&self, bytes: u64) -> Result<(), Error> {
        let Some(share) = &self.share else { return Ok(()) };
        let covered = self.covered.load(Ordering::Relaxed);
        let more = bytes.saturating_sub(covered);
        let step = more.max(STEP).min(self.limit.saturating_sub(covered));
        // Two at once may both take: then the next ones find it covered.
        share.take(step)?;
        self.covered.fetch_add(step, Ordering::Relaxed);
        Ok(())
    }
}

/// Bytes of a budget in use; dropping it gives them back.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Keeps only so many of its bytes.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        self.budget.used.fetch_sub(excess, Ordering::Relaxed);
        self.bytes -= excess;
    }
}

impl Charge {
    /// Takes some of its bytes apart, if it has so many.
    pub(crate) fn split(&mut self, bytes: u64) -> Option<Self> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Self {
            budget: Arc::clone(&self.budget),
            bytes,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::Memory;

    #[test]
    fn what_exceeds_the_limit_is_refused_and_what_is_dropped_comes_back() {
        let budget = Budget::new(100);
        let mut a = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_err());
        assert!(budget.charge(u64::MAX).is_err(), "no overflow");
        a.shrink(10);
        let b = budget.charge(90).unwrap();
        assert_eq!((budget.used(), budget.peak()), (100, 100));
        let (mut b, none) = (b, a.split(11));
        let (part, rest) = (b.split(50).unwrap(), a.split(10).unwrap());
        assert!(
            none.is_none() && budget.used() == 100,
            "what is taken apart is still in use"
        );
        drop(part);
        assert_eq!(budget.used(), 50);
        drop((a, b, rest));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_the_machine_has_no_room_for_is_refused_and_what_was_taken_is_given_back_at_the_end() {
        let memory = Memory::new(64 << 20, 4);
        let owner: Arc<str> = "me".into();
        let budget = Budget::under(memory.share(&owner), 1 << 40);
        let a = budget.charge(20 << 20).unwrap();
        assert_eq!(memory.held(), 16 << 20, "four are its own");
        let refused = budget.charge(30 << 20).unwrap_err();
        assert!(refused.message.contains("one call can have"), "{}", refused.message);
        assert_eq!((budget.used(), budget.peak()), (20 << 20, 20 << 20));
        drop(a);
        let again = budget.charge(20 << 20).unwrap();
        assert_eq!(memory.held(), 16 << 20, "it is taken once");
        drop(budget);
        assert_eq!(memory.held(), 16 << 20, "something is still charged");
        drop(again);
        assert_eq!(memory.held(), 0);
    }
}
