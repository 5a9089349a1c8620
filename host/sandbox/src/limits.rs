//! What one call may use, and the limiter that holds a store's memories and tables to one common total.

use std::sync::Arc;

use maquette_tensor::Share;
use serde::{Deserialize, Serialize};
use wasmtime::{ResourceLimiter, Result};

/// Budgets of one call. All are hard: what would exceed one is refused before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Wall time from the start of the call, in milliseconds.
    pub timeout_ms: u64,
    /// All linear memories and tables of the sandbox together, in bytes.
    pub memory_bytes: u64,
    /// Tensors and the temporaries of ops, in bytes; weights are not counted.
    pub tensor_bytes: u64,
    /// The output's JSON, streamed items included, in bytes.
    pub output_bytes: u64,
    /// Output files together, in bytes.
    pub file_bytes: u64,
    /// Log lines together, in bytes.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_ms: 60_000,
            memory_bytes: 256 << 20,
            tensor_bytes: 1 << 30,
            output_bytes: 8 << 20,
            file_bytes: 64 << 20,
            log_bytes: 64 << 10,
        }
    }
}

/// The largest linear memory that the pool has room for; [`Limits::memory_bytes`] above it has no effect.
pub const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// Core instances that one sandbox may take.
pub(crate) const MAX_INSTANCES: u32 = 32;

/// Linear memories that one sandbox may take; address space is reserved for each of them in every sandbox.
pub(crate) const MAX_MEMORIES: u32 = 4;

/// Tables that one sandbox may take.
pub(crate) const MAX_TABLES: u32 = 16;

/// Elements that one table may have.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Bytes that one table element is counted as: the size of the host's pointer to it.
const TABLE_ELEMENT_BYTES: usize = 8;

/// One running total over every memory and table of a store: the sum is limited, not each one.
pub(crate) struct Limiter {
    limit: usize,
    used: usize,
    peak: usize,
    /// The call's share of the machine's memory; it has what the peak needs.
    share: Arc<Share>,
    /// The growth that was refused last, so that a trap that follows can be explained.
    pub(crate) refused: Option<usize>,
}

impl Limiter {
    pub(crate) fn new(limit: u64, share: Arc<Share>) -> Self {
        let limit = usize::try_from(limit.min(MAX_MEMORY_BYTES)).unwrap_or(usize::MAX);
        Self {
            limit,
            used: 0,
            peak: 0,
            share,
            refused: None,
        }
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak as u64
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let wanted = self.used.saturating_sub(current).saturating_add(desired);
        if wanted > self.limit {
            self.refused = Some(wanted);
            return false;
        }
        if wanted > self.peak {
            if self.share.take((wanted - self.peak) as u64).is_err() {
                return false;
            }
            self.peak = wanted;
        }
        self.used = wanted;
        true
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired)))
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maquette_tensor::Memory;

    #[test]
    fn the_sum_of_all_memories_is_limited_not_each_one() {
        let mut limiter = Limiter::new(100, Memory::unlimited().share(&"".into()));
        assert!(limiter.grow(0, 60));
        assert!(limiter.grow(0, 40));
        assert!(!limiter.grow(40, 41));
        assert!(limiter.grow(60, 10), "shrinking gives back");
        assert!(limiter.grow(40, 90));
        assert_eq!(limiter.peak(), 100);
    }

    #[test]
    fn growth_that_the_machine_has_no_room_for_is_refused_and_is_not_the_guests_limit() {
        let memory = Memory::new(400, 1);
        let mut limiter = Limiter::new(1000, memory.share(&"".into()));
        assert!(limiter.grow(0, 200));
        assert!(!limiter.grow(200, 300));
        assert!(limiter.refused.is_none() && limiter.share.refused().is_some());
        assert!(limiter.grow(200, 250), "less still fits");
        drop(limiter);
        assert_eq!(memory.held(), 0);
    }
}
