//! A limit in bytes, and charges against it that give back when they are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use maquette_ops::Error;

/// A limit that everything allocated under it counts against.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
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
    /// `quota` if they would exceed the limit; nothing is charged then.
    #[inline]
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge, Error> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        match taken {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(Charge {
                    budget: Arc::clone(self),
                    bytes,
                })
            }
            Err(used) => Err(Error::quota(format!(
                "{bytes} bytes of tensors are needed; {used} of {} are in use: drop tensors, use smaller batches, or ask for more in [limits]",
                self.limit
            ))),
        }
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
}
