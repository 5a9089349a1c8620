//! So many at once for each key: one owner, or one receiver, cannot take all there is of something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for each key.
#[derive(Debug)]
pub(crate) struct Keyed {
    each: usize,
    taken: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Keyed {
    /// `each` places for every key.
    pub(crate) fn new(each: usize) -> Self {
        Self {
            each,
            taken: Mutex::default(),
        }
    }

    /// Waits for a place.
    pub(crate) async fn acquire(&self, key: &str) -> Option<OwnedSemaphorePermit> {
        self.of(key).acquire_owned().await.ok()
    }

    /// A place, if one is free.
    pub(crate) fn try_acquire(&self, key: &str) -> Option<OwnedSemaphorePermit> {
        self.of(key).try_acquire_owned().ok()
    }

    fn of(&self, key: &str) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= 1024 && !taken.contains_key(key) {
            // A permit keeps its semaphore; what nobody keeps is full, and as good as new.
            taken.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        let places = taken.entry(key.to_owned());
        Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(self.each))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn each_key_has_its_own_places_and_forgotten_keys_take_no_memory() {
        let keyed = Keyed::new(2);
        let a = keyed.try_acquire("a").unwrap();
        let _b = keyed.acquire("a").await.unwrap();
        assert!(keyed.try_acquire("a").is_none() && keyed.try_acquire("b").is_some());
        for i in 0..5000 {
            drop(keyed.try_acquire(&i.to_string()).unwrap());
        }
        assert!(keyed.taken.lock().unwrap().len() <= 1024);
        assert!(keyed.try_acquire("a").is_none(), "what is taken stays taken");
        drop(a);
        assert!(keyed.try_acquire("a").is_some());
    }
}
