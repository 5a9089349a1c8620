//! A typed table of host objects that a guest holds handles to. wasmtime's own handle tables check that a guest uses only
//! handles that it was given, of the right type; this holds what they stand for, without a box or a type test an object.

use std::time::{Duration, Instant};

use maquette_tensor::gate;

/// Slots by number; freed numbers are used again.
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Option<u32>,
    live: u32,
}

enum Slot<T> {
    Full(T),
    Free { next: Option<u32> },
}

/// The most objects of one kind that a sandbox may hold.
pub(crate) const MAX_LIVE: u32 = 65_536;

/// Objects that are dropped between two looks at the clock.
const LOOK: usize = 16;

/// What is dropped in one go takes no longer than this, or than so many objects do.
const PIECE: Duration = Duration::from_micros(100);

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: None,
            live: 0,
        }
    }

    /// Stores an object; `None` if the sandbox holds [`MAX_LIVE`] already.
    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        if self.live == MAX_LIVE {
            return None;
        }
        self.live += 1;
        if let Some(index) = self.free {
            let slot = &mut self.slots[index as usize];
            if let Slot::Free { next } = slot {
                self.free = *next;
            }
            *slot = Slot::Full(value);
            return Some(index);
        }
        self.slots.push(Slot::Full(value));
        Some(self.slots.len() as u32 - 1)
    }

    /// Drops all objects. A guest may have made tens of thousands, which takes a while: not beside whoever goes first, until some time.
    pub(crate) fn clear(&mut self, until: Instant) {
        let mut passed = Instant::now();
        (self.free, self.live) = (None, 0);
        for (number, slot) in self.slots.drain(..).enumerate() {
            drop(slot);
            if number % LOOK == LOOK - 1 && passed.elapsed() > PIECE {
                gate::pass(&|| Instant::now() > until);
                passed = Instant::now();
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize) {
            Some(Slot::Full(value)) => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.slots.get_mut(index as usize) {
            Some(Slot::Full(value)) => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        if matches!(slot, Slot::Free { .. }) {
            return None;
        }
        let old = std::mem::replace(slot, Slot::Free { next: self.free });
        self.free = Some(index);
        self.live -= 1;
        match old {
            Slot::Full(value) => Some(value),
            Slot::Free { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_freed_number_is_used_again_and_a_stale_one_finds_nothing() {
        let mut slab = Slab::new();
        let a = slab.insert("a").unwrap();
        let b = slab.insert("b").unwrap();
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.insert("c"), Some(a));
        assert_eq!((slab.get(a), slab.get(b), slab.get(99)), (Some(&"c"), Some(&"b"), None));
    }

    /// Takes a while to drop.
    struct Slow;

    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(PIECE / 8);
        }
    }

    #[test]
    fn what_takes_long_to_drop_makes_way_for_others() {
        let passed = std::thread::spawn(|| {
            let count = std::rc::Rc::new(std::cell::Cell::new(0));
            let counts = std::rc::Rc::clone(&count);
            gate::wait_at(Box::new(move |_| {
                counts.set(counts.get() + 1);
                Duration::ZERO
            }));
            let mut slab = Slab::new();
            for _ in 0..4 * LOOK {
                slab.insert(Slow).unwrap();
            }
            slab.clear(Instant::now() + Duration::from_secs(60));
            assert_eq!(slab.insert(Slow), Some(0), "it is as new");
            count.get()
        });
        assert_eq!(passed.join().unwrap(), 4);
    }

    #[test]
    fn a_sandbox_cannot_hold_more_than_the_limit() {
        let mut slab = Slab::new();
        for i in 0..MAX_LIVE {
            assert_eq!(slab.insert(()), Some(i));
        }
        assert_eq!(slab.insert(()), None);
        slab.remove(7).unwrap();
        assert_eq!(slab.insert(()), Some(7));
    }
}
