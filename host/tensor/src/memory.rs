//! What all calls together may hold of the machine's memory, and each call's share of it.
//!
//! A call takes more as it grows, tensors and linear memories alike, and gives all back when it ends: what it has taken it keeps, as
//! a linear memory cannot shrink either. A quarter of the memory is divided among the calls that can run at once, so that each is sure
//! of its part whatever others do. The rest is shared by owners: the calls of one may hold as much of it as they leave free. So one
//! owner gets half of it at most, the next half of what is left then, and nobody waits for anybody.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maquette_ops::Error;

/// What all calls together may hold.
#[derive(Debug)]
pub struct Memory {
    /// What each call is sure of.
    sure: u64,
    /// What calls may hold together beyond that.
    shared: u64,
    held: Mutex<Held>,
}

/// What is held beyond what each call is sure of.
#[derive(Debug, Default)]
struct Held {
    all: u64,
    by: HashMap<Arc<str>, u64>,
}

impl Memory {
    /// So many bytes for at most so many calls at once.
    pub fn new(bytes: u64, calls: u64) -> Arc<Self> {
        let sure = bytes / 4 / calls.max(1);
        Arc::new(Self {
            sure,
            shared: bytes - sure * calls,
            held: Mutex::default(),
        })
    }

    /// As much as anybody wants.
    pub fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, 1)
    }

    /// The most that one call can hold, if nobody else holds anything.
    pub fn most(&self) -> u64 {
        self.sure + self.shared / 2
    }

    /// Bytes that calls share, beyond what each is sure of.
    pub fn shared(&self) -> u64 {
        self.shared
    }

    /// How many of them are held now.
    pub fn held(&self) -> u64 {
        self.lock().all
    }

    /// The share of an owner's call that begins, still empty.
    pub fn share(self: &Arc<Self>, owner: &Arc<str>) -> Arc<Share> {
        Arc::new(Share {
            memory: Arc::clone(self),
            owner: Arc::clone(owner),
            held: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    /// The sums are right whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one call holds; given back when the last one who has it is gone.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    owner: Arc<str>,
    held: Mutex<u64>,
    /// What the call would have held with what was refused last.
    refused: AtomicU64,
}

impl Share {
    /// Takes more.
    ///
    /// # Errors
    /// `quota` if there is no room for it; nothing is taken then.
    pub fn take(&self, bytes: u64) -> Result<(), Error> {
        let mut own = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = own.saturating_add(bytes);
        let more = self.beyond(wanted) - self.beyond(*own);
        if more > 0 {
            let mut held = self.memory.lock();
            let of_owner = held.by.get(&self.owner).copied().unwrap_or_default();
            let room = self.memory.shared.saturating_sub(held.all).saturating_sub(of_owner);
            // As much is left free as is held then.
            if more > room / 2 {
                drop(held);
                self.refused.store(wanted, Ordering::Relaxed);
                return Err(Error::quota(self.full(wanted).to_string()));
            }
            held.all += more;
            held.by.insert(Arc::clone(&self.owner), of_owner + more);
        }
        *own = wanted;
        Ok(())
    }

    /// What was refused last, if anything was.
    pub fn refused(&self) -> Option<Full> {
        match self.refused.load(Ordering::Relaxed) {
            0 => None,
            wanted => Some(self.full(wanted)),
        }
    }

    fn beyond(&self, held: u64) -> u64 {
        held.saturating_sub(self.memory.sure)
    }

    fn full(&self, wanted: u64) -> Full {
        let most = self.memory.most();
        Full { wanted, most }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let own = *self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        let back = self.beyond(own);
        if back == 0 {
            return;
        }
        let mut held = self.memory.lock();
        held.all -= back;
        if let Some(of_owner) = held.by.get_mut(&self.owner) {
            *of_owner -= back;
            if *of_owner == 0 {
                held.by.remove(&self.owner);
            }
        }
    }
}

/// Why a call was refused memory that its own limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// What it would have held, in bytes.
    pub wanted: u64,
    /// The most that one call can hold.
    pub most: u64,
}

impl Full {
    /// Whether other calls hold what it wanted, so that it may get it when some have ended.
    pub fn by_others(&self) -> bool {
        self.wanted <= self.most
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, most } = self;
        match self.by_others() {
            true => write!(
                f,
                "the server's memory is full: this call needs {wanted} bytes, and other calls hold too much of what there is; try again \
                 when some have ended"
            ),
            false => write!(
                f,
                "this call needs {wanted} bytes of memory, and one call can have {most} on this server: send less at once"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn owner(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn an_owner_may_hold_as_much_as_is_left_free_and_each_call_its_own_part() {
        // Ten are sure for each of ten calls, 300 are shared.
        let memory = Memory::new(400, 10);
        assert_eq!((memory.shared(), memory.most()), (300, 160));
        let (a, again, b) = (
            memory.share(&owner("a")),
            memory.share(&owner("a")),
            memory.share(&owner("b")),
        );
        assert!(a.take(161).unwrap_err().message.contains("one call can have 160"));
        assert!(!a.refused().unwrap().by_others());
        a.take(100).unwrap();
        a.take(60).unwrap();
        assert_eq!(memory.held(), 150);
        assert!(again.take(11).is_err(), "its owner holds half of what is shared");
        again.take(10).unwrap();
        assert!(b.take(86).unwrap_err().message.contains("try again"));
        assert!(b.refused().unwrap().by_others());
        b.take(85).unwrap();
        assert!(b.take(1).is_err() && b.take(u64::MAX).is_err(), "no overflow");
        assert_eq!(memory.held(), 225, "what was refused is not taken");
        drop(a);
        b.take(37).unwrap();
        drop((b, again));
        assert_eq!((memory.held(), memory.lock().by.len()), (0, 0));
        let last = memory.share(&owner("a"));
        last.take(10).unwrap();
        assert!(last.refused().is_none());
    }

    #[test]
    fn where_nothing_bounds_it_a_call_takes_what_it_wants() {
        let share = Memory::unlimited().share(&owner(""));
        share.take(1 << 60).unwrap();
    }

    proptest! {
        #[test]
        fn no_call_takes_from_another_what_that_is_sure_of(
            bytes in 100_000_u64..1 << 40,
            takes in proptest::collection::vec((0_usize..10, 1_u64..1 << 40), 0..300),
        ) {
            let memory = Memory::new(bytes, 11);
            let shares: Vec<_> = (0..10).map(|i| memory.share(&owner(&format!("{}", i % 4)))).collect();
            for (which, bytes) in takes {
                let _ = shares[which].take(bytes);
            }
            let all: u64 = shares.iter().map(|share| *share.held.lock().unwrap()).sum();
            let newcomer = memory.share(&owner("new"));
            prop_assert!(newcomer.take(bytes / 44).is_ok());
            prop_assert!(all + bytes / 44 <= bytes);
            drop((shares, newcomer));
            prop_assert_eq!(memory.held(), 0);
        }
    }
}
